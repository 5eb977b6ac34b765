"""The exercises of notebook 13: a policy that takes sides, divided answers, a vote's ceiling."""

import math

from labkit.checks.core import solved


@solved(
    "the smaller β, the harder the policy takes one side of a question that has two.",
    ((0.5, 0.7, 1.0), "With β = 1 and an even start, the policy repeats the raters' own split."),
    ((0.5, 0.5, 0.1), "Raters who are split evenly give a difference of 0: nothing moves."),
    ((0.5, 0.7, 0.25), "The reward difference is log(p / (1 − p)); divide it by β."),
    ((0.2, 0.7, 0.5), "The start counts: multiply its odds, ref / (1 − ref), by exp(r / β)."),
    ((0.9, 0.4, 1.0), "Raters may be against what the start says more often."),
)
def check_collapse(ref, p, beta):
    """function(ref, p, beta) → the share of answer A in the exact optimum π* ∝ π_ref · e^(r/β) over
    two answers, where π_ref says A with share `ref` and a share `p` of the raters prefers A.
    """
    odds = ref / (1 - ref) * math.exp(math.log(p / (1 - p)) / beta)
    return odds / (1 + odds)


@solved(
    "two answers of the same mean may be a safe one and one that people fight about.",
    ((1.0, 0.0, 1.0, 1.0), "z is the difference of the means over the root of both variances."),
    ((0.0, 0.0, 3.0, 1.0), "Equal means: half of the people prefer either, however divided."),
    ((2.0, 0.0, 3.0, 4.0), "Variances are the squares of the spreads: √(3² + 4²) = 5."),
    ((-1.0, 1.0, 0.5, 0.5), "Φ of a negative number is below a half."),
)
def check_thurstone(mean_a, mean_b, spread_a, spread_b):
    """function(mean_a, mean_b, spread_a, spread_b) → the share of people who prefer a, where what
    an answer is worth to a person is normal with that mean and spread (standard deviation):
    Φ((mean_a − mean_b) / √(spread_a² + spread_b²)).
    """
    z = (mean_a - mean_b) / math.hypot(spread_a, spread_b)
    return 0.5 * math.erfc(-z / math.sqrt(2))


@solved(
    "no reward model can agree with single people more often, however many labels it has.",
    (([1.0, 1.0],), "Where all agree, the best guess is always right."),
    (([0.5, 0.5],), "A coin's tosses can be guessed in half of the cases."),
    (([0.9, 0.2],), "Below a half the best guess is the other answer: max(p, 1 − p)."),
    (([0.7, 0.6, 0.1],), "One number: the mean over the pairs."),
)
def check_ceiling(shares):
    """function(shares) → how often the best guess is what one person says, where `shares` holds for
    each pair the share of people who prefer its first answer.
    """
    return sum(max(p, 1 - p) for p in shares) / len(shares)
