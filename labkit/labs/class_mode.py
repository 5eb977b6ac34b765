"""A class that rates: thirty simulated people in three groups, what each says, and how they agree.

The groups are in the raters, not in the store: what a teacher sees is thirty pseudonyms.
"""

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from labkit import LabError, atlas
from labkit.feedback import Feedback, agreement

TASTES = {
    "careful": {},
    "polite": {"hedging": 0.8, "apology": 0.8, "ai_disclaimer": 0.8},
    "impressed": {"words": 0.08},
}
"""The groups: what each likes without reason (atlas.Rater)."""
VERDICTS = {"a": 0, "b": 1, "same": "same"}


def pupils(n: int = 30, seed: int = 0) -> dict[str, tuple[str, atlas.Rater]]:
    """{pseudonym: (group, rater)}: n people in equal groups of TASTES, in an order that tells
    nothing. Each has the group's taste to a degree of his own, and slips as often as he does.
    """
    rng = random.Random(f"class{seed}")
    groups = [list(TASTES)[i % len(TASTES)] for i in range(n)]
    rng.shuffle(groups)
    found = {}
    for i, group in enumerate(groups, 1):
        name, degree = f"pupil-{i:02}", rng.uniform(0.75, 1.25)
        tastes = {taste: degree * liking for taste, liking in TASTES[group].items()}
        knowledge = 1.0 if group == "careful" else rng.uniform(0.3, 0.6)
        noise = rng.uniform(0.1, 0.3)
        rater = atlas.Rater(name, noise, knowledge, tastes=tastes, seed=seed)
        found[name] = group, rater
    return found


def rated(rater, items, seed: int = 0) -> list[Feedback]:
    """What a simulated rater says of items (prompt, a, b), each shown in an order drawn by lot."""
    rng, said = random.Random(f"{rater.name}{seed}"), []
    for prompt, a, b in items:
        verdict = VERDICTS[rater.compare(prompt, a, b)]
        shown = tuple(rng.sample((0, 1), 2))
        said.append(Feedback(prompt, (a, b), "pair", verdict, rater.name, shown))
    return said


def sheet(judged) -> tuple[list[str], list[tuple], np.ndarray]:
    """(raters, items, table (items, raters)) of what all raters judged: +1 where the first text of
    an item (prompt, text, text) is better, −1 where the second is, 0 for the same. Which text is
    the first, its order in the store says, as in `agreement`: sorted texts would put one manner
    first more often than another, and κ's chance depends on that.

    Raises LabError where no item was judged by all.
    """
    sheets, turns = defaultdict(dict), {}
    for name, said in agreement.compared(judged).items():
        for item, category, turned in said:
            sign = -1 if turns.setdefault(item, turned) else 1
            sheets[name].setdefault(item, sign * (category - 1))
    names = sorted(sheets)
    shared = sorted(set.intersection(*(set(sheets[name]) for name in names))) if names else []
    if not shared:
        raise LabError("There is no pair that all raters judged. Give the class some in common.")
    items = [(q, b, a) if turns[q, a, b] else (q, a, b) for q, a, b in shared]
    return names, items, np.array([[sheets[name][item] for name in names] for item in shared])


def kappas(table: np.ndarray) -> np.ndarray:
    """Cohen's κ (raters, raters) between the columns of a sheet's table; NaN where it has none."""
    n = table.shape[1]
    found = np.ones((n, n))
    for i in range(n):
        for j in range(i):
            found[i, j] = found[j, i] = agreement.cohen(table[:, [j, i]] + 1)
    return found


def fleiss(table: np.ndarray) -> dict:
    """Fleiss' κ of all raters, with its interval over the items."""
    return agreement.figure(agreement.fleiss, table + 1, agreement.RESAMPLES, 0)


def circles(kappa: np.ndarray, n: int = 3) -> tuple[list[int], list[int]]:
    """(an order in which those who agree stand together, the circle 1 … n of each rater): average
    linkage on 1 − κ.
    """
    apart = np.nan_to_num(1 - kappa, nan=1.0)
    tree = linkage(squareform(apart, checks=False), "average")
    return leaves_list(tree).tolist(), fcluster(tree, n, "maxclust").tolist()


def split(table: np.ndarray, circle: list[int]) -> list[dict]:
    """A row an item: {"item": its number, "circle 1", …: the mean verdict of each circle, −1 to 1,
    "apart": highest minus lowest}, the most divided first.
    """
    of = np.array(circle)
    rows = []
    for i, verdicts in enumerate(table):
        means = {f"circle {c}": float(verdicts[of == c].mean()) for c in sorted(set(circle))}
        apart = max(means.values()) - min(means.values())
        rows.append({"item": i, **means, "apart": apart})
    return sorted(rows, key=lambda row: -row["apart"])


def told_apart(judged, names) -> list:
    """The pairs to learn from that some raters give; draws give none."""
    wanted = set(names)
    return [pair for one in judged if one.rater in wanted for pair in one.pairs()]


def prefer(raters, prompts, ours, theirs) -> float:
    """How often raters prefer `ours` to `theirs`, one answer each to a prompt; a draw is half."""
    worth = {"a": 1.0, "b": 0.0, "same": 0.5}
    points = []
    for rater in raters:
        fresh = replace(rater, seed=rater.seed + 1)  # his slips are not those of the sheet
        points += [worth[fresh.compare(*one)] for one in zip(prompts, ours, theirs)]
    return sum(points) / len(points)
