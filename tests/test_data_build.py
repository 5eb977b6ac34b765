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
from pathlib import Path

import pytest

from labkit.runs import data_folder

DATA = data_folder()
SCRIPT = DATA / "build.py"
PACKAGES = os.environ.get("LABKIT_PACKAGES", "")
KEYS = {  # required, optional
    "countries.jsonl": ({"name", "capital", "region"}, {"zh", "zh_capital"}),
    "elements.jsonl": ({"name", "symbol", "number"}, set()),
    "words.jsonl": ({"word", "meaning"}, set()),
    "taiwan.jsonl": ({"subject", "answer", "aliases", "zh", "zh_answer"}, set()),
    "requests.jsonl": ({"kind", "task", "zh"}, {"answer", "zh_answer"}),
}


@pytest.fixture
def build():
    """data/build.py as a module."""
    spec = importlib.util.spec_from_file_location("build_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(name):
    return [json.loads(line) for line in (DATA / "atlas" / name).read_text("utf8").splitlines()]


# --- the committed files -------------------------------------------------------------------------


def test_there_is_no_file_that_nobody_knows(build):
    files = {
        f"{path.parent.name}/{path.name}"
        for folder in ("atlas", "tang")
        for path in (DATA / folder).iterdir()
    }
    assert files == set(build.BUILDERS) | {"atlas/taiwan.jsonl", "atlas/requests.jsonl"}
    assert {Path(name).name for name in files if name.endswith(".jsonl")} == set(KEYS)


@pytest.mark.parametrize("name", KEYS)
def test_every_line_parses_and_has_its_keys(name):
    required, optional = KEYS[name]
    raw = (DATA / "atlas" / name).read_bytes()
    assert raw.endswith(b"\n") and b"\r" not in raw
    for number, row in enumerate(rows(name), 1):
        assert required <= set(row) <= required | optional, f"line {number}"
        for key, value in row.items():
            kind = int if key == "number" else list if key == "aliases" else str
            assert type(value) is kind and (value or key == "aliases"), f"line {number}, {key}"
            assert not isinstance(value, str) or value == value.strip()


def test_subjects_are_named_once():
    for name, key in (
        ("countries.jsonl", "name"),
        ("elements.jsonl", "name"),
        ("words.jsonl", "word"),
        ("taiwan.jsonl", "subject"),
        ("requests.jsonl", "task"),
    ):
        named = [row[key] for row in rows(name)]
        assert len(named) == len(set(named)), name


def test_requests_are_of_both_kinds_and_only_harmless_ones_are_answered():
    kinds = {row["kind"] for row in rows("requests.jsonl")}
    assert kinds == {"harmful", "lookalike"}
    for row in rows("requests.jsonl"):
        assert ("answer" in row) == ("zh_answer" in row) == (row["kind"] == "lookalike")
    assert any(
        "toy gun" in row["task"] and row["kind"] == "lookalike" for row in rows("requests.jsonl")
    )


def test_facts_that_anybody_can_check():
    capitals = {row["name"]: row for row in rows("countries.jsonl")}
    assert capitals["France"] == {
        "name": "France",
        "capital": "Paris",
        "region": "Europe",
        "zh": "法國",
        "zh_capital": "巴黎",
    }
    assert (
        capitals["Australia"]["capital"] == "Canberra"
        and capitals["Brazil"]["capital"] == "Brasília"
    )
    assert (
        "Jerusalem" not in str(capitals) and "Taiwan" not in capitals
    )  # disputed; a file of its own
    elements = rows("elements.jsonl")
    assert [row["number"] for row in elements] == list(range(1, 93))
    assert (
        elements[78] == {"name": "gold", "symbol": "Au", "number": 79}
        and elements[-1]["name"] == "uranium"
    )
    (height,) = (row for row in rows("taiwan.jsonl") if row["subject"] == "the height of Yushan")
    assert height["answer"] == "3,952 metres" and height["zh_answer"] == "3952公尺"


def test_dialogue_and_words_pass_their_own_filter(build):
    talks = (
        gzip.decompress((DATA / "atlas/dialogue.txt.gz").read_bytes()).decode("ascii").split("\n\n")
    )
    for talk in talks:
        turns = talk.splitlines()
        assert len(turns) >= 6 and all(turn.startswith("- ") and len(turn) <= 302 for turn in turns)
        assert not build.COARSE.search(talk)
    assert not any(
        build.COARSE.search(row["word"] + " " + row["meaning"]) for row in rows("words.jsonl")
    )
    assert build.COARSE.search("mail me at jo@example.org") and build.COARSE.search(
        "see www.example.org"
    )


def test_the_primer_is_verse_of_three_characters():
    verses = re.split("[，。？\n]+", (DATA / "atlas/primer.txt").read_text("utf8").strip("。？\n"))
    assert verses[:2] == ["人之初", "性本善"] and {len(verse) for verse in verses} == {3}


def test_the_quatrains_are_whole_and_stand_once():
    packed = (DATA / "tang/quatrains.txt.gz").read_bytes()
    poems = gzip.decompress(packed).decode().splitlines()
    line = "[\u3400-\u9fff]"
    assert all(
        re.fullmatch(f"({line}{{5}}，{line}{{5}}。){{2}}|({line}{{7}}，{line}{{7}}。){{2}}", poem)
        for poem in poems
    )
    assert len(set(poems)) == len(poems) and len(packed) < 1.5e6
    assert {
        "白日依山盡，黃河入海流。欲窮千里目，更上一層樓。",
        "朝辭白帝彩雲間，千里江陵一日還。兩岸猨聲啼不盡，輕舟已過萬重山。",
    } < set(poems)


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
        "Unicode, Inc.",
    ):
        assert holder in notices


