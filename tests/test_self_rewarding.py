"""Self-rewarding: figures over rounds on a hand-made record, the whole measurement once in small,
and what bad input says.
"""

import json

import pytest

from labkit import LabError, cli, config, data, runs
from labkit.labs import self_rewarding as lab
from labkit.labs import self_rewarding_jobs as jobs
from labkit.labs.self_rewarding import COIN, OWN

# --- the record ----------------------------------------------------------------------------------


def made(*ways):
    """A record with a hand-made judge's accuracy per model; the first seed has a control."""
    row = lambda gold, t: {
        "figures": {"right": 0.9} | ({"wins_before_sampled": 0.5} if t else {}),
        "fixed": {"gold": gold},
    }
    seeds = [
        {"seed": i, "sft": {"right": 0.8}, OWN: [row(gold, t) for t, gold in enumerate(way)]}
        for i, way in enumerate(ways)
    ]
    seeds[0][COIN] = [row(0.25, t) for t in range(len(ways[0]))]
    return {"seeds": seeds}


def test_a_figure_over_rounds_has_its_spread_and_how_many_seeds():
    record = made([0.6, 0.7], [0.8, 0.5])
    first, second = lab.over_rounds(record, "fixed gold")
    expected = {"model": "M1", "seeds": 2, "fixed gold": pytest.approx(0.7)}
    assert first == expected | {"fixed gold lowest": 0.6, "fixed gold highest": 0.8}
    assert second["fixed gold"] == pytest.approx(0.6)
    (coin, _) = lab.over_rounds(record, "fixed gold", COIN)
    assert coin["seeds"] == 1 and coin["fixed gold"] == 0.25
    (late,) = lab.over_rounds(record, "figures wins_before_sampled")  # M1 has none before it
    assert late["model"] == "M2"


def test_a_row_per_model_holds_every_figure_that_it_has():
    rows = lab.rounds(made([0.6, 0.7]), figures=("right", "wins against the one before"))
    assert rows == [
        {"model": "M1", "right": 0.9, "wins against the one before": None},
        {"model": "M2", "right": 0.9, "wins against the one before": 0.5},
    ]


def test_no_such_record_is_one_clear_sentence(tmp_path):
    with pytest.raises(LabError, match="no record .*nothing.json.*bench self-rewarding"):
        lab.load(tmp_path / "nothing.json")
    broken = made([0.6])
    del broken["seeds"][0][OWN]
    for text in ("", "[]", "{}", '{"seeds": []}', json.dumps(broken)):
        (tmp_path / "broken.json").write_text(text, "utf8")
        with pytest.raises(LabError, match="broken.json is no record"):
            lab.load(tmp_path / "broken.json")
    (tmp_path / "good.json").write_text(json.dumps(made([0.6])), "utf8")
    assert lab.load(tmp_path / "good.json") == made([0.6])


@pytest.mark.skipif(
    not (runs.data_folder() / "checkpoints" / "self_rewarding.json").exists(),
    reason="no record is shipped",
)
def test_the_shipped_record_is_whole():
    record = lab.load()
    file = runs.data_folder() / "checkpoints" / "self_rewarding.json"
    assert file.stat().st_size < 300_000 and len(record["seeds"]) >= 3
    models = lab.rounds(record)
    assert [row["model"] for row in models] == ["M1", "M2", "M3", "M4"]
    assert None not in {value for row in models[1:] for value in row.values()}
    assert len(lab.rounds(record, COIN)) == 4
    for row in record["seeds"]:
        assert all(one["fixed"]["gold_n"] >= 100 and one["gap"]["pairs"] >= 200 for one in row[OWN])


# --- measuring, in small -------------------------------------------------------------------------


def card(model, tokenizer, prompts, name, sft="", own=None):
    """evals.card without its many answers."""
    answers = jobs.rollout.answer(model, tokenizer, prompts)
    return {"right": 0.5, "n": len(prompts)}, {"greedy": answers, "sampled": answers}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(record, plan) of one seed, two rounds, everything made small, on the shipped base."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("self")))
        patch.setattr(jobs.evals, "card", card)
        profile = config.tiny().adapt(max_response_tokens=12)
        profile.sft = config.change(profile.sft, examples=200)
        sizes = dict(rounds=1, demos=20, judgements=20, pairs=12, held_out=4, judged=6)
        plan = jobs.Plan(profile, seeds=1, **sizes)
        yield jobs.measure(plan, workers=1), plan


def test_the_measurement_holds_every_model_and_the_control(small):
    record, plan = small
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record["seconds"]) == {"start", "model"} and record["rounds"] == 1
    (row,) = record["seeds"]
    assert row["sft"]["n"] == 4 and len(row[OWN]) == len(row[COIN]) == 2
    assert row[OWN][0] == row[COIN][0]  # both begin with the same M1
    for one in (*row[OWN], *row[COIN]):
        assert set(one) == {"figures", "fixed", "own", "gap"}
        assert 0 <= one["fixed"]["gold"] <= 1 and 0 <= one["own"]["position"] <= 1
        assert one["gap"]["pairs"] <= plan.pairs
    second = row[OWN][1]["figures"]
    assert {"wins_before_greedy", "wins_before_sampled"} <= set(second)
    assert "wins_before_greedy" not in row[OWN][0]["figures"]


def test_each_model_learns_from_the_verdicts_of_the_one_before(small):
    _, plan = small
    sft, m1 = plan.run("start-0"), plan.run("model-1-0")
    assert m1.stage == "sft" and m1.config.policy == sft.name
    kinds = {demo.style for demo in data.load_demos(m1.config.data)}
    assert "judgement" in kinds and len(kinds) > 1
    asked = [demo for demo in data.load_demos(m1.config.data) if demo.style == "judgement"]
    assert len(asked) == 2 * plan.judgements and {demo.response for demo in asked} == {"A", "B"}
    for arm in (OWN, COIN):
        m2 = plan.run(f"model-2-{arm}-0")
        assert m2.stage == "dpo" and m2.config.policy == m1.name
    texts = [{p.prompt: {p.chosen, p.rejected} for p in data.load_pairs(f)} for _, f in files(plan)]
    assert texts[0] == texts[1]  # the same answers
    raters = {arm: {p.rater for p in data.load_pairs(file)} for arm, file in files(plan)}
    assert raters == {OWN: {"M1"}, COIN: {"coin"}}


def files(plan):
    return [(arm, plan.run(f"model-2-{arm}-0").config.data) for arm in (OWN, COIN)]


def test_the_command_prints_the_record(small, monkeypatch, capsys):
    assert cli.main(["bench", "self-rewarding", "--seeds", "0", "--json"]) == 1
    assert "must be 1 or more" in capsys.readouterr().err
    asked = lambda plan, workers: small[0] | {"asked": [plan.seeds, plan.profile.name, workers]}
    monkeypatch.setattr(jobs, "measure", asked)
    assert cli.main(["bench", "self-rewarding", "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == [3, "tiny", 1]
    assert cli.main(["bench", "self-rewarding"]) == 0
    assert "M2" in capsys.readouterr().out
