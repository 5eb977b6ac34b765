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


def trial(judge, pairs: list[Pair]) -> dict:
    """A judge on pairs: agreement with gold, both orders averaged ("gold", "gold_n") and in one
    order ("one order"), the share of pairs in which it names the same place in both orders
    ("position"), and the mean probability of what it prefers ("sure"). Who was chosen before does
    not count.
    """
    texts = [[getattr(pair, key) for pair in pairs] for key in ("prompt", "chosen", "rejected")]
    orders, neither = judge.orders(*texts)
    better = orders.mean(1)  # P that the pair's "chosen" is the better one
    worth = [difference(pair) for pair in pairs]
    both, one = (
        [(p > 0.5) == (w > 0) for p, w in zip(side.tolist(), worth, strict=True) if w]
        for side in (better, orders[:, 0])
    )
    found = {"gold": fmean(both), "gold_n": len(both), "one order": fmean(one)}
    found["position"] = judging.places(orders, neither)["follows_position"]
    return found | {"sure": ((better - 0.5).abs() + 0.5).mean().item()}
