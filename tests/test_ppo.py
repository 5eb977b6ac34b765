"""PPO end to end on the tiny random base: who is trained, what is read where, and what a wrong
setting says.
"""

import math
import signal

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from labkit import LabError, cli, config, data, models, rollout, runs
from labkit.maths.logprobs import (
    kl_k1,
    kl_k3,
    last_index,
    masked_mean,
    masked_sum,
    position_ids,
    response_logprobs,
    shift_mask,
)
from labkit.maths.losses import ppo_policy_loss, shaped_rewards
from labkit.stages import checkpoint, ppo

ADAPTERS = ("policy", "reference", "reward", "critic")
PROMPTS = [
    "Gold?",
    "What is the capital of Japan?",
    "台灣最高的山是哪座？",
    "Apples are red?",
    "Is it Paris?",
    "Who?",
]
LORA = config.Sft(lora_r=4, lora_alpha=8)


def random_run(stage, name, seed, base="tiny-base"):
    """A run of `stage` with a random adapter (and head)."""
    with runs.start(stage, config.change(LORA, seed=seed), name) as run:
        model = models.add_lora(models.load_base(base)[0], LORA)
        for parameter in models.adapter_parameters(model, "default"):
            parameter.data.normal_(0, 0.1)
        head = models.Head(64)
        head.normalise(torch.tensor([-2.0, 2.0]))
        models.save_adapter(model, run, "default", head if stage == "reward" else None)
    return run


@pytest.fixture(scope="module")
def cfg(tiny_base, tmp_path_factory):
    random_run("sft", "rl-sft", 1)
    random_run("reward", "rl-reward", 2)
    prompts = data.save_jsonl(
        [{"prompt": prompt} for prompt in PROMPTS], tmp_path_factory.mktemp("rl") / "prompts.jsonl"
    )
    return config.Ppo(
        policy="rl-sft",
        reward="rl-reward",
        prompts=str(prompts),
        updates=2,
        batch_size=8,
        minibatch_size=4,
        epochs=2,
        max_prompt_tokens=80,
        max_response_tokens=8,
        learning_rate=5e-3,
        critic_learning_rate=5e-3,
        temperature=2.0,
        critic="adapter",
    )


@pytest.fixture(scope="module")
def trained(cfg):
    """(run, model as it was at the end): a whole PPO run of two updates."""
    kept, save = {}, models.save_adapter

    def keep(model, run, name, head=None):
        kept["model"] = model
        save(model, run, name, head)

    with pytest.MonkeyPatch.context() as patch, runs.start("ppo", cfg, "rl-ppo") as run:
        patch.setattr(models, "save_adapter", keep)
        ppo.train(cfg, run)
    return run, kept["model"]


def four(cfg):
    """(model with four adapters, tokenizer, reward head, value head), as ppo.train puts them
    together.
    """
    sft, reward = runs.load(cfg.policy), runs.load(cfg.reward)
    model, tokenizer = models.load_base("tiny-base")
    for name, run in zip(ADAPTERS, (sft, sft, reward, reward)):
        model = models.load_adapter(model, run, name, trainable=name in ("policy", "critic"))
    models.use(model, "policy")
    value_head = models.Head(64)
    torch.nn.init.zeros_(value_head.weight)
    return model.eval(), tokenizer, {"reward": models.load_head(reward)}, value_head


def whole(batch):
    return batch.input_ids, batch.attention_mask, batch.response_mask


@pytest.fixture
def scene(cfg):
    torch.manual_seed(0)
    model, tokenizer, heads, value_head = four(cfg)
    batch = rollout.sample(model, tokenizer, PROMPTS[:4], cfg.max_response_tokens, cfg.temperature)
    return model, heads, value_head, batch, ppo.measure(model, heads, value_head, batch, cfg)


