"""`make faults`: every row of faults.md, tried in full, and what came of it.

Each row names the tests that try it. They say how often they tried something, how often it survived
and how many bytes were lost (record_property); of a test that says nothing, each case counts as one
try. Exits with 1 where something did not survive or a test is not there.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).with_name("faults.md")
TEST = r"`(tests/\w+\.py::\w+)`"
WHOLE = {"LABKIT_FAULTS": "1", "HF_HUB_OFFLINE": "1"}  # not only a sample


@dataclass
class Row:
    """A row of the table, or a promise. tests: "tests/test_x.py::test_y"."""

    name: str
    tests: list[str]
    counts: dict = field(default_factory=lambda: {"tried": 0, "survived": 0, "lost": 0})


def rows(file: Path = TABLE) -> list[Row]:
    """The rows of the table in a Markdown file."""
    cells = [line.strip("| ").split(" | ") for line in file.read_text("utf8").split("\n")]
    found = [one for one in cells if len(one) == 4 and one[0] != "row" and set(one[0]) != {"-"}]
    return [Row(one[0], re.findall(TEST, one[3])) for one in found]


def promises(text: str) -> list[Row]:
    """The promises of SECURITY.md: list items that begin in bold."""
    found = re.findall(r"^- \*\*(.+?)\*\*(.*?)(?=^- |^#|\Z)", text, re.M | re.S)
    return [Row(name, re.findall(TEST, rest)) for name, rest in found]


def missing(table: list[Row]) -> list[tuple[Row, list[str]]]:
    """The rows without a test, or with tests that are not there (and which)."""
    found = []
    for row in table:
        lost = [one for one in row.tests if one.split("::")[1] not in tests_of(one.split("::")[0])]
        if lost or not row.tests:
            found.append((row, lost))
    return found


def tests_of(name: str) -> set[str]:
    """The names of the test functions in a file."""
    file = ROOT / name
    if not file.exists():
        return set()
    return {
        node.name for node in ast.walk(ast.parse(file.read_text("utf8"))) if hasattr(node, "name")
    }


def tried(table: list[Row]) -> str:
    """Run all the tests of the rows once and count for each row; returns pytest's output."""
    wanted = sorted({test for row in table for test in row.tests})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *wanted]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | WHOLE, capture_output=True, text=True
        )
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    for row in table:
        for case in cases:
            test = f"{case.get('classname').replace('.', '/')}.py::{case.get('name').split('[')[0]}"
            if test in row.tests and case.find("skipped") is None:
                passed = case.find("failure") is None and case.find("error") is None
                said = {one.get("name"): int(one.get("value")) for one in case.iter("property")}
                row.counts["tried"] += said.get("tried", 1)
                row.counts["survived"] += said.get("survived", 1) if passed else 0
                row.counts["lost"] += said.get("lost", 0)
    return done.stdout + done.stderr


def main() -> int:
    table, began = rows(), time.time()
    gone = missing(table)
    for row, tests in gone:
        print(f"no test: {row.name} ({', '.join(tests) or 'none is named'})")
    output = tried(table)
    print(f"| {'row':60} | tried | survived | bytes lost |")
    print(f"| {'-' * 60} | ----: | -------: | ---------: |")
    for row in table:
        tally = row.counts
        print(
            f"| {row.name[:60]:60} | {tally['tried']:5,} | {tally['survived']:8,} |"
            f" {tally['lost']:10,} |"
        )
    total = {key: sum(row.counts[key] for row in table) for key in ("tried", "survived", "lost")}
    print(f"| {'all':60} | {total['tried']:5,} | {total['survived']:8,} | {total['lost']:10,} |")
    print(f"{(time.time() - began) / 60:.1f} minutes")
    fell = [
        row for row in table if row.counts["survived"] < row.counts["tried"] or row.counts["lost"]
    ]
    idle = [row for row in table if row.tests and not row.counts["tried"]]
    for row in idle:
        print(f"not tried here (skipped, or not collected): {row.name}")
    if fell or gone:
        print(output[-6_000:])
    return int(bool(fell or gone))


if __name__ == "__main__":
    sys.exit(main())
