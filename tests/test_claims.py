"""tests/claims.md: what the notebooks claim, each claim with a line of the cell that prints it."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
CLAIMS = Path(__file__).parent / "claims.md"
LINE = re.compile(r"- (?P<claim>.+) → `(?P<line>[^`]+)`")


def read(text: str) -> dict[str, list[tuple[str, str]]]:
    """{notebook's name: [(claim, a line of its cell)]}; ValueError for a line that is neither."""
    found, name = {}, None
    for number, row in enumerate(text.splitlines(), 1):
        if row.startswith("## "):
            name = row[3:].strip()
            found[name] = []
        elif row.startswith("- "):
            match = LINE.fullmatch(row)
            if not match or name is None:
                raise ValueError(f"line {number} names no cell: {row}")
            found[name].append((match["claim"], match["line"]))
    return found


def fault(cells, line: str) -> str:
    """What is wrong with a claim whose cell holds `line`; "" if one executed cell prints it."""
    holding = [c for c in cells if c.cell_type == "code" and line in c.source]
    if len(holding) != 1:
        return f"{len(holding)} cells hold `{line}`"
    return "" if holding[0].outputs else f"the cell of `{line}` prints nothing"


CLAIMED = read(CLAIMS.read_text("utf8"))


NOTEBOOKS = sorted(FOLDER.glob("*.ipynb")) + sorted(FOLDER.glob("labs/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_claim_has_a_cell_that_prints_it(path):
    name = path.stem
    assert CLAIMED.get(name), f"tests/claims.md has no claims of {name}"
    cells = nbformat.read(path, 4).cells
    faults = {claim: fault(cells, line) for claim, line in CLAIMED[name]}
    assert {claim: said for claim, said in faults.items() if said} == {}


def test_a_claim_without_a_cell_is_seen():
    output = nbformat.v4.new_output("stream", text="2\n")
    cells = [
        nbformat.v4.new_code_cell("print(1 + 1)", outputs=[output]),
        nbformat.v4.new_code_cell("x = 3"),
        nbformat.v4.new_markdown_cell("print(4)"),
    ]
    assert fault(cells, "print(1 + 1)") == ""
    assert "prints nothing" in fault(cells, "x = 3")
    assert fault(cells, "print(4)").startswith("0 cells")
    assert fault(cells, "").startswith("2 cells")
    with pytest.raises(ValueError, match="line 2 names no cell"):
        read("## 00_start_here\n- the sky is blue")
