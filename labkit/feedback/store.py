"""The learner's ratings: one SQLite file that only grows. Every rating is on disk before the next
one is asked for.

    store = Store()                                                     # runs/feedback.sqlite
    store.add(Feedback("台灣最高的山？", ("玉山", "泰山"), "pair", 0))        # on disk (fsync) when it returns
    store.undo()                                                        # marks the newest as undone; nothing is ever deleted
    store.pairs(), store.ratings()                                      # what the reward model, DPO and KTO learn from
 SQLite keeps it whole through a killed kernel, a full disk and two notebooks at once
(https://sqlite.org/wal.html): WAL lets one write while others read, and synchronous=FULL waits for
the disk at every commit. The file says in its header that it is ours (application_id) and which
version of the table it holds (user_version).
"""

import contextlib
import itertools
import json
import math
import os
import sqlite3
import threading
import time
import uuid
from collections import Counter
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from labkit import LabError, data, runs
from labkit.data import rows
from labkit.data.rows import Pair, Rating

# mode: (fewest, most) responses that it judges
MODES = {
    "pair": (2, 2),
    "regenerated": (2, 2),
    "thumb": (1, 1),
    "rank": (2, math.inf),
    "scale": (1, math.inf),
}
APPLICATION_ID = int.from_bytes(b"LABK", "big")
WAIT = 30  # seconds that a writer waits for another one

# Each step makes the next version of the table, so a store's version is the number of steps it has
# seen. Add steps; never change one.
STEPS = [
    """CREATE TABLE feedback (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time TEXT NOT NULL, rater TEXT NOT NULL,
        mode TEXT NOT NULL, prompt TEXT NOT NULL, responses TEXT NOT NULL, verdict TEXT NOT NULL, shown TEXT NOT NULL,
        tags TEXT NOT NULL, note TEXT NOT NULL, seconds REAL NOT NULL, sources TEXT NOT NULL,
        undone INTEGER NOT NULL DEFAULT 0)"""
]
JSON = ("responses", "verdict", "shown", "tags", "sources")  # columns whose text is JSON


# --- one judgement -------------------------------------------------------------------------------


