"""The learner's ratings: one SQLite file, in which every rating is on disk before the next one is
asked for.

    store = Store()                    # runs/feedback.sqlite
    store.add(Feedback("台灣最高的山？", ("玉山", "泰山"), "pair", 0))  # on disk when it returns
    store.undo()                       # marks the newest as undone, and deletes nothing
    store.withdraw("amy")              # what amy said leaves the file, and cannot come back
    store.pairs(), store.ratings()     # what the reward model, DPO and KTO learn from

SQLite keeps it whole through a killed kernel, a full disk and two notebooks at once
(https://sqlite.org/wal.html): WAL lets one write while others read, and synchronous=FULL waits for
the disk at every commit. The file says in its header that it is ours (application_id) and which
version of the table it holds (user_version).
"""

import contextlib
import itertools
import json
import math
import sqlite3
import threading
import time
import uuid
from collections import Counter
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from labkit import LabError, data, runs
from labkit.config import expanded
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
# The first labkit made the first table alone: a store of version n has the first n.
TABLES = (
    """CREATE TABLE feedback (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time TEXT NOT NULL,
    rater TEXT NOT NULL, mode TEXT NOT NULL, prompt TEXT NOT NULL, responses TEXT NOT NULL,
    verdict TEXT NOT NULL, shown TEXT NOT NULL, tags TEXT NOT NULL, note TEXT NOT NULL,
    seconds REAL NOT NULL, sources TEXT NOT NULL, undone INTEGER NOT NULL DEFAULT 0)""",
    "CREATE TABLE withdrawn (rater TEXT PRIMARY KEY)",  # digests: the names are gone, too
)
VERSION = len(TABLES)
JSON = ("responses", "verdict", "shown", "tags", "sources")  # columns whose text is JSON
WAIT = 30  # seconds that a writer waits for another one


# --- one judgement -------------------------------------------------------------------------------


@dataclass
class Feedback:
    """One judgement of one rater. The verdict speaks of `responses`, never of places on the screen:

    "pair", "regenerated" (the first answer and a new one): 0 or 1, the index of the better, or
    "same"; "thumb": True or False for one response; "rank": the indices, best first; "scale": 1 to
    10 for each response; and in every mode "skip". Raises LabError for anything else.
    """

    prompt: str
    responses: tuple[str, ...]
    mode: str
    verdict: object
    rater: str = "me"
    shown: tuple[int, ...] = ()
    """The order on the screen: shown[0] is the index of the left response. Empty: unknown."""
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
            if not isinstance(value := getattr(self, name), (list, tuple)):
                raise wrong(name, value, "a list")
            setattr(self, name, tuple(value))
        if isinstance(self.verdict, list):
            self.verdict = tuple(self.verdict)
        for name in ("prompt", "mode", "rater", "note", "id", "time"):
            check_text(getattr(self, name), name)
        for name in ("responses", "tags", "sources"):
            for i, text in enumerate(getattr(self, name)):
                check_text(text, f"{name}[{i}]")
        if self.mode not in MODES:
            raise wrong("mode", self.mode, f"one of {', '.join(MODES)}")
        n, (fewest, most) = len(self.responses), MODES[self.mode]
        if not fewest <= n <= most:
            needed = f"{fewest}{' or more' if most > fewest else ''}"
            raise LabError(f'"responses" holds {n}, but mode "{self.mode}" needs {needed}.')
        if not self._fits(n):
            raise wrong("verdict", self.verdict, f'one of mode "{self.mode}" with {n} responses')
        if self.shown and not permutation(self.shown, n):
            raise wrong("shown", self.shown, f"each of 0 to {n - 1} once")
        if self.sources and len(self.sources) != n:
            raise LabError(f'"sources" holds {len(self.sources)}, but there are {n} responses.')
        if type(self.seconds) not in (int, float) or not 0 <= self.seconds < math.inf:
            raise wrong("seconds", self.seconds, "a number, 0 or more")
        # An integer of a file may be too long for a float.
        self.seconds = float(min(self.seconds, 1e9))
        try:
            datetime.fromisoformat(self.time or "2000-01-01")
        except ValueError:
            raise wrong("time", self.time, "a time such as 2026-11-22T19:30:00+00:00") from None

    def _fits(self, n: int) -> bool:
        """Whether the verdict is one that the mode has."""
        verdict, two = self.verdict, self.mode in ("pair", "regenerated")
        if type(verdict) is str:
            return verdict == "skip" or verdict == "same" and two
        if two:
            return type(verdict) is int and verdict in (0, 1)
        if self.mode == "thumb":
            return type(verdict) is bool
        if type(verdict) is not tuple:
            return False
        if self.mode == "rank":
            return permutation(verdict, n)
        return len(verdict) == n and all(type(v) is int and 1 <= v <= 10 for v in verdict)

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


