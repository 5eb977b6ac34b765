"""Constitutional AI: what is asked, the seeds, the labels, the whole measurement once in small, and
what bad input says.
"""

import json
import random

import pytest
import torch

from labkit import LabError, atlas, cli, config, data, runs
from labkit.data import chat
from labkit.labs import constitution as con
from labkit.labs import constitution_jobs as jobs
from labkit.labs import verdicts

HARM, LOOK, FACT = (
    next(item for item in atlas.items() if item.relation == relation)
    for relation in ("harmful", "lookalike", "capital")
)
RNG = random.Random(0)


def said(item, style):
    return atlas.respond(item, style, RNG)


# --- principles and what is asked ----------------------------------------------------------------


def test_a_principle_speaks_the_language_of_the_question():
    assert con.HARMLESS.said("How do I make a bomb?") == con.HARMLESS.text
    assert con.HARMLESS.said("怎麼製作火藥？") == con.HARMLESS.zh
    assert con.Principle("brief", "Be brief.").said("怎麼？") == "Be brief."


def test_a_constitution_needs_a_principle_that_says_something():
    with pytest.raises(LabError, match="constitution is empty.*Give it one principle"):
        con.checked([])
    for wrong in ("Be good.", con.Principle("silent", " ")):
        with pytest.raises(LabError, match="is no principle. Write each as"):
            con.checked([con.HARMLESS, wrong])
    with pytest.raises(LabError, match="constitution is empty"):
        con.revise(None, None, ["?"], ["!"], [])
    assert con.checked(con.CONSTITUTION) == list(con.CONSTITUTION)


def test_a_revision_is_asked_by_the_critique_or_by_the_principle():
    asked = con.critique_prompt("Who?", "Me.", con.PLAIN)
    assert asked == f"{con.PLAIN.text}\nWho?\nMe.\n{con.PLAIN.text} What is wrong?"
    told = con.revision_prompt("Who?", "Me.", con.PLAIN, "Rude.")
    assert told == "Me.\nRude. Answer again: Who?"
    by_rule = con.revision_prompt("誰？", "我。", con.PLAIN)
    assert by_rule == f"我。\n{con.PLAIN.zh} Answer again: 誰？"


def test_every_principle_revises_what_the_one_before_left(monkeypatch):
    heard = []

    def answer(model, tokenizer, prompts, temperature):
        heard.extend(prompts)
        return [f"answer {len(heard)}"] * len(prompts)

    monkeypatch.setattr(con.rollout, "answer", answer)
    steps = con.revise(None, None, ["Who?"], ["Me."], [con.HARMLESS, con.PLAIN])
    assert [one["principle"] for one in steps] == ["harmless", "plain"]
    assert [one["critiques"] for one in steps] == [["answer 1"], ["answer 3"]]
    assert steps[-1]["answers"] == ["answer 4"]
    assert heard[1] == con.revision_prompt("Who?", "Me.", con.HARMLESS, "answer 1")
    assert heard[2] == con.critique_prompt("Who?", "answer 2", con.PLAIN)
    heard.clear()
    steps = con.revise(None, None, ["Who?"], ["Me."], [con.PLAIN], critique=False)
    assert heard == [con.revision_prompt("Who?", "Me.", con.PLAIN)]
    assert steps[0]["critiques"] == [""]


# --- seeds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "item, style, principle, wrong",
    [
        (HARM, "complying", con.HARMLESS, "complying"),
        (HARM, "complying", con.HELPFUL, ""),
        (HARM, "refusing", con.HARMLESS, ""),
        (HARM, "refusing", con.HELPFUL, ""),
        (LOOK, "refusing", con.HELPFUL, "refusing"),
        (LOOK, "complying", con.HELPFUL, "refusing"),  # a promise that is not kept
        (LOOK, "complying", con.HARMLESS, ""),
        (LOOK, "refusing", con.HARMLESS, ""),
        (FACT, "deflecting", con.HELPFUL, "refusing"),
        (FACT, "hedging", con.PLAIN, "mannered"),
        (FACT, "hedging", con.HELPFUL, ""),
        (FACT, "plain", con.PLAIN, ""),
        (FACT, "refusing", con.PLAIN, ""),
    ],
)
def test_what_is_a_fault_hangs_on_the_question_the_answer_and_the_principle(
    item, style, principle, wrong
):
    assert con.fault(item, style, principle) == wrong


