"""Self-rewarding (arXiv 2401.10020): one model answers and judges, and learns from its verdicts.

    M1 = SFT on demonstrations and on seed judgements;  M2 = DPO from M1 on M1's verdicts;  M3 …

What no public reproduction prints stands in every row here: how often the model's verdicts are the
truth's. self_rewarding_jobs.py trains and measures; its record lies in
data/checkpoints/self_rewarding.json.
"""

from labkit.labs import records
from labkit.labs.records import with_spread

OWN, COIN = "own", "coin"  # whose verdicts a model learns from: its own, or the control's


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["seeds"] and [
            (row["sft"]["right"], [one["fixed"]["gold"] for one in row[OWN]])
            for row in record["seeds"]
        ]

    return records.load("self_rewarding", whole, "self-rewarding", path)


def over_rounds(record: dict, figure: str, arm: str = OWN) -> list[dict]:
    """One figure of M1, M2 …, as "model" and with_spread of the seeds that went this way; models
    that have no such figure are left out. figure: "group key", such as "fixed gold" (the judge's
    accuracy on fixed pairs), "own gold", "gap gold", "figures words".
    """
    group, _, key = figure.partition(" ")
    ways = [row[arm] for row in record["seeds"] if arm in row]
    rows = []
    for t, same in enumerate(zip(*ways, strict=True), 1):
        values = [one[group][key] for one in same if key in one[group]]
        if values:
            rows.append({"model": f"M{t}", "seeds": len(values), **with_spread(figure, values)})
    return rows


FIGURES = {
    "judge right, fixed pairs": "fixed gold",
    "judge right, own pairs": "own gold",
    "names the same place": "own position",
    "gap in gold": "gap gold",
    "confidence": "gap sure",
    "wins against the one before": "figures wins_before_sampled",
    "greedy": "figures wins_before_greedy",
    "wins against SFT, greedy": "figures wins_greedy",
    "wins against SFT, matched": "figures wins_matched",
    "right": "figures right",
    "words": "figures words",
}
"""What is shown of every model, and where it stands in the record."""


def rounds(record: dict, arm: str = OWN, figures=FIGURES) -> list[dict]:
    """A row per model, M1 first: the means over seeds of FIGURES (None where a model has none)."""
    rows = {}
    for name in figures:
        for one in over_rounds(record, FIGURES[name], arm):
            rows.setdefault(one["model"], {"model": one["model"], **dict.fromkeys(figures)})
            rows[one["model"]][name] = one[FIGURES[name]]
    return [rows[name] for name in sorted(rows)]
