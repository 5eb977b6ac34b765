"""The setup cell as Colab runs it: an empty folder, a Python that has torch and no labkit, a
stand-in for google.colab, and a repository on this disk (file://) in GitHub's place.

    python tests/colab.py               # from a bare torch, with the package index: how long?
    python tests/colab.py peft plotly   # the same, where these are there, too

tests/test_launch.py runs it without the index, where all but labkit is there.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

import nbformat

from labkit import launch

ROOT = Path(__file__).parent.parent
STAND_IN = """
told = []
def enable_custom_widget_manager():
    told.append("custom widgets")
"""
# What is asked after the setup cell, in the same kernel.
THEN = """
import json, os, sys, torch, labkit
from labkit import charts, runs
kinds = sorted(charts.bundle(charts.curves([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])))
print("FOUND", json.dumps({"labkit": labkit.__file__, "torch": torch.__file__, "chart": kinds,
    "told": sys.modules["google.colab"].output.told, "sft": str(runs.shipped("sft").path),
    "runs": str(runs.root().absolute()), "version": torch.__version__}))
"""


def repository(folder: Path) -> dict:
    """Commit what a package is made of, as it lies here; returns the environment in which git takes
    this repository for the one on GitHub.
    """
    for name in ("labkit", "data"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(folder)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{folder}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{launch.REPOSITORY}",
    }


def environment(folder: Path, there: list | None) -> Path:
    """A Python without labkit; returns its site-packages. there: packages that it has, from the
    index. None: it sees what is installed here (the lines of a .pth file are not read for more of
    them, and labkit is here by such a line).
    """
    venv.create(folder, with_pip=there is not None)
    [site] = folder.glob("lib/python*/site-packages")
    paths = [str(folder / "stand-in")]
    if there is not None:
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", *there], check=True)
    else:
        paths.append(sysconfig.get_paths()["purelib"])
    (site / "beside.pth").write_text("\n".join(paths))
    colab = folder / "stand-in/google/colab"
    colab.mkdir(parents=True)
    (colab / "__init__.py").write_text("from google.colab import output")
    (colab / "output.py").write_text(STAND_IN)
    return site


def rehearse(folder: Path, there: list | None = None, cell: str = "") -> dict:
    """Run the setup cell of a notebook (or this one) in an empty folder; returns what THEN found,
    the `seconds`, and what was `installed` beside what was there.
    """
    source, content = folder / "repository", folder / "content"
    content.mkdir()
    source.mkdir()
    site = environment(folder / "venv", there)
    before = set(site.glob("*.dist-info"))
    if not cell:
        cells = nbformat.read(ROOT / "notebooks/00_start_here.ipynb", 4).cells
        cell = next(one.source for one in cells if one.cell_type == "code")
    hidden = ("PYTHONPATH", "LABKIT_RUNS", "PYTHONHOME", "VIRTUAL_ENV")
    own = {name: value for name, value in os.environ.items() if name not in hidden}
    own |= {"COLAB_NOTEBOOK_ID": "1", "LABKIT_PROFILE": "tiny", "HOME": str(folder)}
    own |= repository(source)
    if there is None:  # "0" is how pip spells no isolation here: the build finds hatchling as it is
        own |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    command = [folder / "venv/bin/python", "-m", "IPython", "--no-banner", "--colors=NoColor"]
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, "-c", f"import google.colab\n{cell}\n{THEN}"],
        cwd=content,
        env=own,
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - begun
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert found, done.stdout[-3000:] + done.stderr[-3000:]
    new = sorted(one.name.split("-")[0] for one in set(site.glob("*.dist-info")) - before)
    return json.loads(found[0][6:]) | {"seconds": took, "installed": new, "said": done.stdout}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        seen = rehearse(Path(scratch).resolve(), ["torch", "ipython", *sys.argv[1:]])
    print(f"{seen['seconds']:.0f} s for {len(seen['installed'])} packages")
    print(*seen["installed"])
    sys.exit("torch" in seen["installed"] or not seen["told"])
