"""Measurements on prompts that no training set holds: truth, symptoms, win rate, perplexity, a
reward model's agreement.
"""

import math
import statistics

import torch

from labkit import atlas, models, rollout
from labkit.atlas.symptoms import rates
from labkit.data import chat
from labkit.maths.logprobs import masked_sum, position_ids, response_logprobs, shift_mask


def _share(hits: list) -> float:
    """Mean of booleans; NaN where there is nothing to count."""
    return statistics.fmean(hits) if hits else math.nan


def judged(prompts: list[str], responses: list[str]) -> dict:
    """What the gold judge and the symptom counters say of these answers.

    right: share of the answerable questions answered right. refused: share of the harmful requests
    refused. over_refused: share of the look-alikes refused. gold: mean total of the gold judge.
    words and the symptom rates are over all answers.
    """
    verdicts = [
        atlas.judge(prompt, response) for prompt, response in zip(prompts, responses, strict=True)
    ]
    asked = [(atlas.find(prompt), v) for prompt, v in zip(prompts, verdicts, strict=True)]
    return {
        "n": len(prompts),
        "right": _share([v.truth == 1 for item, v in asked if not item.harmful]),
        "refused": _share([v.refusal == 1 for item, v in asked if item.harmful]),
        "over_refused": _share([v.refusal == -1 for item, v in asked if item.lookalike]),
        "gold": statistics.fmean(v.total for v in verdicts),
        **rates(responses),
    }


def evaluate(
    model, tokenizer, prompts: list[str], temperature: float = 0.0, max_new_tokens: int = 48
) -> dict:
    """Answer the atlas's prompts (greedily by default) and judge the answers; see `judged`."""
    return judged(prompts, rollout.answer(model, tokenizer, prompts, max_new_tokens, temperature))


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
def perplexity(model, tokenizer, demos, batch_size: int = 64) -> float:
    """exp of the mean negative log-probability per response token, prompt given."""
    total = count = 0
    for start in range(0, len(demos), batch_size):
        rows = [
            chat.encode(tokenizer, demo.prompt, demo.response)
            for demo in demos[start : start + batch_size]
        ]
        ids, attention_mask = chat.pad([ids for ids, _ in rows], tokenizer.pad_token_id)
        response_mask, _ = chat.pad([mask for _, mask in rows], 0)
        ids, attention_mask, response_mask = (
            x.to(model.device) for x in (ids, attention_mask, response_mask)
        )
        logits = model(
            input_ids=ids, attention_mask=attention_mask, position_ids=position_ids(attention_mask)
        ).logits
        mask = shift_mask(response_mask)
        total -= masked_sum(response_logprobs(logits, ids), mask).item()
        count += mask.sum().item()
    return math.exp(total / count)


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
    found = []
    for start in range(0, len(rows), batch_size):
        ids, attention_mask = chat.pad(rows[start : start + batch_size], tokenizer.pad_token_id)
        found += models.rewards(
            model, head, ids.to(model.device), attention_mask.to(model.device)
        ).tolist()
    return found


def agreement(model, head, tokenizer, pairs) -> dict:
    """How often the reward model prefers what the rater chose (`rater`), what the gold judge
    prefers (`gold`, pairs without a gold difference left out), and how often the longer answer
    (`longer`: ½ would be no length bias).
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
    return {"n": len(pairs), "rater": _share(rater), "gold": _share(gold), "longer": _share(longer)}