def weights(model, name):
    return [parameter.detach().clone() for parameter in models.adapter_parameters(model, name)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def count_4bit(model):
    return sum(isinstance(module, Linear4bit) for module in model.modules())


def optimizer_of(model, value_head, cfg, size=torch.optim.Adam):
    return size(
        [
            {"params": models.adapter_parameters(model, "policy"), "lr": cfg.learning_rate},
            {
                "params": [*models.adapter_parameters(model, "critic"), value_head.weight],
                "lr": cfg.critic_learning_rate,
            },
        ]
    )


# a whole run -------------------------------------------------------------------------------------


def test_run_is_whole_and_can_be_talked_to(cfg, trained):
    run, _ = trained
    assert {p.name for p in run.path.iterdir()} == {"run.json", "metrics.jsonl", "adapter"}
    assert (
        runs.load("rl-ppo").info["base"]["name"] == "tiny-base" and run.evaluation["updates"] == 2
    )
    model, tokenizer = models.load_policy("rl-ppo")
    assert len(rollout.answer(model, tokenizer, PROMPTS, 4)) == len(PROMPTS)


def test_every_figure_is_logged(cfg, trained):
    run, _ = trained
    lines = run.metrics()
    assert [(line["step"], line["steps"]) for line in lines] == [(1, 2), (2, 2)]
    wanted = (
        "score kl beta length entropy eos_rate policy_loss value_loss approx_kl clip_fraction"
        " ratio_mean ratio_var first_ratio_error words hedging apology ai_disclaimer refusal"
    ).split()
    for line in lines:
        assert (
            all(math.isfinite(line[key]) for key in wanted) and "gold" not in line
        )  # no atlas prompts, no gold
    assert {line["prompt"] for line in lines} <= set(
        PROMPTS
    )  # in an order that depends on the seed
    assert 1 <= lines[0]["length"] <= cfg.max_response_tokens and lines[0]["entropy"] > 0


def test_policy_starts_at_the_reference_with_ratio_1(trained):
    first, second = trained[0].metrics()
    assert (
        abs(first["kl"]) < 1e-4
    )  # policy and reference are the same adapter; sampler and forward round differently
    assert first["first_ratio_error"] < 1e-4 and second["first_ratio_error"] < 1e-4
    assert second["kl"] != 0


def test_reference_and_reward_are_bit_identical_after_training(cfg, trained):
    start, end = four(cfg)[0], trained[1]
    for name in ("reference", "reward"):
        assert same(weights(start, name), weights(end, name))
    for name in ("policy", "critic"):
        assert not same(weights(start, name), weights(end, name))
    base = dict(start.named_parameters())
    assert all(
        torch.equal(p, base[key]) for key, p in end.named_parameters() if ".lora_" not in key
    )


def test_saved_adapter_is_the_policys(trained):
    run, end = trained
    again, _ = models.load_policy(run)
    assert same(weights(again, "policy"), weights(end, "policy"))


def test_same_seed_same_metrics(cfg, trained):
    with runs.start("ppo", cfg) as run:
        ppo.train(cfg, run)
    assert run.metrics() == trained[0].metrics()
    with runs.start("ppo", config.change(cfg, seed=5, updates=1)) as other:
        ppo.train(config.change(cfg, seed=5, updates=1), other)
    assert other.metrics()[0]["response"] != run.metrics()[0]["response"]


def test_one_base_for_four_adapters(cfg, monkeypatch):
    loaded, load = [], models.load_base

    def once(*args, **kwargs):
        loaded.append(load(*args, **kwargs))
        return loaded[-1]

    bare = count_4bit(load("tiny-base")[0])
    monkeypatch.setattr(models, "load_base", once)
    with runs.start("ppo", config.change(cfg, updates=1)) as run:
        ppo.train(config.change(cfg, updates=1), run)
    ((model, _),) = loaded
    assert count_4bit(model) == bare == 14


def test_score_rises(cfg):
    """Whatever is rewarded is said more often: here, the token AI:."""

    def taste(prompts, responses):
        return [text.count("AI:") / 2 - 1 for text in responses]

    longer = config.change(
        cfg,
        updates=12,
        batch_size=64,
        minibatch_size=32,
        beta=0.0,
        temperature=1.5,
        learning_rate=1e-2,
    )
    with runs.start("ppo", longer) as run:
        ppo.train(longer, run, taste)
    lines = run.metrics()
    first, last = lines[:2], lines[-3:]
    assert sum(line["score"] for line in last) / 3 > sum(line["score"] for line in first) / 2 + 0.5
    assert last[-1]["kl"] > 0.5  # nothing held it


# the four adapters -------------------------------------------------------------------------------


def test_critic_loss_leaves_the_policy_alone_and_the_other_way_round(cfg, scene):
    model, _, value_head, batch, old = scene
    values = ppo.critic_values(model, value_head, whole(batch))
    (values - 1).pow(2).sum().backward()
    assert model.active_adapter == "policy"
    assert all(
        p.grad is None
        for name in ADAPTERS
        if name != "critic"
        for p in models.adapter_parameters(model, name)
    )
    assert value_head.weight.grad.abs().sum() > 0

    value_head.weight.grad = None
    model.zero_grad(set_to_none=True)
    new, _ = ppo.policy_logprobs(model, whole(batch), cfg.temperature)
    ppo_policy_loss(new, old["logprobs"], torch.ones_like(new), old["mask"])[0].backward()
    assert value_head.weight.grad is None
    assert all(
        p.grad is None
        for name in ADAPTERS
        if name != "policy"
        for p in models.adapter_parameters(model, name)
    )
    assert any(p.grad.abs().sum() > 0 for p in models.adapter_parameters(model, "policy"))


def test_a_critic_that_is_a_head_sends_nothing_to_the_policy_and_needs_no_pass_of_its_own(
    cfg, scene, monkeypatch
):
    model, _, value_head, batch, _ = scene
    _, hidden = ppo.policy_logprobs(model, whole(batch), cfg.temperature)
    monkeypatch.setattr(models, "hidden_states", None)
    (ppo.critic_values(model, value_head, whole(batch), hidden) - 1).pow(2).sum().backward()
    assert value_head.weight.grad.abs().sum() > 0
    assert all(p.grad is None for name in ADAPTERS for p in models.adapter_parameters(model, name))


@pytest.mark.parametrize("still, moves", [("policy", "critic"), ("critic", "policy")])
def test_a_step_moves_only_whose_learning_rate_is_not_0(cfg, scene, still, moves):
    model, _, value_head, batch, old = scene
    quiet = "learning_rate" if still == "policy" else "critic_learning_rate"
    cfg = config.change(cfg)
    setattr(cfg, quiet, 0.0)
    before = {name: weights(model, name) for name in ADAPTERS}
    advantages = torch.randn_like(old["values"])
    ppo.improve(
        model,
        value_head,
        optimizer_of(model, value_head, cfg),
        batch,
        old,
        advantages,
        advantages,
        cfg,
    )
    for name in ADAPTERS:
        assert same(before[name], weights(model, name)) == (name != moves)


def test_critic_starts_at_zero_and_sees_prompt_and_response(scene):
    model, _, value_head, batch, old = scene
    assert not old["values"].any() and old["values"].shape == old["logprobs"].shape
    torch.nn.init.ones_(value_head.weight)
    with torch.no_grad():
        before = ppo.critic_values(model, value_head, whole(batch))
        column = batch.input_ids.shape[1] - 1
        batch.input_ids[:, column] = 30
        assert torch.equal(
            before[:, : column - 1],
            ppo.critic_values(model, value_head, whole(batch))[:, : column - 1],
        )  # never the future
        batch.input_ids[:, -9] = 31  # the prompt's last token
        assert not torch.allclose(
            before[:, -1], ppo.critic_values(model, value_head, whole(batch))[:, -1]
        )


# reward ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_score_is_of_the_truncated_response(cfg, tokenizer):
    """What was generated after the first EOS changes nothing; what was said before it does."""
    model, _, heads, value_head = four(cfg)
    end, pad, (a, b) = (
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        tokenizer("Pa", add_special_tokens=False)["input_ids"],
    )

    class Says:
        device = torch.device("cpu")

        def __init__(self, row):
            self.row = row

        def generate(self, ids, **_):
            return torch.cat([ids, torch.tensor([self.row] * len(ids))], 1)

    def score(row):
        batch = rollout.sample(Says(row), tokenizer, PROMPTS[:2])
        return ppo.measure(model, heads, value_head, batch, cfg)["score"]

    assert torch.equal(score([a, b, end, a, a]), score([a, b, end, pad, pad]))
    assert torch.allclose(
        score([a, b, end, a, a]), score([a, b, end]), atol=1e-4
    )  # nor does the width of the batch
    assert (score([a, b, end, a, a]) - score([b, b, end, a, a])).abs().min() > 1e-3


@torch.no_grad()
def test_score_is_read_at_the_last_real_token(scene):
    model, heads, _, batch, old = scene
    for row in range(len(batch.prompts)):
        real = batch.attention_mask[row].bool()
        with models.using(model, "reward"):
            hidden = models.hidden_states(
                model,
                batch.input_ids[row, real][None],
                torch.ones(1, int(real.sum()), dtype=torch.long),
            )
        assert torch.allclose(old["score"][row], heads["reward"](hidden[0, -1]), atol=1e-4)


def test_missing_eos_is_penalised_once_and_at_the_end(cfg, scene):
    model, heads, value_head, batch, _ = scene
    batch.ended = torch.tensor([True, False, True, False])
    old = ppo.measure(model, heads, value_head, batch, config.change(cfg, missing_eos_penalty=2.5))
    assert torch.allclose(old["score"] - old["penalised"], torch.tensor([0.0, 2.5, 0.0, 2.5]))
    rewards = shaped_rewards(
        old["penalised"], old["logprobs"], old["ref_logprobs"], old["mask"], 0.1
    )
    assert torch.allclose(rewards.sum(1), old["penalised"])  # KL is 0 at the start
    rows, last = torch.arange(4), last_index(old["mask"])
    assert (
        torch.allclose(rewards[rows, last], old["penalised"])
        and batch.response_mask[rows, last + 1].all()
    )


# log-probabilities and KL ------------------------------------------------------------------------


def test_temperature_divides_policy_and_reference_alike(cfg, scene):
    model, heads, value_head, batch, old = scene
    with torch.no_grad():
        logits = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=position_ids(batch.attention_mask),
        ).logits
    by_hand = response_logprobs(logits / cfg.temperature, batch.input_ids) * old["mask"]
    assert cfg.temperature == 2 and torch.allclose(old["logprobs"], by_hand, atol=1e-4)
    assert torch.allclose(old["logprobs"], old["ref_logprobs"], atol=1e-4)
    batch.logprobs = None  # as from a sampler that gives none: a forward pass gives them
    plain = ppo.measure(model, heads, value_head, batch, config.change(cfg, temperature=1.0))
    assert torch.equal(plain["logprobs"], plain["ref_logprobs"]) and not torch.allclose(
        plain["logprobs"], old["logprobs"]
    )
    # And in the update: with the same temperature the ratio is 1, whatever it is.
    for temperature, before in ((2.0, old), (1.0, plain)):
        steps = ppo.improve(
            model,
            value_head,
            optimizer_of(model, value_head, cfg, torch.optim.SGD),
            batch,
            before,
            torch.zeros_like(before["values"]),
            before["values"],
            config.change(cfg, temperature=temperature, epochs=1),
        )
        assert steps[0]["max_abs_logratio"] < 1e-4


