"""Records, and the doors they come in by: a local file or a Hub data set (the atlas has its own:
atlas.sources).

Every loader takes a `source`: a path to a file (.jsonl, .json or plain text, also gzipped) or a
Hub id "owner/name" ("owner/name:split" for another split than "train"). A file of your own is read
whole or not at all: all its bad lines are named in one LabError. Published collections (the Hub,
hh-rlhf's and PandaLM's forms) hold ties and empty answers that nobody can mend, so there such rows
are left out and counted.
"""

import contextlib
import difflib
import gzip
import hashlib
import json
import os
import re
import sys
import zlib
from collections import Counter
from dataclasses import asdict, is_dataclass
from pathlib import Path

from labkit import LabError
from labkit.data import rows
from labkit.data.rows import Demo, Pair, Rating

SUFFIXES = (".jsonl", ".json", ".txt", ".gz", ".md", ".csv")


def load_demos(source: str, limit: int = 0) -> list[Demo]:
    """Demonstrations: {"prompt", "response"} (or "completion"), {"messages"}, or {"instruction",
    "input", "output"}. limit 0: all.
    """
    return load(source, rows.demo, limit)


def load_pairs(source: str, limit: int = 0) -> list[Pair]:
    """Preferences: {"prompt", "chosen", "rejected"} as text or messages, hh-rlhf's whole dialogues,
    or PandaLM's three annotators. limit 0: all.
    """
    if source == "atlas":
        raise LabError(
            "The atlas has no ready-made pairs: stages make them from a policy's own answers. Name"
            " a file of pairs."
        )
    return load(source, rows.pair, limit)


def load_ratings(source: str, limit: int = 0) -> list[Rating]:
    """Thumbs: {"prompt", "response", "label": true or false}. limit 0: all."""
    return load(source, rows.rating, limit)


def load_prompts(source: str, limit: int = 0) -> list[str]:
    """Prompts: a text file with one a line, or records with "prompt" (or "messages"). limit 0:
    all.
    """
    if _is_file(source) and not _looks_like_json(source):
        return cut([line.strip() for line in read_text(source).split("\n") if line.strip()], limit)
    return load(source, rows.prompt, limit)


def load_text(source: str) -> list[str]:
    """Documents to pre-train on: a text file is cut at its blank lines; records give their
    "text".
    """
    if _is_file(source) and not _looks_like_json(source):
        return [part.strip() for part in re.split(r"\n[ \t]*\n", read_text(source)) if part.strip()]
    return load(source, lambda row: rows.field(row, "text"))


def split(records: list, fraction: float, seed: int = 0) -> tuple[list, list]:
    """(train, held_out), cut by prompt: no prompt is in both. `fraction` of the prompts are held
    out, at least one on either side.

    The order of a hash decides, so neither the records' order nor the Python version changes the
    cut.
    """
    if not 0 < fraction < 1:
        raise LabError(f"The held-out fraction is {fraction!r}, but it must be between 0 and 1.")
    prompts = {_key(record) for record in records}
    if len(prompts) < 2:
        raise LabError(
            f"Splitting needs 2 different prompts or more, not {len(prompts)}. Give more data."
        )
    ranked = sorted(prompts, key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode()).digest())
    held = set(ranked[: min(max(1, round(fraction * len(ranked))), len(ranked) - 1)])
    return [r for r in records if _key(r) not in held], [r for r in records if _key(r) in held]


