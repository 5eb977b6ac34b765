"""The linear reward and its uncertainty, worked by hand; and which pair is asked about next."""

import math

import pytest
import torch

from labkit import LabError, feedback, models
from labkit.data import chat
from labkit.feedback import panels
from labkit.feedback.panels import Item
from labkit.labs import next_pair

ROOT = 0.4012  # where weight = σ(−weight): 1 / (1 + e^0.4012) = .4010


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


# --- the fit, in two dimensions ---


def test_one_pair_by_hand():
    # One pair that differs by (1, 0). The second weight hears nothing: it stays at 0 with variance
    # 1 / ridge = 1. The first solves w = 1 − σ(w) → .4011, and its variance is 1 / (1 + σ(w) σ(−w))
    # = 1 / (1 + .599 · .401) = .8063.
    model = next_pair.LinearReward(2).fit(tensor([1, 0]), tensor([0, 0]))
    w = model.weight[0].item()
    assert w == pytest.approx(1 / (1 + math.exp(w)), abs=1e-9) and w == pytest.approx(
        ROOT, abs=2e-4
    )
    assert model.weight[1] == 0
    assert model.covariance[0, 0].item() == pytest.approx(1 / (1 + w * (1 - w)), abs=1e-9)
    assert model.covariance[0, 0].item() == pytest.approx(0.8063, abs=1e-4)
    assert model.covariance[1, 1] == 1 and model.covariance[0, 1] == 0
    assert model.score(tensor([2, 5])).item() == pytest.approx(2 * w)


def test_the_gradient_is_zero_at_the_optimum():
    torch.manual_seed(0)
    chosen, rejected = torch.randn(30, 4).double(), torch.randn(30, 4).double()
    # Far from the unit length that is asked for, Newton needs its halving.
    for scale in (1, 30, 1000):
        model = next_pair.LinearReward(4, ridge=0.7).fit(scale * chosen, scale * rejected)
        weight = model.weight.clone().requires_grad_()
        margin = scale * (chosen - rejected) @ weight
        loss = 0.35 * weight @ weight - torch.nn.functional.logsigmoid(margin).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        assert gradient.abs().max() < 1e-6 * scale, scale


def test_covariance_is_the_inverse_of_the_second_derivative():
    torch.manual_seed(1)
    chosen, rejected = torch.randn(9, 3).double(), torch.randn(9, 3).double()
    model = next_pair.LinearReward(3, ridge=2.0).fit(chosen, rejected)

    def loss(weight):
        return weight @ weight - torch.nn.functional.logsigmoid((chosen - rejected) @ weight).sum()

    second = torch.autograd.functional.hessian(loss, model.weight)
    assert torch.allclose(model.covariance @ second, torch.eye(3).double(), atol=1e-8)


def test_variance_shrinks_where_ratings_came():
    a, b = tensor([1, 0], [0, 1]), tensor([0, 0], [0, 0])
    prior = next_pair.LinearReward(2)
    assert prior.variance(a, b).tolist() == [1, 1]
    one = next_pair.LinearReward(2).fit(a[:1], b[:1]).variance(a, b)
    ten = next_pair.LinearReward(2).fit(a[[0] * 10], b[[0] * 10]).variance(a, b)
    assert one[0] < 1 and ten[0] < one[0]
    assert one[1] == ten[1] == 1  # nothing was said about the second direction
    assert next_pair.LinearReward(2, ridge=4).variance(a, b).tolist() == [0.25, 0.25]


def test_separable_pairs_stay_finite():
    model = next_pair.LinearReward(1).fit(tensor(*[[1]] * 50), tensor(*[[-1]] * 50))
    assert 0 < model.weight.item() < 10 and model.covariance.isfinite().all()


def test_fitting_again_forgets_nothing_and_adds_nothing():
    a, b = tensor([1, 0], [0.5, 1]), tensor([0, 0], [1, 0])
    model = next_pair.LinearReward(2).fit(a, b)
    before = model.weight.clone()
    assert torch.allclose(model.fit(a, b).weight, before, atol=1e-8)


# --- what it is sure of ---


def test_probability_is_moderated_by_what_is_not_known():
    model = next_pair.LinearReward(2)
    # The variance of (1, 0) is 24 / π.
    model.weight, model.covariance = tensor(2, 0), torch.diag(tensor(8 / math.pi * 3, 0))
    a, b = tensor([1, 0]), tensor([0, 0])
    # σ(2 / √(1 + π / 8 · 24 / π)) = σ(2 / √4) = σ(1)
    assert model.probability(a, b).item() == pytest.approx(1 / (1 + math.exp(-1)))
    assert (model.probability(a, b) + model.probability(b, a)).item() == pytest.approx(1)