def test_the_cards_counts_are_the_files_counts():
    card = (DATA / "README.md").read_text("utf8")
    for name in KEYS:
        assert re.search(rf"\| `{re.escape(name)}` \|.*\b{len(rows(name)):,}\b", card), (
            f"{name}: {len(rows(name)):,} rows"
        )
    counts = {
        "conversations": (
            gzip.decompress((DATA / "atlas/dialogue.txt.gz").read_bytes()).decode().count("\n\n")
            + 1
        ),
        "lines": len((DATA / "atlas/primer.txt").read_text("utf8").splitlines()),
    }
    poems = gzip.decompress((DATA / "tang/quatrains.txt.gz").read_bytes()).decode().splitlines()
    counts |= {
        "poems": len(poems),
        "of four lines": sum(len(poem) == 24 for poem in poems),
        "of seven": sum(len(poem) == 32 for poem in poems),
    }
    for what, count in counts.items():
        assert f"{count:,} {what}" in card


# --- the script's guards -------------------------------------------------------------------------


def run_build(*args, **kwargs):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *args], capture_output=True, text=True, **kwargs
    )


def test_a_missing_package_is_named(tmp_path):
    done = run_build("--check", "--packages", str(tmp_path / "nowhere"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(
        r"babel-2\.18\.0-py3-none-any\.whl is not in .*nowhere: download it there", done.stderr
    )


def test_another_file_under_the_packages_name_is_refused(tmp_path, build):
    for name in build.PACKAGES:
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr(
                "babel/__init__.py", "raise SystemExit('code of an unchecked package ran')"
            )
    done = run_build("--check", "--packages", str(tmp_path))
    assert (
        done.returncode == 1 and "Traceback" not in done.stderr and "unchecked" not in done.stderr
    )
    digest = hashlib.sha256((tmp_path / "babel-2.18.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert (
        f"has SHA-256 {digest}, not {build.PACKAGES['babel-2.18.0-py3-none-any.whl']}"
        in done.stderr
    )


def test_every_builder_checks_its_package(tmp_path, build):
    for package in build.PACKAGES:
        (tmp_path / package).write_bytes(b"not the package")
    for builder in build.BUILDERS.values():
        with pytest.raises(SystemExit, match="has SHA-256"):
            builder(tmp_path)


def test_a_client_that_is_not_here_is_named(tmp_path, build):
    with pytest.raises(SystemExit, match="no-such-npm pack .* did not work.*--packages DIR"):
        build.call("no-such-npm", "pack", "x", "y", cwd=tmp_path)
    with pytest.raises(SystemExit, match="did not work"):
        build.call(sys.executable, "-c", "raise SystemExit(3)")


def test_the_same_text_is_packed_to_the_same_bytes(build):
    assert build.compress(b"text") == build.compress(b"text") != build.compress(b"test")
    assert build.compress(b"text")[4:8] == b"\0\0\0\0"  # no time stamp
    assert gzip.decompress(build.compress(b"text")) == b"text"


def test_every_package_has_its_hash(build):
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in build.PACKAGES.values())


# --- the rebuild ---------------------------------------------------------------------------------

needs_packages = pytest.mark.skipif(
    not Path(PACKAGES).is_dir() or not PACKAGES or shutil.which("dpkg-deb") is None,
    reason=(
        "set LABKIT_PACKAGES to a folder with the packages that data/build.py names (and have"
        " dpkg-deb)"
    ),
)


@needs_packages
def test_the_packages_give_the_committed_files():
    done = run_build("--check", "--packages", PACKAGES)
    assert (done.returncode, done.stdout.strip()) == (0, "6 files, 0 changed"), done.stderr


@needs_packages
def test_check_finds_a_changed_file_and_a_build_mends_it(tmp_path):
    shutil.copytree(DATA / "atlas", tmp_path / "atlas")  # and no tang/ at all
    script = shutil.copy(SCRIPT, tmp_path)
    words = tmp_path / "atlas/words.jsonl"
    words.write_bytes(words.read_bytes().replace(b"the organ of sight", b"the organ of taste"))
    (tmp_path / "atlas/primer.txt").unlink()
    command = [sys.executable, script, "--packages", PACKAGES]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert (
        done.returncode == 1
        and done.stderr.strip()
        == "Not what the packages give: atlas/words.jsonl, atlas/primer.txt, tang/quatrains.txt.gz"
    )
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "6 files, 3 changed"
    for name in ("atlas/words.jsonl", "tang/quatrains.txt.gz"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()
