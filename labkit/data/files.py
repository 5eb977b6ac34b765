"""Records, and the doors they come in by: a file, a folder or a Hub data set (the atlas has its
own: atlas.sources).

Every loader takes a `source`: a path to a file (.jsonl, .json or plain text, also gzipped), or a
set that data.hub reads, by Hub id or folder, with its split and subset where they are named. A file
of your own is read whole or not at all: all its bad lines are named in one LabError. Published
collections (sets, hh-rlhf's and PandaLM's forms) hold ties and empty answers that nobody can mend,
so there such rows are left out and counted; a row of another form is an error there too.

What was taken of a set, and of a file inside `showing`, is told on standard error; the list of
records keeps it as `about`.
"""

import contextlib
import contextvars
import difflib
import gzip
import hashlib
import json
import os
import random
import re
import sys
import zlib
from collections import Counter
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

from labkit import LabError
from labkit.config import expanded
from labkit.data import hub, rows
from labkit.data.rows import Demo, Pair, Rating

SUFFIXES = (".jsonl", ".json", ".txt", ".gz", ".md", *hub.TABLES)
# Splits by what they usually are called; UltraFeedback has one for each kind.
PREFERENCES, ANSWERS, ASKED = (("train", f"train_{one}") for one in ("prefs", "sft", "gen"))
PIECE = 2000  # characters of a document, where a text has no lines
_SHOWN = contextvars.ContextVar("shown", default=False)


def load_demos(source: str, limit: int = 0, fits=None) -> list[Demo]:
    """Demonstrations: {"prompt", "response"} (or "completion"), {"messages"}, or {"instruction",
    "input", "output"}. limit, fits: as `load` takes them.
    """
    return load(source, rows.demo, limit, ANSWERS, fits)


def load_pairs(source: str, limit: int = 0, fits=None) -> list[Pair]:
    """Preferences: {"prompt", "chosen", "rejected"} as text or messages, hh-rlhf's whole dialogues,
    TL;DR's comparisons or PandaLM's three annotators. limit, fits: as `load` takes them.
    """
    if source == "atlas":
        raise LabError(
            "The atlas has no ready-made pairs: stages make them from a policy's own answers. Name"
            " a file of pairs."
        )
    return load(source, rows.pair, limit, PREFERENCES, fits)


def load_ratings(source: str, limit: int = 0, fits=None) -> list[Rating]:
    """Thumbs: {"prompt", "response" (or "completion"), "label": true or false}, as text or
    messages. limit, fits: as `load` takes them.
    """
    return load(source, rows.rating, limit, fits=fits)


def load_prompts(source: str, limit: int = 0, fits=None, enough: int = 0) -> list[str]:
    """Prompts: a text file with one a line, or records with "prompt" (or "messages", or a pair's
    dialogues). limit, fits, enough: as `load` takes them.
    """
    if _is_file(source) and not _looks_like_json(source):
        return _plain(source, read_text(source).split("\n"), limit)
    return load(source, rows.prompt, limit, ASKED, fits, enough)


