"""Over-optimisation: the arithmetic on hand-made records, the whole measurement once in small, and
what bad input says.
"""

import itertools
import json
import math
import types
from statistics import fmean

import pytest

from labkit import LabError, atlas, cli, config, data, runs
from labkit.labs import overoptimization as over
from labkit.stages import pairs as preferences

# --- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_expected_best_is_the_mean_over_all_draws(n):
    scores, gold = [0.3, -1.0, 2.0, 0.7, 0.1], [1.0, 5.0, -3.0, 0.5, 2.0]
    draws = [
        gold[max(chosen, key=scores.__getitem__)] for chosen in itertools.combinations(range(5), n)
    ]
    assert over.expected_best(scores, gold, n) == pytest.approx(fmean(draws))


BENDS = {"bon": lambda d: d * d, "rl": lambda d: d * math.log(d or 1)}


@pytest.mark.parametrize(
    "kind, start, alpha, beta, peak",
    [
        ("bon", 0.1, 1.2, 0.5, 1.2**2),  # d = α / 2β
        ("rl", -0.2, 0.6, 0.9, math.exp(0.6 / 0.9 - 1) ** 2),  # α = β (log d + 1)
        ("bon", 0.0, 1.0, -0.5, None),  # only rises
        ("bon", 0.0, -1.0, 0.5, None),  # highest where it starts
    ],
)
def test_a_fit_gives_back_the_curve_that_made_the_points(kind, start, alpha, beta, peak):
    ds = [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4]
    gold = [start + alpha * d - beta * BENDS[kind](d) for d in ds]
    found = over.fit([d * d for d in ds], gold, kind)
    for key, value in {"start": start, "alpha": alpha, "beta": beta, "r2": 1.0}.items():
        assert found[key] == pytest.approx(value)
    assert found["peak"] == (None if peak is None else pytest.approx(peak))


def test_noise_lowers_r2_and_a_flat_line_has_none():
    kls = [0.0, 1.0, 4.0, 9.0, 16.0]
    assert over.fit(kls, [0.0, 1.0, 0.0, 1.0, 0.0], "bon")["r2"] < 0.6
    assert math.isnan(over.fit(kls, [1.0] * 5, "rl")["r2"])


def test_a_fit_refuses_what_it_cant_fit():
    with pytest.raises(LabError, match="at least four points.* 3 and 3"):
        over.fit([0, 1, 2], [0, 1, 0], "rl")
    with pytest.raises(LabError, match="4 and 5"):
        over.fit([0, 1, 2, 3], [0, 1, 0, 1, 2], "rl")
    with pytest.raises(LabError, match="no curve 'best'"):
        over.fit([0, 1, 2, 3], [0, 1, 0, 1], "best")


def test_smoothing_is_centred_and_narrower_at_the_ends():
    assert over.smooth([0.0, 3.0, 6.0, 9.0, 12.0], 3) == [1.5, 3.0, 6.0, 9.0, 10.5]


# --- the record ----------------------------------------------------------------------------------


def made(*golds, setting=over.FREE):
    """A record with a hand-made run per list of gold; the KL grows by 1 an update."""
    best_of_n = [{"n": 1, "kl": 0.0, "score": 0.0, "gold": 0.0, "words": 9.0}]
    seeds = []
    for seed, gold in enumerate(golds):
        curve = {key: [0.5] * len(gold) for key in over.CURVE}
        curve |= {"gold": gold, "kl": [float(i) for i in range(len(gold))]}
        curve["over_refused"] = [0.25] + [None] * (len(gold) - 1)
        run = {setting: {"curve": curve, "end": {}}}
        seeds.append({"seed": seed, "best_of_n": best_of_n, "runs": run})
    return {"settings": {setting: {}}, "seeds": seeds}


