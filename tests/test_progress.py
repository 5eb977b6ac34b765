"""progress.json: which exercises pass, whoever writes it at the same time and whatever it held."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from labkit import checks, runs
from labkit.checks import noting

FOLDER = Path(__file__).parent.parent / "notebooks"


def posed(cells) -> list[str]:
    """The exercises that code cells check, in order, as noting.EXERCISES names them."""
    found, known = [], {}
    for source in cells:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                try:
                    known[node.targets[0].id] = ast.literal_eval(node.value)
                except (ValueError, TypeError):
                    continue
            name = getattr(getattr(node, "func", None), "attr", "")
            if name == "check_prediction":
                choices = compile(ast.Expression(node.args[1]), "", "eval")
                found.append(noting.guessed(None, eval(choices, {}, known), None))
            elif name.startswith("check_") and node.func.value.id == "checks":
                found.append(name)
    return found


@pytest.mark.parametrize("name", noting.EXERCISES)
def test_the_list_of_exercises_is_what_the_notebooks_pose(name):
    cells = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
    sources = [one.source for one in cells if one.cell_type == "code"]
    sources[0] = ""  # the setup, which holds a line of IPython
    assert tuple(posed(sources)) == noting.EXERCISES[name]


def test_every_notebook_of_the_series_is_listed():
    assert list(noting.EXERCISES) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def row(name) -> dict:
    return next(one for one in checks.progress() if one["notebook"].startswith(name))


def test_what_passes_is_noted_and_what_does_not_is_not(empty_runs, capsys):
    assert row("05") == {
        "notebook": "05_collecting_feedback",
        "passed": "0 of 3",
        "to do": "sides; ranked pairs; cohen",
    }
    assert not (empty_runs / "progress.json").exists()
    checks.check_sides(lambda shown, place: place)
    assert not (empty_runs / "progress.json").exists()
    checks.check_sides(lambda shown, place: shown[place])
    assert row("05")["passed"] == "1 of 3" and row("05")["to do"] == "ranked pairs; cohen"
    first = noting.passed()
    checks.check_surprise(lambda reward, value, after: reward + after - value)
    checks.check_sides(lambda shown, place: shown[place])
    assert noting.passed()["05_collecting_feedback"] == first["05_collecting_feedback"]
    assert row("03")["passed"] == row("07")["passed"] == "1 of 5"  # it is posed in both
    for guess in ("up", "both"):
        checks.check_prediction(guess, ["up", "down", "both"], lambda: dict(up=0, down=0, both=1))
        assert ("predict" in row("10")["to do"]) == (guess == "up")
    checks.check_prediction("a", ["a", "b"], lambda: {"a": 1, "b": 0})  # nobody poses it
    assert sum(map(len, noting.passed().values())) == 4


@pytest.mark.parametrize("text", ["", "{", "[]", '{"05_collecting_feedback": 3}', "\0\0", "null"])
def test_a_broken_file_is_put_aside(text, empty_runs, capsys):
    empty_runs.mkdir()
    (empty_runs / "progress.json").write_text(text, "utf8")
    assert row("05")["passed"] == "0 of 3" and "can't be read" in capsys.readouterr().out
    assert checks.check_sides(lambda shown, place: shown[place])
    assert "progress.broken.json" in capsys.readouterr().out
    assert row("05")["passed"] == "1 of 3" and not capsys.readouterr().out
    assert (empty_runs / "progress.broken.json").read_text("utf8") == text


def test_a_place_that_cant_be_written_stops_no_checker(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "file/runs"))
    assert checks.check_sides(lambda shown, place: shown[place]) is True
    assert "Not noted" in capsys.readouterr().out


WRITER = """
from labkit.checks import noting
for name in {names}:
    noting.note(name)
"""


def test_two_kernels_write_at_once(empty_runs):
    """Each notes half of the exercises; none is lost."""
    every = sorted({one for posed in noting.EXERCISES.values() for one in posed})
    halves = every[::2], every[1::2]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER.format(names=half)], env=os.environ)
        for half in halves
    ]
    assert [one.wait(120) for one in writers] == [0, 0]
    assert all(one["to do"] == "" for one in checks.progress())
    assert list(json.loads(noting.file().read_text("utf8")))
    assert not list(runs.root().glob(".progress.*.tmp"))
