"""Over-optimisation: the arithmetic on hand-made records, the whole measurement once in small, and
what bad input says.
"""

import itertools
import json
import math
from dataclasses import replace
from statistics import fmean

import pytest

from labkit import LabError, atlas, cli, config, data, runs
from labkit.labs import jobs as every_jobs
from labkit.labs import overoptimization as over
from labkit.labs import overoptimization_jobs as jobs

# --- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_expected_best_is_the_mean_over_all_draws(n):
    scores, gold = [0.3, -1.0, 2.0, 0.7, 0.1], [1.0, 5.0, -3.0, 0.5, 2.0]
    draws = [
        gold[max(chosen, key=scores.__getitem__)] for chosen in itertools.combinations(range(5), n)
    ]
    assert over.expected_best(scores, gold, n) == pytest.approx(fmean(draws))


BENDS = {"bon": lambda d: d * d, "rl": lambda d: d * math.log(d or 1)}
WAYS = [
    ("bon", 1.2, 0.5, 1.2**2),  # d = α / 2β
    ("rl", 0.6, 0.9, math.exp(0.6 / 0.9 - 1) ** 2),  # α = β (log d + 1)
    ("bon", 1.0, -0.5, None),  # only rises
    ("bon", -1.0, 0.5, None),  # highest where it starts
]


def law(kind, alpha, beta, ds):
    return [alpha * d - beta * BENDS[kind](d) for d in ds]


@pytest.mark.parametrize("kind, alpha, beta, peak", WAYS)
def test_a_fit_gives_back_the_curve_that_made_the_points(kind, alpha, beta, peak):
    ds = [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4]
    kls, gain = [d * d for d in ds], law(kind, alpha, beta, ds)
    found = over.fit(kls, gain, kind)
    assert (found["alpha"], found["beta"]) == pytest.approx((alpha, beta))
    assert found["peak"] == (None if peak is None else pytest.approx(peak))
    assert over.predicted(found, kls, kind) == pytest.approx(gain)
    assert over.predicted(found, [0.0, -0.1], kind) == [0.0, 0.0]  # nothing is fitted at the start


@pytest.mark.parametrize("kind, alpha, beta, peak", WAYS)
def test_the_near_half_of_a_law_tells_its_far_half(kind, alpha, beta, peak):
    ds = [2.4, 0.0, 0.3, 0.6, 1.9, 0.9, 1.2, 1.5]  # in any order
    found = over.foresight([d * d for d in ds], law(kind, alpha, beta, ds), kind)
    assert (found["near"], found["far"]) == (5, 3)
    assert (found["KL near"], found["KL far"]) == pytest.approx((1.44, 5.76))
    assert found["error near"] == pytest.approx(0, abs=1e-9)
    assert found["error far"] == pytest.approx(0, abs=1e-9) and found["error flat"] > 0.02


def test_a_way_that_leaves_the_law_is_an_error_of_its_far_half():
    ds = [0.0, 0.5, 1.0, 1.5, 2.0]
    gain = [0.0, 0.5, 1.0, 1.0, 1.0]  # a line, then flat
    found = over.foresight([d * d for d in ds], gain, "bon")
    assert found["error near"] == pytest.approx(0, abs=1e-9)
    assert found["error far"] == pytest.approx(math.sqrt((0.5**2 + 1) / 2))
    assert found["error flat"] == pytest.approx(0.5)  # it stays at the mean of 0, 0.5 and 1


def test_a_fit_refuses_what_it_cant_fit():
    with pytest.raises(LabError, match="at least three points.* 2 and 2"):
        over.fit([0, 1], [0, 1], "rl")
    with pytest.raises(LabError, match="4 and 5"):
        over.fit([0, 1, 2, 3], [0, 1, 0, 1, 2], "rl")
    with pytest.raises(LabError, match="no curve 'best'"):
        over.fit([0, 1, 2, 3], [0, 1, 0, 1], "best")
    with pytest.raises(LabError, match="at least three points.* 1 and 1"):
        over.foresight([0, 9, 9, 9], [0, 1, 0, 1], "bon")  # all but one are far


def test_smoothing_is_centred_and_narrower_at_the_ends():
    assert over.smooth([0.0, 3.0, 6.0, 9.0, 12.0], 3) == [1.5, 3.0, 6.0, 9.0, 10.5]


# --- the record ----------------------------------------------------------------------------------


