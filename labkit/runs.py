"""A run is a folder: settings, metrics and weights of one stage, whole or not there at all.

    with runs.start("sft", cfg) as run:      # runs/.partial-sft-001
        run.log(step=1, loss=2.3)            # → metrics.jsonl
        run.finish(accuracy=0.91)            # → run.json; the block's end renames it runs/sft-001

A run that was interrupted keeps its hidden folder for a look, and nothing ever takes it for a
whole one.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from labkit import LabError, __version__, config, ranks
from labkit.config import STAGES, change
from labkit.reporting import Reporting

PARTIAL = ".partial-"
CHECKPOINT = "checkpoint.safetensors"  # in an unfinished run: what its loop can go on from
POLICIES = ("sft", "ppo", "dpo", "kto", "poet")  # stages whose runs hold a policy to go on from
LOCKS = ".locks"  # a file for each name, which the process that trains under it holds


def root() -> Path:
    """The folder for runs: LABKIT_RUNS, else runs/ in the checkout (or in the current folder, where
    labkit was installed as a package).
    """
    checkout = Path(__file__).parent.parent
    default = (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / "runs"
    return Path(os.environ.get("LABKIT_RUNS") or default)


def data_folder() -> Path:
    """The bundled data: data/ of the checkout, or its copy inside the installed package."""
    checkout = Path(__file__).parent.parent / "data"
    return checkout if (checkout / "atlas").exists() else Path(__file__).parent / "_data"


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


def digest(texts) -> str:
    """SHA-256 of some texts in order, 16 hex digits: which data a run was trained on."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.encode() + b"\0")
    return whole.hexdigest()[:16]


class Run:
    """One stage's folder. `path`, `name`, `stage`, `info` (what run.json holds), `shipped` (came
    with the project). Of several processes rank 0 alone writes.
    """

    def __init__(
        self, path: Path, stage: str, name: str, info: dict | None = None, shipped: bool = False
    ):
        self.path, self.stage, self.name, self.shipped = path, stage, name, shipped
        self.info = info or {}
        self.listeners = []
        self.touched = False  # whether metrics were written or dropped

    def __repr__(self):
        return f"Run({self.name!r}{', shipped' if self.shipped else ''})"

    @property
    def evaluation(self) -> dict:
        """The figures that the stage measured on held-out data when it ended."""
        return self.info.get("evaluation", {})

    @property
    def config(self):
        """The settings of this run, as its stage's dataclass."""
        return config.KINDS[self.stage](**self.info["config"])

    def note(self):
        """Write `info` into run.json now, whole or not at all: a killed run keeps what it noted."""
        if not ranks.main():
            return
        temporary = self.path / "run.json.tmp"
        text = json.dumps(self.info, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        temporary.write_text(text, "utf8")
        temporary.replace(self.path / "run.json")

    def note_data(self, records):
        """Which data it learns from: their digest, and what a loader says of them (data.load)."""
        self.info["data_hash"] = digest(map(str, records))
        if hasattr(records, "about"):
            self.info["data"] = records.about

    def log(self, **values):
        """Append one line to metrics.jsonl and tell the listeners (live charts)."""
        if not ranks.main():
            return
        self.touched = True
        values = {
            key: value.item() if hasattr(value, "item") else value for key, value in values.items()
        }
        with (self.path / "metrics.jsonl").open("a", encoding="utf8") as file:
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
        for listener in self.listeners:
            listener(values)

    def metrics(self) -> list[dict]:
        """All logged lines, in order."""
        file = self.path / "metrics.jsonl"
        return (
            [json.loads(line) for line in file.read_text("utf8").split("\n") if line]
            if file.exists()
            else []
        )

    def rewind(self, lines: int):
        """Keep the first `lines` of metrics.jsonl: what came after a checkpoint is done again."""
        if not ranks.main():
            return
        self.touched = True
        file = self.path / "metrics.jsonl"
        kept = file.read_text("utf8").split("\n")[:lines]
        file.write_text("".join(line + "\n" for line in kept), "utf8")

    def finish(self, **evaluation):
        """Record what the stage measured; numbers are rounded to 6 places so that manifests read
        well.
        """
        rounded = {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in evaluation.items()
        }
        self.info["evaluation"] = {**self.evaluation, **rounded}

    def trainer_callback(self):
        """A transformers callback that logs what a Trainer reports (loss, reward margins, …) to
        this run.
        """
        from transformers import TrainerCallback

        class Log(TrainerCallback):
            def on_log(callback, args, state, control, logs=None, **_):
                kept = {
                    k: v
                    for k, v in (logs or {}).items()
                    if isinstance(v, (int, float)) and not k.startswith(("train_", "total_"))
                }
                if kept.keys() - {"epoch"}:  # not the summary at the end
                    self.log(step=state.global_step, steps=state.max_steps, **kept)

        return Log()


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
    run = _read(folder)
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


def _read(path: Path, shipped=False) -> Run:
    try:
        info = json.loads((path / "run.json").read_text("utf8"))
        # The folder is named by whoever keeps it; a name in the file could lead elsewhere.
        name = info["name"]
        name = name if shipped else path.name.removeprefix(PARTIAL)
        return Run(path, info["stage"], name, info, shipped)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(
            f"{path} is not a whole run: its run.json can't be read ({error}). Delete the folder"
            " and train the stage again."
        ) from error


def shipped(stage: str) -> Run | None:
    """The checkpoint that came with the project, or None."""
    path = data_folder() / "checkpoints" / stage
    return _read(path, shipped=True) if (path / "run.json").exists() else None


def listing() -> list[Run]:
    """Every whole run in root(), oldest first."""
    found = [p for p in root().glob("*/run.json") if not p.parent.name.startswith(".")]
    return [
        _read(p.parent) for p in sorted(found, key=lambda p: (p.stat().st_mtime, p.parent.name))
    ]


def series() -> list[Run]:
    """Every whole run but the experiments aside (see `start`), oldest first."""
    return [run for run in listing() if not run.info.get("aside")]


def load(name: str) -> Run:
    """The run called `name`: in root(), or "shipped/STAGE"."""
    if name.startswith("shipped/"):
        run = shipped(name.removeprefix("shipped/"))
        if run:
            return run
    elif name and not name.startswith(".") and (root() / name / "run.json").exists():
        return _read(root() / name)
    names = [run.name for run in listing()] + [
        f"shipped/{stage}" for stage in STAGES if shipped(stage)
    ]
    unfinished = (
        " (there is an unfinished one of that name)" if (root() / (PARTIAL + name)).exists() else ""
    )
    raise LabError(
        f"There is no run {name!r} in {root()}{unfinished}. There are:"
        f" {', '.join(names) or 'none yet'}."
    )


def elsewhere(name: str) -> bool:
    """Whether `name` is no run but a model: a folder with an adapter in PEFT's format or in Hugging
    Face layout, a Hub id of either, or "smollm2" (models.smollm2).
    """
    if (root() / name / "run.json").exists() or name.startswith("shipped/"):
        return False
    is_id = name == "smollm2" or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)
    return bool(is_id) or config.expanded(name).is_dir()


