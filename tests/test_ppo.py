"""PPO's algorithm on the tiny random base: who is trained, what is read where, and every wire of
the loop.
"""

import math
from dataclasses import replace

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from ppo_scene import (
    ADAPTERS,
    PROMPTS,
    one_update,
    optimizer_of,
    players_of,
    random_run,
    same,
    weights,
)

from labkit import LabError, config, models, rollout, runs
from labkit.maths.kl import kl_k1, kl_k3
from labkit.maths.logprobs import (
    masked_mean,
    masked_sum,
    position_ids,
    response_logprobs,
    shift_mask,
    shift_values,
)
from labkit.maths.losses import ppo_policy_loss
from labkit.stages import ppo
from labkit.stages.ppo_guard import MicroBatch


def by_peft(players, adapter, batch, temperature):
    """log-probabilities (B, T-1) by the model's own forward pass under that adapter."""
    with models.using(players.model, adapter), torch.no_grad():
        positions = position_ids(batch.attention_mask)
        logits = players.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions
        ).logits
    return response_logprobs(logits, batch.input_ids, temperature) * shift_mask(batch.response_mask)


def shake(players, *adapters, size=0.03):
    """Move adapters away from where they began, so that no two roles compute the same."""
    torch.manual_seed(0)
    for adapter in adapters:
        for parameter in models.adapter_parameters(players.model, adapter):
            parameter.data += size * torch.randn_like(parameter)
    players.refresh()


@pytest.fixture(scope="module")
def trained(ppo_cfg):
    """(run, players as they were at the end): a whole run of two updates."""
    kept = {}
    run = one_update(
        ppo_cfg,
        updates=2,
        name="rl-ppo",
        probe=lambda players, *_: kept.update(players=players) or {},
    )
    return run, kept["players"]


# a whole run -------------------------------------------------------------------------------------


def test_run_is_whole_and_can_be_talked_to(trained):
    run, _ = trained
    assert {p.name for p in run.path.iterdir()} == {"run.json", "metrics.jsonl", "adapter"}
    assert (
        runs.load("rl-ppo").info["base"]["name"] == "tiny-base" and run.evaluation["updates"] == 2
    )
    model, tokenizer = models.load_policy("rl-ppo")
    assert len(rollout.answer(model, tokenizer, PROMPTS, 4)) == len(PROMPTS)


def test_every_figure_is_logged(ppo_cfg, trained):
    lines = trained[0].metrics()
    assert [(line["step"], line["steps"]) for line in lines] == [(1, 2), (2, 2)]
    wanted = (
        "score kl beta length entropy eos_rate policy_loss value_loss approx_kl clip_fraction"
        " ratio_mean ratio_var first_ratio_error explained_variance"
    ).split()
    assert all(math.isfinite(line[key]) for key in wanted for line in lines)
    assert {line["prompt"] for line in lines} <= set(PROMPTS)
    assert 1 <= lines[0]["length"] <= ppo_cfg.max_response_tokens and lines[0]["entropy"] > 0


def test_policy_starts_at_the_reference_with_ratio_1(trained):
    first, second = trained[0].metrics()
    assert abs(first["kl"]) < 1e-3  # one adapter; sampler and forward round differently
    assert first["first_ratio_error"] < 1e-3 and second["first_ratio_error"] < 1e-3
    assert abs(second["kl"]) > 1e-3


def test_only_policy_and_critic_move(ppo_cfg, trained):
    start, end = players_of(ppo_cfg).model, trained[1].model
    for name in ADAPTERS:
        assert same(weights(start, name), weights(end, name)) == (name in ("reference", "reward"))
    base = dict(start.named_parameters())
    assert all(
        torch.equal(p, base[key]) for key, p in end.named_parameters() if ".lora_" not in key
    )


def test_saved_adapter_is_the_policys(trained):
    run, end = trained
    assert same(weights(models.load_policy(run)[0], "policy"), weights(end.model, "policy"))


def test_same_seed_same_metrics(ppo_cfg, trained):
    assert one_update(ppo_cfg, updates=2).metrics() == trained[0].metrics()
    other = one_update(ppo_cfg, seed=5)
    assert other.metrics()[0]["response"] != trained[0].metrics()[0]["response"]


def test_one_base_for_four_adapters(ppo_cfg, monkeypatch):
    loaded, load = [], models.load_base

    def once(*args, **kwargs):
        loaded.append(load(*args, **kwargs))
        return loaded[-1]

    def count(model):
        return sum(isinstance(module, Linear4bit) for module in model.modules())

    bare = count(load("tiny-base")[0])
    monkeypatch.setattr(models, "load_base", once)
    one_update(ppo_cfg)
    ((model, _),) = loaded
    assert count(model) == bare == 14


