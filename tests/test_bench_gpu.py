"""The one command for a card, on a model of a few thousand parameters and on whatever device is
here.
"""

import json
import math
import os

import pytest
import torch

from labkit import LabError, bench, cli, rollout, runs
from labkit.bench import gpu as bench_gpu

SIZES = {
    "batch_size": 4,
    "minibatch_size": 2,
    "updates": 1,
    "max_prompt_tokens": 40,
    "max_response_tokens": 6,
}


def measured(tiny_base):
    small = {"sizes": SIZES, "batches": (2,), "repeats": 1, "pretrain_steps": 0}
    return bench_gpu.gpu(str(tiny_base.path), device=runs.device().type, **small)


@pytest.fixture(scope="module")
def report(tiny_base):
    before = os.environ["LABKIT_RUNS"], len(runs.listing())
    found = measured(tiny_base)
    assert before == (os.environ["LABKIT_RUNS"], len(runs.listing()))  # the learner's are as before
    return found


def test_every_part_runs(report):
    assert not [name for name, one in report.items() if isinstance(one, dict) and "error" in one]
    assert report["versions"]["torch"] and set(report["rollout"]["batches"]) == {"2"}
    assert report["ppo"]["samples_per_second"] > 0 and len(report["ppo"]["updates"]) == 1
    assert set(report["ppo"]["memory_by_part"]) >= {"base", "adapters", "optimizer"}
    assert (report["card"] is None) != torch.cuda.is_available()
    json.dumps(report, allow_nan=False)


def test_the_sampler_agrees_with_the_models_own_forward(report):
    found = report["correctness"]
    assert found["holds"] is True and found["finite"] is True
    assert found["float32_difference"] < 1e-4 and found["nf4_difference"] < 0.1
    assert found["first_ratio_error"] < 0.01


def test_without_a_card_one_clear_sentence(monkeypatch, capsys):
    monkeypatch.setattr(runs, "device", lambda: torch.device("cpu"))
    assert cli.main(["bench", "gpu", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "no CUDA card" in err


def test_a_part_that_fails_leaves_the_others(tiny_base, monkeypatch):
    def fails(*_):
        raise RuntimeError("out of something")

    bad = {"updates": [{"first_ratio_error": 0.0, "loss": math.nan}]}
    monkeypatch.setattr(bench, "rollout", fails)
    monkeypatch.setattr(bench_gpu, "reinforced", lambda *_: bad)
    report = measured(tiny_base)
    assert report["rollout"] == {"error": "RuntimeError: out of something"}
    assert report["correctness"]["finite"] is False and report["correctness"]["holds"] is False


def test_adapters_that_are_off_are_seen(tiny_base, monkeypatch):
    """A sampler that forgets the adapter must not pass for right."""
    right = rollout.sample

    def forgets(model, *args, **kwargs):
        with model.disable_adapter():
            return right(model, *args, **kwargs)

    monkeypatch.setattr(rollout, "sample", forgets)
    updates = {"updates": [{"first_ratio_error": 0.0}]}
    found = bench_gpu.correct(str(tiny_base.path), ["Gold?"], 6, updates)
    assert found["float32_difference"] > bench_gpu.LIMIT and found["holds"] is False


def test_long_prompts_fit(tokenizer):
    from labkit.data import chat

    prompts = bench_gpu.long_prompts(tokenizer, 10, 50)
    lengths = [len(chat.encode_prompt(tokenizer, one)) for one in prompts]
    assert len(prompts) == 10 and max(lengths) <= 50 and sum(lengths) / 10 > 25
    with pytest.raises(LabError, match="No question fits"):
        bench_gpu.long_prompts(tokenizer, 10, 3)
