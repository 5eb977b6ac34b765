"""The first cell of every notebook: the profile, the device, and whose models it will use."""

import warnings

from labkit import config, runs


def setup(seed: int = 0) -> config.Profile:
    """Seed everything, say where things stand, and return the profile (LABKIT_PROFILE, or tiny)."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    profile = config.profile()
    runs.seed_everything(seed)
    print(f"profile {profile.name} on {runs.device()}; your runs go to {runs.root()}")
    return profile


def using(stage: str, name: str = "") -> runs.Run:
    """The run that a notebook goes on with (see runs.latest), after saying which it is."""
    run = runs.latest(stage, name)
    whose = "the checkpoint that came with the project" if run.shipped else f"your run {run.name}"
    print(f"{stage}: {whose}")
    return run
