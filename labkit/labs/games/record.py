"""What notebook 03 shows of the record, data/checkpoints/games.json (games_jobs.py makes it)."""

from statistics import fmean

from labkit.labs import records


def whole(record: dict) -> dict:
    """The record itself; a LookupError or TypeError where it is none."""
    keys = {"rung": "curve", "reuse": "curve", "shaping": "paid", "curiosity": "cells"}
    for kind, key in (keys | {"imitate": "copy", "balance": "steps"}).items():
        record[kind][0][key], record["sizes"]["seeds"], record["speed"]["learning"]
    return record


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""
    return records.load("games", whole, "players of notebook 03's games", path)


def of(record: dict, kind: str, way: str) -> list[dict]:
    """What the seeds found in one way, in their order."""
    return [row for row in record[kind] if row["way"] == way]


def ways(record: dict, kind: str) -> list[str]:
    """The ways that were measured, in their order."""
    return list(dict.fromkeys(row["way"] for row in record[kind]))


def curves(record: dict, kind: str, key: str = "curve", every: int = 5, name: str = "score"):
    """{way: rows} for charts.bands: "update", `name` (of the list `key`, mean of the seeds over the
    last `every` updates) with "NAME lowest" and "NAME highest".
    """
    found = {}
    for way in ways(record, kind):
        seeds = [row[key] for row in of(record, kind, way)]
        found[way] = [
            {"update": end}
            | records.with_spread(name, [fmean(one[end - every : end]) for one in seeds])
            for end in range(every, min(map(len, seeds)) + 1, every)
        ]
    return found


def after(record: dict, kind: str, key: str = "score") -> list[dict]:
    """Per way: "way", and the figure of the players measured after it, mean and spread of seeds."""
    return [
        {"way": way}
        | records.with_spread(key, [row["after"][key] for row in of(record, kind, way)])
        for way in ways(record, kind)
    ]


def margins(record: dict, better: str, worse: str, kind: str = "rung") -> list[float]:
    """By how many aliens `better` is ahead of `worse`, seed by seed."""
    pairs = zip(of(record, kind, better), of(record, kind, worse))
    return [one["after"]["score"] - other["after"]["score"] for one, other in pairs]


def summary(record: dict) -> list[dict]:
    """The ladder, as `python -m labkit bench games` prints it."""
    return after(record, "rung")
