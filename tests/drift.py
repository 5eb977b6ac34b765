"""Whether the series still says what it said, with other versions of what it stands on.

figures.json holds every figure that README takes from the record of the series, and every number
that the cell of a notebook's claim (claims.md) printed, each with its tolerance:

    python tests/drift.py write              figures.json anew, from the notebooks as they are saved
    python tests/drift.py newest [PIN …]     the newest versions that pyproject.toml allows, in
    python tests/drift.py oldest [PIN …]     build/drift-newest, or the oldest: the fast tests, then
                                             NOTEBOOKS are run, and what moved is printed

A PIN such as torch==2.13.0 holds one package where it is. The exit status is 1 where a test failed
or a figure moved further than its tolerance.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import nbformat
from test_claims import CLAIMED

ROOT = Path(__file__).parent.parent
FIGURES = Path(__file__).parent / "figures.json"
NOTEBOOKS = ("02_instruction_tuning", "07_ppo", "09_dpo")
FAST = ("losses", "rewards", "logprobs", "rollout", "decoder", "ppo", "stages", "charts", "chat")
"""Test files that cross every library, in a few minutes."""
TOLERANCE = 0.15
"""Of a number that a training printed: of the number, or of 1 where it is smaller."""
NUMBER = re.compile(r"(?<![\w.−-])[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
TIMES = re.compile(r"\b(?:seconds?|minutes?|MB|GB|took|faster|speed)\b")
"""Claims about the machine: their figures are printed, and not judged."""
IN_UNITS = {"ppo_kl": 1, "ppo_rise_in_sd": 2}
"""Figures of the series that are no shares: digits after the point."""


def numbers(cell) -> list[float]:
    """Every number in what a cell printed, charts and tables in their plain text."""
    parts = [
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for output in cell.get("outputs", [])
    ]
    return [float(x.replace(",", "").replace("−", "-")) for x in NUMBER.findall("\n".join(parts))]


def printed(name: str, folder: Path = ROOT / "notebooks") -> list[dict]:
    """{claim, line, figures, tolerance} of each claim of a notebook, as it is saved in `folder`.

    tolerance: 0 where `make test` compares the cell's output, null where it speaks of the machine.
    """
    [file] = folder.rglob(f"{name}.ipynb")
    cells = nbformat.read(file, 4).cells
    found = []
    for claim, line in CLAIMED[name]:
        [cell] = [c for c in cells if c.cell_type == "code" and line in c.source]
        exact = "nbval-check-output" in cell.metadata.get("tags", ())
        tolerance = 0.0 if exact else None if TIMES.search(claim) else TOLERANCE
        found.append({"claim": claim, "line": line, "figures": numbers(cell)})
        found[-1]["tolerance"] = tolerance
    return found


def moved(before: list[float], after: list[float], tolerance: float | None) -> float | None:
    """How far the figures moved, the furthest of them, each of itself or of 1 where it is smaller;
    0 where that is within the tolerance, None where there are more or fewer of them.
    """
    if tolerance is None:
        return 0.0
    if len(before) != len(after):
        return None
    steps = [abs(a - b) / max(1.0, abs(a)) for a, b in zip(before, after, strict=True)]
    return max([step for step in steps if step > tolerance], default=0.0)


def of_series(figure: str) -> str:
    """A figure of the series' record over its seeds, as README writes it but for the last bracket,
    before which n may stand: "33 % (30 % to 35 %".
    """
    record = json.loads((ROOT / "data" / "checkpoints" / "report.json").read_text("utf8"))
    values = [seed[figure] for seed in record["seeds"]]
    if figure in IN_UNITS:
        shown = [f"{x:.{IN_UNITS[figure]}f}" for x in (fmean(values), min(values), max(values))]
    else:
        shown = [f"{100 * x:.0f} %" for x in (fmean(values), min(values), max(values))]
    mean, low, high = shown
    return mean if low == high else f"{mean} ({low} to {high}"


def write():
    """figures.json anew: README's rows stay, what they say is taken from the record."""
    series = json.loads(FIGURES.read_text("utf8"))["README.md"]
    series["figures"] = [row | {"says": of_series(row["figure"])} for row in series["figures"]]
    found = {
        name: {"command": f"make notebooks NOTEBOOKS=notebooks/{name}.ipynb"} for name in CLAIMED
    }
    for name in found:
        found[name]["figures"] = printed(name)
    text = json.dumps({"README.md": series} | found, ensure_ascii=False)
    # A line for each figure: what moved shows in a diff.
    FIGURES.write_text(
        re.sub(r'(\{"claim"|"(?:\w|\.)+": \{"command")', r"\n\1", text) + "\n", "utf8"
    )


