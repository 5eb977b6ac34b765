"""Sampling: prompts in, responses with their log-probabilities out, and the pairs and thumbs
of raters.

`sampling` reads as plain `generate` first, `decoder` is the fast path under it; nothing here
trains.
"""

from labkit.rollout.pairs import preference_pairs, thumbs, told_apart
from labkit.rollout.sampling import Rollout, answer, sample

__all__ = ["Rollout", "answer", "preference_pairs", "sample", "thumbs", "told_apart"]
