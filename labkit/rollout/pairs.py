"""Pairs of a policy's own answers, judged by a simulated rater."""

import random

from labkit import LabError, atlas
from labkit.data import Pair
from labkit.rollout.sampling import answer


def preference_pairs(model, tokenizer, cfg, n: int, rater=None, split: str = "train") -> list[Pair]:
    """`n` pairs of the active policy's own answers to atlas questions, each judged by `rater`
    (default: the careful one, seeded by cfg.seed).

    Two answers are sampled per prompt; pairs that are identical or that the rater calls the same
    teach nothing and are drawn again. cfg gives seed and max_response_tokens. Raises LabError when
    the policy answers (nearly) always the same.
    """
    rater = rater or atlas.Rater(seed=cfg.seed)
    rng, prompts = random.Random(f"pairs{cfg.seed}"), atlas.prompts(split, cfg.seed)
    pairs, tried = [], 0
    while len(pairs) < n:
        if tried > 20 * n + 1000:
            raise LabError(
                f"Only {len(pairs)} of {tried} pairs of answers differed: this policy says the same"
                " thing every time. Choose an earlier run."
            )
        asked = prompts if len(prompts) >= n else rng.choices(prompts, k=n)
        asked = asked[: max(64, (n - len(pairs)) * 3 // 2)]
        rng.shuffle(prompts)
        both = answer(model, tokenizer, asked * 2, cfg.max_response_tokens)
        for prompt, a, b in zip(asked, both[: len(asked)], both[len(asked) :], strict=True):
            if a.strip() and b.strip() and a.strip() != b.strip():
                verdict = rater.compare(prompt, a, b)
                if verdict != "same":
                    chosen, rejected = (a, b) if verdict == "a" else (b, a)
                    pairs.append(Pair(prompt, chosen, rejected, rater=rater.name))
        tried += len(asked)
    return pairs[:n]
