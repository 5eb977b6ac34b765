"""`bench series`: seconds and peak memory of every notebook."""

import contextlib
import os
import tempfile
import threading
from pathlib import Path

from labkit import LabError
from labkit.bench.measure import machine, say, seconds


def series(notebooks=(), profile: str = "tiny") -> dict:
    """Execute notebooks one after the other in one empty runs folder, so that a later one finds
    what an earlier one trained.

    Returns {"notebooks": {name: {"seconds", "peak_rss_bytes"}}, "total_seconds", …}. The peak is of
    the resident memory of the kernel and its children together, seen 20 times a second; pages they
    share count twice. The notebooks' files are not touched. Raises LabError when there is no
    notebook or one fails.
    """
    files, found = files_of(notebooks), {}
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as scratch:
        environment = {**os.environ, "LABKIT_RUNS": f"{scratch}/runs", "LABKIT_PROFILE": profile}
        for file in files:
            with peak_memory() as peak:
                took = seconds(lambda file=file: execute(file, environment))[0]
            found[file.stem] = {"seconds": round(took, 2), "peak_rss_bytes": peak[0]}
            say(f"{file.stem} · {took:.1f} s · {peak[0] / 1e6:.0f} MB")
    total = round(sum(one["seconds"] for one in found.values()), 2)
    return {"notebooks": found, "total_seconds": total, "profile": profile, **machine()}


def files_of(notebooks=()) -> list[Path]:
    """These notebooks, else all of notebooks/; LabError where one is not there."""
    folder = Path(__file__).parents[2] / "notebooks"
    files = [Path(file) for file in notebooks] or sorted(folder.glob("*.ipynb"))
    for file in files:
        if not file.is_file():
            raise LabError(f"There is no notebook {str(file)!r}.")
    return files


def execute(file: Path, environment: dict, notebook=None):
    """Run every cell in a kernel of its own, in the notebook's folder. notebook: what to run there
    in the file's place; it keeps its outputs.
    """
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    try:
        client_of(file, notebook).execute(env=environment)
    except (CellExecutionError, CellTimeoutError) as error:
        raise refused(file, error) from error


def client_of(file: Path, notebook=None):
    """An nbclient of a notebook (or of another in its place), which runs it in its folder; a cell
    has 900 seconds.
    """
    import nbformat
    from nbclient import NotebookClient

    where = {"metadata": {"path": str(file.absolute().parent)}}
    how = {"timeout": 900, "kernel_name": "python3", "store_widget_state": False}
    return NotebookClient(notebook or nbformat.read(file, 4), resources=where, **how)


def refused(what, error) -> LabError:
    """What to say of a cell that failed."""
    said = f"{error.ename}: {error.evalue}" if hasattr(error, "ename") else str(error)
    return LabError(f"{what} failed: {said}. Open it and run it cell by cell.")


@contextlib.contextmanager
def peak_memory():
    """Yields [bytes]: the most that all processes under this one held at once inside the block."""
    import psutil

    peak, done, here = [0], threading.Event(), psutil.Process()

    def look():
        while not done.wait(0.05):
            with contextlib.suppress(psutil.Error):  # one ended between the list and the question
                held = sum(one.memory_info().rss for one in here.children(recursive=True))
                peak[0] = max(peak[0], held)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield peak
    finally:
        done.set()
        looking.join()
