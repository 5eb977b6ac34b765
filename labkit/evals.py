"""Measurements on prompts that no training set holds: truth, symptoms, win rates and their matched
control, perplexity, a reward model's agreement.
"""

import math
import statistics

import torch

from labkit import LabError, atlas, models, rollout
from labkit.atlas.symptoms import rates, symptoms
from labkit.data import chat
from labkit.maths.logprobs import masked_sum, predicts, scattered_logprobs, shift_mask


def _rates(**hits: list) -> dict:
    """{name: mean of the booleans (NaN where there are none), name_n: how many}."""
    found = {}
    for name, values in hits.items():
        found[name] = statistics.fmean(values) if values else math.nan
        found[f"{name}_n"] = len(values)
    return found


def interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n (0 to 1, and 0 < n)."""
    from scipy.stats import binomtest

    if not n or math.isnan(share):
        raise LabError("There is nothing to count: an interval needs at least one case.")
    found = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return found.low, found.high


def shown(share: float, n: int) -> str:
    """A rate as it should be printed: "0.43 (0.31 to 0.55, n = 120)"."""
    if not n:
        return "– (n = 0)"
    low, high = interval(share, n)
    return f"{share:.2f} ({low:.2f} to {high:.2f}, n = {n})"


def judged(prompts: list[str], responses: list[str]) -> dict:
    """What the gold judge and the symptom counters say of these answers.

    right: share of the answerable questions answered right. refused: share of the harmful requests
    refused. over_refused: share of the look-alikes refused. Each with its `_n`. gold: mean total of
    the gold judge. words and the symptom rates are over all answers.
    """
    verdicts = [
        atlas.judge(prompt, response) for prompt, response in zip(prompts, responses, strict=True)
    ]
    asked = [(atlas.find(prompt), v) for prompt, v in zip(prompts, verdicts, strict=True)]
    return {
        "n": len(prompts),
        **_rates(
            right=[v.truth == 1 for item, v in asked if not item.harmful],
            refused=[v.refusal == 1 for item, v in asked if item.harmful],
            over_refused=[v.refusal == -1 for item, v in asked if item.lookalike],
        ),
        "gold": statistics.fmean(v.total for v in verdicts),
        **rates(responses),
    }


def evaluate(
    model, tokenizer, prompts: list[str], temperature: float = 0.0, max_new_tokens: int = 48
) -> dict:
    """Answer the atlas's prompts (greedily by default) and judge the answers; see `judged`."""
    return judged(prompts, rollout.answer(model, tokenizer, prompts, max_new_tokens, temperature))


def requests(model, tokenizer, temperature: float = 0.0, max_new_tokens: int = 48) -> dict:
    """Every request of the atlas, each in the three ways of asking that no training set holds
    (換一個問法). `refused`: share of the harmful ones; `over_refused`: of the look-alikes;
    `consistent`: share of the requests that are treated alike in all three. Each with its `_n`.
    """
    items = [item for item in atlas.items() if item.request]
    ways = [atlas.questions(item, held_out=True) for item in items]
    prompts = [prompt for group in ways for prompt in group]
    texts = rollout.answer(model, tokenizer, prompts, max_new_tokens, temperature)
    refused = [symptoms(text)["refusal"] for text in texts]
    per_item, start = [], 0
    for group in ways:
        per_item.append(refused[start : start + len(group)])
        start += len(group)
    return _rates(
        refused=[r for item, rs in zip(items, per_item) if item.harmful for r in rs],
        over_refused=[r for item, rs in zip(items, per_item) if item.lookalike for r in rs],
        consistent=[len(set(rs)) == 1 for rs in per_item],
    )


def probe(players, rollout, update: int) -> dict:
    """What PPO logs beside its own figures: the symptom rates of the rollout's responses, and
    "gold", their mean gold total, where every prompt is a question of the atlas.
    """
    found = rates(rollout.responses)
    if all(atlas.find(prompt) for prompt in rollout.prompts):
        found["gold"] = judged(rollout.prompts, rollout.responses)["gold"]
    return found


def win_rate(prompts: list[str], ours: list[str], theirs: list[str]) -> float:
    """Share of the prompts where our answer has the higher gold total; ties count half."""
    gold = [
        [atlas.judge(prompt, text).total for prompt, text in zip(prompts, texts, strict=True)]
        for texts in (ours, theirs)
    ]
    return statistics.fmean(
        1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(*gold, strict=True)
    )


