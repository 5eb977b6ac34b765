"""Pleasing the reward model too well: proxy and gold against the distance from where the policy
started, over seeds.

    gold(d) − gold(0) = d (α − β d)          best-of-n           d = √KL(π ‖ π_ref)
    gold(d) − gold(0) = d (α − β log d)      PPO

Gao, Schulman & Hilton (arXiv 2210.10760), section 1; like them we take the start off and do not fit
it. overoptimization_jobs.py trains and samples everything; its record lies in
data/checkpoints/overoptimization.json, and what notebook 08 shows of it is computed here, in plain
Python.
"""

import math
from statistics import fmean

import numpy as np

from labkit import LabError
from labkit.labs import records
from labkit.labs.records import with_spread

FREE = "no penalty (β = 0)"
SMALL = "small penalty (β = 0.05)"
ENSEMBLE = "ensemble"
RATERS = {
    "impressed rater": "words",
    "polite rater": "apology",
    "formal rater": "ai_disclaimer",
    "modest rater": "hedging",
    "anxious rater": "refusal",
}
"""Whose taste breeds which symptom (atlas.symptom_raters)."""
SETTINGS = {
    FREE: {"beta": 0.0},
    SMALL: {"beta": 0.05},
    "large penalty (β = 0.2)": {"beta": 0.2},
    ENSEMBLE: {"beta": 0.0, "reward": "all"},
    **{rater: {"beta": 0.05, "reward": symptom} for rater, symptom in RATERS.items()},
    "impressed rater, length control": {"beta": 0.05, "reward": "words", "length_penalty": 0.05},
}
"""What each PPO run changes; all keep β fixed. reward: "all" takes every reward model of the
careful rater, whose lowest score counts (arXiv 2310.02743); a symptom takes the one that learned
from its rater's labels, and the careful rater's with the same small penalty is its control.
"""

SINGLE = "one"  # the best-of-n that chooses by one reward model
CLEAR = 0.1  # of gold, or of a share, counts as a change
MEASURED = {"refusal": "over_refused"}  # a symptom's figure, where it has another name


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["settings"] and [
            (row["start"], row["best_of_n"][0][SINGLE], row["runs"][FREE]["curve"]["kl"][0])
            for row in record["seeds"]
        ]

    return records.load("overoptimization", whole, "over-optimisation", path)


# --- the ways ------------------------------------------------------------------------------------


def curves(record: dict, setting: str) -> list[dict]:
    """Per seed, the curve of a setting's run: {metric: [a value per update]}."""
    return [row["runs"][setting]["curve"] for row in record["seeds"]]


def smooth(values: list[float], width: int = 5) -> list[float]:
    """Centred moving mean over `width` values, narrower at both ends."""
    half = width // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def last(record: dict, setting: str, key: str, n: int = 5) -> list[float]:
    """Per seed, the mean over a run's last n updates."""
    return [fmean(curve[key][-n:]) for curve in curves(record, setting)]


def way(record: dict, setting: str, every: int = 4) -> list[dict]:
    """A run's way, `every` updates at a time: "update", "√KL" and every figure of the curve (means
    over the seeds); "proxy" and "gold" each with "… lowest" and "… highest" of the seeds.
    """
    found, rows = curves(record, setting), []
    updates = min(len(curve["kl"]) for curve in found)
    for start in range(0, updates, every):
        part = slice(start, min(start + every, updates))
        seeds = {key: [fmean(curve[key][part]) for curve in found] for key in found[0]}
        row = {"update": part.stop, "√KL": math.sqrt(max(0.0, fmean(seeds["kl"])))}
        row |= {key: fmean(values) for key, values in seeds.items()}
        rows.append(row | with_spread("proxy", seeds["score"]) | with_spread("gold", seeds["gold"]))
    return rows


def best(record: dict, rule: str = SINGLE) -> list[dict]:
    """Best-of-n's way, chosen by a rule: "n", "√KL", "words", "proxy" (of the single reward model)
    and "gold" as in `way`. rule: SINGLE, "mean" or "lowest" of the ensemble, "random".
    """
    rows = []
    for same in zip(*(row["best_of_n"] for row in record["seeds"]), strict=True):
        of = {key: [one[rule][key] for one in same] for key in same[0][rule]}
        row = {"n": same[0]["n"], "√KL": math.sqrt(same[0]["kl"]), "words": fmean(of["words"])}
        rows.append(row | with_spread("proxy", of["score"]) | with_spread("gold", of["gold"]))
    return rows