def test_the_limit_is_chosen_on_one_seed_and_tried_on_the_others():
    first = [0.0, 0, 0, 0, 2, 0, 0, 0, 0, 0]
    other = [0.0, 0, 0, 0, 2, 2, 2, 0, -1, -1]
    found = over.early_stop(made(other, first, [1.0] * 2), on=1)
    # Smoothed over five, the first is highest at update 3 of 0 … 9 (as high until 6).
    assert found["limit"] == 2.0 and [row["seed"] for row in found["seeds"]] == [0, 2]
    row, short = found["seeds"]
    assert (row["update"], row["kl"]) == (3, 2.0)
    assert row["gold"] == over.smooth(other)[2] and row["best"] == pytest.approx(6 / 5)
    assert row["end"] == pytest.approx(-2 / 3)
    assert short["update"] == 2  # it never gets to the limit: the end of the run
    with pytest.raises(LabError, match="two seeds or more"):
        over.early_stop(made(first))


def test_gold_at_a_kl_is_of_the_seeds_that_get_there():
    record = made([float(i) for i in range(10)], [7.0] * 4)  # the first: KL and gold are the same
    assert over.at_kl(record, over.FREE, 5.0) == [5.0]
    assert over.at_kl(record, over.FREE, 0.5) == [1.0, 7.0]
    assert over.at_kl(record, over.FREE, 99.0) == []


def test_a_way_is_averaged_over_seeds_and_updates():
    record = made([0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0])
    rows = over.way(record, over.FREE, every=2)
    assert [row["update"] for row in rows] == [2, 4] and [row["gold"] for row in rows] == [1.5, 3.5]
    assert (rows[0]["gold lowest"], rows[0]["gold highest"]) == (0.5, 2.5)
    assert rows[1]["√KL"] == pytest.approx(math.sqrt(2.5))
    assert rows[0]["over_refused"] == 0.25 and "over_refused" not in rows[1]  # not counted there
    (one,) = over.best(record)
    expected = {"n": 1, "√KL": 0.0, "gold": 0.0, "gold highest": 0.0, "words": 9.0}
    assert one | expected == one
    assert over.last(record, over.FREE, "gold", 2) == [2.5, 4.5]
    assert over.last(record, over.FREE, "over_refused", 4) == [0.25, 0.25]


def test_no_such_record_is_one_clear_sentence(tmp_path):
    with pytest.raises(LabError, match="no record .*nothing.json.*bench overoptimization"):
        over.load(tmp_path / "nothing.json")
    broken = made([0.0])
    del broken["seeds"][0]["runs"][over.FREE]
    nobody = '{"settings": {"a": {}}, "seeds": []}'
    for text in ("", "[]", "{}", nobody, "null", json.dumps(broken)):
        (tmp_path / "broken.json").write_text(text, "utf8")
        with pytest.raises(LabError, match="broken.json is no record"):
            over.load(tmp_path / "broken.json")
    (tmp_path / "good.json").write_text(json.dumps(made([0.0])), "utf8")
    assert over.load(tmp_path / "good.json") == made([0.0])


def test_the_shipped_record_is_whole():
    record = over.load()
    file = runs.data_folder() / "checkpoints" / "overoptimization.json"
    assert file.stat().st_size < 300_000
    assert len(record["seeds"]) >= 3 and record["settings"] == over.SETTINGS
    for row in record["seeds"]:
        assert set(row["runs"]) == set(over.SETTINGS)
        assert [best["n"] for best in row["best_of_n"]] == [1, 2, 4, 8, 16, 32, 64]
        for run in row["runs"].values():
            assert all(len(run["curve"][key]) == record["updates"] for key in over.CURVE)
            assert run["end"]["n"] == over.HELD_OUT
    assert [row["setting"] for row in over.summary(record)] == list(over.SETTINGS)


