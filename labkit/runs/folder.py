"""Where runs and the bundled data lie, and what one run's folder holds."""

import functools
import hashlib
import json
import os
import time
from pathlib import Path

from labkit import LabError, config, ranks

PARTIAL = ".partial-"
KEPT = "checkpoint"  # so begins the name of what only an unfinished run needs
CHECKPOINT = "checkpoint.safetensors"  # in an unfinished run: what its loop can go on from
BEFORE = "checkpoint-before.safetensors"  # the one before, for a day when the last is broken
WRITTEN = (".safetensors", ".json", ".jsonl", ".jinja")  # files that get a checksum


def root() -> Path:
    """The folder for runs: LABKIT_RUNS, else runs/ in the checkout (or in the current folder, where
    labkit was installed as a package).
    """
    checkout = Path(__file__).parents[2]
    default = (checkout if (checkout / "pyproject.toml").exists() else Path.cwd()) / "runs"
    return Path(os.environ.get("LABKIT_RUNS") or default)


def data_folder() -> Path:
    """The bundled data: data/ of the checkout, or its copy inside the installed package."""
    package = Path(__file__).parents[1]
    checkout = package.parent / "data"
    return checkout if (checkout / "atlas").exists() else package / "_data"


def digest(texts) -> str:
    """SHA-256 of some texts in order, 16 hex digits: which data a run was trained on."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.encode() + b"\0")
    return whole.hexdigest()[:16]


def write(file: Path, text: str):
    """Put `text` in place of what `file` held, whole or not at all."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text, "utf8")
    temporary.replace(file)


def lines_of(file: Path) -> list[str]:
    """The lines of a JSONL file, none where there is no file."""
    return [line for line in file.read_text("utf8").split("\n") if line] if file.exists() else []


def seal(info: dict) -> str:
    """The checksum of what a run.json says."""
    return digest([json.dumps(info, sort_keys=True)])


@functools.lru_cache(maxsize=256)
def _sha256(file: str, size: int, changed: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hex; read again only where its size or time has changed."""
    now = file.stat()
    return _sha256(str(file), now.st_size, now.st_mtime_ns)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, the newest first."""
    return [folder / name for name in (CHECKPOINT, BEFORE) if (folder / name).exists()]


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
        self.goes_on = False  # whole, but stopped early: it keeps what it can go on from
        self.before, self.began = self.info.get("seconds", 0.0), time.perf_counter()

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

    def seconds(self) -> float:
        """How long it was at work, what it did before it was gone on with included."""
        return self.before + time.perf_counter() - self.began

    def note(self):
        """Write `info` into run.json now, whole or not at all: a killed run keeps what it noted."""
        if ranks.main():
            plain = json.loads(json.dumps(self.info))  # as it will be read
            sealed = plain | {"checksum": seal(plain)}
            text = json.dumps(sealed, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
            write(self.path / "run.json", text)

    def note_files(self):
        """The checksum of every file goes into `info`: what is read later is what was written."""
        files = (file for file in sorted(self.path.rglob("*")) if file.suffix in WRITTEN)
        names = {file.relative_to(self.path).as_posix(): file for file in files}
        self.info["files"] = {
            name: sha256(file)
            for name, file in names.items()
            if name != "run.json" and not name.startswith(KEPT)
        }

    def verify(self, part: str):
        """LabError where a file of a whole run whose name begins with `part` is not what was
        written. Of a run made before there were checksums nothing is known.
        """
        if self.path.name.startswith(PARTIAL):  # at work
            return
        for one, was in self.info.get("files", {}).items():
            file = self.path / one
            if not file.resolve().is_relative_to(self.path.resolve()):
                raise LabError(f"{self.path} is refused: its run.json leads outside, to {one!r}.")
            if one.startswith(part) and not (file.is_file() and sha256(file) == was):
                raise LabError(
                    f"{file} is not what the run {self.name!r} wrote: it was damaged or changed"
                    f" (SHA-256). Bring back a good copy, or delete {self.path} and train the stage"
                    " again."
                )

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
        """All logged lines, in order. LabError where the file is damaged."""
        self.verify("metrics.jsonl")
        file = self.path / "metrics.jsonl"
        try:
            return [json.loads(line) for line in lines_of(file)]
        except ValueError as error:
            raise LabError(
                f"{file} can't be read ({error}): another process may be writing a line at this"
                f" moment. Try again; if it stays, the file is damaged: delete {self.path} and"
                " train the stage again."
            ) from error

    def rewind(self, lines: int):
        """Keep the first `lines` of metrics.jsonl: what came after a checkpoint is done again."""
        if ranks.main():
            self.touched = True
            file = self.path / "metrics.jsonl"
            write(file, "".join(line + "\n" for line in lines_of(file)[:lines]))

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