def policy(name: str = "", base: str = "") -> Run:
    """The run that a stage starts its policy from: `name`, of any stage that leaves one, else the
    latest SFT run (on `base`, see `latest`).
    """
    if not name:
        return latest("sft", base=base)
    run = load(name)
    if run.stage not in POLICIES:
        raise LabError(
            f"{name!r} is a {run.stage} run and holds no policy. Name a run of"
            f" {', '.join(POLICIES)}."
        )
    return run


class Missing(LabError):
    """There is no run to go on from; the message says how to train one."""


def latest(stage: str, name: str = "", base: str = "") -> Run:
    """The run `name` if given, else your newest whole run of `stage` that was not an experiment
    aside (see `start`), else the shipped checkpoint. base: the fingerprint of the base that it must
    stand on; an adapter of another one can't be loaded. Raises Missing where there is none.

    Of pretrain runs the one that read the most tokens is taken, yours or the shipped one.
    """
    if name:
        run = load(name)
        if run.stage != stage:
            raise LabError(f"{name!r} is a {run.stage} run, but a {stage} run is needed here.")
        return run
    fits = lambda run: not base or run.info.get("base", {}).get("fingerprint", base) == base
    own, came = [run for run in series() if run.stage == stage and fits(run)], shipped(stage)
    run = own[-1] if own else came if came and fits(came) else None
    if (
        stage == "pretrain" and own and came
    ):  # a base of minutes would make every later stage poor: the one that read most text goes on
        run = max(own[::-1] + [came], key=lambda run: run.evaluation.get("tokens", 0))
    if run is None:
        on = f" on the base {base}" if base else ""
        raise Missing(f"There is no {stage} run{on} yet. Train one: {training(stage)}")
    return run


def training(stage: str) -> str:
    """The command that trains a stage in the profile at work."""
    profile = config.profile().name
    return f"python -m labkit train {stage.replace('_', '-')}" + (
        f" --profile {profile}" if profile != "tiny" else ""
    )
