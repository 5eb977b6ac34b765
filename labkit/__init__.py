"""RLHF Labs: make a language model in three stages, and feel each one.

`import labkit` loads nothing heavy; the rooms read in the order of the story (see README).
"""

import os
from importlib import import_module

# Before torch is imported: how long a thread that waits goes on spinning before it sleeps (GCC's
# OpenMP, which torch uses on Linux). On two cores, spinning on (its default, 300,000) made two
# trainings at once 8 times slower; sleeping at once made a single one 2 to 7 times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# TRL's trainers tell the Hub that they were used; nothing here reports what a learner does.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"

# `from labkit import ppo` finds what notebooks use without their knowing the room it lives in.
ROOMS = {
    "data": ("chat",),
    "atlas": ("symptoms",),
    "maths": ("logprobs", "losses"),
    "rollout": ("judging",),
    "stages": ("pretrain", "sft", "reward", "ppo", "dpo", "kto", "ai_feedback"),
    "feedback": ("agreement", "panels"),
    "labs": (
        "form",
        "helpful_or_safe",
        "judges",
        "next_pair",
        "overoptimization",
        "poems",
        "thumbs",
        "wrong_judges",
    ),
}


def __getattr__(name):
    for room, modules in ROOMS.items():
        if name in modules:
            return import_module(f"labkit.{room}.{name}")
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")


class LabError(Exception):
    """Something a learner can mend. The message says what happened and what to do; of a long one,
    which quotes a file or a setting, the beginning and the end stay.

    Jupyter shows the message alone (IPython asks an exception for `_render_traceback_`), and the
    command line prints it as one line.
    """

    def __init__(self, message: str = ""):
        long = len(message) > 2_500
        super().__init__(f"{message[:2_000]} […] {message[-400:]}" if long else message)

    def _render_traceback_(self):
        return [f"LabError: {self}"]
