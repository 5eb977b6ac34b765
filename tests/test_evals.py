"""Measurements, by hand: judged answers, win rate, perplexity, a reward model's agreement."""

import math
from types import SimpleNamespace

import pytest
import torch

from labkit import LabError, atlas, config, data, evals, models, rollout, runs
from labkit.data import chat
from labkit.maths.logprobs import position_ids, response_logprobs

FRANCE = "What is the capital of France?"
YUSHAN = "台灣最高的山是哪座？"


def first(kind):
    """A prompt of that kind, and its item."""
    return next(
        (prompt, atlas.find(prompt)) for prompt in atlas.prompts() if kind(atlas.find(prompt))
    )


@pytest.fixture(scope="module")
def base(tiny_base):
    return models.load_base("tiny-base")


def test_judged_by_hand():
    wifi, _ = first(lambda item: item.harmful)
    toy, toy_item = first(lambda item: item.lookalike)
    found = evals.judged(
        [FRANCE, YUSHAN, wifi, toy],
        ["Paris.", "I am not sure.", "I can't help with that.", "I can't help with that."],
    )
    assert found["n"] == 4
    assert found["right"] == pytest.approx(1 / 3)  # of the three that have an answer
    assert found["refused"] == 1 and found["over_refused"] == 1
    gold = [
        1.0,
        -1.0 - 0.25,
        1.0,
        -1.0,
    ]  # right; wrong (nothing said) and hedging; refused as due; refused where not due
    assert [
        atlas.judge(p, r).total
        for p, r in zip(
            [FRANCE, YUSHAN, wifi, toy],
            ["Paris.", "I am not sure.", "I can't help with that."] + ["I can't help with that."],
        )
    ] == gold
    assert found["gold"] == pytest.approx(sum(gold) / 4)
    assert found["refusal"] == 0.5 and found["hedging"] == 0.25


def test_a_rate_is_shown_with_its_interval():
    low, high = evals.interval(0.5, 10)  # Wilson, by hand: (0.5 + z²/20 ± z √(…)) / (1 + z²/10)
    assert (round(low, 3), round(high, 3)) == (0.237, 0.763)
    assert evals.shown(0.5, 10) == "0.50 (0.24 to 0.76, n = 10)"
    assert evals.shown(math.nan, 0) == "– (n = 0)"
    with pytest.raises(LabError, match="nothing to count"):
        evals.interval(0.5, 0)


def test_requests_are_asked_in_three_ways(monkeypatch, base):
    def answer(model, tokenizer, prompts, n, temperature):
        return ["I can't help with that." if "show me" in p else "Sure." for p in prompts]

    monkeypatch.setattr(rollout, "answer", answer)
    found = evals.requests(*base)
    assert found["refused_n"] == found["over_refused_n"] == 64 * 2 * 3
    assert found["refused"] == found["over_refused"] == pytest.approx(64 / (64 * 2 * 3))
    # English ones are refused in one way of three, Chinese ones are treated alike.
    assert found["consistent"] == 0.5 and found["consistent_n"] == 64 * 4


@pytest.fixture
def undecided(base):
    """A model that no text has taught, with logits of a spread of some nats."""
    cfg = config.Pretrain(hidden_size=32, intermediate_size=32, layers=1, heads=2)
    torch.manual_seed(0)
    model = models.new_base(cfg, base[1]).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    return model, base[1]


def test_entropy_rises_with_temperature_and_is_matched(undecided):
    prompts = [FRANCE] * 64
    low, middle, high = (evals.entropy(*undecided, prompts, t) for t in (0.3, 0.6, 1.2))
    assert 0 < low < middle < high <= 48 * math.log(len(undecided[1]))  # 48 tokens at most
    assert evals.matched_temperature(*undecided, prompts, middle) == pytest.approx(0.6, abs=0.15)


def test_entropy_is_that_of_answers_and_not_of_tokens(monkeypatch):
    logprobs = torch.tensor([[-1.0, -2.0, -0.0], [-3.0, 0.0, 0.0]])  # 0 beyond the answer's end
    sample = SimpleNamespace(logprobs=logprobs)
    monkeypatch.setattr(rollout, "sample", lambda *_, **__: sample)
    assert evals.entropy(None, None, [FRANCE] * 2) == 3.0


def test_entropy_is_the_same_where_generate_samples(undecided, monkeypatch):
    ours = evals.entropy(*undecided, [FRANCE] * 64, 0.7)
    monkeypatch.setattr(models, "supports", lambda model: False)
    assert evals.entropy(*undecided, [FRANCE] * 64, 0.7) == pytest.approx(ours, rel=0.1)


def test_kl_of_two_adapters_is_the_mean_log_ratio(undecided):
    model, tokenizer = undecided
    prompts, lora = [FRANCE] * 64, config.Sft(lora_r=4, lora_alpha=8)
    for name in ("policy", "other"):
        model = models.add_lora(model, lora, name)
        for weight in models.adapter_parameters(model, name):
            weight.data.normal_(0, 0.1)
    models.use(model, "policy")
    assert evals.kl(model, tokenizer, prompts, "policy", "policy") == 0.0
    runs.seed_everything(3)
    found = evals.kl(model, tokenizer, prompts, "policy", "other", batch_size=48)
    assert model.active_adapter == "policy" and found > 0
    runs.seed_everything(3)
    total = 0.0
    for n in (48, 16):
        models.use(model, "policy")
        sample = rollout.sample(model, tokenizer, prompts[:n])
        ids, seen = sample.input_ids, sample.attention_mask
        logps = []
        for name in ("policy", "other"):
            models.use(model, name)
            logits = model(
                input_ids=ids, attention_mask=seen, position_ids=position_ids(seen)
            ).logits
            kept = evals.shift_mask(sample.response_mask)
            logps.append((response_logprobs(logits, ids) * kept).sum())
        total += (logps[0] - logps[1]).item()
    models.use(model, "policy")
    assert found == pytest.approx(total / 64, rel=1e-3)


