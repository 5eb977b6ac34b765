"""Several processes train as one would: here 2 and 4 on the CPU, by gloo."""

import functools
import os
import signal
from dataclasses import fields, replace

import pytest
import torch
from many import several
from ppo_scene import one_update, players_of, same, weights

from labkit import LabError, config, data, models, ranks, runs
from labkit.stages import ppo
from labkit.stages.ppo_players import Players

EIGHT = [f"What is the capital of {name}?" for name in "Japan Italy France Peru Cuba".split()] + [
    "Gold?",
    "台灣最高的山是哪座？",
    "Who?",
]


@pytest.fixture(scope="module")
def given(ppo_cfg, tmp_path_factory):
    """(settings, a file with one rollout of all eight prompts): a batch that is not sampled."""
    folder = tmp_path_factory.mktemp("ranks")
    prompts = data.save_jsonl([{"prompt": one} for one in EIGHT], folder / "prompts.jsonl")
    cfg = config.change(
        ppo_cfg,
        prompts=str(prompts),
        normalize_rewards=1,
        target_kl=0.5,
        kl_horizon=100,
        ptx=0.5,
        micro_batch_size=1,
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
    )
    torch.manual_seed(5)
    players = players_of(cfg)
    whole = players.sample(EIGHT, cfg)
    whole.logprobs = whole.values = None  # each process makes them of its rows
    torch.save(whole, folder / "rollout.pt")
    return cfg, folder / "rollout.pt"


def rows_of(rollout, rows: list[int]):
    """Some rows of a rollout, as if they had been sampled alone."""
    length = int(rollout.attention_mask[rows].sum(1).max())
    cut = {
        f.name: [value[i] for i in rows]
        if isinstance(value, list)
        else value[rows]
        if value.dim() == 1
        else value[rows, :length]
        for f in fields(rollout)
        if (value := getattr(rollout, f.name)) is not None
    }
    return replace(rollout, **cut)


TEXTS = torch.randint(5, 300, (4, 12), generator=torch.Generator().manual_seed(1))
TEXTS_MASK = (torch.arange(12) < torch.tensor([[12], [4], [9], [3]])).long()


def training(cfg, file, name):
    """A run of PPO on the rollout in `file`; (gradients of the first step, the policy's weights)."""
    whole, kept, add = torch.load(file, weights_only=False), {}, ranks.add_gradients

    def seen(parameters):
        parameters = list(parameters)
        add(parameters)
        kept.setdefault("gradients", [p.grad.clone().numpy() for p in parameters])

    def sample(self, prompts, cfg):
        kept["players"] = self
        return rows_of(whole, [whole.prompts.index(prompt) for prompt in prompts])

    def text(n):
        mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
        return TEXTS[mine], TEXTS_MASK[mine]

    Players.sample, ranks.add_gradients = sample, seen
    ppo.text_rows = lambda *_: text
    ppo.watched = lambda *_: {}
    torch.randperm = lambda n: torch.arange(n).flip(0)
    with runs.start("ppo", cfg, name) as run:
        ppo.train(cfg, run)
    assert run.path.name == name
    return kept["gradients"], [w.numpy() for w in weights(kept["players"].model, "policy")]


@functools.cache
def alone(cfg_json, file):
    cfg = config.Ppo(**dict(cfg_json))
    (found,) = several(1, training, cfg, file, "rank-alone")
    return found, runs.load("rank-alone").metrics()


@pytest.mark.parametrize("world", [2, 4])
def test_the_same_batch_gives_the_same_steps(given, world):
    cfg, file = given
    (gradients, policy), lines = alone(tuple(vars(cfg).items()), file)
    found = several(world, training, cfg, file, f"rank-{world}")
    together = runs.load(f"rank-{world}").metrics()
    assert len(together) == len(lines) == 2
    for ours, theirs in zip(together, lines, strict=True):
        assert ours.keys() == theirs.keys() and "ptx_loss" in ours
        for key, value in theirs.items():
            assert ours[key] == (
                pytest.approx(value, rel=1e-5, abs=1e-5) if isinstance(value, float) else value
            ), key
    for theirs, weights_there in found:
        for one, other in zip(gradients, theirs, strict=True):
            assert abs(one - other).max() < 1e-5
        for one, other in zip(policy, weights_there, strict=True):
            assert abs(one - other).max() < 1e-4
    assert all((a == b).all() for a, b in zip(found[0][1], found[-1][1], strict=True))