def test_score_rises(ppo_cfg):
    """Whatever is rewarded is said more often: here, the token AI:."""

    def taste(prompts, responses):
        return [text.count("AI:") / 2 - 1 for text in responses]

    hot = {"batch_size": 64, "minibatch_size": 32, "temperature": 1.5, "learning_rate": 1e-2}
    lines = one_update(ppo_cfg, taste, updates=12, beta=0.0, **hot).metrics()
    first, last = (sum(line["score"] for line in some) / 3 for some in (lines[:3], lines[-3:]))
    assert last > first + 0.5 and lines[-1]["kl"] > 0.5  # nothing held it


# the wires of the loop ---------------------------------------------------------------------------


def test_the_loop_hands_on_what_it_got(ppo_cfg, monkeypatch):
    """Sample → measure → credit → improve → report: each gets what the one before gave, in its
    place.
    """
    calls = {}

    def spy(name):
        whole = getattr(ppo, name)

        def noted(*args):
            calls.setdefault(name, []).append((args, whole(*args)))
            return calls[name][-1][1]

        monkeypatch.setattr(ppo, name, noted)

    for name in ("seat", "batch_of", "measure", "credit", "improve", "report", "warm_up"):
        spy(name)
    run = one_update(ppo_cfg, updates=3, warmup=2, target_kl=0.5, kl_horizon=100)
    players = calls["seat"][0][1]
    for update, line in enumerate(run.metrics()):
        (_, rolled, cfg), experience = calls["measure"][update]
        prompts = calls["batch_of"][update][1]
        assert rolled.prompts == prompts and len(prompts) == cfg.batch_size
        (given, cfg, beta), (advantages, returns) = calls["credit"][update]
        assert given is experience and cfg == run.config and beta == line["beta"] > 0
        args = calls["improve"][update][0]
        assert args[0] is players and args[2] is rolled and args[3] is experience
        assert args[4] is advantages and args[5] is returns
        assert (
            calls["warm_up"][update][0][0] is args[1] and calls["warm_up"][update][0][2] == update
        )
        reported = calls["report"][update][0]
        assert reported[:4] == (update, rolled, experience, returns)
        assert reported[4] is calls["improve"][update][1] and reported[5] == beta
    first, second, third = [line["beta"] for line in run.metrics()]
    assert first == ppo_cfg.beta and second == pytest.approx(first * (1 - 0.2 * 8 / 100)) != third


def test_every_update_has_its_own_prompts(ppo_cfg):
    cfg = config.change(ppo_cfg, batch_size=2, minibatch_size=2)
    assert [ppo.batch_of(list("abcde"), i, cfg) for i in range(3)] == [
        ["a", "b"],
        ["c", "d"],
        ["e", "a"],
    ]
    seen = []
    one_update(
        cfg, updates=3, probe=lambda players, rolled, update: seen.append(rolled.prompts) or {}
    )
    assert len({prompt for batch in seen for prompt in batch}) == len(PROMPTS)


def test_the_probe_sees_players_rollout_and_update(ppo_cfg):
    def probe(players, rolled, update):
        assert players.model.active_adapter == "policy" and len(rolled.responses) == 8
        return {"looked": update}

    assert [line["looked"] for line in one_update(ppo_cfg, probe=probe, updates=2).metrics()] == [
        1,
        2,
    ]


def test_every_role_is_its_own_adapter(ppo_cfg, scene):
    """With all adapters apart, each opinion is that of the adapter that its name says."""
    players, _, _ = scene
    shake(players, "policy", size=0.1)
    with torch.no_grad():
        players.value_head.weight.normal_()
    batch = players.sample(PROMPTS[:4], ppo_cfg)
    found = ppo.measure(players, batch, ppo_cfg)
    by = {
        name: by_peft(players, name, batch, ppo_cfg.temperature) for name in ("policy", "reference")
    }
    assert torch.allclose(found.logprobs, by["policy"], atol=1e-3)
    assert torch.allclose(found.ref_logprobs, by["reference"], atol=1e-3)
    assert not torch.allclose(by["policy"], by["reference"], atol=1e-2)
    with torch.no_grad():
        ((_, head),) = players.rewards
        whole = batch.input_ids, batch.attention_mask
        assert torch.allclose(found.scores, models.rewards(players.model, head, *whole), atol=1e-3)
        with models.using(players.model, "critic"):
            hidden = models.hidden_states(players.model, *whole)
        values = shift_values(players.value_head(hidden)) * found.mask
        assert torch.allclose(found.values, values, atol=1e-3) and found.values.abs().max() > 1e-2


