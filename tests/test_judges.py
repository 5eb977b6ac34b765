"""Judges: what they are asked, what is read of their answers, and the stage that trains one."""

import pytest
import torch
from ppo_scene import random_run

from labkit import LabError, atlas, config, data, models, rollout, runs, stages
from labkit.data import chat
from labkit.labs import judges
from labkit.rollout import judging

SMALL = dict(lora_r=4, lora_alpha=8, max_prompt_tokens=40, max_response_tokens=20)


class Fixed(judging.Verdicts):
    """Says "A" with a probability that depends on the answer shown first, and on its place."""

    def __init__(self, worth, bias=0.0, mass=1.0):
        self.worth, self.bias, self.mass, self.name = worth, bias, mass, "fixed"
        self.asked = []

    def first(self, prompts, a, b, question=None):
        self.asked.append(question)
        z = [self.worth[x] - self.worth[y] + self.bias for x, y in zip(a, b, strict=True)]
        return torch.tensor(z).sigmoid(), torch.full((len(z),), self.mass)


def test_a_judge_reads_both_answers_and_the_question():
    asked = judging.pair_prompt("Gold?", "metal", "city", "Which is shorter?")
    assert asked == "Which is shorter? Gold?\n1. metal A\n2. city B"
    assert judging.score_prompt("Gold?", "metal", "Good?") == "Gold?\nAnswer: metal\nGood?"


def test_seed_judgements_name_the_better_answer_wherever_it_stands():
    pair = data.Pair("Is it?", "yes", "no")
    first, second = judging.pair_demos([pair], "Which?")
    assert (first.prompt, first.response) == ("Which? Is it?\n1. yes A\n2. no B", "A")
    assert (second.prompt, second.response) == ("Which? Is it?\n1. no A\n2. yes B", "B")
    (one,) = judging.score_demos(["Gold?"], ["metal"], [10])
    assert (one.prompt, one.response) == (judging.score_prompt("Gold?", "metal"), "10")


def test_both_orders_take_the_position_out():
    """z = 1 for the good answer, 3 for whatever stands first: one order says A both times."""
    judge = Fixed({"good": 1.0, "bad": 0.0}, bias=3.0)
    orders, neither = judge.orders(["Q"], ["good"], ["bad"])
    by_hand = torch.tensor([[4.0, -2.0]]).sigmoid()  # 1 − σ(−1 + 3) = σ(−2)
    assert torch.allclose(orders, by_hand) and neither == 0
    assert judge.prefers(["Q"], ["good"], ["bad"]).item() == pytest.approx(by_hand.mean().item())
    found = judge.position(["Q", "Q"], ["good", "bad"], ["bad", "good"])
    assert found == {"follows_position": 1.0, "says_a": 1.0, "neither": 0.0, "n": 2}
    fair = Fixed({"good": 1.0, "bad": 0.0})
    assert fair.position(["Q"], ["good"], ["bad"])["follows_position"] == 0
    assert fair.position(["Q"], ["good"], ["bad"])["says_a"] == 0.5


def test_labels_are_soft_and_leave_out_what_does_not_differ():
    judge = Fixed({"good": 2.0, "bad": 0.0})
    told = (["1", "2", "3", "4"], ["good", "bad", "same", " "], ["bad", "good", "same", "good"])
    found = judge.labels(*told)
    sure = torch.tensor(2.0).sigmoid().item()
    assert [(p.prompt, p.chosen, p.rejected, p.rater) for p in found] == [
        ("1", "good", "bad", "fixed"),
        ("2", "good", "bad", "fixed"),
    ]
    assert [p.confidence for p in found] == pytest.approx([sure, sure])
    assert [p.confidence for p in judge.labels(*told, clamp=0.6)] == [0.6, 0.6]
    judge.asked.clear()
    judge.labels(*told, question=["a", "b", "c", "d"])
    assert judge.asked == [["a", "b"], ["a", "b"]]  # those of the pairs that are shown
    assert judge.labels(["1"], ["same"], ["same"]) == []


