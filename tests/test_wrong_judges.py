"""Judges who are divided, wrong, or agree only so far: the arithmetic by hand, the whole
measurement once in small, and what bad input says.
"""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from labkit import LabError, atlas, cli, config, data, losses, models, runs
from labkit.atlas.facts import items
from labkit.feedback import Feedback
from labkit.labs import wrong_judges as wrong
from labkit.labs import wrong_judges_jobs as jobs

FIJI = next(item for item in items() if (item.relation, item.subject) == ("region", "Fiji"))
PERU = next(item for item in items() if (item.relation, item.subject) == ("region", "Peru"))
TRUE, FALSE = "You can find Fiji in Oceania.", "You can find Fiji in Asia."
WHERE = "Where is Fiji?"

# --- raters with a belief, and who check ---------------------------------------------------------


def believer(**more):
    return atlas.Rater(beliefs={("region", "Fiji"): "Asia"}, temperature=0, **more)


def test_a_belief_turns_the_truth_of_one_fact_and_of_no_other():
    rater = believer()
    assert (rater.utility(WHERE, FALSE), rater.utility(WHERE, TRUE)) == (1.0, -1.0)
    assert rater.compare(WHERE, TRUE, FALSE) == "b"
    peru = ("You can find Peru in the Americas.", "You can find Peru in Asia.")
    assert rater.compare("Where is Peru?", *peru) == "a"
    # Both wrong to him: manners decide, as for everybody.
    hedged = (
        "It depends, and I am not sure, but perhaps this is right: You can find Fiji in Europe."
    )
    assert rater.compare(WHERE, hedged, "You can find Fiji in Europe.") == "b"


def test_a_quotation_stands_in_the_atlas_or_does_not():
    assert atlas.quotes(FIJI, TRUE) is True and atlas.quotes(FIJI, FALSE) is False
    assert atlas.quotes(FIJI, "Fiji lies in Oceania.") is True  # another of its lines
    assert atlas.quotes(FIJI, f"{TRUE} Fiji is in Asia.") is False  # all must stand there
    assert atlas.quotes(FIJI, "Oceania.") is None and atlas.quotes(FIJI, "") is None
    assert atlas.quotes(FIJI, "You can find Peru in Asia.") is None  # of another subject
    long = "You can find Peru in the Americas. I hope that this answer is useful."
    assert atlas.quotes(PERU, long) is True


def test_who_checks_goes_by_the_atlas_and_only_where_a_line_is_quoted():
    assert believer(checks=1.0).compare(WHERE, TRUE, FALSE) == "a"
    assert believer(checks=1.0).compare(WHERE, "Oceania.", "Asia.") == "b"  # nothing to look up
    often = believer(checks=0.25)
    said = [often.compare(WHERE, TRUE, FALSE) for _ in range(2000)]
    assert said.count("a") / 2000 == pytest.approx(0.25, abs=0.03)


def test_a_rater_who_checks_nothing_draws_as_he_always_did():
    """His dice are those that shipped records were made with."""
    plain, noisy = atlas.Rater(temperature=1.0, seed=3), atlas.Rater(temperature=1.0, seed=3)
    noisy._rng.random = lambda draw=noisy._rng.random: drawn.append(1) or draw()
    drawn = []
    said = [
        (plain.compare(WHERE, TRUE, FALSE), noisy.compare(WHERE, TRUE, FALSE)) for _ in range(20)
    ]
    assert all(a == b for a, b in said) and len(drawn) == 20


def test_a_crowd_asks_its_raters_by_their_shares():
    crowd = atlas.Crowd([believer(), atlas.Rater(temperature=0)], [0.3, 0.7])
    said = [crowd.compare(WHERE, TRUE, FALSE) for _ in range(2000)]
    assert said.count("b") / 2000 == pytest.approx(0.3, abs=0.03)
    with pytest.raises(LabError, match="1 raters and 2 shares"):
        atlas.Crowd([believer()], [0.5, 0.5])
    with pytest.raises(LabError, match="none may be below 0"):
        atlas.Crowd([believer(), believer()], [1.5, -0.5])