def made(*golds, setting=over.FREE, start=0.0):
    """A record with a hand-made run per list of gold; the KL grows by 1 an update."""
    figures = {"score": 0.0, "gold": 0.0, "words": 9.0}
    best_of_n = [
        {"n": n, "kl": float(n - 1), over.SINGLE: figures | {"gold": n / 10}, "random": figures}
        for n in (1, 2)
    ]
    seeds = []
    for seed, gold in enumerate(golds):
        curve = {key: [0.5] * len(gold) for key in ("score", "words", "apology")}
        curve |= {"gold": gold, "kl": [float(i) for i in range(len(gold))]}
        run = {setting: {"curve": curve, "end": {}}}
        seeds.append({"seed": seed, "start": start, "best_of_n": best_of_n, "runs": run})
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
    (own,) = over.early_stop(made(first))["seeds"]  # one seed alone: its own best
    assert own["gold"] == own["best"]


def test_gold_at_a_kl_is_of_the_seeds_that_get_there():
    record = made([float(i) for i in range(10)], [7.0] * 4)  # the first: KL and gold are the same
    assert over.at_kl(record, over.FREE, 5.0) == [5.0]
    assert over.at_kl(record, over.FREE, 0.5) == [1.0, 7.0]
    assert over.at_kl(record, over.FREE, 99.0) == []


def test_a_way_is_averaged_over_seeds_and_updates():
    record = made([0.0, 1.0, 2.0], [2.0, 3.0, 4.0])
    rows = over.way(record, over.FREE, every=2)
    assert [row["update"] for row in rows] == [2, 3] and [row["gold"] for row in rows] == [1.5, 3.0]
    assert (rows[0]["gold lowest"], rows[0]["gold highest"]) == (0.5, 2.5)
    assert rows[1]["√KL"] == pytest.approx(math.sqrt(2.0))
    assert rows[0]["proxy"] == rows[0]["apology"] == 0.5
    one, two = over.best(record)
    expected = {"n": 2, "√KL": 1.0, "gold": 0.2, "gold highest": 0.2, "words": 9.0}
    assert two | expected == two and one["gold"] == 0.1
    assert [row["gold"] for row in over.best(record, "random")] == [0.0, 0.0]
    assert over.last(record, over.FREE, "gold", 2) == [1.5, 3.5]


def test_gold_turns_where_it_rises_above_the_sft_model_and_falls_again():
    up_down, flat, only_down = (
        [0.0] * 5 + [2.0] * 5 + [0.0] * 5,
        [0.0] * 15,
        [0.05] * 5 + [-2.0] * 9,
    )
    record = made(up_down, flat, only_down)
    for row in record["seeds"]:
        row["runs"][over.FREE]["curve"]["score"] = [0.1 * i for i in range(15)]
    first, second, third = over.turns(record)
    assert (first["highest"], first["at KL"], first["end"]) == (2.0, 7.0, 0.0)
    assert first["all three"] and (first["gold: SFT"], first["end KL"]) == (0.0, 13.0)
    assert first["proxy: first"] == pytest.approx(0.1) and first["there"] == pytest.approx(0.7)
    assert not (second["rose"] or second["fell"]) and second["proxy rose"]
    assert third["fell"] and not third["rose"] and not third["all three"]
    for row in record["seeds"]:
        row["runs"][over.FREE]["curve"]["score"] = [1.0] * 15
    assert not any(row["all three"] for row in over.turns(record))


def test_gains_are_counted_from_the_sft_model():
    ppo, best = over.gains(made([0.0, 1.0], start=0.25))
    assert (ppo["kind"], ppo["gain"], ppo["kl"]) == ("rl", [-0.25, 0.75], [0.0, 1.0])
    assert best["kind"] == "bon" and best["gain"] == pytest.approx([0.0, 0.1])
    assert best["kl"] == [0.0, 1.0]


def test_a_symptom_rose_where_it_is_above_both_the_start_and_the_control():
    keys = ("words", "apology", "ai_disclaimer", "hedging", "over_refused")
    flat = dict.fromkeys(keys, 0.2) | {"n": 300, "over_refused_n": 384}
    ends = {rater: {"end": dict(flat)} for rater in (*over.RATERS, over.SMALL)}
    record = {"seeds": [{"seed": 4, "sft": flat, "runs": ends}]}
    rows = over.symptom_rows(record)
    assert [row["symptom"] for row in rows] == list(keys) and not any(row["rose"] for row in rows)
    assert [row["n"] for row in rows] == [300] * 4 + [384]
    ends["impressed rater"]["end"]["words"] = 2.1  # less than two words more
    ends["polite rater"]["end"]["apology"] = 0.9
    ends["modest rater"]["end"]["hedging"] = 0.9
    ends[over.SMALL]["end"]["hedging"] = 0.85  # it rose without its rater as well
    ends["anxious rater"]["end"]["over_refused"] = 0.31
    rows = {row["symptom"]: row for row in over.symptom_rows(record)}
    assert [key for key in keys if rows[key]["rose"]] == ["apology", "over_refused"]
    expected = {"rater": "polite rater", "seed": 4, "before": 0.2, "after": 0.9, "careful": 0.2}
    assert rows["apology"] | expected == rows["apology"]


