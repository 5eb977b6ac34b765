"""Many stores become one: a union, in which nothing is lost and nothing withdrawn comes back."""

import contextlib
import itertools
import json
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from labkit import LabError, cli
from labkit.feedback import Feedback, Store, merge

NINE = datetime(2026, 11, 22, 9, tzinfo=UTC)


def said(rater="amy", verdict=0, prompt="台灣最高的山？", minute=0, id=""):
    time = (NINE + timedelta(minutes=minute)).isoformat()
    return Feedback(prompt, ("玉山", "泰山"), "pair", verdict, rater, (1, 0), id=id, time=time)


def stored(path: Path, *many, undo=(), withdraw=()) -> Path:
    """A store of these judgements, closed."""
    with contextlib.closing(Store(path)) as store:
        store.extend(many)
        for rater in undo:
            store.undo(rater)
        for rater in withdraw:
            store.withdraw(rater)
    return path


def held(path: Path) -> list[Feedback]:
    with contextlib.closing(Store(path)) as store:
        return store.all()


def snapshot(*paths) -> dict:
    return {path: path.read_bytes() for path in paths}


@pytest.fixture
def three(tmp_path):
    """amy's store, an older copy of it with bo's beside it, and cy's: one taken back, one with
    drawn.
    """
    one = [said(id="a1"), said(prompt="Gold?", minute=1, id="a2"), said(minute=9, id="a3")]
    stored(tmp_path / "amy.sqlite", *one, undo=["amy"])  # takes a3 back
    stored(tmp_path / "bo.sqlite", *one, said("bo", 1, minute=2, id="b1"))
    more = said("cy", id="c1"), said("dee", "same", minute=3, id="d1")
    stored(tmp_path / "cy.sqlite", *more, withdraw=["cy"])
    return [tmp_path / f"{name}.sqlite" for name in ("amy", "bo", "cy")]


def test_a_merge_is_a_union_in_any_order_and_any_number_of_times(three, tmp_path):
    before, wholes = snapshot(*three), []
    for n, order in enumerate(itertools.permutations(three)):
        into = tmp_path / f"all-{n}.sqlite"
        report = merge(order, into)
        assert (report["new"], report["count"], report["copies"]) == (5, 4, 3)
        wholes.append(held(into))
        again = merge(order[:2], into)
        assert (again["new"], again["count"]) == (0, 4) and held(into) == wholes[-1]
    for path in three:
        merge([path], tmp_path / "one-by-one.sqlite")
    wholes.append(held(tmp_path / "one-by-one.sqlite"))
    assert [one.id for one in wholes[0]] == ["a1", "a2", "b1", "d1"]
    assert all(whole == wholes[0] for whole in wholes)
    assert snapshot(*three) == before


def test_what_was_taken_back_stays_so_when_an_old_copy_comes(three, tmp_path):
    into = tmp_path / "all.sqlite"
    merge(three[:1], into)
    assert merge(three[1:2], into)["count"] == 3 and "a3" not in {one.id for one in held(into)}


def test_copies_without_ids_are_one_and_a_second_rating_is_another(tmp_path):
    """By rater and item: what was said at the same time is a copy, at another time a second
    judgement, which is kept and counted.
    """
    first = stored(tmp_path / "1.sqlite", said(id="x1"), said("bo", id="x2"))
    turned = Feedback("台灣最高的山？", ("泰山", "玉山"), "pair", 1, "amy", time=said().time)
    second = stored(tmp_path / "2.sqlite", turned, said("bo", 1, minute=60), said(minute=70))
    report = merge([first, second], tmp_path / "all.sqlite")
    kept = held(tmp_path / "all.sqlite")
    assert len(kept) == 4 and [one.verdict for one in kept if one.rater == "bo"] == [0, 1]
    assert (report["again"], report["conflicts"]) == (1, 1)


def test_the_same_import_at_two_times_is_one(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "Q", "chosen": "a", "rejected": "b"}) + "\n", "utf8")
    for name in "12":
        with contextlib.closing(Store(tmp_path / f"{name}.sqlite")) as store:
            store.load(file)
            store._db.execute("UPDATE feedback SET time = ?", (said(minute=int(name)).time,))
    for order in ("12", "21"):
        into = tmp_path / f"all-{order}.sqlite"
        merge([tmp_path / f"{name}.sqlite" for name in order], into)
        (one,) = held(into)
        assert one.time == said(minute=1).time


