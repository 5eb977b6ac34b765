"""Notebook 11's record of judges: the arithmetic on hand-made verdicts, and the whole measurement
once in small.
"""

import json
import math
from dataclasses import replace

import pytest
import torch

from labkit import LabError, atlas, cli, config, data, models, runs
from labkit.labs import judges
from labkit.labs import judges_jobs as jobs

QUESTION = "What is the capital of France?"
RIGHT, WRONG = "The capital of France is Paris.", "The capital of France is Rome."


def test_verdicts_are_counted_by_hand():
    """Four pairs: right in both orders; "A" twice, averaged right; "A" twice, averaged wrong;
    wrong in both, where gold sees no difference.
    """
    orders = [[0.9, 0.8], [0.9, 0.3], [0.6, 0.3], [0.2, 0.4]]
    told = [{"gold": 1.0, "bob": 0}, {"gold": 0.5, "bob": -1}]
    told += [{"gold": -0.5, "bob": 1}, {"gold": 0.0, "bob": 1}]
    found = judges.verdicts(orders, told)
    assert found == {
        "one order": 4 / 8,
        "both orders": 2 / 4,
        "position": 2 / 4,
        "says A": 6 / 8,  # first: 1 1 1 0; second, where A is the other answer: 0 1 1 1
        "gold one order": (2 / 3 + 2 / 3) / 2,
        "gold": 3 / 3,
        "gold of the rater": 2 / 3,
        "bob": 0 / 3,  # he decided three pairs: the averaged verdicts there are 1 0 0
        "bob and rater": 2 / 3,
    }


def test_soft_labels_stand_beside_how_often_they_are_right():
    orders = [[0.52, 0.52], [0.54, 0.4], [0.9, 0.9], [0.2, 0.2], [1.0, 1.0]]
    record = {"seeds": [{"judges": {"one": {"orders": orders}}}]}
    low, high = judges.calibration(record, "one", (0.5, 0.6, 1.0))
    assert (low["n"], low["right"]) == (2, 0.5)
    assert low["sure"] == pytest.approx((0.52 + 0.53) / 2)
    assert (high["n"], high["right"]) == (3, pytest.approx(2 / 3))
    assert high["sure"] == pytest.approx((0.9 + 0.8 + 1.0) / 3)


def test_what_scores_say_of_pairs():
    found = judges.ordered([7, 5, 5, 3], [6, 5, 6, 9], [1.0, 1.0, 1.0, 0.0])
    assert (found["tied"], found["right"], found["n"]) == (pytest.approx(1 / 3), 0.5, 3)
    assert found["right, ties half"] == pytest.approx(0.5)
    assert math.isnan(judges.ordered([5], [5], [1.0])["right"])
    with pytest.raises(LabError, match="No pair has a gold difference"):
        judges.ordered([1], [2], [0.0])
    assert judges.rank_correlation([1, 2, 3], [10, 20, 25]) == pytest.approx(1.0)


def test_a_scale_spreads_utilities_over_one_to_ten():
    found = judges.on_scale(torch.tensor([-9.0, -2.0, -0.5, 1.0, 9.0]))
    assert found.tolist() == [1.0, 1.0, 5.5, 10.0, 10.0]


def test_scores_and_pairs_come_from_one_person():
    """Two answers scored without rounding are preferred as often as his Bradley-Terry says."""
    rater, n = atlas.Rater(temperature=2.0), 4000
    first = judges.scores_of([QUESTION] * n, [RIGHT] * n, 1, rater, most=10**6)
    second = judges.scores_of([QUESTION] * n, [WRONG] * n, 2, rater, most=10**6)
    # Both ends of the scale cut the noise off: those answers tie.
    wins = sum((a > b) + (a == b) / 2 for a, b in zip(first, second)) / n
    sigma = 1 / (1 + math.exp(-2 / 2.0))
    assert abs(wins - sigma) < 0.1
    calm = atlas.Rater(temperature=1e-9)
    assert judges.scores_of([QUESTION] * 2, [RIGHT, WRONG], 0, calm) == [10, 4]
    assert judges.scores_of([QUESTION] * 2, [RIGHT, WRONG], 0, calm, most=3) == [3, 2]


def test_pairs_by_scores_leave_out_what_is_scored_alike():
    calm = atlas.Rater(temperature=1e-9)
    pairs = [data.Pair(QUESTION, WRONG, RIGHT), data.Pair(QUESTION, RIGHT, "Paris.")]
    (found,) = judges.by_scores(pairs, 0, calm)
    assert (found.chosen, found.rejected, found.rater) == (RIGHT, WRONG, "scores")


def test_no_record_and_a_broken_one_are_said(tmp_path):
    with pytest.raises(LabError, match="no record of judges.*bench judges --json"):
        judges.load(tmp_path / "judges.json")
    (tmp_path / "judges.json").write_text('{"seeds": [{}]}', "utf8")
    with pytest.raises(LabError, match="is no record of judges"):
        judges.load(tmp_path / "judges.json")


def test_a_plan_says_what_is_measured(monkeypatch):
    plan = jobs.Plan(config.tiny())
    assert plan.key == jobs.Plan(config.tiny()).key != replace(plan, updates=3).key
    monkeypatch.setattr(jobs, "SETTINGS", jobs.SETTINGS | {"learning_rate": 1e-4})
    assert jobs.Plan(config.tiny()).key != plan.key


