"""`bench reruns`: what learners do to a notebook. They run it again, go back to the middle,
interrupt it, lose its kernel, and open another one beside it.
"""

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labkit import LabError
from labkit.bench.measure import machine, say
from labkit.bench.notebooks import client_of, execute, files_of, peak_memory, refused

TOGETHER = ("02_instruction_tuning", "07_ppo")
"""Two that train, run at once."""


def reruns(notebooks=(), profile: str = "tiny", seed: int = 0) -> dict:
    """Every notebook, in random order, in one runs folder that is empty at first. In one kernel:
    whole; again from a random cell to its end; again, with an interrupt at a random moment of what
    takes long; and whole again. Then another kernel is killed on the way, and a third runs it
    whole. At last those of TOGETHER that are among them, at once.

    Returns {"notebooks": {name: {"from", "interrupted", "killed": cells, "peak_bytes": of the whole
    passes and the one from the middle, "ratio": the highest later peak over the first}}, …}. Raises
    LabError where a cell failed that was neither interrupted nor killed.
    """
    files, rng, found = files_of(notebooks), random.Random(seed), {}
    rng.shuffle(files)
    with tempfile.TemporaryDirectory(prefix="labkit-reruns-") as scratch:
        environment = {**os.environ, "LABKIT_RUNS": f"{scratch}/runs", "LABKIT_PROFILE": profile}
        for file in files:
            found[file.stem] = again(file, environment, rng)
            say(f"{file.stem} · {found[file.stem]}")
        both = [file for file in files if file.stem in TOGETHER]
        with ThreadPoolExecutor(len(TOGETHER)) as pool:
            list(pool.map(lambda file: execute(file, environment), both))
    together = sorted(file.stem for file in both)
    return {"notebooks": found, "together": together, "profile": profile, **machine()}


def again(file: Path, environment: dict, rng: random.Random) -> dict:
    """The passes over one notebook; see `reruns`."""
    with kernel(file, environment) as one:
        peaks = [one.peak_of_run()]
        start = rng.choice(one.code)
        peaks.append(one.peak_of_run(start))
        interrupted = one.signal_in_run(signal.SIGINT, rng)
        peaks.append(one.peak_of_run())
    with kernel(file, environment) as other:
        other.seconds = one.seconds
        killed = other.signal_in_run(signal.SIGKILL, rng)
    execute(file, environment)
    cells = {"from": start, "interrupted": interrupted, "killed": killed}
    return cells | {"peak_bytes": peaks, "ratio": round(max(peaks[1:]) / peaks[0], 3)}


@contextlib.contextmanager
def kernel(file: Path, environment: dict):
    """Yields a notebook with a kernel of its own."""
    client = client_of(file)
    with client.setup_kernel(env=environment):
        yield Running(file, client)


class Running:
    """A notebook whose kernel stays. code: the places of its code cells; seconds: what each took
    when it last ran whole.
    """

    def __init__(self, file: Path, client):
        self.file, self.client, self.seconds = file, client, {}
        self.code = [i for i, cell in enumerate(client.nb.cells) if cell.cell_type == "code"]

    def peak_of_run(self, start: int = 0) -> int:
        """Run the cells from `start` on; the most bytes that the kernel held."""
        with peak_memory() as peak:
            for i in self.code[self.code.index(start) if start else 0 :]:
                began = time.time()
                self.cell(i)
                self.seconds[i] = time.time() - began
        return peak[0]

    def signal_in_run(self, number: signal.Signals, rng: random.Random) -> int:
        """Run the cells up to one that takes long, and send its kernel a signal at some moment of
        it; the cell's place.
        """
        stop = rng.choices(self.code, [self.seconds[i] for i in self.code])[0]
        moment = rng.uniform(0, self.seconds[stop])
        for i in self.code[: self.code.index(stop)]:
            self.cell(i)
        pid = self.client.km.provisioner.process.pid
        timer = threading.Timer(moment, os.kill, (pid, number))
        timer.start()
        self.cell(stop, may_fail=True)
        timer.cancel()
        return stop

    def cell(self, i: int, may_fail: bool = False):
        """Run one cell; LabError where it fails, but for what a signal does (may_fail)."""
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

        try:
            self.client.execute_cell(self.client.nb.cells[i], i)
        except (CellExecutionError, CellTimeoutError) as error:
            if not (may_fail and getattr(error, "ename", "") == "KeyboardInterrupt"):
                raise refused(f"cell {i} of {self.file}", error) from error
        except DeadKernelError as error:
            if not may_fail:
                raise LabError(f"The kernel died in cell {i} of {self.file}.") from error
