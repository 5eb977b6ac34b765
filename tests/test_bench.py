"""The benchmarks at toy size: their arithmetic and their fairness, not their figures."""

import json
import os
import random

import nbformat
import pytest
import torch

from labkit import LabError, bench, cli, config, models
from labkit.bench import measure, pretraining, sampling
from labkit.bench.reruns import again, reruns
from labkit.stages import pretrain

TOY = dict(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    layers=1,
    heads=2,
    context=32,
    sequence_length=16,
    batch_size=4,
    steps=20,
    warmup=2,
    validation_fraction=0.2,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pick = random.Random(0).choice
    texts = [f"The {pick(['fox', 'king'])} sees a {pick(['tree', 'well'])}." for _ in range(120)]
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    file.write_text("\n\n".join(texts), "utf8")
    return str(file)


def test_feedback_is_measured_in_a_store_of_its_own(empty_runs):
    report = bench.feedback(before=50, adds=10)
    assert report["ratings_before"] == 50 and report["store_bytes"] > 50 * 500
    assert report["add_seconds_median"] <= report["add_seconds_max"]
    assert list(empty_runs.iterdir()) == []  # nothing stays, and the learner's store is not touched


def test_where_a_curve_reaches_a_level():
    curve = [
        {"seconds": 1.0, "tokens": 100, "loss": 4.0},
        {"seconds": 3.0, "tokens": 300, "loss": 3.0},
        {"seconds": 9.0, "tokens": 900, "loss": 3.5},
    ]
    three_quarters = {"seconds": 2.5, "tokens": 250, "loss": 3.25}  # of the way from 4 to 3
    assert measure.reached(curve, 3.25, "loss") == three_quarters
    assert measure.reached(curve, 3.0, "loss") == curve[1]
    assert measure.reached(curve, 5.0, "loss") == curve[0]
    assert measure.reached(curve, 2.9, "loss") is None
    assert measure.reached(curve[1:], 3.25, "loss", rising=True)["seconds"] == 6.0
    assert measure.reached([], 1.0, "loss") is None


# --- pre-training --------------------------------------------------------------------------------


def test_both_sides_minimise_the_same_loss(corpus):
    cfg = config.Pretrain(**TOY, corpus=corpus)
    tokenizer, rows, _, _ = pretrain.prepare(cfg)
    model = models.new_base(cfg, tokenizer)
    ours, plain = (
        f(model, rows[:4]).item() for f in (pretrain.next_token_loss, pretraining.plain_loss)
    )
    assert ours == pytest.approx(plain, rel=1e-5)


def test_pretrain_report(corpus, capsys):
    report = bench.pretrain(config.Pretrain(**TOY, corpus=corpus), rates=(1e-4, 1e-3))
    mine, theirs = report["ours"], report["peer"]
    finals = theirs["final_loss_by_learning_rate"]
    assert set(finals) == {"0.0001", "0.001"} and theirs["learning_rate"] == 0.001
    assert report["validation_loss"] == min(finals.values()) >= mine["final_loss"]
    for what in ("seconds", "tokens"):
        to_loss = theirs[f"{what}_to_loss"] / mine[f"{what}_to_loss"]
        assert report[f"ratio_{what}_to_loss"] == to_loss
    assert theirs["tokens_to_loss"] == 20 * 4 * 16 and mine["steps"] == 10
    rate, flops = report["tokens_per_second"], report["matmul_flop_per_second"]
    fraction = 6 * report["parameters"] * rate / (sum(flops) / 2)
    assert report["fraction_of_matmul_rate"] == pytest.approx(fraction)
    out, err = capsys.readouterr()
    assert out == "" and err.count("AdamW at") == 2 and "ours in 10 steps" in err


def test_a_loss_never_reached_gives_no_ratio(corpus):
    lame = config.Pretrain(**TOY, corpus=corpus, optimizer="adamw", learning_rate=1e-8)
    report = bench.pretrain(lame, rates=(1e-2,))
    assert report["ratio_seconds_to_loss"] is report["ratio_tokens_to_loss"] is None
    assert report["ours"]["steps"] == 20  # it got as many as the peer


def test_a_race_trains_with_the_whole_schedule(corpus):
    cfg = config.Pretrain(**{**TOY, "steps": 10}, corpus=corpus)
    tokenizer, rows, validation, _ = pretrain.prepare(cfg)
    model = models.new_base(cfg, tokenizer)
    rates = []

    class Spy(torch.optim.SGD):
        def step(self):
            rates.append(self.param_groups[0]["lr"])

    optimiser = [Spy(model.parameters(), lr=2.0)]
    curve = pretraining.race(model, pretraining.plain_loss, optimiser, rows, validation, cfg)
    assert rates == pytest.approx([2 * pretrain.schedule(step, cfg) for step in range(10)])
    assert [point["tokens"] for point in curve] == [64 * n for n in range(1, 11)]


def test_pretrain_on_the_command_line(corpus, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "pretrain", lambda cfg: asked.append(cfg) or {"tokens": 1})
    assert cli.main(["bench", "pretrain", "--json", "--layers", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == {"tokens": 1}
    assert asked[0].layers == 1 and asked[0].steps == bench.STEPS


# --- notebooks -----------------------------------------------------------------------------------


def notebook(folder, name, *cells):
    file = folder / f"{name}.ipynb"
    cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    return file


def test_series_runs_notebooks_in_one_empty_runs_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "mine"))
    (tmp_path / "mine" / "old-run").mkdir(parents=True)
    look = "import os, pathlib\nruns = pathlib.Path(os.environ['LABKIT_RUNS'])\n"
    first = notebook(
        tmp_path,
        "01_first",
        look + "assert not runs.exists() and os.environ['LABKIT_PROFILE'] == 'small'",
        f"(runs / 'from-01').mkdir(parents=True)\nassert os.getcwd() == {str(tmp_path)!r}",
        "import time; big = bytearray(b'x') * 300_000_000; time.sleep(0.3)",
    )
    second = notebook(
        tmp_path, "02_second", look + "assert [p.name for p in runs.iterdir()] == ['from-01']"
    )
    before = first.read_bytes()
    command = ["bench", "series", "--json", "--profile", "small", str(first), str(second)]
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    found = report["notebooks"]
    assert list(found) == ["01_first", "02_second"] and first.read_bytes() == before
    small = found["02_second"]["peak_rss_bytes"]
    assert found["01_first"]["peak_rss_bytes"] > 300_000_000 + small / 2 > 300_000_000
    total = sum(one["seconds"] for one in found.values())
    assert report["total_seconds"] == pytest.approx(total, abs=0.02)
    assert "01_first · " in err and [p.name for p in (tmp_path / "mine").iterdir()] == ["old-run"]


def test_a_notebook_that_fails_is_named(tmp_path):
    broken = notebook(tmp_path, "03_broken", "raise ValueError('no such mountain')")
    with pytest.raises(LabError, match="03_broken.ipynb failed: ValueError: no such mountain"):
        bench.series([broken])
    with pytest.raises(LabError, match="There is no notebook"):
        bench.series([tmp_path / "04_missing.ipynb"])


def test_reruns_of_a_notebook(tmp_path):
    """All passes are there: what one leaves behind, a later one finds."""
    log = tmp_path / "log"
    file = notebook(
        tmp_path,
        "02_instruction_tuning",
        "import os, time\nmine = str(os.getpid())",
        f"open({str(log)!r}, 'a').write(mine + '\\n')\ntime.sleep(0.5)",
        f"print(open({str(log)!r}).read())",
    )
    report = reruns([file])
    one = report["notebooks"]["02_instruction_tuning"]
    assert len(one["peak_bytes"]) == 3 and min(one["peak_bytes"]) > 1e6 and one["ratio"] > 0.5
    assert {one["from"], one["interrupted"], one["killed"]} <= {0, 1, 2}
    assert report["together"] == ["02_instruction_tuning"]
    kernels = log.read_text().split()
    assert kernels.count(kernels[0]) >= 2  # the first kernel ran it more than once
    assert len(set(kernels)) >= 3  # and so did others after the one that was killed


def test_a_cell_that_runs_but_once_is_named(tmp_path):
    once = notebook(tmp_path, "once", "assert 'seen' not in globals()", "seen = 1")
    with pytest.raises(LabError, match="cell 0 of .*once.ipynb failed: AssertionError"):
        again(once, {**os.environ}, random.Random(0))


# --- sampling ------------------------------------------------------------------------------------


@pytest.fixture
def policy(tiny_base):
    model, tokenizer = models.load_base(str(tiny_base.path))
    return models.add_lora(model, config.Sft(), "policy").eval(), tokenizer


def test_rollout_report(policy, capsys):
    asked = ["Gold?", "What is the capital of Italy?"]
    report = bench.rollout(*policy, asked, batches=(1, 3), tokens=5, repeats=3)
    # Tied: lm_head is the embedding.
    assert report["parameters"] == models.describe(policy[0])["parameters"]
    assert set(report["batches"]) == {"1", "3"}
    for row in report["batches"].values():
        for found in (row, row["natural"]):
            middle, single = found["tokens_per_second"], found["runs"]
            assert found["ratio_tokens_per_second"] == middle["ours"] / middle["generate"]
            assert middle["ours"] == sorted(single["ours"])[1] and len(single["ratio"]) == 3
    if report["device"] == "cpu":
        row, rate = report["batches"]["3"], report["matmul_flop_per_second"][0]
        bound = 2 * report["parameters"] * row["tokens_per_second"]["ours"] / rate
        assert row["fraction_of_bound"] == pytest.approx(bound)
    assert capsys.readouterr().out == ""


def test_both_samplers_do_the_same_work(policy, monkeypatch):
    """Without an end every row gets all its tokens on both sides; with one, tokens after it do not
    count.
    """
    model, tokenizer = policy
    times, end = iter(range(1000)), tokenizer.eos_token_id
    monkeypatch.setattr(sampling, "clock", lambda: next(times))  # a second each: speeds are counts
    report = bench.rollout(model, tokenizer, ["Gold?"] * 4, batches=(4,), tokens=7, repeats=2)
    row = report["batches"]["4"]
    assert row["runs"]["ours"] == row["runs"]["generate"] == [28, 28]
    assert all(4 <= count <= 28 for count in row["natural"]["runs"]["generate"])
    assert tokenizer.eos_token_id == end < len(tokenizer)  # the tokenizer itself is as it was


def test_tokens_are_counted_up_to_the_end_token():
    class Says:
        def generate(self, ids, **_):
            return torch.cat([ids, torch.tensor([[5, 9, 0, 0], [9, 0, 0, 0], [5, 5, 5, 5]])], 1)

    class Tokenizer:
        pad_token_id, eos_token_id = 0, 9

    prompts = torch.ones(3, 2, dtype=torch.long)
    assert sampling.generated(Says(), Tokenizer(), prompts, None, 4) == 2 + 1 + 4


def test_rollout_on_the_command_line(policy, monkeypatch, capsys):
    monkeypatch.setattr(models, "load_policy", lambda run: policy)
    monkeypatch.setattr(bench.rollout, "__defaults__", ((1, 2), 3, 5))
    assert cli.main(["bench", "rollout", "--repeats", "1", "--run", "shipped/sft"]) == 0
    assert "of the bound" in capsys.readouterr().out
    assert cli.main(["bench", "rollout", "--repeats", "0", "--run", "shipped/sft"]) == 1
    assert "1 or more" in capsys.readouterr().err