def test_values_of_a_head_come_with_the_sample(ppo_cfg):
    cfg = config.change(ppo_cfg, critic="head")
    players = players_of(cfg)
    with torch.no_grad():
        players.value_head.weight.normal_()
    batch = players.sample(PROMPTS[:4], cfg)
    found = ppo.measure(players, batch, cfg)
    assert torch.equal(found.values, batch.values) and torch.equal(found.logprobs, batch.logprobs)
    batch.values = batch.logprobs = (
        None  # from a sampler that gives none: a forward pass gives them
    )
    again = ppo.measure(players, batch, cfg)
    assert torch.allclose(found.values, again.values, atol=1e-3)
    assert (
        torch.allclose(found.logprobs, again.logprobs, atol=1e-3) and found.sampling_error is None
    )


def test_under_half_precision_a_training_forward_gives_the_old_logprobs(
    ppo_cfg, scene, monkeypatch
):
    players, batch, old = scene
    monkeypatch.setattr(type(players.model), "dtype", torch.bfloat16, raising=False)
    batch.logprobs = batch.logprobs - 0.25 * shift_mask(batch.response_mask)
    found = ppo.measure(players, batch, ppo_cfg)
    assert torch.allclose(found.logprobs, old.logprobs, atol=1e-3)
    assert found.sampling_error >= 0.2
    assert (
        ppo.report(0, batch, found, old.values, [{"max_abs_logratio": 0.0}], 0.1, ppo_cfg)[
            "sampling_error"
        ]
        >= 0.2
    )


# credit, by hand ---------------------------------------------------------------------------------


def experience(**changes):
    """Two responses of 3 and 2 tokens after one of the prompt; the second never ended."""
    logprobs = torch.tensor([[0.0, -1.0, -2.0, -3.0], [0.0, -1.0, -1.0, 0.0]])
    ref = torch.tensor([[0.0, -1.5, -1.0, -3.0], [0.0, -2.0, -1.0, 0.0]])
    values = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.0, -0.1, 0.4, 0.0]])
    mask = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0]])
    ended = torch.tensor([True, False])
    one = ppo.Experience(logprobs, ref, values, mask, torch.tensor([2.0, 1.0]), ended)
    return replace(one, **changes)


CREDIT = config.Ppo(
    gamma=0.9, gae_lambda=0.5, missing_eos_penalty=0.75, length_penalty=0.1, normalize_rewards=0
)


def test_credit_by_hand():
    """β = 0.4: rewards −0.4 · (log π − log π_ref); the scores 2 − 0.3 and 1 − 0.2 − 0.75 at the
    last token.
    """
    rewards = [[-0.2, 0.4, 1.7], [-0.4, 0.05]]
    values = [[0.1, 0.2, 0.3], [-0.1, 0.4]]
    advantages = []
    for r, v in zip(rewards, values):
        following, next_value, row = 0.0, 0.0, []
        for t in reversed(range(len(r))):
            following = r[t] + 0.9 * next_value - v[t] + 0.9 * 0.5 * following
            next_value = v[t]
            row.insert(0, following)
        advantages.append(row)
    assert advantages[1][1] == pytest.approx(-0.35)  # 0.05 − 0.4: the last token, no future
    assert advantages[1][0] == pytest.approx(-0.4 + 0.9 * 0.4 + 0.1 + 0.45 * -0.35)
    flat = torch.tensor(sum(advantages, []))
    white = (flat - flat.mean()) / (flat.var(correction=0) + 1e-8).sqrt()
    found, returns = ppo.credit(experience(), CREDIT, 0.4)
    mask = experience().mask.bool()
    assert torch.allclose(found[mask], white, atol=1e-5) and not found[~mask].any()
    assert torch.allclose(returns[mask], flat + torch.tensor(sum(values, [])), atol=1e-5)


def test_rewards_can_be_scaled_in_each_rollout():
    """Scaled to variance 1 without moving their mean, before the critic's returns are made of
    them.
    """
    plain = config.change(
        CREDIT, gamma=1.0, gae_lambda=1.0, missing_eos_penalty=0.0, length_penalty=0.0
    )
    no_values = experience(values=torch.zeros(2, 4))
    _, returns = ppo.credit(no_values, config.change(plain, normalize_rewards=1), 0.4)
    flat = torch.tensor([-0.2, 0.4, 2.0, -0.4, 1.0])
    sd = flat.var(correction=0).sqrt()
    scaled = (flat - flat.mean()) / sd + flat.mean()
    assert returns[0, 1] == pytest.approx(scaled[:3].sum().item(), abs=1e-4)
    assert returns[1, 1] == pytest.approx(scaled[3:].sum().item(), abs=1e-4)


