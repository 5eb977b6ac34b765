"""What Constitutional AI came to over seeds: the record that notebook 11 reads."""

from labkit.labs import records
from labkit.labs.constitution.principles import WAYS
from labkit.labs.records import with_spread


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["seeds"] and [
            (policies(row), row["taught"]["critique"], row["preferred"]["gold"])
            for row in record["seeds"]
        ]

    return records.load("constitution", whole, "Constitutional AI", path)


def policies(row: dict) -> dict[str, dict]:
    """The figures of a seed's policies, by name, in the order in which they were made."""
    return {
        "helpful-only": row["helpful"]["end"],
        **{f"revised, {way}": row["revised"][way]["end"] for way in WAYS},
        **{f"PPO, {kind} labels": found["end"] for kind, found in row["reinforced"].items()},
    }


FIGURES = ("refused", "over_refused", "right", "gold", "words")


def halves(record: dict, figures=FIGURES) -> list[dict]:
    """A row per policy: its figures, with_spread over the seeds, and the "n" of the requests that
    each is measured on: "refused" of the harmful ones, "over_refused" of the look-alikes.
    """
    each, rows = [policies(row) for row in record["seeds"]], []
    for name in each[0]:
        row = {"policy": name, "n": sum(one[name]["refused_n"] for one in each)}
        for key in figures:
            row |= with_spread(key, [one[name][key] for one in each])
        rows.append(row)
    return rows


def lessons(record: dict) -> list[dict]:
    """A row per skill of the adapter that was taught: "skill", and the share that is as it should
    be, with_spread over the seeds, of the cases with a fault ("faulty") and without ("fine").
    """
    rows = []
    for skill in ("critique", "told", "revised", "direct"):
        row = {"skill": skill}
        for name in ("faulty", "fine"):
            row |= with_spread(name, [one["taught"][f"{skill} {name}"] for one in record["seeds"]])
        rows.append(row)
    return rows


def kinds(record: dict) -> list[dict]:
    """A row per kind of label: how often its reward model ranks written pairs rightly (probes), and
    what PPO made of it: "refused", "over_refused", "gold", "kl"; with_spread over the seeds.
    """
    rows = []
    for kind in record["seeds"][0]["reinforced"]:
        each = [one["reinforced"][kind] for one in record["seeds"]]
        row = {"labels": kind}
        for asked in each[0]["ranks"]:
            row |= with_spread(f"ranks {asked}", [one["ranks"][asked] for one in each])
        for key in ("refused", "over_refused", "gold"):
            row |= with_spread(key, [one["end"][key] for one in each])
        rows.append(row | with_spread("kl", [one["kl"] for one in each]))
    return rows