def test_three_uncertainties_by_hand():
    # Weight (2, 0), variance 1 in the second direction only. Pair 0 differs by (1, 0): the model is
    # rather sure, p = σ(2) = .8808. Pair 1 differs by (0, 1): p = ½ since it knows nothing. Pair 2
    # by (0, 0): a coin toss that would teach nothing.
    model = next_pair.LinearReward(2)
    model.weight, model.covariance = tensor(2, 0), torch.diag(tensor(0, 1))
    a, b = tensor([1, 0], [0, 1], [0, 0]), torch.zeros(3, 2).double()
    bits = -(0.8808 * math.log2(0.8808) + 0.1192 * math.log2(0.1192))
    assert model.uncertainty(a, b).tolist() == pytest.approx([bits, 1, 1], abs=1e-4)
    assert model.uncertainty(a, b, "information").tolist() == pytest.approx(
        [0, 0.5 * math.log(1.25), 0]
    )
    assert model.uncertainty(a, b, "variance").tolist() == [0, 1, 0]


@pytest.mark.parametrize("by", next_pair.UNCERTAINTIES)
def test_uncertainty_does_not_care_which_is_a(by):
    torch.manual_seed(2)
    a, b = torch.randn(6, 3).double(), torch.randn(6, 3).double()
    model = next_pair.LinearReward(3).fit(a[:3], b[:3])
    assert torch.allclose(model.uncertainty(a, b, by), model.uncertainty(b, a, by))


# --- bad input ---


def test_bad_input_is_one_sentence():
    model, pair = next_pair.LinearReward(2), tensor([1, 0])
    with pytest.raises(LabError, match="no pair to learn from"):
        model.fit(torch.empty(0, 2), torch.empty(0, 2))
    with pytest.raises(LabError, match="answer 1 hold NaN"):
        model.fit(tensor([1, 0], [math.nan, 0]), tensor([0, 0], [0, 0]))
    with pytest.raises(LabError, match="infinity"):
        model.score(tensor([math.inf, 0]))
    with pytest.raises(LabError, match="1 answers on one side and 2 on the other"):
        model.fit(pair, tensor([1, 0], [1, 1]))
    with pytest.raises(LabError, match=r"shape \(1, 3\), but it must be \(N, 2\)"):
        model.variance(pair, tensor([1, 0, 0]))
    with pytest.raises(LabError, match="no uncertainty 'guess'"):
        model.uncertainty(pair, pair, "guess")
    for ridge in (0, -1, math.nan, math.inf):
        with pytest.raises(LabError, match="above 0"):
            next_pair.LinearReward(2, ridge)
    assert (model.weight == 0).all()  # nothing of it was learned


# --- features ---


def test_features_are_the_mean_over_the_answer(tiny_base):
    model, tokenizer = models.load_base("tiny-base")
    prompts = ["Gold?", "What is the capital of Italy?"] * 2
    answers = ["metal", "Rome.", "a metal is gold", ""]
    found = next_pair.features(model, tokenizer, prompts, answers, batch_size=3)
    assert found.shape == (4, 64) and found.dtype == torch.float64
    assert torch.allclose(found.norm(dim=1), torch.ones(4).double())
    for prompt, answer, row in zip(prompts, answers, found):  # alone, without padding
        ids, mask = chat.encode(tokenizer, prompt, answer)
        with torch.no_grad():
            ids = torch.tensor([ids])
            hidden = models.hidden_states(model, ids, torch.ones_like(ids))[0]
        mean = hidden[torch.tensor(mask).bool()].double().mean(0)
        assert torch.allclose(row, mean / mean.norm(), atol=1e-5)


def test_features_need_an_answer_for_each_prompt(tiny_base):
    model, tokenizer = models.load_base("tiny-base")
    with pytest.raises(LabError, match="2 prompts and 1 responses"):
        next_pair.features(model, tokenizer, ["a", "b"], ["c"])
    with pytest.raises(LabError, match="0 prompts"):
        next_pair.features(model, tokenizer, [], [])


# --- which pair next ---

ITEMS = [Item(f"question {n}", (f"good {n}", f"bad {n}")) for n in range(4)]
A = tensor([1, 0], [0.9, 0], [0, 1], [0, 0.1])
B = torch.zeros(4, 2).double()


class Likes:
    """A rater who prefers what begins with a word."""

    def __init__(self, word):
        self.word = word

    def compare(self, prompt, a, b):
        return "a" if a.startswith(self.word) else "b"


@pytest.fixture
def store(tmp_path):
    return feedback.Store(tmp_path / "feedback.sqlite")


def test_the_least_certain_pair_is_next(store):
    choose = next_pair.NextPair(ITEMS, A, B, store, by="variance")
    assert choose() in (ITEMS[0], ITEMS[2])  # both of length 1
    store.add(feedback.Feedback("question 0", ITEMS[0].responses, "pair", 0))
    assert choose() == ITEMS[2]  # pair 1 lies in the direction just rated
    store.add(feedback.Feedback("question 2", ITEMS[2].responses, "pair", "same"))
    assert choose() == ITEMS[1]  # a draw taught nothing, and is not asked again
    store.add(feedback.Feedback("question 1", ITEMS[1].responses, "pair", "skip"))
    store.add(feedback.Feedback("question 3", ITEMS[3].responses, "pair", 1))
    assert choose() is None