def test_kl_controller_by_hand():
    fixed = ppo.KLController(config.Ppo(beta=0.1, target_kl=0.0))
    fixed.update(1e9, 64)
    assert fixed.value == 0.1
    steered = ppo.KLController(config.Ppo(beta=0.1, target_kl=4.0, kl_horizon=1000))
    steered.update(4.4, 100)  # error 0.1, times 100 / 1000: + 1 %
    assert steered.value == pytest.approx(0.101)
    steered.update(40.0, 100)  # error 9, clipped to 0.2: + 2 %
    assert steered.value == pytest.approx(0.101 * 1.02)
    steered.update(0.0, 100)  # error -1, clipped to -0.2: - 2 %
    assert steered.value == pytest.approx(0.101 * 1.02 * 0.98)


def test_report_by_hand(ppo_cfg, scene):
    _, batch, _ = scene
    old = experience()
    steps = [
        {"policy_loss": 1.0, "max_abs_logratio": 0.5},
        {"policy_loss": 3.0, "max_abs_logratio": 2.0},
    ]
    returns = old.values + torch.tensor([[0.0, 1.0, -1.0, 0.5], [0.0, 0.0, 0.0, 9.0]])
    entry = ppo.report(4, batch, old, returns, steps, 0.3, ppo_cfg)
    assert (entry["step"], entry["beta"], entry["score"]) == (5, 0.3, 1.5)
    assert entry["kl"] == pytest.approx(
        ((0.5 - 1.0 + 0) + (1.0 + 0)) / 2
    )  # to the reference, per response
    assert entry["entropy"] == pytest.approx(8 / 5) and entry["policy_loss"] == 2.0
    assert entry["first_ratio_error"] == 0.5
    mask = old.mask.bool()
    error, spread = (x[mask].var(correction=0) for x in (returns - old.values, returns))
    assert entry["explained_variance"] == pytest.approx(1 - (error / spread).item(), abs=1e-5)
    assert (
        entry["length"] == batch.lengths.float().mean()
        and entry["eos_rate"] == batch.ended.float().mean()
    )


# reward ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_score_is_of_the_truncated_response(ppo_cfg, scene, tokenizer):
    """What was generated after the first EOS changes nothing; what was said before it does."""
    players, _, _ = scene
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    a, b = tokenizer("Pa", add_special_tokens=False)["input_ids"]

    class Says:
        device = torch.device("cpu")

        def __init__(self, row):
            self.row = row

        def generate(self, ids, **_):
            return torch.cat([ids, torch.tensor([self.row] * len(ids))], 1)

    def score(*row):
        return ppo.score(players, rollout.sample(Says(row), tokenizer, PROMPTS[:2]))

    assert torch.equal(score(a, b, end, a, a), score(a, b, end, pad, pad))
    assert torch.allclose(score(a, b, end, a, a), score(a, b, end), atol=1e-4)
    assert (score(a, b, end, a, a) - score(b, b, end, a, a)).abs().min() > 1e-3


def test_lowest_of_several_reward_models_counts(ppo_cfg, scene):
    players, batch, old = scene
    random_run("reward", "rl-reward-2", 7)
    both = players_of(config.change(ppo_cfg, reward="rl-reward, rl-reward-2"))
    alone = replace(both, rewards=both.rewards[1:])
    lowest = torch.minimum(old.scores, ppo.score(alone, batch))
    assert torch.allclose(ppo.score(both, batch), lowest, atol=1e-5)
    assert not torch.allclose(lowest, old.scores, atol=1e-3)


def test_a_judge_of_ones_own(ppo_cfg):
    seen = []

    def judge(prompts, responses):
        seen.append((prompts, responses))
        return [float(len(text)) for text in responses]

    run = one_update(ppo_cfg, judge)
    (prompts, responses), score = seen[0], run.metrics()[0]["score"]
    assert set(prompts) <= set(PROMPTS) and score == pytest.approx(
        sum(map(len, responses)) / len(responses)
    )


@pytest.mark.parametrize(
    "judge, message",
    [
        (lambda prompts, responses: [float("nan")] * len(responses), "nan, not a finite.*function"),
        (lambda prompts, responses: 1 / 0, "reward function failed: ZeroDivisionError"),
        (lambda prompts, responses: [1.0], "1 numbers for 8 responses"),
    ],
)
def test_rewards_that_can_not_be_used(ppo_cfg, judge, message):
    with pytest.raises(LabError, match=message):
        one_update(ppo_cfg, judge)


# log-probabilities and KL ------------------------------------------------------------------------