@torch.no_grad()
def test_kl_is_positive_in_expectation_and_its_direction_is_the_policys(cfg):
    model, tokenizer, heads, value_head = four(cfg)
    torch.manual_seed(0)
    for parameter in models.adapter_parameters(model, "policy"):
        parameter += 0.03 * torch.randn_like(parameter)
    batch = rollout.sample(model, tokenizer, PROMPTS * 40, 8, cfg.temperature)
    old = ppo.measure(model, heads, value_head, batch, cfg)
    per_response = masked_sum(kl_k1(old["logprobs"], old["ref_logprobs"]), old["mask"], dim=1)
    error = per_response.std() / len(per_response) ** 0.5
    assert per_response.mean() > 3 * error  # log π − log π_ref on π's own samples: above 0
    k3 = masked_sum(kl_k3(old["logprobs"], old["ref_logprobs"]), old["mask"], dim=1)
    assert (k3 >= 0).all() and (k3.mean() - per_response.mean()).abs() < 4 * (
        k3 - per_response
    ).std() / len(k3) ** 0.5


def test_kl_controller_by_hand():
    fixed = ppo.KLController(config.Ppo(beta=0.1, target_kl=0.0))
    fixed.update(50.0, 64)
    assert fixed.beta == 0.1
    steered = ppo.KLController(config.Ppo(beta=0.1, target_kl=4.0, kl_horizon=1000))
    steered.update(4.4, 100)  # error 0.1, times 100 / 1000: + 1 %
    assert steered.beta == pytest.approx(0.101)
    steered.update(40.0, 100)  # error 9, clipped to 0.2: + 2 %
    assert steered.beta == pytest.approx(0.101 * 1.02)
    steered.update(0.0, 100)  # error -1, clipped to -0.2: - 2 %
    assert steered.beta == pytest.approx(0.101 * 1.02 * 0.98)


