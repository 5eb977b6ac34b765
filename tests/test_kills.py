"""kill -9 at any moment of any stage, and go on: what comes out is what an undisturbed run leaves.

Two moments a stage; with LABKIT_SLOW=1 twenty, and standard output tells what became of them.
"""

import functools
import math
import os
import random
import time
from collections import Counter

import pytest
import resume_scene as scene
from many import several

from labkit import LabError, runs

SLOW = bool(os.environ.get("LABKIT_SLOW"))
MOMENTS = 20 if SLOW else 2


@pytest.fixture(scope="module")
def settings(ppo_cfg, tmp_path_factory):
    return scene.settings(tmp_path_factory.mktemp("kills"), ppo_cfg)


def killed_at(stage, cfg, name, moments) -> Counter:
    """Train, killed at each of the moments (seconds) in turn, until nothing kills it any more."""
    seen = Counter()
    for moment in [*moments, math.inf]:
        (answer,) = several(1, scene.trained, stage, cfg, name, moment)
        assert answer in (None, True, False), answer
        seen["killed"] += answer is None
        whole = (runs.root() / name / "run.json").exists()
        seen["gone on"] += bool(answer)
        if whole:
            return seen
        hidden = runs.root() / (runs.PARTIAL + name)
        seen["with a checkpoint"] += bool(runs.checkpoints(hidden))
        with pytest.raises(LabError, match="There is no run"):
            runs.load(name)
    return seen


@pytest.mark.parametrize("stage", scene.STAGES)
def test_killed_at_random_and_gone_on_with(stage, settings, capsys):
    cfg, rng = settings[stage], random.Random(f"kill {stage}")
    begun = time.monotonic()
    assert several(1, scene.trained, stage, cfg, f"kill-{stage}-whole") == [False]
    took = time.monotonic() - begun
    wanted, seen = scene.outcome(f"kill-{stage}-whole"), Counter()
    for i in range(MOMENTS):
        name = f"kill-{stage}-{i}"
        moments = [rng.uniform(0, took) for _ in range(1 + i % 2)]
        seen += killed_at(stage, cfg, name, moments)
        assert scene.outcome(name) == wanted, name
    if SLOW:
        with capsys.disabled():
            print(f"\n{stage}: {MOMENTS} runs equal to the undisturbed one; {dict(seen)}")


@pytest.mark.parametrize(
    "stage, at, large", [("sft", 20, 0), ("sft", 20, None), ("pretrain", 11, None)]
)
def test_the_rows_of_an_epoch_come_in_their_order_again(settings, stage, at, large):
    """Killed within a later epoch. Our own loop, and a large base, whose batches hold rows of like
    length, draw its order from torch's random numbers.
    """
    work = functools.partial(scene.trained, stage, settings[stage], large=large)
    name = f"kill-order-{stage}-{large}"
    assert several(1, work, f"{name}-whole") == [False]
    assert several(1, work, name, math.inf, at) == [None]
    assert several(1, work, name) == [True]
    assert scene.outcome(name) == scene.outcome(f"{name}-whole")


def test_two_processes_go_on(settings):
    work = functools.partial(scene.trained, "sft", settings["sft"])
    assert several(2, work, "kill-two-whole") == [False, False]
    first, other = several(2, work, "kill-two", math.inf, 10)
    assert first is None and isinstance(other, LabError) and "--resume kill-two" in str(other)
    assert several(2, work, "kill-two") == [True, True]
    assert scene.outcome("kill-two") == scene.outcome("kill-two-whole")
