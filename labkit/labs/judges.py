"""Judges of answers, by one interface (rollout.judging.Verdicts), wherever they come from.

trained(run)        a model that learned to judge from seed judgements (the ai_feedback stage)
prompted(base)      a model as it is, asked in words, with examples or without
simulated(rater)    a simulated rater, who knows the atlas: for comparison
"""

import torch

from labkit import atlas, config, models, runs
from labkit.rollout import judging

LOWEST, HIGHEST = (
    -2.0,
    1.0,
)  # of the utilities of nearly all answers: wrong and long, right and short


def trained(run="", beside=None) -> judging.Judge:
    """The judge of an ai_feedback run (a Run or its name; "" is the newest, else the shipped one):
    an adapter "judge" on a base of its own, or beside those of (model, tokenizer).
    """
    run = runs.latest("ai_feedback", run) if isinstance(run, str) else run
    model, tokenizer = beside or models.load_base(models.base_of(run))
    model = models.load_adapter(model, run, "judge").eval()
    return judging.Judge(model, tokenizer, "judge", run.config.question)


def prompted(base: str = "", examples=(), question: str = judging.QUESTION) -> judging.Judge:
    """A base as it is, asked in words; examples: pairs judged before its eyes (few-shot)."""
    return judging.Judge(*models.load_base(base), "", question, examples)


def of_profile(profile: config.Profile, examples=()) -> judging.Judge:
    """The judge that a notebook begins with: where the profile makes its own base, the one that was
    trained to judge, else the profile's model, prompted.
    """
    base = profile.ai_feedback.base
    return prompted(base, examples) if base else trained()


class Simulated(judging.Verdicts):
    """A simulated rater in a judge's place: no position sways him. His scores are his utility on a
    scale of 1 to 10 (`on_scale`).
    """

    def __init__(self, rater: atlas.Rater):
        self.rater, self.name = rater, rater.name

    def utilities(self, prompts, answers) -> torch.Tensor:
        """What he feels that each answer is worth (N,)."""
        told = zip(prompts, answers, strict=True)
        return torch.tensor([self.rater.utility(*one) for one in told])

    def first(self, prompts, a, b, question=None):
        ahead = self.utilities(prompts, a) - self.utilities(prompts, b)
        return (ahead / max(self.rater.temperature, 1e-6)).sigmoid(), torch.ones(len(ahead))

    def scores(self, prompts, answers):
        return on_scale(self.utilities(prompts, answers))


def on_scale(utilities: torch.Tensor) -> torch.Tensor:
    """Utilities (N,) on a scale of 1 to 10, LOWEST to HIGHEST."""
    return 1 + 9 * ((utilities - LOWEST) / (HIGHEST - LOWEST)).clamp(0, 1)