def test_what_one_store_holds_twice_is_no_copy(tmp_path):
    """A file may say one thing twice: both were kept at the import, with one time."""
    file = tmp_path / "pairs.jsonl"
    row = json.dumps({"prompt": "Q", "chosen": "a", "rejected": "b"}) + "\n"
    file.write_text(2 * row, "utf8")
    with contextlib.closing(Store(tmp_path / "1.sqlite")) as store:
        assert store.load(file) == 2
        store._db.execute("UPDATE feedback SET time = ?", (said().time,))
        first, second = store.all()
    for order in ("1", "11", "12", "21", "121"):
        other = [replace(one, id=f"0-{n}") for n, one in enumerate((first, second))]
        stored(tmp_path / "2.sqlite", *other)
        into = tmp_path / f"all-{order}.sqlite"
        for name in order:
            merge([tmp_path / f"{name}.sqlite"], into)
        assert len(held(into)) == 2
    with contextlib.closing(Store(tmp_path / "1.sqlite")) as store:
        store.undo()
    merge([tmp_path / "1.sqlite"], into)
    assert len(held(into)) == 1 and merge([tmp_path / "2.sqlite"], into)["count"] == 1


def test_withdrawn_is_gone_from_the_file_the_exports_and_later_merges(three, tmp_path, capsys):
    into = tmp_path / "all.sqlite"
    merge(three, into)
    with contextlib.closing(Store(into)) as store:
        secret = replace(said("amy", minute=30), note="nobody should read this again")
        store.add(secret)
        assert store.withdraw("amy") == 4 and store.withdraw("amy") == 0
        bytes_left = b"".join(file.read_bytes() for file in tmp_path.glob("all.sqlite*"))
        assert b"nobody should read" not in bytes_left and b"amy" not in bytes_left
        exported = store.export(tmp_path / "out")
        assert "amy" not in exported["ratings"].read_text("utf8")
        with pytest.raises(LabError, match="'amy' has withdrawn"):
            store.add(said(minute=99))
        assert store.extend([said(minute=99), said("eve")]) == 1
        assert "1 ratings are left out" in capsys.readouterr().out
        with pytest.raises(LabError, match="no rating by 'amyy'. There are: 'bo', 'dee', 'eve'"):
            store.withdraw("amyy")
    report = merge(three, into)  # old copies, which hold her ratings
    assert report["withdrawn"] == 3 and {one.rater for one in held(into)} == {"bo", "dee", "eve"}
    merge([into, three[0]], tmp_path / "next.sqlite")  # the mark goes along
    assert "amy" not in {one.rater for one in held(tmp_path / "next.sqlite")}


def test_a_withdrawal_on_a_laptop_reaches_the_class(three, tmp_path):
    into = tmp_path / "all.sqlite"
    merge(three, into)
    with contextlib.closing(Store(three[0])) as store:
        store.withdraw("amy")
    assert merge(three[:1], into)["withdrawn"] == 3
    assert {one.rater for one in held(into)} == {"bo", "dee"}


def test_two_people_behind_one_name_are_seen(tmp_path):
    apart = stored(tmp_path / "1.sqlite", said(id="1"), said(minute=2, prompt="Gold?", id="2"))
    other = stored(tmp_path / "2.sqlite", said(verdict=1, id="3"), said("bo", id="4"))
    (found,) = merge([apart, other], tmp_path / "all.sqlite")["shared"]
    assert found["rater"] == "amy" and found["stores"] == [str(apart), str(other)]
    assert (found["common"], found["differ"], found["at_once"]) == (1, 1, 1)
    text = cli.shared_name(found)
    assert "two people" in text and "rename" in text
    assert merge([apart, other], tmp_path / "all.sqlite")["shared"] == [found]
    assert not merge([other], tmp_path / "all.sqlite")["shared"]  # a copy is no second person
    later = stored(tmp_path / "3.sqlite", said(minute=600, prompt="Iron?"))
    (found,) = merge([later], tmp_path / "all.sqlite")["shared"]  # beside what the store holds
    assert found["at_once"] == 0 and "ask" in cli.shared_name(found)


def test_nobodys_name_in_two_stores_is_refused_until_one_is_named(tmp_path):
    paths = [stored(tmp_path / f"{n}.sqlite", said("me", minute=n)) for n in (1, 2)]
    for few in (paths[:1], paths[1:]):
        merge(few, tmp_path / f"alone-{few[0].name}")
    with pytest.raises(LabError, match="by 'me', whoever that was. Name each first"):
        merge(paths, tmp_path / "all.sqlite")
    assert not (tmp_path / "all.sqlite").exists()
    with pytest.raises(LabError, match="by 'me'"):
        merge(paths[1:], tmp_path / "alone-1.sqlite")
    for n, path in enumerate(paths):
        with contextlib.closing(Store(path)) as store:
            assert store.rename("me", f"rater-{n}") == 1
    assert merge(paths, tmp_path / "all.sqlite")["count"] == 2
    with contextlib.closing(Store(tmp_path / "all.sqlite")) as store:
        with pytest.raises(LabError, match="'rater-1' is taken"):
            store.rename("rater-0", "rater-1")
        with pytest.raises(LabError, match="no rating by 'amy'"):
            store.rename("amy", "bo")


