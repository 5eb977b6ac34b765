"""Over-optimisation: the arithmetic on hand-made records, the whole measurement once in small, and
what bad input says.
"""

import itertools
import json
import math
from statistics import fmean

import pytest

from labkit import LabError, atlas, cli, config, data, models, runs
from labkit.labs import overoptimization as over
from labkit.stages import pairs as preferences
from labkit.stages import ppo

# --- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_expected_best_is_the_mean_over_all_draws(n):
    scores, gold = [0.3, -1.0, 2.0, 0.7, 0.1], [1.0, 5.0, -3.0, 0.5, 2.0]
    draws = [
        gold[max(chosen, key=scores.__getitem__)] for chosen in itertools.combinations(range(5), n)
    ]
    assert over.expected_best(scores, gold, n) == pytest.approx(fmean(draws))


def test_a_fit_gives_back_the_curve_that_made_the_points():
    ds = [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4]
    kls = [d * d for d in ds]
    bon = over.fit(kls, [0.1 + 1.2 * d - 0.5 * d * d for d in ds], "bon")
    assert [bon[key] for key in ("start", "alpha", "beta", "r2")] == pytest.approx(
        [0.1, 1.2, 0.5, 1.0]
    )
    assert bon["peak"] == pytest.approx(1.2**2)  # d = α / 2β
    rl = over.fit(kls, [-0.2 + 0.6 * d - 0.9 * d * math.log(d or 1) for d in ds], "rl")
    assert [rl[key] for key in ("start", "alpha", "beta", "r2")] == pytest.approx(
        [-0.2, 0.6, 0.9, 1.0]
    )
    assert rl["peak"] == pytest.approx(math.exp(0.6 / 0.9 - 1) ** 2)  # α = β (log d + 1)


def test_a_curve_that_only_rises_has_no_peak_and_noise_lowers_r2():
    kls = [0.0, 1.0, 4.0, 9.0, 16.0]
    rising = over.fit(kls, [0.0, 1.0, 2.1, 3.3, 4.8], "bon")
    assert rising["peak"] is None and rising["beta"] < 0
    noisy = over.fit(kls, [0.0, 1.0, 0.0, 1.0, 0.0], "bon")
    assert noisy["r2"] < 0.6
    assert math.isnan(over.fit(kls, [1.0] * 5, "rl")["r2"])  # nothing to explain
    falling = over.fit(kls, [0.0, -2.0, -6.0, -12.0, -20.0], "bon")
    assert falling["peak"] is None  # highest where it starts


def test_a_fit_refuses_what_it_cant_fit():
    with pytest.raises(LabError, match="at least four points.*there are 3 and 3"):
        over.fit([0, 1, 2], [0, 1, 0], "rl")
    with pytest.raises(LabError, match="there are 4 and 5"):
        over.fit([0, 1, 2, 3], [0, 1, 0, 1, 2], "rl")
    with pytest.raises(LabError, match="no curve 'best'"):
        over.fit([0, 1, 2, 3], [0, 1, 0, 1], "best")


def test_smoothing_is_centred_and_narrower_at_the_ends():
    assert over.smooth([0.0, 3.0, 6.0, 9.0, 12.0], 3) == [1.5, 3.0, 6.0, 9.0, 10.5]
    assert over.smooth([1.0, 2.0], 1) == [1.0, 2.0]


# --- the record ----------------------------------------------------------------------------------


def made(golds, setting=over.FREE):
    """A record with a hand-made run per list of gold; the KL grows by 1 an update."""
    seeds = []
    for seed, gold in enumerate(golds):
        curve = {key: [0.5] * len(gold) for key in over.CURVE}
        curve |= {"gold": gold, "kl": [float(i) for i in range(len(gold))]}
        curve["over_refused"] = [0.25] + [None] * (len(gold) - 1)
        best_of_n = [{"n": 1, "kl": 0.0, "score": 0.0, "gold": 0.0, "words": 9.0}]
        seeds.append(
            {"seed": seed, "best_of_n": best_of_n, "runs": {setting: {"curve": curve, "end": {}}}}
        )
    return {"settings": {setting: {}}, "seeds": seeds}


