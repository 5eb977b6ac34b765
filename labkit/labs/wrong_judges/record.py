"""What notebook 13 shows of the record, data/checkpoints/wrong_judges.json (wrong_judges_jobs.py
makes it).
"""

import math
from collections import defaultdict
from statistics import fmean

from labkit.labs import records
from labkit.labs.wrong_judges.belief import ALL, BEFORE, CHECKED, SAME_TIME, seconds_of
from labkit.labs.wrong_judges.divided import (
    DIVIDED,
    EVERYBODY,
    JOB,
    KINDS,
    PHD,
    SPLITS,
    TASTES,
    fit_table,
    optimum,
    preferred,
)


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["runs"] and [
            (
                row["divided"]["shares"][0],
                row["divided"]["ppo"][0]["shares"],
                row["misled"]["before"]["rated"]["true"],
                row["misled"]["settings"][ALL]["after"],
                row["crowd"]["ceilings"],
            )
            for row in record["seeds"]
        ]

    return records.load("wrong_judges", whole, "judges who are divided or wrong", path)


def differences(record: dict) -> list[dict]:
    """Per raters, how much more the reward model gives to the PhD than to the job: "raters" (log
    odds of the share who prefer it), "all comparisons" (Bradley-Terry fitted to the shares
    themselves), "reward model" (in the same unit, mean over phrasings) with "… lowest" and "…
    highest" of the seeds.
    """
    rows = []
    for name, share in SPLITS.items():
        prefer = preferred(share)
        table, p = fit_table(prefer, spread=False), prefer[PHD, JOB]
        of = [
            fmean(one[0] - one[1] for one in row["divided"]["rewards"][name][: len(DIVIDED)])
            for row in record["seeds"]
        ]
        row = {"raters": name, "log odds": math.log(p / (1 - p))}
        row["all comparisons"] = table[PHD][0] - table[JOB][0]
        rows.append(row | records.with_spread("reward model", of))
    return rows


def collapse(record: dict) -> list[dict]:
    """Per PPO run, the share that the PhD has among the answers: "before", at the "optimum" (of the
    seed's own reward model and π_ref) and after "PPO"; "larger": the share of the more frequent of
    the two opinions then, and "larger, optimum". Means over trained phrasings and seeds, with the
    seeds' "… lowest" and "… highest".
    """

    def of(shares):
        """Each answer's share of the four, mean over the trained phrasings."""
        rows = [[p / sum(row) for p in row] for row in shares[: len(DIVIDED)]]
        return [fmean(column) for column in zip(*rows)]

    rows = []
    for i, (name, beta) in enumerate(record["runs"]):
        found = defaultdict(list)
        for seed in record["seeds"]:
            began = seed["divided"]
            best = [
                optimum([max(p, 1e-12) for p in reference], rewards, beta)
                for reference, rewards in zip(began["shares"], began["rewards"][name])
            ]
            ways = {"before": began["shares"], "optimum": best, "PPO": began["ppo"][i]["shares"]}
            for way, shares in ways.items():
                phd, job, *_ = of(shares)
                found[way].append(phd)
                found[f"larger, {way}"].append(max(phd, job))
        row = {"raters": name, "β": beta}
        for key, values in found.items():
            row |= records.with_spread(key, values)
        rows.append(row)
    return rows


def spreads(record: dict) -> list[dict]:
    """What the distributional reward model says of both questions' answers, mean over phrasings and
    seeds: "mean" (from the question's mean answer) and "spread" (with lowest and highest seed; 1 is
    that of RUNGS), and "held out": the spread on a phrasing never seen.
    """
    rows = []
    for question, answers in zip(KINDS, (TASTES["PhD"], EVERYBODY)):
        for answer in answers:
            found = [seed["divided"] for seed in record["seeds"]]
            middles = [fmean(mean for mean, _ in one[question].values()) for one in found]
            means = [one[question][answer][0] - m for one, m in zip(found, middles)]
            row = {"question": question, "answer": answer, "mean": fmean(means)}
            row |= records.with_spread("spread", [one[question][answer][1] for one in found])
            unseen = fmean(one[f"{question} held out"][answer][1] for one in found)
            rows.append(row | {"held out": unseen})
    return rows


def misled(record: dict) -> list[dict]:
    """Per setting, and before any rating, means over the seeds: "labels false" (of the pairs of a
    true and a believed answer, the share that prefers the latter), "reward" (how much
    higher the reward model scores the policy's answers than those of the start, in its standard
    deviations), the share of true answers on "rated", "unrated" and "others" facts, both with
    lowest and highest seed, and the seconds that the ratings took ("seconds").
    """
    rows = []
    for name in (None, *record["settings"]):
        of = [
            seed["misled"]["settings"][name] if name else {"after": seed["misled"]["before"]}
            for seed in record["seeds"]
        ]
        row = {"raters": name or BEFORE}
        row["labels false"] = fmean(one["labels false"] for one in of) if name else None
        if name:
            row |= records.with_spread("reward", [b - a for a, b in (x["rewards"] for x in of)])
        for group in ("rated", "unrated", "others"):
            row |= records.with_spread(group, [one["after"][group]["true"] for one in of])
        if name:
            checks = record["settings"][name]["raters"].get("checks", 0.0)
            row["seconds"] = fmean(seconds_of(one["compared"], checks) for one in of)
        rows.append(row)
    return rows


def restored(record: dict, group: str = "rated") -> dict[str, list[float]]:
    """Per seed, of the true answers on a group of facts: "lost" (before minus after, all raters
    believing) and the part of it that came back "checked" and "same time" (1: all of it).
    """
    found = defaultdict(list)
    for seed in record["seeds"]:
        true = {
            name: one["after"][group]["true"] for name, one in seed["misled"]["settings"].items()
        }
        before = seed["misled"]["before"][group]["true"]
        lost = before - true[ALL]
        found["lost"].append(lost)
        for name, setting in (("checked", CHECKED), ("same time", SAME_TIME)):
            found[name].append((true[setting] - true[ALL]) / lost if lost > 0 else math.nan)
    return dict(found)


def ways(record: dict, setting: str, every: int = 2) -> list[dict]:
    """A PPO run's way, `every` updates at a time: "update", "reward", "true" and "believed" on
    rated facts, each with lowest and highest seed.
    """
    curves = [seed["misled"]["settings"][setting]["curve"] for seed in record["seeds"]]
    rows = []
    for start in range(0, min(len(curve["score"]) for curve in curves), every):
        row = {"update": start + every}
        for key, name in (("score", "reward"), ("true", "true"), ("believed", "believed")):
            of = [[x for x in c[key][start : start + every] if x is not None] for c in curves]
            row |= records.with_spread(name, [fmean(part) for part in of if part])
        rows.append(row)
    return rows


def learning(record: dict) -> list[dict]:
    """The crowd's learning curve: "labels", and how often the reward model says what "one
    annotator", the "majority of three" and "gold" say, with lowest and highest seed; last the row
    "ceiling".
    """
    rows = []
    for i, n in enumerate(record["labels"]):
        of = [seed["crowd"]["rows"][i] for seed in record["seeds"]]
        rows.append({"labels": n} | over_seeds(of))
    return [
        *rows,
        {"labels": "ceiling"} | over_seeds([s["crowd"]["ceilings"] for s in record["seeds"]]),
    ]


def over_seeds(of: list[dict]) -> dict:
    found = {}
    for key in ("one annotator", "majority of three", "gold"):
        found |= records.with_spread(key, [one[key] for one in of])
    return found
