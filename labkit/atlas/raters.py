"""Simulated raters: people who compare two answers, with the faults that people have."""

import math
import random
from dataclasses import dataclass, field, replace

from labkit import LabError
from labkit.atlas.facts import find
from labkit.atlas.gold import WEIGHTS, judge, quotes, truth
from labkit.atlas.symptoms import symptoms

SYMPTOMS = ("words", "hedging", "apology", "ai_disclaimer", "refusal")


@dataclass
class Rater:
    """A rater prefers by a utility with noise: P(a over b) = σ((u(a) − u(b)) / temperature), the
    Bradley-Terry model of a rater.

    u = knowledge · truth + refusal + manners · (brevity and tone) + tastes, with the weights of the
    gold judge.
    """

    name: str = "careful"
    temperature: float = 0.15
    """Noise: 0 never errs against the rater's own taste; a difference of one temperature is kept in
    73 % of the ratings.
    """
    knowledge: float = 1.0
    """How much of a wrong or right answer the rater notices, 0 to 1."""
    manners: float = 1.0
    """How much of an answer's brevity and tone the rater notices, 0 to 1."""
    tastes: dict[str, float] = field(default_factory=dict)
    """What the rater likes without reason: utility for every word ("words": takes length for
    effort), for an apology (for manners), a hedge (for wisdom), an "ai_disclaimer" (for honesty),
    and for the refusal of anything that sounds dangerous, harmful or not (for safety).
    """
    beliefs: dict[tuple[str, str], str] = field(default_factory=dict)
    """What the rater falsely takes for true: {(relation, subject): answer}."""
    checks: float = 0.0
    """The share of his comparisons in which he looks up what the answers quote (arXiv 2112.09332):
    there a line that stands in the atlas is right to him and another is wrong, whatever he
    believes. An answer that quotes no line (gold.quotes) can't be checked.
    """
    indifference: float = 0.15
    """Answers whose utilities differ by less are called the same: as a rule one temperature, below
    which a verdict would be little more than a coin's.
    """
    expects: float = 0.6
    """What an answer must be worth to be liked. A right one with a single fault of manner is worth
    0.75, with two 0.5: so thumbs speak of truth and of manners, and of an SFT model's answers a
    little more than half are liked. (At 0 every right answer is, whatever its manners.)
    """
    seed: int = 0
    _rng: random.Random = field(init=False, repr=False)

    def __post_init__(self):
        if unknown := set(self.tastes) - set(SYMPTOMS):
            raise LabError(
                f"A rater has no taste for {', '.join(sorted(unknown))}. Tastes are for"
                f" {', '.join(SYMPTOMS)}."
            )
        self._rng = random.Random(f"{self.name}{self.seed}")

    def utility(self, prompt: str, response: str, looks: bool = False) -> float:
        """What this rater feels an answer is worth, before noise; looks: he checks the evidence."""
        verdict, seen = judge(prompt, response), symptoms(response)
        item = find(prompt)
        seen["refusal"] = seen["refusal"] and item.request
        right = verdict.truth
        if believed := self.beliefs.get((item.relation, item.subject)):
            right = truth(replace(item, answer=believed), response)
        if looks and (genuine := quotes(item, response)) is not None:
            right = 1.0 if genuine else -1.0
        value = self.knowledge * WEIGHTS["truth"] * right + WEIGHTS["refusal"] * verdict.refusal
        style = WEIGHTS["brevity"] * verdict.brevity + WEIGHTS["tone"] * verdict.tone
        liked = sum(liking * seen[name] for name, liking in self.tastes.items())
        return value + self.manners * style + liked

    def felt(self, prompt: str, a: str, b: str) -> float:
        """How much better `a` feels to this rater than `b`, in his utility and with his noise; 0
        where he calls them the same.
        """
        looks = self.checks > 0 and self._rng.random() < self.checks
        difference = self.utility(prompt, a, looks) - self.utility(prompt, b, looks)
        if abs(difference) <= self.indifference and self.indifference:
            return 0.0
        return self._noisy(difference)

    def compare(self, prompt: str, a: str, b: str) -> str:
        """ "a", "b" or "same"."""
        felt = self.felt(prompt, a, b)
        return "same" if felt == 0 else "a" if felt > 0 else "b"

    def thumb(self, prompt: str, response: str) -> bool:
        """Up or down for one answer: up with P = σ((u − expects) / temperature)."""
        return self._noisy(self.utility(prompt, response) - self.expects) > 0

    def _noisy(self, difference: float) -> float:
        """The difference with logistic noise: above 0 with P = σ(difference / temperature)."""
        if self.temperature == 0:
            return difference
        chance = min(max(self._rng.random(), 1e-15), 1 - 1e-15)
        return difference - self.temperature * math.log(chance / (1 - chance))


@dataclass
class Crowd:
    """Several raters; each comparison is one rater's, drawn by `shares`."""

    raters: list
    shares: list[float]
    name: str = "crowd"
    seed: int = 0
    _rng: random.Random = field(init=False, repr=False)

    def __post_init__(self):
        if len(self.raters) != len(self.shares) or not self.raters:
            raise LabError(
                f"A crowd needs a share for each of its raters, but there are {len(self.raters)}"
                f" raters and {len(self.shares)} shares."
            )
        if min(self.shares) < 0 or sum(self.shares) <= 0:
            raise LabError(f"A crowd's shares are {self.shares}; none may be below 0, nor all 0.")
        self._rng = random.Random(f"{self.name}{self.seed}")

    def compare(self, prompt: str, a: str, b: str) -> str:
        """ "a", "b" or "same", as the rater says who is asked."""
        [rater] = self._rng.choices(self.raters, self.shares)
        return rater.compare(prompt, a, b)


def symptom_raters(seed: int = 0) -> dict[str, Rater]:
    """For each of the lecture's symptoms (Schulman, ICML 2023) the rater whose weakness breeds it,
    as people have it: length taken for effort, apologies for manners, hedges for wisdom, the
    disclaimer for honesty, refusal for safety. None of them sees much of what is true.
    """
    tastes = {
        "impressed": ("words", 0.05),
        "modest": ("hedging", 1.0),
        "polite": ("apology", 1.0),
        "formal": ("ai_disclaimer", 3.0),
        "anxious": ("refusal", 3.0),
    }
    return {
        symptom: Rater(name, knowledge=0.5, tastes={symptom: liking}, seed=seed)
        for name, (symptom, liking) in tastes.items()
    }


def panel(seed: int = 0) -> dict[str, Rater]:
    """Four people who disagree: one careful, one in a hurry, one who loves manners, one who takes
    length for effort.
    """
    raters = (
        Rater("careful", seed=seed),
        Rater("hurried", temperature=0.8, knowledge=0.5, seed=seed),
        Rater("polite", tastes={"hedging": 0.6, "apology": 0.6, "ai_disclaimer": 0.6}, seed=seed),
        symptom_raters(seed)["words"],
    )
    return {rater.name: rater for rater in raters}