def broken(path: Path):
    """A page in the middle is lost."""
    stored(path, *(replace(said(minute=n), note="x" * 900) for n in range(60)))
    raw = bytearray(path.read_bytes())
    raw[8192:12288] = bytes(4096)
    path.write_bytes(raw)


def newer(path: Path):
    stored(path, said())
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")


def nonsense(path: Path):
    stored(path, said())
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE feedback SET verdict = '7'")


def changed(path: Path):
    stored(path, replace(said("bo", 1, minute=2, id="b1"), note="not what the other copy says"))


WRONG = {
    broken: "damaged",
    newer: "newer labkit",
    nonsense: "damaged: its rating",
    changed: "different things of the rating 'b1'",
    lambda path: path.write_text("not a store"): "not a store",
    lambda path: path.mkdir(): "There is no store",
    lambda path: None: "There is no store",
}


@pytest.mark.parametrize("make", WRONG)
def test_a_store_that_cant_be_merged_is_named_and_nothing_is_written(make, three, tmp_path):
    wrong, into = tmp_path / "wrong.sqlite", tmp_path / "all.sqlite"
    make(wrong)
    for _ in range(2):  # where there is no store yet, and where there is one
        before = snapshot(*three, *tmp_path.glob("all.sqlite*"))
        with pytest.raises(LabError, match=WRONG[make]) as error:
            merge([*three, wrong], into)
        assert "wrong.sqlite" in str(error.value) and "\n" not in str(error.value)
        assert snapshot(*three, *tmp_path.glob("all.sqlite*")) == before
        if not into.exists():
            merge(three[2:], into)


def test_a_store_that_is_open_gives_what_its_log_holds(tmp_path):
    with contextlib.closing(Store(tmp_path / "open.sqlite")) as store:
        store.add(said())
        assert (tmp_path / "open.sqlite-wal").stat().st_size
        assert merge([store.path], tmp_path / "all.sqlite")["new"] == 1
        store.add(said(minute=1))  # and goes on


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """A mount table on which net/ is of the file system that is given, and net/disk is ext4."""

    def table(kind):
        (tmp_path / "self").mkdir(exist_ok=True)
        lines = (("/", "ext4"), (tmp_path / "net", kind), (tmp_path / "net/disk", "ext4"))
        text = "".join(f"dev {place} {kind} rw,relatime 0 0\n" for place, kind in lines)
        (tmp_path / "self/mounts").write_text(text, "utf8")
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))

    return table


@pytest.mark.skipif(not psutil.LINUX, reason="reads a mount table as Linux writes it")
@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_store_on_a_network_is_refused(kind, mounted, tmp_path):
    mounted(kind)
    with pytest.raises(
        LabError, match=f"network file system .{kind} at .*Keep the store on a disk"
    ):
        Store(tmp_path / "net/home/feedback.sqlite")
    assert not (tmp_path / "net").exists()
    with contextlib.closing(Store(tmp_path / "net/disk/feedback.sqlite")) as store:
        store.add(said())
    with pytest.raises(LabError, match="network file system"):
        merge([store.path], tmp_path / "net/all.sqlite")
    copy = tmp_path / "net/copy.sqlite"
    copy.write_bytes(store.path.read_bytes())  # closed: it is read without a log
    assert merge([copy], tmp_path / "all.sqlite")["new"] == 1
    copy.with_name("copy.sqlite-wal").touch()  # open somewhere
    with pytest.raises(LabError, match="network file system"):
        merge([copy], tmp_path / "all.sqlite")
    mounted("ext4")
    Store(tmp_path / "net/feedback.sqlite").close()


def test_the_verbs(three, tmp_path, capsys):
    into = ["--store", str(tmp_path / "all.sqlite")]
    assert cli.main(["ratings", "merge", *map(str, three), *into]) == 0
    assert "5 new ratings, 3 copies" in capsys.readouterr().out
    assert cli.main(["ratings", "withdraw", "amy", *into, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["withdrawn"] == 3
    assert cli.main(["ratings", "merge", str(three[0]), *into]) == 0
    assert "3 ratings are out: their raters withdrew" in capsys.readouterr().out
    assert cli.main(["ratings", "rename", "bo", "bob", *into]) == 0
    assert cli.main(["ratings", "list", *into]) == 0
    assert "bob" in capsys.readouterr().out.split("bo.sqlite")[-1]
    assert cli.main(["ratings", "merge"]) == 1
    assert "Name the stores to merge" in capsys.readouterr().err
