"""The one command for a card, on a model of a few thousand parameters and on whatever device is
here.
"""

import json
import math
import os

import pytest
import torch

from labkit import LabError, bench, cli, runs
from labkit.bench import gpu as bench_gpu

SMALL = dict(
    samples=4,
    prompt_tokens=40,
    response_tokens=6,
    batches=(2,),
    updates=1,
    repeats=1,
    pretrain_steps=0,
)


@pytest.fixture(scope="module")
def report(tiny_base):
    before = os.environ["LABKIT_RUNS"], len(runs.listing())
    found = bench_gpu.gpu(str(tiny_base.path), device=runs.device().type, **SMALL)
    assert (
        os.environ["LABKIT_RUNS"],
        len(runs.listing()),
    ) == before  # nothing is left in the learner's runs
    return found


def test_every_part_runs(report):
    assert not [
        name for name, found in report.items() if isinstance(found, dict) and "error" in found
    ], report
    assert (
        report["versions"]["torch"]
        and "pretrain" not in report
        and (report["card"] is None) != torch.cuda.is_available()
    )
    json.dumps(report, allow_nan=False)


def test_the_sampler_agrees_with_the_training_forward(report):
    found = report["correctness"]
    assert (
        found["holds"] is True
        and found["float32_difference"] < 1e-4
        and found["nf4_difference"] < 0.1
    )
    assert found["finite"] is True and found["first_ratio_error"] < 0.01


def test_ppo_is_timed_by_part(report):
    found = report["ppo"]
    assert (
        found["samples_per_second"] > 0
        and len(found["updates"]) == 1
        and set(found["memory_by_part"]) >= {"base", "adapters", "optimizer"}
    )
    assert 0.3 < sum(found["share_of_time"].values()) <= 1


def test_sampling_is_timed(report):
    assert set(report["rollout"]["batches"]) == {"2"} and report["rollout"]["new_tokens"] == 6


def test_without_a_card_one_clear_sentence(monkeypatch, capsys):
    monkeypatch.setattr(runs, "device", lambda: torch.device("cpu"))
    with pytest.raises(LabError, match="There is no CUDA card here"):
        bench_gpu.gpu()
    assert cli.main(["bench", "gpu", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1


def test_a_part_that_fails_leaves_the_others(tiny_base, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("out of something")

    monkeypatch.setattr(bench, "rollout", fails)
    monkeypatch.setattr(
        bench_gpu,
        "reinforced",
        lambda *_: {"updates": [{"first_ratio_error": 0.0, "loss": math.nan}]},
    )
    report = bench_gpu.gpu(str(tiny_base.path), device=runs.device().type, **SMALL)
    assert report["rollout"] == {"error": "RuntimeError: out of something"}
    assert report["correctness"]["finite"] is False and report["correctness"]["holds"] is False


def test_adapters_that_are_off_are_seen(tiny_base, monkeypatch):
    """A sampler that forgets the adapter must not pass for right."""
    from labkit import rollout

    right = rollout.sample

    def forgets(model, *args, **kwargs):
        with model.disable_adapter():
            return right(model, *args, **kwargs)

    monkeypatch.setattr(rollout, "sample", forgets)
    found = bench_gpu.correct(
        str(tiny_base.path), ["Gold?"], 6, {"updates": [{"first_ratio_error": 0.0}]}
    )
    assert found["float32_difference"] > bench_gpu.LIMIT and found["holds"] is False


def test_long_prompts_fit(tiny_base):
    from transformers import AutoTokenizer

    from labkit.data import chat

    tokenizer = AutoTokenizer.from_pretrained(tiny_base.path)
    prompts = bench_gpu.long_prompts(tokenizer, 10, 50)
    lengths = [len(chat.encode_prompt(tokenizer, one)) for one in prompts]
    assert len(prompts) == 10 and max(lengths) <= 50 and sum(lengths) / 10 > 25
    with pytest.raises(LabError, match="No question fits"):
        bench_gpu.long_prompts(tokenizer, 10, 3)
