"""The exercises of notebook 07: the clipped objective, the k3 estimate of a KL, and GAE."""

import torch

from labkit.checks.core import NotYet, call, checker, close, settle, solved


@solved(
    "too far in the good direction earns nothing more; a step in the bad one is always paid for.",
    ((1.0, 0.7, 0.2), "Nothing has moved yet (ratio 1): it is the advantage itself."),
    ((1.5, 1.0, 0.2), "With A > 0 there is nothing to gain above 1 + ε: clip the ratio there."),
    ((0.5, 1.0, 0.2), "With A > 0 a fallen ratio must stay painful: take the lesser product."),
    ((0.5, -1.0, 0.2), "With A < 0 there is nothing to gain below 1 − ε: clip the ratio there."),
    ((1.5, -1.0, 0.2), "With A < 0 a grown ratio is not clipped: the *larger* loss counts."),
    ((1.3, 2.0, 0.1), "ε is an argument, and the advantage multiplies *after* the clip."),
)
def check_clipped_objective(ratio, advantage, epsilon):
    """function(ratio, advantage, epsilon) → min(ratio · advantage, clip(ratio, 1 − ε, 1 + ε) ·
    advantage), floats.
    """
    return min(ratio * advantage, max(1 - epsilon, min(1 + epsilon, ratio)) * advantage)


@checker("never negative, and right on average.")
def check_k3(function):
    """function(logprobs, ref_logprobs) → (e^r − 1) − r with r = log π_ref − log π, for tokens that
    π sampled; tensors of any shape.
    """
    logp, ref = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -0.5, -0.5])
    r = ref - logp
    mistakes = (
        (torch.expm1(-r) + r, "the direction is turned: π spoke, so r = log π_ref − log π."),
        (-r, "this is k1 = log π − log π_ref, which can be negative."),
        (r**2 / 2, "this is k2 = r² / 2, which is biased."),
        (torch.exp(r) - r, "e^r − r is 1 where the two policies agree; a KL is 0 there."),
    )
    settle(call(function, logp, ref), torch.expm1(r) - r, mistakes)
    near = torch.full((1000,), -1.0)
    answer = torch.as_tensor(call(function, near, near + 1e-4))
    if not close(answer * 1e9, torch.full((1000,), 5.0), 0.02):
        raise NotYet(
            "right where the policies differ, but near 0 e^r − 1 − r is rounding noise in float32:"
            " use torch.expm1(r) − r."
        )


@solved(
    "the blame and the praise are spread over the tokens.",
    (([1.0], [0.25], 1.0, 0.95), "One token: the advantage is the reward minus what was expected."),
    (([0.0, 0.0, 1.0], [0.0] * 3, 1.0, 1.0), "λ = 1, V = 0: A is the reward still to come."),
    (([0.0, 0.0, 1.0], [0.5] * 3, 1.0, 0.0), "λ = 0: only the next step counts; V ends at 0."),
    (([0.5, -1.0, 2.0], [0.1, 0.4, -0.3], 0.9, 0.8), "γ discounts V_{t+1}, γ λ together A_{t+1}."),
)
def check_gae(rewards, values, gamma, lam):
    """function(rewards, values, gamma, lam: lists of floats and two floats) → the list of
    advantages, by A_t = δ_t + γ λ A_{t+1}, δ_t = R_t + γ V_{t+1} − V_t, and nothing after the last
    token.
    """
    advantages, later, next_value = [], 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values)):
        later = reward + gamma * next_value - value + gamma * lam * later
        advantages.insert(0, later)
        next_value = value
    return advantages