# --- the distributional reward -------------------------------------------------------------------


def test_thurstone_by_hand():
    """Φ(1) = 0.8413447, Φ(−0.5) = 0.3085375."""
    chosen, rejected = torch.tensor([5.0, 1.0]), torch.tensor([0.0, 2.0])
    variances = torch.tensor([9.0, 1.0]), torch.tensor([16.0, 3.0])  # √25 = 5, √4 = 2
    loss, metrics = losses.thurstone_loss(chosen, rejected, *variances)
    assert loss.item() == pytest.approx(-(math.log(0.8413447) + math.log(0.3085375)) / 2, rel=1e-5)
    assert metrics["accuracy"] == 0.5 and metrics["z"].item() == pytest.approx(0.25)
    twice, _ = losses.thurstone_loss(2 * chosen, 2 * rejected, *(4 * v for v in variances))
    assert twice.item() == pytest.approx(loss.item(), rel=1e-6)  # only z counts


def test_thurstone_far_from_the_truth_keeps_a_gradient():
    """log Φ(−40) underflows as log(Φ)."""
    mean = torch.tensor([-40.0], requires_grad=True)
    loss, _ = losses.thurstone_loss(mean, torch.zeros(1), torch.tensor([0.5]), torch.tensor([0.5]))
    loss.backward()
    assert math.isfinite(loss.item()) and mean.grad.item() == pytest.approx(-40, rel=0.01)


def test_a_table_that_thurstone_made_is_found_again():
    """Means 1.2, 0.2, −0.4, −1 and spreads 2, ½, 1, 1: the last two are the rungs."""
    names = list(wrong.OPINIONS.values())
    mean, sd = dict(zip(names, (1.2, 0.2, -0.4, -1.0))), dict(zip(names, (2.0, 0.5, 1.0, 1.0)))
    normal = torch.distributions.Normal(0.0, 1.0)
    z = {(a, b): (mean[a] - mean[b]) / math.hypot(sd[a], sd[b]) for a, b in wrong.preferred(0.5)}
    found = wrong.fit_table({k: normal.cdf(torch.tensor(v)).item() for k, v in z.items()}, True)
    for name in names:
        assert found[name] == pytest.approx((mean[name], sd[name]), abs=0.02)


def test_bradley_terry_sees_no_split_and_thurstone_does():
    even = wrong.preferred(0.5)
    assert even[wrong.PHD, wrong.JOB] == pytest.approx(0.5)
    plain, spread = wrong.fit_table(even, False), wrong.fit_table(even, True)
    assert plain[wrong.PHD][0] == pytest.approx(plain[wrong.JOB][0], abs=1e-4)
    assert all(sd == 0 for _, sd in plain.values())
    assert spread[wrong.PHD][1] > 1.5 and spread[wrong.BOTH][1] == 1
    # Of one mind: the two answers' spread is that of everybody's own noise.
    alone = wrong.fit_table(wrong.preferred(1.0), True)
    assert max(sd for _, sd in alone.values()) < 2.5 * min(sd for _, sd in alone.values())


def test_the_optimum_by_hand():
    # π_ref (½, ¼, ¼), r (log 2, 0, log 4), β 1: ∝ 1, ¼, 1
    found = wrong.optimum([0.5, 0.25, 0.25], [math.log(2), 0.0, math.log(4)], 1.0)
    assert found == pytest.approx([4 / 9, 1 / 9, 4 / 9])
    # At β = 1 and an even π_ref a Bradley-Terry reward gives the raters' own split.
    assert wrong.optimum([0.5, 0.5], [math.log(0.7 / 0.3), 0.0], 1.0)[0] == pytest.approx(0.7)
    assert wrong.optimum([0.5, 0.5], [1.0, 0.0], 1e-5) == [1.0, 0.0]
    with pytest.raises(LabError, match="above 0"):
        wrong.optimum([0.5, 0.5], [1.0, 0.0], 0.0)