# --- measuring, in small -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(record, profile) of two seeds with everything made small, in a runs folder of its own, on
    the shipped base: one of random weights has no two answers to compare.
    """
    sizes = dict(UPDATES=2, PROMPTS=2, ANSWERS=4, HELD_OUT=4, EVERY=2, PAIRS=8)
    names = (over.FREE, "ensemble", "polite rater")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("over")))
        for name, value in sizes.items():
            patch.setattr(over, name, value)
        patch.setattr(over, "SETTINGS", {name: over.SETTINGS[name] for name in names})
        two = over.lookalikes()[:2]
        patch.setattr(over, "lookalikes", lambda: two)
        profile = config.tiny().adapt(max_response_tokens=8)
        profile.sft = config.change(profile.sft, examples=40)
        profile.reward = config.change(profile.reward, examples=16, batch_size=8, epochs=1.0)
        profile.ppo = config.change(profile.ppo, batch_size=4, minibatch_size=4, epochs=1)
        yield over.measure(profile, seeds=2), profile


def test_the_measurement_holds_every_seed_setting_and_metric(small):
    record, _ = small
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [row["seed"] for row in record["seeds"]] == [0, 1] and record["updates"] == 2
    for row in record["seeds"]:
        best = row["best_of_n"]
        assert [(one["n"], one["kl"]) for one in best] == [(1, 0.0), (2, 0.1931), (4, 0.6363)]
        assert best[0]["score"] <= best[1]["score"] <= best[2]["score"]
        for run in row["runs"].values():
            assert set(run["curve"]) == set(over.CURVE)
            assert all(len(values) == 2 for values in run["curve"].values())
            assert abs(run["curve"]["kl"][0]) < 1e-3 and None not in run["curve"]["gold"]
            assert None not in run["curve"]["over_refused"]  # what the probe found
            assert run["end"]["n"] == 4


def test_the_ensemble_is_every_seeds_reward_model_and_the_rater_has_labels_of_its_own(small):
    found = [run for run in runs.listing() if run.stage == "ppo"]
    assert len(found) == 6 and all(run.config.target_kl == 0 for run in found)
    judges = [run.config.reward.split(",") for run in found]
    assert sorted(map(len, judges)) == [1, 1, 1, 1, 2, 2]
    assert runs.load(judges[2][0]).config.data.endswith("pairs-polite-0.jsonl")


def test_a_measurement_goes_on_with_what_is_there(small):
    _, profile = small
    before = len(runs.listing())
    trained = [over.stages(profile, seed) for seed in range(2)]
    over.policy(profile, trained, 1, over.FREE)
    assert len(runs.listing()) == before
    over.train("sft", config.change(profile.sft, seed=7))
    assert len(runs.listing()) == before + 1


def test_another_raters_labels_are_that_raters(tmp_path):
    prompt, plain = "What is the capital of France?", "The capital of France is Paris."
    polite = "I am sorry. I apologise for my answer. The capital of France is Paris."
    pairs = [data.Pair(prompt, plain, polite), data.Pair(prompt, plain, "Paris.")]
    data.save_jsonl(pairs, tmp_path / preferences.PAIRS)
    run = runs.Run(tmp_path, "reward", "r", {})
    (pair,) = over.relabelled(run, atlas.Rater("polite", tastes={"apology": 0.6}, temperature=0))
    assert (pair.chosen, pair.rejected, pair.rater) == (polite, plain, "polite")


def test_the_probe_counts_now_and_then(monkeypatch):
    monkeypatch.setattr(over, "over_refused", lambda model, tokenizer: {"over_refused": 0.5})
    monkeypatch.setattr(over, "EVERY", 4)
    monkeypatch.setattr(over.evals, "probe", lambda players, answers, update: {"gold": 0.25})
    players = types.SimpleNamespace(model=None, tokenizer=None)
    found = {update: over.over_refusal(players, None, update) for update in range(1, 9)}
    assert {update for update, figures in found.items() if "over_refused" in figures} == {1, 4, 8}
    assert found[4] == {"gold": 0.25, "over_refused": 0.5} and found[5] == {"gold": 0.25}


def test_the_command_prints_the_record(monkeypatch, capsys):
    assert cli.main(["bench", "overoptimization", "--seeds", "0", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "must be 1 or more" in err
    record = made([0.0, 1.0, 0.5], [0.2, 0.4, 0.1])
    monkeypatch.setattr(over, "measure", lambda profile, seeds: record | {"asked": seeds})
    assert cli.main(["bench", "overoptimization", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == 3
    assert cli.main(["bench", "overoptimization", "--seeds", "2"]) == 0
    assert over.FREE in capsys.readouterr().out