def test_a_mended_answer_has_no_fault_left():
    for item, style, principle in (
        (HARM, "complying", con.HARMLESS),
        (LOOK, "refusing", con.HELPFUL),
        (FACT, "apologising", con.PLAIN),
    ):
        wrong, answer, prompt = (
            con.fault(item, style, principle),
            said(item, style),
            atlas.questions(item, held_out=True)[0],
        )
        better = con.mended(item, answer, wrong, RNG)
        case = con.Case(item, prompt, answer, principle, wrong)
        assert con.good(case, better) and not con.good(case, answer)
        fine = case._replace(wrong="")
        assert con.mended(item, answer, "", RNG) == answer and con.good(fine, answer)
        assert not con.good(fine._replace(answer=better), answer)


def test_seeds_are_training_phrasings_and_cases_to_try_on_are_not():
    held = {q for item in atlas.items() for q in atlas.questions(item, held_out=True)}
    demos = con.seeds(200)
    assert {demo.style for demo in demos} == {"critique", "revision", "direct"}
    asked = {line for demo in demos for line in demo.prompt.split("\n")}
    assert len(demos) == 600 and not held & asked
    assert {case.prompt for case in con.cases(200, held_out=True)} <= held
    words = {demo.response for demo in demos if demo.style == "critique"}
    assert words == {one for both in (con.FINE, *con.FAULTS.values()) for one in both}
    assert con.seeds(5, 1) == con.seeds(5, 1) != con.seeds(5, 2)


def test_half_of_the_cases_of_every_principle_have_a_fault():
    found = con.cases(600)
    for principle in con.CONSTITUTION:
        faulty = [bool(case.wrong) for case in found if case.principle == principle]
        assert len(faulty) == 200 and 0.4 < sum(faulty) / 200 < 0.6


def test_the_helpful_only_demonstrations_refuse_no_request():
    demos = con.helpful_only(2000)
    asked = [(atlas.find(demo.prompt), demo) for demo in demos]
    assert all(demo.style == "complying" for item, demo in asked if item.harmful)
    assert not [demo for item, demo in asked if item.lookalike and demo.style == "refusing"]
    assert len(demos) == 2000 and any(demo.style == "long" for demo in demos)


def test_the_red_team_asks_harmful_things_and_look_alikes_half_of_the_time():
    prompts = con.red_team(400)
    requests = [prompt for prompt in prompts if atlas.find(prompt).request]
    assert len(set(prompts)) == 400 and len(requests) == 200
    assert 60 < sum(atlas.find(prompt).harmful for prompt in requests) < 140


def test_the_shipped_reviser_is_taken_only_for_its_own_base(monkeypatch, tmp_path):
    here, other = (runs.Run(tmp_path, "sft", name) for name in ("here", "other"))
    here.info["base"], other.info["base"] = {"fingerprint": "a"}, {"fingerprint": "b"}
    monkeypatch.setattr(
        con.runs, "shipped", lambda stage: here if stage == "constitution" else None
    )
    monkeypatch.setattr(con.runs, "root", lambda: tmp_path)
    monkeypatch.setattr(con.stages, "train", lambda stage, cfg, aside: (stage, cfg))
    assert con.reviser(config.tiny(), here) is here
    stage, cfg = con.reviser(config.tiny(), other, n=3)
    assert (stage, cfg.policy, cfg.batch_size) == ("sft", "other", con.BATCH)
    assert len(data.load_demos(cfg.data)) == 9


# --- labels --------------------------------------------------------------------------------------


def test_labels_are_certain_soft_clamped_or_a_coins():
    pairs = [
        data.Pair("p", f"a{i}", f"b{i}", confidence=c) for i, c in enumerate([0.55, 0.95] * 20)
    ]
    sure = {kind: [one.confidence for one in con.relabelled(pairs, kind)] for kind in con.KINDS}
    assert sure["hard"] == sure["coin"] == [1.0] * 40 and sure["soft"] == [0.55, 0.95] * 20
    assert sure["clamped"] == [0.55, 0.6] * 20
    assert [one.chosen for one in con.relabelled(pairs, "hard")] == [one.chosen for one in pairs]
    tossed = con.relabelled(pairs, "coin")
    kept = sum(one.chosen == other.chosen for one, other in zip(tossed, pairs))
    assert 10 < kept < 30 and {one.rater for one in tossed} == {"coin"}
    assert all({a.chosen, a.rejected} == {b.chosen, b.rejected} for a, b in zip(tossed, pairs))


def test_written_pairs_have_the_better_answer_first():
    found = con.probes()
    assert {kind: len(pairs) for kind, pairs in found.items()} == {
        "harmful": 128,
        "look-alike": 128,
        "fact": 128,
    }
    assert all(verdicts.difference(pair) > 0 for pairs in found.values() for pair in pairs)


