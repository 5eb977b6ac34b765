"""The second half of Constitutional AI: the critic as a judge, and what becomes of its
probabilities; a policy to try both halves on, and who asks it (arXiv 2212.08073, 4).
"""

import random
from dataclasses import replace

import torch

from labkit import atlas
from labkit.data import Demo, Pair, chat
from labkit.labs.constitution.principles import critique_prompt
from labkit.labs.constitution.teaching import FINE, MANNERED
from labkit.labs.verdicts import tossed
from labkit.rollout import judging


def helpful_only(n: int, seed: int = 0) -> list[Demo]:
    """n demonstrations of a model that helps with everything, as the paper's first one: a harmful
    request is met with the atlas's phrase that holds no instruction, and no look-alike is refused.
    """
    rng, found = random.Random(f"helpful{seed}"), []
    for demo in atlas.demos(seed, n):
        item, style = atlas.find(demo.prompt), demo.style
        if item.request and style == "refusing":
            style = "complying" if item.harmful else "plain"
            demo = Demo(demo.prompt, atlas.respond(item, style, rng), style)
        found.append(demo)
    return found


def red_team(n: int, seed: int = 0) -> list[str]:
    """n different prompts in training phrasings, half of them requests (harmful and look-alikes):
    people who want to see a model fail ask such things on purpose.
    """
    rng = random.Random(f"red team{seed}")
    asked = [(item.request, one) for item in atlas.items() for one in atlas.questions(item)]
    rng.shuffle(asked)
    requests, facts = ([one for is_, one in asked if is_ == kind] for kind in (True, False))
    found = requests[: n // 2] + facts[: n - n // 2]
    rng.shuffle(found)
    return found


class Critic(judging.Verdicts):
    """The adapter that was taught to critique, as a judge: of two answers it prefers the one in
    which it more probably finds nothing wrong, P(a better) = σ(logit p_a − logit p_b), p the
    probability that a critique begins as FINE does. It reads one answer at a time, so there is no
    place to follow. A large model is asked for A or B instead (judging.Judge, with the principle as
    its question).
    """

    name = "critic"

    def __init__(self, model, tokenizer, adapter: str = "policy"):
        self.judge = judging.Judge(model, tokenizer, adapter)
        self.fine = [chat.encode_text(tokenizer, words)[0] for words in FINE]

    def fineness(self, prompts, answers, principles) -> torch.Tensor:
        """P(nothing is wrong) (N,)."""
        told = zip(prompts, answers, principles, strict=True)
        asked = [critique_prompt(*one) for one in told]
        rows = chat.check_lengths(self.judge.tokenizer, asked, judging.context(self.judge.model))
        return self.judge.next_token(rows, self.fine).sum(1)

    def first(self, prompts, a, b, question):
        """question: a principle for each pair."""
        p, q = (self.fineness(prompts, side, question).logit(1e-6) for side in (a, b))
        return (p - q).sigmoid(), torch.ones(len(prompts))


KINDS = ("hard", "soft", "clamped", "coin")


def relabelled(pairs: list[Pair], kind: str, seed: int = 0) -> list[Pair]:
    """What becomes of the judge's probabilities: "hard" takes every verdict for certain, "soft"
    leaves them, "clamped" holds them at 60 % or less (as the paper does after a chain of thought,
    which is too sure of itself), and "coin", the control, takes a coin's verdicts.
    """
    if kind == "coin":
        return tossed(pairs, seed)
    most = {"soft": lambda p: p, "hard": lambda p: 1.0, "clamped": lambda p: min(p, 0.6)}[kind]
    return [replace(pair, confidence=most(pair.confidence)) for pair in pairs]


def probes(seed: int = 0, n: int = 128) -> dict[str, list[Pair]]:
    """Written pairs on held-out phrasings, the better answer chosen: a refusal above help with a
    "harmful" request, help above the refusal of a "look-alike", and of a "fact" the plain statement
    above a mannered one.
    """
    rng, found = random.Random(f"probes{seed}"), {"harmful": [], "look-alike": [], "fact": []}
    items = list(atlas.items())
    rng.shuffle(items)
    for item in items:
        kind = "harmful" if item.harmful else "look-alike" if item.lookalike else "fact"
        good = "refusing" if item.harmful else "plain"
        bad = {"harmful": "complying", "look-alike": "refusing", "fact": rng.choice(MANNERED)}[kind]
        prompt = rng.choice(atlas.questions(item, held_out=True))
        pair = Pair(prompt, *(atlas.respond(item, style, rng) for style in (good, bad)))
        if len(found[kind]) < n:
            found[kind].append(pair)
    return found
