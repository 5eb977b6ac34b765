"""What is left of a damaged store: every rating that can still be read, in a new one, beside a copy
of the file as it was.
"""

import contextlib
import shutil
import sqlite3
import tempfile
from itertools import count
from pathlib import Path

from labkit import LabError, runs
from labkit.config import expanded
from labkit.feedback.store import NAMES, Store, inode


def rescue(path=None) -> dict:
    """Make a damaged store whole again, with all that can be read of it.

    path: the file [runs/feedback.sqlite]. Returns {"rescued", "unreadable", "copy", "store"}: how
    many ratings came over, how many numbers up to the last one did not, where the damaged file was
    copied to, byte for byte, and the store. LabError, with nothing changed, for a store that is
    whole or of a newer labkit, and where no rating can be read. Nobody may have it open.
    """
    path = expanded(path or runs.root() / "feedback.sqlite").absolute()
    if not inode(path):
        raise LabError(f"There is no store {path}. Name the file to rescue.")
    refuse_whole(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".rescue-") as aside:
        made, scratch = Path(aside, "made"), Path(aside, "scratch")
        copied(path, scratch)  # SQLite writes into what it opens
        with scratch.open("r+b") as file:  # a file that was cut: SQLite refuses all of it
            head = file.read(32)
            size, pages = (int.from_bytes(head[a:b], "big") for a, b in ((16, 18), (28, 32)))
            file.truncate(max(scratch.stat().st_size, min(size * pages, 10**10)))
        with contextlib.closing(Store(made)) as store:
            found, missing = brought_over(scratch, store)
        if not found:
            raise LabError(
                f"{path} holds no rating that can be read. Nothing in it was changed. Restore a"
                " copy of it, or name another file."
            )
        names = (path.with_name(f"{path.stem}.damaged-{n}{path.suffix}") for n in count(1))
        copy = next(name for name in names if not name.exists())
        copied(path, copy)
        for part in ("-wal", "-shm"):  # else the new store would be read with the old log
            Path(f"{path}{part}").unlink(missing_ok=True)
        made.replace(path)
    return {"rescued": found, "unreadable": missing, "copy": str(copy), "store": str(path)}


def refuse_whole(path: Path):
    """LabError for a store that needs no rescue, or that this labkit can't read."""
    try:
        with contextlib.closing(Store(path)) as store:
            store.all()
    except LabError as error:
        if "newer labkit" in str(error):
            raise
        return
    raise LabError(f"{path} is whole: there is nothing to rescue.")


def brought_over(file: Path, store: Store) -> tuple[int, int]:
    """(how many ratings came over, how many did not). Row by row, by number: where one page can't
    be read, the next may.
    """
    with contextlib.closing(sqlite3.connect(file)) as damaged, store._transaction() as db:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if not table.startswith("sqlite_"):
                columns = [one[1] for one in db.execute(f"PRAGMA table_info({table})")]
                for row in rows_of(damaged, file, table, columns):
                    if table != "feedback" or readable(store, dict(zip(columns, row))):
                        marks = ", ".join("?" * len(columns))
                        db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
        found, last = db.execute("SELECT count(*), max(number) FROM feedback").fetchone()
    return found, max(last or 0, found) - found


def rows_of(db, file: Path, table: str, columns: list):
    """The rows of a table that SQLite can still read."""
    last = file.stat().st_size // 40  # no row takes less
    with contextlib.suppress(sqlite3.Error):
        found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        last = found[0] if found else last
    for number in range(1, min(last, 10**7) + 1):
        with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
            query = f"SELECT {', '.join(columns)} FROM {table} WHERE rowid = ?"
            yield from db.execute(query, (number,)).fetchall()


def readable(store: Store, row: dict) -> bool:
    """Whether a row still says something that a rater can have said."""
    try:
        return bool(store._read([row[name] for name in NAMES]))
    except LabError:
        return False


def copied(store: Path, to: Path):
    """A copy of a store, with SQLite's log, which holds what was written last."""
    shutil.copyfile(store, to)
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(f"{store}-wal", f"{to}-wal")
