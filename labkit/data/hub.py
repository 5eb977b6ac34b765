"""Data sets as `datasets` reads them: a Hub id, a folder in the Hub's layout (shards of parquet,
JSONL or CSV, perhaps a README that names subsets and splits), or a single parquet or CSV file.

A source is "owner/name" or a path, and may name a split and a subset: "owner/name:test",
"Anthropic/hh-rlhf:helpful-base/train". A subset is one of the set's configurations, or a folder in
it.
"""

import contextlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from labkit import LabError
from labkit.config import expanded

JSON = re.compile(r"\.jsonl?(\.gz)?$")
SHARDS = re.compile(r"\.(parquet|arrow|(jsonl?|csv)(\.(gz|zst|xz|bz2))?)$")
TABLES = (".parquet", ".csv")  # files that only `datasets` reads
LARGE = 500e6  # bytes of files; a larger set is streamed
CONVERTED = "refs/convert/parquet"  # the Hub's own copy of sets that came as a script


@dataclass
class Opened:
    """rows: ("row 3", row) one by one; split: which; total: how many rows it has, where that is
    known; drawn: whether the rows come in random order; small: whether memory holds them; files: in
    place of rows, JSON files of this machine, of which our own reader can name the line.
    """

    split: str
    rows: Iterator = iter(())
    total: int | None = None
    drawn: bool = False
    small: bool = False
    files: tuple[str, ...] = ()


def named(source) -> tuple[str, str, str]:
    """(path or Hub id, subset, split) of a source; "" where none is named."""
    source = str(source)
    name, colon, part = source.rpartition(":")
    if not colon or expanded(source).exists() or "\\" in part:
        name, part = source, ""
    subset, _, split = part.rpartition("/")
    return name, subset, split


def is_set(source) -> bool:
    """Whether `datasets` is to read this source: a folder with shards, a table, a Hub id."""
    name, subset, split = named(source)
    path = expanded(name)
    if path.is_dir():
        return bool(subset or split) or any(
            SHARDS.search(one.name) for one in path.rglob("*") if not one.name.startswith(".")
        )
    return path.suffix in TABLES or (not path.exists() and is_hub_id(source))


def is_hub_id(source) -> bool:
    """Whether it has the form of one."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", named(source)[0]))


def open_set(source, usual: tuple[str, ...], sample: bool, stream: bool = False) -> Opened:
    """The rows of a source. usual: splits to take where none is named, the likeliest first;
    sample: some of the rows are wanted, so they come in random order, the same each time (parts of
    a collection often stand one after another).

    A Hub set is downloaded once and kept, but for a `stream`, or one of more than LARGE bytes,
    which is read from its beginning as it comes. A folder is always read as it is: `datasets` keeps
    its copies by the folder's name, and would give the old rows of one that has changed. Raises
    LabError for a set that is not there or can't be reached or read, and for a split or subset that
    it has not got.
    """
    name, subset, split = named(source)
    local = expanded(name).exists()
    with _refusals(source, local):
        import datasets

        builder = _builder(datasets, str(expanded(name)) if local else name, subset)
        files = getattr(builder.config, "data_files", None) or {}
        split = _split(source, split, list(files or builder.info.splits or {}), usual)
        small = not stream and _bytes(files) <= LARGE
        if local or not small:
            shards = tuple(str(file) for file in files.get(split, ()))
            if local and all(map(JSON.search, shards)):
                return Opened(split, small=small, files=shards)
            found = builder.as_streaming_dataset(split=split)
            return Opened(split, _counted(found, source, local), small=small)
        builder.download_and_prepare()
        found = builder.as_dataset(split=split)
    order = range(len(found))
    if sample:
        order = random.Random(0).sample(order, len(order))
    return Opened(split, ((f"row {i + 1}", found[i]) for i in order), len(found), sample)


def _builder(datasets, name: str, subset: str):
    if Path(name).is_file():
        return datasets.load_dataset_builder(Path(name).suffix[1:], data_files=name)
    more = {}
    if subset:
        kind = "name" if subset in datasets.get_dataset_config_names(name) else "data_dir"
        more[kind] = subset
    try:
        return datasets.load_dataset_builder(name, **more)
    except RuntimeError as error:  # `datasets` runs no scripts any more
        if "script" not in str(error):
            raise
        more = {"data_dir": subset} if subset else {}
        return datasets.load_dataset_builder(name, revision=CONVERTED, **more)


def _split(source, split: str, there: list[str], usual) -> str:
    """The split that is named, else the first usual one that is there, else the only one."""
    takes = [one for one in ((split,) if split else usual) if one in there]
    if not takes and not split and len(there) == 1:
        takes = there
    if not takes:
        name = named(source)[0]
        raise LabError(
            f"The data set {name!r} has no split {split or usual[0]!r}. It has:"
            f" {', '.join(map(str, there))}. Name one, with its subset if it has any:"
            f" {name}:SPLIT or {name}:SUBSET/SPLIT."
        )
    return str(takes[0])


def _bytes(files: dict) -> int:
    """Size of all the files of a set, local or remote."""
    from fsspec.core import url_to_fs

    found = (url_to_fs(str(file)) for shards in files.values() for file in shards)
    return sum(system.size(path) or 0 for system, path in found)


def _counted(found, source, local):
    """("row 3", row) of a stream, which can break at any row."""
    with _refusals(source, local):
        yield from ((f"row {number}", row) for number, row in enumerate(found, 1))


@contextlib.contextmanager
def _refusals(source, local: bool):
    """Whatever `datasets` raises (a dozen unrelated types) as one sentence that says what to do."""
    try:
        yield
    except (LabError, GeneratorExit):
        raise
    except Exception as error:
        kind, chain = type(error).__name__, [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        what = "The folder" if local else "The Hub data set"
        reason = str(chain[-1] if local else error).strip().split("\n")[0].rstrip(".")[:200]
        todo = "Mend it, or name another folder or file."
        if not local:
            todo = (
                "Check its id, its subset and the network (a gated set also wants its terms"
                " accepted on its page, and `hf auth login`), or name a local folder or file."
            )
        raise LabError(f"{what} {source!r} can't be loaded ({kind}: {reason}). {todo}") from error
