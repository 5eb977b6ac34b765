"""Notebook 10's lab: what its record says, computed by hand, and the measurement made small."""

import json
import random
from dataclasses import replace

import pytest

from labkit import LabError, cli, config, data, runs
from labkit.data import Pair, Rating
from labkit.labs import thumbs
from labkit.labs import thumbs_jobs as jobs

# --- the record ----------------------------------------------------------------------------------


def made(*wins):
    """A record with a hand-made seed per number: KTO wins so often, DPO 0.1 more often."""

    def run(share, **more):
        found = {"labels": 640, "wins_greedy": share, "right": 0.9, "words_greedy": 9.0, "kl": 0.5}
        return found | {"wins": share - 0.2, "wins_matched": share - 0.1} | more

    seeds = []
    for seed, share in enumerate(wins):
        each = {}
        for name, setting in thumbs.SETTINGS.items():
            each[name] = run(share + 0.1 * (setting["stage"] == "dpo"))
            if "downs" in setting:
                each[name] |= {"up": 30, "down": 30 * setting["downs"]}
        many = {thumbs.KTO_MANY: run(share, labels=2000), thumbs.DPO_MANY: run(share + 0.1)}
        seeds.append({"seed": seed, "sft": {"right": 0.9}, "many": many, "runs": each})
    return {"settings": thumbs.SETTINGS, "seeds": seeds}


def test_equal_labels_are_compared_seed_by_seed():
    kto, dpo, many, _ = thumbs.equal_labels(made(0.5, 0.7))
    assert kto["setting"] == thumbs.KTO and kto["labels"] == 640 and many["labels"] == 2000
    assert (kto["wins"], kto["wins lowest"], kto["wins highest"]) == pytest.approx((0.6, 0.5, 0.7))
    assert dpo["wins"] == pytest.approx(0.7)
    assert kto["KTO − DPO, points"] == pytest.approx(-10)
    assert {"right": 0.9, "words": 9.0, "KL": 0.5}.items() <= kto.items()


def test_a_method_is_compared_with_sft_in_three_ways():
    kto, dpo = thumbs.controls(made(0.5, 0.7))
    assert (kto["greedy"], kto["matched"], kto["sampled"]) == pytest.approx((0.6, 0.5, 0.4))
    assert dpo["policy"] == thumbs.DPO_MANY and dpo["matched highest"] == pytest.approx(0.7)


def test_imbalance_is_told_with_what_the_weights_make_of_it():
    rows = thumbs.imbalance(made(0.5))
    assert [(row["up"], row["down"], row["λ_D"]) for row in rows] == [
        (30, 30, 1.33),
        (30, 30, 5.0),
        (30, 150, 6.67),
        (30, 150, 1.0),
        (30, 300, 13.33),
        (30, 300, 1.0),
    ]
    inside = [1 <= row["λ_D·up / down"] <= 1.5 for row in rows]
    assert inside == [True, False] * 3 and rows[3]["λ_D·up / down"] == pytest.approx(0.2)


def test_flipped_labels_stand_beside_clean_ones():
    record = made(0.5)
    record["seeds"][0]["runs"]["KTO, 30% flipped"]["wins_greedy"] = 0.3
    rows = thumbs.flipped(record)
    assert [row["flipped"] for row in rows] == [0.0, 0.1, 0.3]
    assert [row["KTO"] for row in rows] == [0.5, 0.5, 0.3]
    assert [row["DPO"] for row in rows] == pytest.approx([0.6] * 3)


def test_no_such_record_is_one_clear_sentence(tmp_path):
    with pytest.raises(LabError, match="no record .*nothing.json.*bench thumbs"):
        thumbs.load(tmp_path / "nothing.json")
    broken = made(0.5)
    del broken["seeds"][0]["runs"][thumbs.DPO]
    for text in ("", "[]", '{"settings": {"a": {}}, "seeds": []}', json.dumps(broken)):
        (tmp_path / "broken.json").write_text(text, "utf8")
        with pytest.raises(LabError, match="broken.json is no record"):
            thumbs.load(tmp_path / "broken.json")
    (tmp_path / "good.json").write_text(json.dumps(made(0.5)), "utf8")
    assert thumbs.load(tmp_path / "good.json") == json.loads(json.dumps(made(0.5)))


def test_the_shipped_record_is_whole():
    record = thumbs.load()
    assert (runs.data_folder() / "checkpoints" / "thumbs.json").stat().st_size < 300_000
    assert len(record["seeds"]) >= 3 and record["settings"] == json.loads(
        json.dumps(thumbs.SETTINGS)
    )
    for row in record["seeds"]:
        assert all(one["wins_n"] >= 200 for one in (*row["many"].values(), *row["runs"].values()))
        assert set(row["runs"]) == set(thumbs.SETTINGS)
    assert len(thumbs.summary(record)) == len(thumbs.SETTINGS) + 2


# --- labels --------------------------------------------------------------------------------------


@pytest.fixture
def labels(tmp_path):
    ratings = [Rating(f"{i}?", "yes", i % 4 != 0) for i in range(40)]
    pairs = [Pair(f"{i}?", "good", "bad", "me") for i in range(40)]
    return {
        "thumbs": str(data.save_jsonl(ratings, tmp_path / "thumbs.jsonl")),
        "pairs": str(data.save_jsonl(pairs, tmp_path / "pairs.jsonl")),
    }


