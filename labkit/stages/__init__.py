"""The stages of training, one file each: `train(cfg, run)`, its loop readable from top to bottom.

A stage never imports another one, and knows nothing of what is true: a judge comes in as a
function, `probe`.
"""

import math
from importlib import import_module

from labkit import LabError, runs


def train(
    stage: str, cfg, name: str | None = None, listen=None, aside: bool = False, **more
) -> runs.Run:
    """Train one stage into a run of its own; returns the whole run.

    name, aside: as runs.start takes them; listen: a function of the run → a listener to what it
    logs (charts.live); more: for the stage's own `train`.
    """
    with runs.start(stage, cfg, name, aside) as run:
        if listen:
            run.listeners.append(listen(run))
        module(stage).train(cfg, run, **more)
    return run


def module(stage: str):
    """The module of a stage, imported when it is needed: torch and TRL come with it."""
    return import_module(f"labkit.stages.{stage}")


def check_finite(step: int, value: float, settings: str = "learning_rate"):
    """LabError when `value`, a loss or the norm of a gradient at `step`, is NaN or infinite: from
    such weights nothing can be learned, and the run is not kept.
    """
    if not math.isfinite(value):
        raise LabError(
            f"The loss or its gradient is no longer a number (step {step}). Most often the learning"
            f" rate is too high: halve {settings}, and start the stage again."
        )