def test_temperature_divides_policy_and_reference_alike(ppo_cfg, scene):
    players, batch, old = scene
    assert ppo_cfg.temperature == 2
    assert torch.allclose(old.logprobs, by_peft(players, "policy", batch, 2.0), atol=1e-3)
    assert torch.allclose(old.logprobs, old.ref_logprobs, atol=1e-3)
    batch.logprobs = None
    plain = ppo.measure(players, batch, config.change(ppo_cfg, temperature=1.0))
    assert torch.allclose(plain.ref_logprobs, by_peft(players, "reference", batch, 1.0), atol=1e-3)
    assert not torch.allclose(plain.logprobs, old.logprobs, atol=1e-2)
    # And in the update: with the same temperature the ratio is 1, whatever it is.
    for temperature, before in ((2.0, old), (1.0, plain)):
        cfg = config.change(ppo_cfg, temperature=temperature, epochs=1)
        zeros = torch.zeros_like(before.values)
        optimizer = optimizer_of(players, cfg, torch.optim.SGD)
        steps = ppo.improve(players, optimizer, batch, before, zeros, before.values, cfg)
        assert steps[0]["max_abs_logratio"] < 1e-3


@torch.no_grad()
def test_kl_is_positive_in_expectation_and_its_direction_is_the_policys(ppo_cfg, scene):
    players, _, _ = scene
    shake(players, "policy")
    batch = players.sample(PROMPTS * 40, ppo_cfg)
    old = ppo.measure(players, batch, ppo_cfg)
    k1, k3 = (
        masked_sum(k(old.logprobs, old.ref_logprobs), old.mask, dim=1) for k in (kl_k1, kl_k3)
    )
    assert (
        k1.mean() > 3 * k1.std() / len(k1) ** 0.5
    )  # log π − log π_ref on π's own samples: above 0
    assert (k3 >= 0).all() and (k3.mean() - k1.mean()).abs() < 4 * (k3 - k1).std() / len(k3) ** 0.5


# update ------------------------------------------------------------------------------------------


def improved(players, batch, old, cfg, advantages=None, returns=None, kind=torch.optim.Adam):
    zeros = torch.zeros_like(old.values)
    advantages, returns = (zeros if x is None else x for x in (advantages, returns))
    optimizer = optimizer_of(players, cfg, kind)
    return ppo.improve(players, optimizer, batch, old, advantages, returns, cfg)


def test_critic_loss_leaves_the_policy_alone_and_the_other_way_round(ppo_cfg, scene):
    players, batch, old = scene
    whole = batch.input_ids, batch.attention_mask, batch.response_mask

    def moved():
        return {
            n
            for n in ADAPTERS
            for p in models.adapter_parameters(players.model, n)
            if p.grad is not None
        }

    (ppo.critic_values(players, whole) - 1).pow(2).sum().backward()
    assert players.value_head.weight.grad.abs().sum() > 0
    assert moved() <= {"critic"}  # a head of zeros sends nothing further
    players.value_head.weight.grad = None
    players.model.zero_grad(set_to_none=True)
    new, hidden = ppo.token_logprobs(players.policy, whole, ppo_cfg.temperature)
    ppo_policy_loss(new, old.logprobs, torch.ones_like(new), old.mask)[0].backward()
    assert players.value_head.weight.grad is None and moved() == {"policy"}
    players.critic = None  # a head on the policy's hidden states
    players.model.zero_grad(set_to_none=True)
    _, hidden = ppo.token_logprobs(players.policy, whole, ppo_cfg.temperature)
    torch.nn.init.ones_(players.value_head.weight)
    (ppo.critic_values(players, whole, hidden) - 1).pow(2).sum().backward()
    assert players.value_head.weight.grad.abs().sum() > 0 and moved() == set()


@pytest.mark.parametrize("still, moves", [("policy", "critic"), ("critic", "policy")])
def test_a_step_moves_only_whose_learning_rate_is_not_0(ppo_cfg, scene, still, moves):
    players, batch, old = scene
    cfg = config.change(ppo_cfg)
    setattr(cfg, "learning_rate" if still == "policy" else "critic_learning_rate", 0.0)
    before = {name: weights(players.model, name) for name in ADAPTERS}
    advantages = torch.randn_like(old.values)
    improved(players, batch, old, cfg, advantages, advantages)
    for name in ADAPTERS:
        assert same(before[name], weights(players.model, name)) == (name != moves)


def test_minibatches_cover_the_rollout_in_every_epoch(ppo_cfg, scene, monkeypatch):
    players, batch, old = scene
    seen, parts = [], batch.parts
    monkeypatch.setattr(
        batch, "parts", lambda rows, size: (seen.append(rows.tolist()), parts(rows, size))[1]
    )
    improved(players, batch, old, config.change(ppo_cfg, minibatch_size=3, epochs=2))
    assert [len(rows) for rows in seen] == [3, 1, 3, 1]
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == [0, 1, 2, 3]


def test_advantage_moves_the_logprob_its_way(ppo_cfg, scene):
    players, batch, old = scene
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None].expand_as(old.values)
    steps = improved(
        players, batch, old, config.change(ppo_cfg, epochs=4, learning_rate=1e-3), sign, old.values
    )
    new = by_peft(players, "policy", batch, ppo_cfg.temperature)
    change = masked_sum(new - old.logprobs, old.mask, dim=1)
    assert ((change > 0) == (sign[:, 0] > 0)).all()
    assert steps[-1]["policy_loss"] < steps[0]["policy_loss"]


