"""The store of ratings: nothing that was acknowledged is ever lost, nothing that is wrong ever gets
in, and no other file is touched.
"""

import ast
import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit
from labkit import LabError, data
from labkit.data import rows
from labkit.feedback import Feedback, Store
from labkit.feedback import store as store_module

PAIR = Feedback("台灣最高的山？", ("玉山", "泰山"), "pair", 0)
THUMB = Feedback("Gold?", ("A metal.",), "thumb", True)
RANK = Feedback("Q", ("a", "b", "c", "d"), "rank", (2, 0, 3, 1))

thorough = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@pytest.fixture
def store(tmp_path):
    with contextlib.closing(Store(tmp_path / "feedback.sqlite")) as store:
        yield store


@contextlib.contextmanager
def passing_store():
    """A store in a folder of its own, for tests that make many."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(Store(Path(folder, "f.sqlite"))) as store,
    ):
        yield store


def snapshot(folder: Path) -> dict:
    """Every file under a folder with its bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def version(path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def writer(*arguments, **options):
    """A process that adds ratings until it is stopped and prints the id of each when `add` has
    returned.
    """
    code = """
import sys
from labkit.feedback import Feedback, Store
from labkit.feedback import store as store_module
path, rater, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store(path)
for i in range(count):
    print(store.add(Feedback(f"question {i}", ("a" * 300, "b"), "pair", i % 2, rater=rater)).id, flush=True)
"""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(labkit.__file__).parents[1],
        **options,
    )


# --- judgements ----------------------------------------------------------------------------------


def test_lists_become_tuples_and_whole_seconds_a_float():
    one = Feedback(
        "Q", ["a", "b", "c"], "rank", [2, 0, 1], shown=[1, 0, 2], tags=["wordy"], seconds=3
    )
    assert (one.responses, one.verdict, one.shown, one.tags) == (
        ("a", "b", "c"),
        (2, 0, 1),
        (1, 0, 2),
        ("wordy",),
    )
    assert type(one.seconds) is float