def load_text(source: str, enough: int = 0) -> list[str]:
    """Documents to pre-train on: a text file is cut at its blank lines, one without any at its line
    ends, one without these into pieces; records give their "text". enough: of a set, which is
    streamed, no more than about so many characters (0: all).
    """
    if _is_file(source) and not _looks_like_json(source):
        text = read_text(source)
        for cut_at in (r"\n[ \t]*\n", r"\n"):
            parts = [part for part in re.split(cut_at, text) if part.strip()]
            if len(parts) > 1:
                return _plain(source, parts)
        return _plain(source, [text[i : i + PIECE] for i in range(0, len(text), PIECE)])
    return load(source, lambda row: rows.field(row, "text"), enough=enough, size=len)


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
    path = expanded(path)
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
    path = expanded(source)
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:5])
        raise LabError(f"{path} is a folder without data. Name a file: {inside or 'it is empty'}.")
    if path.exists() and not path.is_file():
        raise LabError(f"{path} is a pipe or a device, not a file. Save what it gives into a file.")
    if not path.is_file():
        raise LabError(_missing(str(source)))
    most = room()
    try:
        text = _unpacked(path, most).decode("utf-8-sig")
    except MemoryError:
        raise LabError(
            f"{path} holds more than this machine has memory for (at most {most / 1e9:.1f} GB,"
            " unpacked). Take a part of it, or free some memory."
        ) from None
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
    if text.startswith("version https://git-lfs"):
        raise LabError(
            f"{path} is a pointer of Git LFS, not the data. Fetch them with: git lfs pull."
        )
    if not text.strip():
        raise LabError(f"{path} is empty. Put some text in it, or choose another file.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def room() -> int:
    """Bytes of text that may be read at once: read, decoded, cut into records and records again
    make it four times as much.
    """
    import psutil

    return psutil.virtual_memory().available // 4


def _unpacked(path: Path, most: int) -> bytes:
    """The bytes of a file, gzipped or not, in pieces: MemoryError where they are more than `most`,
    however small they are packed.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as file:
        pieces = []
        while piece := file.read(1 << 20):
            pieces.append(piece)
            if len(pieces) << 20 > most + (1 << 20):
                raise MemoryError
    return b"".join(pieces)


class Records(list):
    """Records, and `about`: {"source", "split", "rows" taken, "of" how many there were, "drawn" at
    random?, "columns" used, "left_out": [[how many, why, the first's place]]}.
    """

    about: dict


@contextlib.contextmanager
def showing():
    """Inside the block it is told of files, too, what was taken of them."""
    before = _SHOWN.set(True)
    try:
        yield
    finally:
        _SHOWN.reset(before)


def load(
    source: str, read, limit: int = 0, usual=("train",), fits=None, enough: int = 0, size=None
) -> Records:
    """Records of one source; `read` turns a row (a dict) into a record or raises rows.Bad or
    rows.Skip.

    limit: how many to take (0: all); a file gives its first ones, a set draws them at random.
    usual: splits to take where none is named. Of sets only: fits, a function of a record → why it
    can't be used, or "", which leaves it out; enough: take no more than so many records, or of the
    sum of their `size`.
    """
    published = hub.is_set(source)
    if not published and not _is_file(source):
        raise LabError(_missing(str(source)))
    most = min(limit or sys.maxsize, enough or sys.maxsize) if published else sys.maxsize
    found = Records()
    found.about = {"source": str(source)}
    if published:
        opened = _opened(source, usual, most < sys.maxsize and not size, stream=bool(size))
        found.about |= {"split": opened.split, "of": opened.total, "drawn": opened.drawn}
        places = opened.rows
    else:
        places, fits = _file_rows(source), None
    bad, left_out, first, used, taken, seen = [], Counter(), {}, set(), 0, 0
    for place, row in places:
        if taken >= most or (published and len(bad) == 5):
            break
        seen += 1
        try:
            if isinstance(row, rows.Bad):
                raise row
            if not isinstance(row, dict):
                raise rows.Bad(f'{rows.kind(row)}, but must be an object such as {{"prompt": …}}')
            record = read(rows.Row(row, used))
            if why := fits and fits(record):
                raise rows.Skip(why)
            found.append(record)
            taken += size(record) if size else 1
        except (rows.Skip, LabError) as reason:
            if isinstance(reason, LabError) and not (published and isinstance(reason, rows.Faulty)):
                bad.append(f"{place}: {str(reason).rstrip('.')}")
            else:
                left_out[str(reason)] += 1
                first.setdefault(str(reason), place)
    else:
        found.about["of"] = seen
    _refuse(source, bad, found, published)
    found.about["columns"] = sorted(used)
    found.about["left_out"] = [[n, why, first[why]] for why, n in left_out.most_common()]
    if not found:
        raise LabError(
            f"{source} has no usable record ({_counted(found.about) or 'it is empty'}). Check that"
            " it is the right kind of data."
        )
    return _kept(found, limit, show=published or bool(left_out))


def _plain(source, parts: list[str], limit: int = 0) -> Records:
    """The parts of a text file, without the empty ones."""
    found = Records(filter(None, map(str.strip, parts)))
    found.about = {"source": str(source), "of": len(found), "columns": [], "left_out": []}
    return _kept(found, limit)


def _kept(found: Records, limit: int, show: bool = False) -> Records:
    """The first `limit` of what was found (0: all), told where it is to be."""
    kept = Records(cut(found, limit))
    kept.about = found.about | {"rows": len(kept)}
    if show or _SHOWN.get():
        print(told(kept), file=sys.stderr)
    return kept


def _opened(source, usual, sample: bool, stream: bool) -> hub.Opened:
    """hub.open_set, with the rows of a folder's JSON files, and of a folder in random order where
    only some are wanted.
    """
    opened = hub.open_set(source, usual, sample, stream)
    if opened.files:
        every = (
            (f"{Path(file).name}, {place}", row)
            for file in opened.files
            for place, row in _file_rows(file)
        )
        opened = replace(opened, rows=every)
    if sample and opened.small:
        every = list(opened.rows)
        random.Random(0).shuffle(every)
        opened = replace(opened, rows=iter(every), total=len(every), drawn=True)
    return opened


def _refuse(source, bad: list[str], found: list, published: bool):
    """LabError where rows have another form than they must: nothing is loaded."""
    if not bad:
        return
    more = f"; and {len(bad) - 5:,} more" if len(bad) > 5 else ""
    form = "" if found else " It should hold one JSON object a line."
    todo = f"Mend or delete them and load again.{form}"
    if published:
        todo = "Name a set, a split or a subset of the form that this stage takes."
    count = f"{len(bad):,}{' or more' if published and len(bad) == 5 else ''}"
    raise LabError(
        f"{source} was not loaded, because {count} of its records can't be used."
        f" {'; '.join(bad[:5])}{more}. {todo}"
    )


def _counted(about: dict) -> str:
    return ", ".join(f"{n:,} × {why} (first: {place})" for n, why, place in about["left_out"][:5])


def told(found: Records) -> str:
    """What was taken of a source, in a few lines: how many rows, by which columns, one of them,
    what was left out and why.
    """
    about = found.about
    split = f", split {about['split']}" if about.get("split") else ""
    of = f" of {about['of']:,}" if about.get("of") else ""
    drawn = ", drawn at random" if about.get("drawn") else ""
    columns = f"; columns: {', '.join(about['columns'])}" if about["columns"] else ""
    lines = [f"{about['source']}{split}: {len(found):,}{of} rows taken{drawn}{columns}."]
    if about["left_out"]:
        lines.append(f"left out: {_counted(about)}.")
    one = asdict(found[0]) if is_dataclass(found[0]) else {"": found[0]}
    for name, value in one.items():
        if isinstance(value, (str, bool)) and value != "":
            text = repr(str(value))
            lines.append(f"  {name:9}{text if len(text) <= 80 else text[:79] + '…'}")
    return "\n".join(lines)


def _file_rows(source):
    """("line 3", row) for each record; a line that is no JSON gives rows.Bad for its row."""
    text = read_text(source)
    if text.lstrip().startswith("["):
        try:
            yield from ((f"record {n}", row) for n, row in enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as error:
            raise LabError(
                f"{source} is broken JSON ({_why(error)}). Mend it, or write one object a line"
                " (JSONL)."
            ) from error
        return
    # Not splitlines(): U+2028 may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = rows.Bad(f"broken JSON ({_why(error)})")
            yield f"line {number}", row


def _why(error) -> str:
    """Why a text is no JSON."""
    if isinstance(error, json.JSONDecodeError):
        return str(error)
    deep = isinstance(error, RecursionError)
    return "nested too deep" if deep else "a number of more digits than can be read"


def _key(record) -> str:
    return (record if isinstance(record, str) else record.prompt).strip()


def cut(records: list, limit: int) -> list:
    """The first `limit` records; 0: all."""
    if limit < 0:
        raise LabError(f"The limit is {limit}, but it must be 0 (all) or more.")
    return records[:limit] if limit else records


def _is_file(source) -> bool:
    """Whether `source` means a file (there or not) that is not read as a set."""
    source = str(source)
    return not hub.is_set(source) and (
        expanded(source).exists()
        or source.lower().endswith(SUFFIXES)
        or source.startswith((".", "/", "~"))
        or "\\" in source
    )


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
    folder = expanded(source).parent
    if not folder.is_dir():
        return f"There is no file {source!r}, and no folder {str(folder)!r}. Check the path."
    names = [path.name for path in folder.iterdir() if path.is_file()] + ["atlas"]
    near = difflib.get_close_matches(Path(source).name, names, cutoff=0.5)
    check = f"Check the path (relative to {Path.cwd()})."
    hint = f"Did you mean {' or '.join(near)}?" if near else check
    hub = "" if "/" in source or "." in source else ' A Hub data set is named "owner/name".'
    return f"There is no file {source!r}. {hint}{hub}"
