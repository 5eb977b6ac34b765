"""The exercises of notebook 09: the optimum of RLHF's objective, DPO's push, and noisy labels."""

import math

from labkit.checks.core import solved


@solved(
    "the reference, tilted by exp(reward / β).",
    (([0.5, 0.3, 0.2], [1.0] * 3, 0.1), "Equal rewards give no reason to leave the reference."),
    (([0.5, 0.5], [1.0, 0.0], 1.0), "Weight each with exp(reward / β), then divide by the sum."),
    (([0.9, 0.1], [0.0, 1.0], 0.5), "The weight of an answer is reference · exp(reward / β)."),
    (([0.2, 0.8], [1000.0, 999.0], 1.0), "exp(1000) overflows: first take off the highest reward."),
)
def check_optimal_policy(reference, rewards, beta):
    """function(reference, rewards, beta) → the probabilities (a list) that maximise E[reward] − β ·
    KL(policy ‖ reference).
    """
    weights = [p * math.exp((r - max(rewards)) / beta) for p, r in zip(reference, rewards)]
    return [w / sum(weights) for w in weights]


@solved(
    "DPO pushes hardest where its implicit reward is wrong, and never by more than β.",
    ((0.0, 0.0, 0.1), "At the start policy and reference agree: σ(0) = ½ of β is left."),
    ((3.0, -1.0, 0.5), "A pair in the right order already is pushed less: σ(−β · margin)."),
    ((-3.0, 1.0, 0.5), "A pair in the wrong order is pushed more."),
    ((2.0, 2.0, 1.0), "Only the difference of the two log-ratios counts."),
)
def check_push(chosen, rejected, beta):
    """function(chosen, rejected, beta) → β σ(−β (chosen − rejected)): a pair's weight in DPO's
    gradient, of two log-ratios log π/π_ref.
    """
    return beta / (1 + math.exp(beta * (chosen - rejected)))


@solved(
    "its best margin is log((1 − ε)/ε): finite, so no pair can push for ever.",
    ((0.0, 0.2), "At margin 0 both readings of the label cost log 2."),
    ((2.0, 0.0), "With a rater who never errs it is plain DPO: −log σ(margin)."),
    ((2.0, 0.25), "With chance ε the label is the wrong way round, and costs −log σ(−margin)."),
    ((-1.5, 0.1), "The weights are 1 − ε for the label as it is and ε for its opposite."),
)
def check_smoothed_dpo(margin, error):
    """function(margin, error) → conservative DPO's loss (1 − ε)(−log σ(margin)) + ε (−log
    σ(−margin)); margin is the difference of the implicit rewards.
    """
    return (1 - error) * math.log1p(math.exp(-margin)) + error * math.log1p(math.exp(margin))
