"""The exercises of notebook 11 on judges: both orders, the place, expected scores."""

from labkit.checks.core import solved


@solved(
    "whoever says A wherever it stands is left with ½: the place is taken out.",
    ((0.9, 0.1), "Sure in both orders, for the same answer: 0.9. The second is P(A) of the other."),
    ((0.8, 0.8), "It says A twice, whatever stands there: that tells the answers not apart."),
    ((0.7, 0.6), "P(the answer is better) is p when it stands first, and 1 − p when second."),
)
def check_both_orders(first, swapped):
    """function(first, swapped) → P(answer better), mean of both orders. first: P("A") with the
    answer as A; swapped: P("A") with the answer as B.
    """
    return (first + 1 - swapped) / 2


@solved(
    "a judge that only looked at the place would have 1, and one who never did has 0.",
    (([0.9, 0.9], [0.8, 0.1]), "The first pair is A both times, the second A, then B: one of two."),
    (([0.2, 0.3, 0.6], [0.4, 0.7, 0.3]), '"B" twice is the same place, too.'),
    (([0.6], [0.4]), "The same answer wins in both orders: the place was not followed."),
)
def check_position_share(first, swapped):
    """function(first, swapped) → the share of pairs in which both verdicts name the same letter.
    Two lists of P("A"): with the pair in one order, and with it swapped.
    """
    same = [(a > 0.5) == (b > 0.5) for a, b in zip(first, swapped, strict=True)]
    return sum(same) / len(same)


@solved(
    "it moves where the likeliest score stands still: that is what makes it a finer label.",
    (([0.0] * 9 + [1.0],), "A judge who is certain of 10 expects 10: the first place is score 1."),
    (([0.1] * 10,), "The mean of 1 to 10 is 5.5."),
    (([0.0, 0.0, 0.2, 0.2] + [0.0] * 6,), "Divide by the sum: the rest was said in other words."),
)
def check_expected_score(probabilities):
    """function(probabilities) → Σ i · P(i) / Σ P(i), of the probabilities of the scores 1 to 10."""
    total = sum(probabilities)
    return sum(i * p for i, p in enumerate(probabilities, 1)) / total