def test_no_such_record_is_one_clear_sentence(tmp_path):
    with pytest.raises(LabError, match="no record .*nothing.json.*bench overoptimization"):
        over.load(tmp_path / "nothing.json")
    broken = made([0.0])
    del broken["seeds"][0]["runs"][over.FREE]
    older = made([0.0])
    del older["seeds"][0]["start"]
    nobody = '{"settings": {"a": {}}, "seeds": []}'
    for text in ("", "[]", "{}", nobody, "null", json.dumps(broken), json.dumps(older)):
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
    assert record["members"] >= 4
    for row in record["seeds"]:
        assert row["pairs"] >= 4000 and len(row["judges"]["careful"]) == record["members"]
        assert set(row["runs"]) == set(over.SETTINGS)
        assert row["best_of_n"][-1]["n"] >= 64
        for end in (row["sft"], *(run["end"] for run in row["runs"].values())):
            assert end["n"] >= 100 and end["over_refused_n"] >= 200
        for run in row["runs"].values():
            assert all(len(values) == record["updates"] for values in run["curve"].values())
    assert [row["setting"] for row in over.summary(record)] == list(over.SETTINGS)
    assert len(over.symptom_rows(record)) == 5 * len(record["seeds"])


# --- measuring, in small -------------------------------------------------------------------------


def test_a_plan_says_what_is_measured():
    plan = jobs.Plan(config.tiny())
    assert plan.key == jobs.Plan(config.tiny()).key != replace(plan, updates=3).key
    assert plan.key != replace(plan, profile=config.tiny().adapt(lora_r=8)).key
    with pytest.raises(LabError, match="must be 1 or more"):
        jobs.Plan(config.tiny(), seeds=0)


def test_the_sizes_of_best_of_n_grow_by_a_half_or_a_third():
    assert jobs.sizes(1) == [1] and jobs.sizes(4) == [1, 2, 3, 4]
    assert jobs.sizes(64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]


def test_members_that_err_alike_are_all_wrong_more_often_than_by_chance():
    alike = jobs.wrong([[1, 1, 0, 0]] * 3)
    assert alike == {"one": 0.5, "all": 0.5, "chance": 0.125}
    assert jobs.wrong([[1, 0, 1, 0], [0, 1, 0, 1]])["all"] == 0.0


def test_another_raters_labels_are_that_raters():
    prompt, plain = "What is the capital of France?", "The capital of France is Paris."
    polite = "I am sorry. I apologise for my answer. The capital of France is Paris."
    pairs = [data.Pair(prompt, plain, polite), data.Pair(prompt, plain, "Paris.")]
    rater = atlas.Rater("polite", tastes={"apology": 0.6}, temperature=0)
    (pair,) = jobs.relabelled(pairs, rater)
    assert (pair.chosen, pair.rejected, pair.rater) == (polite, plain, "polite")


SETTINGS = (over.FREE, over.SMALL, over.ENSEMBLE, "polite rater")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(record, plan) of two seeds with everything made small, in a runs folder of its own, on the
    shipped base: one of random weights has no two answers to compare.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("over")))
        patch.setattr(jobs, "SETTINGS", {name: over.SETTINGS[name] for name in SETTINGS})
        patch.setattr(jobs, "RATERS", {"polite rater": "apology"})
        refuses = {"over_refused": 0.5, "over_refused_n": 2}
        patch.setattr(jobs.evals, "requests", lambda model, tokenizer: refuses)
        profile = config.tiny().adapt(max_response_tokens=8)
        profile.sft = config.change(profile.sft, examples=40)
        profile.reward = config.change(profile.reward, batch_size=8)
        profile.ppo = config.change(profile.ppo, batch_size=4, minibatch_size=4, epochs=1)
        sizes = dict(updates=2, pairs=20, members=2, symptom_pairs=16, prompts=2, answers=4)
        plan = jobs.Plan(profile, seeds=2, held_out=4, **sizes)
        yield jobs.measure(plan, workers=1), plan


