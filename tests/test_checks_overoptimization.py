"""The checkers of notebook 08 take a right answer, and refuse wrong ones with a hint that names the
mistake.
"""

import math
from statistics import fmean, pstdev, pvariance, variance

import pytest
from test_checks import NONSENSE, accepted, refused

from labkit import checks

CHECKS = [checks.check_stop, checks.check_expected_best, checks.check_cautious]


@pytest.mark.parametrize("check", CHECKS)
@NONSENSE
def test_nonsense_is_refused_without_a_traceback(check, nonsense, capsys):
    refused(capsys, check, lambda *_: nonsense, "")
    refused(capsys, check, lambda *_: 1 / 0, "ZeroDivisionError")


def test_stop(capsys):
    def stop(kls, limit):
        return next((i for i, kl in enumerate(kls) if kl >= limit), len(kls) - 1)

    accepted(capsys, checks.check_stop, stop)
    for wrong, hint in (
        (lambda kls, limit: stop(kls, limit) + 1, "count from 0"),
        (
            lambda kls, limit: next((i for i, kl in enumerate(kls) if kl > limit), len(kls) - 1),
            "equal",
        ),
        (lambda kls, limit: min(sum(kl < limit for kl in kls), len(kls) - 1), "first crossing"),
        (lambda kls, limit: next(i for i, kl in enumerate(kls) if kl >= limit), "StopIteration"),
        (lambda kls, limit: next((i for i, kl in enumerate(kls) if kl >= limit), -1), "to its end"),
        (lambda kls, limit: max(1, stop(kls, limit)), "Even the first"),
    ):
        refused(capsys, checks.check_stop, wrong, hint)


def expected_best(scores, gold, n, key=None):
    order = sorted(range(len(scores)), key=key or scores.__getitem__)
    return sum(math.comb(i, n - 1) * gold[at] for i, at in enumerate(order)) / math.comb(
        len(order), n
    )


def test_expected_best(capsys):
    accepted(capsys, checks.check_expected_best, expected_best)
    for wrong, hint in (
        (lambda s, g, n: max(g), "plain mean"),
        (lambda s, g, n: fmean(g), "always picked"),
        (lambda s, g, n: expected_best(g, g, n), "The *score* chooses"),
        (
            lambda s, g, n: expected_best(s, g, n) if n in (1, len(s)) else fmean(g),
            "C(i − 1, n − 1)",
        ),
        (lambda s, g, n: expected_best(s, g, n, key=lambda i: -s[i]), "always picked"),
        (
            lambda s, g, n: expected_best(s, g, n) if len(s) < 4 else g[s.index(max(s[:n]))],
            "C(i − 1, n − 1)",
        ),
    ):
        refused(capsys, checks.check_expected_best, wrong, hint)


def test_cautious(capsys):
    accepted(capsys, checks.check_cautious, lambda s, w: fmean(s) - w * pvariance(s))
    for wrong, hint in (
        (lambda s, w: fmean(s) - w * variance(s), "StatisticsError"),
        (lambda s, w: fmean(s) - w * (variance(s) if len(s) > 1 else 0), "not by one less"),
        (lambda s, w: fmean(s) - w * pstdev(s), "not its root"),
        (lambda s, w: fmean(s) + w * pvariance(s), "The mean is 2"),
        (lambda s, w: min(s), "weight 0"),
        (lambda s, w: sum(s), "weight 0"),
    ):
        refused(capsys, checks.check_cautious, wrong, hint)
