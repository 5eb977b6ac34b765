"""The exercises of notebook 09: DPO's push, and noisy labels."""

import math

from labkit.checks.core import solved


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
