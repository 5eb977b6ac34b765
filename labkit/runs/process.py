"""The process at work: its device, its memory, its seeds, the versions of what it runs on."""

import contextlib
import random
import re
from importlib import metadata
from pathlib import Path

from labkit import __version__, ranks


def device():
    """The torch device for training: CUDA where there is a GPU, else the CPU. Of several processes
    each has its own card.
    """
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", ranks.local()) if ranks.world() > 1 else torch.device("cuda")
    return torch.device("cpu")


def memory() -> tuple[int, int]:
    """(now, peak) bytes: on CUDA what torch allocated, else the process's resident memory, both
    since the program's start or the last `forget_peak`.

    ru_maxrss, where there is no /proc, counts from the process's start and may carry over the
    parent's; it stands for both there.
    """
    if device().type == "cuda":
        import torch

        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text("utf8")
    except OSError:  # macOS, which counts bytes
        try:
            import resource
        except ImportError:  # Windows
            return 0, 0
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,) * 2
    kilobytes = (re.search(rf"{key}:\s+(\d+)", status)[1] for key in ("VmRSS", "VmHWM"))
    return tuple(1024 * int(found) for found in kilobytes)


def forget_peak():
    """Let the peak of `memory` begin at what is in use now; nothing happens where the system keeps
    no such mark (macOS), or lets nobody move it.
    """
    if device().type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM


def seed_everything(seed: int):
    """Seed Python, NumPy and torch."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def versions() -> dict:
    """Versions of labkit and of the libraries that decide a run's numbers."""
    names = ("torch", "transformers", "trl", "peft", "bitsandbytes", "tokenizers")
    return {"labkit": __version__, **{name: metadata.version(name) for name in names}}
