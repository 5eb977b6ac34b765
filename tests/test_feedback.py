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
from labkit.feedback.store import MODES

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


# What another process does: adds ratings, and prints the id of each when `add` has returned.
WRITER = """
import resource, sys
from labkit import LabError
from labkit.feedback import Feedback, Store
path, rater, count, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if limit:  # bytes; a longer file can't be written
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store = Store(path)
try:
    for i in range(count):
        one = Feedback(f"question {i}", ("a" * 300, "b"), "pair", i % 2, rater=rater)
        print(store.add(one).id, flush=True)
except LabError as error:
    print(len(store), error)
"""


def writer(path, rater="me", count=10**6, limit=0):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, (path, rater, count, limit))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(labkit.__file__).parents[1],
    )


# --- judgements ----------------------------------------------------------------------------------


def test_lists_become_tuples_and_whole_seconds_a_float():
    one = Feedback("Q", ["a", "b"], "rank", [1, 0], shown=[1, 0], tags=["wordy"], seconds=3)
    assert one == Feedback("Q", ("a", "b"), "rank", (1, 0), "me", (1, 0), ("wordy",), "", 3.0)
    assert type(one.seconds) is float


WRONG = {
    "an unknown mode": (dict(mode="poll"), '"mode" is'),
    "a third response": (dict(responses=("a", "b", "c")), "holds 3, .*needs 2"),
    "no second response": (dict(mode="rank", responses=("a",), verdict=(0,)), "needs 2 or more"),
    "responses as one text": (dict(responses="ab"), '"responses" is .*list'),
    "a number for a text": (dict(responses=("a", 1)), r'"responses\[1\]" is 1.*text'),
    "half a character": (dict(prompt="\ud83d"), '"prompt" holds half a character'),
    "True for 1": (dict(verdict=True), '"verdict" is True'),
    "1 for True": (dict(mode="thumb", responses=("a",), verdict=1), '"verdict" is 1'),
    "a third side": (dict(verdict=2), '"verdict" is 2'),
    "no verdict": (dict(verdict=None), '"verdict" is None'),
    "same in a ranking": (dict(mode="rank", verdict="same"), "\"verdict\" is 'same'"),
    "a rank twice": (dict(mode="rank", verdict=(0, 0)), '"verdict" is'),
    "eleven of ten": (dict(mode="scale", verdict=(1, 11)), '"verdict" is'),
    "one score for two": (dict(mode="scale", verdict=(1,)), '"verdict" is'),
    "a side twice": (dict(shown=(0, 0)), '"shown" is .*each of 0 to 1 once'),
    "a true side": (dict(shown=(True, False)), '"shown" is'),
    "one source for two": (dict(sources=("ppo",)), '"sources" holds 1'),
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


def test_what_each_mode_gives():
    def given_by(mode, verdict, responses="ab"):
        pairs = Feedback("Q", tuple(responses), mode, verdict).pairs()
        return [pair.chosen + pair.rejected for pair in pairs]

    assert given_by("pair", 0) == ["ab"] and given_by("pair", 1) == ["ba"]
    assert given_by("regenerated", 1) == ["ba"]  # Better: the new one, responses[1]
    assert given_by("pair", "same") == given_by("pair", "skip") == given_by("rank", "skip") == []
    assert given_by("scale", (3, 9)) == ["ba"] and given_by("scale", (5, 5)) == []
    assert given_by("scale", (2, 7, 7), "abc") == ["ba", "ca"]
    assert given_by("thumb", True, "a") == given_by("scale", (7,), "a") == []
    # Nothing to train on: an empty answer, and two that are the same.
    assert given_by("pair", 0, ("a", "")) == given_by("pair", 0, ("a", " a\n")) == []
    assert RANK.worth() == [-1, -3, 0, -2]
    assert sorted(given_by("rank", (2, 0, 3, 1), "abcd")) == ["ab", "ad", "ca", "cb", "cd", "db"]


# --- the store -----------------------------------------------------------------------------------


def test_add_undo_and_read(store):
    first, second, third = store.add(PAIR), store.add(THUMB), store.add(replace(RANK, rater="you"))
    assert PAIR.id == "" and len({first.id, second.id, third.id}) == 3
    assert first.time.endswith("+00:00") and replace(first, id="", time="") == PAIR
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
    down, skips = replace(THUMB, rater="you", verdict=False), (PAIR, THUMB)
    store.extend([PAIR, THUMB, RANK, down, *(replace(one, verdict="skip") for one in skips)])
    assert store.pairs()[0] == rows.Pair("台灣最高的山？", "玉山", "泰山", "me")
    assert len(store.pairs()) == 1 + 6 and store.pairs("you") == []
    assert store.ratings() == [rows.Rating("Gold?", "A metal.", label) for label in (True, False)]
    assert store.ratings("you") == [rows.Rating("Gold?", "A metal.", False)]


def test_the_store_lies_in_the_runs_folder(empty_runs):
    Store().add(PAIR)
    assert len(Store()) == len(Store(empty_runs / "feedback.sqlite")) == 1


def test_every_commit_waits_for_the_disk(store):
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_threads_share_a_store(store):
    work = [threading.Thread(target=lambda: [store.add(THUMB) for _ in range(20)]) for _ in "abcd"]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(store) == 80


def test_a_store_that_went_away_takes_nothing(store):
    store.add(PAIR)
    store.path.rename(store.path.with_name("moved.sqlite"))
    with pytest.raises(LabError, match="deleted or replaced"):
        store.add(PAIR)
    with contextlib.closing(Store(store.path)) as other:
        with pytest.raises(LabError, match="deleted or replaced"):
            store.add(PAIR)
        other.add(THUMB)
        assert len(other) == 1


# --- killed, crowded, full -----------------------------------------------------------------------


def test_kill_9_at_random_moments(tmp_path):
    chance, path, acknowledged = random.Random(0), tmp_path / "feedback.sqlite", []
    for _ in range(5):
        processes = [writer(path, f"rater {i}") for i in range(4)]
        firsts = [process.stdout.readline() for process in processes]  # all are at work
        for process in chance.sample(processes, 4):
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
    assert len(acknowledged) >= 20 and set(acknowledged) <= kept
    assert len(kept) <= len(acknowledged) + 20  # of each at most the one it was killed in


def test_kill_9_while_a_store_is_made(tmp_path):
    started = time.monotonic()
    assert writer(tmp_path / "first", count=1).communicate()[0]
    whole, chance = time.monotonic() - started, random.Random(0)
    for i in range(8):
        process = writer(tmp_path / f"{i}.sqlite")
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


def test_two_processes_write_at_once(tmp_path):
    path = tmp_path / "feedback.sqlite"
    processes = [writer(path, rater, 300) for rater in ("one", "two")]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    with contextlib.closing(Store(path)) as store:
        assert len(store) == 600
        assert [[one.id for one in store.all(rater)] for rater in ("one", "two")] == said


def test_opening_waits_for_another_who_is_making_the_store(store):
    """The turn to WAL is the one place where SQLite does not wait by itself."""
    store.close()
    options = dict(isolation_level=None, check_same_thread=False)
    with contextlib.closing(sqlite3.connect(store.path, **options)) as other:
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
    # SQLite's own way to say that there is no more room.
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    large = replace(PAIR, note="x" * 50_000)
    with pytest.raises(LabError, match="disk is full, so this was not saved; all .* is safe"):
        store.add(large)
    with pytest.raises(LabError, match="disk is full"):
        store.extend([THUMB] * 20 + [large])
    assert store.all() == kept
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.add(large) == store.all()[-1] and len(store) == 4


@pytest.mark.skipif(os.name == "nt", reason="no file size limits")
def test_a_disk_that_refuses_to_write_loses_nothing(tmp_path):
    """Writes fail for real: that process may not make a file longer than 500 kB."""
    path = tmp_path / "feedback.sqlite"
    *ids, last = writer(path, limit=500_000).communicate()[0].strip().split("\n")
    assert len(ids) > 10 and last.startswith(f"{len(ids)} {path}: The disk ")
    assert "so this was not saved" in last
    with contextlib.closing(Store(path)) as store:
        assert [one.id for one in store.all()] == ids


def test_a_locked_store_is_told(store):
    store._db.execute("PRAGMA busy_timeout = 50")
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LabError, match="Another program .*so this was not saved"):
            store.add(PAIR)
        assert len(store) == 0  # reading goes on
        other.execute("ROLLBACK")
    store.add(PAIR)