@dataclass
class Feedback:
    """One judgement of one rater. The verdict always speaks of `responses`, never of places on the
    screen:

    "pair", "regenerated": 0 or 1, the index of the better one, or "same" (regenerated: the first
    answer and the new one) "thumb": True or False for one response "rank": the indices, best first
    "scale": 1 to 10 for each response and in every mode "skip". Raises LabError for anything else.
    """

    prompt: str
    responses: tuple[str, ...]
    mode: str
    verdict: object
    rater: str = "me"
    shown: tuple[int, ...] = ()
    """The order on the screen: shown[0] is the index of the response on the left. Empty:
    unknown.
    """
    tags: tuple[str, ...] = ()
    note: str = ""
    seconds: float = 0.0
    """How long the rater took; 0: unknown."""
    sources: tuple[str, ...] = ()
    """Which model wrote each response; the rater does not see it."""
    id: str = ""
    """A uuid; the store gives it."""
    time: str = ""
    """UTC, ISO 8601; the store gives it."""

    def __post_init__(self):
        for name in ("responses", "shown", "tags", "sources"):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise LabError(f'"{name}" is {getattr(self, name)!r:.80}, but it must be a list.')
            setattr(self, name, tuple(getattr(self, name)))
        if isinstance(self.verdict, list):
            self.verdict = tuple(self.verdict)
        for name in ("prompt", "mode", "rater", "note", "id", "time"):
            check_text(getattr(self, name), name)
        for name in ("responses", "tags", "sources"):
            for i, text in enumerate(getattr(self, name)):
                check_text(text, f"{name}[{i}]")
        if self.mode not in MODES:
            raise LabError(
                f'"mode" is {self.mode!r:.80}, but it must be one of {", ".join(MODES)}.'
            )
        n, (fewest, most) = len(self.responses), MODES[self.mode]
        if not fewest <= n <= most:
            needed = f"{fewest}{' or more' if most > fewest else ''}"
            raise LabError(f'"responses" holds {n}, but mode "{self.mode}" needs {needed}.')
        if not self._fits(n):
            raise LabError(
                f'"verdict" is {self.verdict!r:.80}, which says nothing in mode "{self.mode}" with'
                f" {n} responses."
            )
        if self.shown and not permutation(self.shown, n):
            raise LabError(
                f'"shown" is {self.shown!r:.80}, but it must hold each of 0 to {n - 1} once.'
            )
        if self.sources and len(self.sources) != n:
            raise LabError(f'"sources" holds {len(self.sources)}, but there are {n} responses.')
        if type(self.seconds) not in (int, float) or not 0 <= self.seconds < math.inf:
            raise LabError(
                f'"seconds" is {self.seconds!r:.80}, but it must be a number, 0 or more.'
            )
        self.seconds = float(
            min(self.seconds, 1e9)
        )  # an integer of a file may be too long for a float
        try:
            datetime.fromisoformat(self.time or "2000-01-01")
        except ValueError:
            raise LabError(
                f'"time" is {self.time!r:.80}, but it must be a time such as'
                " 2026-11-22T19:30:00+00:00."
            ) from None

    def _fits(self, n: int) -> bool:
        """Whether the verdict is one that the mode has."""
        if type(self.verdict) is str:
            return (
                self.verdict == "skip"
                or self.verdict == "same"
                and self.mode in ("pair", "regenerated")
            )
        if self.mode == "thumb":
            return type(self.verdict) is bool
        if self.mode in ("pair", "regenerated"):
            return type(self.verdict) is int and self.verdict in (0, 1)
        if type(self.verdict) is not tuple:
            return False
        if self.mode == "rank":
            return permutation(self.verdict, n)
        return len(self.verdict) == n and all(type(v) is int and 1 <= v <= 10 for v in self.verdict)

    def worth(self) -> list[int]:
        """A number per response, the better the higher; empty where responses were not compared (a
        thumb, a skip).
        """
        if self.verdict == "skip" or self.mode == "thumb":
            return []
        if self.mode == "rank":
            return [-self.verdict.index(i) for i in range(len(self.responses))]
        if self.mode == "scale":
            return list(self.verdict)
        return [int(i == self.verdict) for i in range(2)]  # "same": both 0

    def compared(self) -> list[tuple[str, str, int]]:
        """Every two different responses with 1 (the first is better), -1 (the second) or 0 (the
        same).
        """
        two = itertools.combinations(zip(self.responses, self.worth()), 2)
        return [(a, b, (x > y) - (x < y)) for (a, x), (b, y) in two if a.strip() != b.strip()]

    def pairs(self) -> list[Pair]:
        """What a reward model learns from it: rank and scale give all their pairs; a draw and an
        empty text give none.
        """
        return [
            Pair(self.prompt, a if sign > 0 else b, b if sign > 0 else a, self.rater)
            for a, b, sign in self.compared()
            if sign and all(text.strip() for text in (self.prompt, a, b))
        ]


def check_text(value, name: str):
    """Text that every file can hold, or LabError."""
    if not isinstance(value, str):
        raise LabError(f'"{name}" is {value!r:.80}, but it must be text.')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise LabError(f'"{name}" holds half a character (a lone surrogate). Remove it.') from None


def permutation(indices, n: int) -> bool:
    return all(type(i) is int for i in indices) and sorted(indices) == list(range(n))


# --- the store -----------------------------------------------------------------------------------


