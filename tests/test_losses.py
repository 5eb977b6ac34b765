"""The losses: by hand, against slow code written again here, and against TRL's trainers."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from labkit.maths.logprobs import (
    last_index,
    masked_sum,
    masked_whiten,
    response_logprobs,
    shift_mask,
)
from labkit.maths.losses import (
    bradley_terry_loss,
    dpo_loss,
    gae,
    kto_loss,
    ppo_policy_loss,
    ppo_value_loss,
    sft_loss,
    shaped_rewards,
)

GARBAGE = (1e9, -1e9, float("inf"), float("nan"))


def t(*rows):
    return torch.tensor(rows, dtype=torch.float32)


# Answers and comparisons -------------------------------------------------------------------------


def test_sft_by_hand():
    logprobs, mask = t([-9, -1, -2], [-9, -3, -9]), torch.tensor([[0, 1, 1], [0, 1, 0]])
    loss, metrics = sft_loss(logprobs, mask)
    assert loss.item() == 2  # (1 + 2 + 3) / 3: one mean over all tokens, not the mean of 1.5 and 3
    assert metrics["perplexity"].item() == pytest.approx(math.exp(2))
    assert metrics["tokens"].item() == 3


def test_bradley_terry_by_hand():
    # Margins ln 3 and 0: σ = 3/4 and 1/2. A tie is no success.
    loss, metrics = bradley_terry_loss(
        torch.tensor([5 + math.log(3), 2.0]), torch.tensor([5.0, 2.0])
    )
    assert loss.item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2)
    assert metrics["accuracy"].item() == 0.5
    assert metrics["margin"].item() == pytest.approx(math.log(3) / 2)


def test_bradley_terry_pushes_apart_and_stays_finite():
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    bradley_terry_loss(chosen, rejected)[0].backward()
    assert (
        chosen.grad.item() == -0.5 and rejected.grad.item() == 0.5
    )  # σ(0) = 1/2; steps go against it
    # -log σ(-2000), without overflow
    assert bradley_terry_loss(torch.tensor([-1000.0]), torch.tensor([1000.0]))[0].item() == 2000


def test_bradley_terry_with_a_margin_and_with_a_soft_label_by_hand():
    # ahead by ln 3 and asked for ln 3 more: σ(0) = 1/2; ahead by ln 3, no margin: σ = 3/4.
    chosen, rejected = torch.tensor([math.log(3)] * 2), torch.zeros(2)
    loss, metrics = bradley_terry_loss(chosen, rejected, torch.tensor([math.log(3), 0.0]))
    assert loss.item() == pytest.approx(-(math.log(1 / 2) + math.log(3 / 4)) / 2)
    assert metrics["margin"].item() == pytest.approx(math.log(3))  # the difference itself
    # Soft labels 0.6 and 1.
    loss, _ = bradley_terry_loss(chosen, rejected, confidence=torch.tensor([0.6, 1.0]))
    soft = -0.6 * math.log(3 / 4) - 0.4 * math.log(1 / 4)
    assert loss.item() == pytest.approx((soft - math.log(3 / 4)) / 2)
    # At the difference that fits the label, σ(d) = 0.75, nothing pushes any more.
    chosen.requires_grad_()
    bradley_terry_loss(chosen, rejected, confidence=0.75)[0].backward()
    assert chosen.grad.abs().max().item() < 1e-7


def test_dpo_by_hand():
    # Chosen: log-ratio -4 - -6 = 2, rejected: -5 - -4 = -1; β = 1/2: rewards 1 and -1/2, margin 3/2
    loss, metrics = dpo_loss(*torch.tensor([[-4.0], [-5.0], [-6.0], [-4.0]]), beta=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.5)))
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {"chosen_reward": 1.0, "rejected_reward": -0.5, "margin": 1.5, "accuracy": 1.0}
    )


def test_dpo_starts_at_log_2_and_moves_the_right_way():
    chosen = torch.tensor([-4.0], requires_grad=True)
    rejected = torch.tensor([-5.0], requires_grad=True)
    loss, metrics = dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))  # the policy is the reference
    assert metrics["accuracy"].item() == 0
    assert chosen.grad.item() == pytest.approx(-0.05)  # β σ(0) = 0.1 / 2
    assert rejected.grad.item() == pytest.approx(0.05)


def test_kto_by_hand():
    policy, ref = torch.tensor([-1.0, -1.0]), torch.tensor([-3.0, -2.0])  # log-ratios 2 and 1
    # β = 1, kl = 1: z = 1 (thumb up) and 0 (thumb down). Losses 2 (1 - σ(1)) and 3 (1 - σ(0)) = 3/2
    loss, metrics = kto_loss(policy, ref, torch.tensor([1, 0]), 1.0, 1.0, 2.0, 3.0)
    assert loss.item() == pytest.approx((2 / (1 + math.e) + 1.5) / 2)
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {"kl": 1.0, "desirable_reward": 2.0, "undesirable_reward": 1.0, "margin": 1.0}
    )


def test_kto_moves_the_right_way_and_treats_kl_as_a_constant():
    policy = torch.zeros(2, requires_grad=True)
    kl = torch.tensor(0.5, requires_grad=True)
    kto_loss(policy, torch.zeros(2), torch.tensor([True, False]), 0.1, kl)[0].backward()
    assert policy.grad[0] < 0 < policy.grad[1]  # raises the liked answer, lowers the disliked one
    assert kl.grad is None


def test_kto_takes_a_negative_kl_as_zero_and_one_kind_of_thumb_alone():
    policy, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -4.0])
    up = torch.tensor([True, True])
    loss, metrics = kto_loss(policy, ref, up, 0.1, -3.0)
    assert loss.item() == kto_loss(policy, ref, up, 0.1, 0.0)[0].item()
    assert metrics["kl"].item() == 0 and metrics["undesirable_reward"].item() == 0
    assert loss.isfinite()


# Rewards and advantages --------------------------------------------------------------------------


def test_shaped_rewards_by_hand():
    logprobs, ref = t([-1, -2, -3, -7], [-7, -1, -7, -7]), t([-1, -1, -4, -8], [-8, -3, -8, -8])
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0]])
    rewards = shaped_rewards(torch.tensor([10.0, -2.0]), logprobs, ref, mask, beta=0.5)
    # log-ratios 0, -1, 1 cost 0, -1/2, 1/2, and 10 at the end; log-ratio 2 costs 1, and -2 at the
    # end
    assert rewards.tolist() == [[0, 0.5, 9.5, 0], [0, -3, 0, 0]]


def test_the_score_is_paid_once_per_response():
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    same = torch.randn(3, 4)
    rewards = shaped_rewards(torch.tensor([3.0, 4.0, 5.0]), same, same, mask, beta=0.1)
    assert rewards.tolist() == [[0, 0, 0, 3], [0, 4, 0, 0], [0, 0, 0, 0]]  # no response, no pay
    assert not shaped_rewards(torch.ones(3), same.requires_grad_(), same, mask, 0.1).requires_grad


def test_gae_by_hand():
    rewards, values, mask = t([0, 0, 1]), t([0.5, 0.5, 0.5]), torch.ones(1, 3)
    # γ = 1: δ = 0 + 1/2 - 1/2 = 0, 0, and 1 - 1/2 = 1/2 at the end; A = δ + λ A_next with λ = 1/2
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=0.5)
    assert advantages.tolist() == [[0.125, 0.25, 0.5]]
    assert returns.tolist() == [[0.625, 0.75, 1.0]]
    # γ = 1/2: δ = -1/4, -1/4, 1/2; A_1 = -1/4 + 1/4 · 1/2 = -1/8, A_0 = -1/4 + 1/4 · -1/8 = -9/32
    advantages, _ = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[-9 / 32, -1 / 8, 1 / 2]]


def test_gae_with_lambda_1_is_reward_to_go_and_with_0_one_step():
    rewards, values, mask = t([1, 2, 4]), t([0.5, 0.25, 0.125]), torch.ones(1, 3)
    assert gae(rewards, values, mask, lam=1.0)[1].tolist() == [[7, 6, 4]]
    assert gae(rewards, values, mask, lam=0.0)[0].tolist() == [
        [0.75, 1.875, 3.875]
    ]  # 1 + 1/4 - 1/2, ...


def batch(seed=0, shape=(5, 9)):
    """Random rewards and values; masks of left-padded prompts and right-padded responses."""
    torch.manual_seed(seed)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, (start, end) in enumerate([(0, 9), (2, 5), (3, 9), (4, 5), (1, 8)]):
        mask[row, start:end] = 1
    return torch.randn(shape), torch.randn(shape), mask


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
def test_gae_is_the_sum_in_the_paper(gamma, lam):
    rewards, values, mask = batch()
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    expected = np.zeros(mask.shape)
    for row in range(len(mask)):  # Σ_l (γλ)^l δ_{t+l}, each t on its own, over the response alone
        places = mask[row].nonzero().flatten().tolist()
        r, v = (
            rewards[row, places].double().numpy(),
            np.append(values[row, places].double().numpy(), 0.0),
        )
        delta = [r[k] + gamma * v[k + 1] - v[k] for k in range(len(places))]
        for i, place in enumerate(places):
            expected[row, place] = sum(
                (gamma * lam) ** (k - i) * delta[k] for k in range(i, len(places))
            )
    assert_close(advantages.double().numpy(), expected, atol=1e-5, rtol=1e-5)
    assert_close(returns, (advantages + values) * mask)
    assert not gae(rewards, values.requires_grad_(), mask)[0].requires_grad


def test_returns_come_before_whitening():
    rewards, values, mask = batch()
    advantages, returns = gae(rewards, values, mask, lam=1.0)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1) * mask
    assert_close(returns, to_go)
    assert (
        masked_whiten(advantages, mask) + values * mask - to_go
    ).abs().max() > 0.1  # the wrong order


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32])
def test_garbage_outside_the_response_changes_no_reward_or_advantage(garbage, kind):
    rewards, values, mask = batch()
    dirty = [x.where(mask.bool(), garbage) for x in (rewards, values)]
    mask = mask.to(kind)
    for got, clean in zip(gae(*dirty, mask), gae(rewards, values, mask)):
        assert torch.equal(got, clean)
    score = torch.arange(5.0)
    dirty, clean = (shaped_rewards(score, *x, mask, 0.1) for x in (dirty, (rewards, values)))
    assert torch.equal(dirty, clean)


# PPO ---------------------------------------------------------------------------------------------


def test_ppo_policy_loss_by_hand():
    # Ratios 1, 3/2, 1/2, 3/2, 1/2 with advantages 1, 1, -1, -1, 1 and ε = 0.2: objective min(ρA,
    # clip(ρ)A) = 1, 1.2 (clipped), -0.8 (clipped), -1.5, 0.5; mean 0.4 / 5 = 0.08
    ratio, advantages = t([1, 1.5, 0.5, 1.5, 0.5]), t([1, 1, -1, -1, 1])
    old = torch.full((1, 5), -2.0)
    loss, metrics = ppo_policy_loss(old + ratio.log(), old, advantages, torch.ones(1, 5), clip=0.2)
    assert loss.item() == pytest.approx(-0.08, abs=1e-6)
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {
            "clip_fraction": 2 / 5,
            "ratio_mean": 1.0,  # (1 + 1.5 + 0.5 + 1.5 + 0.5) / 5
            "ratio_var": 0.2,  # 4 · 0.25 / 5
            "max_abs_logratio": math.log(2),
            # ρ - 1 - ln ρ: 0, and twice 1/2 - ln 3/2 = 0.0945349 and -1/2 + ln 2 = 0.1931472
            "approx_kl": 2 * (0.0945349 + 0.1931472) / 5,
        },
        abs=1e-6,
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [
        (1.0, 2.0, -2.0),  # good token: the loss falls as its log-probability rises
        (1.0, -2.0, 2.0),  # bad token: the other way
        (1.5, 2.0, 0.0),  # good, and already 1.5 times as likely: enough
        (0.5, -2.0, 0.0),  # bad, and already half as likely: enough
        (1.5, -2.0, 3.0),  # bad, yet likelier than before: must come back, ρ |A| = 1.5 · 2
        (0.5, 2.0, -1.0),  # good, yet less likely than before: must come back, ρ |A| = 0.5 · 2
    ],
)
def test_clip_stops_only_the_gradient_that_goes_too_far(ratio, advantage, gradient):
    new = t([math.log(ratio)]).requires_grad_()
    ppo_policy_loss(new, t([0]), t([advantage]), torch.ones(1, 1), clip=0.2)[0].backward()
    assert new.grad.item() == pytest.approx(gradient)


def test_first_minibatch_is_the_plain_policy_gradient():
    advantages, new, mask = batch()
    new.requires_grad_()
    loss, metrics = ppo_policy_loss(new, new.detach(), advantages, mask)
    loss.backward()
    assert_close(new.grad, -advantages * mask / mask.sum())
    assert metrics["max_abs_logratio"].item() == 0 and metrics["approx_kl"].item() == 0
    assert metrics["ratio_mean"].item() == 1 and metrics["clip_fraction"].item() == 0


def test_approx_kl_is_masked_and_has_the_old_policys_direction():
    # Samples from the old policy (1/2, 1/2), each once; the new is (1/8, 7/8). KL(old ‖ new) = 1/2
    # ln 16/7
    old, new = t([0.5, 0.5, 1]).log(), t([1 / 8, 7 / 8, 1e-9]).log()
    _, metrics = ppo_policy_loss(new, old, t([0, 0, 0]), torch.tensor([[1, 1, 0]]))
    assert metrics["approx_kl"].item() == pytest.approx(math.log(16 / 7) / 2)


def test_ppo_value_loss_by_hand():
    # Old values 0, ε = 0.2, returns 1, 1, -1, 0.1. New values 0.1, 0.5, 0.5, 0.5: unclipped errors²
    # 0.81, 0.25, 2.25, 0.16; clipped values 0.1, 0.2, 0.2, 0.2: 0.81, 0.64, 1.44, 0.01 larger of
    # the two 0.81, 0.64, 2.25, 0.16: sum 3.86; ½ · 3.86 / 4 = 0.4825; clipped: the second
    new, returns = t([0.1, 0.5, 0.5, 0.5]), t([1, 1, -1, 0.1])
    loss, metrics = ppo_value_loss(new, torch.zeros(1, 4), returns, torch.ones(1, 4), clip=0.2)
    assert loss.item() == pytest.approx(0.4825)
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {"value_clip_fraction": 0.25, "value_mean": 0.4, "return_mean": 0.275}
    )


def test_value_gradient_stops_where_the_clip_decides():
    new = t([0.1, 0.5, 0.5, 0.5]).requires_grad_()
    ppo_value_loss(new, torch.zeros(1, 4), t([1, 1, -1, 0.1]), torch.ones(1, 4))[0].backward()
    # (V - R) / 4: -0.9 / 4, none, 1.5 / 4, 0.4 / 4
    assert_close(new.grad, t([-0.225, 0, 0.375, 0.1]))


def test_ppo_losses_against_slow_loops():
    old, advantages, mask = batch(1)
    new = old + 0.3 * torch.randn(old.shape)
    returns = advantages + 0.5 * torch.randn(old.shape)
    policy = value = clipped = tokens = 0.0
    for row, column in mask.nonzero().tolist():
        o, n, a, r = (x[row, column].item() for x in (old, new, advantages, returns))
        ratio = math.exp(n - o)
        limited = min(max(ratio, 0.8), 1.2)
        policy += min(ratio * a, limited * a)
        clipped += limited * a < ratio * a
        guess = min(max(n, o - 0.2), o + 0.2)
        value += max((n - r) ** 2, (guess - r) ** 2)
        tokens += 1
    loss, metrics = ppo_policy_loss(new, old, advantages, mask)
    assert loss.item() == pytest.approx(-policy / tokens, rel=1e-5)
    assert (
        metrics["clip_fraction"].item() == pytest.approx(clipped / tokens) and 0 < clipped < tokens
    )
    assert ppo_value_loss(new, old, returns, mask)[0].item() == pytest.approx(
        value / tokens / 2, rel=1e-5
    )


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32])
def test_garbage_outside_the_response_changes_no_loss_gradient_or_metric(garbage, kind):
    old, other, mask = batch(2)
    new = old + 0.3 * torch.randn(old.shape)
    cases = {
        sft_loss: (new,),
        ppo_policy_loss: (new, old, other),
        ppo_value_loss: (new, old, other),
    }
    for function, inputs in cases.items():
        results = []
        for fill in (0.0, garbage):
            first, *rest = (x.where(mask.bool(), fill) for x in inputs)
            loss, metrics = function(first.requires_grad_(), *rest, mask.to(kind))
            loss.backward()
            results.append((loss.detach(), first.grad, *metrics.values()))
        for clean, dirty in zip(*results):
            assert torch.equal(clean, dirty), function.__name__


def test_metrics_are_numbers_without_gradient():
    x, y, mask = batch()
    x.requires_grad_()
    one, two = x.sum(1), y.sum(1)
    for loss, metrics in (
        sft_loss(x, mask),
        bradley_terry_loss(one, two),
        dpo_loss(one, two, two, two, 0.1),
        kto_loss(one, two, mask[:, 0], 0.1, 0.0),
        ppo_policy_loss(x, y, y, mask),
        ppo_value_loss(x, y, y, mask),
    ):
        assert loss.shape == () and loss.requires_grad
        assert all(value.shape == () and not value.requires_grad for value in metrics.values())


# TRL
# ------------------------------------------------------------------------------------------------
# TRL's trainers collate a few words and compute their loss with their own (fused)
# log-probabilities; ours comes from a twin of the model that no trainer has touched. Loss, gradient
# and metrics must agree.

PAIRS = [
    dict(prompt="w1 w2 w3", chosen=" w4 w5", rejected=" w6"),
    dict(prompt="w7", chosen=" w8", rejected=" w9 w10 w11"),
    dict(prompt="w5 w1", chosen=" w2 w2 w2 w9", rejected=" w3 w12"),
]
THUMBS = [
    dict(prompt="w1 w2 w3", completion=" w4 w5", label=True),
    dict(prompt="w7", completion=" w8", label=False),
    dict(prompt="w7 w3", completion=" w8 w8 w1", label=False),
    dict(prompt="w2", completion=" w9 w1", label=True),
]
CLOSE = dict(rel=1e-5, abs=1e-5)


def word_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[END]", "[UNK]", *(f"w{i}" for i in range(29))]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict(pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def tiny_llama(seed, kind="CausalLM", **options):
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        initializer_range=0.3,  # wide, so that two seeds are two opinions
        **options,
    )
    return getattr(transformers, f"LlamaFor{kind}")(config).eval()


@pytest.fixture
def trl_loss(tmp_path):
    """A function: (stage, rows, model, options) → TRL's batch, its loss after `backward()`, its
    metrics.
    """
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    def compute(stage, rows, model, ref_model=None, **options):
        args = getattr(trl, f"{stage}Config")(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,  # TRL's default, bfloat16, would round the reference
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            per_device_train_batch_size=len(rows),
            **options,
        )
        more = {} if ref_model is None else {"ref_model": ref_model}
        trainer = getattr(trl, f"{stage}Trainer")(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=word_tokenizer(),
            **more,
        )
        inputs = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model, dict(inputs))
        loss.backward()
        return (
            inputs,
            loss.item(),
            {name: values[-1] for name, values in trainer._metrics["eval"].items()},
        )

    return compute


def sums(model, ids, attention_mask, response_mask):
    """Summed log-probabilities of the responses, (B,), by our functions."""
    logprobs = response_logprobs(model(input_ids=ids, attention_mask=attention_mask).logits, ids)
    return masked_sum(logprobs, shift_mask(response_mask), dim=1)


def assert_same_gradient(ours, theirs):
    ours, theirs = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name, parameter in ours.items():
        assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-4)
    assert (
        max(parameter.grad.abs().max() for parameter in ours.values()) > 1e-3
    )  # else nothing was compared


def test_sft_equals_trl_and_transformers(trl_loss):
    theirs, ours = tiny_llama(0), tiny_llama(0)
    rows = [dict(prompt=row["prompt"], completion=row["chosen"]) for row in PAIRS]
    inputs, expected, metrics = trl_loss("SFT", rows, theirs)
    ids, labels = inputs["input_ids"], inputs["labels"]
    outputs = ours(input_ids=ids, attention_mask=inputs["attention_mask"], labels=labels)
    loss, _ = sft_loss(response_logprobs(outputs.logits, ids), shift_mask(labels != -100))
    loss.backward()
    assert loss.item() == pytest.approx(expected, **CLOSE)
    assert loss.item() == pytest.approx(outputs.loss.item(), **CLOSE)  # from labels of -100
    assert_same_gradient(ours, theirs)
    assert abs(expected - math.log(32)) > 0.05  # not what a model without an opinion would get


def test_reward_loss_equals_trl(trl_loss):
    theirs, ours = (tiny_llama(0, "SequenceClassification", num_labels=1) for _ in range(2))
    inputs, expected, metrics = trl_loss("Reward", PAIRS, theirs)
    mask = inputs["attention_mask"]
    states = ours.model(
        input_ids=inputs["input_ids"], attention_mask=mask
    ).last_hidden_state  # (2B, T, D)
    rewards = ours.score(states).squeeze(-1)[torch.arange(len(mask)), last_index(mask)]
    loss, own = bradley_terry_loss(*rewards.chunk(2))
    loss.backward()
    assert loss.item() == pytest.approx(expected, **CLOSE)
    assert own["accuracy"].item() == pytest.approx(metrics["accuracy"], **CLOSE)
    assert own["margin"].item() == pytest.approx(metrics["margin"], **CLOSE)
    assert_same_gradient(ours, theirs)
    assert abs(expected - math.log(2)) > 0.01


def test_dpo_equals_trl(trl_loss):
    theirs, ours, ref = tiny_llama(0), tiny_llama(0), tiny_llama(1)
    inputs, expected, metrics = trl_loss("DPO", PAIRS, theirs, ref_model=tiny_llama(1), beta=0.3)
    batch = inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"]
    with torch.no_grad():
        ref_logps = sums(ref, *batch)
    loss, own = dpo_loss(*sums(ours, *batch).chunk(2), *ref_logps.chunk(2), beta=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(expected, **CLOSE)
    names = {"chosen_reward": "rewards/chosen", "rejected_reward": "rewards/rejected"}
    for name, their_name in (
        names | {"margin": "rewards/margins", "accuracy": "rewards/accuracies"}
    ).items():
        assert own[name].item() == pytest.approx(metrics[their_name], **CLOSE), name
    assert_same_gradient(ours, theirs)
    assert abs(expected - math.log(2)) > 0.01


@pytest.mark.parametrize(("policy_seed", "ref_seed"), [(0, 1), (1, 0)])
def test_kto_equals_trl(trl_loss, policy_seed, ref_seed):
    # The two models the other way round turn the sign of the kl: one case is clamped, the other
    # not.
    theirs, ours, ref = tiny_llama(policy_seed), tiny_llama(policy_seed), tiny_llama(ref_seed)
    options = dict(beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
    inputs, expected, metrics = trl_loss(
        "KTO", THUMBS, theirs, ref_model=tiny_llama(ref_seed), **options
    )
    batch = inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"]
    others = inputs["KL_input_ids"], inputs["KL_attention_mask"], inputs["KL_completion_mask"]
    with torch.no_grad():
        ref_logps = sums(ref, *batch)
        kl = (sums(ours, *others) - sums(ref, *others)).mean()
    loss, own = kto_loss(sums(ours, *batch), ref_logps, inputs["label"], kl=kl, **options)
    loss.backward()
    assert loss.item() == pytest.approx(expected, **CLOSE)
    names = {
        "kl": "kl",
        "desirable_reward": "rewards/chosen",
        "undesirable_reward": "rewards/rejected",
    }
    for name, their_name in (names | {"margin": "rewards/margins"}).items():
        assert own[name].item() == pytest.approx(metrics[their_name], **CLOSE), name
    assert abs(kl.item()) > 0.05
    assert_same_gradient(ours, theirs)