def test_the_verdict_counts_as_it_was_given(store):
    choose = next_pair.NextPair(ITEMS, A, B, store)
    first = choose.model({0: 1})
    second = choose.model({0: -1})
    assert first.weight[0] > 0 and torch.allclose(first.weight, -second.weight)
    assert (choose.model({0: 0}).weight == 0).all()  # the prior
    # Sure about the direction of pairs 0 and 1 after ratings of pair 0, and of nothing about 2 and
    # 3: those are coin tosses.
    for _ in range(3):
        store.add(feedback.Feedback("question 0", ITEMS[0].responses, "pair", 0))
    assert choose() in (ITEMS[2], ITEMS[3])


def test_others_ratings_and_other_pairs_do_not_count(store):
    store.add(feedback.Feedback("question 0", ITEMS[0].responses, "pair", 0, rater="somebody"))
    store.add(feedback.Feedback("question 0", ("unknown", "answers"), "pair", 0))
    store.add(feedback.Feedback("question 1", ("good 1",), "thumb", True))
    choose = next_pair.NextPair(ITEMS, A, B, store, by="uniform")
    asked = []
    while item := choose():
        asked.append(item)
        store.add(feedback.Feedback(item.prompt, item.responses, "pair", 0))
    assert sorted(asked, key=str) == sorted(ITEMS, key=str)


def test_uniform_follows_the_seed(store):
    orders = {
        seed: [next_pair.NextPair(ITEMS, A, B, store, by="uniform", seed=seed)() for _ in range(2)]
        for seed in range(12)
    }
    assert all(first == second for first, second in orders.values())
    assert len({item.prompt for item, _ in orders.values()}) > 1


@pytest.mark.parametrize("by", ("uniform", *next_pair.UNCERTAINTIES))
def test_the_panel_asks_what_is_chosen(store, by):
    choose = next_pair.NextPair(ITEMS, A, B, store, rater="simulated", by=by)
    panel = panels.rate(choose, store=store, rater="simulated")
    judged = panel.simulate(Likes("good"))
    assert panel.done and len(judged) == len(store) == 4
    assert {one.prompt for one in judged} == {item.prompt for item in ITEMS}
    assert all(one.verdict == 0 for one in judged)
    judged = {n: 1 for n in range(4)}
    assert (choose.model(judged).score(A) > choose.model(judged).score(B)).all()


def test_the_panel_goes_on_where_it_stopped_and_undoes(store):
    def panel():
        return panels.rate(next_pair.NextPair(ITEMS, A, B, store), store=store)

    first = panel()
    assert len(first.simulate(Likes("good"), 2)) == 2
    second = panel()
    second.simulate(Likes("good"), 1)
    second._undo()
    assert len(second.simulate(Likes("bad"))) == 2 and len(store) == 4 and second.done
    assert sorted(one.verdict for one in store.all()) == [0, 0, 1, 1]


def test_ranks_and_scales_of_two_count(store):
    store.add(feedback.Feedback("question 0", ITEMS[0].responses, "scale", (3, 9)))
    store.add(feedback.Feedback("question 2", ITEMS[2].responses, "rank", (1, 0)))
    seen = []
    choose = next_pair.NextPair(ITEMS, A, B, store)
    model = choose.model
    choose.model = lambda judged: seen.append(judged) or model(judged)
    choose()
    assert {n: sign < 0 for n, sign in seen[0].items()} == {0: True, 2: True}


def test_tuples_are_items_too(store):
    items = [(item.prompt, item.responses) for item in ITEMS]
    panel = panels.rate(next_pair.NextPair(items, A, B, store), store=store)
    assert len(panel.simulate(Likes("good"))) == 4


def test_an_item_that_is_there_twice_is_asked_once(store):
    twice = [0, 1, 2, 3, 0]
    choose = next_pair.NextPair([ITEMS[n] for n in twice], A[twice], B[twice], store)
    assert len(panels.rate(choose, store=store).simulate(Likes("good"))) == 4


def test_what_it_cannot_choose_from(store):
    with pytest.raises(LabError, match="no choice 'best'"):
        next_pair.NextPair(ITEMS, A, B, store, by="best")
    with pytest.raises(LabError, match="4 items with 3 and 4 rows"):
        next_pair.NextPair(ITEMS, A[:3], B, store)
    with pytest.raises(LabError, match="0 items"):
        next_pair.NextPair([], A[:0], B[:0], store)
    for strange in (["text"], [7], [("q", ("one",))], [Item("q", ("a", "b", "c"))]):
        with pytest.raises(LabError, match="not .prompt, .response, response"):
            next_pair.NextPair(strange, A[:1], B[:1], store)
    with pytest.raises(LabError, match="NaN"):
        next_pair.NextPair(ITEMS, A * math.nan, B, store)