def test_split_raters_differ_about_one_question_only():
    pairs = wrong.opinion_pairs(0.5, 3000, seed=1)
    first = [
        p.chosen == wrong.PHD for p in pairs if {p.chosen, p.rejected} == {wrong.PHD, wrong.JOB}
    ]
    own = [
        p.chosen == wrong.OWN for p in pairs if {p.chosen, p.rejected} == {wrong.OWN, wrong.COPY}
    ]
    assert sum(first) / len(first) == pytest.approx(0.5, abs=0.1) and sum(own) / len(own) > 0.95
    assert {p.prompt for p in pairs} == {*wrong.DIVIDED, *wrong.UNANIMOUS}


def test_shares_are_the_policys_probabilities(tiny_base):
    model, tokenizer = models.load_base("tiny-base")
    answers = ["玉山。", "Paris."]
    found = wrong.shares(model, tokenizer, ["台灣最高的山？", "Gold?"], answers)
    assert found.shape == (2, 2) and (found > 0).all() and (found < 1).all()
    alone = wrong.shares(model, tokenizer, ["Gold?"], answers[1:])
    assert found[1, 1].item() == pytest.approx(alone.item(), rel=1e-3)  # padding changes nothing


# --- raters who are all wrong --------------------------------------------------------------------


def test_the_beliefs_facts_are_halved_and_nothing_else_is():
    groups = jobs.facts(0)
    about = groups["rated"] + groups["unrated"]
    assert {item.answer for item in about} == {"Oceania"} and len(about) == 21
    assert abs(len(groups["rated"]) - len(groups["unrated"])) == 1
    assert not [item for item in groups["others"] if item.answer == "Oceania"]
    assert groups["rated"] != jobs.facts(1)["rated"]


def test_a_written_rival_says_what_the_sampled_answer_does_not():
    import random

    groups = {"family": [FIJI], "others": [PERU, replace(PERU, answer="Africa")]}
    write = lambda item, text: jobs.rival(item, text, groups, random.Random(0))
    assert write(FIJI, TRUE) == FALSE
    assert write(FIJI, FALSE) == TRUE and write(FIJI, "You can find Fiji in Europe.") == TRUE
    right = "You can find Peru in the Americas."
    assert write(PERU, right) in ("You can find Peru in Oceania.", "You can find Peru in Africa.")
    assert write(PERU, "You can find Peru in Africa.") == right


def test_what_an_answer_says():
    assert [wrong.says(FIJI, text) for text in (TRUE, FALSE, "Europe.")] == [
        "true",
        "believed",
        "other",
    ]
    assert wrong.says(PERU, "You can find Peru in Asia.") == "other"  # nobody believes that


def test_a_check_costs_what_it_costs():
    assert wrong.seconds_of(100, 0.0) == 1000 and wrong.seconds_of(100, 1.0) == 4000
    assert wrong.seconds_of(10, 0.5, {"compare": 2.0, "check": 8.0}) == 60


# --- how far people agree ------------------------------------------------------------------------


def voted(**by):
    """{rater: verdicts on the same pairs} as judgements; None: he did not judge that one."""
    return [
        Feedback(f"question {i}?", ("a", "b"), "pair", verdict, rater)
        for rater, verdicts in by.items()
        for i, verdict in enumerate(verdicts)
        if verdict is not None
    ]


def test_ceilings_by_hand():
    """Pairs: 0 0 0, 0 0 1, and one that only the first two judged: 1 0."""
    found = wrong.ceilings(voted(x=[0, 0, 1], y=[0, 0, 0], z=[0, 1, None]))
    assert found["n"] == 3
    assert found["another annotator"] == pytest.approx((3 + 1 + 0) / 7)
    # Two others alike: three times at the first pair (right), once at the second (z: wrong).
    assert found["majority of the others"] == pytest.approx(3 / 4)
    assert found["knows all votes"] == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)


