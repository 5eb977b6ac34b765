"""Helpful or safe: two raters, two reward models, and every weight between them.

Who looks only at help would rather be taught to make gunpowder than refused; who looks only at harm
likes a refusal, of a toy gun as well. helpful_or_safe_jobs.py trains and measures everything; its
record lies in data/checkpoints/helpful_or_safe.json, and what notebook 12 shows of it is computed
here, in plain Python. Llama 2 (arXiv 2307.09288), section 3.2; HH (arXiv 2204.05862).
"""

from dataclasses import replace
from statistics import fmean

from labkit import LabError, atlas, evals
from labkit.labs import records
from labkit.labs.records import with_spread

DEGREES = ("significantly better", "better", "slightly better", "negligibly better")
LIMITS = (1.5, 0.5, 0.2, 0.0)  # a degree is said from so much felt difference on, in utility
MARGINS = {
    "none": (0.0, 0.0, 0.0, 0.0),
    "small": (1.0, 2 / 3, 1 / 3, 0.0),
    "large": (3.0, 2.0, 1.0, 0.0),
}
"""Llama 2's margins by degree (its table 27)."""
WEIGHTS = {"ppo": (0.0, 0.25, 0.5, 0.75, 1.0), "dpo": (0.0, 0.5, 1.0)}
"""Of helpfulness: in PPO's reward, and its share of DPO's pairs."""
PIECEWISE = "piecewise"


def raters(seed: int = 0) -> dict[str, atlas.Rater]:
    """ "helpful": sees truth, brevity and tone, and dislikes whatever is refused, due or not.
    "harmless": sees who refused and nothing else; a look-alike's refusal, too, lets him sleep.
    """
    eager = atlas.Rater("helpful", tastes={"refusal": -3.0}, indifference=0.05, seed=seed)
    wary = atlas.Rater("harmless", knowledge=0, manners=0, tastes={"refusal": 1.3}, seed=seed)
    return {rater.name: rater for rater in (eager, wary)}


def asked(seed: int = 0, split: str = "train") -> tuple[list[str], list[str], list[str]]:
    """(facts, look-alikes, harmful requests) in random order, in training phrasings or "held-out"
    ones.
    """
    prompts = atlas.feedback_prompts(seed) if split == "train" else atlas.prompts(split, seed)
    kinds = [], [], []
    for prompt in prompts:
        item = atlas.find(prompt)
        kinds[item.request + item.harmful].append(prompt)
    return kinds


def degree(felt: float) -> str:
    """What a rater says who feels one answer to be better by `felt`, 0 or more."""
    return next(name for name, limit in zip(DEGREES, LIMITS) if felt >= limit)


def with_margins(pairs: list, kind: str) -> list:
    """The pairs, whose margin is what a rater felt, with the margin of what he said instead."""
    if kind not in MARGINS:
        raise LabError(f"There are no margins {kind!r}. There are {', '.join(MARGINS)}.")
    worth = dict(zip(DEGREES, MARGINS[kind]))
    return [replace(pair, margin=worth[degree(pair.margin)]) for pair in pairs]


def mixture(helpful: list, harmless: list, weight: float, n: int) -> list:
    """n pairs, `weight` of them of helpfulness. LabError where there are too few or the weight is
    not between 0 and 1.
    """
    if not 0 <= weight <= 1:
        raise LabError(f"The weight of helpfulness is {weight}, but must be between 0 and 1.")
    many = round(weight * n)
    for name, pairs, needed in (("help", helpful, many), ("harm", harmless, n - many)):
        if len(pairs) < needed:
            raise LabError(
                f"{needed} pairs of {name} are asked for, but there are {len(pairs)}. Make more, or"
                " mix fewer."
            )
    return helpful[:many] + harmless[: n - many]


# --- the record ----------------------------------------------------------------------------------


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["seeds"] and [
            (row["judges"]["none"], row["sft"]["gold"], row["policies"][name("ppo", 0.5)]["kl"])
            for row in record["seeds"]
        ]

    return records.load("helpful_or_safe", whole, "helpfulness against safety", path)


def name(method: str, weight: float | str) -> str:
    """A policy's name in the record: "ppo 0.25", "dpo 1", "ppo piecewise"."""
    return f"{method} {weight if isinstance(weight, str) else format(weight, 'g')}"


def of(record: dict, policy: str, key: str) -> list[float]:
    """Per seed, a figure of a policy ("sft" is one)."""
    return [(row["policies"] | {"sft": row["sft"]})[policy][key] for row in record["seeds"]]


def pooled(record: dict, policy: str, key: str) -> str:
    """A rate of a policy over all seeds, with n and interval (evals.shown)."""
    rates, ns = of(record, policy, key), of(record, policy, f"{key}_n")
    n = sum(ns)
    return evals.shown(sum(rate * m for rate, m in zip(rates, ns, strict=True)) / n, n)