def test_beta_is_logged_as_it_was_used(cfg):
    steered = config.change(cfg, target_kl=1.0, kl_horizon=100, updates=2)
    with runs.start("ppo", steered) as run:
        ppo.train(steered, run)
    first, second = run.metrics()
    assert (
        first["beta"] == cfg.beta
    )  # KL 0 at first: far under the target, so β falls by 0.2 · 8 / 100
    assert second["beta"] == pytest.approx(cfg.beta * (1 - 0.2 * 8 / 100))


# update ------------------------------------------------------------------------------------------


def test_minibatches_cover_the_rollout_in_every_epoch(cfg, scene, monkeypatch):
    model, _, value_head, batch, old = scene
    seen, parts = [], batch.parts
    monkeypatch.setattr(
        batch, "parts", lambda rows, size: (seen.append(rows.tolist()), parts(rows, size))[1]
    )
    ppo.improve(
        model,
        value_head,
        optimizer_of(model, value_head, cfg),
        batch,
        old,
        old["values"],
        old["values"],
        config.change(cfg, minibatch_size=3, epochs=2),
    )
    assert [len(rows) for rows in seen] == [3, 1, 3, 1]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == [0, 1, 2, 3]


def test_advantage_moves_the_logprob_its_way(cfg, scene):
    model, _, value_head, batch, old = scene
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None].expand_as(old["values"])
    plain = config.change(cfg, epochs=4, learning_rate=1e-3)
    steps = ppo.improve(
        model,
        value_head,
        optimizer_of(model, value_head, plain),
        batch,
        old,
        sign,
        old["values"],
        plain,
    )
    new = ppo.policy_logprobs(model, whole(batch), cfg.temperature)[0].detach()
    change = masked_sum(new - old["logprobs"], shift_mask(batch.response_mask), dim=1)
    assert ((change > 0) == (sign[:, 0] > 0)).all()
    assert steps[-1]["policy_loss"] < steps[0]["policy_loss"]


def test_value_loss_falls(cfg, scene):
    model, _, value_head, batch, old = scene
    target = torch.full_like(old["values"], 1.0)
    slow = config.change(
        cfg, epochs=15, minibatch_size=4, value_clip=10.0, critic_learning_rate=2e-3
    )
    steps = ppo.improve(
        model,
        value_head,
        optimizer_of(model, value_head, slow),
        batch,
        old,
        torch.zeros_like(target),
        target,
        slow,
    )
    assert steps[0]["value_loss"] == pytest.approx(0.5) and steps[-1]["value_loss"] < 0.25
    assert masked_mean(ppo.critic_values(model, value_head, whole(batch)), old["mask"]) > 0.2


