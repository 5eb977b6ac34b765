"""A run at work: started or gone on with under a name that this process alone holds, and whole at
its end or not there at all.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
from dataclasses import asdict

from labkit import LabError, ranks
from labkit.config import change
from labkit.reporting import Reporting
from labkit.runs.claim import claimed, fit
from labkit.runs.folder import KEPT, PARTIAL, Run, checkpoints, root
from labkit.runs.process import device, forget_peak, memory, seed_everything, versions
from labkit.runs.shelf import read

# Settings that may change while a stage is under way; PPO takes any.
ON_THE_WAY = ("learning_rate", "muon_learning_rate", "gradient_checkpointing", "report_to")


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
    if name and not fit(name):
        raise LabError(f"{name!r} can't be a run's name: use letters, digits, '-', '_' and '.'.")
    name = held.enter_context(claimed(name, stage))
    final, partial = root() / name, root() / (PARTIAL + name)
    if final.exists():
        raise LabError(
            f"There is a run {name!r} already in {root()}. Choose another name, or delete that"
            " folder."
        )
    if partial.is_symlink():
        raise LabError(f"{partial} is a link, which no run is. Delete it, or choose another name.")
    if checkpoints(partial):
        raise LabError(
            f"There is an unfinished run {name!r} with a checkpoint. Go on with it"
            f" (runs.resume({name!r})), choose another name, or delete {partial}."
        )
    info = {"stage": stage, "name": name, "config": asdict(cfg), "versions": versions()}
    run = Run(partial, stage, name, info | ({"aside": True} if aside else {}))
    shutil.rmtree(partial, ignore_errors=True)
    return run


@contextlib.contextmanager
def resume(name: str, stage: str = "", **changes):
    """Go on with a run that stopped on the way: yields its Run, back in a hidden folder;
    `run.config` holds its settings.

    stage: the one that it must be of. changes: settings to replace, such as a lower learning_rate.
    Raises LabError when there is nothing to go on from, or what was learned so far would no longer
    fit a changed setting.
    """
    with contextlib.ExitStack() as held:
        run, was_whole = ranks.first(_again, name, stage, changes, held)
        try:
            with _at_work(run):
                seed_everything(run.config.seed)
                yield run
        except BaseException:
            # Refused before it did anything: whole, as it was.
            if was_whole and not run.touched and ranks.main():
                run.path = run.path.rename(root() / name)
            raise


def _again(name: str, stage: str, changes: dict, held) -> tuple[Run, bool]:
    """(the Run, in a hidden folder; whether it was a whole one); its name is `held`."""
    final, partial = root() / name, root() / (PARTIAL + name)
    folder = next((f for f in (partial, final) if fit(name) and checkpoints(f)), None)
    if folder is None:
        whole = fit(name) and (final / "run.json").exists()
        raise LabError(
            f"The run {name!r} is whole: there is nothing to go on from. Start a new one."
            if whole
            else (
                f"There is no unfinished run {name!r} with a checkpoint in {root()}. Start the"
                " stage again."
            )
        )
    held.enter_context(claimed(name, ""))
    run = read(folder)
    if stage not in ("", run.stage):
        raise LabError(f"{name!r} is a {run.stage} run. Go on with it: {_command(run)}")
    changed = change(run.config, **changes)
    bound = [
        key
        for key in changes
        if getattr(changed, key) != getattr(run.config, key)
        and run.stage != "ppo"
        and key not in ON_THE_WAY
    ]
    if bound:
        raise LabError(
            f"{name!r} goes on with the settings that it began with: {', '.join(bound)} can't"
            f" change on the way (of a {run.stage} run {', '.join(ON_THE_WAY)} can). Start a new"
            " run for other settings."
        )
    run.info["config"] = asdict(changed)
    if folder == final:
        final.rename(partial)
    run.path = partial
    return run, folder == final


def _command(run: Run) -> str:
    """The command that goes on with a run."""
    return f"python -m labkit train {run.stage.replace('_', '-')} --resume {run.name}"


def _onward(run: Run) -> str:
    """How to go on where a run stopped."""
    if not checkpoints(run.path):
        return "start the stage again to get a whole one"
    return f"go on from its last checkpoint with runs.resume({run.name!r}) or: {_command(run)}"


@contextlib.contextmanager
def _at_work(run: Run):
    """The block does the work; what it leaves in run.path becomes whole, or is said to be
    unfinished.
    """
    try:
        if ranks.main():
            run.path.mkdir(parents=True, exist_ok=True)
            if run.info["config"].get("report_to", "none") != "none":
                run.listeners.append(Reporting(run, run.info["config"]["report_to"], device()))
        forget_peak()
        ranks.say_cards(run.stage)
        with ranks.told_to_end():
            yield
        run.info["peak_bytes"] = max(run.info.get("peak_bytes", 0), memory()[1])
        run.info["seconds"] = round(run.seconds(), 1)
        if ranks.main():
            _whole(run)
        ranks.wait()
        run.path = root() / run.name
    except (Exception, KeyboardInterrupt) as error:
        if ranks.lost(error) or isinstance(error, KeyboardInterrupt):
            why = f"Another process of this training ended, so this one stops, too ({error})"
            raise LabError(
                f"{why if ranks.lost(error) else 'Stopped'}. The unfinished run stays in {run.path}"
                f" for a look; {_onward(run)}."
            ) from None
        if reason := _unwritable(error):
            raise LabError(
                f"{reason}, so the run {run.name!r} was not saved. Make room under {root()}, and"
                f" {_onward(run)}; earlier runs are untouched."
            ) from error
        # What stopped a loop that was under way; PPO's guard says it in its own words.
        if isinstance(error, LabError) and run.touched and run.stage != "ppo":
            if checkpoints(run.path):
                raise LabError(f"{error} Or {_onward(run)} --learning-rate …") from error
        raise
    finally:
        for listener in run.listeners:
            if hasattr(listener, "finish"):
                listener.finish()


def _whole(run: Run):
    """Give the run its name, at one stroke. A kill before that leaves a checkpoint to go on from,
    one after it a whole run.
    """
    run.note_files()
    run.note()
    file, others = run.path / "run.json", root().glob("*/run.json")
    newest = max(other.stat().st_mtime_ns for other in [*others, file])
    if file.stat().st_mtime_ns < newest:  # a clock that was set back must not make it an old one
        os.utime(file, ns=(newest + 10**6,) * 2)
    final = run.path.rename(root() / run.name)
    if not run.goes_on:
        for left in final.glob(f"{KEPT}*"):
            left.unlink()


def _unwritable(error: Exception) -> str:
    """Why nothing can be written, where that is what `error` says; safetensors and tokenizers raise
    types of their own.
    """
    number = getattr(error, "errno", None)
    said = {28: "The disk is full", 122: "The disk quota is used up", 30: "The disk is read-only"}
    return next((v for k, v in said.items() if number == k or f"os error {k}" in str(error)), "")


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
