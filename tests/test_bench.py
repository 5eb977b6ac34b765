"""The benchmarks at toy size: their arithmetic and their fairness, not their figures."""

import json
import random

import nbformat
import pytest
import torch

from labkit import LabError, bench, cli, config, models
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


@pytest.fixture
def corpus(tmp_path):
    pick = random.Random(0).choice
    file = tmp_path / "text.txt"
    file.write_text(
        "\n\n".join(
            f"The {pick(['fox', 'king'])} sees a {pick(['tree', 'well'])}." for _ in range(120)
        ),
        "utf8",
    )
    return str(file)


def notebook(folder, name, *cells):
    file = folder / f"{name}.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), file
    )
    return file


def test_feedback_is_measured_in_a_store_of_its_own(empty_runs, capsys):
    report = bench.feedback(before=50, adds=10)
    assert (
        report["ratings_before"] == 50 and report["adds"] == 10 and report["store_bytes"] > 50 * 500
    )
    assert (
        0 < report["add_seconds_median"] <= report["add_seconds_p99"] <= report["add_seconds_max"]
    )
    assert all(
        report[f"{what}_seconds{kind}"] > 0
        for what, kind in (("undo", "_median"), ("len", "_median"), ("all", ""), ("open", ""))
    )
    assert list(empty_runs.iterdir()) == []  # nothing stays, and the learner's store is not touched


def test_bench_feedback_prints_its_report(monkeypatch, capsys):
    monkeypatch.setattr(bench, "feedback", lambda: {"add_seconds_max": 0.012})
    assert cli.main(["bench", "feedback", "--json"]) == 0 and json.loads(
        capsys.readouterr().out
    ) == {"add_seconds_max": 0.012}


def test_where_a_curve_reaches_a_loss():
    curve = [
        {"seconds": 1.0, "tokens": 100, "loss": 4.0},
        {"seconds": 3.0, "tokens": 300, "loss": 3.0},
        {"seconds": 9.0, "tokens": 900, "loss": 3.5},
    ]
    assert bench.reached(curve, 3.25) == {
        "seconds": 2.5,
        "tokens": 250,
    }  # three quarters of the way from 4 to 3
    assert bench.reached(curve, 3.0) == {"seconds": 3.0, "tokens": 300}
    assert bench.reached(curve, 5.0) == {"seconds": 1.0, "tokens": 100}
    assert bench.reached(curve, 2.9) is None


def test_both_sides_minimise_the_same_loss(corpus):
    cfg = config.Pretrain(**TOY, corpus=corpus)
    tokenizer, rows, validation, _ = pretrain.prepare(cfg)
    torch.manual_seed(0)
    model = models.new_base(cfg, tokenizer)
    assert rows.shape[1] == validation.shape[1] == 17
    ours, plain = pretrain.next_token_loss(model, rows[:4]), bench.plain_loss(model, rows[:4])
    assert ours.item() == pytest.approx(plain.item(), rel=1e-5)


def test_pretrain_report(corpus, capsys):
    report = bench.pretrain(config.Pretrain(**TOY, corpus=corpus), rates=(1e-4, 1e-3))
    mine, theirs = report["ours"], report["peer"]
    finals = theirs["final_loss_by_learning_rate"]
    assert (
        set(finals) == {"0.0001", "0.001"}
        and report["validation_loss"] == min(finals.values())
        and theirs["learning_rate"] == 0.001
    )
    assert report["ratio_seconds_to_loss"] == theirs["seconds_to_loss"] / mine["seconds_to_loss"]
    assert report["ratio_tokens_to_loss"] == theirs["tokens_to_loss"] / mine["tokens_to_loss"]
    assert (
        theirs["tokens_to_loss"] == 20 * 4 * 16
        and mine["tokens_to_loss"] <= mine["steps"] * 4 * 16
        and mine["final_loss"] <= report["validation_loss"]
    )
    rate = sum(report["matmul_flop_per_second"]) / 2
    assert report["fraction_of_matmul_rate"] == pytest.approx(
        6 * report["parameters"] * report["tokens_per_second"] / rate
    )
    out, err = capsys.readouterr()
    assert out == "" and err.count("AdamW at") == 2 and "ours in 10 steps" in err


def test_a_loss_never_reached_gives_no_ratio(corpus):
    report = bench.pretrain(
        config.Pretrain(**TOY, corpus=corpus, optimizer="adamw", learning_rate=1e-8), rates=(1e-2,)
    )
    assert (
        report["ratio_seconds_to_loss"] is None
        and report["ratio_tokens_to_loss"] is None
        and report["ours"]["steps"] == 20
    )


def test_a_race_is_repeatable(corpus):
    cfg = config.Pretrain(**TOY, corpus=corpus)
    tokenizer, rows, validation, _ = pretrain.prepare(cfg)
    curves = []
    for _ in range(2):
        torch.manual_seed(0)
        model = models.new_base(cfg, tokenizer)
        curves.append(
            bench.race(
                model,
                pretrain.next_token_loss,
                pretrain.optimisers(model, cfg),
                rows,
                validation,
                cfg,
                10,
            )
        )
    assert [point["loss"] for point in curves[0]] == pytest.approx(
        [point["loss"] for point in curves[1]], rel=1e-4
    )
    assert [point["tokens"] for point in curves[0]] == [64 * n for n in range(1, 11)]
    assert all(a["seconds"] < b["seconds"] for a, b in zip(curves[0], curves[0][1:]))