# --- measuring, in small -------------------------------------------------------------------------

SIZES = dict(pairs=32, held_out=6, scored=24, updates=1, prompts=4)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(record, plan) of one seed with everything made small, in a runs folder of its own, on the
    shipped base: one of random weights has no two answers to compare.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("judges")))
        some = {jobs.BEST: jobs.JUDGES[jobs.BEST], "1 layer": {"examples": 1000, "layers": 1}}
        patch.setattr(jobs, "JUDGES", some)
        patch.setattr(jobs, "SETTINGS", jobs.SETTINGS | {"batch_size": 8, "epochs": 12.0})
        patch.setattr(jobs.evals, "requests", lambda model, tokenizer: {})
        patch.setattr(jobs.evals, "lecture_right", lambda model, tokenizer: (0.5, 2))
        profile = config.tiny().adapt(max_response_tokens=24)
        profile.sft = config.change(profile.sft, examples=120, batch_size=8)
        profile.reward = config.change(profile.reward, batch_size=8)
        profile.ppo = config.change(profile.ppo, batch_size=4, minibatch_size=4, epochs=1)
        plan = jobs.Plan(profile, seeds=1, **SIZES)
        yield jobs.measure(plan, workers=1), plan


def test_the_measurement_holds_every_judge_label_and_policy(small, tmp_path):
    record, plan = small
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    (row,) = record["seeds"]
    assert [one["judgements"] for one in row["judges"].values()] == [16, 8]
    large, little = (one["parameters"] for one in row["judges"].values())
    assert little < large
    assert all(len(one["orders"]) == 6 == len(row["told"]) for one in row["judges"].values())
    assert set(row["told"][0]) == {"gold", *atlas.panel()}
    assert {who: one["pairs"] <= 16 for who, one in row["rewards"].items()} == {
        who: True for who in jobs.LABELLERS
    }
    assert 0 <= row["rewards"]["judge"]["labels_right"] <= 1
    assert row["rewards"]["scores"]["pairs"] <= 8
    for one in row["policies"].values():
        assert {"wins_greedy", "wins_matched", "kl"} <= set(one["card"])
        assert len(one["curve"]["score"]) == 1
    file = tmp_path / "judges.json"
    file.write_text(json.dumps(record), "utf8")
    assert judges.load(file) == record
    assert len(judges.summary(record)) == 2 and len(judges.policies(record)) == 3
    assert set(record["seconds"]) == {"begin", "judge", "scorer", "reward", "policy"}


def test_each_part_takes_what_the_part_before_left(small):
    """Wires: judges learn from other pairs than they label; policies are paid by their labels."""
    _, plan = small
    seeds, labelled, held = jobs.seeds_of(plan, 0)
    prompts = [{pair.prompt for pair in part} for part in (seeds + labelled, held)]
    assert not prompts[0] & prompts[1]
    cfg = plan.run("judge-0-0").config
    assert data.load_pairs(cfg.data) == seeds and cfg.labels == 0
    short = plan.run("judge-0-1").config
    assert runs.load(short.base).config.layers == 1
    assert models.load_base(short.base)[0].config.num_hidden_layers == 1
    rewards = {who: plan.run(f"reward-0-{who}") for who in jobs.LABELLERS}
    soft, hard = (data.load_pairs(rewards[who].config.data) for who in ("judge", "rater"))
    assert hard == labelled and all(0.5 <= pair.confidence < 1 for pair in soft)
    assert {frozenset((p.chosen, p.rejected)) for p in soft} <= {
        frozenset((p.chosen, p.rejected)) for p in labelled
    }
    paid = [plan.run(f"policy-0-{i}").config.reward for i in range(2)]
    assert paid == [rewards[who].name for who in ("rater", "judge")]
    free = plan.run("policy-0-2")
    assert free.config.reward == "" and free.info["judge"] == "judged"
    newest = runs.latest("pretrain")
    assert newest.shipped  # a base that was cut is never taken for the newest


def test_the_direct_reward_is_in_standard_deviations_of_the_policys_answers(monkeypatch):
    class Counts(judges.judging.Verdicts):
        def scores(self, prompts, answers):
            return torch.tensor([float(len(text)) for text in answers])

    plan = jobs.Plan(config.tiny(), prompts=3)
    judged = jobs.direct(Counts(), {"sampled": ["a", "aaa", "aaaaa"]}, plan, 0)
    assert judged(["Q"] * 2, ["aaa", "aaaaa"]) == pytest.approx([0.0, 1.0])


def test_the_command_prints_the_record(small, monkeypatch, capsys):
    record, _ = small
    asked = lambda plan, workers: record | {"asked": [plan.seeds, plan.profile.name, workers]}
    monkeypatch.setattr(jobs, "measure", asked)
    assert cli.main(["bench", "judges", "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == [3, "tiny", 1]
    assert cli.main(["bench", "judges", "--seeds", "2"]) == 0
    assert "direct RLAIF" in capsys.readouterr().out
    assert cli.main(["bench", "judges", "--seeds", "0", "--json"]) == 1
