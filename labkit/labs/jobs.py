"""Measurements of many trainings, in jobs of a minute that stand for themselves: what the benches
of several notebooks share.

A job writes what it found as one file when it ends, so a measurement that was stopped goes on where
it was. Jobs stand in lines; those of one line need each other's results of the lines above alone,
so several processes share them, a thread each: on models of this size two processes do nearly twice
as much as two threads.
"""

import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from labkit import LabError, config, models, runs
from labkit import stages as all_stages


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much of it. A lab's own plan adds its sizes as fields, its `name`,
    what else `decides`, and its `lines`.
    """

    name: ClassVar[str] = ""
    profile: config.Profile
    seeds: int = 3

    def __post_init__(self):
        if self.seeds < 1:
            raise LabError(f"--seeds is {self.seeds}, but it must be 1 or more.")

    def decides(self) -> tuple:
        """What decides the findings beside sizes, profile and base: settings, raters."""
        return ()

    def lines(self) -> list[list[tuple]]:
        """The jobs, (name, function, arguments), in lines; each line needs the ones before it.
        function(plan, *arguments) → what was found, as JSON.
        """
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        """Changes with everything that decides what a job finds, so that no part of another
        measurement is taken for one of this.
        """
        base = self.profile.sft.base or runs.latest("pretrain").info
        return runs.digest(map(str, (asdict(self), *self.decides(), base)))[:8]

    @property
    def folder(self) -> Path:
        """Where the jobs' findings lie."""
        return runs.root() / f"{self.name}-{self.key}"

    def found(self, job: str) -> dict:
        """What a job that has ended found."""
        return json.loads((self.folder / f"{job}.json").read_text("utf8"))

    def run(self, job: str) -> runs.Run:
        """The run that a job made."""
        return runs.load(self.found(job)["run"])

    def seconds(self) -> dict[str, float]:
        """What the jobs took, by kind."""
        total = {}
        for name, function, _ in sum(self.lines(), []):
            kind = function.__name__
            total[kind] = total.get(kind, 0.0) + self.found(name)["seconds"]
        return total


def measure(plan: Plan, workers: int = 0) -> Plan:
    """Do all jobs that have not ended yet, `workers` at a time (0: as many as there are cores), and
    return the plan, whose `found` then has them all. What is done is said on standard error.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    workers, started = workers or os.cpu_count() or 1, time.time()
    lines = plan.lines()
    total, done = sum(map(len, lines)), 0
    for line in lines:
        todo = [job for job in line if not (plan.folder / f"{job[0]}.json").exists()]
        done += len(line) - len(todo)
        for name in at_once(plan, todo, workers):
            done += 1
            took, so_far = plan.found(name)["seconds"], (time.time() - started) / 60
            said = f"{done}/{total} · {name} · {took:.0f} s · {so_far:.1f} minutes so far"
            print(said, file=sys.stderr, flush=True)
    return plan


def at_once(plan: Plan, jobs: list, workers: int):
    """The names of the jobs as they end."""
    if workers == 1 or len(jobs) < 2:
        yield from (do(plan, *job) for job in jobs)
        return
    fresh = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
    with ProcessPoolExecutor(workers, fresh, torch.set_num_threads, (1,)) as pool:
        try:
            for future in as_completed([pool.submit(do, plan, *job) for job in jobs]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def do(plan: Plan, name: str, function, arguments) -> str:
    """Do a job and write what it found, with the seconds it took; returns its name."""
    started = time.time()
    found = function(plan, *arguments) | {"seconds": time.time() - started}
    temporary = plan.folder / f"{name}.tmp"
    temporary.write_text(json.dumps(found, ensure_ascii=False), "utf8")
    temporary.replace(plan.folder / f"{name}.json")
    return name


# --- what jobs do --------------------------------------------------------------------------------


def sft_of(profile: config.Profile, seed: int) -> runs.Run:
    """The newest SFT run of these settings on this base, else the shipped one, else a new one."""
    cfg = config.change(profile.sft, seed=seed)
    base, any_base = models.fingerprint(models.resolve_base(cfg.base)), {"base": ""}
    for run in filter(None, (*runs.listing()[::-1], runs.shipped("sft"))):
        if run.stage == "sft" and run.info.get("base", {}).get("fingerprint") == base:
            if asdict(run.config) | any_base == asdict(cfg) | any_base:
                return run
    return all_stages.train("sft", cfg, aside=True)


def made(stage: str, cfg, name: str, train) -> runs.Run:
    """The run of this name; where there is none yet, train(cfg, run) makes it, or goes on with what
    it made before it was stopped.
    """
    if (runs.root() / name / "run.json").exists():
        return runs.load(name)
    stopped = runs.checkpoints(runs.root() / (runs.PARTIAL + name))
    with runs.resume(name) if stopped else runs.start(stage, cfg, name, aside=True) as run:
        train(run.config if stopped else cfg, run)
    return run


def rounded(record: dict) -> dict:
    """A record as it is shipped: numbers to four digits, null for NaN, which JSON does not have."""
    short = {"parse_float": lambda x: round(float(x), 4), "parse_constant": lambda nan: None}
    return json.loads(json.dumps(record), **short)