def expected_best(scores: list[float], values: list[float], n: int) -> float:
    """The expected value of the best (by score) of n answers, drawn from these N without
    replacement.

    The i-th lowest of N is the best of n with probability C(i − 1, n − 1) / C(N, n): no draw, so no
    luck (arXiv 2112.09332, appendix I).
    """
    order = sorted(range(len(scores)), key=scores.__getitem__)
    weighed = sum(math.comb(i, n - 1) * values[at] for i, at in enumerate(order))
    return weighed / math.comb(len(order), n)


def turns(record: dict, setting: str = FREE) -> list[dict]:
    """Per seed, whether gold rose and then fell while the proxy rose: smoothed gold at the start
    (the SFT model's), at its highest and at the end, with "KL" and "proxy" there; "rose" and "fell"
    by more than CLEAR, "proxy rose" from the first update to the last, and "all three".
    """
    rows = []
    for row, curve in zip(record["seeds"], curves(record, setting), strict=True):
        kl, gold, proxy = (smooth(curve[key]) for key in ("kl", "gold", "score"))
        top = gold.index(max(gold))
        found = {"seed": row["seed"], "gold: SFT": row["start"], "highest": gold[top]}
        found |= {"at KL": kl[top], "end": gold[-1], "end KL": kl[-1]}
        found |= {"proxy: first": proxy[0], "there": proxy[top], "last": proxy[-1]}
        signs = (
            gold[top] - row["start"] > CLEAR,
            gold[top] - gold[-1] > CLEAR,
            proxy[-1] - proxy[0] > CLEAR,
        )
        found |= dict(zip(("rose", "fell", "proxy rose"), signs, strict=True))
        rows.append(found | {"all three": all(signs)})
    return rows


# --- the law -------------------------------------------------------------------------------------

BENDS = {"bon": lambda d: d**2, "rl": lambda d: d * np.log(np.maximum(d, 1e-12))}


def gains(record: dict) -> list[dict]:
    """Per seed and way of choosing, KL and gold less the gold at KL 0: {"way", "kind", "seed",
    "kl", "gain"}. PPO's start is the SFT model's gold on the prompts that PPO asked, best-of-n's is
    n = 1.
    """
    found = []
    for row in record["seeds"]:
        curve, steps = row["runs"][FREE]["curve"], row["best_of_n"]
        picked = [step[SINGLE]["gold"] for step in steps]
        ways = (
            ("PPO, no penalty", "rl", curve["kl"], curve["gold"], row["start"]),
            ("best-of-n", "bon", [step["kl"] for step in steps], picked, picked[0]),
        )
        for name, kind, kl, gold, start in ways:
            own = {"way": name, "kind": kind, "seed": row["seed"], "kl": kl}
            found.append(own | {"gain": [value - start for value in gold]})
    return found


def fit(kls: list[float], gain: list[float], kind: str) -> dict:
    """Least squares of gain = α d − β g(d), d = √KL, with g = d² (kind "bon") or d log d ("rl"):
    {"alpha", "beta", "peak": the KL where the curve is highest, None where it has no highest
    point}.

    gain: gold less the gold at KL 0, so that the curve goes through 0 and α and β are all there is
    to fit. Raises LabError for fewer than three points, or a kind it does not know.
    """
    if kind not in BENDS:
        raise LabError(f'There is no curve {kind!r}: take "bon" (best-of-n) or "rl" (PPO).')
    if len(kls) < 3 or len(kls) != len(gain):
        raise LabError(
            "A curve with two coefficients needs at least three points, each with its gain; there"
            f" are {len(kls)} and {len(gain)}."
        )
    d = distance(kls)
    terms = np.stack([d, -BENDS[kind](d)], 1)
    alpha, beta = (float(x) for x in np.linalg.lstsq(terms, np.asarray(gain, float), rcond=None)[0])
    top = None  # the d where the slope is 0: α = 2 β d, or α = β (log d + 1)
    if beta > 0 and alpha / beta < 50:
        top = alpha / (2 * beta) if kind == "bon" else math.exp(alpha / beta - 1)
    return {"alpha": alpha, "beta": beta, "peak": None if top is None or top < 0 else top**2}


def predicted(found: dict, kls: list[float], kind: str) -> list[float]:
    """The gains that a fit says for these KLs."""
    d = distance(kls)
    return (found["alpha"] * d - found["beta"] * BENDS[kind](d)).tolist()


def distance(kls) -> np.ndarray:
    """d = √KL; an estimate below 0 counts as 0."""
    return np.sqrt(np.maximum(0.0, np.asarray(kls, float)))


