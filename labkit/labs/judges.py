"""Judges of answers, by one interface (rollout.judging.Verdicts), wherever they come from.

trained(run)        a model that learned to judge from seed judgements (the ai_feedback stage)
prompted(base)      a model as it is, asked in words, with examples or without
simulated(rater)    a simulated rater, who knows the atlas: for comparison
"""

import math
import random
from statistics import fmean

import torch

from labkit import LabError, atlas, config, models, runs
from labkit.data import Pair
from labkit.labs import records
from labkit.labs.records import with_spread
from labkit.rollout import judging

ASKED = f"{judging.QUESTION} Say A or B, and nothing else."  # to who has not learned to judge
# Utilities of nearly all answers lie between these: wrong and long, right and short.
LOWEST, HIGHEST = -2.0, 1.0


def trained(run="", beside=None) -> judging.Judge:
    """The judge of an ai_feedback run (a Run or its name; "" is the newest, else the shipped one):
    an adapter "judge" on a base of its own, or beside those of (model, tokenizer).
    """
    run = runs.latest("ai_feedback", run) if isinstance(run, str) else run
    model, tokenizer = beside or models.load_base(models.base_of(run))
    model = models.load_adapter(model, run, "judge").eval()
    return judging.Judge(model, tokenizer, "judge", run.config.question)


def prompted(base: str = "", examples=(), question: str = ASKED) -> judging.Judge:
    """A base as it is, asked in words; examples: pairs judged before its eyes (few-shot)."""
    return judging.Judge(*models.load_base(base), "", question, examples)


def of_profile(profile: config.Profile, examples=()) -> judging.Judge:
    """The judge that a notebook begins with: where the profile makes its own base, the one that was
    trained to judge, else the profile's model, prompted.
    """
    base = profile.ai_feedback.base
    return prompted(base, examples) if base else trained()


class Simulated(judging.Verdicts):
    """A simulated rater in a judge's place: no position sways him. His scores are his utility on a
    scale of 1 to 10 (`on_scale`).
    """

    def __init__(self, rater: atlas.Rater):
        self.rater, self.name = rater, rater.name

    def utilities(self, prompts, answers) -> torch.Tensor:
        """What he feels that each answer is worth (N,)."""
        told = zip(prompts, answers, strict=True)
        return torch.tensor([self.rater.utility(*one) for one in told])

    def first(self, prompts, a, b, question=None):
        ahead = self.utilities(prompts, a) - self.utilities(prompts, b)
        return (ahead / max(self.rater.temperature, 1e-6)).sigmoid(), torch.ones(len(ahead))

    def scores(self, prompts, answers):
        return on_scale(self.utilities(prompts, answers))


def on_scale(utilities: torch.Tensor) -> torch.Tensor:
    """Utilities (N,) on a scale of 1 to 10, LOWEST to HIGHEST."""
    return 1 + 9 * ((utilities - LOWEST) / (HIGHEST - LOWEST)).clamp(0, 1)


def scores_of(prompts, answers, seed: int = 0, rater=None, most: int = 10) -> list[int]:
    """A simulated rater's scores, 1 to `most`: his utility with his noise, rounded.

    The noise of an answer is Gumbel's, of his temperature: two such answers compared are his
    Bradley-Terry verdict exactly (raters.Rater), so that scores and pairs come from one person.
    """
    rater, rng = rater or atlas.Rater(seed=seed), random.Random(f"scores{seed}")
    found = Simulated(rater).utilities(prompts, answers).tolist()
    felt = [u - rater.temperature * math.log(-math.log(rng.random())) for u in found]
    parts = on_scale(torch.tensor(felt)) - 1
    return [1 + round(x) for x in (parts * (most - 1) / 9).tolist()]


def by_scores(pairs, seed: int = 0, rater=None, most: int = 10) -> list[Pair]:
    """The two answers of each pair, ordered by a rater's scores of them; those scored alike are
    left out.
    """
    prompts = [pair.prompt for pair in pairs]
    sides = [[getattr(pair, side) for pair in pairs] for side in ("chosen", "rejected")]
    scores = [scores_of(prompts, side, 2 * seed + i, rater, most) for i, side in enumerate(sides)]
    found = []
    for prompt, a, b, x, y in zip(prompts, *sides, *scores, strict=True):
        if x != y:
            found.append(Pair(prompt, *((a, b) if x > y else (b, a)), rater="scores"))
    return found


# --- the record: judges_jobs.py made it ----------------------------------------------------------


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return [
            (row["told"][0]["gold"], row["scores"]["gold"], row["policies"]["RLAIF"]["card"])
            and [judge["orders"][0] for judge in row["judges"].values()]
            for row in record["seeds"]
        ]

    return records.load("judges", whole, "judges", path)