def test_a_share_of_the_labels_says_the_opposite(labels):
    dice = random.Random(0)
    clean = jobs.labels_for({"stage": "kto"}, labels, 20, dice)
    wrong = jobs.labels_for({"stage": "kto", "flipped": 0.3}, labels, 20, dice)
    assert clean == data.load_ratings(labels["thumbs"], 20)
    assert sum(a.label != b.label for a, b in zip(clean, wrong, strict=True)) == 6
    pairs = jobs.labels_for({"stage": "dpo", "flipped": 0.3}, labels, 20, dice)
    assert [pair.chosen for pair in pairs].count("bad") == 6 and len(pairs) == 20
    assert {(pair.rejected, pair.rater) for pair in pairs} == {("bad", "me"), ("good", "me")}


def test_a_pair_breaks_up_into_two_thumbs(labels):
    found = jobs.labels_for({"stage": "kto", "pairs": True}, labels, 10, random.Random(0))
    assert len(found) == 20 and found[:2] == [
        Rating("0?", "good", True),
        Rating("0?", "bad", False),
    ]


@pytest.mark.parametrize("downs, sides", [(1, (10, 10)), (5, (2, 10)), (10, (1, 10))])
def test_thumbs_up_are_dropped_until_there_are_few(labels, downs, sides):
    found = jobs.labels_for({"stage": "kto", "downs": downs}, labels, 40, random.Random(0))
    assert tuple(sum(t.label == side for t in found) for side in (True, False)) == sides


# --- measuring, in small -------------------------------------------------------------------------

FEW = (thumbs.KTO, thumbs.DPO, thumbs.BROKEN_UP, "KTO, 1:1, λ_D = 5")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(record, plan) of one seed with everything made small, in a runs folder of its own, on the
    shipped base: one of random weights has no two answers to compare.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("thumbs")))
        patch.setattr(jobs, "SETTINGS", {name: thumbs.SETTINGS[name] for name in FEW})
        patch.setattr(jobs.evals, "card", card)
        profile = config.tiny().adapt(max_response_tokens=8, batch_size=8)
        profile.sft = config.change(profile.sft, examples=40, batch_size=32)
        plan = jobs.Plan(profile, seeds=1, labels=24, many=30, held_out=4)
        yield jobs.measure(plan, workers=1), plan


def card(model, tokenizer, prompts, name, sft="", own=None):
    """A whole card takes half a minute: here only what it is asked for."""
    assert len(prompts) == 4 and name in model.peft_config and (not sft or own["greedy"])
    figures = {"right": 0.5, "asked": [name, sft]}
    return figures, {"greedy": ["yes"] * 4, "sampled": ["no"] * 4}


def test_the_measurement_holds_every_setting(small):
    record, plan = small
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record["seconds"]) == {"answers", "many", "few"}
    (row,) = record["seeds"]
    assert row["sft"]["asked"] == ["policy", ""] and 0 < row["up"] < 1
    assert {one["asked"][1] for one in row["many"].values()} == {"policy"}
    assert [row["many"][name]["labels"] for name in (thumbs.KTO_MANY, thumbs.DPO_MANY)] == [30, 30]
    found = row["runs"]
    assert [found[name]["labels"] for name in FEW[:3]] == [24, 24, 48]
    assert found[FEW[3]]["labels"] <= 24 and found[FEW[3]]["up"] and "up" not in found[thumbs.DPO]
    for one in found.values():
        assert one["wins_n"] == 4 and 0 <= one["wins_greedy"] <= 1 and one["kl"] is not None
    cfg = plan.run("few-3-0").config
    assert (cfg.desirable_weight, cfg.batch_size <= 4, cfg.policy) == (
        5.0,
        True,
        plan.found("answers-0")["run"],
    )


def test_a_dpo_run_of_the_same_settings_is_not_made_again(small):
    _, plan = small
    sft = plan.run("answers-0")
    own = {"policy": sft.name, "examples": 16, "seed": 0}
    cfg = config.change(plan.profile.dpo, **own)
    assert jobs.same_run("dpo", cfg, sft) is None
    run = jobs.made(plan, "dpo", cfg, "other", "atlas")
    assert jobs.same_run("dpo", cfg, sft).name == run.name
    assert jobs.same_run("dpo", config.change(cfg, beta=0.2), sft) is None
    assert jobs.same_run("dpo", cfg, runs.shipped("sft")) is None


def test_a_plan_says_what_is_measured():
    plan = jobs.Plan(config.tiny())
    assert plan.key == jobs.Plan(config.tiny()).key != replace(plan, labels=3).key


def test_the_command_prints_the_record(monkeypatch, capsys):
    asked = lambda plan, workers: made(0.5) | {"asked": [plan.seeds, plan.profile.name, workers]}
    monkeypatch.setattr(jobs, "measure", asked)
    assert cli.main(["bench", "thumbs", "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == [3, "tiny", 1]
    assert cli.main(["bench", "thumbs", "--seeds", "2"]) == 0
    assert "KTO, 30% flipped" in capsys.readouterr().out
