"""Where runs and the bundled data lie, and what one run's folder holds."""

import hashlib
import json
import os
from pathlib import Path

from labkit import config, ranks

PARTIAL = ".partial-"
CHECKPOINT = "checkpoint.safetensors"  # in an unfinished run: what its loop can go on from


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