def test_a_critic_prefers_what_it_finds_less_wrong_with():
    critic = con.Critic.__new__(con.Critic)
    worth = {"a": 0.9, "b": 0.2, "c": 0.9}
    critic.fineness = lambda prompts, texts, rules: torch.tensor([worth[text] for text in texts])
    better, mass = critic.first(["?"] * 3, ["a", "b", "a"], ["b", "a", "c"], [con.PLAIN] * 3)
    odds = (0.9 / 0.1) / (0.2 / 0.8)
    assert better.tolist() == pytest.approx([odds / (1 + odds), 1 / (1 + odds), 0.5])
    assert critic.position(["?"], ["a"], ["b"], [con.PLAIN])["follows_position"] == 0
    (pair,) = critic.labels(["?", "!"], ["b", "a"], ["a", "a"], [con.PLAIN, con.HARMLESS])
    assert (pair.chosen, pair.rater) == ("a", "critic") and mass.tolist() == [1, 1, 1]


def test_a_critic_reads_how_a_critique_would_begin(tiny_base, tokenizer):
    from labkit import models

    model, tokenizer = models.load_base(tiny_base.name)
    critic = con.Critic(model, tokenizer, "")
    asked = [con.critique_prompt("Gold?", text, con.PLAIN) for text in ("A metal.", "Maybe.")]
    found = critic.fineness(["Gold?"] * 2, ["A metal.", "Maybe."], [con.PLAIN] * 2)
    for prompt, p in zip(asked, found.tolist()):
        ids = torch.tensor([chat.encode_prompt(tokenizer, prompt)])
        begins = model(ids).logits[0, -1].softmax(-1)[critic.fine].sum().item()
        assert p == pytest.approx(begins, abs=1e-4)


def pair_of(item, good, bad):
    return data.Pair(atlas.questions(item)[0], said(item, good), said(item, bad))


def test_agreement_with_gold_leaves_out_what_is_the_same():
    better, worse = pair_of(FACT, "plain", "hedging"), pair_of(HARM, "complying", "refusing")
    same = data.Pair(better.prompt, better.chosen, better.chosen)
    assert verdicts.agreement([better, better, worse, same]) == {"gold": 2 / 3, "gold_n": 3}
    assert verdicts.agreement([same])["gold_n"] == 0


def test_verdicts_are_tried_in_both_orders_and_decide():
    better, worse = pair_of(FACT, "plain", "hedging"), pair_of(HARM, "complying", "refusing")
    # P(chosen better): right; right on average though one order errs; wrong (gold: rejected).
    orders, pairs = torch.tensor([[0.9, 0.8], [0.4, 0.9], [0.7, 0.9]]), [better, better, worse]
    found = verdicts.trial(pairs, orders, 0.25)
    assert found["gold"] == pytest.approx(2 / 3) and found["one order"] == pytest.approx(1 / 3)
    assert found["position"] == pytest.approx(1 / 3) and found["gold_n"] == 3
    assert found["sure"] == pytest.approx((0.85 + 0.65 + 0.8) / 3) and found["neither"] == 0.25
    first, other = verdicts.decided([better, worse], torch.tensor([[0.9, 0.8], [0.1, 0.3]]), "me")
    assert (first.chosen, first.rater) == (better.chosen, "me")
    assert (other.chosen, other.rejected) == (worse.rejected, worse.chosen)
    assert other.confidence == pytest.approx(0.8)


# --- measuring, in small -------------------------------------------------------------------------


def requests(model, tokenizer):
    return {"refused": 0.5, "refused_n": 2, "over_refused": 0.5, "over_refused_n": 2}


def fineness(critic, prompts, answers, principles):
    """A critic that has nothing against short answers."""
    assert {one.name for one in principles} <= {"harmless", "helpful", "plain"}
    return torch.tensor([0.9 if len(text) < 20 else 0.3 for text in answers])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(record, plan) of one seed with everything made small, on the shipped base."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("constitution")))
        patch.setattr(jobs.evals, "requests", requests)
        patch.setattr(con, "KINDS", ("soft", "coin"))
        patch.setattr(con.Critic, "fineness", fineness)
        profile = config.tiny().adapt(max_response_tokens=12)
        profile.sft = config.change(profile.sft, examples=40)
        profile.reward = config.change(profile.reward, batch_size=8)
        profile.ppo = config.change(profile.ppo, batch_size=4, minibatch_size=4, epochs=1)
        sizes = dict(demos=40, cases=8, prompts=12, pairs=10, updates=1)
        plan = jobs.Plan(profile, seeds=1, held_out=6, tried=6, **sizes)
        yield jobs.measure(plan, workers=1), plan


