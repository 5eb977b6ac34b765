"""The first cell of every notebook: the profile, the device, and whose models it will use."""

import os
import sys
import warnings

from labkit import LabError, config, runs, tracebacks

SMALL_RUNS = {
    "sft": ("02_instruction_tuning", "--examples 400", 4),
    "reward": ("06_reward_model", "--examples 80", 14),
    "ppo": ("07_ppo", "--updates 4 --batch-size 16 --minibatch-size 16", 4),
    "dpo": ("09_dpo", "--examples 80", 5),
    "kto": ("10_kto", "--examples 80 --batch-size 16", 5),
    "ai_feedback": ("11_ai_feedback", "--examples 80 --labels 80", 20),
}
"""Of each stage: the notebook that trains it, the options of a small run, and its minutes with
SmolLM2-135M on two CPU cores, from runs about as small; KTO's and AI feedback's are guessed from
DPO's and the reward model's.
"""


def setup(seed: int = 0, profile: str = "") -> config.Profile:
    """Seed everything, say where things stand, and return the profile: the one named here, for the
    whole notebook, else the one that suits the machine (see config.chosen).
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if "google.colab" in sys.modules:  # Colab shows no widget that it did not bring unless told to
        from google.colab import output

        output.enable_custom_widget_manager()
    if profile:
        os.environ["LABKIT_PROFILE"] = profile
    asked, (name, why) = "LABKIT_PROFILE" in os.environ, config.chosen()
    settings = config.profile(name)
    runs.seed_everything(seed)
    tracebacks.readable()
    how = "" if asked or name == "tiny" else f' ({why}; else say setup(profile="tiny"))'
    print(f"profile {name} on {runs.device()}{how}; your runs go to {runs.root()}")
    return settings


def using(stage: str, name: str = "") -> runs.Run:
    """The run that a notebook goes on with (see runs.latest), after saying which it is: one on the
    base of the profile, on which alone it can be loaded.

    Where there is none, LabError says what to train first, how long a small run of it takes, and
    which notebook does so.
    """
    if name or stage == "pretrain":
        run = runs.latest(stage, name)
    else:
        try:
            run = runs.latest(stage, base=home(config.profile()))
        except runs.Missing as error:
            raise LabError(f"{error}{offer(stage)}") from None
    whose = "the checkpoint that came with the project" if run.shipped else f"your run {run.name}"
    print(f"{stage}: {whose}")
    return run


def finished(*names: str) -> dict[str, runs.Run]:
    """{name: run} of stages that can be compared, after saying whose they are: on the base of the
    profile where it has a run of each, else those that came with the project.
    """
    stages = {name: name.lower() for name in names}
    base = home(config.profile())
    try:
        found = {name: runs.latest(stage, base=base).name for name, stage in stages.items()}
    except runs.Missing:
        found = {name: f"shipped/{stage}" for name, stage in stages.items()}
    return {name: using(stage, found[name]) for name, stage in stages.items()}


def home(profile: config.Profile) -> str:
    """The fingerprint of the base that the notebooks stand on: the profile's, or where it makes its
    own, that of the newest SFT run on such a one.
    """
    from labkit import models
    from labkit.series import makes_own

    if profile.sft.base:
        return models.base_id(profile.sft.base)
    for run in filter(None, (*runs.series()[::-1], runs.shipped("sft"))):
        base = run.info.get("base", {})
        if run.stage == "sft" and makes_own(base.get("name", "")):
            return base.get("fingerprint", "")
    return ""


def offer(stage: str) -> str:
    """How to go on without a run of this stage."""
    lab, options, minutes = SMALL_RUNS[stage]
    return (
        f" A small one: add {options} (about {minutes} minutes with SmolLM2-135M on two CPU cores,"
        f" one or two with the tiny base). Notebook {lab} trains it too; with LABKIT_PROFILE=tiny"
        " all notebooks have what they need."
    )