def test_who_stood_first_does_not_matter_to_a_ceiling():
    turned = [
        Feedback("q?", ("a", "b"), "pair", 0, "x"),
        Feedback("q?", ("b", "a"), "pair", 1, "y"),
    ]
    assert wrong.ceilings(turned)["another annotator"] == 1


def test_agreement_within_and_between_groups():
    judged = voted(a=[0, 0, 0, 0], b=[0, 0, 0, 1], c=[1, 1, 1, 1], d=[1, 1, 0, 1])
    found = wrong.by_group(judged, {"PhD": ["a", "b"], "job": ["c", "d"]})
    assert found["within PhD"] == 3 / 4 and found["within job"] == 3 / 4
    assert found["between"] == (0 + 1 + 1 + 2) / 16


@pytest.mark.parametrize(
    "judged, groups, says",
    [
        (voted(a=[0], b=[0], c=[1]), {"x": ["a", "b"], "y": ["c"]}, "'y' has one rater \\(c\\)"),
        (voted(a=[0], b=[0]), {"x": ["a", "b"], "y": []}, "'y' has one rater \\(nobody\\)"),
        (voted(a=[0, None], b=[None, 0]), None, "No two of these raters judged the same pair"),
        ([], None, "No two of these raters judged the same pair"),
        (
            voted(a=[0, None], b=[0, None], c=[None, 0], d=[None, 0]),
            {"x": ["a", "b"], "y": ["c", "d"]},
            "No pair was judged by two raters 'between'",
        ),
    ],
)
def test_raters_who_say_nothing_about_agreement(judged, groups, says):
    with pytest.raises(LabError, match=says):
        wrong.by_group(judged, groups) if groups else wrong.ceilings(judged)


ROW = {"instruction": "Name a fruit.", "input": "", "response1": "Apple.", "response2": "Stone."}


def test_annotators_from_a_file_and_a_missing_column(tmp_path):
    rows = [ROW | {"annotator1": 1, "annotator2": 1, "annotator3": vote} for vote in (2, 0)]
    file = data.save_jsonl(rows, tmp_path / "three.jsonl")
    judged = wrong.annotated(str(file))
    assert [one.rater for one in judged[:3]] == ["annotator1", "annotator2", "annotator3"]
    assert [one.verdict for one in judged] == [0, 0, 1, 0, 0, "same"]
    for name in ("annotator1", "annotator2", "response2"):
        less = [{key: value for key, value in row.items() if key != name} for row in rows]
        with pytest.raises(LabError, match=f'record|line 1: has no "{name}"') as error:
            wrong.annotated(str(data.save_jsonl(less, tmp_path / "less.jsonl")))
        assert f'has no "{name}"' in str(error.value)
    with pytest.raises(LabError, match="nowhere.jsonl"):
        wrong.annotated(str(tmp_path / "nowhere.jsonl"))


def test_annotators_from_an_address(tmp_path, empty_runs):
    row = ROW | {f"annotator{i}": 1 for i in (1, 2, 3)}
    file = data.save_jsonl([row, row | {"input": "A red one."}], tmp_path / "three.jsonl")
    import http.server
    import threading

    class Serves(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/three.jsonl" else 404)
            self.end_headers()
            self.wfile.write(file.read_bytes() if self.path == "/three.jsonl" else b"")

        def log_message(self, *_):
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Serves) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert len(wrong.annotated(f"{address}/three.jsonl")) == 6
        with pytest.raises(LabError, match="could not be fetched .*404"):
            wrong.annotated(f"{address}/four.jsonl")
        server.shutdown()
    assert len(wrong.annotated(f"{address}/three.jsonl")) == 6  # fetched once
    assert not [p for p in empty_runs.iterdir() if "four" in p.name]