def test_the_clips_are_the_settings(ppo_cfg, scene):
    """A narrow clip stops nearly every token after some steps, a wide one none: of the policy and
    of the critic.
    """
    players, batch, old = scene
    start = {name: weights(players.model, name) for name in ("policy", "critic")}
    fractions = {}
    for clip in (1e-5, 1e9):
        for name, values in start.items():
            for parameter, value in zip(models.adapter_parameters(players.model, name), values):
                parameter.data.copy_(value)
        torch.nn.init.zeros_(players.value_head.weight)
        players.refresh()
        ones = torch.ones_like(old.values)
        for setting, key in (("clip", "clip_fraction"), ("value_clip", "value_clip_fraction")):
            cfg = config.change(ppo_cfg, epochs=6, minibatch_size=4, **{setting: clip})
            fractions[setting, clip] = improved(players, batch, old, cfg, ones, ones)[-1][key]
    assert fractions["clip", 1e-5] > 0.5 and fractions["clip", 1e9] == 0
    assert fractions["value_clip", 1e-5] > 0.5 and fractions["value_clip", 1e9] == 0


def test_value_loss_falls(ppo_cfg, scene):
    players, batch, old = scene
    target = torch.full_like(old.values, 1.0)
    slow = config.change(ppo_cfg, epochs=15, value_clip=10.0, critic_learning_rate=2e-3)
    steps = improved(players, batch, old, slow, returns=target)
    assert steps[0]["value_loss"] == pytest.approx(0.5) and steps[-1]["value_loss"] < 0.25
    values = ppo.critic_values(
        players, (batch.input_ids, batch.attention_mask, batch.response_mask)
    )
    assert masked_mean(values, old.mask) > 0.2


@pytest.mark.parametrize("what", ["advantages", "returns", "gradient"])
def test_nan_stops_before_the_step(ppo_cfg, scene, what, monkeypatch):
    players, batch, old = scene
    before = weights(players.model, "policy")
    zeros, nan = torch.zeros_like(old.values), torch.full_like(old.values, float("nan"))
    if what == "gradient":  # a finite loss whose gradient is not
        whole = ppo.token_logprobs

        def broken(*args):
            found, hidden = whole(*args)
            if found.requires_grad:
                found.register_hook(lambda grad: grad * float("nan"))
            return found, hidden

        monkeypatch.setattr(ppo, "token_logprobs", broken)
    advantages, returns = (
        nan if what == "advantages" else zeros + 1,
        nan if what == "returns" else zeros,
    )
    with pytest.raises(LabError, match="no longer a number.*halve learning_rate"):
        improved(players, batch, old, ppo_cfg, advantages, returns)
    assert same(before, weights(players.model, "policy"))


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_micro_batches_give_the_minibatchs_gradient_and_metrics(ppo_cfg, scene, micro):
    """Parts of like length, trimmed, logits at response tokens only: the step is that of one pass
    over everything.
    """
    players, batch, old = scene
    shake(players, "policy", size=0.01)
    torch.manual_seed(1)
    advantages, returns = torch.randn(2, *old.values.shape)
    plain = config.change(
        ppo_cfg, epochs=1, micro_batch_size=micro, max_grad_norm=1e9, learning_rate=1e-3
    )
    positions = position_ids(batch.attention_mask)
    models.use(players.model, "policy")
    logits = players.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions
    ).logits
    new = response_logprobs(logits, batch.input_ids, plain.temperature)
    loss, metrics = ppo_policy_loss(new, old.logprobs, advantages, old.mask, plain.clip)
    trained = models.adapter_parameters(players.model, "policy")
    by_hand = [
        p - 1e-3 * g for p, g in zip(trained, torch.autograd.grad(loss, trained), strict=True)
    ]
    players.passes = MicroBatch(plain, players.model)
    (step,) = improved(players, batch, old, plain, advantages, returns, torch.optim.SGD)
    for expected, found in zip(by_hand, trained, strict=True):
        assert torch.allclose(expected, found, atol=1e-5)
    for key, value in metrics.items():
        assert step[key] == pytest.approx(value.item(), rel=1e-3, abs=1e-4), key


def test_forward_passes_agree(ppo_cfg, scene):
    """Through plain weights or through peft: the same hidden states, logits and gradients."""
    players, batch, _ = scene
    shake(players, "policy")
    ids, attention_mask, places = batch.input_ids, batch.attention_mask, batch.response_mask.bool()
    found = []
    for kind in (models.Dense, models.Switched):
        players.model.zero_grad(set_to_none=True)
        logits, hidden = kind(players.model, "policy").logits_at(ids, attention_mask, places)
        (logits.square().mean() + hidden.sum()).backward()
        grads = [p.grad for p in models.adapter_parameters(players.model, "policy")]
        found.append([logits, hidden, *grads])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())
    assert isinstance(players.policy, models.Dense)


