"""The exercises of notebook 08: where to stop, best-of-n's gold, and several reward models."""

import math
from statistics import fmean, pvariance

from labkit.checks.core import solved

WEIGH = "The i-th lowest of N is the best of n in C(i − 1, n − 1) of the C(N, n) draws."


@solved(
    "a limit in KL needs no gold at all while it trains.",
    (([0.0, 1.0, 2.5, 4.0], 2.0), "The *first* KL not below the limit; places count from 0."),
    (([0.0, 1.0, 2.0, 3.0], 2.0), "A KL equal to the limit has reached it."),
    (([0.0, 3.0, 1.0, 4.0], 2.0), "The KL may fall again: the first crossing counts."),
    (([0.0, 0.5, 0.7], 2.0), "No KL reaches the limit: the run goes to its end, the last place."),
    (([3.0], 2.0), "Even the first update may be too far."),
)
def check_stop(kls, limit):
    """function(kls, limit) → the place (0, 1, …) of the first update whose KL is `limit` or more;
    the last place if none is.
    """
    return next((i for i, kl in enumerate(kls) if kl >= limit), len(kls) - 1)


@solved(
    "every subset of n is counted, and none has to be drawn.",
    (([0.3, 0.1, 0.2], [1.0, 2.0, 6.0], 1), "With n = 1 it is the plain mean of the gold."),
    (([0.1, 0.2, 0.3], [1.0, 2.0, 6.0], 3), "With n = N the highest score is always picked."),
    (([0.3, 0.2, 0.1], [1.0, 2.0, 6.0], 3), "The *score* chooses: sort by score, weigh the gold."),
    (([1.0, 2.0, 3.0], [0.0, 3.0, 6.0], 2), f"{WEIGH} Here 2 of 3 pairs hold the highest."),
    (([4.0, 1.0, 3.0, 2.0], [-1.0, 0.5, 2.0, 1.0], 2), WEIGH),
)
def check_expected_best(scores, gold, n):
    """function(scores, gold, n) → the mean, over all ways to draw n of the N answers, of the gold
    of the answer with the highest score.
    """
    order = sorted(range(len(scores)), key=scores.__getitem__)
    total = sum(math.comb(i, n - 1) * gold[at] for i, at in enumerate(order))
    return total / math.comb(len(order), n)


@solved(
    "where the judges disagree, the praise is not believed.",
    (([2.0], 1.0), "A single judge can't disagree with itself: the variance is 0."),
    (([1.0, 3.0], 0.0), "With weight 0 the mean is left."),
    (([1.0, 3.0], 0.5), "The mean is 2, the variance 1: divide by their number, not by one less."),
    (([0.0, 0.0, 3.0], 1.0), "Take weight · variance off the mean; the variance, not its root."),
)
def check_cautious(scores, weight):
    """function(scores, weight) → mean − weight · variance of one answer's scores by several reward
    models (the variance divides by their number).
    """
    return fmean(scores) - weight * pvariance(scores)