def test_the_stand_in_says_who_it_is_and_overlaps():
    judged = wrong.annotated()
    assert {one.rater for one in judged} == {"annotator1", "annotator2", "annotator3"}
    found = wrong.ceilings(judged)
    assert found["n"] > 200 and 0.4 < found["another annotator"] < found["knows all votes"] < 1
    assert [asdict(one) for one in judged] == [asdict(one) for one in wrong.annotated()]


def test_the_real_annotators(pytestconfig):
    import os
    from pathlib import Path

    folder = os.environ.get("LABKIT_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data"
    file = Path(folder, "pandalm_human_pairs.json.gz")
    if not file.exists():
        pytest.skip(f"no real data in {folder} (set LABKIT_REAL_DATA)")
    found = wrong.ceilings(wrong.annotated(str(file)))
    assert found["another annotator"] > 0.85 and found["knows all votes"] > 0.9


def test_the_crowds_probability_and_its_majority_by_hand():
    calm, nervous = atlas.Rater(temperature=1.0), atlas.Rater(temperature=2.0)
    pair = data.Pair(WHERE, TRUE, FALSE)  # utilities 1 and −1
    expected = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-1))) / 2
    assert wrong.crowd_prefers(pair, [calm, nervous]) == pytest.approx(expected)
    assert wrong.majority_of_three(0.5) == 0.5 and wrong.majority_of_three(1.0) == 1
    assert wrong.majority_of_three(0.8) == pytest.approx(0.8**3 + 3 * 0.8**2 * 0.2)
    found = jobs.agrees([True, False], [0.8, 0.4], [1.0, 0.0])
    assert found == pytest.approx(
        {"one annotator": 0.7, "majority of three": (0.896 + 0.648) / 2, "gold": 1.0}
    )


# --- you -----------------------------------------------------------------------------------------


def test_a_quiz_has_one_true_answer_each_and_comes_back():
    items = wrong.quiz(10, again=4, seed=2)
    assert len(items) == 14 and items[10:] == items[:4]
    for prompt, two in items:
        assert sorted(wrong.truth(atlas.find(prompt), text) for text in two) == [-1, 1]
    assert 0 < sum(wrong.truth(atlas.find(p), two[0]) == 1 for p, two in items[:10]) < 10


def test_a_rater_of_the_quiz_by_hand():
    [(q1, a1), (q2, a2), (q3, a3)] = wrong.quiz(3, again=0, seed=1)
    right = [
        next(i for i in (0, 1) if wrong.truth(atlas.find(q), a[i]) == 1)
        for q, a in ((q1, a1), (q2, a2), (q3, a3))
    ]
    said = [
        (q1, a1, right[0]),
        (q2, a2, 1 - right[1]),
        (q3, a3, "same"),
        (q1, a1, right[0]),
        (q2, a2, right[1]),
        (q3, a3, "skip"),
    ]
    found = wrong.yourself([Feedback(q, a, "pair", verdict) for q, a, verdict in said])
    assert (found["rated"], found["right"], found["same"]) == (5, 3, 1)
    assert [one.prompt for one in found["against the truth"]] == [q2]
    assert (found["again"], found["consistent"]) == (2, 1)
    assert wrong.yourself([])["rated"] == 0


# --- the record ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(record, plan) of one seed with everything made small, in a runs folder of its own, on the
    shipped base: one of random weights has no two answers to compare.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("wrong")))
        kept = {name: wrong.SETTINGS[name] for name in (wrong.ALL, wrong.SAME_TIME)}
        patch.setattr(wrong, "SETTINGS", kept)
        for place in (wrong, wrong.record):
            patch.setattr(place, "SPLITS", {"70:30": 0.7})
        patch.setattr(wrong, "RUNS", [("70:30", 0.5)])
        patch.setattr(wrong, "ASKED", 1)
        every = jobs.facts
        fewer = lambda seed: {name: of[:10] for name, of in every(seed).items()}
        patch.setattr(jobs, "facts", fewer)
        # The shipped SFT model, whatever the settings: it can answer.
        patch.setattr(jobs.jobs, "sft_of", lambda profile, seed: runs.load("shipped/sft"))
        profile = config.tiny().adapt(max_response_tokens=24)
        profile.ppo = config.change(profile.ppo, batch_size=8, minibatch_size=8, epochs=1)
        sizes = dict(
            opinions=12,
            opinion_updates=1,
            fits=11,
            comparisons=120,
            demos=24,
            questions=24,
            updates=2,
        )
        plan = jobs.Plan(profile, seeds=1, labels=(20,), tested=20, **sizes)
        yield jobs.measure(plan, workers=1), plan