def test_warm_up_by_hand(ppo_cfg, scene):
    players, _, _ = scene
    cfg = config.change(
        ppo_cfg, warmup=4, critic_warmup=2, learning_rate=0.4, critic_learning_rate=0.8
    )
    optimizer, rates = optimizer_of(players, cfg), []
    for update in range(6):
        ppo.warm_up(optimizer, cfg, update)
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [
        pytest.approx(r)
        for r in ([0, 0.2], [0, 0.4], [0.3, 0.6], [0.4, 0.8], [0.4, 0.8], [0.4, 0.8])
    ]


def test_adams_eps_is_the_original_implementations(ppo_cfg, monkeypatch):
    """PyTorch's eps of 1e-8 makes the first steps far larger."""
    made, whole = [], torch.optim.Adam
    monkeypatch.setattr(
        torch.optim, "Adam", lambda *a, **k: made.append(whole(*a, **k)) or made[-1]
    )
    one_update(ppo_cfg)
    assert {group["eps"] for group in made[0].param_groups} == {1e-5}


def test_gradients_are_clipped_for_policy_and_critic_each(ppo_cfg, scene):
    players, batch, old = scene
    rates = {"learning_rate": 1.0, "critic_learning_rate": 1.0}
    plain = config.change(ppo_cfg, epochs=1, minibatch_size=4, max_grad_norm=0.01, **rates)
    before, head = weights(players.model, "policy"), players.value_head.weight.detach().clone()
    large = 100 * torch.ones_like(old.values)
    improved(players, batch, old, plain, large, large, torch.optim.SGD)
    after = weights(players.model, "policy")
    moved = sum((a - b).square().sum() for a, b in zip(before, after, strict=True)).sqrt()
    assert moved.item() == pytest.approx(0.01, rel=1e-2)
    assert 0 < (players.value_head.weight - head).norm() <= 0.0101


def test_critic_warm_up_leaves_the_policy_where_it_was(ppo_cfg):
    run = one_update(ppo_cfg, critic_warmup=1)
    policy, sft = (models.load_policy(one)[0] for one in (run, "rl-sft"))
    assert same(weights(policy, "policy"), weights(sft, "policy"))
    assert run.metrics()[0]["value_loss"] > 0


def test_ptx_reads_text(ppo_cfg, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("台灣最高的山是玉山。\n\nThe capital of France is Paris.\n" * 20, "utf8")
    lines = one_update(
        ppo_cfg, ptx=1.0, ptx_text=str(text), updates=4, learning_rate=5e-3
    ).metrics()
    assert lines[-1]["ptx_loss"] < lines[0]["ptx_loss"]
    assert "ptx_loss" not in one_update(ppo_cfg).metrics()[0]


def test_a_prompt_is_watched(ppo_cfg):
    lines = one_update(ppo_cfg, watch="Who are you?", updates=2).metrics()
    assert {line["watch_prompt"] for line in lines} == {"Who are you?"}
    assert all("watch_response" in line for line in lines)


def test_batch_of_one(ppo_cfg):
    line = one_update(ppo_cfg, batch_size=1, minibatch_size=1).metrics()[0]
    assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))


# bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"prompt": "Gold?"}\n{"prompt": " "}\n', "line 2"),
        ("", "empty"),
        ('{"prompt": "' + "Gold " * 60 + '"}\n', "max_prompt_tokens is 80"),
    ],
)
def test_bad_prompts(ppo_cfg, tmp_path, text, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(text, "utf8")
    with pytest.raises(LabError, match=message):
        one_update(ppo_cfg, name="rl-bad", prompts=str(file))
    assert not (runs.root() / "rl-bad").exists()


def test_reward_run_of_another_base(ppo_cfg, tokenizer):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2}
    other = config.Pretrain(vocab_size=400, context=160, seed=9, **sizes)
    with runs.start("pretrain", other, "rl-other-base") as run:
        models.save_base(models.new_base(other, tokenizer), tokenizer, run.path)
    random_run("reward", "rl-other-reward", 3, base="rl-other-base")
    with pytest.raises(LabError, match="rl-other-reward.*was trained on the base 'rl-other-base'"):
        one_update(ppo_cfg, reward="rl-other-reward")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"reward": "rl-sft"}, "is a sft run, but a reward run is needed"),
        ({"policy": "nobody"}, "no run 'nobody'"),
        ({"max_response_tokens": 200}, "reads at most 160 tokens"),
        ({"prompts": "no-such-file.txt"}, "no-such-file.txt"),
    ],
)
def test_bad_settings(ppo_cfg, change, message):
    with pytest.raises(LabError, match=message):
        one_update(ppo_cfg, **change)


