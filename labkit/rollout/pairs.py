"""A policy's own answers, in pairs or one by one, judged by a simulated rater or by a model."""

import random
from collections import Counter

from labkit import LabError, atlas
from labkit.data import Pair, Rating
from labkit.rollout.sampling import answer

SIDES = {"a": 1.0, "b": -1.0, "same": 0.0}


def differ(one: str, other: str) -> bool:
    """Whether two answers are worth a verdict: neither is empty, and they are not the same."""
    return bool(one.strip() and other.strip()) and one.strip() != other.strip()


def told_apart(
    prompts, a, b, rater, seen: Counter | None = None, graded: bool = False
) -> list[Pair]:
    """A Pair for each two answers between which `rater` decides; a[i] and b[i] answer prompts[i].

    The rule of what a verdict teaches is here and nowhere else: an empty answer and two equal ones
    are not shown to the rater; two that he calls "the same" give no pair, on neither side. `seen`
    counts both: "compared" (pairs shown to the rater) and "same" (ties, left out). `graded`: each
    pair's margin is how much better the rater feels the chosen answer to be (Rater.felt).
    """
    seen, pairs = Counter() if seen is None else seen, []
    for prompt, one, other in zip(prompts, a, b, strict=True):
        if not differ(one, other):
            continue
        shown = prompt, one, other
        felt = rater.felt(*shown) if graded else SIDES[rater.compare(*shown)]
        seen["compared"] += 1
        if felt == 0:
            seen["same"] += 1
        else:
            chosen, rejected = (one, other) if felt > 0 else (other, one)
            pairs.append(Pair(prompt, chosen, rejected, rater.name, abs(felt) if graded else 0.0))
    return pairs


def preference_pairs(
    model,
    tokenizer,
    cfg,
    n: int,
    rater=None,
    split: str = "train",
    seen: Counter | None = None,
    label=None,
    prompts=None,
) -> list[Pair]:
    """`n` pairs of the active policy's own answers to `prompts` (default: the atlas's questions),
    each judged by `rater` (default: the careful one, seeded by cfg.seed), or all together by
    `label`, a function of (prompts, a, b) → pairs (judging.Verdicts.labels).

    Two answers are sampled per prompt; pairs that teach nothing (see `told_apart`, also for `seen`)
    are drawn again. cfg gives seed and max_response_tokens. Raises LabError when the policy answers
    (nearly) always the same.
    """
    rater = rater or atlas.Rater(seed=cfg.seed)
    label = label or (lambda asked, a, b: told_apart(asked, a, b, rater, seen))
    rng, train = random.Random(f"pairs{cfg.seed}"), split == "train"
    if prompts is None:
        prompts = atlas.feedback_prompts(cfg.seed) if train else atlas.prompts(split, cfg.seed)
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
        pairs += label(asked, both[: len(asked)], both[len(asked) :])
        tried += len(asked)
    return pairs[:n]


def thumbs(model, tokenizer, cfg, n: int, rater=None, split: str = "train") -> list[Rating]:
    """`n` of the active policy's own answers to atlas questions, one a question, each with the
    thumb of `rater` (default: the careful one, seeded by cfg.seed).

    An empty answer is not shown to the rater, so there may be fewer. cfg gives seed and
    max_response_tokens.
    """
    rater = rater or atlas.Rater(seed=cfg.seed)
    rng, train = random.Random(f"thumbs{cfg.seed}"), split == "train"
    prompts = atlas.feedback_prompts(cfg.seed) if train else atlas.prompts(split, cfg.seed)
    asked = prompts[:n] if len(prompts) >= n else rng.choices(prompts, k=n)
    said = answer(model, tokenizer, asked, cfg.max_response_tokens)
    both = [(prompt, text) for prompt, text in zip(asked, said, strict=True) if text.strip()]
    return [Rating(prompt, text, rater.thumb(prompt, text)) for prompt, text in both]
