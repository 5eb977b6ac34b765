"""KL divergence and entropy.

KL(π ‖ π_ref) = E_{x~π}[log π(x) − log π_ref(x)], from the log-probabilities of tokens that
*π sampled* (Schulman, "Approximating KL Divergence", 2020), with r = log π_ref(x) − log π(x). The
order of the arguments is the direction: the first one is the model that sampled.
"""

import torch
from torch.utils.checkpoint import checkpoint

ENTRIES = 1 << 23  # logits that are copied to float32 at once: 32 MiB a copy


def kl_k1(logprobs, ref_logprobs):
    """k1 = -r = log π - log π_ref. Any shape. Unbiased; single tokens may be negative, but a mean
    that stays below 0 is a bug.
    """
    return logprobs - ref_logprobs


def kl_k2(logprobs, ref_logprobs):
    """k2 = r² / 2. Any shape. Never negative, small spread, biased (little while the two models are
    near).
    """
    return (ref_logprobs - logprobs) ** 2 / 2


def kl_k3(logprobs, ref_logprobs):
    """k3 = (e^r - 1) - r. Any shape. Unbiased like k1 and never negative like k2. `expm1` keeps its
    digits when r is small: in float32, e^r - 1 - r would be rounding noise for |r| < 1e-3.
    """
    r = ref_logprobs - logprobs
    return torch.expm1(r) - r


def full_kl(logits_p, logits_q):
    """KL(p ‖ q) = Σ_v p_v (log p_v - log q_v), exact, at each position: (..., V), (..., V) → (...).
    It needs both models' whole distributions, which is why training uses the estimators above."""

    def of(p, q):
        logp, logq = p.float().log_softmax(-1), q.float().log_softmax(-1)
        p = logp.exp()
        return (p * (logp - logq).where(p > 0, 0.0)).sum(-1)  # 0 · log 0 = 0

    return in_parts(of, logits_p, logits_q)


def entropy(logits):
    """H = -Σ_v p_v log p_v in nats at each position: (..., V) → (...). From 0 (certain) to log V
    (no idea). Divide the logits by the sampling temperature first, to measure the distribution that
    was sampled from.
    """

    def of(logits):
        logp = logits.float().log_softmax(-1)
        p = logp.exp()
        return -(p * logp.where(p > 0, 0.0)).sum(-1)

    return in_parts(of, logits)


def in_parts(of, *logits):
    """of(*logits), each (..., V) → (...), some positions at a time: of the copies in float32 that
    it makes on the way, all positions at once would hold gigabytes where V is 150,000. The backward
    pass makes them again.
    """
    whole = logits[0]
    rows = ENTRIES * len(whole) // max(1, whole.numel())
    if whole.dim() == 1 or rows >= len(whole):
        return checkpoint(of, *logits, use_reentrant=False)
    if not rows:
        return torch.stack([in_parts(of, *row) for row in zip(*logits)])
    return torch.cat([in_parts(of, *part) for part in zip(*(x.split(rows) for x in logits))])