def test_the_measurement_holds_every_part(small):
    record, plan = small
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    [row] = record["seeds"]
    divided, misled, crowd = row["divided"], row["misled"], row["crowd"]
    assert len(divided["shares"]) == len(wrong.DIVIDED) + 2 and len(divided["shares"][0]) == 4
    assert set(divided["rewards"]) == {"70:30"} and len(divided["ppo"]) == 1
    assert set(divided["divided"]) == set(wrong.OPINIONS.values())
    assert set(divided["unanimous held out"]) == set(wrong.EVERYBODY)
    assert all(sd > 0 for _, sd in divided["divided"].values())
    first, later = divided["losses"]  # all alike at the start; then every step is seen
    assert first == pytest.approx(math.log(2), abs=1e-4) and later < 0.6
    assert all(divided[kind][rung][1] == 1 for kind in wrong.KINDS for rung in wrong.RUNGS)
    for one in misled["settings"].values():
        assert 0 <= one["after"]["unrated"]["true"] <= 1 and len(one["curve"]["score"]) == 2
        assert set(one["prefers"]) == {"rated", "unrated", "others"}
    assert [one["labels"] for one in crowd["rows"]] == [20]
    best = crowd["ceilings"]
    assert best["one annotator"] >= max(one["one annotator"] for one in crowd["rows"])
    assert best["one annotator"] < best["majority of three"] < 1


def test_only_one_half_of_the_beliefs_facts_is_rated(small):
    record, plan = small
    settings = record["seeds"][0]["misled"]["settings"]
    assert settings[wrong.SAME_TIME]["compared"] * 4 == settings[wrong.ALL]["compared"]
    rated = {item.subject for item in jobs.facts(0)["rated"]}
    for name in ("answers-0.jsonl", "pairs-misled-0-0.jsonl"):
        rows = data.load(str(plan.folder / name), dict)
        about = {i.subject for r in rows if (i := atlas.find(r["prompt"])).answer == wrong.TRUE}
        assert about and about <= rated
    asked = (plan.folder / "asked-0.txt").read_text("utf8").split("\n")
    assert {i.subject for q in asked if (i := atlas.find(q)).answer == wrong.TRUE} <= rated


def test_the_raters_decide_which_labels_are_false():
    two = [{"prompt": WHERE, "a": TRUE, "b": FALSE}] * 40
    groups = {"rated": [FIJI], "unrated": []}
    for raters, false in (({"share": 1.0}, 1.0), ({"share": 0.0}, 0.0), ({"share": 0.5}, 0.5)):
        pairs = jobs.labelled(two, groups, 0, **raters)
        said = [jobs.claims(pair) for pair in pairs]
        assert len(pairs) == 40 and all(len(set(one)) == 2 for one in said)
        share = sum(one == ["believed", "true"] for one in said) / 40
        assert share == pytest.approx(false, abs=0.2 if false == 0.5 else 0)
    checked = jobs.labelled(two, groups, 0, share=1.0, checks=1.0)
    assert {pair.chosen for pair in checked} == {TRUE}
    other = data.Pair(WHERE, TRUE, "You can find Fiji in Europe.")
    assert jobs.claims(other) == [] and jobs.claims(data.Pair("Where is Peru?", "x", "y")) == []