@pytest.mark.parametrize("what", ["advantages", "returns", "gradient"])
def test_nan_stops_before_the_step(cfg, scene, what, monkeypatch):
    model, _, value_head, batch, old = scene
    before = weights(model, "policy")
    zeros, nan = torch.zeros_like(old["values"]), torch.full_like(old["values"], float("nan"))
    if what == "gradient":  # a finite loss whose gradient is not

        class Broken(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, grad):
                return grad * float("nan")

        logits_at = models.logits_at
        monkeypatch.setattr(
            models,
            "logits_at",
            lambda *args: (Broken.apply(logits_at(*args)[0]), logits_at(*args)[1]),
        )
    with pytest.raises(LabError, match="no longer a number.*halve learning_rate"):
        ppo.improve(
            model,
            value_head,
            optimizer_of(model, value_head, cfg),
            batch,
            old,
            nan if what == "advantages" else zeros + 1,
            nan if what == "returns" else zeros,
            cfg,
        )
    assert same(before, weights(model, "policy"))


def test_alarms(capsys):
    ppo.alarm(
        1e-5, torch.tensor([0.1, -0.2, 0.05])
    )  # all is well: a batch may come out a little negative
    ppo.alarm(0.0, torch.zeros(64))
    assert capsys.readouterr().err == ""
    ppo.alarm(0.3, torch.zeros(64))
    assert "ratio to the old policy was off by 0.3" in capsys.readouterr().err
    ppo.alarm(0.0, torch.full((64,), -233.0))
    assert "KL to the reference is -233" in capsys.readouterr().err


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_micro_batches_give_the_minibatchs_gradient(cfg, scene, micro):
    """Parts of like length, trimmed, logits at response tokens only: the step is that of one pass
    over everything.
    """
    model, _, value_head, batch, old = scene
    torch.manual_seed(1)
    advantages, returns = torch.randn(2, *old["values"].shape)
    plain = config.change(
        cfg,
        epochs=1,
        minibatch_size=4,
        micro_batch_size=micro,
        max_grad_norm=1e9,
        learning_rate=1e-3,
    )
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=position_ids(batch.attention_mask),
    ).logits
    new = response_logprobs(logits, batch.input_ids, cfg.temperature)
    loss, _ = ppo_policy_loss(new, old["logprobs"], advantages, old["mask"], cfg.clip)
    trained = models.adapter_parameters(model, "policy")
    by_hand = [
        p - 1e-3 * g for p, g in zip(trained, torch.autograd.grad(loss, trained), strict=True)
    ]
    ppo.improve(
        model,
        value_head,
        optimizer_of(model, value_head, plain, torch.optim.SGD),
        batch,
        old,
        advantages,
        returns,
        plain,
    )
    for expected, found in zip(by_hand, trained, strict=True):
        assert torch.allclose(expected, found, atol=1e-6)


# stopping and going on ---------------------------------------------------------------------------


