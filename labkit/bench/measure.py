"""What the benches share: a clock that waits for the GPU, the machine's rates, and how seconds are
read off a curve.
"""

import sys
import time
from statistics import median

import torch

from labkit import runs


def clock() -> float:
    """Seconds, when all that was asked of the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work, times: int = 1) -> list[float]:
    """How long each of `times` calls of work() took."""
    found = []
    for _ in range(times):
        started = clock()
        work()
        found.append(clock() - started)
    return found


def matmul_rate(size: int = 2048, repeats: int = 7) -> float:
    """The fp32 matrix-product rate of this machine in FLOP/s: the median over products of two size²
    matrices. The first one allocates and is not counted.
    """
    a, b = torch.randn(2, size, size, device=runs.device())
    return 2 * size**3 / median(seconds(lambda: a @ b, 1 + repeats)[1:])


def copy_rate(size: int = 1 << 30, repeats: int = 7) -> float:
    """Bytes per second that copies of `size` bytes on the device read and write, the median."""
    source = torch.zeros(size, dtype=torch.uint8, device=runs.device())
    target = torch.empty_like(source)
    return 2 * size / median(seconds(lambda: target.copy_(source), 1 + repeats)[1:])


def reached(curve: list[dict], level: float, key: str, rising: bool = False) -> dict | None:
    """The point where a curve's `key` first comes down (rising: up) to `level`, on the straight
    line between two measurements; None if never.
    """
    for i, point in enumerate(curve):
        if point[key] >= level if rising else point[key] <= level:
            last = curve[max(0, i - 1)]
            step = point[key] - last[key]
            share = (level - last[key]) / step if step else 1.0
            return {one: last[one] + share * (point[one] - last[one]) for one in point}
    return None


def machine() -> dict:
    """What a figure depends on beside the code: device, threads, versions."""
    return {
        "device": runs.device().type,
        "threads": torch.get_num_threads(),
        "versions": runs.versions(),
    }


def warn_if_busy(rates: list[float]):
    """Say so where the matrix rates that were measured on the way differ by more than half."""
    if max(rates) > 1.5 * min(rates):
        say(
            "The matrix rate changed by more than half meanwhile: something else was at work here."
            " Measure again when it is done."
        )


def say(text: str):
    """Progress, on standard error."""
    print(text, file=sys.stderr)
