"""A run is a folder: settings, metrics and weights of one stage, whole or not there at all.

    with runs.start("sft", cfg) as run:      # runs/.partial-sft-001
        run.log(step=1, loss=2.3)            # → metrics.jsonl
        run.finish(accuracy=0.91)            # → run.json; the block's end renames it runs/sft-001

A run that was interrupted keeps its hidden folder for a look, and nothing ever takes it for a
whole one.
"""

from labkit.config import STAGES
from labkit.runs.folder import CHECKPOINT, PARTIAL, Run, data_folder, digest, root
from labkit.runs.process import device, forget_peak, memory, seed_everything, versions
from labkit.runs.shelf import (
    POLICIES,
    Missing,
    elsewhere,
    latest,
    listing,
    load,
    policy,
    series,
    shipped,
    training,
)
from labkit.runs.work import LOCKS, interruptible, resume, start

__all__ = [
    "CHECKPOINT",
    "LOCKS",
    "Missing",
    "PARTIAL",
    "POLICIES",
    "Run",
    "STAGES",
    "data_folder",
    "device",
    "digest",
    "elsewhere",
    "forget_peak",
    "interruptible",
    "latest",
    "listing",
    "load",
    "memory",
    "policy",
    "resume",
    "root",
    "seed_everything",
    "series",
    "shipped",
    "start",
    "training",
    "versions",
]
