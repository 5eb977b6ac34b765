"""Does a test notice when one wire of the learning code is crossed? `make mutants` crosses them.

A mutant is one small change in a copy of the package. The tests named beside it run against that
copy and must fail: they have killed it. One that survives is a wire that nobody tests; one whose
text is no longer found exactly once is out of date, and an error. `python tests/mutants.py WORD …`
tries only the mutants with these words in their file, text or tests.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["pytest", "torch", "transformers", "peft", "bitsandbytes", "datasets", "trl"]


class Mutant(NamedTuple):
    """In `file`, `old` (found exactly once) becomes `new`. tests: "ppo::credit_by_hand losses::…"
    names test_credit_by_hand in tests/test_ppo.py, and so on.
    """

    file: str
    old: str
    new: str
    tests: str


def read(text: str) -> list[Mutant]:
    """The mutants of a file like mutants.txt, which says how it is written."""
    found = []
    for line in text.splitlines():
        if line.startswith("labkit/"):
            file = line
        elif line.startswith("  "):
            tests = line.strip()
        elif line.startswith("-"):
            old = line[2:]
        elif line.startswith("+"):
            found.append(Mutant(file, old, line[2:], tests))
    return found


MUTANTS = read((ROOT / "tests/mutants.txt").read_text("utf8"))


def node_ids(tests: str) -> list[str]:
    return ["tests/test_{}.py::test_{}".format(*name.split("::")) for name in tests.split()]


def out_of_date(mutants, root: Path) -> list[str]:
    """A sentence for each mutant whose text is not in its file exactly once, or whose tests are not
    there.
    """
    said = []
    for mutant in mutants:
        found = (root / mutant.file).read_text("utf8").count(mutant.old)
        if found != 1:
            said.append(f"{mutant.file}: {mutant.old!r} is found {found} times, not once.")
        for file, test in (node.split("::") for node in node_ids(mutant.tests)):
            if f"def {test}(" not in (root / file).read_text("utf8"):
                said.append(f"{mutant.file}: {mutant.old!r} names {file}::{test}: no such test.")
    return said


def tried(task) -> tuple[str, float]:
    """(the first of the tests that fails, "" if none does; seconds) of a task (root, mutant).

    Runs in a process of its own: there labkit is imported from the copy, and never was before.
    """
    import pytest

    class Watch:
        failed = ""

        def pytest_runtest_logreport(self, report):
            if report.failed and not self.failed:
                self.failed = report.nodeid.removeprefix("tests/")

    (root, mutant), began, watch = task, time.monotonic(), Watch()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        for name in ("labkit", "tests"):
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "data").symlink_to(root / "data")
        shutil.copy(root / "pyproject.toml", copy)
        changed = copy / mutant.file
        changed.write_text(changed.read_text("utf8").replace(mutant.old, mutant.new), "utf8")
        os.chdir(copy)
        os.environ |= {"PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        sys.path.insert(0, str(copy))
        tempfile.tempdir = folder
        plain = "-x -o addopts= -p no:cacheprovider -p no:terminal".split()
        code = pytest.main([*node_ids(mutant.tests), *plain], [watch])
        os.chdir(root)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"{mutant}: the tests could not run ({code!r}).")
    return watch.failed, time.monotonic() - began


def run(mutants, root: Path = ROOT, preload=HEAVY) -> int:
    """Try all, two at a time, and print a table; 0 if every one was killed, else 1."""
    said = out_of_date(mutants, root)
    if said or not mutants:
        print(*said or ["No such mutant."], sep="\n")
        return 1
    every = " ".join(sorted({name for mutant in mutants for name in mutant.tests.split()}))
    unchanged = mutants[0]._replace(new=mutants[0].old, tests=every)
    # Processes are forked from one that has imported the libraries, and has used none of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    began, alive = time.monotonic(), 0
    with context.Pool(2, maxtasksperchild=1) as pool:
        results = pool.imap(tried, [(root, mutant) for mutant in (unchanged, *mutants)])
        failed, _ = results.next(timeout=600)
        if failed:
            print(f"{failed} fails without any change: mend that first.")
            return 1
        for file, old, new, _ in mutants:
            killed_by, seconds = results.next(timeout=300)
            alive += not killed_by
            print(f"{file:32} {seconds:5.1f} s  {killed_by or 'SURVIVED'}")
            print(f"    {old.strip()}  →  {new.strip()}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(
        f"{len(mutants) - alive} of {len(mutants)} mutants were killed, in {minutes:.1f} minutes."
    )
    return int(alive > 0)


if __name__ == "__main__":
    # One thread each, on the CPU, and nothing from the network; read when a library is imported.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1", "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    words = sys.argv[1:]
    sys.exit(run([one for one in MUTANTS if not words or any(w in " ".join(one) for w in words)]))