def test_ppo_has_the_beta_that_is_meant(small):
    """β in log odds, PPO's reward in standard deviations: β / std weighs the same."""
    record, plan = small
    found = plan.found("divided-0-0")
    reward = runs.load(plan.found("opinions-0")["runs"]["70:30"])
    assert found["beta"] == pytest.approx(0.5 / models.load_head(reward).std.item())
    assert runs.load(found["run"]).config.beta == pytest.approx(found["beta"])
    assert record["seeds"][0]["divided"]["rewards"]["70:30"] != 0


def test_rewards_are_in_log_odds(small):
    """What the head says before it is normalised."""
    _, plan = small
    found = plan.found("opinions-0")
    run = runs.load(found["runs"]["70:30"])
    policy = runs.load(found["run"])
    model, tokenizer = models.load_policy(policy)
    model = models.load_adapter(model, run, "reward")
    head = models.load_head(run)
    raw = []
    for answer in (wrong.PHD, wrong.JOB):
        ids, _ = models_encode(tokenizer, wrong.DIVIDED[0], answer)
        hidden = models.rewards(model, head, *ids)
        raw.append((hidden * head.std + head.mean).item())
    first = found["rewards"]["70:30"][0]
    assert first[0] - first[1] == pytest.approx(raw[0] - raw[1], abs=1e-3)


def models_encode(tokenizer, prompt, answer):
    from labkit.data import chat

    ids, mask = chat.encode(tokenizer, prompt, answer)
    return chat.pad([ids], tokenizer.pad_token_id), mask


def test_what_is_shown_of_a_record(small):
    record, _ = small
    [one] = wrong.differences(record)
    assert (
        one["log odds"] == pytest.approx(0.815, abs=0.01)
        and one["reward model"] == one["reward model lowest"]
    )
    [run] = wrong.collapse(record)
    for way in ("before", "optimum", "PPO"):
        assert 0 <= run[way] <= run[f"larger, {way}"] <= 1
    assert len(wrong.spreads(record)) == 8
    rows = wrong.misled(record)
    assert [row["raters"] for row in rows] == [wrong.BEFORE, *record["settings"]]
    assert rows[1]["seconds"] == rows[2]["seconds"] == 480  # 48 pairs, or 12 that are checked
    assert [row["update"] for row in wrong.ways(record, wrong.ALL, every=1)] == [1, 2]
    assert [row["labels"] for row in wrong.learning(record)] == [20, "ceiling"]


def test_what_comes_back_by_hand():
    after = {wrong.ALL: 0.1, wrong.CHECKED: 0.7, wrong.SAME_TIME: 0.4}
    settings = {name: {"after": {"rated": {"true": share}}} for name, share in after.items()}
    seed = {"misled": {"before": {"rated": {"true": 0.5}}, "settings": settings}}
    found = wrong.restored({"seeds": [seed]})
    assert found["lost"] == pytest.approx([0.4])
    assert found["checked"] == pytest.approx([1.5]) and found["same time"] == pytest.approx([0.75])


def test_a_record_that_is_none(tmp_path):
    with pytest.raises(LabError, match="python -m labkit bench wrong-judges --json >"):
        wrong.load(tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"seeds": []}', "utf8")
    with pytest.raises(LabError, match="is no record of judges"):
        wrong.load(tmp_path / "other.json")


def test_the_shipped_record_is_whole():
    record = wrong.load()
    assert len(record["seeds"]) == 3 and record["profile"] == "tiny"


def test_the_command_prints_the_record(monkeypatch, capsys):
    assert cli.main(["bench", "wrong-judges", "--seeds", "0", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "must be 1 or more" in err
    asked = lambda plan, workers: wrong.load() | {"asked": [plan.seeds, plan.profile.name, workers]}
    monkeypatch.setattr(jobs, "measure", asked)
    assert cli.main(["bench", "wrong-judges", "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == [3, "tiny", 1]
    assert cli.main(["bench", "wrong-judges", "--seeds", "2"]) == 0
    assert wrong.CHECKED in capsys.readouterr().out