def foresight(kls: list[float], gain: list[float], kind: str) -> dict:
    """Fit the law to the near half of the way (d up to half of the longest) and let it say the far
    half: the fit's figures, "near" and "far" (how many points), "KL near" (up to where it was
    fitted) and "KL far", "error near", "error far" (root mean square), and "error flat": what
    saying "it stays as it is at the end of the near half" would have made. LabError where the near
    half has fewer than three points.
    """
    way = sorted(zip(distance(kls).tolist(), gain, strict=True))
    half = way[-1][0] / 2
    near, far = ([one for one in way if (one[0] <= half) == is_near] for is_near in (True, False))
    found = fit([d * d for d, _ in near], [value for _, value in near], kind)
    stays = fmean(value for _, value in near[-3:])

    def error(points, say=None):
        says = predicted(found, [d * d for d, _ in points], kind) if say is None else None
        said = says or [say] * len(points)
        return math.sqrt(fmean((a - b) ** 2 for a, (_, b) in zip(said, points, strict=True)))

    return found | {
        "near": len(near),
        "far": len(far),
        "KL near": near[-1][0] ** 2,
        "KL far": way[-1][0] ** 2,
        "error near": error(near),
        "error far": error(far),
        "error flat": error(far, stays),
    }


# --- symptoms and cures --------------------------------------------------------------------------


def symptom_rows(record: dict) -> list[dict]:
    """A row per symptom and seed: "symptom" (the figure's name), "rater", "seed", "n", the figure
    "before" PPO, "after" it with that rater's reward model, and after it with the careful rater's
    ("careful": the control, same penalty, as many updates); "rose": above both by more than two
    words, or a tenth.
    """
    rows = []
    for rater, symptom in RATERS.items():
        key = MEASURED.get(symptom, symptom)
        for seed in record["seeds"]:
            ends = (seed["sft"], seed["runs"][rater]["end"], seed["runs"][SMALL]["end"])
            before, after, careful = (end[key] for end in ends)
            row = {"symptom": key, "rater": rater, "seed": seed["seed"]}
            row |= {"n": seed["sft"].get(f"{key}_n", seed["sft"]["n"]), "before": before}
            clear = 2 if key == "words" else CLEAR
            rose = after - max(before, careful) > clear
            rows.append(row | {"after": after, "careful": careful, "rose": rose})
    return rows


def early_stop(record: dict, setting: str = FREE, on: int = 0) -> dict:
    """Stop where the KL first passes a limit that was chosen on one seed: {"limit", "seeds":
    [{"seed", "update", "kl", "gold", "end", "best"}]}.

    The limit is the (smoothed) KL where the smoothed gold of seed number `on` is highest; the rows
    are those of the other seeds, with the smoothed gold where they stop, at the end of the run, and
    at its best. Where there is one seed only, its own row stands there, which is too good to be
    true: the limit was chosen on it.
    """
    ways = smoothed(record, setting)
    kl, gold = ways[on]
    limit, rows = kl[gold.index(max(gold))], []
    for row, (kl, gold) in zip(record["seeds"], ways, strict=True):
        at = next((i for i, x in enumerate(kl) if x >= limit), len(kl) - 1)
        stops = {"update": at + 1, "kl": kl[at], "gold": gold[at]}
        rows.append({"seed": row["seed"], **stops, "end": gold[-1], "best": max(gold)})
    return {"limit": limit, "seeds": rows[:on] + rows[on + 1 :] or rows}


def at_kl(record: dict, setting: str, limit: float) -> list[float]:
    """The (smoothed) gold where the (smoothed) KL first passes `limit`, of the seeds that get
    there.
    """
    ways = smoothed(record, setting)
    there = [[i for i, x in enumerate(kl) if x >= limit] for kl, _ in ways]
    return [gold[places[0]] for (_, gold), places in zip(ways, there, strict=True) if places]


def smoothed(record: dict, setting: str) -> list[tuple[list[float], list[float]]]:
    """Per seed, (KL, gold) of a run, smoothed."""
    return [(smooth(curve["kl"]), smooth(curve["gold"])) for curve in curves(record, setting)]


def summary(record: dict) -> list[dict]:
    """A row per setting, of the last five updates: gold (mean, lowest and highest seed), proxy, KL
    and words, means over the seeds.
    """
    columns = {"proxy": "score", "KL": "kl", "words": "words"}
    rows = []
    for name in record["settings"]:
        row = {"setting": name, **with_spread("gold", last(record, name, "gold"))}
        rows.append(row | {one: fmean(last(record, name, key)) for one, key in columns.items()})
    return rows