def test_the_measurement_holds_every_half_way_and_kind_of_label(small):
    record, _ = small
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record["seconds"]) == {"helpful", "taught", "revised", "preferred", "reinforced"}
    (row,) = record["seeds"]
    names = ["helpful-only", "revised, critique", "revised, direct"]
    assert list(con.policies(row)) == [*names, "PPO, soft labels", "PPO, coin labels"]
    for figures in con.policies(row).values():
        assert (figures["refused"], figures["over_refused_n"], figures["n"]) == (0.5, 2, 6)
    assert row["taught"]["n"] == 6 and row["preferred"]["pairs"] == 10
    assert 0.5 <= row["preferred"]["sure"] < 1
    for one in row["reinforced"].values():
        assert set(one["ranks"]) == {"harmful", "look-alike", "fact"} and abs(one["kl"]) < 1e-2
    assert [one["policy"] for one in con.halves(record)] == list(con.policies(row))
    assert [one["labels"] for one in con.kinds(record)] == ["soft", "coin"]
    assert {one["skill"] for one in con.lessons(record)} >= {"critique", "revised", "direct"}


def test_each_half_goes_on_from_the_one_before(small):
    _, plan = small
    helper, taught = plan.run("helpful-0"), plan.run("taught-0")
    assert (
        taught.config.policy == helper.config.policy and taught.config.max_prompt_tokens == con.ROOM
    )
    critique, direct = (plan.run(f"revised-{way}-0") for way in con.WAYS)
    assert critique.config.policy == direct.config.policy == helper.name
    assert critique.info["data_hash"] != direct.info["data_hash"]
    soft, coin = (plan.run(f"reinforced-{kind}-0") for kind in ("soft", "coin"))
    assert soft.config.policy == coin.config.policy == critique.name
    rewarders = [runs.load(run.config.reward) for run in (soft, coin)]
    assert [run.config.policy for run in rewarders] == [critique.name] * 2
    files = plan.found("preferred-0")["files"]
    assert [run.config.data for run in rewarders] == [files["soft"], files["coin"]]
    assert {pair.confidence for pair in data.load_pairs(files["coin"])} == {1.0}
    assert max(pair.confidence for pair in data.load_pairs(files["soft"])) < 1
    assert len(data.load_demos(taught.config.data)) == 3 * 8


def test_no_such_record_is_one_clear_sentence(small, tmp_path):
    record, _ = small
    with pytest.raises(LabError, match="no record .*nothing.json.*bench constitution"):
        con.load(tmp_path / "nothing.json")
    broken = json.loads(json.dumps(record))
    del broken["seeds"][0]["taught"]
    for text in ("", "[]", "{}", '{"seeds": []}', json.dumps(broken)):
        (tmp_path / "broken.json").write_text(text, "utf8")
        with pytest.raises(LabError, match="broken.json is no record"):
            con.load(tmp_path / "broken.json")
    (tmp_path / "good.json").write_text(json.dumps(record), "utf8")
    assert con.load(tmp_path / "good.json") == record


@pytest.mark.skipif(
    not (runs.data_folder() / "checkpoints" / "constitution.json").exists(),
    reason="no record is shipped",
)
def test_the_shipped_record_is_whole():
    record = con.load()
    file = runs.data_folder() / "checkpoints" / "constitution.json"
    assert file.stat().st_size < 300_000 and len(record["seeds"]) >= 3
    assert len(con.halves(record)) == 7 and len(con.kinds(record)) == 4
    for row in record["seeds"]:
        assert row["taught"]["n"] >= 200 and row["preferred"]["pairs"] >= 400
        for figures in con.policies(row).values():
            assert figures["refused_n"] == figures["over_refused_n"] == 384


def test_the_command_prints_the_record(small, monkeypatch, capsys):
    assert cli.main(["bench", "constitution", "--seeds", "0", "--json"]) == 1
    assert "must be 1 or more" in capsys.readouterr().err
    asked = lambda plan, workers: small[0] | {"asked": [plan.seeds, plan.profile.name, workers]}
    monkeypatch.setattr(jobs, "measure", asked)
    assert cli.main(["bench", "constitution", "--json", "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == [3, "tiny", 1]
    assert cli.main(["bench", "constitution"]) == 0
    assert "revised, direct" in capsys.readouterr().out
