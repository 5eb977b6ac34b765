"""The exercises of notebook 12: the margin loss, who is asked, and a coin between two policies."""

import math

from labkit.checks.core import solved

EDGE = "The rule asks safety *below* 0.15; σ(score) is the probability, not the score."


@solved(
    "with margin 0 it is Bradley-Terry; with a margin, being ahead a little is not enough.",
    (([1.0, 0.5], 0.0), "With margin 0 it is log(1 + e^−(chosen − rejected))."),
    (([2.0, 1.0], 1.0), "Ahead by exactly the margin: log 2. Take the margin off the difference."),
    (([0.0, 1.0], 3.0), "The margin makes the loss of a wrong order larger, not smaller."),
)
def check_margin_loss(scores, margin):
    """function(scores, margin) → −log σ(chosen − rejected − margin); scores: [chosen, rejected]."""
    chosen, rejected = scores
    return math.log1p(math.exp(-(chosen - rejected - margin)))


@solved(
    "one judge has the say, and whose it is depends on the prompt and on what safety thinks.",
    ((2.0, 5.0, True), "A tagged prompt is safety's, however safe the answer is."),
    ((0.3, -5.0, False), "An answer that safety finds safe is helpfulness's, good or bad."),
    ((-3.0, 5.0, False), "σ(−3) is 0.05, below 0.15: safety has its say without a tag."),
    ((-1.7, 5.0, False), f"σ(−1.7) is 0.154. {EDGE}"),
    ((-1.8, 5.0, False), f"σ(−1.8) is 0.142. {EDGE}"),
)
def check_piecewise(safety, helpful, tagged):
    """function(safety, helpful, tagged) → the score that counts, by Llama 2's rule."""
    return safety if tagged or 1 / (1 + math.exp(-safety)) < 0.15 else helpful


@solved(
    "whoever trains a policy in the middle has to beat this line, which costs nothing.",
    (((0.9, 0.2), (0.5, 0.6), 0.5), "At 0.9 it is always the first, at 0.5 always the second."),
    (((0.9, 0.2), (0.5, 0.6), 0.9), "The share of the first is how far x is on the way to it."),
    (((0.9, 0.2), (0.5, 0.6), 0.7), "Half way, each is asked in half of the cases."),
    (((1.0, 0.0), (0.2, 0.8), 0.4), "The share of the first is (0.4 − 0.2) / (1 − 0.2)."),
)
def check_coin(safe, helpful, x):
    """function(safe, helpful, x) → the helpfulness of who tosses a coin between two policies, each
    (harmlessness, helpfulness), so that the harmlessness is x.
    """
    share = (x - helpful[0]) / (safe[0] - helpful[0])
    return share * safe[1] + (1 - share) * helpful[1]
