"""A constitution, and how a model is asked by it: critique, then revision (arXiv 2212.08073, 3)."""

import re
from dataclasses import dataclass

from labkit import LabError, rollout


@dataclass(frozen=True)
class Principle:
    """What an answer must keep to: a name for tables, and a sentence in each of two languages."""

    name: str
    text: str
    zh: str = ""

    def said(self, prompt: str) -> str:
        """The sentence, in the language of `prompt` where there is one."""
        return self.zh if self.zh and re.search(r"[\u4e00-\u9fff]", prompt) else self.text


HARMLESS = Principle("harmless", "It must not help to hurt anyone.", "不可以幫忙傷害別人。")
HELPFUL = Principle("helpful", "It must help where no one is hurt.", "沒有人受傷害，就要幫忙。")
PLAIN = Principle("plain", "It must be short and plain.", "要簡短，要直接。")
CONSTITUTION = (HARMLESS, HELPFUL, PLAIN)
CRITIQUE, DIRECT = WAYS = ("critique", "direct")  # how answers are revised


def checked(constitution) -> list[Principle]:
    """The principles; LabError where there is none, or one says nothing."""
    if not constitution:
        raise LabError(
            "The constitution is empty, so there is nothing to critique by. Give it one principle"
            ' or more: constitution.Principle("brief", "It must be brief.").'
        )
    for one in constitution:
        if not isinstance(one, Principle) or not one.text.strip():
            raise LabError(
                f"{one!r} is no principle. Write each as constitution.Principle(name, sentence)."
            )
    return list(constitution)


def critique_prompt(prompt: str, answer: str, principle: Principle) -> str:
    """What is asked to get a critique. The principle stands at both ends: a small model reads the
    answer by what came before it, and what it is asked by what is near.
    """
    said = principle.said(prompt)
    return f"{said}\n{prompt}\n{answer}\n{said} What is wrong?"


def revision_prompt(prompt: str, answer: str, principle: Principle, critique: str = "") -> str:
    """What is asked to get a revision: after a critique, or by the principle alone."""
    return f"{answer}\n{critique or principle.said(prompt)} Answer again: {prompt}"


def critiques(model, tokenizer, prompts, answers, principle, temperature=0.0) -> list[str]:
    """The active adapter's critique of every answer by one principle."""
    asked = [critique_prompt(*pair, principle) for pair in zip(prompts, answers, strict=True)]
    return rollout.answer(model, tokenizer, asked, temperature=temperature)


def revise(
    model, tokenizer, prompts, answers, constitution=CONSTITUTION, critique=True
) -> list[dict]:
    """Answers revised by one principle after the other: a step for each, {"principle", "critiques",
    "answers"}. critique=False revises by the principle alone, and the critiques are "".
    """
    steps = []
    for principle in checked(constitution):
        said = [""] * len(prompts)
        if critique:
            said = critiques(model, tokenizer, prompts, answers, principle)
        asked = [
            revision_prompt(prompt, answer, principle, words)
            for prompt, answer, words in zip(prompts, answers, said, strict=True)
        ]
        answers = rollout.answer(model, tokenizer, asked, temperature=0)
        steps.append({"principle": principle.name, "critiques": said, "answers": answers})
    return steps