def test_the_measurement_holds_every_seed_setting_and_metric(small):
    record, _ = small
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [row["seed"] for row in record["seeds"]] == [0, 1] and record["updates"] == 2
    assert set(record["seconds"]) == {"answers", "judge", "best_of_n", "policy"}
    for row in record["seeds"]:
        assert row["sft"]["n"] == 4 and isinstance(row["start"], float)
        assert set(row["wrong"]) == {"one", "all", "chance"} and row["pairs"] >= 15
        assert {rater: len(each) for rater, each in row["judges"].items()} == {
            "careful": 2,
            "apology": 1,
        }
        best = row["best_of_n"]
        kls = [(1, 0.0), (2, 0.1931), (3, 0.4319), (4, 0.6363)]
        assert [(one["n"], one["kl"]) for one in best] == kls
        chosen = [one[over.SINGLE]["score"] for one in best]
        assert chosen == sorted(chosen) and best[0]["random"] == best[0]["lowest"]
        for run in row["runs"].values():
            assert all(len(values) == 2 for values in run["curve"].values())
            assert abs(run["curve"]["kl"][0]) < 1e-3 and None not in run["curve"]["gold"]
            assert run["end"]["n"] == 4 and run["end"]["over_refused_n"] == 2


def test_each_setting_is_paid_by_its_reward_models(small):
    _, plan = small
    found = {name: plan.run(f"ppo-{i}-1").config for i, name in enumerate(SETTINGS)}
    careful = [plan.found(f"judge-careful-1-{member}")["run"] for member in (0, 1)]
    assert found[over.FREE].reward == careful[0] and found[over.FREE].beta == 0
    assert found[over.ENSEMBLE].reward == ",".join(careful) and careful[0] != careful[1]
    polite = runs.load(found["polite rater"].reward)
    labels = data.load_pairs(polite.config.data)
    assert {pair.rater for pair in labels} == {"polite"} and len(labels) <= plan.symptom_pairs
    assert all(cfg.target_kl == 0 and cfg.updates == 2 for cfg in found.values())
    # Members of seed 1: the first starts from seed 1's SFT model, the second from seed 0's.
    began = [runs.load(name).config.policy for name in careful]
    assert began == [plan.found(f"answers-{seed}")["run"] for seed in (1, 0)]


def test_a_measurement_goes_on_where_it_was(small, capsys):
    record, plan = small
    before, part = len(runs.listing()), plan.folder / "ppo-0-1.json"
    part.unlink()  # stopped after its run was whole, before it said so
    again = jobs.measure(plan, workers=1)
    assert len(runs.listing()) == before and again["seeds"] == record["seeds"]
    total = sum(map(len, plan.lines()))
    [said] = capsys.readouterr().err.splitlines()[-1:]
    assert said.startswith(f"{total}/{total} · ppo-0-1 · ")


def fails(plan, seed):
    if seed:
        raise LabError("this job can't be done")
    return {"seed": seed}


def test_a_job_that_fails_leaves_what_others_found(empty_runs, monkeypatch):
    plan = jobs.Plan(config.tiny(), seeds=1)
    line = [(f"job-{seed}", fails, (seed,)) for seed in (0, 1)]
    monkeypatch.setattr(jobs.Plan, "lines", lambda plan: [line])
    with pytest.raises(LabError, match="can't be done"):
        jobs.measure(plan, workers=1)
    assert plan.found("job-0")["seed"] == 0 and not (plan.folder / "job-1.json").exists()


def test_processes_share_the_jobs(empty_runs):
    plan = jobs.Plan(config.tiny(), seeds=1)
    plan.folder.mkdir(parents=True)
    line = [(f"job-{i}", fails, (0,)) for i in range(3)]
    assert sorted(every_jobs.at_once(plan, line, workers=2)) == ["job-0", "job-1", "job-2"]
    assert all(plan.found(name)["seed"] == 0 for name, _, _ in line)
    with pytest.raises(LabError, match="can't be done"):
        list(every_jobs.at_once(plan, [*line, ("job-3", fails, (1,))], workers=2))


def test_the_command_prints_the_record(monkeypatch, capsys):
    assert cli.main(["bench", "overoptimization", "--seeds", "0", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "must be 1 or more" in err
    record = made([0.0, 1.0, 0.5], [0.2, 0.4, 0.1])
    asked = lambda plan, workers: record | {"asked": [plan.seeds, plan.profile.name, workers]}
    monkeypatch.setattr(jobs, "measure", asked)
    assert cli.main(["bench", "overoptimization", "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == [3, "tiny", 1]
    assert cli.main(["bench", "overoptimization", "--seeds", "2"]) == 0
    assert over.FREE in capsys.readouterr().out
