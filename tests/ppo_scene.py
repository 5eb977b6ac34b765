"""The tiny scene of PPO's tests: a random SFT and reward run on the tiny base, and the players on
it.
"""

import torch

from labkit import config, models, runs
from labkit.stages import ppo

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


class Notes:
    """A run that is only written to."""

    name, info = "scene", {"config": {}}

    def note(self):
        self.noted = True


def players_of(cfg, judge=None):
    """The players as ppo.train seats them."""
    run = Notes()
    run.info = {"config": {}}
    return ppo.seat(cfg, run, judge)


def weights(model, name):
    return [parameter.detach().clone() for parameter in models.adapter_parameters(model, name)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def optimizer_of(players, cfg, kind=torch.optim.Adam):
    policy, critic = players.trained()
    rates = cfg.learning_rate, cfg.critic_learning_rate
    return kind([{"params": p, "lr": rate} for p, rate in zip((policy, critic), rates)])


def one_update(cfg, judge=None, probe=None, name=None, **values):
    """A whole run of PPO, of one update unless told otherwise."""
    changed = config.change(cfg, **{"updates": 1, **values})
    with runs.start("ppo", changed, name) as run:
        ppo.train(changed, run, judge, probe)
    return run
