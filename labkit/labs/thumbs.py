"""Thumbs against pairs: what KTO makes of as many labels as DPO, of few thumbs up, of flipped ones.

thumbs_jobs.py trains and samples everything; its record lies in data/checkpoints/thumbs.json, and
what notebook 10 shows of it is computed here, in plain Python. Ethayarajh et al., "KTO: Model
Alignment as Prospect Theoretic Optimization" (arXiv 2402.01306).
"""

from statistics import fmean

from labkit.labs import records
from labkit.labs.records import with_spread

KTO, DPO = "KTO", "DPO"
KTO_MANY, DPO_MANY = "KTO, many labels", "DPO, many labels"
BROKEN_UP = "KTO, as many pairs broken up"
SIDES = {1: (1.33, 5.0), 5: (6.67, 1.0), 10: (13.33, 1.0)}
"""{thumbs down for each thumb up: (a λ_D with λ_D n_D / (λ_U n_U) = 1.33, one far outside [1,
1.5])}, λ_U = 1. The paper dropped 90 % of the desirable answers and took λ_D = 13.33.
"""
FLIPPED = (0.1, 0.3)
SETTINGS = {
    KTO: {"stage": "kto"},
    DPO: {"stage": "dpo"},
    BROKEN_UP: {"stage": "kto", "pairs": True},
    **{
        f"{name}, {share:.0%} flipped": {"stage": name.lower(), "flipped": share}
        for name in (KTO, DPO)
        for share in FLIPPED
    },
    **{
        f"KTO, 1:{downs}, λ_D = {weight:g}": {"stage": "kto", "downs": downs, "weight": weight}
        for downs, weights in SIDES.items()
        for weight in weights
    },
}
"""What each run changes. pairs: learn from as many pairs, each broken up into two thumbs;
flipped: this share of the labels says the opposite; downs: thumbs up are dropped until there are so
many down for each, and weight is λ_D.
"""


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["settings"] and [
            (row["sft"]["right"], row["many"][KTO_MANY]["wins_matched"])
            + tuple(row["runs"][name]["wins_greedy"] for name in record["settings"])
            for row in record["seeds"]
        ]

    return records.load("thumbs", whole, "KTO and DPO", path)


def figures(record: dict, name: str) -> list[dict]:
    """Per seed, the figures of a setting's policy; name: of SETTINGS, KTO_MANY or DPO_MANY."""
    return [{**row["runs"], **row["many"]}[name] for row in record["seeds"]]


def seeds_of(record: dict, name: str, key: str = "wins_greedy") -> list[float]:
    """Per seed, one figure of a setting's policy."""
    return [one[key] for one in figures(record, name)]


def row_of(record: dict, name: str) -> dict:
    """A setting as a row: "setting", "labels", "wins" (gold, greedy against greedy SFT; mean,
    lowest and highest seed), "right", "words" and "KL" (means).
    """
    means = {"right": "right", "words": "words_greedy", "KL": "kl"}
    found = {"setting": name, "labels": round(fmean(seeds_of(record, name, "labels")))}
    found |= with_spread("wins", seeds_of(record, name))
    return found | {title: fmean(seeds_of(record, name, key)) for title, key in means.items()}


def equal_labels(record: dict) -> list[dict]:
    """KTO and DPO at equal numbers of labels, few and many, and how many points KTO is ahead."""
    rows = []
    for ours, theirs in ((KTO, DPO), (KTO_MANY, DPO_MANY)):
        ahead = [100 * (a - b) for a, b in zip(seeds_of(record, ours), seeds_of(record, theirs))]
        rows.append(row_of(record, ours) | with_spread("KTO − DPO, points", ahead))
        rows.append(row_of(record, theirs))
    return rows


def controls(record: dict) -> list[dict]:
    """The three ways to compare with SFT, at many labels: a row per method, each with its spread
    over the seeds.
    """
    ways = {"greedy": "wins_greedy", "matched": "wins_matched", "sampled": "wins"}
    return [
        {"policy": name}
        | {k: v for way, key in ways.items() for k, v in spread_of(record, name, way, key).items()}
        for name in (KTO_MANY, DPO_MANY)
    ]


def spread_of(record: dict, name: str, title: str, key: str) -> dict:
    return with_spread(title, seeds_of(record, name, key))


def imbalance(record: dict) -> list[dict]:
    """Thumbs up dropped, with λ_D inside the paper's range and outside: "up", "down" (thumbs, mean
    over the seeds), "λ_D", "λ_D·up / down", and the figures of `row_of`.
    """
    rows = []
    for name, setting in record["settings"].items():
        if "downs" in setting:
            up, down = (fmean(seeds_of(record, name, side)) for side in ("up", "down"))
            found = {"up": round(up), "down": round(down), "λ_D": setting["weight"]}
            found["λ_D·up / down"] = setting["weight"] * up / down
            rows.append(found | row_of(record, name))
    return rows


def flipped(record: dict) -> list[dict]:
    """Wins by the share of flipped labels, a row per share: "KTO" and "DPO", each with its spread
    over the seeds.
    """
    rows = []
    for share in (0.0, *FLIPPED):
        row = {"flipped": share}
        for method in (KTO, DPO):
            name = f"{method}, {share:.0%} flipped" if share else method
            row |= with_spread(method, seeds_of(record, name))
        rows.append(row)
    return rows


def summary(record: dict) -> list[dict]:
    """A row per setting."""
    return [row_of(record, name) for name in (KTO_MANY, DPO_MANY, *record["settings"])]
