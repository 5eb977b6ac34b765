"""The exercises of notebook 14: a win rate, a KL from samples, and Wilson's interval."""

import math

import torch

from labkit.checks.core import NotYet, call, checker, hold_masked, settle


@checker("half a point for a tie, so that a model against itself wins exactly half.")
def check_win_rate(function):
    """function(ours, theirs: lists of gold totals) → the share of the prompts that ours wins; a tie
    counts half.
    """
    for ours, theirs, what in (
        ([1.0, 0.5, 1.0, -1.0], [1.0, 0.0, 0.5, 0.5], "two wins, one tie, one loss"),
        ([0.5, 0.5], [0.5, 0.5], "a model against itself"),
        ([1.0], [-1.0], "one prompt, won"),
        ([-1.0, -1.0], [1.0, -0.5], "both lost"),
    ):
        answer, n = call(function, ours, theirs), len(ours)
        wins = sum(a > b for a, b in zip(ours, theirs))
        ties = sum(a == b for a, b in zip(ours, theirs))
        right = (wins + ties / 2) / n
        mistakes = (
            (wins / n, "a tie counts nothing: a model loses against itself; give it half a point."),
            ((wins + ties) / n, "a tie counts as a win: a model beats itself; give it half."),
            (1 - right, "this is the rate of the others: ours comes first."),
            (wins + ties / 2, "this is the number of points; divide it by the number of prompts."),
            (wins / max(1, n - ties), "ties are left out here; keep them, with half a point each."),
        )
        wrong = f"{ours} against {theirs} ({what}) should be {right}, not {answer}."
        settle(answer, right, mistakes, wrong)


@checker("this is how far a policy moved, in nats per response.")
def check_response_kl(function):
    """function(logprobs (B, T), ref_logprobs (B, T), response_mask (B, T)) → the mean over the
    responses of Σ_t log π − log π_ref over their tokens: an estimate of KL(π ‖ π_ref) from samples
    of π.
    """
    logprobs = torch.tensor([[-5.0, -1.0, -2.0, -9.0], [-7.0, -8.0, -4.0, -1.0]])
    ref = torch.tensor([[-1.0, -3.0, -2.5, -3.0], [-2.0, -3.0, -6.0, -2.0]])
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]])
    everywhere = (logprobs - ref).sum(1).mean()
    absolute = (logprobs - ref).abs().where(mask.bool(), 0.0).sum(1).mean()
    right = (2 + 0.5 + 1) / 2  # two responses, of two tokens and of one
    mistakes = (
        (-right, "the direction is turned: the policy that spoke comes first, log π − log π_ref."),
        (3.5 / 3, "this is per token; sum over each response, then take the mean of those."),
        ((1.25 + 1) / 2, "each response has its mean here; take the sum over its tokens instead."),
        (3.5, "this is the sum over all responses; divide by their number."),
        (everywhere, "prompt and padding are counted too; use the mask."),
        (absolute, "these are absolute differences; positive and negative ones must cancel."),
    )
    settle(call(function, logprobs, ref, mask), right, mistakes)
    hold_masked(function, right, logprobs, ref, mask)


@checker("ten out of ten is not yet certainty.")
def check_wilson(function):
    """function(wins, n) → (low, high), Wilson's 95 % interval (z = 1.96) of a share of `wins` in
    `n` prompts.
    """
    z = 1.96
    for wins, n in ((8, 10), (10, 10), (0, 10), (160, 200)):
        p = wins / n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        plain = z * math.sqrt(p * (1 - p) / n)
        answer = call(function, wins, n)
        try:
            low, high = map(float, answer)
        except (TypeError, ValueError, RuntimeError):
            wanted = "two numbers, (low, high), are wanted"
            raise NotYet(f"it returns {answer!r}, but {wanted}.") from None
        no_width = "this is p ± 1.96 √(p(1−p)/n), which has no width at all for 10 wins in 10."
        mistakes = (
            ((p - plain, p + plain), no_width),
            ((centre + half, centre - half), "the two ends are swapped: (low, high)."),
        )
        wanted = f"({centre - half:.3f}, {centre + half:.3f})"
        wrong = f"{wins} wins in {n} should give {wanted}, not ({low:.3f}, {high:.3f})."
        settle((low, high), (centre - half, centre + half), mistakes, wrong, tolerance=1e-3)
