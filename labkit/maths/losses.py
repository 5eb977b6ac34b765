"""The losses of the series: tensors in, `(loss, metrics)` out. No model, no loop.

Each function is its paper's equation. `loss` is a scalar to call `.backward()` on; `metrics` holds
0-d tensors without gradient (`float(m)` when you log them, once a step, so that a GPU need not stop
for each).

Axes: B sequences, T *predicted* tokens, that is the columns of `logprobs.response_logprobs`; masks
are shifted with `logprobs.shift_mask` and hold 1 at response tokens. What stands at mask 0 does not
count.
"""

import torch
import torch.nn.functional as F

from labkit.maths.logprobs import kl_k3, last_index, masked_mean, masked_var

# learning from answers ---------------------------------------------------------------------------


def sft_loss(logprobs, response_mask):
    """Supervised fine-tuning: mean negative log-probability of the response tokens.

        L = -1/N Σ_t log π(y_t | x, y_<t)

    logprobs (B, T), response_mask (B, T). The prompt is read, never learnt: its tokens have mask 0.
    The mean is over all N response tokens of the batch. With the attention mask instead:
    pre-training. Ouyang et al., "Training language models to follow instructions" (InstructGPT,
    2022), section 3.5.
    """
    loss = -masked_mean(logprobs, response_mask)
    return loss, {"perplexity": loss.detach().exp(), "tokens": response_mask.bool().sum()}


# learning from comparisons -----------------------------------------------------------------------


def bradley_terry_loss(chosen_rewards, rejected_rewards):
    """Reward model: the better answer of a pair should get the higher reward.

        L = -E[log σ(r(x, y_w) - r(x, y_l))]

    chosen_rewards (B,), rejected_rewards (B,). Only the difference counts: rewards have no zero of
    their own. Bradley and Terry (1952); InstructGPT (2022), equation 1, for K = 2.
    """
    margin = chosen_rewards - rejected_rewards  # (B,)
    loss = -F.logsigmoid(margin).mean()
    return loss, {"accuracy": (margin > 0).float().mean(), "margin": margin.detach().mean()}


def dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    """Direct preference optimisation: the same comparison, with the policy as its own reward model.

        L = -E[log σ(β log π(y_w|x)/π_ref(y_w|x) - β log π(y_l|x)/π_ref(y_l|x))]

    All four (B,): a response's *summed* log-probabilities (`masked_sum(logprobs, mask, dim=1)`), no
    mean. β log π/π_ref is the implicit reward (metrics); β says how dear it is to leave the
    reference. Rafailov et al., "Direct Preference Optimization" (2023), equation 7.
    """
    chosen_reward = beta * (policy_chosen - ref_chosen)  # (B,)
    rejected_reward = beta * (policy_rejected - ref_rejected)
    loss, metrics = bradley_terry_loss(chosen_reward, rejected_reward)
    metrics["chosen_reward"] = chosen_reward.detach().mean()
    metrics["rejected_reward"] = rejected_reward.detach().mean()
    return loss, metrics


def kto_loss(
    policy_logps, ref_logps, desirable, beta, kl, desirable_weight=1.0, undesirable_weight=1.0
):
    """Kahneman-Tversky optimisation: thumbs up or down, no pairs.

        z = β (log π(y|x)/π_ref(y|x) - kl)
        L = E[λ_D (1 - σ(z)) for a desirable answer, λ_U (1 - σ(-z)) for an undesirable one]

    policy_logps, ref_logps (B,): sums over response tokens. desirable (B,): 1 = thumb up. `kl` (a
    number or a 0-d tensor) is the reference point, estimated as the batch mean of log π - log π_ref
    over prompts with *another* prompt's answer; below 0 it is taken as 0, and no gradient goes
    through it. The two weights even out unequal numbers of thumbs. A metric over answers that the
    batch does not hold is 0. Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic
    Optimization" (2024), section 4.
    """
    up = desirable.bool()
    kl = (
        torch.as_tensor(kl, dtype=policy_logps.dtype, device=policy_logps.device)
        .detach()
        .clamp(min=0)
    )
    logratio = policy_logps - ref_logps  # (B,)
    z = beta * (logratio - kl)
    losses = torch.where(
        up, desirable_weight * (1 - z.sigmoid()), undesirable_weight * (1 - (-z).sigmoid())
    )
    reward = beta * logratio.detach()
    desirable_reward, undesirable_reward = masked_mean(reward, up), masked_mean(reward, ~up)
    return losses.mean(), {
        "kl": kl,
        "desirable_reward": desirable_reward,
        "undesirable_reward": undesirable_reward,
        "margin": desirable_reward - undesirable_reward,
    }


# PPO ---------------------------------------------------------------------------------------------


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

        δ_t = R_t + γ V_{t+1} - V_t          (V = 0 after the last response token: the answer is over)
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
