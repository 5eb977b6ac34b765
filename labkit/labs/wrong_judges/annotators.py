"""How far annotators agree, real ones or a stand-in: the ceiling of every reward model."""

import itertools
import math
import random
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from labkit import LabError, atlas, data, runs
from labkit.data.rows import Bad
from labkit.feedback import agreement
from labkit.feedback.store import Feedback, in_row


def annotated(source: str = "", seed: int = 0) -> list[Feedback]:
    """Judgements of the same pairs by several people: a file (path, URL or Hub id) in PandaLM's
    form (annotator1 to 3; arXiv 2306.05087) or of a store's export; "" makes a simulated stand-in.
    """
    if not source:
        return stand_in(seed=seed)
    path = downloaded(source) if source.startswith(("http://", "https://")) else source
    return list(itertools.chain(*data.load(str(path), judgements)))


def judgements(row: dict) -> list[Feedback]:
    """A row's judgements; one of PandaLM's must have all three annotators."""
    names = [f"annotator{i}" for i in (1, 2, 3)]
    if "response1" in row or any(name in row for name in names):
        missing = [name for name in ("response1", "response2", *names) if name not in row]
        if missing:
            raise Bad(f'has no "{missing[0]}" (it has: {", ".join(row)})')
    return in_row(row)


def downloaded(url: str) -> Path:
    """The file at a URL, fetched into the runs folder once."""
    path = runs.root() / f"annotators-{runs.digest([url])}"
    if not path.exists():
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                content = answer.read()
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise LabError(
                f"{url} could not be fetched ({error}). Check the address and the connection, or"
                " download the file yourself and give its path."
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def stand_in(n: int = 300, seed: int = 0) -> list[Feedback]:
    """Three simulated people (atlas.panel's careful, hurried and polite ones) on `n` pairs of
    answers that differ in manner, in what they say, or in both: no real annotators.
    """
    rng, judged = random.Random(f"stand-in{seed}"), []
    people = list(atlas.panel(seed).values())[:3]
    facts = [item for item in atlas.items() if not item.request and item.relation != "meaning"]
    manners = ("plain", "short", "long", "hedging", "apologising")
    for item in rng.sample(facts, n):
        rivals = [other.answer for other in facts if other.relation == item.relation]
        told = [item, replace(item, answer=rng.choice(rivals))]
        two = [atlas.respond(rng.choice(told), rng.choice(manners), rng) for _ in range(2)]
        prompt = rng.choice(atlas.questions(item))
        if two[0] != two[1]:
            for i, person in enumerate(people, 1):
                verdict = {"a": 0, "b": 1, "same": "same"}[person.compare(prompt, *two)]
                judged.append(Feedback(prompt, tuple(two), "pair", verdict, f"annotator{i}"))
    return judged


def votes(judged) -> list[dict[str, int]]:
    """Per pair of answers that two or more judged, {rater: category} (feedback.agreement's).
    LabError where nobody's pairs overlap.
    """
    found = defaultdict(dict)
    for rater, of in agreement.compared(judged).items():
        for item, category, _ in of:
            found[item].setdefault(rater, category)
    shared = [of for of in found.values() if len(of) > 1]
    if not shared:
        raise LabError(
            "No two of these raters judged the same pair, so nothing says how far they agree. Let"
            " two people rate some of the same pairs."
        )
    return shared


def ceilings(judged) -> dict[str, float]:
    """How often the best of reward models could say what one annotator says, bounded from people's
    votes: "another annotator" in its place; "majority of the others", where they have one; and
    "knows all votes", the most frequent vote of each pair, which has seen the one it guesses. "n":
    pairs. The true ceiling lies between the last two where raters err by themselves.
    """
    alike, others, knows = [], [], []
    for of in map(list, map(dict.values, shared := votes(judged))):
        alike += [a == b for a, b in itertools.combinations(of, 2)]
        knows.append(max(Counter(of).values()) / len(of))
        for i, vote in enumerate(of):
            (top, most), *rest = Counter(of[:i] + of[i + 1 :]).most_common()
            if most > 1 and not (rest and rest[0][1] == most):
                others.append(top == vote)
    return {
        "n": len(shared),
        "another annotator": fmean(alike),
        "majority of the others": fmean(others) if others else math.nan,
        "knows all votes": fmean(knows),
    }


def by_group(judged, groups: dict[str, list[str]]) -> dict[str, float]:
    """The share of equal verdicts on the same pair: {"within NAME": …, "between": …}. LabError for
    a group with one rater, or where no pair tells.
    """
    for name, raters in groups.items():
        if len(set(raters)) < 2:
            raise LabError(
                f"The group {name!r} has one rater ({', '.join(raters) or 'nobody'}): agreement"
                " within it has no meaning. Give it a second rater, or leave the group out."
            )
    home = {rater: name for name, raters in groups.items() for rater in raters}
    same = {f"within {name}": [] for name in groups} | {"between": []}
    for of in votes([one for one in judged if one.rater in home]):
        for (a, x), (b, y) in itertools.combinations(of.items(), 2):
            same[f"within {home[a]}" if home[a] == home[b] else "between"].append(x == y)
    if empty := [name for name, found in same.items() if not found]:
        raise LabError(
            f"No pair was judged by two raters {empty[0]!r}: let them rate some of the same pairs."
        )
    return {name: fmean(found) for name, found in same.items()}


def crowd_prefers(pair: data.Pair, raters) -> float:
    """The probability that one of the raters (atlas.Rater), drawn by dice, prefers the pair's
    chosen answer, were he made to decide.
    """
    return fmean(
        1
        / (
            1
            + math.exp(
                min(
                    60,
                    (
                        one.utility(pair.prompt, pair.rejected)
                        - one.utility(pair.prompt, pair.chosen)
                    )
                    / one.temperature,
                )
            )
        )
        for one in raters
    )


def majority_of_three(p: float) -> float:
    """The probability that two of three decide for what each decides for with probability p."""
    return p * p * (3 - 2 * p)