# --- the same with other versions ----------------------------------------------------------------


def environment(which: str, pins: list[str]) -> Path:
    """The Python of a fresh environment in build/drift-WHICH; `pins` come before all else."""
    folder = ROOT / "build" / f"drift-{which}"
    python, held = folder / "bin" / "python", folder / "constraints.txt"
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    held.write_text("\n".join(pins), "utf8")
    pip = [python, "-m", "pip", "install", "--quiet"]
    if which == "oldest":
        subprocess.run([*pip, "uv"], check=True)
        held.write_text(subprocess.check_output(oldest(folder / "bin" / "uv", held), text=True))
    subprocess.run([*pip, "-c", held, "-e", f"{ROOT}[dev,lab]"], check=True)
    return python


def oldest(uv, pins: Path) -> list:
    """The command that prints the oldest versions that pyproject.toml allows together."""
    lowest = [uv, "pip", "compile", ROOT / "pyproject.toml", "--extra", "dev", "--extra", "lab"]
    return [*lowest, "--resolution=lowest-direct", "--no-annotate", "--quiet", "-c", pins]


def run(which: str, pins: list[str]) -> int:
    python, out = environment(which, pins), ROOT / "build" / f"drift-{which}" / "notebooks"
    versions = "import labkit.runs as r; print(r.versions())"
    print(subprocess.check_output([python, "-c", versions], text=True), flush=True)
    tests = [Path("tests") / f"test_{name}.py" for name in FAST]
    failed = subprocess.run([python, "-m", "pytest", *tests], cwd=ROOT).returncode
    rows = []
    for name in NOTEBOOKS:
        ran = execute(python, name, out)
        held = json.loads(FIGURES.read_text("utf8"))[name]["figures"]
        after = printed(name, out) if ran else [{"figures": []}] * len(held)
        for old, new in zip(held, after, strict=True):
            step = moved(old["figures"], new["figures"], old["tolerance"]) if ran else None
            if step != 0:
                furthest = "other numbers" if step is None else f"{step:.2f}"
                rows.append(f"| {name} | {old['claim']} | {furthest} | {old['tolerance']} |")
    print("| notebook | claim | moved | tolerance |\n| --- | --- | ---: | ---: |", *rows, sep="\n")
    print(f"{which}: {len(rows)} claims moved, the tests {'FAILED' if failed else 'passed'}")
    return int(bool(failed or rows))


def execute(python: Path, name: str, out: Path) -> bool:
    """Run a notebook from an empty runs folder and save it in `out`; False where a cell failed."""
    where = {"LABKIT_RUNS": str(out / f"runs-{name}"), "LABKIT_PROFILE": "tiny"}
    env = os.environ | where | {"HF_HUB_OFFLINE": "1", "LABKIT_STATIC_CHARTS": "1"}
    command = [python, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute"]
    command += ["--ExecutePreprocessor.kernel_name=python3", "--ExecutePreprocessor.timeout=900"]
    source = ROOT / "notebooks" / f"{name}.ipynb"
    return not subprocess.run([*command, "--output-dir", out, source], env=env).returncode


if __name__ == "__main__":
    verb, *pins = sys.argv[1:] or [""]
    if verb == "write":
        write()
    elif verb in ("newest", "oldest"):
        sys.exit(run(verb, pins))
    else:
        sys.exit(__doc__)