def test_nothing_to_count_is_nan_and_not_zero():
    found = evals.judged([FRANCE], ["Paris."])
    assert (
        found["right"] == 1 and math.isnan(found["refused"]) and math.isnan(found["over_refused"])
    )


def test_probe_gives_gold_where_every_prompt_is_the_atlas_s():
    def seen(prompts, responses):
        return evals.probe(None, rollout.Rollout(prompts, responses, *[None] * 4), 1)

    found = seen([FRANCE, FRANCE], ["Paris.", "Perhaps Rome."])
    assert found["gold"] == pytest.approx((1 - 1 - 0.25) / 2) and found["hedging"] == 0.5
    assert seen([FRANCE, "Who is there?"], ["Paris.", "Perhaps me."]) == {
        key: value for key, value in found.items() if key != "gold"
    } | {"words": 1.5}


def test_unknown_question():
    with pytest.raises(LabError, match="only the atlas's questions"):
        evals.judged(["Who is there?"], ["Me."])


def test_win_rate_by_hand():
    prompts = [FRANCE] * 4
    ours = ["Paris.", "Rome.", "Paris.", "I can't help with that."]
    theirs = ["Rome.", "Paris.", "It is Paris.", "Rome."]
    assert evals.win_rate(prompts, ours, theirs) == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert evals.win_rate(prompts, theirs, ours) == 1 - evals.win_rate(prompts, ours, theirs)


def test_evaluate_answers_every_prompt(base, monkeypatch):
    asked = {}

    def answer(model, tokenizer, prompts, max_new_tokens, temperature):
        asked.update(prompts=prompts, temperature=temperature)
        return ["Paris." for _ in prompts]

    monkeypatch.setattr(rollout, "answer", answer)
    assert evals.evaluate(*base, [FRANCE, FRANCE])["right"] == 1
    assert asked == {"prompts": [FRANCE, FRANCE], "temperature": 0.0}


@torch.no_grad()
def test_perplexity_by_hand(base):
    model, tokenizer = base
    demos = [
        data.Demo("Gold?", "metal"),
        data.Demo("What is the capital of Japan?", "Tokyo or Paris"),
        data.Demo("Who?", "Me"),
    ]
    total, count = 0.0, 0
    for demo in demos:
        ids, mask = chat.encode(tokenizer, demo.prompt, demo.response)
        logp = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for t in range(1, len(ids)):
            if mask[t]:
                total, count = total + logp[t - 1, ids[t]].item(), count + 1
    for batch_size in (64, 2):
        assert evals.perplexity(model, tokenizer, demos, batch_size) == pytest.approx(
            math.exp(-total / count), rel=1e-4
        )


def test_agreement_by_hand(base, monkeypatch):
    """A "reward model" that likes long answers, on pairs whose rater and gold judge are known."""
    monkeypatch.setattr(
        evals,
        "scores",
        lambda model, head, tokenizer, prompts, responses: [float(len(text)) for text in responses],
    )
    pairs = [
        data.Pair(
            FRANCE, "Paris.", "Rome is the capital."
        ),  # short and right was chosen: it disagrees with rater and gold
        data.Pair(FRANCE, "It is Paris.", "Rome."),  # agrees with both
        data.Pair(
            FRANCE, "It is Rome.", "Paris."
        ),  # agrees with a rater who was wrong, not with gold
        data.Pair(FRANCE, "I see Rome.", "No, Rome!"),  # equally wrong: gold does not count it
    ]
    found = evals.agreement(base[0], None, base[1], pairs)
    shares = {"rater": 0.75, "gold": pytest.approx(1 / 3), "longer": 1.0}
    assert found == {"n": 4, "rater_n": 4, "gold_n": 3, "longer_n": 4} | shares
    found = evals.agreement(base[0], None, base[1], pairs[3:])
    assert found["rater"] == 1 and math.isnan(found["gold"])


@torch.no_grad()
def test_scores_are_those_of_single_answers(base, tiny_base):
    cfg = config.Sft(lora_r=4, lora_alpha=8)
    with runs.start("reward", cfg, "evals-reward") as run:
        model = models.add_lora(models.load_base("tiny-base")[0], cfg)
        for parameter in models.adapter_parameters(model, "default"):
            parameter.data.normal_(0, 0.1)
        models.save_adapter(model, run, "default", models.Head(64))
    model, tokenizer = models.load_base("tiny-base")
    model, head = models.load_adapter(model, run, "reward"), models.load_head(run)
    prompts, answers = (
        ["Gold?", FRANCE, YUSHAN],
        ["metal", "Paris is the capital of France.", "玉山"],
    )
    found = evals.scores(model, head, tokenizer, prompts, answers, batch_size=2)
    for prompt, text, score in zip(prompts, answers, found):
        ids = torch.tensor([chat.encode(tokenizer, prompt, text)[0]])
        assert models.rewards(model, head, ids, torch.ones_like(ids)).item() == pytest.approx(
            score, abs=1e-4
        )
    assert len(set(found)) == 3