def save_jsonl(records: list, path: str | Path) -> Path:
    """Write records (dataclasses or dicts), one JSON object a line, whole or not at all."""
    path = Path(path).expanduser()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf8", newline="\n") as file:
            for record in records:
                row = asdict(record) if is_dataclass(record) else record
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        temporary.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        half = "a record holds half a character (a lone surrogate)"
        reason = error.strerror if isinstance(error, OSError) else half
        raise LabError(
            f"{path} was not written: {reason}. Mend that or choose another place; nothing was"
            " changed there."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # not there, or its folder isn't
            temporary.unlink()
    return path


def read_text(source: str | Path) -> str:
    """The text of a UTF-8 file, gzipped or not. Raises LabError for a missing, empty or binary
    file.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:5])
        raise LabError(f"{path} is a folder. Name a file in it: {inside or 'it is empty'}.")
    if not path.is_file():
        raise LabError(_missing(str(source)))
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise LabError(
            f"{path} is not UTF-8 text (line {line} has the byte"
            f" 0x{error.object[error.start]:02x}). Save it as UTF-8."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise LabError(f"{path} can't be read ({error}). Download or copy it again.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise LabError(
            f"{path} is a binary file, not text (line {line} holds a NUL). Choose a text."
        )
    if not text.strip():
        raise LabError(f"{path} is empty. Put some text in it, or choose another file.")
    return text.replace("\r\n", "\n")


def load(source: str, read, limit: int = 0) -> list:
    """Records of one source; `read` turns a row (a dict) into a record or raises rows.Bad or
    rows.Skip.
    """
    from_hub = not _is_file(source)
    if from_hub and not _is_hub_id(source):
        raise LabError(_missing(str(source)))
    records, bad, left_out = [], [], Counter()
    for place, row in _hub_rows(source) if from_hub else _file_rows(source):
        try:
            if isinstance(row, rows.Bad):
                raise row
            if not isinstance(row, dict):
                raise rows.Bad(f'{rows.kind(row)}, but must be an object such as {{"prompt": …}}')
            records.append(read(row))
        except rows.Skip as reason:
            left_out[str(reason)] += 1
        except LabError as reason:
            if from_hub:
                left_out[str(reason)] += 1
            else:
                bad.append(f"{place}: {str(reason).rstrip('.')}")
    if bad:
        more = f"; and {len(bad) - 5:,} more" if len(bad) > 5 else ""
        form = "" if records else " It should hold one JSON object a line."
        raise LabError(
            f"{source} was not loaded, because {len(bad):,} of its records can't be used."
            f" {'; '.join(bad[:5])}{more}. Mend or delete them and load again.{form}"
        )
    counted = ", ".join(f"{count:,} × {reason}" for reason, count in left_out.most_common(5))
    if not records:
        raise LabError(
            f"{source} has no usable record ({counted or 'it is empty'}). Check that it is the"
            " right kind of data."
        )
    if left_out:
        print(f"{source}: {len(records):,} records; left out: {counted}.", file=sys.stderr)
    return cut(records, limit)


def _file_rows(source):
    """("line 3", row) for each record; a line that is no JSON gives rows.Bad for its row."""
    text = read_text(source)
    if text.lstrip().startswith("["):
        try:
            yield from ((f"record {n}", row) for n, row in enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as error:
            raise LabError(
                f"{source} is broken JSON ({error}). Mend it, or write one object a line (JSONL)."
            ) from error
        return
    # Not splitlines(): U+2028 may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = rows.Bad(f"broken JSON ({getattr(error, 'msg', 'nested too deep')})")
            yield f"line {number}", row


def _hub_rows(source):
    """("record 3", row) of a Hub data set."""
    name, _, part = source.partition(":")
    try:
        import datasets

        found = datasets.load_dataset(name, split=part or "train")
    except Exception as error:  # datasets raises a dozen unrelated types
        reason = str(error).strip().split("\n")[0][:200]
        raise LabError(
            f"The Hub data set {source!r} can't be loaded ({type(error).__name__}: {reason}). Check"
            " its id, split and the network, or name a local .jsonl file instead."
        ) from error
    yield from ((f"record {number}", row) for number, row in enumerate(found, 1))


def _key(record) -> str:
    return (record if isinstance(record, str) else record.prompt).strip()


def cut(records: list, limit: int) -> list:
    """The first `limit` records; 0: all."""
    if limit < 0:
        raise LabError(f"The limit is {limit}, but it must be 0 (all) or more.")
    return records[:limit] if limit else records


def _is_file(source) -> bool:
    """Whether `source` means a file (there or not)."""
    source = str(source)
    return (
        Path(source).expanduser().exists()
        or source.lower().endswith(SUFFIXES)
        or source.startswith((".", "/", "~"))
        or "\\" in source
    )


def _is_hub_id(source) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+(:\w+)?", str(source)))


def _looks_like_json(source) -> bool:
    """By its name, or because its first line is a JSON object. (A tale may begin with
    "[Illustration]".)
    """
    if ".json" in Path(source).name.lower():
        return True
    try:
        return isinstance(json.loads(read_text(source).lstrip().split("\n")[0]), dict)
    except (ValueError, RecursionError):
        return False


def _missing(source: str) -> str:
    folder = Path(source).expanduser().parent
    if not folder.is_dir():
        return f"There is no file {source!r}, and no folder {str(folder)!r}. Check the path."
    names = [path.name for path in folder.iterdir() if path.is_file()] + ["atlas"]
    near = difflib.get_close_matches(Path(source).name, names, cutoff=0.5)
    check = f"Check the path (relative to {Path.cwd()})."
    hint = f"Did you mean {' or '.join(near)}?" if near else check
    hub = "" if "/" in source or "." in source else ' A Hub data set is named "owner/name".'
    return f"There is no file {source!r}. {hint}{hub}"
