"""The exercises of notebook 07: the three lines of PPO in one cell, and the k3 estimate of a KL.

Each of the three lines has its `solution`, so that a notebook goes on with it until the learner's
own is right.
"""

import torch

from labkit.checks.core import NotYet, call, checker, close, settle

LOGP, REF = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -0.5, -0.5])


def penalty(logp, ref, beta):
    """−β (log π − log π_ref) of each token: tensors of any shape and a float → that shape."""
    return -beta * (logp - ref)


@checker("dear where the policy says more often than the reference what it said.")
def check_penalty(function):
    """function(logp, ref, beta) → `penalty`, the reward of each token before the score."""
    difference = LOGP - REF
    mistakes = (
        (0.2 * difference, "the sign: it would be *paid* for leaving the reference."),
        (-difference, "β is missing: it says how dear a nat is."),
        (difference, "β and the minus sign are missing."),
        (-0.2 * (LOGP.exp() - REF.exp()), "subtract the log-probabilities, not the probabilities."),
        (-0.2 * difference.clamp(min=0), "a token said less often than before gets a reward."),
    )
    hint = "logp and ref are tensors of one shape (a log-probability for each token), beta a float."
    settle(call(function, LOGP, REF, 0.2, hint=hint), penalty(LOGP, REF, 0.2), mistakes)
    settle(
        call(function, LOGP, REF, 0.5, hint=hint),
        penalty(LOGP, REF, 0.5),
        otherwise="β is an argument: use it, not 0.2.",
    )


check_penalty.solution = penalty


def surprise(reward, value, next_value):
    """δ = R_t + V_{t+1} − V_t (γ = 1): numbers or tensors of one shape → that shape."""
    return reward + next_value - value


@checker("what came, and what is expected now, against what was expected before.")
def check_surprise(function):
    """function(reward, value, next_value) → `surprise` of a token."""
    hint = "Three numbers (or tensors of one shape) come in; one of the same shape goes out."
    for R, V, after in ((0.5, 0.2, 0.9), (torch.tensor([0.0, 1.0]), torch.tensor([0.3, 0.8]), 0.0)):
        mistakes = (
            (R - V, "V_{t+1} is missing: what is still expected after this token counts too."),
            (V - R - after, "turned round: a good surprise must come out above 0."),
            (R + V - after, "V_t is what was expected *before* the token: take that one off."),
            (R + after, "V_t is missing: a surprise is measured against what was expected."),
            (after - V, "R_t is missing: the token's own reward counts."),
        )
        settle(call(function, R, V, after, hint=hint), surprise(R, V, after), mistakes)


check_surprise.solution = surprise


def gain(new, old, advantage, epsilon):
    """min(ρ A, clip(ρ, 1 − ε, 1 + ε) A), ρ = π / π_old, of each token: log π, log π_old and A of
    one shape, ε a float → that shape.
    """
    ratio = (new - old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


@checker("too far in the good direction earns nothing more; a step in the bad one is paid for.")
def check_gain(function):
    """function(new, old, advantage, epsilon) → `gain`: what PPO raises, for each token."""
    ratio = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5, 1.05])
    old, A = -torch.arange(1.0, 7.0), torch.tensor([0.7, 1.0, 1.0, -1.0, -1.0, 2.0])
    new, right = ratio.log() + old, gain(ratio.log(), torch.zeros(6), A, 0.2)
    within = ratio.clamp(0.8, 1.2)
    unlogged = new / old
    mistakes = (
        (ratio * A, "nothing is clipped: with A > 0 there must be no gain above ρ = 1 + ε."),
        (within * A, "with A > 0 a *fallen* ratio must stay painful: take the lesser product."),
        (torch.maximum(ratio * A, within * A), "the lesser of the two products, not the greater."),
        (torch.minimum(ratio, within) * A, "the ratio is not the product: min comes after · A."),
        (-right, "the sign: this is raised; the cell itself puts the minus before it."),
        (
            torch.minimum(unlogged * A, unlogged.clamp(0.8, 1.2) * A),
            "these are *log*-probabilities: the ratio is exp of their difference.",
        ),
        (gain(old, new, A, 0.2), "the ratio is turned round: the new policy stands above the old."),
    )
    hint = "new, old and advantage are tensors of one shape, epsilon a float; torch.minimum, clamp."
    settle(call(function, new, old, A, 0.2, hint=hint), right, mistakes)
    settle(
        call(function, new, old, A, 0.1, hint=hint),
        gain(new, old, A, 0.1),
        otherwise="ε is an argument: use it, not 0.2.",
    )


check_gain.solution = gain


@checker("never negative, and right on average.")
def check_k3(function):
    """function(logprobs, ref_logprobs) → (e^r − 1) − r with r = log π_ref − log π, for tokens that
    π sampled; tensors of any shape.
    """
    r = REF - LOGP
    mistakes = (
        (torch.expm1(-r) + r, "the direction is turned: π spoke, so r = log π_ref − log π."),
        (-r, "this is k1 = log π − log π_ref, which can be negative."),
        (r**2 / 2, "this is k2 = r² / 2, which is biased."),
        (torch.exp(r) - r, "e^r − r is 1 where the two policies agree; a KL is 0 there."),
    )
    hint = "Two tensors of one shape come in; r is their difference, and torch.expm1(r) is e^r − 1."
    settle(call(function, LOGP, REF, hint=hint), torch.expm1(r) - r, mistakes)
    near = torch.full((1000,), -1.0)
    answer = torch.as_tensor(call(function, near, near + 1e-4, hint=hint))
    if not close(answer * 1e9, torch.full((1000,), 5.0), 0.02):
        raise NotYet(
            "right where the policies differ, but near 0 e^r − 1 − r is rounding noise in float32:"
            " use torch.expm1(r) − r."
        )