# --- other files ---------------------------------------------------------------------------------


def database(path, wal):
    """Another program's SQLite file, open."""
    db = sqlite3.connect(path, isolation_level=None)
    if wal:
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE feedback (id TEXT)")
    return db


STRANGERS = {
    "text": lambda path: path.write_bytes(b"Dear diary"),
    "picture": lambda path: path.write_bytes(b"\x89PNG" * 50),
    "nearly": lambda path: path.write_bytes(b"SQLite format 3\0"),
    "folder": lambda path: path.mkdir(),
    "database": lambda path: database(path, wal=False),
    "database in WAL": lambda path: database(path, wal=True),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_file_that_is_no_store_is_refused_untouched(kind, tmp_path):
    made = STRANGERS[kind](tmp_path / "mine.sqlite")
    before = snapshot(tmp_path)
    with pytest.raises(LabError, match="is not a store of ratings but .*nothing in it was changed"):
        Store(tmp_path / "mine.sqlite")
    assert snapshot(tmp_path) == before
    if kind.startswith("database"):
        made.execute("INSERT INTO feedback VALUES ('mine')")  # its own program goes on
        made.close()


def test_a_damaged_store_is_told(store):
    store.extend([replace(PAIR, note=str(i)) for i in range(300)])
    store.close()
    whole = store.path.read_bytes()
    for damaged in (whole[:4096] + b"\xff" * 8192 + whole[12288:], whole[: len(whole) // 2]):
        store.path.write_bytes(damaged)
        with pytest.raises(LabError, match="damaged .*Nothing in it was changed.*ratings rescue"):
            Store(store.path)
        assert store.path.read_bytes() == damaged
    store.path.write_bytes(whole)
    with contextlib.closing(sqlite3.connect(store.path)) as db, db:
        db.execute("UPDATE feedback SET verdict = '7' WHERE number = 3")
    with pytest.raises(LabError, match=r"damaged: its rating .* can't be read"):
        Store(store.path).all()


def test_a_place_that_cant_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LabError, match="can't be used as a store"):
        Store(tmp_path / "file" / "feedback.sqlite")


# A store as the first labkit made it, to the letter: it must open for ever.
VERSION_1 = """CREATE TABLE feedback (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time TEXT NOT NULL,
        rater TEXT NOT NULL, mode TEXT NOT NULL, prompt TEXT NOT NULL, responses TEXT NOT NULL,
        verdict TEXT NOT NULL, shown TEXT NOT NULL, tags TEXT NOT NULL, note TEXT NOT NULL,
        seconds REAL NOT NULL, sources TEXT NOT NULL, undone INTEGER NOT NULL DEFAULT 0);
    INSERT INTO feedback VALUES (1, 'a', '2026-11-22T19:30:00.000+00:00', 'me', 'pair', 'Q',
        '["x", "y"]', '1', '[1, 0]', '["wordy"]', 'a note', 2.5, '[]', 0);
    PRAGMA application_id = 0x4c41424b;
    PRAGMA user_version = 1;"""


def test_a_store_of_before_opens_and_one_of_a_newer_labkit_is_refused_untouched(tmp_path):
    path = tmp_path / "feedback.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
    with contextlib.closing(Store(path)) as store:
        (one,) = store.all()
        assert (one.responses, one.verdict, one.shown) == (("x", "y"), 1, (1, 0))
        assert (one.tags, one.note, one.seconds) == (("wordy",), "a note", 2.5)
        assert store.add(PAIR) == store.all()[1] and store.undo() and store.all() == [one]
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 3")
    before = snapshot(tmp_path)
    with pytest.raises(LabError, match="newer labkit .version 3.*Update labkit"):
        Store(path)
    assert snapshot(tmp_path) == before


def test_nothing_is_pickled():
    names = {"pickle", "dill", "shelve", "marshal", "joblib", "cloudpickle"}
    for file in Path(labkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf8"))):
            imported = [
                alias.name for alias in getattr(node, "names", ()) if hasattr(alias, "name")
            ]
            imported += [str(getattr(node, "module", None))]
            assert not names & {name.split(".")[0] for name in imported}, file


# --- out and in ----------------------------------------------------------------------------------

text = st.text(max_size=30)


@st.composite
def judgement(draw):
    """Any judgement over any text."""
    mode = draw(st.sampled_from(list(MODES)))
    n = draw(st.integers(MODES[mode][0], min(MODES[mode][1], 5)))
    scores, order = st.lists(st.integers(1, 10), min_size=n, max_size=n), st.permutations(range(n))
    verdicts = {"thumb": st.booleans(), "rank": order, "scale": scores}
    texts = st.lists(text, min_size=n, max_size=n)
    return Feedback(
        prompt=draw(text),
        responses=draw(texts),
        mode=mode,
        verdict=draw(st.just("skip") | verdicts.get(mode, st.sampled_from([0, 1, "same"]))),
        rater=draw(text),
        shown=draw(st.just(()) | order),
        tags=draw(st.lists(text, max_size=3)),
        note=draw(text),
        seconds=draw(st.floats(0, 1e6)),
        sources=draw(st.just(()) | texts),
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
        assert other.load(paths["ratings"]) == one.load(paths["ratings"]) == 0
        assert len(other) == len(many)
        if one.pairs():  # what is exported for training loads for training
            assert data.load_pairs(str(paths["preferences"])) == one.pairs()
        if one.ratings():
            assert data.load_ratings(str(paths["thumbs"])) == one.ratings()


HH = {name: f"\n\nHuman: Q\n\nAssistant: {name[0]}" for name in ("chosen", "rejected")}
VOTES = {"annotator1": 0, "annotator2": 1, "annotator3": 2}
PANDALM = {"instruction": "Q", "input": "", "response1": "a", "response2": "b", **VOTES}
VALID = [vars(replace(one, id=str(i))) for i, one in enumerate((PAIR, THUMB, RANK))] + [
    {"prompt": "Q", "chosen": "a", "rejected": "b"},
    HH,
    {"prompt": "Q", "completion": "a", "label": True},
    PANDALM,
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
    lines = [json.dumps(row) for row in draw(st.permutations(VALID))]
    where = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(["bytes", "line", "value", "missing", "cut"]))
    if kind in ("value", "missing"):
        row = json.loads(lines[where])
        name = draw(st.sampled_from(sorted(row)))
        del row[name]
        lines[where] = json.dumps(row | ({name: draw(json_value)} if kind == "value" else {}))
    elif kind == "line":
        lines[where] = draw(st.text(max_size=20) | json_value.map(json.dumps))
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
            assert re.search(r"(line|record) \d|mine.jsonl (is|can't be read)", str(error)), error
        else:
            assert len(store) == 1 + new and store.load(file) == 0


def lines_of(file, *lines):
    lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    file.write_text("\n".join(lines), "utf8")
    return file


@pytest.mark.parametrize(
    "bad, reason",
    [
        ('{"prompt": ', "broken JSON"),
        ("[1]", "a list, but must be an object"),
        ({**VALID[0], "verdict": 7}, '"verdict" is 7'),
        ({**VALID[0], "prompt": None}, '"prompt" is None, but it must be text'),
        ({**VALID[0], "mood": 1}, 'has the unknown "mood"'),
        ({"prompt": "Q", "verdict": 1}, 'has no "responses"'),
        ({"prompt": "Q"}, 'has no "chosen"'),
        ({"prompt": "Q", "completion": "a", "label": "yes"}, '"label" is text'),
        ({**PANDALM, "annotator1": 1.0}, "annotator1 to 3 are [1.0, 1, 2]"),
    ],
)
def test_a_bad_line_is_named_and_nothing_comes_in(bad, reason, store, tmp_path):
    with pytest.raises(LabError) as caught:
        store.load(lines_of(tmp_path / "mine.jsonl", *VALID, bad, *VALID))
    assert f"line {len(VALID) + 1}: {reason}" in str(caught.value) and len(store) == 0


def test_preferences_from_elsewhere(store, tmp_path):
    plain = {"prompt": "Q", "chosen": "c", "rejected": "r"}  # asked and answered twice
    thumb = {"prompt": "Q", "response": "a", "label": False}
    file = lines_of(tmp_path / "mine.jsonl", plain, plain, {**plain, "rater": "you"}, HH, thumb)
    assert store.load(file) == 5 and store.load(file) == 0
    *pairs, _ = judged = store.all()
    assert [one.rater for one in judged] == ["imported", "imported", "you", "imported", "imported"]
    assert {(one.mode, one.responses, one.verdict) for one in pairs} == {("pair", ("c", "r"), 0)}
    assert store.ratings() == [rows.Rating("Q", "a", False)]


def test_an_id_that_says_two_things_is_told(store, tmp_path):
    """Neither goes under: a row that shares its id with another, in the store or in the file."""
    one = store.add(replace(PAIR, id="mine"))
    row = vars(one)
    assert store.load(lines_of(tmp_path / "same.jsonl", row, {**row, "time": ""})) == 0
    for lines in ([{**row, "note": "other"}], [VALID[0], {**VALID[0], "verdict": "same"}]):
        with pytest.raises(LabError) as caught:
            store.load(lines_of(tmp_path / "mine.jsonl", *lines))
        assert f'line {len(lines)}: has the "id"' in str(caught.value)
        assert "says something else" in str(caught.value) and store.all() == [one]


def test_what_cant_be_read_was_not_to_be_saved(store, monkeypatch):
    store.close()
    with pytest.raises(LabError) as caught:
        store.all()
    assert "saved" not in str(caught.value)


def test_what_was_undone_is_not_exported_and_not_imported_again(store, tmp_path):
    store.add(PAIR)
    paths = store.export(tmp_path / "before")
    store.add(THUMB)
    store.undo()
    lines = store.export(tmp_path / "after")["ratings"].read_text("utf8").splitlines()
    assert [json.loads(line)["mode"] for line in lines] == ["pair"]
    store.undo()
    assert store.load(paths["ratings"]) == 0 and len(store) == 0
    with pytest.raises(LabError, match="nothing to export"):
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
    written = {out / f"{name}.jsonl" for name in ("ratings", "preferences", "thumbs")}
    changed = {path for path in after if after[path] != before.get(path)}
    assert {path for path in changed if "-shm" not in path.name} == written == set(paths.values())
    assert not any(path.is_symlink() for path in written)
    with pytest.raises(LabError, match="was not written"):
        store.export(outside)
    assert outside.read_text() == "mine" and not (tmp_path / "not there").exists()


def test_the_three_annotators_of_pandalm(store):
    shared = Path(__file__).parents[2] / "shared" / "data"
    file = Path(os.environ.get("LABKIT_REAL_DATA") or shared) / "pandalm_human_pairs.json.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there (set LABKIT_REAL_DATA)")
    assert store.load(file) == 3 * 999 and store.load(file) == 0
    assert {one.rater for one in store.all()} == {"annotator1", "annotator2", "annotator3"}


@pytest.mark.parametrize("name", ["Reward", "DPO", "KTO"])
def test_trl_takes_the_ratings_as_they_are(name, store, tiny_base, tmp_path):
    import transformers
    import trl

    for i in range(4):
        store.extend([replace(PAIR, verdict=i % 2), replace(THUMB, verdict=i < 2)])
    kind, head = "CausalLM", {}
    if name == "Reward":
        kind, head = "SequenceClassification", {"num_labels": 1}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_base.path)
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(tiny_base.path, **head)
    model.config.pad_token_id = tokenizer.pad_token_id
    cfg = getattr(trl, f"{name}Config")(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        bf16=False,
        use_cpu=True,
    )
    done = getattr(trl, f"{name}Trainer")(
        model=model,
        args=cfg,
        train_dataset=store.unpaired_dataset() if name == "KTO" else store.preference_dataset(),
        processing_class=tokenizer,
    ).train()
    assert done.global_step == 1 and done.training_loss > 0


def test_a_dataset_of_nothing_is_told(store):
    for make in (store.preference_dataset, store.unpaired_dataset):
        with pytest.raises(LabError, match="There is no"):
            make()