WRONG = {
    "an unknown mode": (dict(mode="poll"), "\"mode\" is 'poll'"),
    "a third response": (
        dict(responses=("a", "b", "c")),
        '"responses" holds 3, but mode "pair" needs 2',
    ),
    "no second response": (
        dict(mode="rank", responses=("a",), verdict=(0,)),
        'mode "rank" needs 2 or more',
    ),
    "responses as one text": (dict(responses="ab"), "\"responses\" is 'ab', but it must be a list"),
    "a number for a text": (
        dict(responses=("a", 1)),
        r'"responses\[1\]" is 1, but it must be text',
    ),
    "half a character": (dict(prompt="\ud83d"), '"prompt" holds half a character'),
    "True for 1": (dict(verdict=True), '"verdict" is True, which says nothing in mode "pair"'),
    "1 for True": (dict(mode="thumb", responses=("a",), verdict=1), '"verdict" is 1'),
    "a third side": (dict(verdict=2), '"verdict" is 2'),
    "no verdict": (dict(verdict=None), '"verdict" is None'),
    "same in a ranking": (dict(mode="rank", verdict="same"), "\"verdict\" is 'same'"),
    "a rank twice": (dict(mode="rank", verdict=(0, 0)), r'"verdict" is \(0, 0\)'),
    "eleven of ten": (dict(mode="scale", verdict=(1, 11)), r'"verdict" is \(1, 11\)'),
    "one score for two": (dict(mode="scale", verdict=(1,)), r'"verdict" is \(1,\)'),
    "a side twice": (
        dict(shown=(0, 0)),
        r'"shown" is \(0, 0\), but it must hold each of 0 to 1 once',
    ),
    "a true side": (dict(shown=(True, False)), '"shown" is'),
    "one source for two": (dict(sources=("ppo",)), '"sources" holds 1, but there are 2'),
    "time that runs backwards": (dict(seconds=-1), '"seconds" is -1'),
    "endless seconds": (dict(seconds=float("inf")), '"seconds" is inf'),
    "no number of seconds": (dict(seconds=float("nan")), '"seconds" is nan'),
    "a day of the week": (dict(time="Friday"), "\"time\" is 'Friday'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_says_nothing_is_refused(wrong):
    changes, message = WRONG[wrong]
    with pytest.raises(LabError, match=message):
        replace(PAIR, **changes)


def test_a_ranking_gives_all_its_pairs():
    assert RANK.worth() == [-1, -3, 0, -2]
    assert {(pair.chosen, pair.rejected) for pair in RANK.pairs()} == {
        ("c", "a"),
        ("c", "d"),
        ("c", "b"),
        ("a", "d"),
        ("a", "b"),
        ("d", "b"),
    }


def test_what_the_other_modes_give():
    def given_by(mode, verdict, responses=("a", "b")):
        return [
            (pair.chosen, pair.rejected) for pair in Feedback("Q", responses, mode, verdict).pairs()
        ]

    assert given_by("pair", 0) == [("a", "b")] and given_by("pair", 1) == [("b", "a")]
    assert given_by("regenerated", 1) == [("b", "a")]  # Better: the new one, responses[1]
    assert given_by("pair", "same") == given_by("pair", "skip") == given_by("rank", "skip") == []
    assert given_by("scale", (3, 9)) == [("b", "a")] and given_by("scale", (5, 5)) == []
    assert given_by("scale", (2, 7, 7), ("a", "b", "c")) == [("b", "a"), ("c", "a")]
    assert given_by("thumb", True, ("a",)) == given_by("scale", (7,), ("a",)) == []
    assert (
        given_by("pair", 0, ("a", "")) == given_by("pair", 0, ("a", " a\n")) == []
    )  # nothing to train on


# --- the store -----------------------------------------------------------------------------------


def test_add_undo_and_read(store):
    first, second, third = store.add(PAIR), store.add(THUMB), store.add(replace(RANK, rater="you"))
    assert (
        PAIR.id == ""
        and len({first.id, second.id, third.id}) == 3
        and first.time.endswith("+00:00")
    )
    assert replace(first, id="", time="") == PAIR
    assert store.all() == [first, second, third] and len(store) == 3
    assert store.all(rater="you") == [third] and store.all(mode="thumb") == [second]
    assert store.all(rater="you", mode="thumb") == store.all(rater="nobody") == []
    assert store.undo(rater="me") == second and store.all() == [first, third] and len(store) == 2
    assert store.undo(rater="nobody") is None
    assert (store.undo(), store.undo(), store.undo()) == (third, first, None) and len(store) == 0
    with contextlib.closing(sqlite3.connect(store.path)) as db:  # nothing is ever deleted
        assert db.execute("SELECT count(*) FROM feedback WHERE undone").fetchone() == (3,)


def test_an_id_comes_once(store):
    kept = store.add(PAIR)
    with pytest.raises(LabError, match="already"):
        store.add(kept)
    assert store.extend([kept, THUMB]) == 1 and len(store) == 2


def test_pairs_and_ratings(store):
    for one in (
        PAIR,
        THUMB,
        RANK,
        replace(PAIR, verdict="skip"),
        replace(THUMB, verdict="skip"),
        replace(THUMB, rater="you", verdict=False),
    ):
        store.add(one)
    assert (
        store.pairs()[0] == rows.Pair("台灣最高的山？", "玉山", "泰山", "me")
        and len(store.pairs()) == 1 + 6
    )
    assert store.ratings() == [
        rows.Rating("Gold?", "A metal.", True),
        rows.Rating("Gold?", "A metal.", False),
    ]
    assert (
        store.ratings("you") == [rows.Rating("Gold?", "A metal.", False)]
        and store.pairs("you") == []
    )


def test_the_store_lies_in_the_runs_folder(empty_runs):
    Store().add(PAIR)
    assert len(Store()) == len(Store(empty_runs / "feedback.sqlite")) == 1


def test_every_commit_waits_for_the_disk(store):
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_threads_share_a_store(store):
    threads = [
        threading.Thread(target=lambda: [store.add(THUMB) for _ in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 80


def test_a_store_that_went_away_takes_nothing(store):
    store.add(PAIR)
    store.path.rename(store.path.with_name("moved.sqlite"))
    with pytest.raises(LabError, match="was deleted or replaced while it was open"):
        store.add(PAIR)
    other = Store(store.path)
    with pytest.raises(LabError, match="was deleted or replaced while it was open"):
        store.add(PAIR)
    other.add(THUMB)
    assert len(other) == 1
    other.close()


# --- killed, crowded, full -----------------------------------------------------------------------


def test_kill_9_at_50_random_moments(tmp_path):
    chance, path, acknowledged = random.Random(0), tmp_path / "feedback.sqlite", []
    for _ in range(10):
        processes = [writer(path, f"rater {i}", 10**6) for i in range(5)]
        firsts = [process.stdout.readline() for process in processes]  # all are at work
        for process in chance.sample(processes, 5):
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
        for process, first in zip(processes, firsts, strict=True):
            said = first + process.communicate()[0]
            assert process.returncode == -signal.SIGKILL
            acknowledged += said[: said.rfind("\n")].split("\n")
    with contextlib.closing(Store(path)) as store:
        kept = {one.id for one in store.all()}
        assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        store.add(PAIR)
    assert len(acknowledged) > 500 and set(acknowledged) <= kept
    assert (
        len(kept) <= len(acknowledged) + 50
    )  # of each process at most the one that it was killed in


def test_kill_9_while_a_store_is_made(tmp_path):
    chance = random.Random(0)
    ready = writer(tmp_path / "first", "me", 1)
    started = time.monotonic()
    assert ready.communicate()[0]
    whole = time.monotonic() - started
    for i in range(8):
        process = writer(tmp_path / f"{i}.sqlite", "me", 10**6)
        time.sleep(chance.uniform(0.5, 1) * whole)
        process.kill()
        said = process.communicate()[0].split("\n")[:-1]
        with contextlib.closing(Store(tmp_path / f"{i}.sqlite")) as store:
            assert set(said) <= {one.id for one in store.all()}


def test_a_store_torn_while_it_was_made_is_made_again(store, tmp_path):
    """SQLite writes the first page first: a kill after it leaves our header, pages that are
    missing, and a journal that takes it back.
    """
    store.close()
    path, page = tmp_path / "torn.sqlite", 4096
    path.write_bytes(store.path.read_bytes()[:page])
    header = [0, 0, 0, 512, page]  # records, checksum seed, pages before, sector, page
    journal = bytes.fromhex("d9d505f920a163d7") + b"".join(n.to_bytes(4, "big") for n in header)
    (tmp_path / "torn.sqlite-journal").write_bytes(journal.ljust(512, b"\0"))
    with contextlib.closing(Store(path)) as again:
        assert len(again) == 0 and again.add(PAIR) == again.all()[0]


def test_opening_a_store_twice_keeps_the_first_ones_locks(store):
    """A raw open and close of the file would drop them; another process would then take the log
    away while we write to it.
    """
    kept = store.add(PAIR)
    Store(store.path).close()
    assert writer(store.path, "other", 1).communicate()[0]
    assert store.path.with_name("feedback.sqlite-wal").exists()
    last = store.add(THUMB)
    assert (store.all()[0], store.all()[2]) == (kept, last) and len(Store(store.path)) == 3


def test_two_processes_with_1000_ratings_each(tmp_path):
    path = tmp_path / "feedback.sqlite"
    processes = [writer(path, rater, 1000) for rater in ("one", "two")]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    with contextlib.closing(Store(path)) as store:
        assert len(store) == 2000
        for rater, ids in zip(("one", "two"), said):
            assert [one.id for one in store.all(rater=rater)] == ids and len(ids) == 1000


def test_opening_waits_for_another_who_is_making_the_store(store):
    """The turn to WAL is the one place where SQLite does not wait by itself."""
    store.close()
    with contextlib.closing(
        sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
    ) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.2, other.execute, ["ROLLBACK"])
        release.start()
        with contextlib.closing(Store(store.path)) as waited:
            assert waited._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        release.join()


def test_a_full_disk_is_told_and_loses_nothing(store):
    kept = [store.add(PAIR) for _ in range(3)]
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(
        f"PRAGMA max_page_count = {pages}"
    )  # SQLite's own way to say that there is no more room
    large = replace(PAIR, note="x" * 50_000)
    with pytest.raises(
        LabError, match="The disk is full, so this was not saved; all that was saved before is safe"
    ):
        store.add(large)
    with pytest.raises(LabError, match="The disk is full"):
        store.extend([THUMB] * 20 + [large])
    assert store.all() == kept
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.add(large) == store.all()[-1] and len(store) == 4


@pytest.mark.skipif(os.name == "nt", reason="no file size limits")
def test_a_disk_that_refuses_to_write_loses_nothing(tmp_path):
    """Writes fail for real: this process may not make a file longer than 500 kB."""
    code = """
import resource, sys
from labkit import LabError
from labkit.feedback import Feedback, Store
from labkit.feedback import store as store_module
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
store = Store(sys.argv[1])
try:
    while True:
        print(store.add(Feedback("p", ("a" * 3000,), "thumb", True)).id, flush=True)
except LabError as error:
    print(len(store), error)
"""
    path = tmp_path / "feedback.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        cwd=Path(labkit.__file__).parents[1],
    )
    *ids, last = done.stdout.strip().split("\n")
    assert done.returncode == 0 and len(ids) > 10, done.stderr
    assert last.startswith(f"{len(ids)} {path}: The disk ") and "so this was not saved" in last
    with contextlib.closing(Store(path)) as store:
        assert [one.id for one in store.all()] == ids


def test_a_locked_store_is_told(store, monkeypatch):
    store._db.execute("PRAGMA busy_timeout = 50")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LabError, match="Another program has kept the store locked"):
            store.add(PAIR)
        assert len(store) == 0  # reading goes on
        other.execute("ROLLBACK")
    store.add(PAIR)


# --- other files ---------------------------------------------------------------------------------


def sqlite_file(path, wal=False):
    db = sqlite3.connect(path, isolation_level=None)
    if wal:
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE feedback (id TEXT)")
    db.execute("INSERT INTO feedback VALUES ('mine')")
    return db


@pytest.mark.parametrize(
    "kind", ["text", "picture", "database", "database in WAL", "nearly", "folder"]
)
def test_a_file_that_is_no_store_is_refused_untouched(kind, tmp_path):
    path, db = tmp_path / "mine.sqlite", None
    if kind == "folder":
        path.mkdir()
    elif kind.startswith("database"):
        db = sqlite_file(path, wal="WAL" in kind)
    else:
        path.write_bytes(
            {"text": b"Dear diary", "picture": b"\x89PNG" * 50, "nearly": b"SQLite format 3\0"}[
                kind
            ]
        )
    before = snapshot(tmp_path)
    with pytest.raises(LabError, match="is not a store of ratings but .*nothing in it was changed"):
        Store(path)
    assert snapshot(tmp_path) == before
    if db:
        assert db.execute("SELECT * FROM feedback").fetchall() == [("mine",)]
        db.close()


def test_a_damaged_store_is_told(store):
    store.extend([replace(PAIR, note=str(i)) for i in range(300)])
    store.close()
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[:4096] + b"\xff" * 8192 + whole[12288:])
    with pytest.raises(LabError, match="damaged"):
        Store(store.path).all()
    store.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LabError, match="damaged"):
        Store(store.path).all()
    store.path.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE feedback SET verdict = '7' WHERE number = 3")
    with pytest.raises(LabError, match=r"damaged: its rating .* can't be read"):
        Store(store.path).all()