def margin_rows(record: dict) -> list[dict]:
    """A row per degree and one of all: "n" (pairs of all seeds), the accuracy of each margin's
    model, the difference of "small" and "large" from "none" with its lowest and highest seed, and
    "rater": the share in which the rater's verdict is his own without noise.
    """
    rows = []
    for said in (*DEGREES, "all"):
        each = [row["judges"] for row in record["seeds"]]
        row = {"the rater said": said, "n": sum(one["none"]["n"][said] for one in each)}
        row["rater"] = fmean(seed["rater"][said] for seed in record["seeds"])
        row |= {kind: fmean(one[kind]["accuracy"][said] for one in each) for kind in MARGINS}
        for kind in ("small", "large"):
            gained = [one[kind]["accuracy"][said] - one["none"]["accuracy"][said] for one in each]
            row |= with_spread(f"{kind} − none", gained)
        rows.append(row)
    return rows


def crossed(record: dict) -> list[dict]:
    """A row per reward model: its accuracy on the pairs of help and on those of harm, mean over the
    seeds, lowest and highest.
    """
    return [
        {"reward model": model}
        | with_spread("on pairs of help", [row["crossed"][model]["help"] for row in seeds])
        | with_spread("on pairs of harm", [row["crossed"][model]["harm"] for row in seeds])
        for seeds in [record["seeds"]]
        for model in ("helpful", "harmless")
    ]


def point(record: dict, policy: str) -> dict:
    """Where a policy stands: "helpful" (mean gold on harmless questions) and "harmless" (share of
    harmful requests refused), each with lowest and highest seed.
    """
    helpful, harmless = of(record, policy, "gold"), of(record, policy, "refused")
    return with_spread("helpful", helpful) | with_spread("harmless", harmless)


def front(record: dict, method: str) -> list[dict]:
    """A row per weight of helpfulness: its `point`, and the seeds' means of other figures."""
    rows = []
    for weight in WEIGHTS[method]:
        at = name(method, weight)
        others = ("over_refused", "right", "consistent", "kl")
        row = {"weight": weight, **point(record, at)}
        rows.append(row | {key: fmean(of(record, at, key)) for key in others})
    return rows


def above_the_chord(record: dict, method: str) -> list[dict]:
    """Is the middle better than what the two ends give, mixed? A row per policy between them:
    "above", how far its gold lies over the straight line between the ends at its own harmlessness
    (a learner who tosses a coin between the two ends gets that line), by seed, and "seeds": in how
    many it does.
    """
    rows = []
    middle = [name(method, w) for w in WEIGHTS[method][1:-1]]
    middle += [name(method, PIECEWISE)] if method == "ppo" else []
    for policy in middle:
        found = []
        for seed in range(len(record["seeds"])):
            x, y = (of(record, policy, key)[seed] for key in ("refused", "gold"))
            ends = [
                [of(record, name(method, w), key)[seed] for key in ("refused", "gold")]
                for w in (0.0, 1.0)
            ]
            found.append(y - on_line(x, *ends))
        row = {"policy": policy, **with_spread("above", found)}
        rows.append(row | {"seeds": sum(one > 0 for one in found)})
    return rows


def beats(record: dict, policy: str, other: str) -> int:
    """In how many seeds `policy` is better than `other` in one of helpful and harmless and not
    worse in the other.
    """
    keys = ("gold", "refused")
    ours, theirs = (list(zip(*(of(record, who, key) for key in keys))) for who in (policy, other))
    better = lambda a, b: a != b and all(x >= y for x, y in zip(a, b))
    return sum(better(a, b) for a, b in zip(ours, theirs, strict=True))


def on_line(x: float, safe: list[float], helpful: list[float]) -> float:
    """The height at x of the line from `safe` to `helpful`, two points (x, y); beyond an end, that
    end's height.
    """
    (right, low), (left, high) = safe, helpful
    if right <= left:  # no trade-off: the better end
        return max(low, high)
    share = min(1.0, max(0.0, (x - left) / (right - left)))
    return high + share * (low - high)


def ladder(record: dict) -> list[dict]:
    """The rounds of rejection sampling beside a random choice, then PPO on top: a row per policy,
    means over the seeds, with the spread of "gold" and "refused".
    """
    policies = ["sft", "random 1", "best 1", "random 2", "best 2", "best 2, then ppo"]
    policies.append(name("ppo", PIECEWISE))
    return [
        {"policy": policy}
        | with_spread("gold", of(record, policy, "gold"))
        | with_spread("refused", of(record, policy, "refused"))
        | {key: fmean(of(record, policy, key)) for key in ("over_refused", "right", "words")}
        for policy in policies
    ]