@pytest.mark.parametrize("critic", ["adapter", "head"])
def test_resume_is_bit_for_bit(cfg, critic, monkeypatch):
    """Stopped after update 3 of 6, killed in update 5, gone on twice: the metrics of a run that was
    never stopped.
    """
    six = config.change(
        cfg, updates=6, checkpoint_every=2, critic=critic, target_kl=1.0, kl_horizon=100
    )
    with runs.start("ppo", six, f"rl-through-{critic}") as run:
        ppo.train(six, run)
    whole_run = run.metrics()
    assert not (run.path / runs.CHECKPOINT).exists()

    def interrupt_at(step):
        def listener(values):
            if values["step"] == step:
                signal.raise_signal(signal.SIGINT)

        return listener

    name = f"rl-stopped-{critic}"
    with runs.start("ppo", six, name) as run:
        run.listeners.append(interrupt_at(3))
        ppo.train(six, run)
    assert (
        len(runs.load(name).metrics()) == 3 and runs.load(name).evaluation["updates"] == 3
    )  # whole, and it can be used
    assert models.load_policy(name)

    sample, calls = rollout.sample, []

    def dies(*args, **kwargs):
        calls.append(args)
        if (
            len(calls) == 4
        ):  # two rollouts and two greedy answers later: in update 5, after the checkpoint of 4
            raise KeyboardInterrupt
        return sample(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(LabError, match=f"Stopped.*--resume {name}"):
        patch.setattr(ppo, "sample", dies)
        with runs.resume(name) as run:
            torch.rand(7)  # whatever was drawn meanwhile
            ppo.train(run.config, run)
    with runs.resume(name) as run:
        ppo.train(run.config, run)
    assert run.metrics() == whole_run
    assert same(
        weights(models.load_policy(name)[0], "policy"),
        weights(models.load_policy(f"rl-through-{critic}")[0], "policy"),
    )
    with (
        pytest.raises(LabError, match="is whole: there is nothing to go on from"),
        runs.resume(name),
    ):
        pass


def test_killed_between_the_last_update_and_the_end(cfg, monkeypatch):
    two = config.change(cfg, checkpoint_every=1)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(LabError, match="Stopped"):
        patch.setattr(models, "save_adapter", killed)
        with runs.start("ppo", two, "rl-late") as run:
            ppo.train(two, run)
    with runs.resume("rl-late") as run:
        ppo.train(run.config, run)
    assert runs.load("rl-late").evaluation["updates"] == 2 and models.load_policy("rl-late")


def test_resume_with_other_settings(cfg):
    stopped = config.change(cfg, updates=4, checkpoint_every=1)
    with pytest.raises(LabError, match="KL to the reference ran away.*runs.resume.*learning_rate"):  # noqa: SIM117
        with runs.start(
            "ppo", config.change(stopped, max_kl=1e-4, learning_rate=0.5), "rl-away"
        ) as run:
            ppo.train(run.config, run)
    assert not (runs.root() / "rl-away").exists()
    with (
        pytest.raises(LabError, match="unfinished run 'rl-away' with a checkpoint"),
        runs.start("ppo", cfg, "rl-away"),
    ):
        pass
    with pytest.raises(LabError, match="no setting 'speed'"), runs.resume("rl-away", speed=1):
        pass
    with runs.resume("rl-away", max_kl=1e6, learning_rate=1e-4) as run:
        ppo.train(run.config, run)
    assert [line["step"] for line in runs.load("rl-away").metrics()] == [1, 2, 3, 4]
    with pytest.raises(LabError, match="no unfinished run 'nobody'"), runs.resume("nobody"):
        pass


def test_the_command_line_goes_on(cfg, capsys):
    """A KL that runs away stops the run with the way on; the way works."""
    settings = [
        "--policy",
        "rl-sft",
        "--reward",
        "rl-reward",
        "--prompts",
        cfg.prompts,
        "--max-prompt-tokens",
        "80",
        "--max-response-tokens",
        "8",
        "--updates",
        "3",
        "--batch-size",
        "8",
        "--minibatch-size",
        "4",
        "--checkpoint-every",
        "1",
    ]
    assert (
        cli.main(
            [
                "train",
                "ppo",
                "--name",
                "rl-cli",
                *settings,
                "--learning-rate",
                "0.5",
                "--max-kl",
                "1e-4",
            ]
        )
        != 0
    )
    assert "--resume rl-cli" in capsys.readouterr().err
    assert (
        cli.main(
            ["train", "ppo", "--resume", "rl-cli", "--learning-rate", "1e-4", "--max-kl", "1e6"]
        )
        == 0
    )
    assert (
        runs.load("rl-cli").evaluation["updates"] == 3
        and runs.load("rl-cli").info["config"]["learning_rate"] == 1e-4
    )
    assert cli.main(["train", "ppo", "--resume", "rl-cli"]) != 0
    assert "is whole: there is nothing to go on from" in capsys.readouterr().err


def test_a_broken_checkpoint_is_said(cfg):
    stopped = config.change(cfg, updates=3, checkpoint_every=1)
    with (
        pytest.raises(LabError),
        runs.start(
            "ppo", config.change(stopped, max_kl=1e-4, learning_rate=0.5), "rl-broken"
        ) as run,
    ):
        ppo.train(run.config, run)
    (run.path / runs.CHECKPOINT).write_bytes(b"half a file")
    with (
        pytest.raises(LabError, match="checkpoint.*can't be used"),
        runs.resume("rl-broken") as run,
    ):
        ppo.train(run.config, run)


def test_full_disk_at_a_checkpoint_costs_only_the_checkpoint(cfg, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    often = config.change(cfg, checkpoint_every=1)
    monkeypatch.setattr(checkpoint, "save", full)
    with runs.start("ppo", often) as run:
        ppo.train(often, run)
    assert capsys.readouterr().err.count("could not be written ([Errno 28]") == 2
    assert runs.load(run.name).evaluation["updates"] == 2


def test_a_checkpoint_that_can_not_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    import safetensors.torch

    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    checkpoint.save(tmp_path, {"w": weight}, optimizer, update=1)
    save = safetensors.torch.save_file

    def half(tensors, path, metadata):
        save(tensors, path, metadata)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(OSError):
        checkpoint.save(tmp_path, {"w": weight}, optimizer, update=2)
    assert [p.name for p in tmp_path.iterdir()] == [runs.CHECKPOINT]
    assert checkpoint.load(tmp_path, {"w": weight}, optimizer) == {"update": 1}


def test_memory_that_runs_out_halves_the_micro_batch(cfg, scene, capsys):
    model, _, value_head, batch, old = scene
    start = weights(model, "policy")

    def step(work=None):
        for parameter, value in zip(models.adapter_parameters(model, "policy"), start, strict=True):
            parameter.data.copy_(value)
        torch.manual_seed(0)
        plain = config.change(cfg, epochs=1, minibatch_size=4)
        micro = ppo.MicroBatch(plain)
        if work:
            fit = micro.fit
            micro.fit = lambda inner: fit(lambda size: work(size, inner))
        optimizer = optimizer_of(model, value_head, plain, torch.optim.SGD)
        ppo.improve(
            model, value_head, optimizer, batch, old, old["values"] + 1, old["values"], plain, micro
        )
        return micro.size, weights(model, "policy")

    def tight(size, inner):
        if size > 1:
            inner(size)  # gradients of a pass that did not come to its end must not count
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(size)

    (_, enough), (size, found) = step(), step(tight)
    assert size == 1 and "going on with 2 responses" in capsys.readouterr().err
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(enough, found, strict=True))

    def none_at_all(size, inner):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        )

    with pytest.raises(LabError, match="Memory ran out with a single response"):
        step(none_at_all)
    with pytest.raises(RuntimeError, match="another"):
        ppo.MicroBatch(cfg).fit(lambda size: (_ for _ in ()).throw(RuntimeError("another")))


