"""A run is a folder: settings, metrics and weights of one stage, whole or not there at all.

    with runs.start("sft", cfg) as run:      # runs/.partial-sft-001
        run.log(step=1, loss=2.3)            # → metrics.jsonl
        run.finish(accuracy=0.91)            # → run.json; the block's end renames it runs/sft-001

A run that was interrupted keeps its hidden folder for a look, and nothing ever takes it for a
whole one. `resume` goes on from its checkpoint, `clean` deletes it. run.json holds a checksum of
every file and of itself: a byte that flipped is noticed where the file is read.
"""

from labkit.config import STAGES
from labkit.runs.claim import LOCKS
from labkit.runs.folder import (
    BEFORE,
    CHECKPOINT,
    KEPT,
    PARTIAL,
    Run,
    checkpoints,
    data_folder,
    digest,
    root,
    sha256,
)
from labkit.runs.leftovers import clean, unfinished
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
from labkit.runs.work import interruptible, resume, start

__all__ = [
    "BEFORE",
    "CHECKPOINT",
    "KEPT",
    "LOCKS",
    "Missing",
    "PARTIAL",
    "POLICIES",
    "Run",
    "STAGES",
    "checkpoints",
    "clean",
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
    "sha256",
    "shipped",
    "start",
    "training",
    "unfinished",
    "versions",
]
