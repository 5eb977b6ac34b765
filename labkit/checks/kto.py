"""The exercises of notebook 10: how hard a thumb pulls, and whose answers make the reference
point.
"""

import math

from labkit.checks.core import NotYet, call, checker, solved


@solved(
    "a thumb pulls hardest at the reference point, and lets go on either side of it.",
    ((2.0, 2.0, 0.1), "At the reference point σ(0) = ½, so β · ½ · ½ is left."),
    ((0.0, 0.0, 0.8), "The steeper β, the harder the pull: it stands in front as well."),
    ((30.0, 0.0, 0.2), "An answer far above the reference point is liked enough: it lets go."),
    ((-30.0, 0.0, 0.2), "So it does far below: what is hopeless is given up, unlike in DPO."),
    ((5.0, 3.0, 0.5), "z = β (r − z₀): only what is above the reference point counts."),
)
def check_pull(r, z0, beta):
    """function(r, z0, beta) → β σ(z) (1 − σ(z)), z = β (r − z0): the weight of ∇ log π of a liked
    answer in KTO's loss, r = log π/π_ref.
    """
    half = math.exp(-abs(beta * (r - z0)))  # σ(z) (1 − σ(z)) is the same for z and −z
    return beta * half / (1 + half) ** 2


@checker("every answer stands once, beside another's question: z₀ is measured on these.")
def check_mismatched(function):
    """function(prompts, answers) → (prompt, answer) pairs in which each prompt and each answer
    stands once and none has its own.
    """
    for n in (2, 3, 8):
        prompts, answers = ([f"{kind}{i}" for i in range(n)] for kind in "qa")
        found = call(function, prompts, answers)
        try:
            pairs = [(prompt, answer) for prompt, answer in found]
        except (TypeError, ValueError):
            raise NotYet("it should return (prompt, answer) pairs, one for each prompt.") from None
        if sorted(pair[0] for pair in pairs) != sorted(prompts):
            raise NotYet(f"of {n} prompts each should stand in one pair; yours: {pairs}.")
        own = [pair for pair in pairs if pair[0][1:] == str(pair[1])[1:]]
        if own:
            raise NotYet(f"{own[0][0]} still has its own answer {own[0][1]} (of {n} prompts).")
        if sorted(map(str, (pair[1] for pair in pairs))) != sorted(answers):
            raise NotYet(f"each of the {n} answers should be used once; yours: {pairs}.")
