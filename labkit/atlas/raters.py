"""Simulated raters: people who compare two answers, with the faults that people have."""

import math
import random
from dataclasses import dataclass, field

from labkit.atlas.gold import WEIGHTS, judge
from labkit.atlas.symptoms import symptoms


@dataclass
class Rater:
    """A rater prefers by a utility with noise: P(a over b) = σ((u(a) − u(b)) / temperature), the
    Bradley-Terry model of a rater.

    u = knowledge · truth + refusal + brevity and tone (weights of the gold judge)
        + length_bias per ten words + politeness per apology, hedge or disclaimer.
    """

    name: str = "careful"
    temperature: float = 0.15
    """Noise: 0 never errs against the rater's own taste; a difference of one temperature is kept in
    73 % of the ratings.
    """
    knowledge: float = 1.0
    """How much of a wrong or right answer the rater notices, 0 to 1."""
    length_bias: float = 0.0
    """Utility for every ten words: a positive one takes length for effort."""
    politeness: float = 0.0
    """Utility for each of hedging, apology and disclaimer: a positive one takes them for
    manners.
    """
    indifference: float = 0.05
    """Answers whose utilities differ by less are called the same."""
    seed: int = 0
    _rng: random.Random = field(init=False, repr=False)

    def __post_init__(self):
        self._rng = random.Random(f"{self.name}{self.seed}")

    def utility(self, prompt: str, response: str) -> float:
        """What this rater feels an answer is worth, before noise."""
        verdict, seen = judge(prompt, response), symptoms(response)
        manners = seen["hedging"] + seen["apology"] + seen["ai_disclaimer"]
        value = (
            self.knowledge * WEIGHTS["truth"] * verdict.truth + WEIGHTS["refusal"] * verdict.refusal
        )
        value += WEIGHTS["brevity"] * verdict.brevity + WEIGHTS["tone"] * verdict.tone
        return value + self.length_bias * seen["words"] / 10 + self.politeness * manners

    def compare(self, prompt: str, a: str, b: str) -> str:
        """ "a", "b" or "same"."""
        difference = self.utility(prompt, a) - self.utility(prompt, b)
        if abs(difference) <= self.indifference and self.indifference:
            return "same"
        if self.temperature == 0:
            return "same" if difference == 0 else "a" if difference > 0 else "b"
        return (
            "a"
            if self._rng.random()
            < 1 / (1 + math.exp(-max(-60, min(60, difference / self.temperature))))
            else "b"
        )


def panel(seed: int = 0) -> dict[str, Rater]:
    """Four people who disagree: one careful, one in a hurry, one who loves manners, one who takes
    length for effort.
    """
    raters = (
        Rater("careful", seed=seed),
        Rater("hurried", temperature=0.8, knowledge=0.5, seed=seed),
        Rater("polite", politeness=0.6, seed=seed),
        Rater("impressed", knowledge=0.5, length_bias=0.5, seed=seed),
    )
    return {rater.name: rater for rater in raters}
