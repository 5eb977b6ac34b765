"""The stages of training, one file each: `train(cfg, run)`, its loop readable from top to bottom.

A stage never imports another one, and knows nothing of what is true: a judge comes in as a
function, `probe`.
"""

from importlib import import_module

from labkit import runs


def train(stage: str, cfg, name: str | None = None, listen=None, **more) -> runs.Run:
    """Train one stage into a run of its own; returns the whole run.

    listen: a function of the run → a listener to what it logs (charts.live); more: for the stage's
    own `train`.
    """
    with runs.start(stage, cfg, name) as run:
        if listen:
            run.listeners.append(listen(run))
        module(stage).train(cfg, run, **more)
    return run


def module(stage: str):
    """The module of a stage, imported when it is needed: torch and TRL come with it."""
    return import_module(f"labkit.stages.{stage}")