def test_second_interrupt_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with runs.interruptible() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# options -----------------------------------------------------------------------------------------


def one_update(cfg, judge=None, **values):
    changed = config.change(cfg, **{"updates": 1, **values})
    with runs.start("ppo", changed) as run:
        ppo.train(changed, run, judge)
    return run


def test_adams_eps_and_warm_up_are_the_original_implementations(cfg, monkeypatch):
    """PyTorch's eps of 1e-8 makes the first steps far larger; the rate rises in a line over
    `warmup` updates.
    """
    made, rates = [], []

    class Adam(torch.optim.Adam):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

        def step(self, *args, **kwargs):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    one_update(
        cfg,
        updates=3,
        warmup=2,
        epochs=1,
        minibatch_size=8,
        learning_rate=0.004,
        critic_learning_rate=0.02,
    )
    assert {group["eps"] for group in made[0].param_groups} == {1e-5}
    assert rates == [
        pytest.approx([0.002, 0.01]),
        pytest.approx([0.004, 0.02]),
        pytest.approx([0.004, 0.02]),
    ]


def test_gradients_are_clipped_for_policy_and_critic_each(cfg, scene):
    model, _, value_head, batch, old = scene
    plain = config.change(
        cfg,
        epochs=1,
        minibatch_size=4,
        max_grad_norm=0.01,
        learning_rate=1.0,
        critic_learning_rate=1.0,
    )
    before, head = weights(model, "policy"), value_head.weight.detach().clone()
    optimizer = optimizer_of(model, value_head, plain, torch.optim.SGD)
    ppo.improve(
        model,
        value_head,
        optimizer,
        batch,
        old,
        100 * torch.ones_like(old["values"]),
        old["values"] + 50,
        plain,
    )
    moved = sum(
        (a - b).square().sum() for a, b in zip(before, weights(model, "policy"), strict=True)
    ).sqrt()
    assert moved.item() == pytest.approx(0.01, rel=1e-2)
    assert 0 < (value_head.weight - head).norm() <= 0.0101


def test_critic_warm_up_leaves_the_policy_where_it_was(cfg):
    run = one_update(cfg, critic_warmup=1)
    assert same(
        weights(models.load_policy(run)[0], "policy"),
        weights(models.load_policy("rl-sft")[0], "policy"),
    )
    assert run.metrics()[0]["value_loss"] > 0


