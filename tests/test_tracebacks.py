"""What a notebook's reader sees where a cell is run before the one that it needs."""

import sys

import nbformat
import pytest
from nbclient import NotebookClient

from labkit import tracebacks

CELLS = ["%pip install x\nfirst = 1", "second = first + 1\nprint(second)", "third = sceond"]


def missed(code: str, namespace: dict) -> tuple:
    """The NameError of running `code`, with its traceback."""
    try:
        exec(compile(code, "<cell>", "exec"), namespace)
    except NameError as error:
        return error, sys.exc_info()[2]
    raise AssertionError("no name is missing")


def test_names_that_a_cell_makes():
    cell = "import a.b, c as d\nfrom e import f\nfor g in h: i, *j = g\ndef k(l): m = 1\nclass n: 0"
    assert {"a", "d", "f", "g", "i", "j", "k", "n"} <= tracebacks.made(cell)
    assert not {"b", "c", "e", "h", "l"} & tracebacks.made(cell)
    assert tracebacks.made("if x:\n    %pip install y\nz = 1") == {"z"}
    assert tracebacks.made("1 +") == set()


def test_a_cell_too_early_is_told_from_a_slip_of_the_pen():
    names = {}
    early = tracebacks.said(*missed(CELLS[1], names), names, CELLS)
    assert early.startswith("'first' is not there yet") and "begins with `%pip install x`" in early
    assert tracebacks.said(*missed(CELLS[2], names), names, CELLS) == ""
    unknown = tracebacks.said(*missed(CELLS[1], names), names, [])  # no file: it may be either
    assert unknown.startswith("'first' is not there yet: an earlier cell makes it. Run")


def test_a_name_that_a_library_misses_keeps_its_traceback():
    library = {}
    exec(compile("def f(): return first", "lib.py", "exec"), library)
    names = {"f": library["f"]}
    assert tracebacks.said(*missed("f()", names), names, CELLS) == ""
    inside = {}
    exec(compile("def f(): return first", "<cell>", "exec"), inside)
    assert tracebacks.said(*missed("f()", inside), inside, CELLS)


@pytest.mark.parametrize("file", ["[", '{"cells": 3}', '{"no": 1}'])
def test_a_broken_notebook_is_as_an_unknown_one(tmp_path, monkeypatch, file):
    (tmp_path / "x.ipynb").write_text(file)
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "x.ipynb"))
    assert tracebacks.cells() == []
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "gone.ipynb"))
    assert tracebacks.cells() == []


def test_in_a_kernel(tmp_path, monkeypatch):
    begin = "from labkit import tracebacks\ntracebacks.readable()"
    cells = [nbformat.v4.new_code_cell(code) for code in (begin, CELLS[1], CELLS[2], "first = 1")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(notebook, tmp_path / "x.ipynb")
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "x.ipynb"))
    NotebookClient(notebook, kernel_name="python3", allow_errors=True).execute()
    (early,), (slip,) = notebook.cells[1].outputs, notebook.cells[2].outputs
    assert early.ename == "NameError" and len(early.traceback) == 1
    assert early.traceback[0].startswith("NameError: 'first' is not there yet")
    assert "begins with `first = 1`" in early.traceback[0]
    assert any("Traceback" in line for line in slip.traceback)