def test_a_place_that_cant_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LabError, match="can't be used as a store"):
        Store(tmp_path / "file" / "feedback.sqlite")


def test_an_older_store_is_brought_up_to_date_and_a_copy_kept(store, monkeypatch):
    kept = [store.add(PAIR), store.add(RANK)]  # still in the log: the store is open
    monkeypatch.setattr(
        store_module,
        "STEPS",
        [*store_module.STEPS, "ALTER TABLE feedback ADD COLUMN mood TEXT NOT NULL DEFAULT ''"],
    )
    with contextlib.closing(Store(store.path)) as newer:
        assert newer.all() == kept and version(store.path) == 2
        (copy,) = store.path.parent.glob("feedback-v1-*.sqlite")
        newer.add(THUMB)
    monkeypatch.undo()
    assert version(copy) == 1
    with contextlib.closing(Store(copy)) as older:
        assert older.all() == kept
    with pytest.raises(
        LabError, match=r"newer labkit \(version 2 of the table; this one knows 1\)"
    ):
        Store(store.path)


def test_a_step_that_fails_changes_nothing(store, monkeypatch):
    kept = store.add(PAIR)
    monkeypatch.setattr(
        store_module,
        "STEPS",
        [
            *store_module.STEPS,
            "ALTER TABLE feedback ADD COLUMN mood TEXT",
            "CREATE TABLE feedback (x)",
        ],
    )
    with pytest.raises(LabError, match="can't be used as a store"):
        Store(store.path)
    monkeypatch.undo()
    assert version(store.path) == 1 and store.all() == [kept]
    assert "mood" not in store._db.execute("SELECT sql FROM sqlite_master").fetchone()[0]


