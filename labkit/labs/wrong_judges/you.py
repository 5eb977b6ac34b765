"""The learner as a rater: ten questions whose answers are known, some of them asked twice."""

import random
from collections import defaultdict
from dataclasses import replace

from labkit import atlas
from labkit.atlas.gold import truth


def quiz(n: int = 10, again: int = 4, seed: int = 0) -> list[tuple[str, tuple[str, str]]]:
    """`n` questions with two plain answers of which one is true, and the first `again` of them once
    more at the end: for a panel.
    """
    rng, found = random.Random(f"quiz{seed}"), []
    facts = [item for item in atlas.items() if item.relation in ("capital", "symbol", "region")]
    for item in rng.sample(facts, n):
        rivals = {other.answer for other in facts if other.relation == item.relation}
        rival = rng.choice(sorted(rivals - {item.answer}))
        two = [atlas.respond(one, "plain", rng) for one in (item, replace(item, answer=rival))]
        rng.shuffle(two)
        found.append((rng.choice(atlas.questions(item)), tuple(two)))
    return found + found[:again]


def yourself(judged) -> dict:
    """One rater's judgements of a quiz: {"rated", "right", "same", "against the truth":
    [judgement], "again": pairs judged twice, "consistent": of these alike}.
    """
    against, right, same, met = [], 0, 0, defaultdict(list)
    for one in judged:
        if one.verdict == "skip":
            continue
        met[one.prompt, one.responses].append(one.verdict)
        if one.verdict == "same":
            same += 1
        elif truth(atlas.find(one.prompt), one.responses[one.verdict]) == 1:
            right += 1
        else:
            against.append(one)
    twice = [verdicts for verdicts in met.values() if len(verdicts) > 1]
    return {
        "rated": sum(map(len, met.values())),
        "right": right,
        "same": same,
        "against the truth": against,
        "again": len(twice),
        "consistent": sum(len(set(verdicts)) == 1 for verdicts in twice),
    }
