"""The state of a training loop on disk: weights, optimisers, random numbers, and facts such as β.
One file, no pickle, with a checksum, whole or not there; the one before it stays beside it.
"""

import hashlib
import json
import os
import sys
import time

import torch

from labkit import LabError, ranks, runs

EVERY = 30  # seconds between two checkpoints, at least
SHARE = 50  # and so many times as long as one takes to write: at most 2 % of the time


def checksum(tensors: dict, *texts: str) -> str:
    """SHA-256 of tensors, by name, and texts, in hex."""
    found = hashlib.sha256("\0".join(texts).encode())
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def save(folder, weights: dict, *optimizers, **facts):
    """Write folder/checkpoint.safetensors; the one before becomes checkpoint-before.safetensors,
    and stays what it is if writing fails (OSError).

    weights: {name: Parameter or tensor}; facts: anything JSON can hold.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    states = [optimizer.state_dict() for optimizer in optimizers]
    tensors = {f"weight.{name}": value for name, value in weights.items()}
    tensors |= {
        f"optimizer.{n}.{i}.{key}": value
        for n, state in enumerate(states)
        for i, one in state["state"].items()
        for key, value in one.items()
    }
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    texts = {
        "facts": json.dumps(facts),
        "groups": json.dumps([state["param_groups"] for state in states]),
    }
    temporary = folder / (runs.CHECKPOINT + ".tmp")
    try:
        whole = texts | {"checksum": checksum(tensors, *texts.values())}
        save_file(tensors, temporary, metadata=whole)
        if (folder / runs.CHECKPOINT).exists():
            os.replace(folder / runs.CHECKPOINT, folder / runs.BEFORE)
        os.replace(temporary, folder / runs.CHECKPOINT)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OSError(str(error)) from error


def read(file) -> tuple[dict, dict, list]:
    """(tensors, facts, parameter groups of the optimisers) of a checkpoint. ValueError, or what
    safetensors raises, where the file is damaged.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        told = opened.metadata()
    facts, groups = told["facts"], told["groups"]
    if told["checksum"] != checksum(tensors, facts, groups):
        raise ValueError("its checksum is another")
    return tensors, json.loads(facts), json.loads(groups)


def newest(folder) -> tuple[dict, dict, list] | None:
    """What the newest whole checkpoint of a folder holds (see `read`), None where there is none
    at all. A damaged one is named on standard error; LabError where no other is left.
    """
    files = runs.checkpoints(folder)
    for file in files:
        try:
            return read(file)
        except Exception as error:
            reason = f"{file} can't be used ({error})"
            if file == files[-1]:
                raise LabError(
                    f"The checkpoint {reason}. Delete {folder} and start the stage again."
                ) from error
            warn(f"{reason}: going on from the one before it.")
    return None


def put(state: tuple, weights: dict, *optimizers):
    """Put what `newest` found back, in place, random numbers included. LabError where it is another
    loop's.
    """
    tensors, _, groups = state
    states = [{} for _ in groups]
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, n, i, name = key.split(".")
            states[int(n)].setdefault(int(i), {})[name] = value
    try:
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(tensors[f"weight.{name}"])
        for optimizer, one, group in zip(optimizers, states, groups):
            optimizer.load_state_dict({"state": one, "param_groups": group})
    except Exception as error:
        raise LabError(
            f"The checkpoint is of another model or loop ({error}). Go on with the base and the"
            " settings that the run began with, or start a new one."
        ) from error
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])


def warn(sentence: str):
    print(f"Careful: {sentence}", file=sys.stderr)


def of(run):
    """The Keeper of a stage that learns from data: it goes on with the data, the base and the
    policy that the run began with.
    """
    names = {"data": "data_hash", "policy": "policy", "start_from": "start_from"}
    base = run.info.get("base", {}).get("fingerprint")
    return Keeper(run, base=base, **{kind: run.info.get(key) for kind, key in names.items()})


class Keeper:
    """The checkpoints of a run's loop. `facts`: what the last one told, {} in a new run; `put` goes
    on from it; `save` writes the next one where it is `due`. Without a run it keeps nothing.

    began: what a run must find again to go on, such as the digest of its data. LabError where it
    finds something else.
    """

    def __init__(self, run=None, **began):
        self.run, self.began = run, began
        self.state = newest(run.path) if run else None
        self.facts = self.state[1] if self.state else {}
        for key, value in began.items():
            if self.facts.get(key, value) != value:
                raise LabError(
                    f"{run.name} did not begin with the {key} that there is now. Bring back what it"
                    " began with, or start a new run."
                )
        before = self.facts.get("seconds", 0.0)
        if self.state:
            run.before = max(run.before, before)
        self.started = time.perf_counter() - before
        self.last, self.took = time.perf_counter(), 0.0

    def seconds(self) -> float:
        """How long the loop has run, all its beginnings together."""
        return time.perf_counter() - self.started

    def put(self, weights: dict, *optimizers):
        """Remember what is to be kept; where there is a checkpoint, put it back and drop what was
        logged after it.
        """
        self.parts = (weights, *optimizers)
        if self.state:
            put(self.state, *self.parts)
            self.run.rewind(self.facts["lines"])
            self.state = None

    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        if not self.run or not ranks.main():
            return False
        return time.perf_counter() - self.last >= max(EVERY, SHARE * self.took)

    def save(self, **facts):
        """Write one; a disk that is full costs this one, not the run."""
        if not self.run or not ranks.main():
            return
        begun = time.perf_counter()
        told = {"seconds": self.seconds(), "lines": len(self.run.metrics())}
        try:
            save(self.run.path, *self.parts, **self.began, **told, **facts)
        except OSError as error:
            warn(f"a checkpoint could not be written ({error}); training goes on.")
        self.last = time.perf_counter()
        self.took = self.last - begun
