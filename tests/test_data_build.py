"""data/: every file is what its card says, and data/build.py makes the generated ones again, byte
for byte, or says why not.

Set LABKIT_PACKAGES to a folder with the packages that data/build.py names, and the rebuild is
tested too.
"""

import gzip
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from labkit.runs import data_folder

DATA = data_folder()
SCRIPT = DATA / "build.py"
PACKAGES = os.environ.get("LABKIT_PACKAGES", "")
KEYS = {  # required (the first of them names the row), optional
    "countries.jsonl": (("name", "capital", "region"), {"zh", "zh_capital"}),
    "elements.jsonl": (("name", "symbol", "number"), set()),
    "words.jsonl": (("word", "meaning"), set()),
    "taiwan.jsonl": (("subject", "answer", "aliases", "zh", "zh_answer"), {"zh_asked"}),
    "requests.jsonl": (("task", "kind", "zh", "family"), {"answer", "zh_answer", "zh_asked"}),
    "hand_judged.jsonl": (("response", "prompt", "truth", "refused"), set()),
}
KINDS = {"number": int, "aliases": list, "zh_asked": list, "truth": int, "refused": bool}
MAY_BE_EMPTY = {"aliases", "truth", "refused", "response"}


@pytest.fixture(scope="module")
def build():
    """data/build.py as a module."""
    spec = importlib.util.spec_from_file_location("build_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(name):
    return [json.loads(line) for line in (DATA / "atlas" / name).read_text("utf8").splitlines()]


def unpacked(name):
    return gzip.decompress((DATA / name).read_bytes()).decode()


# --- the committed files -------------------------------------------------------------------------


def test_there_is_no_file_that_nobody_knows(build):
    files = {f"{f.parent.name}/{f.name}" for d in ("atlas", "tang") for f in (DATA / d).iterdir()}
    by_hand = {f"atlas/{name}.jsonl" for name in ("taiwan", "requests", "hand_judged")}
    assert files == set(build.BUILDERS) | by_hand
    assert {Path(name).name for name in files if name.endswith(".jsonl")} == set(KEYS)


@pytest.mark.parametrize("name", KEYS)
def test_every_line_parses_has_its_keys_and_stands_once(name):
    required, optional = KEYS[name]
    raw = (DATA / "atlas" / name).read_bytes()
    assert raw.endswith(b"\n") and b"\r" not in raw
    for number, row in enumerate(rows(name), 1):
        assert set(required) <= set(row) <= {*required, *optional}, f"line {number}"
        for key, value in row.items():
            kind = KINDS.get(key, str)
            assert type(value) is kind and (value or key in MAY_BE_EMPTY), f"line {number}, {key}"
            assert not isinstance(value, str) or value == value.strip()
    named = [tuple(row[key] for key in required[:2]) for row in rows(name)]
    assert len(named) == len(set(named))


def test_requests_are_of_both_kinds_and_only_harmless_ones_are_answered():
    found = rows("requests.jsonl")
    families = Counter((row["family"], row["kind"]) for row in found)
    assert len(families) == 32 and set(families.values()) == {4}
    assert {kind for _, kind in families} == {"harmful", "lookalike"}
    for row in found:
        assert ("answer" in row) == ("zh_answer" in row) == (row["kind"] == "lookalike")
    assert any("toy gun" in row["task"] and row["kind"] == "lookalike" for row in found)


def test_facts_that_anybody_can_check():
    countries = {row["name"]: row for row in rows("countries.jsonl")}
    france = {"capital": "Paris", "region": "Europe", "zh": "法國", "zh_capital": "巴黎"}
    assert countries["France"] == {"name": "France", **france}
    assert countries["Australia"]["capital"] == "Canberra"
    # Disputed; a file of its own.
    assert "Jerusalem" not in str(countries) and "Taiwan" not in countries
    elements = rows("elements.jsonl")
    assert [row["number"] for row in elements] == list(range(1, 93))
    assert elements[78] == {"name": "gold", "symbol": "Au", "number": 79}
    (height,) = (row for row in rows("taiwan.jsonl") if row["subject"] == "the height of Yushan")
    assert height["answer"] == "3,952 metres" and height["zh_answer"] == "3952公尺"


def test_dialogue_and_words_pass_their_own_filter(build):
    for talk in unpacked("atlas/dialogue.txt.gz").split("\n\n"):
        turns = talk.splitlines()
        assert len(turns) >= 6 and all(turn.startswith("- ") and len(turn) <= 302 for turn in turns)
        assert talk.isascii() and not build.COARSE.search(talk)
    for row in rows("words.jsonl"):
        assert not build.COARSE.search(f"{row['word']} {row['meaning']}")
    for address in ("mail me at jo@example.org", "see www.example.org"):
        assert build.COARSE.search(address)


def test_the_poems_are_whole_and_stand_once():
    verses = re.split("[，。？\n]+", (DATA / "atlas/primer.txt").read_text("utf8").strip("。？\n"))
    assert verses[:2] == ["人之初", "性本善"] and {len(verse) for verse in verses} == {3}
    poems = unpacked("tang/quatrains.txt.gz").splitlines()
    couplets = "|".join(f"([㐀-鿿]{{{n}}}，[㐀-鿿]{{{n}}}。){{2}}" for n in (5, 7))
    assert all(re.fullmatch(couplets, poem) for poem in poems)
    assert len(set(poems)) == len(poems)
    assert "白日依山盡，黃河入海流。欲窮千里目，更上一層樓。" in poems


def test_the_rhyme_book_has_a_rhyme_a_line():
    lines = (DATA / "tang/rhymes.txt").read_text("utf8").splitlines()
    assert all(re.fullmatch("[上下]?[平上去入]聲[一-鿿]+ [㐀-鿿]{2,}", line) for line in lines)
    book = dict(line.split() for line in lines)
    assert len(book) == len(lines) == 106
    assert all(len(set(each)) == len(each) for each in book.values())
    assert {"間", "還", "山"} <= set(book["上平聲十五刪"])  # 早發白帝城


def test_card_and_notices_are_there(build):
    card, notices = (DATA / "README.md").read_text("utf8"), (DATA / "NOTICE.md").read_text("utf8")
    for name in [*KEYS, *build.BUILDERS]:
        assert f"`{Path(name).name}`" in card
    for name in build.PACKAGES:
        package, version = re.match(r"([a-z_-]+?)[-_](?:1%3a)?([0-9.]+)", name).groups()
        assert package.replace("_", "-") in notices.lower() and version.rstrip(".") in card, name
    for holder in (
        "Princeton University",
        "Porimol Chandro",
        "Lukasz Mentel",
        "Perception, Control and Cognition Lab",
        "JackeyGao",
        "rbnyng",
        "Unicode, Inc.",
    ):
        assert holder in notices


def test_the_cards_counts_are_the_files_counts():
    card = (DATA / "README.md").read_text("utf8")
    for name in KEYS:
        assert re.search(rf"\| `{re.escape(name)}` \|.*\b{len(rows(name)):,}\b", card), name
    poems = unpacked("tang/quatrains.txt.gz").splitlines()
    rhymes = dict(
        line.split() for line in (DATA / "tang/rhymes.txt").read_text("utf8").splitlines()
    )
    for what, count in {
        "conversations": unpacked("atlas/dialogue.txt.gz").count("\n\n") + 1,
        "lines": len((DATA / "atlas/primer.txt").read_text("utf8").splitlines()),
        "poems": len(poems),
        "of four lines": sum(len(poem) == 24 for poem in poems),
        "of seven": sum(len(poem) == 32 for poem in poems),
        "rhymes": len(rhymes),
        "different characters": len(set("".join(rhymes.values()))),
    }.items():
        assert f"{count:,} {what}" in card


# --- the script's guards -------------------------------------------------------------------------


def run_build(*args, script=SCRIPT):
    command = [sys.executable, str(script), *args]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_missing_package_is_named(tmp_path):
    done = run_build("--check", "--packages", str(tmp_path / "nowhere"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"babel-2\.18\.0-py3-none-any\.whl is not in .*nowhere", done.stderr)


def test_another_file_under_a_packages_name_is_refused(tmp_path, build):
    for name in build.PACKAGES:
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("babel/__init__.py", "raise SystemExit('unchecked code ran')")
    for builder in build.BUILDERS.values():
        with pytest.raises(SystemExit, match="has SHA-256"):
            builder(tmp_path)
    done = run_build("--check", "--packages", str(tmp_path))
    name = "babel-2.18.0-py3-none-any.whl"
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"has SHA-256 {digest}, not {build.PACKAGES[name]}" in done.stderr


def test_a_client_that_is_not_here_or_fails_is_named(tmp_path, build):
    with pytest.raises(SystemExit, match="no-such-npm pack .* did not work.*--packages DIR"):
        build.call("no-such-npm", "pack", "x", "y", cwd=tmp_path)
    with pytest.raises(SystemExit, match="did not work"):
        build.call(sys.executable, "-c", "raise SystemExit(3)")


def test_the_same_text_is_packed_to_the_same_bytes(build):
    packed = build.compress(b"text")
    assert packed[4:8] == b"\0\0\0\0" and gzip.decompress(packed) == b"text"  # no time stamp


# --- the rebuild ---------------------------------------------------------------------------------


@pytest.mark.skipif(
    not PACKAGES or shutil.which("dpkg-deb") is None,
    reason="set LABKIT_PACKAGES to a folder with data/build.py's packages (and have dpkg-deb)",
)
def test_check_finds_a_changed_file_and_a_build_mends_it(tmp_path):
    done = run_build("--check", "--packages", PACKAGES)
    assert (done.returncode, done.stdout.strip()) == (0, "7 files, 0 changed"), done.stderr
    shutil.copytree(DATA / "atlas", tmp_path / "atlas")  # and no tang/ at all
    script = shutil.copy(SCRIPT, tmp_path)
    words = tmp_path / "atlas/words.jsonl"
    words.write_bytes(words.read_bytes().replace(b"the organ of sight", b"the organ of taste"))
    (tmp_path / "atlas/primer.txt").unlink()
    done = run_build("--check", "--packages", PACKAGES, script=script)
    changed = "atlas/words.jsonl, atlas/primer.txt, tang/quatrains.txt.gz, tang/rhymes.txt"
    assert (done.returncode, changed in done.stderr) == (1, True)
    assert run_build("--packages", PACKAGES, script=script).stdout.strip() == "7 files, 4 changed"
    for name in changed.split(", "):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()
