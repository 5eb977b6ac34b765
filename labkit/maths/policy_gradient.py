"""Policy gradients: token rewards, advantages, PPO's two clipped losses. Axes: see losses.py."""

import torch

from labkit.maths.kl import kl_k3
from labkit.maths.logprobs import last_index, masked_mean, masked_var


def shaped_rewards(score, logprobs, ref_logprobs, mask, beta):
    """The reward of every token: a toll for leaving the reference, and the reward model's score at
    the end.

        R_t = -β (log π(y_t) - log π_ref(y_t)) + [t is the last response token] · r(x, y)

    score (B,), logprobs, ref_logprobs, mask (B, T) → (B, T); 0 outside the response. The score is
    paid once. Log-probabilities are those at sampling time, so these rewards are constants: no
    gradient. Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), section
    2; InstructGPT (2022), equation 2.
    """
    with torch.no_grad():
        rewards = (-beta * (logprobs - ref_logprobs)).where(mask.bool(), 0.0)
        rows = torch.arange(len(score), device=score.device)
        rewards[rows, last_index(mask)] += score
        return rewards.where(mask.bool(), 0.0)  # a row without response tokens earns nothing


def gae(rewards, values, mask, gamma=1.0, lam=0.95):
    """Generalised advantage estimation: how much better each token was than the critic expected.

        δ_t = R_t + γ V_{t+1} - V_t          (V = 0 after the last token: the answer is over)
        A_t = δ_t + γ λ A_{t+1}              returns_t = A_t + V_t

    rewards, values, mask (B, T) → advantages, returns, both (B, T), 0 outside the response, without
    gradient. values[:, t] is the critic's guess *before* token t. The 1s in a row of the mask stand
    together. Returns are made here, from advantages that nobody has whitened yet: the critic must
    learn real rewards. λ = 1: reward-to-go minus value (no bias, much spread); λ = 0: one step,
    trusting the critic. Schulman et al., "High-Dimensional Continuous Control Using GAE" (2016),
    equation 16.
    """
    with torch.no_grad():
        valid = mask.bool()
        rewards, values = rewards.where(valid, 0.0), values.where(valid, 0.0)
        advantages = torch.zeros_like(values)
        next_value = next_advantage = torch.zeros_like(values[:, 0])  # (B,)
        for t in reversed(range(values.shape[1])):
            delta = rewards[:, t] + gamma * next_value - values[:, t]
            advantages[:, t] = (delta + gamma * lam * next_advantage).where(valid[:, t], 0.0)
            next_value, next_advantage = values[:, t], advantages[:, t]
        return advantages, advantages + values


def ppo_policy_loss(new_logprobs, old_logprobs, advantages, mask, clip=0.2):
    """PPO's clipped objective, as a loss.

        ρ_t = π(y_t) / π_old(y_t)
        L = -E_t[min(ρ_t A_t, clip(ρ_t, 1 - ε, 1 + ε) A_t)]

    new_logprobs (B, T) with gradient; old_logprobs, advantages (whitened) and mask (B, T). Mean
    over response tokens. Metrics, over response tokens too:
      `approx_kl`         k3 estimate of KL(π_old ‖ π)
      `clip_fraction`     share of tokens where the clip decides, so that they push no further
      `ratio_mean`, `ratio_var` `max_abs_logratio`  ≈ 0 on the first minibatch, when both policies
      are the same; if it is not, the
                          rollout and the training forward pass disagree
    Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equation 7.
    """
    # Pads get ratio 1 *before* the exponential: exp(garbage) = inf makes the gradient NaN, masked
    # or not.
    logratio = (new_logprobs - old_logprobs).where(mask.bool(), 0.0)  # (B, T)
    ratio = logratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = masked_mean(torch.maximum(unclipped, clipped), mask)
    with torch.no_grad():
        metrics = {
            "approx_kl": masked_mean(kl_k3(old_logprobs, new_logprobs), mask),  # π_old sampled
            "clip_fraction": masked_mean((clipped > unclipped).float(), mask),
            "ratio_mean": masked_mean(ratio, mask),
            "ratio_var": masked_var(ratio, mask),
            "max_abs_logratio": logratio.abs().max(),
        }
    return loss, metrics


def ppo_value_loss(new_values, old_values, returns, mask, clip=0.2):
    """The critic's squared error, with a guess that may move at most ε from the old one.

        L = ½ E_t[max((V_t - R_t)², (clip(V_t, V_old - ε, V_old + ε) - R_t)²)]

    new_values (B, T) with gradient; old_values, returns (of `gae`), mask (B, T). Mean over response
    tokens. `value_clip_fraction`: share of tokens where the clip decides. Not in the PPO paper:
    OpenAI baselines' ppo2, kept in lm-human-preferences (Ziegler et al., 2019).
    """
    new_values, old_values, returns = (
        x.where(mask.bool(), 0.0) for x in (new_values, old_values, returns)
    )
    limited = torch.minimum(torch.maximum(new_values, old_values - clip), old_values + clip)
    unclipped, clipped = (new_values - returns) ** 2, (limited - returns) ** 2
    loss = 0.5 * masked_mean(torch.maximum(unclipped, clipped), mask)
    with torch.no_grad():
        metrics = {
            "value_clip_fraction": masked_mean((clipped > unclipped).float(), mask),
            "value_mean": masked_mean(new_values, mask),
            "return_mean": masked_mean(returns, mask),
        }
    return loss, metrics
