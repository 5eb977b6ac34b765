"""figures.json: what README and the notebooks' claims say, and the judge of what moved."""

import json

import drift
import nbformat
import pytest

HELD = json.loads(drift.FIGURES.read_text("utf8"))
README = (drift.ROOT / "README.md").read_text("utf8")


@pytest.mark.parametrize("name", sorted(drift.CLAIMED))
def test_figures_are_those_that_the_notebook_shows(name):
    assert HELD[name]["figures"] == drift.printed(name), "python tests/drift.py write"


def faults(readme: str) -> list[str]:
    """The series' figures that README says otherwise than its record, or not at all."""
    rows = [line for line in readme.splitlines() if line.startswith("| ")]
    return [
        f"{one['claim']}: {drift.of_series(one['figure'])}"
        for one in HELD["README.md"]["figures"]
        if drift.of_series(one["figure"]) != one["says"]
        or not any(r.startswith(f"| {one['claim']} |") and one["says"] in r for r in rows)
    ]


def test_readme_says_what_the_record_of_the_series_holds():
    assert faults(README) == []
    assert len(HELD["README.md"]["figures"]) > 40
    wrong = README.replace("33 % (30 % to 35 %)", "34 % (30 % to 35 %)")
    assert faults(wrong) == ["base, bare question (temperature 1): 33 % (30 % to 35 %"]


def test_numbers_of_a_cell():
    output = nbformat.v4.new_output("stream", text="1,234 steps, −0.5 and 5.0e-06 at 95% (n = 3)\n")
    chart = nbformat.v4.new_output("display_data", {"text/plain": "KL 0.1 → 2, nf4 of sft-001"})
    cell = nbformat.v4.new_code_cell("", outputs=[output, chart])
    assert drift.numbers(cell) == [1234, -0.5, 5e-6, 95, 3, 0.1, 2]


def test_what_moved():
    assert drift.moved([0.5, 200], [0.6, 220], 0.15) == 0  # 10 % of 200, and 0.1 of what is below 1
    assert drift.moved([0.5, 200], [0.7, 220], 0.15) == pytest.approx(0.2)
    assert drift.moved([100], [150], 0.15) == pytest.approx(0.5)
    assert drift.moved([1.0], [1.01], 0.0) == pytest.approx(0.01)
    assert drift.moved([1.0], [1.0, 2.0], 0.15) is None
    assert drift.moved([1.0], [9.0], None) == 0  # the machine's, not the model's


def test_a_run_that_moved_is_red(monkeypatch, tmp_path, capsys):
    """The wires of `run`: another environment's notebooks are read, judged and counted."""
    monkeypatch.setattr(drift, "environment", lambda which, pins: "python")
    monkeypatch.setattr(drift, "NOTEBOOKS", ("02_instruction_tuning",))
    monkeypatch.setattr(drift.subprocess, "check_output", lambda *a, **k: "{}")
    tests = []
    monkeypatch.setattr(drift.subprocess, "run", lambda *a, **k: tests.append(a) or Passed)
    monkeypatch.setattr(drift, "execute", lambda *where: True)
    same = HELD["02_instruction_tuning"]["figures"]
    monkeypatch.setattr(drift, "printed", lambda name, out: same)
    assert drift.run("newest", []) == 0 and len(tests) == 1
    other = [same[0] | {"figures": [*same[0]["figures"], 7.0]}, *same[1:]]
    monkeypatch.setattr(drift, "printed", lambda name, out: other)
    assert drift.run("newest", []) == 1
    assert f"| {same[0]['claim']} | other numbers |" in capsys.readouterr().out
    monkeypatch.setattr(drift, "execute", lambda *where: False)
    assert drift.run("newest", []) == 1


class Passed:
    returncode = 0
