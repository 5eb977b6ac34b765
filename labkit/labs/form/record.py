"""What notebook 08b shows of the record, data/checkpoints/form.json (form_jobs.py makes it)."""

from statistics import fmean

from labkit.labs import records
from labkit.labs.form.poet import TEMPERATURE
from labkit.labs.records import with_spread


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["ways"] and [
            (row["poet"]["best_of_n"], [row["ways"][way]["end"]["kl"] for way in record["ways"]])
            for row in record["seeds"]
        ]

    return records.load("form", whole, "verifiable rewards", path)


def way(record: dict, name: str, every: int = 4, column: str = "well-formed") -> list[dict]:
    """A learner's way, `every` updates at a time: "seconds" and "samples" so far, and `column` of
    the poems it was judged on, mean, lowest and highest of the seeds.
    """
    curves, rows = [row["ways"][name]["curve"] for row in record["seeds"]], []
    updates = min(len(curve["samples"]) for curve in curves)
    for start in range(0, updates, every):
        part = slice(start, min(start + every, updates))
        row = {key: fmean(c[key][part.stop - 1] for c in curves) for key in ("seconds", "samples")}
        rows.append(row | with_spread(column, [fmean(curve[column][part]) for curve in curves]))
    return rows


def reached(record: dict, name: str, share: float = 0.9, width: int = 4) -> list[dict]:
    """Per seed, where the share well-formed, a mean over `width` updates, first reaches `share`:
    "seconds" and "samples" (None: never), with the run's "highest" and how long it was in all.
    """
    rows = []
    for row in record["seeds"]:
        curve = row["ways"][name]["curve"]
        well = curve["well-formed"]
        means = [fmean(well[max(0, i - width + 1) : i + 1]) for i in range(len(well))]
        at = next((i for i in range(width - 1, len(well)) if means[i] >= share), None)
        found = {"seed": row["seed"], "first": well[0], "highest": max(means)}
        for key in ("seconds", "samples"):
            found |= {key: None if at is None else curve[key][at], f"{key} in all": curve[key][-1]}
        rows.append(found)
    return rows


def ends_of(record: dict) -> list[dict]:
    """A row per policy: figures of its poems at the end, means over the seeds; "well-formed" with
    its lowest and highest seed, and "greedy", the share of its likeliest poems that are
    well-formed. The first is the SFT poet.
    """
    seeds = record["seeds"]
    at = [row["poet"]["temperatures"] for row in seeds]
    found = {"SFT": [(one[str(TEMPERATURE)], one["0.0"]) for one in at]}
    for name in record["ways"]:
        found[name] = [(row["ways"][name]["end"], row["ways"][name]["greedy"]) for row in seeds]
    rows = []
    for name, each in found.items():
        row = {"policy": name}
        row |= with_spread("well-formed", [end["well-formed"] for end, _ in each])
        row |= with_spread("greedy", [greedy["well-formed"] for _, greedy in each])
        keys = [key for key in each[0][0] if key != "well-formed"]
        rows.append(row | {key: fmean(end[key] for end, _ in each) for key in keys})
    return rows


def controls(record: dict) -> list[dict]:
    """What needs no training: the SFT poet by temperature, and the best of n by the rule; the share
    well-formed, mean, lowest and highest of the seeds, and "by dice" of a random one of the n.
    """
    poets, rows = [row["poet"] for row in record["seeds"]], []
    for t in poets[0]["temperatures"]:
        each = [poet["temperatures"][t] for poet in poets]
        row = {"poems": "greedy" if float(t) == 0 else f"temperature {t}"}
        row |= with_spread("well-formed", [one["well-formed"] for one in each])
        rows.append(row | {"different": fmean(one["different"] for one in each)})
    for same in zip(*(poet["best_of_n"] for poet in poets), strict=True):
        row = {"poems": f"best of {same[0]['n']}"}
        row |= with_spread("well-formed", [one["by the rule"] for one in same])
        rows.append(row | {"by dice": fmean(one["by dice"] for one in same)})
    return rows
