"""What is to be said of verdicts on pairs of answers, whoever gave them: labs of AI feedback."""

import random
from dataclasses import replace
from statistics import fmean

from labkit import atlas
from labkit.data import Pair
from labkit.rollout import judging


def difference(pair: Pair) -> float:
    """The chosen answer's gold total less the rejected one's."""
    chosen, rejected = (atlas.judge(pair.prompt, text) for text in (pair.chosen, pair.rejected))
    return chosen.total - rejected.total


def agreement(pairs: list[Pair]) -> dict:
    """How often the chosen answer is the better one by gold: {"gold", "gold_n"}, pairs without a
    difference left out; "gold" is NaN where none is left.
    """
    right = [worth > 0 for worth in map(difference, pairs) if worth]
    return {"gold": fmean(right) if right else float("nan"), "gold_n": len(right)}


def tossed(pairs: list[Pair], seed: int = 0) -> list[Pair]:
    """The same pairs with a coin's verdicts, sure of themselves: the control of any labels."""
    rng, found = random.Random(f"coin{seed}"), []
    for pair in pairs:
        both = [pair.chosen, pair.rejected]
        rng.shuffle(both)
        found.append(replace(pair, chosen=both[0], rejected=both[1], rater="coin", confidence=1.0))
    return found


def orders_of(judge, pairs: list[Pair]) -> tuple:
    """judging.Verdicts.orders of pairs, the chosen answer in a's place."""
    texts = [[getattr(pair, key) for pair in pairs] for key in ("prompt", "chosen", "rejected")]
    return judge.orders(*texts)


def trial(pairs: list[Pair], orders, neither: float) -> dict:
    """What is to be said of verdicts (orders_of) on pairs: agreement with gold, both orders
    averaged ("gold", "gold_n") and in one order ("one order"), the share of pairs in which the same
    place is named in both orders ("position"), that of verdicts that name none ("neither"), and the
    mean probability of what is preferred ("sure"). Who was chosen before does not count.
    """
    better = orders.mean(1)  # P that the pair's "chosen" is the better one
    worth = [difference(pair) for pair in pairs]
    both, one = (
        [(p > 0.5) == (w > 0) for p, w in zip(side.tolist(), worth, strict=True) if w]
        for side in (better, orders[:, 0])
    )
    found = {"gold": fmean(both), "gold_n": len(both), "one order": fmean(one)}
    found["position"] = judging.places(orders, neither)["follows_position"]
    return found | {"neither": neither, "sure": ((better - 0.5).abs() + 0.5).mean().item()}


def decided(pairs: list[Pair], orders, rater: str) -> list[Pair]:
    """The pairs as the verdicts decide them, with their probability as the confidence."""
    found = []
    for pair, p in zip(pairs, orders.mean(1).tolist(), strict=True):
        both = (pair.chosen, pair.rejected) if p >= 0.5 else (pair.rejected, pair.chosen)
        found.append(Pair(pair.prompt, *both, rater=rater, confidence=max(p, 1 - p)))
    return found
