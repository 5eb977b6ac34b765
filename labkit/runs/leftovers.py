"""What dead trainings left: unfinished runs, to be gone on with or cleaned away."""

import shutil
from pathlib import Path

from labkit.runs.claim import Busy, claimed, held
from labkit.runs.folder import PARTIAL, checkpoints, root


def _partial() -> list[Path]:
    """The hidden folders, by name; a link is none."""
    found = sorted(root().glob(f"{PARTIAL}*"))
    return [folder for folder in found if folder.is_dir() and not folder.is_symlink()]


def _bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def unfinished() -> list[dict]:
    """{"name", "bytes", "at_work": a living process holds it, "resume": it has a checkpoint to go
    on from} of each unfinished run.
    """
    return [
        {
            "name": (name := folder.name.removeprefix(PARTIAL)),
            "bytes": _bytes(folder),
            "at_work": held(name),
            "resume": bool(checkpoints(folder)),
        }
        for folder in _partial()
    ]


def clean() -> dict:
    """Delete every unfinished run that no living process holds: {"removed": {name: bytes},
    "at_work": names that stay, "bytes": of all that are gone}.
    """
    removed, at_work = {}, []
    for folder in _partial():
        name = folder.name.removeprefix(PARTIAL)
        try:
            with claimed(name, ""):
                size = _bytes(folder)
                shutil.rmtree(folder)
                removed[name] = size
        except Busy:
            at_work.append(name)
    return {"removed": removed, "at_work": at_work, "bytes": sum(removed.values())}
