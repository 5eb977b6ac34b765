"""The records that benches leave for notebooks: loading them, and figures over seeds."""

import json
from pathlib import Path
from statistics import fmean

from labkit import LabError, runs


def load(name: str, whole, what: str, path=None) -> dict:
    """The record `name` (default: data/checkpoints/NAME.json, which came with the project).

    whole: record → something true, or a lookup that fails, where it is no such record; what: what
    it is a record of, for the sentence that says so. LabError where there is none.
    """
    path = Path(path or runs.data_folder() / "checkpoints" / f"{name}.json")
    verb = name.replace("_", "-")
    how = f"Make one: python -m labkit bench {verb} --json > {path}"
    return read(path, whole, f"record of {what}", how)


def read(path: Path, whole, what: str, how: str) -> dict:
    """The JSON of a file. LabError where it is not there, or `whole` (see `load`) says that it is
    no such thing: what it should be, and how to make one.
    """
    try:
        found = json.loads(path.read_text("utf8"))
        good = whole(found)
    except OSError:
        raise LabError(f"There is no {what} at {path}. {how}") from None
    except (ValueError, LookupError, TypeError):
        good = False
    if not good:
        raise LabError(f"{path} is no {what}. {how}")
    return found


def with_spread(name: str, values: list[float]) -> dict:
    """{name: mean, "name lowest", "name highest"} of the seeds' values."""
    return {name: fmean(values), f"{name} lowest": min(values), f"{name} highest": max(values)}
