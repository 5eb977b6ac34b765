"""Many stores, one: thirty laptops, or the homes of a JupyterHub.

    merge(["amy.sqlite", "bo.sqlite"], "class.sqlite")

A merge is a union, so that neither the order of the stores nor a second merge changes anything:

- the same id is the same rating, and so are two ids under which one rater says the same of the same
  item at the same time (a file without ids was imported somewhere);
- taken back in one store is taken back, withdrawn from one is withdrawn from all;
- all else is kept. Where a rater judged an item twice, alike or otherwise, both stay, in the order
  of their times: `agreement` compares first with first, and counts the second as consistency.

Stores are only read. All are, whole, before the one is written, in a single transaction.
"""

import contextlib
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from labkit import LabError
from labkit.feedback.store import (
    COLUMNS,
    VERSION,
    Feedback,
    Store,
    closed_to,
    insert,
    refuse_networks,
    refuse_strangers,
    told,
    understood,
    withdrawn,
)

NOBODY = "me"  # the name that panels.rate gives whoever sits there
AT_ONCE = 10  # seconds: nobody clicks on two machines within them


@dataclass
class Part:
    """What one store holds. ratings: {id: judgement}; undone: the ids that were taken back."""

    path: Path
    ratings: dict[str, Feedback]
    undone: set[str]
    withdrawn: set[str]


def merge(stores, into) -> dict:
    """Merge the files `stores` into the store `into`, which is made where there is none.

    Returns {"new", "count", "copies", "again", "conflicts", "withdrawn", "shared"}: ratings that
    came in and that there are; ratings that several stores hold; items that a rater judged more
    than once, alike and otherwise; ratings left out or taken out because their raters withdrew; and
    `shared_names`. Raises LabError that names the file, with nothing written, for a store that
    can't be read whole, for a rating of which two stores tell different things, and where "me"
    rated in more than one of them.
    """
    into, *paths = dict.fromkeys(Path(path).expanduser().absolute() for path in (into, *stores))
    parts = [read(path) for path in paths]
    union(parts)  # what they hold fits together: only then a new store is made
    refuse_nobody(parts)
    kept = Store(into)
    with contextlib.closing(kept), kept._transaction() as db:
        mine = look(into, db)
        refuse_nobody([*parts, mine])
        rows, undone, marks = union([*parts, mine])
        db.execute("DELETE FROM feedback")
        insert(db, rows)
        db.executemany("UPDATE feedback SET undone = 1 WHERE id = ?", ((id,) for id in undone))
        db.executemany("INSERT OR IGNORE INTO withdrawn VALUES (?)", ((mark,) for mark in marks))
    stand = [one for one in rows if one.id not in undone]
    alike, otherwise = judged_again(stand)
    every = [one for part in (*parts, mine) for one in part.ratings.values()]
    return {
        "store": str(into),
        "count": len(stand),
        "new": len({one.id for one in rows} - mine.ratings.keys()),
        "copies": len(every) - len({one.id for one in every}),
        "again": alike,
        "conflicts": otherwise,
        "withdrawn": len({one.id for one in every if closed_to(one.rater) in marks}),
        "shared": list((shared_names([*parts, mine]) | shared_names(parts)).values()),
    }


def read(path: Path) -> Part:
    """A store as it is, which is not touched. LabError names it where it can't be read whole."""
    if not path.is_file():
        raise LabError(f"There is no store {path}. Name the files to merge.")
    refuse_strangers(path)
    # Without a log beside it nobody has it open, and SQLite may read it as if on read-only media;
    # else it takes its turn.
    open_now = path.with_name(path.name + "-wal").exists()
    if open_now:
        refuse_networks(path)
    how = "mode=ro" if open_now else "immutable=1"
    with told(path):
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?{how}", uri=True)) as db:
            return look(path, db)