def test_pretrain_on_the_command_line(corpus, capsys):
    options = [
        part
        for name, value in {**TOY, "steps": 2, "corpus": corpus}.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    assert cli.main(["bench", "pretrain", "--json", *options]) == 0
    assert {"tokens_per_second", "fraction_of_matmul_rate", "ratio_seconds_to_loss"} <= set(
        json.loads(capsys.readouterr().out)
    )
    assert cli.main(["bench", "pretrain", "--corpus", "no.txt"]) == 1
    assert f"{bench.STEPS} steps unless" in cli.bench_pretrain.__doc__


def test_series_runs_notebooks_in_one_empty_runs_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "old-run").mkdir()
    first = notebook(
        tmp_path,
        "01_first",
        "import os, pathlib\nruns = pathlib.Path(os.environ['LABKIT_RUNS'])\nassert not"
        " runs.exists()\n(runs / 'from-01').mkdir(parents=True)\nassert"
        " os.environ['LABKIT_PROFILE'] == 'small'",
        "import time; big = bytearray(b'x') * 300_000_000; time.sleep(0.3)",
    )
    second = notebook(
        tmp_path,
        "02_second",
        "import os, pathlib\nassert [p.name for p in"
        " pathlib.Path(os.environ['LABKIT_RUNS']).iterdir()] == ['from-01']",
    )
    before = first.read_bytes()
    assert (
        cli.main(["bench", "series", "--json", "--profile", "small", str(first), str(second)]) == 0
    )
    out, err = capsys.readouterr()
    report = json.loads(out)
    found = report["notebooks"]
    assert list(found) == ["01_first", "02_second"] and first.read_bytes() == before
    assert (
        found["01_first"]["peak_rss_bytes"]
        > 300_000_000 + found["02_second"]["peak_rss_bytes"] / 2
        > 300_000_000
    )
    assert report["total_seconds"] == pytest.approx(
        sum(one["seconds"] for one in found.values()), abs=0.02
    )
    assert "01_first · " in err and [p.name for p in (tmp_path / "mine").iterdir()] == ["old-run"]


def test_a_notebook_that_fails_is_named(tmp_path):
    broken = notebook(tmp_path, "03_broken", "raise ValueError('no such mountain')")
    with pytest.raises(LabError, match="03_broken.ipynb failed: ValueError: no such mountain"):
        bench.series([broken])
    with pytest.raises(LabError, match="There is no notebook"):
        bench.series([tmp_path / "04_missing.ipynb"])


@pytest.fixture
def policy(tiny_base):
    model, tokenizer = models.load_base(str(tiny_base.path))
    return models.add_lora(model, config.Sft(), "policy").eval(), tokenizer


def test_rollout_report(policy, capsys):
    report = bench.rollout(
        *policy, ["Gold?", "What is the capital of Italy?"], batches=(1, 3), tokens=5, repeats=3
    )
    assert (
        set(report["batches"]) == {"1", "3"}
        and report["parameters"] == models.describe(policy[0])["parameters"]
    )  # tied: lm_head is the embedding
    for row in report["batches"].values():
        for found in (row, row["natural"]):
            middle = found["tokens_per_second"]
            assert (
                found["ratio_tokens_per_second"] == middle["ours"] / middle["generate"]
                and len(found["runs"]["ratio"]) == 3
            )
            assert middle["ours"] == sorted(found["runs"]["ours"])[1]
    if report["device"] == "cpu":
        rate, speed = (
            report["matmul_flop_per_second"][0],
            report["batches"]["3"]["tokens_per_second"]["ours"],
        )
        assert report["batches"]["3"]["fraction_of_bound"] == pytest.approx(
            2 * report["parameters"] * speed / rate
        )
    assert capsys.readouterr().out == ""


def test_both_samplers_do_the_same_work(policy, monkeypatch):
    """Without an end every row gets all its tokens on both sides; with one, tokens after it do not
    count.
    """
    model, tokenizer = policy
    counts, times = [], iter(range(1000))
    monkeypatch.setattr(
        bench, "clock", lambda: next(times)
    )  # every measurement takes one second, so speeds are counts
    monkeypatch.setattr(bench, "matmul_rate", lambda: 1e9)
    report = bench.rollout(model, tokenizer, ["Gold?"] * 4, batches=(4,), tokens=7, repeats=2)
    counts = report["batches"]["4"]["runs"]
    assert counts["ours"] == counts["generate"] == [28, 28]
    assert all(4 <= count <= 28 for count in report["batches"]["4"]["natural"]["runs"]["generate"])
    assert tokenizer.eos_token_id != model.config.vocab_size  # the tokenizer itself is as it was


def test_tokens_are_counted_up_to_the_end_token():
    class Says:
        def generate(self, ids, **_):
            return torch.cat([ids, torch.tensor([[5, 9, 0, 0], [9, 0, 0, 0], [5, 5, 5, 5]])], 1)

    class Tokenizer:
        pad_token_id, eos_token_id = 0, 9

    assert (
        bench.generated(Says(), Tokenizer(), torch.ones(3, 2, dtype=torch.long), None, 4)
        == 2 + 1 + 4
    )


def test_rollout_on_the_command_line(policy, monkeypatch, capsys):
    monkeypatch.setattr(models, "load_policy", lambda run: policy)
    monkeypatch.setattr(bench, "BATCHES", (1, 2))
    monkeypatch.setattr(bench.rollout, "__defaults__", ((1, 2), 3, 5))
    assert cli.main(["bench", "rollout", "--json", "--repeats", "1", "--run", "shipped/sft"]) == 0
    assert set(json.loads(capsys.readouterr().out)["batches"]) == {"1", "2"}
    assert (
        cli.main(["bench", "rollout", "--repeats", "1", "--run", "shipped/sft"]) == 0
        and "of the bound" in capsys.readouterr().out
    )
    assert cli.main(["bench", "rollout", "--repeats", "0"]) == 1