def test_the_limit_is_chosen_on_one_seed_and_tried_on_the_others():
    first = [0.0, 0, 0, 1, 1, 1, 0, 0, 0, 0]
    other = [0.0, 0, 0, 0, 2, 2, 2, 0, -1, -1]
    found = over.early_stop(made([first, other, [1.0] * 10]))
    # Smoothed over five, the first seed's gold is highest at update 4 (0, 1, 1, 1, 0 around it),
    # where its smoothed KL is 3 or 4.
    assert found["limit"] in (3.0, 4.0)
    assert [row["seed"] for row in found["seeds"]] == [1, 2]
    row = found["seeds"][0]
    assert row["kl"] >= found["limit"] and row["gold"] == pytest.approx(
        over.smooth(other)[int(found["limit"])]
    )
    assert row["end"] == pytest.approx(-2 / 3) and row["best"] == pytest.approx(6 / 5)
    with pytest.raises(LabError, match="two seeds or more"):
        over.early_stop(made([first]))


def test_a_limit_that_is_never_reached_is_the_end_of_the_run():
    late, short = made([[0.0] * 9 + [5.0]]), made([[1.0] * 4])
    record = late | {"seeds": late["seeds"] + short["seeds"]}
    assert over.early_stop(record)["seeds"][0]["update"] == 4


def test_gold_at_a_kl_is_of_the_seeds_that_get_there():
    record = made([[float(i) for i in range(10)], [7.0] * 4])
    assert over.at_kl(record, over.FREE, 5.0) == [
        5.0
    ]  # KL and gold are the same number there, smoothed or not
    assert (
        over.at_kl(record, over.FREE, 0.5) == [1.0, 7.0]
        and over.at_kl(record, over.FREE, 99.0) == []
    )


def test_a_way_is_averaged_over_seeds_and_updates():
    record = made([[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]])
    rows = over.way(record, over.FREE, every=2)
    assert [row["update"] for row in rows] == [2, 4] and [row["gold"] for row in rows] == [1.5, 3.5]
    assert (rows[0]["gold lowest"], rows[0]["gold highest"]) == (0.5, 2.5)
    assert rows[1]["√KL"] == pytest.approx(math.sqrt(2.5))
    assert rows[0]["over_refused"] == 0.25 and "over_refused" not in rows[1]  # not counted there
    (one,) = over.best(record)
    assert (one["n"], one["√KL"], one["gold"], one["gold highest"], one["words"]) == (
        1,
        0.0,
        0.0,
        0.0,
        9.0,
    )
    assert over.last(record, over.FREE, "gold", 2) == [2.5, 4.5]
    assert over.last(record, over.FREE, "over_refused", 4) == [0.25, 0.25]


def test_no_such_record_is_one_clear_sentence(tmp_path):
    with pytest.raises(
        LabError, match="no record of over-optimisation at .*nothing.json.*bench overoptimization"
    ):
        over.load(tmp_path / "nothing.json")
    broken = made([[0.0]])
    del broken["seeds"][0]["runs"][over.FREE]
    for text in ("", "[]", "{}", '{"settings": {}, "seeds": []}', "null", json.dumps(broken)):
        (tmp_path / "broken.json").write_text(text, "utf8")
        with pytest.raises(LabError, match="broken.json is no record of over-optimisation"):
            over.load(tmp_path / "broken.json")
    (tmp_path / "good.json").write_text(json.dumps(made([[0.0]])), "utf8")
    assert over.load(tmp_path / "good.json") == made([[0.0]])


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
    """(record, profile, runs folder) of two seeds with everything made small, on the shipped base:
    one of random weights has no two answers to compare.
    """
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("over")
        patch.setenv("LABKIT_RUNS", str(root))
        for name, value in dict(
            UPDATES=2, PROMPTS=2, ANSWERS=4, HELD_OUT=4, EVERY=2, PAIRS=8
        ).items():
            patch.setattr(over, name, value)
        patch.setattr(
            over,
            "SETTINGS",
            {name: over.SETTINGS[name] for name in (over.FREE, "ensemble", "polite rater")},
        )
        patch.setattr(over, "lookalikes", lambda: atlas.prompts("held-out")[:2])
        profile = config.tiny().adapt(max_response_tokens=8)
        profile.sft = config.change(profile.sft, examples=40)
        profile.reward = config.change(profile.reward, examples=16, batch_size=8, epochs=1.0)
        profile.ppo = config.change(profile.ppo, batch_size=4, minibatch_size=4, epochs=1)
        return over.measure(profile, seeds=2), profile, root