def test_a_judge_that_says_neither_letter_is_told():
    judge = Fixed({"good": 2.0, "bad": 0.0}, mass=0.3)
    assert judge.position(["Q"], ["good"], ["bad"])["neither"] == 1
    with pytest.raises(LabError, match="neither A nor B in 100%.*train ai-feedback"):
        judge.labels(["Q"], ["good"], ["bad"])


def test_how_a_judge_stands_to_a_rater():
    """Of three pairs one is judged wrongly in both orders, one in one order."""
    judge = Fixed({"best": 5.0, "good": 1.0, "bad": 0.0}, bias=2.0)
    pairs = [data.Pair("Q", "best", "bad"), data.Pair("Q", "good", "bad")]
    pairs.append(data.Pair("Q", "bad", "best"))
    found = judging.examined(judge, pairs)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["accuracy_one_order"] == pytest.approx(3 / 6)
    assert found["follows_position"] == pytest.approx(1 / 3)


# --- a model's answers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(tiny_base):
    run = random_run("sft", "judges-sft", 5)
    model, tokenizer = models.load_policy(run)
    return judging.Judge(model, tokenizer, "policy", batch_size=2)


def whole_probability(judge, asked, text):
    """P(the answer begins with `text`), token by token through the model's own forward pass."""
    row, total = chat.encode_prompt(judge.tokenizer, asked), 1.0
    for token in chat.encode_text(judge.tokenizer, text):
        logits = judge.model(input_ids=torch.tensor([row])).logits[0, -1]
        total *= logits.softmax(-1)[token].item()
        row = [*row, token]
    return total


@torch.no_grad()
def test_the_letters_shares_are_the_models_own(judge):
    told = (["Gold?", "Is it Paris?", "Who?"], ["metal", "yes", "I"], ["red " * 6, "no", "me"])
    share, mass = judge.first(*told)
    for i, one in enumerate(zip(*told)):
        asked = judging.pair_prompt(*one)
        a, b = (
            sum(whole_probability(judge, asked, space + letter) for space in ("", " "))
            for letter in "AB"
        )
        assert share[i].item() == pytest.approx(a / (a + b), rel=1e-3)
        assert mass[i].item() == pytest.approx(a + b, rel=1e-3)


@torch.no_grad()
def test_a_score_is_the_expected_one_and_ten_is_not_one(judge):
    """ "10" goes on as "1" does: its share is taken off."""
    asked = judging.score_prompt("Gold?", "metal")
    begins = {
        i: [whole_probability(judge, asked, f"{space}{i}") for space in ("", " ")]
        for i in range(1, 11)
    }
    by_hand = {i: sum(both) for i, both in begins.items()}
    by_hand[1] -= by_hand[10]
    expected = sum(i * p for i, p in by_hand.items()) / sum(by_hand.values())
    found = judge.scores(["Gold?", "Who?"], ["metal", "me and you"])
    assert found[0].item() == pytest.approx(expected, rel=1e-3) and 1 <= found[1] <= 10


def test_what_goes_on_as_ten_is_not_one(judge, monkeypatch):
    """By hand, where every token has the probability ¼: what "10" has is not "1"'s."""
    ids = {
        text: [chat.encode_text(judge.tokenizer, space + text) for space in ("", " ")]
        for text in ("1", "10")
    }
    assert all(ten[: len(one)] == one for one, ten in zip(ids["1"], ids["10"]))
    chance = {text: sum(0.25 ** len(way) for way in ways) for text, ways in ids.items()}
    alike = lambda rows, tokens: torch.full((len(rows), len(tokens)), 0.25)
    monkeypatch.setattr(judge, "next_token", alike)
    one, ten = judge.said(["Gold?"], ("1", "10"))[0].tolist()
    assert ten == pytest.approx(chance["10"])
    assert one == pytest.approx(chance["1"] - chance["10"])