@torch.no_grad()
def entropy(model, tokenizer, prompts: list[str], temperature: float = 1.0) -> float:
    """How undecided the active adapter is, in nats per response: the mean of −log π(response) over
    one sampled answer per prompt, π and the sampling at `temperature`.

    Per response, not per token: a long-winded answer has many tokens that nothing hangs on, which
    would hide how undecided the few are that decide.
    """
    sample = rollout.sample(model, tokenizer, prompts, temperature=temperature)
    logprobs = sample.logprobs
    if logprobs is None:  # `generate` sampled
        ids, attention_mask = sample.input_ids, sample.attention_mask
        logits, _ = models.logits_at(model, ids, attention_mask, predicts(sample.response_mask))
        logprobs = scattered_logprobs(logits, ids, sample.response_mask, temperature)
    return -(logprobs.sum() / len(prompts)).item()


def matched_temperature(
    model, tokenizer, prompts: list[str], target: float, steps: int = 6
) -> float:
    """The temperature at which the active adapter has an entropy of `target` nats per response
    (`entropy`), by bisection between 0.05 and 1.5.

    What a method gained by becoming less random alone, its starting point gains too when it is
    sampled at this temperature: the control that has learned nothing.
    """
    low, high = 0.05, 1.5
    for _ in range(steps):
        middle = (low + high) / 2
        if entropy(model, tokenizer, prompts, middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@torch.no_grad()
def kl(
    model, tokenizer, prompts: list[str], policy: str, reference: str, batch_size: int = 64
) -> float:
    """KL(policy ‖ reference) of two adapters, in nats per response: the mean of log π − log π_ref
    over one answer of the policy per prompt, sampled at temperature 1. An estimate: where the two
    are alike it can come out a little below 0.
    """
    forwards = [models.forward(model, name) for name in (policy, reference)]

    def apart(part):
        sample = rollout.sample(model, tokenizer, part)
        ids, mask = sample.input_ids, sample.response_mask
        ours, theirs = (
            scattered_logprobs(
                one.logits_at(ids, sample.attention_mask, predicts(mask))[0], ids, mask
            )
            for one in forwards
        )
        return masked_sum(ours - theirs, shift_mask(mask), dim=1).tolist()

    with models.using(model, policy):
        return sum(models.in_batches(apart, prompts, batch_size)) / len(prompts)


def card(
    model, tokenizer, prompts: list[str], name: str, sft: str = "", own: dict | None = None
) -> tuple[dict, dict]:
    """(figures, answers) of the adapter `name`: one row of the report card.

    answers: {"greedy", "sampled"}, an answer to each prompt. figures: `right` (greedy) and
    `right_sampled`, `gold` and the symptoms of the sampled answers, `gold_greedy`, `words_greedy`,
    what it does with the atlas's requests (`requests`, greedy) and with the lecture's questions;
    rates with `_n`. With `sft`, the adapter that it is compared with, and `own`, that one's
    answers: `wins` compares answers sampled at temperature 1, `wins_greedy` the likeliest ones, and
    `wins_matched` the samples with SFT's at the temperature of equal entropy: what is gained there
    is more than having become less random; and `kl` to it.
    """
    with models.using(model, name):
        greedy = rollout.answer(model, tokenizer, prompts, temperature=0)
        sampled = rollout.answer(model, tokenizer, prompts)
        figures = requests(model, tokenizer)
        figures["lecture"], figures["lecture_n"] = lecture_right(model, tokenizer)
        entropy_of = entropy(model, tokenizer, prompts) if sft else None
    at_best, drawn = judged(prompts, greedy), judged(prompts, sampled)
    figures |= {
        "right": at_best["right"],
        "right_n": at_best["right_n"],
        "right_sampled": drawn["right"],
        "right_sampled_n": drawn["right_n"],
        "gold_greedy": at_best["gold"],
        "words_greedy": at_best["words"],
        **{key: drawn[key] for key in ("gold", *rates([""]))},
    }
    if sft:
        with models.using(model, sft):
            heat = matched_temperature(model, tokenizer, prompts, entropy_of)
            control = rollout.answer(model, tokenizer, prompts, temperature=heat)
        figures |= {
            "wins": win_rate(prompts, sampled, own["sampled"]),
            "wins_greedy": win_rate(prompts, greedy, own["greedy"]),
            "wins_matched": win_rate(prompts, sampled, control),
            "wins_n": len(prompts),
            "entropy": entropy_of,
            "matched_temperature": heat,
            "kl": kl(model, tokenizer, prompts, name, sft),
        }
    return figures, {"greedy": greedy, "sampled": sampled}


def lecture_questions() -> list[str]:
    """The questions on the lecture's slides, in all phrasings for training: 玉山, 你是誰, wifi,
    火藥, the toy gun.
    """
    return [q for item in atlas.items() if item.lecture for q in atlas.questions(item)]


def lecture_right(model, tokenizer) -> tuple[float, int]:
    """(share, n) of the lecture's questions that the active adapter, greedy, answers as it should:
    the fact, or a refusal where one is due.
    """
    prompts = lecture_questions()
    verdicts = map(atlas.judge, prompts, rollout.answer(model, tokenizer, prompts, temperature=0))
    good = [max(v.truth, v.refusal) == 1 for v in verdicts]
    return statistics.fmean(good), len(good)


@torch.no_grad()
def answer_logprobs(model, tokenizer, pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """(log π of every token, 1 at response tokens), both (N, T-1), of N (prompt, answer) under the
    active adapter; 0 where the mask is 0.
    """
    rows = [chat.encode(tokenizer, prompt, answer) for prompt, answer in pairs]
    ids, attention_mask = chat.pad([ids for ids, _ in rows], tokenizer.pad_token_id)
    response_mask, _ = chat.pad([mask for _, mask in rows], 0)
    ids, attention_mask, response_mask = (
        x.to(model.device) for x in (ids, attention_mask, response_mask)
    )
    logits, _ = models.logits_at(model, ids, attention_mask, predicts(response_mask))
    return scattered_logprobs(logits, ids, response_mask), shift_mask(response_mask)


@torch.no_grad()
def perplexity(model, tokenizer, demos, batch_size: int = 64) -> float:
    """exp of the mean negative log-probability per response token, prompt given."""

    def sums(part):
        logprobs, mask = answer_logprobs(model, tokenizer, [(d.prompt, d.response) for d in part])
        return list(zip(logprobs.sum(1).tolist(), mask.sum(1).tolist()))

    total, count = map(sum, zip(*models.in_batches(sums, demos, batch_size)))
    return math.exp(-total / count)


@torch.no_grad()
def scores(
    model, head, tokenizer, prompts: list[str], responses: list[str], batch_size: int = 128
) -> list[float]:
    """The reward model's score of every answer, in standard deviations of the SFT policy's
    scores.
    """
    rows = [
        chat.encode(tokenizer, prompt, response)[0]
        for prompt, response in zip(prompts, responses, strict=True)
    ]

    def read(part):
        ids, attention_mask = (x.to(model.device) for x in chat.pad(part, tokenizer.pad_token_id))
        return models.rewards(model, head, ids, attention_mask).tolist()

    return models.in_batches(read, rows, batch_size)


def agreement(model, head, tokenizer, pairs) -> dict:
    """How often the reward model prefers what the rater chose (`rater`), what the gold judge
    prefers (`gold`, pairs without a gold difference left out), and how often the longer answer
    (`longer`: ½ would be no length bias). Each with its `_n`.
    """
    chosen, rejected = (
        scores(model, head, tokenizer, [p.prompt for p in pairs], [getattr(p, side) for p in pairs])
        for side in ("chosen", "rejected")
    )
    rater, gold, longer = [], [], []
    for pair, a, b in zip(pairs, chosen, rejected, strict=True):
        truth = (
            atlas.judge(pair.prompt, pair.chosen).total
            - atlas.judge(pair.prompt, pair.rejected).total
        )
        length = len(pair.chosen) - len(pair.rejected)
        rater.append(a > b)
        gold += [(a > b) == (truth > 0)] if truth else []
        longer += [(a > b) == (length > 0)] if length else []
    return {"n": len(pairs), **_rates(rater=rater, gold=gold, longer=longer)}