def test_the_measurement_holds_every_seed_setting_and_metric(small):
    record, _, _ = small
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [row["seed"] for row in record["seeds"]] == [0, 1] and record["updates"] == 2
    for row in record["seeds"]:
        assert [(one["n"], one["kl"]) for one in row["best_of_n"]] == [
            (1, 0.0),
            (2, 0.1931),
            (4, 0.6363),
        ]
        assert [one["score"] for one in row["best_of_n"]] == sorted(
            one["score"] for one in row["best_of_n"]
        )
        for run in row["runs"].values():
            assert set(run["curve"]) == set(over.CURVE) and all(
                len(v) == 2 for v in run["curve"].values()
            )
            assert abs(run["curve"]["kl"][0]) < 1e-3 and None not in run["curve"]["gold"]
            assert run["end"]["n"] == 4


def test_the_ensemble_is_every_seeds_reward_model_and_the_rater_has_labels_of_its_own(small):
    _, _, root = small
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(root))
        found = [run for run in runs.listing() if run.stage == "ppo"]
        assert len(found) == 6 and all(run.config.target_kl == 0 for run in found)
        judges = [run.config.reward.split(",") for run in found]
        assert sorted(map(len, judges)) == [1, 1, 1, 1, 2, 2]
        polite = runs.load(judges[2][0])
        assert polite.config.data.endswith("pairs-polite-0.jsonl")


def test_a_measurement_goes_on_with_what_is_there(small, monkeypatch):
    record, profile, root = small
    monkeypatch.setenv("LABKIT_RUNS", str(root))
    for name, value in dict(UPDATES=2, PROMPTS=2, ANSWERS=4, HELD_OUT=4, EVERY=2, PAIRS=8).items():
        monkeypatch.setattr(over, name, value)
    before = len(runs.listing())
    trained = [over.stages(profile, seed) for seed in range(2)]
    over.policy(profile, trained, 1, over.FREE)
    assert len(runs.listing()) == before
    over.train("sft", config.change(profile.sft, seed=7))
    assert len(runs.listing()) == before + 1


def test_another_raters_labels_are_that_raters(tmp_path, monkeypatch):
    prompt = "What is the capital of France?"
    assert atlas.find(prompt)
    plain, polite = (
        "The capital of France is Paris.",
        "I am sorry. I apologise for my answer. The capital of France is Paris.",
    )
    data.save_jsonl(
        [data.Pair(prompt, plain, polite), data.Pair(prompt, plain, "Paris.")],
        tmp_path / preferences.PAIRS,
    )
    run = runs.Run(tmp_path, "reward", "r", {})
    (pair,) = over.relabelled(run, atlas.Rater("polite", politeness=0.6, temperature=0))
    assert (pair.chosen, pair.rejected, pair.rater) == (polite, plain, "polite")


def test_the_probe_counts_now_and_then(monkeypatch):
    monkeypatch.setattr(over, "lookalikes", lambda: ["a", "b"])
    monkeypatch.setattr("labkit.rollout.answer", lambda model, tokenizer, asked: asked)
    monkeypatch.setattr(
        "labkit.evals.judged", lambda asked, said: {"over_refused": 0.5, "gold": 1.0}
    )
    assert [bool(over.over_refusal(None, None, update)) for update in (1, 2, 3, 4, 5, 8)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]
    assert over.over_refusal(None, None, 4) == {"over_refused": 0.5}


def test_no_seed_at_all_is_refused(capsys):
    assert cli.main(["bench", "overoptimization", "--seeds", "0", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "must be 1 or more" in err


def test_the_command_prints_the_record(monkeypatch, capsys):
    record = made([[0.0, 1.0, 0.5], [0.2, 0.4, 0.1]])
    monkeypatch.setattr(over, "measure", lambda profile, seeds: record | {"asked": seeds})
    assert cli.main(["bench", "overoptimization", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == 3
    assert cli.main(["bench", "overoptimization", "--seeds", "2"]) == 0
    assert over.FREE in capsys.readouterr().out


def test_ppo_logs_what_a_probe_finds(small, monkeypatch):
    _, profile, root = small
    monkeypatch.setenv("LABKIT_RUNS", str(root))
    cfg = config.change(profile.ppo, updates=2, checkpoint_every=0)

    def probe(model, tokenizer, update):
        assert model.active_adapter == "policy"
        return {"seen": update} if update == 2 else {}

    with runs.start("ppo", cfg) as run:
        ppo.train(cfg, run, probe=probe)
    assert [line.get("seen") for line in run.metrics()] == [None, 2]
    assert models.adapter_id(run) != models.adapter_id(runs.latest("sft"))