def wrong(name: str, value, wanted: str) -> LabError:
    return LabError(f'"{name}" is {value!r:.80}, but it must be {wanted}.')


def check_text(value, name: str):
    """Text that every file can hold, or LabError."""
    if not isinstance(value, str):
        raise wrong(name, value, "text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise LabError(f'"{name}" holds half a character (a lone surrogate). Remove it.') from None


def permutation(indices, n: int) -> bool:
    return all(type(i) is int for i in indices) and sorted(indices) == list(range(n))


NAMES = [field.name for field in fields(Feedback)]
NEEDED = [field.name for field in fields(Feedback) if field.default is MISSING]
COLUMNS = ", ".join(NAMES)
WANTED = "NOT undone AND (:rater IS NULL OR rater = :rater) AND (:mode IS NULL OR mode = :mode)"


# --- the store -----------------------------------------------------------------------------------


class Store:
    """The ratings in one file, which is made where there is none yet.

    path: the file [runs/feedback.sqlite]. Any number of processes may have it open. Raises
    LabError, and leaves the file as it was, where it is not a store, is damaged, comes from a newer
    labkit, lies on a network file system or can't be written.
    """

    def __init__(self, path=None):
        self.path = expanded(path or runs.root() / "feedback.sqlite").absolute()
        self._lock = threading.RLock()  # a notebook's callbacks may come from another thread
        self._inode = 0
        with self._told(), contextlib.ExitStack() as on_failure:
            refuse_networks(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            refuse_strangers(self.path)
            self._db = connect(self.path)
            on_failure.callback(self._db.close)
            self._prepare()
            switch_to_wal(self._db)
            fault = " ".join(self._db.execute("PRAGMA quick_check(1)").fetchone()[0].split())
            if fault != "ok":
                raise LabError(f"{self.path}: {DAMAGED.format(reason=fault)}")
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
        kept = named(feedback)
        with self._transaction() as db:
            if not admitted(db, [kept]):
                raise LabError(
                    f"{kept.rater!r} has withdrawn from this store. Rate under another name."
                )
            if insert(db, [kept]) == 0:
                raise LabError(
                    f"There is a rating {kept.id!r} already. Leave the id empty to get a new one."
                )
        return kept

    def extend(self, many) -> int:
        """Save many judgements, all or none; returns how many were new. An id that is there already
        is passed over, and so is a rater who has withdrawn.
        """
        many = [named(one) for one in many]
        with self._transaction() as db:
            kept = admitted(db, many)
            if out := len(many) - len(kept):
                print(f"{out:,} ratings are left out: their raters have withdrawn.")
            return insert(db, kept)

    def judged(self, one: Feedback) -> int:
        """How often this rater has judged this prompt with these responses in this mode, wherever
        that was asked.
        """
        same = "prompt = :prompt AND responses = :responses"
        asked = {"prompt": one.prompt, "responses": json.dumps(one.responses, ensure_ascii=False)}
        return self._select("count(*)", one.rater, one.mode, same, **asked)[0][0]

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

    def withdraw(self, rater: str) -> int:
        """Take all that a rater said out of the file, for good, and let nothing of that name in
        again, by no import and no merge; returns how many judgements went.

        Copies elsewhere (exports, backups, other stores) keep theirs until they are written or
        merged anew. Raises LabError where there is no such rater.
        """
        with self._transaction() as db:
            gone = db.execute("DELETE FROM feedback WHERE rater = ?", (rater,)).rowcount
            if not gone and closed_to(rater) not in withdrawn(db):
                known = db.execute("SELECT DISTINCT rater FROM feedback ORDER BY rater").fetchall()
                raise LabError(
                    f"{self.path} holds no rating by {rater!r}. There are:"
                    f" {', '.join(repr(name) for (name,) in known[:40]) or 'none yet'}."
                )
            db.execute("INSERT OR IGNORE INTO withdrawn VALUES (?)", (closed_to(rater),))
        with self._lock, self._told():  # the log holds what was deleted until it is emptied
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    def rename(self, rater: str, name: str) -> int:
        """Give a rater another name, which nobody has in this store; returns how many judgements
        bear it now. Rename before you merge: a renamed rating does not go with its older copies.
        """
        check_text(name, "name")
        with self._transaction() as db:
            taken = db.execute("SELECT 1 FROM feedback WHERE rater = ?", (name,)).fetchone()
            if taken or closed_to(name) in withdrawn(db):
                raise LabError(f"{name!r} is taken in {self.path}. Choose another name.")
            found = db.execute("UPDATE feedback SET rater = ? WHERE rater = ?", (name, rater))
            if not found.rowcount:
                raise LabError(f"{self.path} holds no rating by {rater!r}.")
            return found.rowcount

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
        names = ("prompt", "chosen", "rejected")
        found = [{name: getattr(pair, name) for name in names} for pair in self.pairs(rater)]
        return dataset(found, "no preference yet: judge some pairs")

    def unpaired_dataset(self, rater: str | None = None):
        """A datasets.Dataset with prompt, completion, label, as TRL's KTOTrainer takes it."""
        return dataset([thumb(one) for one in self.ratings(rater)], "no thumb yet: give some")

    def export(self, folder) -> dict[str, Path]:
        """Write ratings.jsonl (all there is to know; `load` reads it back), preferences.jsonl and
        thumbs.jsonl into `folder`.

        An earlier export there is replaced. The names are fixed, and a link of such a name is
        replaced, not followed, so nothing outside `folder` changes. Raises LabError when there is
        nothing to export or the folder can't be written.
        """
        judged = self.all()
        if not judged:
            raise LabError(f"There is nothing to export: {self.path} is empty. Rate something.")
        thumbs = [thumb(one) for one in self.ratings()]
        parts = {"ratings": judged, "preferences": self.pairs(), "thumbs": thumbs}
        return {
            name: data.save_jsonl(part, Path(folder) / f"{name}.jsonl")
            for name, part in parts.items()
        }

    def load(self, source) -> int:
        """Import a file, whole or not at all; returns how many judgements were new, so that
        importing twice adds nothing.

        source: our ratings.jsonl, preferences (text, messages or hh-rlhf's whole dialogues),
        thumbs, PandaLM's file (its three annotators are three raters), or a Hub data set of these
        forms. Raises LabError that names the lines which can't be used, also those that say
        something else than the rating which has their id.
        """
        with self._lock, self._told():
            every = self._db.execute(f"SELECT {COLUMNS} FROM feedback").fetchall()
        known, seen = {one.id: one for one in map(self._read, every)}, Counter()

        def read(row):
            return [fitting(recognised(one, seen), known) for one in in_row(row)]

        return self.extend(one for row in data.load(str(source), read) for one in row)

    # --- SQLite ---

    def _prepare(self):
        """Make the tables that are not there. The header comes with them, in one commit."""
        if self._version() < VERSION:
            with self._transaction() as db:
                for table in TABLES[self._version() :]:  # another process may have been quicker
                    db.execute(table)
                    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    db.execute(f"PRAGMA user_version = {VERSION}")
        if self._version() != VERSION:
            raise LabError(
                f"{self.path} was written by a newer labkit (version {self._version()} of the"
                f" tables; this one knows {VERSION}). Update labkit, or name another file; nothing"
                " in it was changed."
            )

    def _version(self) -> int:
        return self._db.execute("PRAGMA user_version").fetchone()[0]

    @contextlib.contextmanager
    def _transaction(self):
        """The connection, inside a transaction that is on disk when the block ends and has left no
        trace when it fails.
        """
        with self._lock, self._told(UNSAVED):
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

    def _select(self, columns: str, rater=None, mode=None, more="TRUE", **values) -> list[tuple]:
        with self._lock, self._told():
            query = f"SELECT {columns} FROM feedback WHERE {WANTED} AND {more} ORDER BY number"
            return self._db.execute(query, {"rater": rater, "mode": mode} | values).fetchall()

    def _read(self, row) -> Feedback:
        return understood(self.path, row)

    def _told(self, lost=""):
        return told(self.path, lost)


def understood(path: Path, row) -> Feedback:
    """A row of the table, in the order of COLUMNS."""
    found = dict(zip(NAMES, row))
    try:
        return Feedback(**found | {key: json.loads(found[key]) for key in JSON})
    except (LabError, ValueError, TypeError) as error:
        raise LabError(
            f"{path} is damaged: its rating {found['id']!r} can't be read ({error}). {MEND}"
        ) from error


@contextlib.contextmanager
def told(path: Path, lost=""):
    """SQLite's and the system's errors as one sentence that says what to do. lost: what an error
    means for the work at hand.
    """
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        number = getattr(error, "errno", None)
        name = getattr(error, "sqlite_errorname", None) or f"errno {number}"
        advice = next(advice for starts, advice in ADVICE.items() if name.startswith(starts))
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise LabError(f"{path}: {advice.format(reason=reason, lost=lost)}") from error


UNSAVED = ", so this was not saved; all that was saved before is safe"
MEND = (
    "Nothing in it was changed. python -m labkit ratings rescue keeps a copy and makes a store of"
    " all that can still be read."
)
DAMAGED = f"The store is damaged ({{reason}}). {MEND}"
ADVICE = {  # by the beginning of SQLite's name for an error
    ("SQLITE_FULL", "errno 28"): "The disk is full{lost}. Free some space and do it again.",
    "SQLITE_IOERR": "The disk refused ({reason}){lost}. Check it and do it again.",
    "SQLITE_BUSY": (
        f"Another program has kept the store locked for {WAIT} s{{lost}}. Close it and do it again."
    ),
    "SQLITE_READONLY": "The file can't be written{lost}. Change its permissions.",
    ("SQLITE_CORRUPT", "SQLITE_NOTADB"): DAMAGED,
    "": "It can't be used as a store ({reason}). Name another file.",
}


def connect(path: Path) -> sqlite3.Connection:
    """A connection that waits for other writers and for the disk; transactions begin and end where
    the code says so.
    """
    db = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")  # what is withdrawn is overwritten, not only unlinked
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
    if not path.exists() or path.is_file() and path.stat().st_size == 0:
        return
    what = "a folder" if path.is_dir() else "another kind of file"
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


NETWORKS = frozenset(
    "9p afs beegfs ceph cifs fhgfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs3 nfs4 ocfs2 smb2 smb3"
    " smbfs webdav davfs sshfs s3fs gcsfuse rclone mfs".split()
)


def refuse_networks(path: Path):
    """Raise LabError for a place on a network file system: the write-ahead log needs memory that
    all who have the file open share, and two machines share none (https://sqlite.org/wal.html).
    """
    place = Path(path).resolve()
    mounted = psutil.disk_partitions(all=True)
    holding = [one for one in mounted if place.is_relative_to(one.mountpoint or "none")]
    *_, last = [None, *sorted(holding, key=lambda one: len(one.mountpoint))]  # the deepest, newest
    kind = last.fstype.lower() if last else ""
    if last and (kind.removeprefix("fuse.") in NETWORKS or "remote" in last.opts.split(",")):
        raise LabError(
            f"{path} lies on a network file system ({kind or 'remote'} at {last.mountpoint}), where"
            " ratings could be lost. Keep the store on a disk of this machine"
            ' (Store("/tmp/ratings.sqlite"), --store, or LABKIT_RUNS), and copy the closed file.'
        )


def inode(path: Path) -> int:
    """Which file stands under this name; 0 where none does."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def named(one: Feedback) -> Feedback:
    """A judgement with an id and a time."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return replace(one, id=one.id or str(uuid.uuid4()), time=one.time or now)


def closed_to(rater: str) -> str:
    """The mark that keeps a withdrawn rater out, and from which nobody reads the name."""
    return runs.digest([rater])


def withdrawn(db) -> set[str]:
    """The marks of all who have withdrawn."""
    return {mark for (mark,) in db.execute("SELECT rater FROM withdrawn")}


def admitted(db, many: list[Feedback]) -> list[Feedback]:
    """Those whose rater has not withdrawn."""
    marks = withdrawn(db)
    return [one for one in many if closed_to(one.rater) not in marks]


def insert(db, many: list[Feedback]) -> int:
    """Insert judgements whose ids are new; returns how many were."""
    before, values = db.total_changes, [asdict(one) for one in many]
    for row in values:
        row |= {key: json.dumps(row[key], ensure_ascii=False) for key in JSON}
    marks = ", ".join(f":{name}" for name in NAMES)
    db.executemany(
        f"INSERT INTO feedback ({COLUMNS}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING", values
    )
    return db.total_changes - before


# --- in and out ----------------------------------------------------------------------------------


def in_row(row: dict) -> list[Feedback]:
    """The judgements in one row of a file."""
    rater = row.get("rater") or "imported"
    if "verdict" in row:
        for name in NEEDED:
            if name not in row:
                raise rows.Bad(f'has no "{name}"')
        for name in row:
            if name not in NAMES:
                raise rows.Bad(f'has the unknown "{name}"')
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


def fitting(one: Feedback, known: dict) -> Feedback:
    """A judgement whose id is new, or is that of the same one: else it would go under unseen."""
    other = known.setdefault(one.id, one)
    if replace(one, time=one.time or other.time) != other:
        raise rows.Bad(
            f'has the "id" {one.id!r:.60} of a rating that says something else. Take the id away to'
            " import both"
        )
    return one


def recognised(one: Feedback, seen: Counter) -> Feedback:
    """A judgement with an id: where the file has none, one made of what it says and of how often
    (`seen`) that was said before, so that it is the same at the next import.
    """
    if one.id:
        return one
    said = json.dumps(asdict(one), sort_keys=True)
    seen[said] += 1
    return replace(one, id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seen[said]} {said}")))


def thumb(rating: Rating) -> dict:
    """A rating under TRL's names."""
    return {"prompt": rating.prompt, "completion": rating.response, "label": rating.label}


def dataset(found: list[dict], otherwise: str):
    if not found:
        raise LabError(f"There is {otherwise} first.")
    import datasets

    return datasets.Dataset.from_list(found)