def test_a_copy_that_fails_leaves_the_store_as_it_was(store, monkeypatch):
    kept = store.add(PAIR)
    monkeypatch.setattr(
        store_module, "STEPS", [*store_module.STEPS, "ALTER TABLE feedback ADD COLUMN mood TEXT"]
    )
    monkeypatch.setattr(
        Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(LabError, match="The disk is full"):
        Store(store.path)
    monkeypatch.undo()
    assert store.all() == [kept] and [p.name for p in store.path.parent.glob("*.tmp")] == []


def test_nothing_is_pickled():
    names = {"pickle", "dill", "shelve", "marshal", "joblib", "cloudpickle"}
    for file in Path(labkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf8"))):
            imported = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [getattr(node, "module", "")]
            )
            assert not names & {str(name).split(".")[0] for name in imported}, file


# --- out and in ----------------------------------------------------------------------------------

text = st.text(max_size=30)


@st.composite
def judgement(draw):
    """Any judgement over any text."""
    mode = draw(st.sampled_from(list(store_module.MODES)))
    n = {"pair": 2, "regenerated": 2, "thumb": 1}.get(mode) or draw(
        st.integers(2 if mode == "rank" else 1, 5)
    )
    verdict = {
        "thumb": st.booleans(),
        "rank": st.permutations(range(n)),
        "scale": st.lists(st.integers(1, 10), min_size=n, max_size=n),
    }.get(mode, st.sampled_from([0, 1, "same"]))
    order = st.permutations(range(n))
    return Feedback(
        prompt=draw(text),
        responses=draw(st.lists(text, min_size=n, max_size=n)),
        mode=mode,
        verdict=draw(st.just("skip") | verdict),
        rater=draw(text),
        shown=draw(st.just(()) | order),
        tags=draw(st.lists(text, max_size=3)),
        note=draw(text),
        seconds=draw(st.floats(0, 1e6)),
        sources=draw(st.just(()) | st.lists(text, min_size=n, max_size=n)),
    )


@thorough
@given(st.lists(judgement(), min_size=1, max_size=6))
def test_export_and_import_keep_everything(many):
    with passing_store() as one, passing_store() as other:
        kept = [one.add(judged) for judged in many]
        assert one.all() == kept
        assert [replace(judged, id="", time="") for judged in kept] == many
        paths = one.export(one.path.parent / "out")
        assert other.load(paths["ratings"]) == len(many) and other.all() == kept
        assert (
            other.load(paths["ratings"]) == 0
            and one.load(paths["ratings"]) == 0
            and len(other) == len(many)
        )
        if one.pairs():  # what is exported for training loads for training
            assert data.load_pairs(str(paths["preferences"])) == [
                replace(p, rater=p.rater) for p in one.pairs()
            ]
        if one.ratings():
            assert data.load_ratings(str(paths["thumbs"])) == one.ratings()


VALID = [json.dumps(vars(replace(one, id=str(i)))) for i, one in enumerate((PAIR, THUMB, RANK))] + [
    json.dumps({"prompt": "Q", "chosen": "a", "rejected": "b"}),
    json.dumps(
        {"chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"}
    ),
    json.dumps({"prompt": "Q", "completion": "a", "label": True}),
    json.dumps(
        {
            "instruction": "Q",
            "input": "",
            "response1": "a",
            "response2": "b",
            "annotator1": 0,
            "annotator2": 1,
            "annotator3": 2,
        }
    ),
]
json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def fuzzed(draw):
    """A good file with one bad turn: bytes, a line, or a value under a known name."""
    lines = draw(st.permutations(VALID))
    where = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["bytes", "line", "value", "missing", "cut"]))
    if kind in ("value", "missing"):
        row = json.loads(lines[where])
        name = draw(st.sampled_from(sorted(row)))
        del row[name]
        lines[where] = json.dumps(row | ({name: draw(json_value)} if kind == "value" else {}))
    elif kind == "line":
        lines[where] = (
            draw(st.text(max_size=20)) if draw(st.booleans()) else json.dumps(draw(json_value))
        )
    raw = "\n".join(lines).encode("utf8", "surrogatepass")
    if kind == "bytes":
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 4)) :]
    return raw[: draw(st.integers(0, len(raw)))] if kind == "cut" else raw