def verdicts(orders: list, told: list[dict]) -> dict:
    """One judge on pairs whose first answer a rater chose. orders: P(that one is better) as judged
    with it first and with it second; told: of each pair the gold difference and what others say.

    `one order` and `both orders`: share of the verdicts that agree with the rater, and after
    averaging; `position`: share of pairs in which both orders name the same place; `says A`; `gold
    one order` and `gold`: the same against the gold judge, where he sees a difference; `gold of the
    rater`: what the rater himself reaches there. Then, by name, the others' agreement with the
    averaged verdicts, and "NAME and rater" with the rater's, where they decided.
    """
    first, second = ([both[i] > 0.5 for both in orders] for i in (0, 1))
    mean = [sum(both) > 1 for both in orders]

    def agree(said, who):
        """Share in which a verdict for the first answer is also that of `who`, who decided."""
        found = [s == (one[who] > 0) for s, one in zip(said, told, strict=True) if one[who]]
        return fmean(found) if found else math.nan

    chosen = [True] * len(told)  # what the rater said
    found = {
        "one order": fmean(first + second),
        "both orders": fmean(mean),
        "position": fmean(a != b for a, b in zip(first, second, strict=True)),
        "says A": fmean(first + [not b for b in second]),
        "gold one order": (agree(first, "gold") + agree(second, "gold")) / 2,
        "gold": agree(mean, "gold"),
        "gold of the rater": agree(chosen, "gold"),
    }
    for who in told[0].keys() - {"gold"}:
        found |= {who: agree(mean, who), f"{who} and rater": agree(chosen, who)}
    return found


def over_seeds(rows: list[dict]) -> dict:
    """{figure: mean, "figure lowest", "figure highest"} of dicts of figures, one a seed."""
    found = {}
    for key in rows[0]:
        found |= with_spread(key, [row[key] for row in rows])
    return found


def of_judge(record: dict, name: str) -> list[dict]:
    """`verdicts` of a judge, per seed."""
    return [verdicts(row["judges"][name]["orders"], row["told"]) for row in record["seeds"]]


def calibration(record: dict, name: str, edges=(0.5, 0.55, 0.6, 0.7, 1.0)) -> list[dict]:
    """Soft labels beside the truth: of all pairs (seeds together) whose averaged label is as sure
    as that, how sure on the mean, and the share in which the rater agrees; with `n`.
    """
    found = [sum(p) / 2 for row in record["seeds"] for p in row["judges"][name]["orders"]]
    rows = []
    for low, high in zip(edges, edges[1:]):
        part = [p for p in found if low <= max(p, 1 - p) < high or high == max(p, 1 - p) == 1]
        if part:
            sure, right = fmean(max(p, 1 - p) for p in part), fmean(p > 0.5 for p in part)
            rows.append({"from": low, "to": high, "sure": sure, "right": right, "n": len(part)})
    return rows


def summary(record: dict) -> list[dict]:
    """A row per judge: what it saw, how large it is, and `verdicts` over the seeds."""
    rows = []
    for name, one in record["seeds"][0]["judges"].items():
        row = {"judge": name, "judgements": one["judgements"], "parameters": one["parameters"]}
        rows.append(row | over_seeds(of_judge(record, name)))
    return rows


def policies(record: dict) -> list[dict]:
    """A row per policy: its card's figures against the SFT policy's, over the seeds, "n" prompts
    each.
    """
    keys = ("wins_greedy", "wins_matched", "right", "gold_greedy", "words_greedy", "kl")
    rows = []
    for name in record["seeds"][0]["policies"]:
        cards = [row["policies"][name]["card"] for row in record["seeds"]]
        row = {"policy": name, "n": cards[0]["wins_n"]}
        rows.append(row | over_seeds([{key: card[key] for key in keys} for card in cards]))
    return rows


# --- scores --------------------------------------------------------------------------------------


def ordered(better, worse, gold: list[float]) -> dict:
    """What scores say of pairs: `tied`, the share scored alike; `right`, the share of the others in
    which the higher score is where `gold` (the difference, first less second) is; of all pairs with
    a gold difference, `right, ties half`. better, worse: scores of the two answers.
    """
    signs = [(x > y) - (x < y) for x, y in zip(better, worse, strict=True)]
    told = [(sign, g > 0) for sign, g in zip(signs, gold, strict=True) if g]
    if not told:
        raise LabError("No pair has a gold difference: there is nothing to agree with.")
    decided = [(sign > 0) == first for sign, first in told if sign]
    return {
        "tied": 1 - len(decided) / len(told),
        "right": fmean(decided) if decided else math.nan,
        "right, ties half": (sum(decided) + (len(told) - len(decided)) / 2) / len(told),
        "n": len(told),
    }


def rank_correlation(xs, ys) -> float:
    """Spearman's ρ: how far two people's scores put answers in the same order."""
    from scipy.stats import spearmanr

    return float(spearmanr(xs, ys).statistic)


def of_scores(record: dict) -> list[dict]:
    """Per seed, the scoring judge beside the rater whose scores it learned from and gold: their
    rank correlations, and how the expected score, the rounded one and the rater's own order the
    held-out pairs (`ordered`).
    """
    rows = []
    for seed in record["seeds"]:
        said, rater, gold = (seed["scores"][key] for key in ("scores", "rater", "gold"))
        every = {"judge": sum(said, []), "rater": sum(rater, []), "gold": sum(gold, [])}
        difference = [a - b for a, b in zip(*gold, strict=True)]
        row = {
            f"{a} and {b}": rank_correlation(every[a], every[b])
            for a, b in (("judge", "gold"), ("judge", "rater"), ("rater", "gold"))
        }
        whole = [[round(x) for x in side] for side in said]
        ways = {"expected score": said, "rounded": whole, "rater's score": rater}
        for name, sides in ways.items():
            found = ordered(*sides, difference)
            row |= {f"{name}: {key}": found[key] for key in ("tied", "right, ties half")}
        rows.append(row)
    return rows