def look(path: Path, db) -> Part:
    """What a connection's store holds; all of it can be read, or LabError."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise LabError(
            f"{path} was written by a newer labkit (version {version}). Update labkit; nothing was"
            " merged."
        )
    if not version:
        return Part(path, {}, set(), set())
    if (fault := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
        raise LabError(
            f"{path} is damaged ({' '.join(fault.split())}). Ask for another copy of it; nothing"
            " was merged."
        )
    found = db.execute(f"SELECT undone, {COLUMNS} FROM feedback").fetchall()
    ratings = [understood(path, row) for _, *row in found]
    undone = {one.id for one, (was, *_) in zip(ratings, found) if was}
    marks = withdrawn(db) if version > 1 else set()
    return Part(path, {one.id: one for one in ratings}, undone, marks)


def union(parts: list[Part]) -> tuple[list[Feedback], set[str], set[str]]:
    """(the judgements, oldest first, the ids of those taken back, the marks of who withdrew)."""
    known, undone = {}, set().union(*(part.undone for part in parts))
    for part in parts:
        for id, one in part.ratings.items():
            other, where = known.get(id, (one, part.path))
            if replace(one, time="") != replace(other, time=""):
                raise LabError(
                    f"{where} and {part.path} tell different things of the rating {id!r}"
                    f" ({where.name}: {other.rater!r}, {part.path.name}: {one.rater!r}): one of"
                    " them was changed. Leave the older out, or begin a new store; nothing was"
                    " merged."
                )
            known[id] = min((other, where), (one, part.path), key=lambda it: moment(it[0]))
    marks = set().union(*(part.withdrawn for part in parts))
    rows = {id: one for id, (one, _) in known.items() if closed_to(one.rater) not in marks}
    kept, undone = copies_apart(parts, rows, undone)
    return sorted(kept, key=lambda one: (moment(one), one.id)), undone, marks


def copies_apart(parts, rows: dict[str, Feedback], undone: set[str]) -> tuple[list, set[str]]:
    """(the judgements without copies under another id, the ids of those taken back). A store may
    hold one saying several times: its n-th is a copy of another store's n-th.
    """
    slots, smallest = defaultdict(set), {}
    for part in parts:
        seen = Counter()
        for id in sorted(part.ratings.keys() & rows.keys()):
            one = rows[id]
            says = one.rater, item(one), said(one), moment(one)
            slot = says, seen[says]
            seen[says] += 1
            slots[id].add(slot)
            smallest[slot] = min(id, smallest.get(slot, id))
    kept = set(smallest.values())
    gone = {smallest[slot] for id in undone - kept for slot in slots[id]}
    return [rows[id] for id in kept], gone | (undone & kept)


def moment(one: Feedback) -> datetime:
    """When it was said; a time without a zone is taken for UTC."""
    when = datetime.fromisoformat(one.time)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def item(one: Feedback) -> tuple:
    """What was judged, in whatever order the answers stood."""
    return one.mode, one.prompt, *sorted(one.responses)


def said(one: Feedback) -> tuple:
    """What a judgement says of its item, in whatever order the answers stood."""
    worth = one.worth() or [-1 if one.verdict == "skip" else one.verdict] * len(one.responses)
    return tuple(sorted(zip(one.responses, worth)))


def judged_again(rows: list[Feedback]) -> tuple[int, int]:
    """(items that their rater judged more than once and always alike, those not always)."""
    verdicts = defaultdict(list)
    for one in rows:
        verdicts[one.rater, item(one)].append(said(one))
    again = [found for found in verdicts.values() if len(found) > 1]
    alike = sum(len(set(found)) == 1 for found in again)
    return alike, len(again) - alike


def own(parts: list[Part]) -> dict[str, list[tuple[Part, list[Feedback]]]]:
    """{rater: [(store, the judgements that this store alone has)]}."""
    times = Counter(id for part in parts for id in part.ratings)
    found = defaultdict(list)
    for part in parts:
        alone = [one for one in part.ratings.values() if times[one.id] == 1]
        for name, some in groupby(sorted(alone, key=lambda one: one.rater), lambda one: one.rater):
            found[name].append((part, list(some)))
    return found


def shared_names(parts: list[Part]) -> dict[str, dict]:
    """Names that rate in several stores, each with judgements of its own: one person at two
    machines, or two people.

    {name: {"rater", "stores", "common", "differ", "at_once"}}: items that two of the stores hold of
    this name, those judged otherwise, and judgements within AT_ONCE seconds of one in another
    store, which one person cannot give.
    """
    return {
        name: {"rater": name, "stores": [str(part.path) for part, _ in apart], **compared(apart)}
        for name, apart in own(parts).items()
        if len(apart) > 1
    }


def compared(apart) -> dict:
    """The evidence of `shared_names` for one name."""
    rows = sorted(
        (
            (moment(one), n, item(one), said(one))
            for n, (_, some) in enumerate(apart)
            for one in some
        ),
        key=lambda row: row[:2],
    )
    verdicts = defaultdict(dict)
    for _, n, what, how in rows:
        verdicts[what].setdefault(n, how)
    common = [list(by.values()) for by in verdicts.values() if len(by) > 1]
    near = [
        two[1] != one[1] and (two[0] - one[0]).total_seconds() < AT_ONCE
        for one, two in zip(rows, rows[1:])
    ]
    differ = sum(len(set(each)) > 1 for each in common)
    return {"common": len(common), "differ": differ, "at_once": sum(near)}


def refuse_nobody(parts: list[Part]):
    """Raise LabError where "me" sat at several machines: those are several people."""
    apart = own(parts).get(NOBODY, ())
    if len(apart) > 1:
        raise LabError(
            f"{' and '.join(str(part.path) for part, _ in apart[:3])} hold ratings by {NOBODY!r},"
            " whoever that was. Name each first: python -m labkit ratings rename"
            f" {NOBODY} NAME --store FILE. Nothing was merged."
        )