def test_ptx_reads_text(cfg, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("台灣最高的山是玉山。\n\nThe capital of France is Paris.\n" * 20, "utf8")
    run = one_update(cfg, ptx=1.0, ptx_text=str(text), updates=4, learning_rate=5e-3)
    lines = run.metrics()
    assert lines[-1]["ptx_loss"] < lines[0]["ptx_loss"]
    assert "ptx_loss" not in one_update(cfg).metrics()[0]


def test_lowest_of_several_reward_models_counts(cfg, scene):
    model, heads, value_head, batch, old = scene
    random_run("reward", "rl-reward-2", 7)
    model = models.load_adapter(model, runs.load("rl-reward-2"), "reward1")
    other = {"reward1": models.load_head(runs.load("rl-reward-2"))}
    models.use(model, "policy")
    alone = ppo.score(model, other, batch, 4)
    both = ppo.score(model, heads | other, batch, 4)
    assert torch.allclose(both, torch.minimum(old["score"], alone)) and not torch.allclose(
        both, old["score"]
    )
    assert one_update(cfg, reward="rl-reward, rl-reward-2").evaluation["updates"] == 1


def test_length_penalty_and_normalised_rewards(cfg, scene):
    model, heads, value_head, batch, old = scene
    short = ppo.measure(
        model,
        heads,
        value_head,
        batch,
        config.change(cfg, length_penalty=0.1, missing_eos_penalty=0.0),
    )
    assert torch.allclose(short["score"] - short["penalised"], 0.1 * batch.lengths)
    assert math.isfinite(one_update(cfg, normalize_rewards=1).metrics()[0]["value_loss"])


def test_memory_is_reported_by_part(trained):
    memory = trained[0].evaluation["memory"]
    assert set(memory) == {"base", "adapters", "optimizer", "activations", "kv_cache"} and all(
        value > 0 for value in memory.values()
    )
    trainable = 2 * 4 * sum(p.numel() for p in models.adapter_parameters(trained[1], "policy"))
    assert (
        memory["adapters"] == 2 * trainable and memory["optimizer"] > 2 * trainable
    )  # four adapters; two moments for two of them


def test_a_prompt_is_watched(cfg):
    lines = one_update(cfg, watch="Who are you?", updates=2).metrics()
    assert {line["watch_prompt"] for line in lines} == {"Who are you?"} and all(
        "watch_response" in line for line in lines
    )


def test_same_run_with_a_judge_of_ones_own(cfg):
    seen = []

    def judge(prompts, responses):
        seen.append((prompts, responses))
        return [float(len(text)) for text in responses]

    run = one_update(cfg, judge)
    (prompts, responses), score = seen[0], run.metrics()[0]["score"]
    assert set(prompts) <= set(PROMPTS) and score == pytest.approx(
        sum(map(len, responses)) / len(responses)
    )


@pytest.mark.parametrize(
    "judge, message",
    [
        (
            lambda prompts, responses: [float("nan")] * len(responses),
            "is nan, not a finite number. Mend the reward function",
        ),
        (lambda prompts, responses: 1 / 0, "Your reward function failed: ZeroDivisionError"),
        (lambda prompts, responses: [1.0], "gave 1 numbers for 8 responses"),
    ],
)
def test_rewards_that_can_not_be_used(cfg, judge, message):
    with pytest.raises(LabError, match=message):
        one_update(cfg, judge)


def test_a_constant_reward_is_said_once(cfg, capsys):
    one_update(cfg, lambda prompts, responses: [0.5] * len(responses), updates=2)
    assert capsys.readouterr().err.count("got the same reward") == 1


def test_responses_that_never_end_or_all_end_at_once_are_said(scene, capsys):
    batch = scene[3]
    batch.ended = torch.zeros(4, dtype=torch.bool)
    ppo.notice(torch.randn(4), batch, set())
    assert "no response of a rollout ended by itself" in capsys.readouterr().err
    batch.ended = ~batch.ended
    batch.response_mask = torch.zeros_like(batch.response_mask)
    batch.response_mask[:, -1] = 1
    ppo.notice(torch.randn(4), batch, set())
    assert "every response of a rollout was empty" in capsys.readouterr().err


# bad input ---------------------------------------------------------------------------------------


def attempt(cfg):
    with runs.start("ppo", cfg, "rl-bad") as run:
        ppo.train(cfg, run)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"prompt": "Gold?"}\n{"prompt": " "}\n', "line 2"),
        ("", "empty"),
        ('{"prompt": "' + "Gold " * 60 + '"}\n', "max_prompt_tokens is 80"),
    ],
)
def test_bad_prompts(cfg, tmp_path, text, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(text, "utf8")
    with pytest.raises(LabError, match=message):
        attempt(config.change(cfg, prompts=str(file)))
    assert not (runs.root() / "rl-bad").exists()


def test_blank_lines_of_a_text_file_are_no_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("Gold?\n\n   \nWho?\n", "utf8")
    assert data.load_prompts(str(file)) == ["Gold?", "Who?"]


def test_reward_run_of_another_base(cfg, tiny_base, tokenizer):
    other = config.Pretrain(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        layers=2,
        heads=2,
        context=160,
        seed=9,
    )
    with runs.start("pretrain", other, "rl-other-base") as run:
        models.save_base(models.new_base(other, tokenizer), tokenizer, run.path)
    random_run("reward", "rl-other-reward", 3, base="rl-other-base")
    with pytest.raises(LabError, match="rl-other-reward.*was trained on the base 'rl-other-base'"):
        attempt(config.change(cfg, reward="rl-other-reward"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"reward": "rl-sft"}, "is a sft run, but a reward run is needed"),
        ({"policy": "nobody"}, "no run 'nobody'"),
        ({"max_response_tokens": 200}, "reads at most 160 tokens"),
        ({"prompts": "no-such-file.txt"}, "no-such-file.txt"),
    ],
)
def test_bad_settings(cfg, change, message):
    with pytest.raises(LabError, match=message):
        attempt(config.change(cfg, **change))


def test_batch_of_one(cfg):
    one = config.change(cfg, batch_size=1, minibatch_size=1, updates=1)
    with runs.start("ppo", one) as run:
        ppo.train(one, run)
    assert all(
        math.isfinite(value) for value in run.metrics()[0].values() if isinstance(value, float)
    )