class Store:
    """The ratings in one file; made where there is none yet, brought to the newest version where it
    is older (a copy stays beside it).

    path: the file [runs/feedback.sqlite]. Any number of processes may have it open. Raises
    LabError, and leaves the file as it was, where it is not a store, is damaged, comes from a newer
    labkit or can't be written.
    """

    def __init__(self, path=None):
        self.path = Path(path or runs.root() / "feedback.sqlite").expanduser().absolute()
        self._lock = threading.RLock()  # a notebook's callbacks may come from another thread
        self._inode = 0
        with self._told(), contextlib.ExitStack() as on_failure:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            refuse_strangers(self.path)
            self._db = connect(self.path)
            on_failure.callback(self._db.close)
            self._bring_up_to_date()
            switch_to_wal(self._db)
            self._inode = inode(self.path)
            on_failure.pop_all()

    def __repr__(self):
        return f"Store({str(self.path)!r})"

    def __len__(self):
        return self._select("count(*)")[0][0]

    def close(self):
        """Close the file; the store can't be used any more."""
        self._db.close()

    def add(self, feedback: Feedback) -> Feedback:
        """Save one judgement; returns it with its id and time. It is on disk when this returns.
        LabError: it is not, and all others are.
        """
        kept = dated(replace(feedback, id=feedback.id or str(uuid.uuid4())))
        with self._transaction() as db:
            if insert(db, [kept]) == 0:
                raise LabError(
                    f"There is a rating {kept.id!r} already. Leave the id empty to get a new one."
                )
        return kept

    def extend(self, many) -> int:
        """Save many judgements, all or none; returns how many were new (an id that is there already
        is passed over).
        """
        many = [dated(replace(one, id=one.id or str(uuid.uuid4()))) for one in many]
        with self._transaction() as db:
            return insert(db, many)

    def undo(self, rater: str | None = None) -> Feedback | None:
        """Take back the newest judgement (of one rater) and return it; None where there is none. It
        stays in the file, marked.
        """
        newest = f"SELECT number FROM feedback WHERE {WANTED} ORDER BY number DESC LIMIT 1"
        with self._transaction() as db:
            taken = db.execute(
                f"UPDATE feedback SET undone = 1 WHERE number = ({newest}) RETURNING {COLUMNS}",
                {"rater": rater, "mode": None},
            ).fetchall()
        return self._read(taken[0]) if taken else None

    def all(self, rater: str | None = None, mode: str | None = None) -> list[Feedback]:
        """The judgements that were not undone, in order; of one rater, of one mode."""
        return [self._read(row) for row in self._select(COLUMNS, rater, mode)]

    def pairs(self, rater: str | None = None) -> list[Pair]:
        """Preferences to train a reward model or DPO on. See Feedback.pairs."""
        return [pair for one in self.all(rater) for pair in one.pairs()]

    def ratings(self, rater: str | None = None) -> list[Rating]:
        """Thumbs to train KTO on; skips and empty texts give none."""
        thumbs = (one for one in self.all(rater, "thumb") if one.verdict != "skip")
        return [
            Rating(one.prompt, one.responses[0], one.verdict)
            for one in thumbs
            if one.prompt.strip() and one.responses[0].strip()
        ]

    def preference_dataset(self, rater: str | None = None):
        """A datasets.Dataset with prompt, chosen, rejected, as TRL's RewardTrainer and DPOTrainer
        take it.
        """
        found = [
            {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}
            for p in self.pairs(rater)
        ]
        return dataset(found, "no preference yet: judge some pairs")

    def unpaired_dataset(self, rater: str | None = None):
        """A datasets.Dataset with prompt, completion, label, as TRL's KTOTrainer takes it."""
        return dataset(
            [thumb(r) for r in self.ratings(rater)],
            "no thumb yet: judge some answers with thumb up or down",
        )

    def export(self, folder) -> dict[str, Path]:
        """Write ratings.jsonl (all there is to know; `load` reads it back), preferences.jsonl and
        thumbs.jsonl into `folder`.

        An earlier export there is replaced. The names are fixed, and a link of such a name is
        replaced, not followed, so nothing outside `folder` changes. Raises LabError when there is
        nothing to export or the folder can't be written.
        """
        judged = self.all()
        if not judged:
            raise LabError(
                f"There is nothing to export: {self.path} holds no rating yet. Rate something"
                " first."
            )
        parts = {
            "ratings": judged,
            "preferences": self.pairs(),
            "thumbs": [thumb(r) for r in self.ratings()],
        }
        return {
            name: data.save_jsonl(part, Path(folder) / f"{name}.jsonl")
            for name, part in parts.items()
        }

    def load(self, source) -> int:
        """Import a file, whole or not at all; returns how many judgements were new, so that
        importing twice adds nothing.

        source: our ratings.jsonl, preferences (text, messages or hh-rlhf's whole dialogues),
        thumbs, PandaLM's file (its three annotators are three raters), or a Hub data set of these
        forms. Raises LabError that names the lines which can't be used.
        """
        seen = Counter()
        found = [
            one for row in data.load(str(source), lambda row: judgements(row, seen)) for one in row
        ]
        return self.extend(found)

    # --- SQLite ---

    def _bring_up_to_date(self):
        """Make the table, or take it from its version to ours. The header changes with the table,
        in one commit.
        """
        if self._version() < len(STEPS):
            with self._transaction() as db:
                old = self._version()  # once more: another process may have been quicker
                if 0 < old < len(STEPS):
                    self._keep_copy(old)
                for version in range(old, len(STEPS)):
                    db.execute(STEPS[version])
                    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    db.execute(f"PRAGMA user_version = {version + 1}")
        if self._version() > len(STEPS):
            raise LabError(
                f"{self.path} was written by a newer labkit (version {self._version()} of the"
                f" table; this one knows {len(STEPS)}). Update labkit, or name another file;"
                " nothing in it was changed."
            )

    def _version(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()[0]

    def _keep_copy(self, version: int):
        """feedback.sqlite → feedback-v1-20261122T193000Z.sqlite, whole or not there."""
        name = f"{self.path.stem}-v{version}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}{self.path.suffix}"
        temporary = self.path.with_name(f".{name}.{os.getpid()}.tmp")
        try:
            # A reader of its own: SQLite copies nothing through a connection that is writing.
            with (
                contextlib.closing(connect(self.path)) as reader,
                contextlib.closing(sqlite3.connect(temporary)) as copy,
            ):
                reader.backup(copy)
            temporary.replace(self.path.with_name(name))
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _transaction(self):
        """The connection, inside a transaction that is on disk when the block ends and has left no
        trace when it fails.
        """
        with self._lock, self._told():
            if self._inode and self._inode != inode(self.path):
                raise LabError(
                    f"{self.path} was deleted or replaced while it was open, so nothing was saved."
                    " Open the store again."
                )
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _select(self, columns: str, rater=None, mode=None) -> list[tuple]:
        with self._lock, self._told():
            query = f"SELECT {columns} FROM feedback WHERE {WANTED} ORDER BY number"
            return self._db.execute(query, {"rater": rater, "mode": mode}).fetchall()

    def _read(self, row) -> Feedback:
        """A row of the table, in the order of COLUMNS."""
        named = dict(zip(NAMES, row))
        try:
            return Feedback(
                **{key: json.loads(value) if key in JSON else value for key, value in named.items()}
            )
        except (LabError, ValueError, TypeError) as error:
            raise LabError(
                f"{self.path} is damaged: its rating {named['id']!r} can't be read ({error})."
                " Restore a copy of it."
            ) from error

    @contextlib.contextmanager
    def _told(self):
        """SQLite's and the system's errors as one sentence that says what to do."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            name = (
                getattr(error, "sqlite_errorname", None)
                or f"OSError {getattr(error, 'errno', None)}"
            )
            advice = next(advice for start, advice in ADVICE.items() if name.startswith(start))
            reason = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise LabError(f"{self.path}: {advice.format(reason=reason)}") from error


UNSAVED = "so this was not saved; all that was saved before is safe"
ADVICE = {  # by the beginning of SQLite's name for an error
    "SQLITE_FULL": f"The disk is full, {UNSAVED}. Free some space and do it again.",
    "OSError 28": f"The disk is full, {UNSAVED}. Free some space and do it again.",
    "SQLITE_IOERR": (
        f"The disk refused ({{reason}}), {UNSAVED}. Free some space or check the disk, and do it"
        " again."
    ),
    "SQLITE_BUSY": (
        f"Another program has kept the store locked for {WAIT} s, {UNSAVED}. Close it and do it"
        " again."
    ),
    "SQLITE_READONLY": (
        f"The file can't be written, {UNSAVED}. Change its permissions, or name another file."
    ),
    "SQLITE_CORRUPT": (
        "The store is damaged ({reason}). Restore a copy of it, or name another file."
    ),
    "SQLITE_NOTADB": "The store is damaged ({reason}). Restore a copy of it, or name another file.",
    "": "It can't be used as a store ({reason}). Name another file.",
}
NAMES = [field.name for field in fields(Feedback)]
COLUMNS = ", ".join(NAMES)
WANTED = "NOT undone AND (:rater IS NULL OR rater = :rater) AND (:mode IS NULL OR mode = :mode)"


def connect(path: Path) -> sqlite3.Connection:
    """A connection that waits for other writers and for the disk; transactions begin and end where
    the code says so.
    """
    db = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = FULL")
    return db


def switch_to_wal(db):
    """Turn to the write-ahead log, once and for all. Unlike elsewhere, SQLite may not wait here for
    others who are opening the file.
    """
    deadline = time.monotonic() + WAIT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def refuse_strangers(path: Path):
    """Raise LabError for a file that is not a store, without a trace.

    SQLite reads it as if on read-only media: no lock, no file beside it. (Opening it ourselves
    would, on closing, drop the locks of another Store of this process:
    https://sqlite.org/howtocorrupt.html, 2.2.)
    """
    what = "a folder" if path.is_dir() else "another kind of file"
    if not path.exists() or path.is_file() and path.stat().st_size == 0:
        return
    if path.is_file():
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
            try:
                found = db.execute("PRAGMA application_id").fetchone()[0]
                what = "another program's SQLite file"
            except sqlite3.DatabaseError as error:
                # Torn: a journal beside it may mend it when it is opened. (Nobody holds a lock on
                # such a file yet.)
                torn = error.sqlite_errorname == "SQLITE_CORRUPT"
                found = int.from_bytes(path.read_bytes()[68:72], "big") if torn else 0
        if found == APPLICATION_ID:
            return
    raise LabError(
        f"{path} is not a store of ratings but {what}; nothing in it was changed. Name another"
        " file."
    )


def inode(path: Path) -> int:
    """Which file stands under this name; 0 where none does."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def insert(db, many: list[Feedback]) -> int:
    """Insert judgements whose ids are new; returns how many were."""
    before = db.total_changes
    values = [
        [
            json.dumps(value, ensure_ascii=False) if key in JSON else value
            for key, value in asdict(one).items()
        ]
        for one in many
    ]
    marks = ", ".join("?" * len(NAMES))
    db.executemany(
        f"INSERT INTO feedback ({COLUMNS}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING", values
    )
    return db.total_changes - before


def dated(one: Feedback) -> Feedback:
    return replace(one, time=one.time or datetime.now(UTC).isoformat(timespec="milliseconds"))


# --- in and out ----------------------------------------------------------------------------------


def judgements(row: dict, seen: Counter) -> list[Feedback]:
    """The judgements in one row of a file. Rows without an id get one from what they say and how
    often (`seen`) it was said before.
    """
    try:
        found = in_row(row)
    except LabError as reason:
        raise rows.Bad(str(reason).rstrip(".")) from None
    for one in found:
        if not one.id:
            said = json.dumps(asdict(one), sort_keys=True)
            seen[said] += 1
            one.id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seen[said]} {said}"))
    return found


def in_row(row: dict) -> list[Feedback]:
    rater = row.get("rater") or "imported"
    if "verdict" in row:
        unknown = [key for key in row if key not in NAMES]
        missing = [
            field.name
            for field in fields(Feedback)
            if field.default is MISSING and field.name not in row
        ]
        if unknown or missing:
            raise LabError(
                f'has no "{missing[0]}"' if missing else f'has the unknown "{unknown[0]}"'
            )
        return [Feedback(**row)]
    if "annotator1" in row:  # 0: the same, 1: the first is better, 2: the second is
        prompt, responses, votes = rows.pandalm(row)
        return [
            Feedback(prompt, responses, "pair", ("same", 0, 1)[vote], rater=f"annotator{i}")
            for i, vote in enumerate(votes, 1)
        ]
    if "label" in row:
        one = rows.rating(row)
        return [Feedback(one.prompt, (one.response,), "thumb", one.label, rater=rater)]
    pair = rows.pair(row)
    return [Feedback(pair.prompt, (pair.chosen, pair.rejected), "pair", 0, rater=rater)]


def thumb(rating: Rating) -> dict:
    """A rating under TRL's names."""
    return {"prompt": rating.prompt, "completion": rating.response, "label": rating.label}


def dataset(found: list[dict], otherwise: str):
    if not found:
        raise LabError(f"There is {otherwise} first.")
    import datasets

    return datasets.Dataset.from_list(found)
