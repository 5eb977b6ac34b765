"""Several processes that train one model together, as torchrun and `accelerate launch` start them:

    torchrun --nproc-per-node 2 -m labkit train ppo --config ppo.yaml

Each holds the whole model on a card of its own (rank r of `world()`) and takes its part of every
batch; gradients are added up, so all take the same steps. Rank 0 alone writes and prints. A process
by itself is rank 0 of 1, and every function here then gives back what it got.
"""

import contextlib
import datetime
import os
import random
import signal
import sys
import threading
from dataclasses import fields

from labkit import LabError

# The others wait while rank 0 samples pairs; that a process has died is noticed without it.
PATIENCE = datetime.timedelta(hours=6)


def rank() -> int:
    """Which of the processes this is, from 0."""
    return int(os.environ.get("RANK", 0)) if world() > 1 else 0


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local() -> int:
    """Which of this machine's cards is this process's."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world() > 1 else 0


def main() -> bool:
    """Whether this process writes."""
    return rank() == 0


def say_cards(stage: str):
    """A line on standard error where a process by itself sees more cards than the one it uses."""
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if world() == 1 and seen > 1:
        print(
            f"{seen} CUDA cards are here and one is used. To train on all of them: torchrun"
            f" --nproc-per-node {seen} -m labkit train {stage.replace('_', '-')}",
            file=sys.stderr,
        )


def _dist():
    """torch.distributed, joined at the first call: what lies on a CPU goes by gloo, which notices
    at once when a process has died, what lies on a card by nccl.
    """
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise LabError(
                "labkit shares batches among processes, not a model's weights (FSDP). Start it with"
                " torchrun, or choose multi-GPU without FSDP in `accelerate config`."
            )
        if torch.cuda.is_available():
            torch.cuda.set_device(local())
        distributed.init_process_group(timeout=PATIENCE)
    return distributed


# --- each process's part -------------------------------------------------------------------------


def share(n: int, what: str) -> int:
    """How many of n fall to each process; LabError where n can't be divided."""
    if n % world():
        raise LabError(
            f"{what} is {n}, which {world()} processes can't share alike. Set {what} to a multiple"
            f" of {world()}, or start another number of processes."
        )
    return n // world()


def own(rows):
    """This process's part of `rows`, a list or a tensor that all of them can share."""
    size = len(rows) // world()
    return rows[rank() * size : (rank() + 1) * size]


def reseed(*parts):
    """Other random numbers in every process, from `parts` such as (seed, update) and its rank. One
    by itself goes on with those it has.
    """
    import torch

    if world() > 1:
        torch.manual_seed(random.Random(repr((*parts, rank()))).getrandbits(63))


# --- what all of them know -----------------------------------------------------------------------


def first(work, *args):
    """work(*args), done by rank 0 alone: what it returns, and a LabError, is every process's."""
    if world() == 1:
        return work(*args)
    found = [None]
    if main():
        try:
            found = [work(*args)]
        except LabError as error:
            found = [error]
    _dist().broadcast_object_list(found, 0)
    if isinstance(found[0], LabError):
        raise found[0]
    return found[0]


def gathered(some: list) -> list:
    """The lists of all processes as one, in their order; tensors in it come to the CPU."""
    if world() == 1:
        return some
    from accelerate.utils import send_to_device

    every = [None] * world()
    _dist().all_gather_object(every, send_to_device(some, "cpu"))
    return sum(every, [])


def joined(record):
    """`record`, a dataclass of b rows, with the rows of every process: lists and tensors (b, …) one
    after the other, tensors (b, t) as wide as the widest (zeros at the end). Of numbers the largest
    holds.
    """
    if world() == 1:
        return record
    import torch
    from torch.nn.functional import pad

    def one(parts):
        if isinstance(parts[0], list):
            return sum(parts, [])
        if not isinstance(parts[0], torch.Tensor):
            return None if parts[0] is None else max(parts)
        width = max(part.shape[-1] for part in parts)
        return torch.cat([pad(x, (0, width - x.shape[1])) if x.dim() > 1 else x for x in parts])

    names = [f.name for f in fields(record)]
    every = gathered([{name: getattr(record, name) for name in names}])
    whole = {name: one([part[name] for part in every]) for name in names}
    for name, value in whole.items():
        if isinstance(value, torch.Tensor):
            whole[name] = value.to(getattr(record, name).device)
    return type(record)(**whole)


def total(x):
    """The sum of the processes' tensors x."""
    if world() == 1:
        return x
    x = x.clone()
    _dist().all_reduce(x)
    return x


def most(x: float) -> float:
    """The largest of the processes' numbers."""
    return max(gathered([x]))


def add_gradients(parameters):
    """Every gradient becomes the sum of the processes' own: parts that were weighted by their share
    of the batch then have the gradient of the whole batch. All must have gradients alike.

    A wrapper such as DistributedDataParallel would do it for what goes through its `forward`, which
    hidden states that are read on their way do not.
    """
    if world() == 1:
        return
    import torch

    grads = [p.grad for p in parameters if p.grad is not None]
    flat = total(torch.cat([grad.flatten() for grad in grads]))
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def wait():
    """Until every process is here."""
    gathered([])


# --- when one of them ends -----------------------------------------------------------------------


class Ended(RuntimeError):
    """The launcher asks this process to end, most often since another one has."""


@contextlib.contextmanager
def told_to_end():
    """Inside the block the launcher's SIGTERM raises Ended, so that the run says how to go on."""

    def end(number, frame):
        raise Ended("the launcher ended it")

    if world() == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lost(error: BaseException) -> bool:
    """Whether `error` says that another process is gone."""
    said = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "NCCL")
    return isinstance(error, Ended) or (
        world() > 1 and isinstance(error, RuntimeError) and any(one in str(error) for one in said)
    )
