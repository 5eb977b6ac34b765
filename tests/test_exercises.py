"""The exercises filled in, and as nbgrader takes them."""

import ast
import json
import re

import nbformat
import pytest

from labkit.bench import exercises

FILES = exercises.notebooks()


def cells_of(path) -> list[dict]:
    return json.loads(path.read_text("utf8"))["cells"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_checker_but_a_prediction_has_a_folded_solution(path):
    cells = cells_of(path)
    known, found = exercises.solutions(cells), 0
    for cell in filter(exercises.is_exercise, cells):
        text = exercises.source(cell)
        _, blocks, checks = exercises.parts(text, known)
        calls = [one for check in checks for one in exercises.asked(ast.parse(check))]
        found += len(calls)
        assert blocks or {one.func.attr for one in calls} == {"check_prediction"}, text
        filled = exercises.filled(text, known)
        ast.parse(filled)
        assert all(block in filled for block in blocks)
    assert found == exercises.checkers({"cells": cells}) >= 2


def cut(path, into):
    """A notebook of its exercises alone, without predictions, which need what went before."""
    notebook = nbformat.read(path, 4)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        or exercises.is_exercise(cell)
        and "check_prediction" not in cell.source
    ]
    imports = "import math\nimport torch\nfrom labkit import checks"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(imports))
    nbformat.write(notebook, into / path.name)
    return into / path.name


@pytest.mark.parametrize("name", ["05_collecting_feedback", "14_report_card"])
def test_filled_in_all_checkers_are_green(name, tmp_path):
    file = cut(exercises.FOLDER / f"{name}.ipynb", tmp_path)
    (tmp_path / "out").mkdir()
    right, asked, wrong = exercises.run(file, tmp_path / "out")
    assert right == asked >= 2 and wrong == ""
    assert (tmp_path / "out" / file.name).exists()
    noted = json.loads((tmp_path / "out/runs/progress.json").read_text("utf8"))
    assert len(noted[name]) == asked


def test_a_wrong_solution_and_a_cell_that_fails_are_reported(tmp_path):
    file = cut(exercises.FOLDER / "05_collecting_feedback.ipynb", tmp_path)
    text = file.read_text("utf8")
    file.write_text(text.replace("return shown[place]", "return place"), "utf8")
    (tmp_path / "out").mkdir()
    right, asked, wrong = exercises.run(file, tmp_path / "out")
    assert right == asked - 1 and wrong.startswith("Not yet")
    file.write_text(text.replace("import torch", "import no_such_thing"), "utf8")
    right, asked, wrong = exercises.run(file, tmp_path / "out")
    assert right == 0 and "ModuleNotFoundError" in wrong


def test_a_prediction_is_filled_in_with_what_its_experiment_finds(capsys, empty_runs):
    text = """guess = ...  # "few" or "many"

def experiment():
    ran.append(1)
    return {"few": 1, "many": 2}

right = checks.check_prediction(guess, ["few", "many"], experiment)"""
    known = {"ran": []}
    exec(exercises.filled(text, {}), known)
    assert known["right"] is True and known["ran"] == [1]


# --- nbgrader ------------------------------------------------------------------------------------


def as_released(cell) -> str:
    """A cell without what nbgrader's generate_assignment takes out: solutions and hidden tests."""
    text = "".join(cell["source"])
    for kind, stub in (("SOLUTION", r"\1...  # your code"), ("HIDDEN TESTS", "")):
        marks = rf"(?ms)^( *)### BEGIN {kind}$.*?^ *### END {kind}$"
        text = re.sub(marks, stub, text)
    return text


def as_submitted(cells, answers: dict[str, str]) -> dict:
    """{grade_id: whether its test passes} as an autograder runs the cells that are not skipped."""
    names, found = {}, {}
    for cell in cells:
        if cell["cell_type"] != "code" or exercises.SKIP in cell["metadata"].get("tags", []):
            continue
        mark = cell["metadata"]["nbgrader"]
        try:
            exec(answers.get(mark["grade_id"], "".join(cell["source"])), names)
            right = True
        except Exception:
            right = False
        if mark["grade"]:
            found[mark["grade_id"]] = right
    return found


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    into = tmp_path_factory.mktemp("course")
    return {file.stem: file for file in exercises.write_assignment(FILES, into)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_source_notebook_grades_the_solution_right_and_an_empty_one_wrong(path, course, capsys):
    cells = cells_of(course[path.stem])
    nbformat.validate(nbformat.from_dict(json.loads(course[path.stem].read_text("utf8"))))
    marks = [one["metadata"]["nbgrader"] for one in cells if "nbgrader" in one["metadata"]]
    ids = [mark["grade_id"] for mark in marks]
    assert len(set(ids)) == len(ids) and {mark["schema_version"] for mark in marks} == {3}
    points = sum(mark.get("points", 0) for mark in marks)
    predictions = "".join(map(exercises.source, cells_of(path))).count("checks.check_prediction")
    assert points == exercises.checkers({"cells": cells_of(path)}) - predictions >= 1

    released = [dict(cell, source=as_released(cell)) for cell in cells]
    text = "\n".join(cell["source"] for cell in released)
    assert "BEGIN " not in text and "END " not in text
    for block in exercises.solutions(cells_of(path)).values():
        for node in ast.parse(block).body:
            if isinstance(node, ast.FunctionDef):
                body = "\n".join(ast.unparse(line) for line in node.body[-1:])
                assert body not in text, "a student's copy holds a solution"
    right = as_submitted(cells, {})
    assert right and all(right.values())
    empty = {c["metadata"]["nbgrader"]["grade_id"]: c["source"] for c in released
             if c["metadata"].get("nbgrader", {}).get("solution")}  # fmt: skip
    assert not any(as_submitted(cells, empty).values())


def test_what_an_autograder_hangs_on_is_passed_over(course):
    """Every code cell but answers and tests, and so every cell that shows a widget."""
    widgets = 0
    for name, path in course.items():
        original = {cell["id"]: cell for cell in cells_of(exercises.notebooks([
            next(file for file in FILES if file.stem == name)])[0])}  # fmt: skip
        for cell in cells_of(path):
            if cell["cell_type"] == "code" and "nbgrader" not in cell["metadata"]:
                assert exercises.SKIP in cell["metadata"]["tags"], cell["id"]
                widgets += "live(" in "".join(original.get(cell["id"], {}).get("source", ""))
    assert widgets >= 2


def test_pictures_come_along(course):
    for path in course.values():
        for picture in re.findall(r"\]\((pictures/[^)]+)\)", path.read_text("utf8")):
            assert (path.parent / picture).is_file()
