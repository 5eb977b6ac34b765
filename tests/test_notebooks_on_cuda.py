"""Every code cell of the notebooks on the pretend CUDA device, at quick sizes, in float32 and in
half precision. With LABKIT_SLOW=1: a minute or two a notebook.

A cell may fail for want of data at these sizes, or on what only a real device has; only a mix of
devices or of types, a wait inside a graph and a softmax in half precision are faults here.
"""

import json
import os
import re
import warnings
from pathlib import Path

import fakecuda
import pytest
import torch

from labkit import config, models

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
FAULT = re.compile(
    "same device|stream is capturing|over a vocabulary|[Tt]ype cuda|can't convert cuda"
    "|same dtype|did not match|expected scalar type|found dtype"
)
QUICK = {"steps": 4, "updates": 2, "examples": 48, "epochs": 1, "batch_size": 16}
QUICK |= {"minibatch_size": 8, "labels": 8}


def quick(cfg):
    for name, most in QUICK.items():
        value = getattr(cfg, name, None)
        if value is not None and (value > most or (name == "examples" and not value)):
            setattr(cfg, name, type(value)(most))
    return cfg


def faults(cells) -> list[str]:
    """What is wrong with code cells that are run one after another, a line each."""
    names, found = {"__name__": "__main__"}, []
    for i, source in enumerate(cells):
        lines = [one for one in source.splitlines() if "%pip" not in one and "find_spec" not in one]
        try:
            exec(compile("\n".join(lines), f"cell {i}", "exec"), names)
        except Exception as error:
            said = f"cell {i}: {type(error).__name__}: {error}"
            if FAULT.search(str(error)):
                found.append(said)
            else:
                warnings.warn(f"not run whole, {said}", stacklevel=1)
    return found


@pytest.fixture
def gpu(monkeypatch, empty_runs):
    change, tiny = config.change, config.tiny

    def small():
        profile = tiny()
        for stage in config.STAGES:
            quick(getattr(profile, stage))
        return profile

    monkeypatch.setattr(config, "change", lambda cfg, **values: quick(change(cfg, **values)))
    monkeypatch.setitem(config.PROFILES, "tiny", small)
    with fakecuda.installed(monkeypatch):
        yield


@pytest.mark.skipif(not os.environ.get("LABKIT_SLOW"), reason="slow: set LABKIT_SLOW=1")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_mixes_waits_or_rounds(gpu, path, dtype, monkeypatch):
    if dtype != torch.float32:
        monkeypatch.setattr(models.base, "compute_dtype", lambda *_: dtype)
    cells = json.loads(path.read_text("utf8"))["cells"]
    assert faults("".join(one["source"]) for one in cells if one["cell_type"] == "code") == []


@pytest.mark.parametrize(
    "wrong",
    [
        "x + torch.ones(2)",
        "x.numpy()",
        "torch.allclose(x, torch.ones(2))",
        "x @ x.half()",
        "torch.ones(400, device='cuda').bfloat16().softmax(-1)",
        "with torch.cuda.graph(torch.cuda.CUDAGraph()):\n    x.sum().item()",
    ],
)
def test_faults_are_seen(gpu, wrong):
    first = "%pip install nothing\nimport torch\nx = torch.ones(2, device='cuda')"
    (found,) = faults([first, "x + 1", wrong, "no_such_name"])
    assert found.startswith("cell 2: ")
