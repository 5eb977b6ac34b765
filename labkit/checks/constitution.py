"""The exercises of notebook 11's sections on Constitutional AI and self-rewarding."""

import math

from labkit.checks.core import solved

ODDS = "Turn each probability into odds p / (1 − p), divide, and turn the result back."


@solved(
    "two opinions of one answer each become a verdict on a pair, and no answer stands first.",
    ((0.7, 0.7), "Two answers that are as likely fine are a coin's flip."),
    ((0.9, 0.5), f"With q = ½ nothing is known of b, and p is left. {ODDS}"),
    ((0.5, 0.9), "The other way round it is 1 less the other answer."),
    ((0.9, 0.2), ODDS),
)
def check_preference(p, q):
    """function(p, q) → P(a better) = σ(logit p − logit q), of P(nothing is wrong) with a and b."""
    odds = p / (1 - p) * (1 - q) / q
    return odds / (1 + odds)


@solved(
    "a soft label asks for a margin and not for ever more; a clamp says how much at most.",
    ((0.5, 1.0), "A coin's label asks for no difference at all."),
    ((0.9, 1.0), "Set the derivative of −p log σ(m) − (1 − p) log σ(−m) to 0: σ(m) = p."),
    ((0.99, 0.6), "Clamp first: the label is then min(p, clamp)."),
    ((0.55, 0.6), "A label below the clamp stays as it is."),
)
def check_margin(p, clamp):
    """function(p, clamp) → the difference of two scores at which the Bradley-Terry loss of a label
    that is p sure, clamped, is least.
    """
    p = min(p, clamp)
    return math.log(p / (1 - p))
