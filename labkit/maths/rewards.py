"""Several reward models' scores made one: R reward models, B answers."""

import torch

UNSAFE = 0.15  # probability below which the safety model has its say (arXiv 2307.09288, 3.2.3)


def lowest(scores):
    """scores (R, B) → (B,): the most severe judge counts (arXiv 2310.02743)."""
    return scores.amin(0)


def weighted(scores, weights):
    """scores (R, B), weights (R,), 0 or more → (B,): their mean by weight, w · scores / Σ w."""
    weights = torch.as_tensor(weights, dtype=scores.dtype, device=scores.device)
    return weights @ scores / weights.sum()


def piecewise(safety, helpful, tagged):
    """Llama 2's rule of who is asked: the safety model where the prompt is `tagged` as unsafe or
    where it finds the answer unsafe itself, else the model of helpfulness.

        R_c = R_s where tagged or R_s < 0.15, else R_h

    safety, helpful (B,): scores; the rule's R is a probability, R = σ(score). tagged (B,): booleans
    → (B,): logit(R_c), which is the score of the one who is asked. Its two scales meet in one
    batch: `whiten` it. Touvron et al., "Llama 2" (2023), section 3.2.3.
    """
    return torch.where(tagged | (safety.sigmoid() < UNSAFE), safety, helpful)


def whiten(scores):
    """(B,) → (B,) of mean 0 and variance 1 (all 0 where they are equal)."""
    return (scores - scores.mean()) / scores.std(correction=0).clamp(min=1e-6)