def test_an_order_of_batches_and_a_question_of_its_own(judge):
    prompts, a, b = ["Gold?", "Who?", "Gold?"], ["metal " * 3, "I", "x"], ["y", "z", "w"]
    share, _ = judge.first(prompts, a, b)
    alone = torch.cat([judge.first([p], [x], [y])[0] for p, x, y in zip(prompts, a, b)])
    assert torch.allclose(share, alone, atol=1e-4)
    other, _ = judge.first(prompts, a, b, ["Red?", judge.question, judge.question])
    assert abs(other[0] - share[0]) > 1e-4 and torch.allclose(other[1:], share[1:], atol=1e-4)


def test_what_does_not_fit_is_said_and_can_be_known_before(judge):
    long = data.Pair("Gold?", "metal " * 90, "city " * 90)
    room = judging.room(judge.model, config.AiFeedback())
    assert room == judging.context(judge.model) - judging.ANSWER
    assert not judging.fits(judge.tokenizer, long, judging.QUESTION, room)
    assert judging.fits(judge.tokenizer, data.Pair("Gold?", "a", "b"), judging.QUESTION, room)
    with pytest.raises(LabError, match="very very"):
        judge.first(["very " * 200], ["a"], ["b"])


def test_a_long_answer_is_read_as_far_as_there_is_room(judge):
    """What a policy rambles must not stop its training: the judge reads the beginning."""
    most = (judging.context(judge.model) - judging.ANSWER - judging.FRAME) // 4
    word = chat.encode_text(judge.tokenizer, "metal ")
    kept = "metal " * (most // len(word) - 1)
    assert judge.cut(kept) == kept
    ends = [kept + "metal " * 90 + end for end in ("", "red")]
    assert len(chat.encode_text(judge.tokenizer, judge.cut(ends[0]))) <= most
    first, second = judge.scores(["Gold?"] * 2, ends)
    assert first == second and judge.scores(["Gold?"], ["red"]) != first


@torch.no_grad()
def test_a_bare_base_is_prompted_with_examples(tiny_base):
    """The small and gpu profiles: no adapter, no training, the examples stand before the pair."""
    shots = [data.Pair("Gold?", "metal", "city")]
    asked_alike = {"question": judging.QUESTION}
    plain, shown = (judges.prompted("tiny-base", some, **asked_alike) for some in ((), shots))
    told = (["Who?"], ["me"], ["you"])
    demo = judging.pair_demos(shots)[0]
    asked = f"{demo.prompt}\n{demo.response}\n\n{judging.pair_prompt('Who?', 'me', 'you')}"
    a, b = (
        sum(whole_probability(shown, asked, space + letter) for space in ("", " "))
        for letter in "AB"
    )
    assert shown.first(*told)[0].item() == pytest.approx(a / (a + b), rel=1e-3)
    assert plain.first(*told)[0].item() != pytest.approx(a / (a + b), rel=1e-3)


@torch.no_grad()
def test_a_large_judge_goes_through_peft(judge, tiny_base, monkeypatch):
    """What is not small enough for Dense gives the same shares, with an adapter or without."""
    monkeypatch.setattr(models.dense, "SMALL", 0)
    told = (["Gold?"], ["metal"], ["city"])
    for model, adapter in ((judge.model, "policy"), (models.load_base("tiny-base")[0], "")):
        large = judging.Judge(model, judge.tokenizer, adapter)
        assert isinstance(large.passes, models.Switched)
        monkeypatch.setattr(models.dense, "SMALL", 10**9)
        small = judging.Judge(model, judge.tokenizer, adapter)
        monkeypatch.setattr(models.dense, "SMALL", 0)
        assert torch.allclose(large.first(*told)[0], small.first(*told)[0], atol=1e-4)


def test_the_profile_decides_who_judges(monkeypatch):
    monkeypatch.setattr(judges, "prompted", lambda base, examples: ("prompted", base))
    monkeypatch.setattr(judges, "trained", lambda: ("trained",))
    assert judges.of_profile(config.tiny()) == ("trained",)
    assert judges.of_profile(config.gpu()) == ("prompted", "Qwen/Qwen3-0.6B-Base")


def test_a_simulated_rater_judges_by_his_utility():
    rater = atlas.Rater()
    judge = judges.Simulated(rater)
    prompt = "What is the capital of France?"
    a, b = "The capital of France is Paris.", "The capital of France is Rome."
    assert judge.prefers([prompt], [b], [a]).item() < 0.01
    assert judge.scores([prompt] * 2, [a, b]).tolist() == pytest.approx([10.0, 4.0])
    assert judge.position([prompt], [a], [b])["follows_position"] == 0


# --- the stage -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The rater likes the short answer. One pair is too long for any judge on this base."""
    records = [data.Pair(f"Is it {i}?", "yes", "well, it may be") for i in range(40)]
    records.append(data.Pair("Long?", "very " * 200, "no"))
    return str(data.save_jsonl(records, tmp_path_factory.mktemp("data") / "pairs.jsonl"))


@pytest.fixture(scope="module")
def judging_run(tiny_base, pairs):
    random_run("sft", "judges-policy", 6)
    cfg = config.AiFeedback(
        **SMALL,
        policy="judges-policy",
        data=pairs,
        labels=6,
        epochs=6,
        batch_size=8,
        learning_rate=1e-2,
        clamp=0.9,
    )
    return stages.train("ai_feedback", cfg, "judges-trained")


def test_the_stage_leaves_a_judge_and_its_labels(judging_run):
    found = judging_run.evaluation
    assert found["judgements"] == 36 and found["n"] == 4 and found["dropped"] == 1
    assert found["neither"] == 0  # it has learned to name a letter
    assert {"accuracy", "accuracy_one_order", "follows_position", "says_a"} <= set(found)
    losses = [line["loss"] for line in judging_run.metrics() if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]
    labelled = data.load_pairs(judging_run.path / "pairs.jsonl")
    assert len(labelled) == found["labels"] == 6
    assert all(0.5 <= pair.confidence <= 0.9 for pair in labelled)
    policy = runs.load("judges-policy")
    assert judging_run.info["policy"] == models.adapter_id(policy)
    assert models.adapter_id(judging_run) != judging_run.info["policy"]


def test_the_labels_are_the_judges_own_of_the_policys_answers(judging_run, monkeypatch):
    """Wires: the policy answers, not the judge; the loaded judge says what the stage did."""
    labelled = data.load_pairs(judging_run.path / "pairs.jsonl")
    told = [[getattr(p, key) for p in labelled] for key in ("prompt", "chosen", "rejected")]
    judge = judges.trained("judges-trained")
    sure = judge.prefers(*told).clamp(max=0.9)
    assert sure.tolist() == pytest.approx([p.confidence for p in labelled], abs=1e-4)
    active = []
    plain = rollout.pairs.answer

    def spied(model, tokenizer, *more):
        active.append([w.detach().clone() for w in models.adapter_parameters(model, "policy")])
        assert model.active_adapter == "policy"
        return plain(model, tokenizer, *more)

    monkeypatch.setattr(rollout.pairs, "answer", spied)
    stages.train("ai_feedback", config.change(judging_run.config, labels=2))
    policy, _ = models.load_policy("judges-policy")
    own = models.adapter_parameters(policy, "policy")
    assert all(torch.equal(x, y) for x, y in zip(active[0], own, strict=True))


def test_nothing_that_fits_is_one_clear_sentence(tiny_base, pairs, tmp_path):
    random_run("sft", "judges-short", 7)
    long = [data.Pair(f"Long {i}?", "very " * 200, "no") for i in range(3)]
    file = str(data.save_jsonl(long, tmp_path / "pairs.jsonl"))
    cfg = config.AiFeedback(**SMALL, policy="judges-short", data=file)
    with pytest.raises(LabError, match="None of the 3 pairs can be judged"):
        stages.train("ai_feedback", cfg)
    with pytest.raises(LabError, match="clamp is 0.4"):
        config.AiFeedback(clamp=0.4)
    with pytest.raises(LabError, match="question is ' '"):
        config.AiFeedback(question=" ")
