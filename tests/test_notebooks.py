"""The form of the committed notebooks, and a proof that nbval compares what is marked for
comparison.

`make test` runs every notebook under `pytest --nbval-lax` as well; here they are only read.
"""

import copy
import math
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import nbformat
import pytest
import torch
from saved import VIEW, without_views

from labkit import checks, launch

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb")) + sorted(FOLDER.glob("labs/*.ipynb"))
COMPARED = "nbval-check-output"
PLOTLY = "application/vnd.plotly.v1+json"
LINES = 25  # of a code cell; PPO in one cell (07) stands there whole, and may have more
WHOLE = {"def ppo_in_one_cell": 40}
COLUMNS = 88  # what a page shows of a line of code without cutting it off


def wide(source: str) -> list[str]:
    """The lines of more than 88 columns; a Chinese character takes two."""
    return [
        line
        for line in source.splitlines()
        if sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line) > COLUMNS
    ]


def solutions(text: str) -> list[str]:
    """The Python code that stands in a notebook's text."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def faults(notebook, name: str, size: int = 0) -> list[str]:
    """What is wrong with a committed notebook, one line each."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    if any(cell.execution_count is None for cell in code):
        found.append("a code cell was never executed, so nbval would compare nothing")
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        found.append("a cell holds an error")
    for cell in code:
        most = next((n for begin, n in WHOLE.items() if cell.source.startswith(begin)), LINES)
        if len(cell.source.splitlines()) > most:
            found.append(f"a code cell is longer than {most} lines")
    for source in [cell.source for cell in code] + solutions(text):
        found += [
            f"a line of code is wider than {COLUMNS} columns: {line}" for line in wide(source)
        ]
    if not any(COMPARED in cell.metadata.get("tags", []) for cell in code):
        found.append("no cell is compared")
    for cell in code:
        marked = COMPARED in cell.metadata.get("tags", [])
        if marked and not cell.outputs:
            found.append("a compared cell has no output")
        if marked and any(
            output.get("name") == "stderr" or PLOTLY in output.get("data", {})
            for output in cell.outputs
        ):
            found.append("a compared cell holds warnings or a chart, which differ between machines")
        for output in cell.outputs:
            if PLOTLY in output.get("data", {}) and "image/png" not in output["data"]:
                found.append("a chart has no static picture beside it (make notebooks)")
            if VIEW in output.get("data", {}):
                found.append("a widget's view outlives its kernel (python tests/saved.py FILE)")
    for needed in (*launch.badges(name), "<details>"):
        if needed not in text:
            found.append(f"the text lacks {needed!r}")
    if size > 3e6:
        found.append(f"the file has {size / 1e6:.1f} MB")
    return found


def setup_cell(notebook) -> str:
    return next(cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_has_the_form(path):
    name = path.relative_to(FOLDER).as_posix()
    assert faults(nbformat.read(path, 4), name, path.stat().st_size) == []


ON_THE_LINE = ("pretrain", "poems")  # the base that read most goes on; nothing goes on from a poet


def left_behind(notebook) -> list[str]:
    """The runs that a notebook leaves for later ones to go on from, as their cells begin them."""
    begun = [
        line.strip()
        for cell in notebook.cells
        for line in cell.source.splitlines()
        if "runs.start(" in line and "aside=True" not in line
    ]
    return [line for line in begun if not any(f'"{stage}"' in line for stage in ON_THE_LINE)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_the_labs_of_the_series_leave_runs_behind(path):
    line = {"02": "sft", "06": "reward", "07": "ppo", "09": "dpo"}
    begun = left_behind(nbformat.read(path, 4))
    stage = line.get(path.stem.split("_")[0])
    assert all(f'"{stage}"' in one for one in begun) and bool(begun) == bool(stage)


def test_a_run_left_behind_is_seen():
    source = 'with runs.start("sft", cfg) as run:\n    runs.start("ppo", cfg, aside=True)'
    cells = [nbformat.v4.new_code_cell(source)]
    assert left_behind(nbformat.v4.new_notebook(cells=cells)) == source.splitlines()[:1]


def test_the_notebooks_share_one_setup_cell():
    assert {path.stem[:2] for path in NOTEBOOKS} >= set("00 01 02 05 06 07 08 09 10 14".split())
    assert len({setup_cell(nbformat.read(path, 4)) for path in NOTEBOOKS}) == 1


# 00 asks for texts, not for functions.
@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_the_folded_solutions_pass_their_checkers(path):
    cells = nbformat.read(path, 4).cells
    code, text = (
        "\n".join(cell.source for cell in cells if cell.cell_type == kind)
        for kind in ("code", "markdown")
    )
    known = {"math": math, "torch": torch}
    for solution in solutions(text):
        exec(solution, known)
    exercises = re.findall(r"checks\.(check_\w+)\((\w+)\)", code)
    assert exercises
    for check, name in exercises:
        assert getattr(checks, check)(known[name]), f"the solution of {name} is refused"


def test_the_form_checker_sees_faults():
    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell(
        "1",
        execution_count=None,
        outputs=[nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])],
    )
    chart = nbformat.v4.new_code_cell(
        "\n" * 30 + "2",
        execution_count=1,
        outputs=[nbformat.v4.new_output("display_data", {PLOTLY: {}})],
    )
    chart.metadata["tags"] = [COMPARED]
    dead = nbformat.v4.new_output("execute_result", {VIEW: {}, "text/plain": "a panel"})
    chart.outputs.append(dead)
    whole = [
        nbformat.v4.new_code_cell("def ppo_in_one_cell():\n" + "\n" * n + "4", execution_count=3)
        for n in (38, 39)
    ]
    empty = nbformat.v4.new_code_cell("3  # " + 42 * "寬", execution_count=2)
    empty.metadata["tags"] = [COMPARED]
    solved = nbformat.v4.new_markdown_cell(f"```python\nwide = {88 * '1'}\n```")
    notebook.cells = [cell, chart, *whole, empty, solved]
    found = " / ".join(faults(notebook, "x.ipynb", 4_000_000))
    for part in (
        "never executed",
        "holds an error",
        "longer than 25",
        "longer than 40",
        "88 columns: 3  # 寬",
        "88 columns: wide = 1",
        "differ between machines",
        "no static picture",
        "outlives its kernel",
        "has no output",
        "colab",
        "<details>",
        "4.0 MB",
    ):
        assert part in found
    assert found.count("longer than 40") == 1
    assert without_views(notebook) and not without_views(notebook)
    assert "outlives" not in "".join(faults(notebook, "x.ipynb")) and dead.data["text/plain"]
    assert wide("1" * 88 + "\n" + "寬" * 44) == []
    notebook.cells = []
    assert "no cell is compared" in faults(notebook, "x.ipynb")


@pytest.fixture(scope="module")
def compared():
    """The first compared cell of a committed notebook that needs nothing before it but the
    setup.
    """
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code" and COMPARED in cell.metadata.get("tags", []):
                return path, cell.id
    pytest.fail("no notebook has a compared cell")


def nbval(path: Path):
    options = "--nbval-lax --nbval-current-env --nbval-cell-timeout=300 -q -p no:cacheprovider"
    command = [sys.executable, "-m", "pytest", *options.split(), "-c", "/dev/null", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=path.parent)


def test_nbval_compares_the_marked_cells(compared, tmp_path):
    """A committed compared cell's output passes as it is and fails when one character of it
    changes.
    """
    path, cell_id = compared
    original = nbformat.read(path, 4)
    upto = next(i for i, cell in enumerate(original.cells) if cell.get("id") == cell_id)
    notebook = copy.deepcopy(original)
    # Only what the cell may need: the setup, and cells before it that train nothing.
    notebook.cells = [cell for cell in original.cells[: upto + 1] if cell.cell_type == "code"]
    same = tmp_path / "same.ipynb"
    nbformat.write(notebook, same)
    result = nbval(same)
    assert result.returncode == 0, result.stdout[-2000:]

    wrong = copy.deepcopy(notebook)
    output = wrong.cells[-1].outputs[0]
    if output.output_type == "stream":
        output.text = output.text.rstrip("\n") + "1\n"
    else:
        output.data["text/plain"] += "1"
    nbformat.write(wrong, tmp_path / "wrong.ipynb")
    result = nbval(tmp_path / "wrong.ipynb")
    assert result.returncode == 1 and "mismatch" in result.stdout.lower(), result.stdout[-2000:]

    unmarked = copy.deepcopy(wrong)
    unmarked.cells[-1].metadata["tags"] = []
    nbformat.write(unmarked, tmp_path / "unmarked.ipynb")
    assert nbval(tmp_path / "unmarked.ipynb").returncode == 0  # what is not marked only has to run
