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

from labkit.maths.logprobs import masked_mean
from labkit.maths.policy_gradient import gae as gae  # for notebooks: all losses by one name
from labkit.maths.policy_gradient import ppo_policy_loss as ppo_policy_loss
from labkit.maths.policy_gradient import ppo_value_loss as ppo_value_loss
from labkit.maths.policy_gradient import shaped_rewards as shaped_rewards

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


def bradley_terry_loss(chosen_rewards, rejected_rewards, margin=0.0, confidence=1.0):
    """Reward model: the better answer of a pair should get the higher reward.

        d = r(x, y_w) - r(x, y_l) - m
        L = -E[c log σ(d) + (1 - c) log σ(-d)]

    chosen_rewards (B,), rejected_rewards (B,). Only the difference counts: rewards have no zero of
    their own. Bradley and Terry (1952); InstructGPT (2022), equation 1, for K = 2.

    margin m, a number or (B,): by how much the better answer should be ahead, where raters said how
    much better it is (Llama 2, 2023, equation 2). confidence c, a number or (B,): how probable it
    is that the chosen answer is the better one, where a judge gave a probability (Constitutional
    AI, 2022, section 4.1: soft labels). Metrics are of the difference without the margin.
    """
    difference = chosen_rewards - rejected_rewards  # (B,)
    ahead = difference - margin
    # -c log σ(d) - (1 - c) log σ(-d), since log σ(-d) = log σ(d) - d.
    loss = (-F.logsigmoid(ahead) + (1 - confidence) * ahead).mean()
    difference = difference.detach()
    return loss, {"accuracy": (difference > 0).float().mean(), "margin": difference.mean()}


def thurstone_loss(chosen_means, rejected_means, chosen_variances, rejected_variances):
    """A reward that is a distribution: what an answer is worth differs from person to person.

        z = (μ_w - μ_l) / √(σ²_w + σ²_l)
        L = -E[log Φ(z)]

    All four (B,), variances above 0. Where raters are divided, a large variance explains it; where
    they are of one mind about an answer that is as good on average, a small one does. Only z
    counts: a common factor of all μ and σ changes nothing, and from comparisons of the same two
    answers alone μ and σ can't be told apart. Thurstone (1927), case III; Siththaranjan, Laidlaw &
    Hadfield-Menell, "Distributional preference learning" (arXiv 2312.08358), mean and variance.
    """
    z = (chosen_means - rejected_means) / (chosen_variances + rejected_variances).sqrt()  # (B,)
    loss = -torch.special.log_ndtr(z).mean()
    return loss, {"accuracy": (z > 0).float().mean().detach(), "z": z.detach().mean()}


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
