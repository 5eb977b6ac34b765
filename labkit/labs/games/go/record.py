"""What notebook 04 shows of the record, data/checkpoints/go.json (go_jobs.py makes it)."""

from statistics import fmean

from labkit import LabError, evals
from labkit.labs import records
from labkit.labs.records import with_spread


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["seeds"] and [
            (row["against"]["self-play"]["teacher"]["all"], row["self-play"]["update"])
            for row in record["seeds"]
        ]

    return records.load("go", whole, "self-play", path)


def against(record: dict, player: str, other: str, colour: str = "all") -> list[float]:
    """Per seed, the share of games that `player` wins against `other`."""
    return [row["against"][player][other][colour] for row in record["seeds"]]


def summary(record: dict, others=("random", "teacher", "MCTS-50", "imitation")) -> list[dict]:
    """A row per player: the share won against each of the others, seeds pooled, with its interval;
    both colours alike. The first row is the teacher.
    """
    rows, n = [{"player": "teacher"}], record["games"]
    for other in others:
        one = record["teacher"].get(other)
        rows[0][other] = evals.shown(one["all"], n) if one else "–"
    for player in record["seeds"][0]["against"]:
        row = {"player": player}
        for other in others:
            each = against(record, player, other)
            row[other] = evals.shown(fmean(each), n * len(each))
        rows.append(row)
    return rows


def curve(record: dict) -> list[dict]:
    """Self-play's way: after so many updates, the share won against earlier versions ("itself") and
    against the teacher ("teacher"), mean, lowest and highest of the seeds; "games" played so far.
    """
    curves, rows = [row["self-play"] for row in record["seeds"]], []
    for i, update in enumerate(curves[0]["update"]):
        if curves[0]["teacher"][i] is not None:
            row = {"update": update, "games": update * record["settings"]["games"]}
            row |= with_spread("teacher", [one["teacher"][i] for one in curves])
            rows.append(row | with_spread("itself", [one["won"][i] for one in curves]))
    return rows


def solved(record: dict) -> list[dict]:
    """Who finds the riddles' answers: the mean over riddles of the probability given to the answer,
    with the lowest and highest of the seeds where there are any. The first row is a move by lot.
    """
    found = record["riddles"]
    rows = [{"player": who, "finds": fmean(found[who])} for who in ("chance", "teacher")]
    for player in record["seeds"][0]["riddles"]:
        each = [fmean(row["riddles"][player]) for row in record["seeds"]]
        rows.append({"player": player} | with_spread("finds", each))
    return rows


def clearest(record: dict) -> int:
    """The number of the first riddle that in every seed imitation at equal narrowness passes over
    (below 1 %) and self-play plays (above 50 %). LabError where there is none.
    """
    for i in range(len(record["riddles"]["chance"])):
        each = [row["riddles"] for row in record["seeds"]]
        if all(one["imitation, as narrow"][i] < 0.01 and one["self-play"][i] > 0.5 for one in each):
            return i
    raise LabError("No riddle of this record is found by self-play alone in every seed.")
