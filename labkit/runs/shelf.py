"""The runs that are there: all of them, one by its name, the latest of a stage."""

import json
import re
from pathlib import Path

from labkit import LabError, config
from labkit.config import STAGES
from labkit.runs.claim import fit
from labkit.runs.folder import PARTIAL, Run, data_folder, root, seal

POLICIES = ("sft", "ppo", "dpo", "kto", "poet")  # stages whose runs hold a policy to go on from


def read(path: Path, shipped=False) -> Run:
    """The run in the folder `path`. LabError where its run.json is not one, or is damaged."""
    if path.is_symlink() or (path / "run.json").is_symlink():
        raise LabError(f"{path} is a link, which no run is. Put a copy of its folder there.")
    try:
        info = json.loads((path / "run.json").read_text("utf8"))
        if info.pop("checksum", seal(info)) != seal(info):
            raise ValueError("it is not what was written, by its checksum")
        # The folder is named by whoever keeps it; a name in the file could lead elsewhere.
        name = info["name"]
        name = name if shipped else path.name.removeprefix(PARTIAL)
        return Run(path, info["stage"], name, info, shipped)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError(
            f"{path} is not a whole run: its run.json can't be read ({error}). Delete the folder"
            " and train the stage again."
        ) from error


def shipped(stage: str) -> Run | None:
    """The checkpoint that came with the project, or None."""
    path = data_folder() / "checkpoints" / stage
    return read(path, shipped=True) if (path / "run.json").exists() else None


def listing() -> list[Run]:
    """Every whole run in root(), oldest first."""
    found = [p for p in root().glob("*/run.json") if not p.parent.name.startswith(".")]
    return [read(p.parent) for p in sorted(found, key=lambda p: (p.stat().st_mtime, p.parent.name))]


def series() -> list[Run]:
    """Every whole run but the experiments aside (see `start`), oldest first."""
    return [run for run in listing() if not run.info.get("aside")]


def load(name: str) -> Run:
    """The run called `name`: in root(), or "shipped/STAGE"."""
    if name.startswith("shipped/"):
        run = shipped(name.removeprefix("shipped/"))
        if run:
            return run
    elif fit(name) and (root() / name / "run.json").exists():
        return read(root() / name)
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
    if (fit(name) and (root() / name / "run.json").exists()) or name.startswith("shipped/"):
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
