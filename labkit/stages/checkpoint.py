"""The state of a training loop on disk: weights, optimiser, random numbers, and facts such as β.
One file, no pickle, whole or not there.
"""

import json
import os

import torch

from labkit import LabError
from labkit.runs import CHECKPOINT as FILE


def save(folder, weights: dict, optimizer, **facts):
    """Write folder/checkpoint.safetensors in place of the one before, which stays if writing fails
    (OSError).

    weights: {name: Parameter or tensor}; facts: anything JSON can hold.
    """
    from safetensors.torch import save_file

    state = optimizer.state_dict()
    tensors = {f"weight.{name}": value for name, value in weights.items()}
    tensors |= {
        f"optimizer.{i}.{key}": value
        for i, one in state["state"].items()
        for key, value in one.items()
    }
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    temporary = folder / (FILE + ".tmp")
    try:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            temporary,
            metadata={"facts": json.dumps(facts), "groups": json.dumps(state["param_groups"])},
        )
        os.replace(temporary, folder / FILE)
    except Exception as error:  # safetensors raises a type of its own
        temporary.unlink(missing_ok=True)
        raise OSError(str(error)) from error


def load(folder, weights: dict, optimizer) -> dict:
    """Put the saved state back, in place, and return the facts. LabError where the file can't be
    read or is another loop's.
    """
    from safetensors import safe_open

    try:
        with safe_open(folder / FILE, "pt") as file:
            tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
        facts, groups = (json.loads(metadata[key]) for key in ("facts", "groups"))
        state = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, i, name = key.split(".")
                state.setdefault(int(i), {})[name] = value
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(tensors[f"weight.{name}"])
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except Exception as error:
        raise LabError(
            f"The checkpoint in {folder} can't be used ({error}). Delete that folder and start the"
            " stage again."
        ) from error
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return facts