@settings(thorough, max_examples=300)
@given(fuzzed())
def test_a_fuzzed_file_comes_in_whole_or_not_at_all(raw):
    with passing_store() as store:
        kept = store.add(replace(PAIR, id="kept"))
        file = store.path.with_name("mine.jsonl")
        file.write_bytes(raw)
        try:
            new = store.load(file)
        except LabError as error:
            assert store.all() == [kept]
            assert re.search(r"(line|record) \d|mine.jsonl (is|can't be read)", str(error)), str(
                error
            )
        else:
            assert len(store) == 1 + new and store.load(file) == 0


def lines_of(file, *lines):
    file.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines),
        "utf8",
    )
    return file


def test_a_bad_line_is_named_and_nothing_comes_in(store, tmp_path):
    good, file = json.loads(VALID[0]), tmp_path / "mine.jsonl"
    for bad, reason in (
        ('{"prompt": ', "broken JSON"),
        ("[1]", "a list, but must be an object"),
        (
            {**good, "verdict": 7},
            '"verdict" is 7, which says nothing in mode "pair" with 2 responses',
        ),
        ({**good, "prompt": None}, '"prompt" is None, but it must be text'),
        ({**good, "mood": 1}, 'has the unknown "mood"'),
        ({"prompt": "Q", "verdict": 1}, 'has no "responses"'),
        ({"prompt": "Q"}, 'has no "chosen"'),
        (
            {"prompt": "Q", "completion": "a", "label": "yes"},
            '"label" is text, but must be true or false',
        ),
        ({"annotator1": 1.0, "annotator2": 1, "annotator3": 1}, "annotator1 to 3 are [1.0, 1, 1]"),
    ):
        with pytest.raises(LabError) as caught:
            store.load(lines_of(file, *VALID, bad, *VALID))
        assert f"line {len(VALID) + 1}: {reason}" in str(caught.value) and len(store) == 0
    with pytest.raises(LabError, match="line 2, 4: broken JSON"):
        store.load(lines_of(file, VALID[0], "{", VALID[1], "{"))


