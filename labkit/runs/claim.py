"""Names of runs: which can be one, which is free, and who holds it."""

import contextlib
import re
import time

from filelock import FileLock, Timeout

from labkit import LabError
from labkit.runs.folder import PARTIAL, root

LOCKS = ".locks"  # a file for each name, which the process that trains under it holds


class Busy(LabError):
    """Another process trains under that name."""


def fit(name: str) -> bool:
    """Whether a run can be called so: nothing that is hidden or leads out of the runs folder."""
    return name[:1] != "." and re.sub("[-_.]", "", name).isalnum()


def _next_name(stage: str) -> str:
    taken = [
        int(p.name.rsplit("-", 1)[1])
        for p in root().glob(f"*{stage}-*")
        if p.name.rsplit("-", 1)[1].isdigit()
    ]
    return f"{stage}-{max(taken, default=0) + 1:03d}"


@contextlib.contextmanager
def claimed(name: str | None, stage: str):
    """The name, else the next free one, is ours inside the block: no other process, and no other
    thread, begins under it. One that dies lets go of it. Busy where another is at work; LabError
    where nothing can be written.
    """
    folder = root() / LOCKS
    while True:
        wanted = name or _next_name(stage)
        lock = FileLock(folder / wanted)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            if name:
                raise Busy(
                    f"Another process is training {name!r} right now. Choose another name, or stop"
                    " that process first."
                ) from None
            time.sleep(0.05)  # it is about to make its folder
            continue
        except OSError as error:
            raise LabError(
                f"The runs folder {root()} can't be written ({error.strerror or error}). Make room"
                " there, or set LABKIT_RUNS to a folder of yours."
            ) from error
        try:
            taken = (root() / wanted).exists() or (root() / (PARTIAL + wanted)).exists()
            if name or not taken:
                yield wanted
                return
        finally:
            lock.release()


def held(name: str) -> bool:
    """Whether a living process trains under the name, or may do so for all that can be seen."""
    try:
        with claimed(name, ""):
            return False
    except LabError:
        return True