# wires that nothing else pulls at ---------------------------------------------------------------


def test_the_critics_adapter_starts_as_the_reward_models(scene):
    model = scene[0].model
    assert same(weights(model, "critic"), weights(model, "reward"))
    assert not same(weights(model, "critic"), weights(model, "policy"))


def test_a_step_is_seen_by_the_forward_passes(ppo_cfg, scene):
    """The merged weights of policy and critic follow each step, or the next minibatch would be
    measured with the policy of before.
    """
    players, batch, old = scene
    torch.nn.init.normal_(players.value_head.weight)
    ones = torch.ones_like(old.values)
    improved(players, batch, old, config.change(ppo_cfg, epochs=1), ones, ones)
    whole = batch.input_ids, batch.attention_mask
    with torch.no_grad():
        found, _ = ppo.token_logprobs(players.policy, (*whole, batch.response_mask), 2.0)
        hidden = players.critic.hidden_at(*whole, batch.response_mask.bool())
        with models.using(players.model, "critic"):
            by_hand = models.hidden_states(players.model, *whole)[batch.response_mask.bool()]
    assert torch.allclose(found, by_peft(players, "policy", batch, 2.0), atol=1e-3)
    assert not torch.allclose(found, old.logprobs, atol=1e-2)
    assert torch.allclose(hidden, by_hand, atol=1e-3 * by_hand.abs().max().item())


def test_ptx_is_the_weight_of_the_texts_gradient(ppo_cfg, scene):
    """With no advantage the text alone moves the policy: half the weight, half the way."""
    players, batch, old = scene
    start, moved = weights(players.model, "policy"), []
    trained = models.adapter_parameters(players.model, "policy")
    one_step = {"epochs": 1, "minibatch_size": 4, "max_grad_norm": 1e9, "learning_rate": 1.0}
    text = batch.input_ids, batch.attention_mask
    for ptx in (0.5, 1.0):
        for parameter, value in zip(trained, start, strict=True):
            parameter.data.copy_(value)
        players.refresh()
        cfg = config.change(ppo_cfg, ptx=ptx, **one_step)
        optimizer, zeros = optimizer_of(players, cfg, torch.optim.SGD), torch.zeros_like(old.values)
        ppo.improve(players, optimizer, batch, old, zeros, zeros, cfg, lambda n: text)
        moved.append(torch.cat([(p - q).flatten() for p, q in zip(trained, start)]).detach())
    half, whole = moved
    assert whole.norm() > 1e-2 and (2 * half - whole).norm() < 1e-2 * whole.norm()


def test_minibatches_are_drawn_anew_in_every_epoch(ppo_cfg, scene, monkeypatch):
    players, batch, old = scene
    seen, parts = [], batch.parts
    monkeypatch.setattr(
        batch, "parts", lambda rows, size: (seen.append(tuple(rows.tolist())), parts(rows, size))[1]
    )
    torch.manual_seed(0)
    improved(players, batch, old, config.change(ppo_cfg, minibatch_size=4, epochs=5))
    assert len(seen) == 5 and len(set(seen)) > 1


def test_a_part_counts_by_its_tokens(ppo_cfg, scene):
    """Responses of 8, 7, 5 and 2 tokens, one at a time or all at once: the same step."""
    players, batch, _ = scene
    for row, cut in enumerate((0, 1, 3, 6)):
        gone = batch.response_mask[row].nonzero().flatten()[8 - cut :]
        batch.response_mask[row, gone] = batch.attention_mask[row, gone] = 0
    old = ppo.measure(players, batch, ppo_cfg)
    torch.manual_seed(1)
    advantages, returns = torch.randn(2, *old.values.shape)
    trained = models.adapter_parameters(players.model, "policy")
    start, moved = weights(players.model, "policy"), []
    for size in (1, 4):
        for parameter, value in zip(trained, start, strict=True):
            parameter.data.copy_(value)
        players.refresh()
        cfg = config.change(ppo_cfg, epochs=1, micro_batch_size=size, max_grad_norm=1e9)
        players.passes = MicroBatch(cfg, players.model)
        (step,) = improved(players, batch, old, cfg, advantages, returns, torch.optim.SGD)
        change = torch.cat([(p - q).flatten() for p, q in zip(trained, start)]).detach()
        moved.append((step["policy_loss"], change))
    (loss_of_parts, of_parts), (loss, whole) = moved
    assert loss_of_parts == pytest.approx(loss, abs=1e-4)
    assert whole.norm() > 1e-3 and (of_parts - whole).norm() < 1e-2 * whole.norm()