def test_preferences_from_elsewhere(store, tmp_path):
    file = lines_of(
        tmp_path / "mine.jsonl",
        {"prompt": "Q", "chosen": "a", "rejected": "b"},
        {"prompt": "Q", "chosen": "a", "rejected": "b"},  # asked and answered twice
        {"prompt": "Q", "chosen": "a", "rejected": "b", "rater": "you"},
        {"chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"},
        {"prompt": "Q", "response": "a", "label": False},
    )
    assert store.load(file) == 5 and store.load(file) == 0
    judged = store.all()
    assert [one.rater for one in judged] == ["imported", "imported", "you", "imported", "imported"]
    assert all(
        (one.mode, one.responses, one.verdict) == ("pair", ("a", "b"), 0) for one in judged[:4]
    )
    assert store.ratings() == [rows.Rating("Q", "a", False)]


def test_what_was_undone_is_not_exported_and_not_imported_again(store, tmp_path):
    store.add(PAIR)
    paths = store.export(tmp_path / "before")
    store.add(THUMB)
    store.undo()
    assert [
        json.loads(line)["mode"]
        for line in store.export(tmp_path / "after")["ratings"].read_text("utf8").splitlines()
    ] == ["pair"]
    store.undo()
    assert store.load(paths["ratings"]) == 0 and len(store) == 0
    with pytest.raises(LabError, match="There is nothing to export"):
        store.export(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_export_writes_into_its_folder_alone(store, tmp_path):
    store.add(replace(PAIR, rater="../../you", tags=("/etc/passwd",), sources=("../x", "y")))
    outside, out = tmp_path / "outside.txt", tmp_path / "out"
    outside.write_text("mine")
    out.mkdir()
    (out / "ratings.jsonl").symlink_to(outside)
    (out / "preferences.jsonl").symlink_to(tmp_path / "not there")
    before = snapshot(tmp_path)
    paths = store.export(out)
    after = snapshot(tmp_path)
    assert outside.read_text() == "mine" and not (tmp_path / "not there").exists()
    assert {p for p in after if after[p] != before.get(p) and "-shm" not in p.name} == {
        out / f"{name}.jsonl" for name in ("ratings", "preferences", "thumbs")
    }
    assert set(paths) == {"ratings", "preferences", "thumbs"} and not any(
        path.is_symlink() for path in paths.values()
    )
    with pytest.raises(LabError, match="was not written"):
        store.export(outside)
    assert outside.read_text() == "mine"


def test_the_three_annotators_of_pandalm(store):
    folder = Path(
        os.environ.get("LABKIT_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data"
    )
    if not (folder / "pandalm_human_pairs.json.gz").exists():
        pytest.skip(f"no real data in {folder} (set LABKIT_REAL_DATA)")
    assert store.load(folder / "pandalm_human_pairs.json.gz") == 3 * 999
    assert store.load(folder / "pandalm_human_pairs.json.gz") == 0
    assert {one.rater for one in store.all()} == {"annotator1", "annotator2", "annotator3"}
    assert all(isinstance(text, str) for one in store.all() for text in one.responses)


@pytest.mark.parametrize("method", ["reward", "dpo", "kto"])
def test_trl_takes_the_ratings_as_they_are(method, store, tiny_base, tmp_path):
    import trl
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    for i in range(4):
        store.add(replace(PAIR, verdict=i % 2))
        store.add(replace(THUMB, verdict=i < 2))
    kind = AutoModelForSequenceClassification if method == "reward" else AutoModelForCausalLM
    tokenizer = AutoTokenizer.from_pretrained(tiny_base.path)
    model = kind.from_pretrained(
        tiny_base.path, **({"num_labels": 1} if method == "reward" else {})
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    name = {"reward": "Reward", "dpo": "DPO", "kto": "KTO"}[method]
    cfg = getattr(trl, f"{name}Config")(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        bf16=False,
        use_cpu=True,
    )
    dataset = store.unpaired_dataset() if method == "kto" else store.preference_dataset()
    done = getattr(trl, f"{name}Trainer")(
        model=model, args=cfg, train_dataset=dataset, processing_class=tokenizer
    ).train()
    assert done.global_step == 1 and done.training_loss > 0


def test_a_dataset_of_nothing_is_told(store):
    for make in (store.preference_dataset, store.unpaired_dataset):
        with pytest.raises(LabError, match="There is no"):
            make()
