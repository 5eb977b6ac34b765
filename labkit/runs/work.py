"""A run at work: started or gone on with under a name that this process alone holds, and whole at
its end or not there at all.
"""

import contextlib
import re
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict

from filelock import FileLock, Timeout

from labkit import LabError, ranks
from labkit.config import change
from labkit.reporting import Reporting
from labkit.runs.folder import CHECKPOINT, PARTIAL, Run, root
from labkit.runs.process import device, forget_peak, memory, seed_everything, versions
from labkit.runs.shelf import read

LOCKS = ".locks"  # a file for each name, which the process that trains under it holds


def _next_name(stage: str) -> str:
    taken = [
        int(p.name.rsplit("-", 1)[1])
        for p in root().glob(f"*{stage}-*")
        if p.name.rsplit("-", 1)[1].isdigit()
    ]
    return f"{stage}-{max(taken, default=0) + 1:03d}"


@contextlib.contextmanager
def _claimed(name: str | None, stage: str):
    """The name, else the next free one, is ours inside the block: no other process, and no other
    thread, begins under it. One that dies lets go of it. LabError where another is at work.
    """
    folder = root() / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        wanted = name or _next_name(stage)
        lock = FileLock(folder / wanted)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if name:
                raise LabError(
                    f"Another process is training {name!r} right now. Choose another name, or stop"
                    " that process first."
                ) from None
            time.sleep(0.05)  # it is about to make its folder
            continue
        try:
            taken = (root() / wanted).exists() or (root() / (PARTIAL + wanted)).exists()
            if name or not taken:
                yield wanted
                return
        finally:
            lock.release()


@contextlib.contextmanager
def start(stage: str, cfg, name: str | None = None, aside: bool = False):
    """Begin a run: yields a Run in a hidden folder that gets its real name only when the block ends
    well.

    Args: stage, one of STAGES; cfg, the stage's dataclass; name, else the next free `stage-NNN`;
    aside, an experiment beside the series: no later stage goes on from it unless it is named.
    Raises LabError when the name is taken or unfit, another process trains under it, or the disk is
    full.
    """
    with contextlib.ExitStack() as held:
        run = ranks.first(_fresh, stage, cfg, name, aside, held)
        with _at_work(run):
            run.note()
            seed_everything(cfg.seed)
            yield run


def _fresh(stage: str, cfg, name: str | None, aside: bool, held) -> Run:
    """A Run whose hidden folder is free; its name is `held`."""
    if name and (name[0] == "." or not re.sub("[-_.]", "", name).isalnum()):
        raise LabError(f"{name!r} can't be a run's name: use letters, digits, '-', '_' and '.'.")
    name = held.enter_context(_claimed(name, stage))
    final, partial = root() / name, root() / (PARTIAL + name)
    if final.exists():
        raise LabError(
            f"There is a run {name!r} already in {root()}. Choose another name, or delete that"
            " folder."
        )
    if (partial / CHECKPOINT).exists():
        raise LabError(
            f"There is an unfinished run {name!r} with a checkpoint. Go on with it"
            f" (runs.resume({name!r})), choose another name, or delete {partial}."
        )
    info = {"stage": stage, "name": name, "config": asdict(cfg), "versions": versions()}
    run = Run(partial, stage, name, info | ({"aside": True} if aside else {}))
    shutil.rmtree(partial, ignore_errors=True)
    return run


@contextlib.contextmanager
def resume(name: str, **changes):
    """Go on with a run that stopped on the way: yields its Run, back in a hidden folder;
    `run.config` holds its settings.

    changes: settings to replace, such as a lower learning_rate. Raises LabError when there is
    nothing to go on from.
    """
    with contextlib.ExitStack() as held:
        run, was_whole = ranks.first(_again, name, changes, held)
        try:
            with _at_work(run):
                yield run
        except BaseException:
            # Refused before it did anything: whole, as it was.
            if was_whole and not run.touched and ranks.main():
                run.path = run.path.rename(root() / name)
            raise


def _again(name: str, changes: dict, held) -> tuple[Run, bool]:
    """(the Run, in a hidden folder; whether it was a whole one); its name is `held`."""
    final, partial = root() / name, root() / (PARTIAL + name)
    folder = next((f for f in (partial, final) if (f / CHECKPOINT).exists()), None)
    if folder is None:
        whole = (final / "run.json").exists()
        raise LabError(
            f"The run {name!r} is whole: there is nothing to go on from. Start a new one."
            if whole
            else (
                f"There is no unfinished run {name!r} with a checkpoint in {root()}. Start the"
                " stage again."
            )
        )
    held.enter_context(_claimed(name, ""))
    run = read(folder)
    run.info["config"] = asdict(change(run.config, **changes))
    if folder == final:
        final.rename(partial)
    run.path = partial
    return run, folder == final


@contextlib.contextmanager
def _at_work(run: Run):
    """The block does the work; what it leaves in run.path becomes whole, or is said to be
    unfinished.
    """
    partial, started, before = run.path, time.time(), run.info.get("seconds", 0.0)
    try:
        if ranks.main():
            partial.mkdir(parents=True, exist_ok=True)
            if run.info["config"].get("report_to", "none") != "none":
                run.listeners.append(Reporting(run, run.info["config"]["report_to"], device()))
        forget_peak()
        ranks.say_cards(run.stage)
        with ranks.told_to_end():
            yield
        run.info["peak_bytes"] = max(run.info.get("peak_bytes", 0), memory()[1])
        run.info["seconds"] = round(before + time.time() - started, 1)
        if ranks.main():
            run.note()
            partial.rename(root() / run.name)
        ranks.wait()
        run.path = root() / run.name
    except (Exception, KeyboardInterrupt) as error:
        if ranks.lost(error) or isinstance(error, KeyboardInterrupt):
            onward = (
                f"go on from its last checkpoint with runs.resume({run.name!r}) or: python -m"
                f" labkit train {run.stage} --resume {run.name}"
                if (partial / CHECKPOINT).exists()
                else "start the stage again to get a whole one"
            )
            why = f"Another process of this training ended, so this one stops, too ({error})"
            raise LabError(
                f"{why if ranks.lost(error) else 'Stopped'}. The unfinished run stays in {partial}"
                f" for a look; {onward}."
            ) from None
        if _disk_full(error):
            raise LabError(
                f"The disk is full, so the run {run.name!r} was not saved. Free some space under"
                f" {root()} and start the stage again; earlier runs are untouched."
            ) from error
        raise
    finally:
        for listener in run.listeners:
            if hasattr(listener, "finish"):
                listener.finish()


def _disk_full(error: Exception) -> bool:
    return getattr(error, "errno", None) == 28 or "os error 28" in str(
        error
    )  # safetensors raises its own type


@contextlib.contextmanager
def interruptible():
    """Inside the block the first Ctrl-C (or Interrupt Kernel) only asks: the yielded Event is set,
    and the loop stops where it is whole. The second one stops at once. Outside the main thread
    nothing changes.
    """
    asked = threading.Event()

    def ask(number, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print("Stopping after this update; interrupt again to stop at once.", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
