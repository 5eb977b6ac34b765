"""Our side of `bench ppo`, in a process of its own (`python -m labkit.bench.ours job.json`):
ppo.train as it ships. bench/ppo.py writes the job and reads the report.
"""

import sys
from dataclasses import asdict

import bitsandbytes  # noqa: F401  (its memory belongs to the imports)
import peft
import torch

from labkit import config, models, runs
from labkit.bench.watch import Watch
from labkit.stages import ppo


def main(path: str):
    """Train as the job says; the report goes to the job's folder."""
    watch, held = Watch(path), {}
    cfg, load = config.Ppo(**watch.job["config"]), models.load_adapter

    def load_adapter(*args, **kwargs):  # training begins when the last adapter is loaded
        held["model"] = load(*args, **kwargs)
        watch.begin()
        return held["model"]

    def save(file):
        what = {"adapter_name": "policy", "save_embedding_layers": False}
        torch.save(peft.get_peft_model_state_dict(held["model"], **what), file)

    def listen(entry):
        numbers = {key: x for key, x in entry.items() if isinstance(x, (int, float))}
        watch.update(save, **numbers)

    models.load_adapter = load_adapter
    run = runs.Run(watch.folder / "run", "ppo", "bench", {"config": asdict(cfg)})
    run.path.mkdir()
    run.listeners.append(listen)
    runs.seed_everything(cfg.seed)
    ppo.train(cfg, run)  # without a probe: the peer counts no gold either
    watch.end(prompt=run.metrics()[-1]["prompt"], memory_by_part=run.evaluation["memory"])


if __name__ == "__main__":
    main(sys.argv[1])
