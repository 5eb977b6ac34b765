"""Inside the process of one side of `bench ppo`: its stop-watch, its memory, its report."""

import json
from pathlib import Path

from labkit.bench.measure import clock, matmul_rate
from labkit.runs import memory


class Watch:
    """Reads the job and writes report.json beside it. It stands still while a policy is saved."""

    def __init__(self, path: str):
        """Made when everything is imported."""
        self.folder, self.seconds = Path(path).absolute().parent, 0.0
        self.job = json.loads(Path(path).read_text("utf8"))
        self.report = {"imported_bytes": memory()[0], "updates": []}

    def begin(self):
        """The models are loaded (called again when another one is)."""
        self.at = clock()

    def update(self, save, **metrics):
        """An update is done; save(file) writes the policy, where it is time."""
        self.seconds += clock() - self.at
        self.report["updates"].append({"seconds": self.seconds, **metrics})
        done, every = len(self.report["updates"]), self.job["every"]
        if every and (done % every == 0 or done == self.job["config"]["updates"]):
            save(self.folder / f"{done}.policy")
        self.at = clock()

    def end(self, **more):
        """Write the report, with the matrix rate that is to be had now."""
        self.report |= {"peak_bytes": memory()[1], "matmul_flop_per_second": matmul_rate(), **more}
        (self.folder / "report.json").write_text(json.dumps(self.report), "utf8")
