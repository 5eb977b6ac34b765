"""The checkers of notebook 07 take a right answer, and refuse wrong ones with a hint that names the
mistake.
"""

import pytest
import torch
from test_checks import NONSENSE, accepted, refused

from labkit import checks

CHECKS = [checks.check_clipped_objective, checks.check_k3, checks.check_gae]


def clip(x, low, high):
    return max(low, min(high, x))


@pytest.mark.parametrize("check", CHECKS)
@NONSENSE
def test_nonsense_is_refused_without_a_traceback(check, nonsense, capsys):
    refused(capsys, check, lambda *_: nonsense, "")
    refused(capsys, check, lambda *_: 1 / 0, "ZeroDivisionError")


def test_clipped_objective(capsys):
    accepted(
        capsys,
        checks.check_clipped_objective,
        lambda r, A, e: min(r * A, clip(r, 1 - e, 1 + e) * A),
    )
    for wrong, hint in (
        (lambda r, A, e: r * A, "above 1 + ε"),
        (lambda r, A, e: clip(r, 1 - e, 1 + e) * A, "stay painful"),
        (lambda r, A, e: max(r * A, clip(r, 1 - e, 1 + e) * A), "above 1 + ε"),
        (lambda r, A, e: min(r, 1 + e) * A, "below 1 − ε"),
        (lambda r, A, e: min(r * A, clip(r, 0.8, 1.2) * A), "ε is an argument"),
        (lambda r, A, e: -min(r * A, clip(r, 1 - e, 1 + e) * A), "the advantage itself"),
    ):
        refused(capsys, checks.check_clipped_objective, wrong, hint)


def test_k3(capsys):
    accepted(capsys, checks.check_k3, lambda p, q: torch.expm1(q - p) - (q - p))
    for wrong, hint in (
        (lambda p, q: torch.expm1(p - q) - (p - q), "direction"),
        (lambda p, q: p - q, "k1"),
        (lambda p, q: (p - q) ** 2 / 2, "k2"),
        (lambda p, q: torch.exp(q - p) - (q - p), "where the two policies agree"),
        (lambda p, q: (torch.expm1(q - p) - (q - p)).mean(), "shape"),
        (lambda p, q: torch.exp(q - p) - 1 - (q - p), "rounding noise"),
        (lambda p, q: [0.5, 0.5, 0.5], "is right"),
    ):
        refused(capsys, checks.check_k3, wrong, hint)


def gae(rewards, values, gamma, lam, after=0.0, order=reversed):
    advantages, later, following = [], 0.0, after
    for reward, value in zip(order(rewards), order(values)):
        later = reward + gamma * following - value + gamma * lam * later
        advantages.append(later)
        following = value
    return list(order(advantages))


def test_gae(capsys):
    accepted(capsys, checks.check_gae, gae)
    for wrong, hint in (
        (lambda R, V, g, l: R, "One token"),
        (lambda R, V, g, l: [r - v for r, v in zip(R, V)], "still to come"),
        (lambda R, V, g, l: gae(R, V, g, l, order=iter), "still to come"),
        (lambda R, V, g, l: gae(R, V, g, l, after=V[-1]), "One token"),
        (lambda R, V, g, l: gae(R, V, 1.0, l), "γ discounts"),
        (lambda R, V, g, l: gae(R, V, g, 1.0), "only the next step"),
        (lambda R, V, g, l: gae(R, V, g, l)[::-1], "only the next step"),
    ):
        refused(capsys, checks.check_gae, wrong, hint)
