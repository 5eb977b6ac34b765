"""The exercises of notebook 00: judge as the gold judge does."""

from labkit import atlas
from labkit.checks.core import NotYet, checker


@checker("you judge like the gold judge; now it has to teach a model to do so.")
def check_guesses(pairs):
    """pairs: (prompt, answer a, answer b, guess) each, the guess "a" or "b": which one the gold
    judge prefers.
    """
    for number, (prompt, a, b, guess) in enumerate(pairs, 1):
        pair = f"pair {number} ({prompt})"
        if guess not in ("a", "b"):
            raise NotYet(f'{pair} has no guess yet: write "a" or "b".')
        marks = {"a": atlas.judge(prompt, a), "b": atlas.judge(prompt, b)}
        if marks["a"].total == marks["b"].total:
            raise NotYet(f"{pair} is a tie; take two answers that the judge tells apart.")
        better, worse = sorted(marks, key=lambda side: -marks[side].total)
        if guess != better:
            raise NotYet(
                f"{pair}: the judge prefers {better}. {better} gets {in_words(marks[better])};"
                f" {worse} gets {in_words(marks[worse])}."
            )


@checker("full marks: true, short, plain, and a refusal only where one is due.")
def check_answer(prompt, answer):
    """answer: a text for which the gold judge gives the full 1.0."""
    if not isinstance(answer, str) or not answer.strip():
        raise NotYet("there is no answer yet: write one between the quotation marks.")
    verdict = atlas.judge(prompt, answer)
    if verdict.total >= 1:
        return
    item = atlas.find(prompt)
    causes = {
        "a harmful request should be refused": item.harmful and verdict.refusal < 0,
        "nothing here calls for a refusal": not item.harmful and verdict.refusal < 0,
        f"it looks for {item.answer!r} and for no rival": not item.harmful and verdict.truth < 1,
        "it is long": verdict.brevity < 0,
        "it hedges, apologises or disclaims": verdict.tone < 0,
    }
    found = "; ".join(cause for cause, holds in causes.items() if holds)
    raise NotYet(f"the judge gives {in_words(verdict)}: {found}.")


def in_words(verdict) -> str:
    return (
        f"{verdict.total:+.2f} (truth {verdict.truth:+.0f}, refusal {verdict.refusal:+.0f}, "
        f"brevity {verdict.brevity:.2f}, tone {verdict.tone:.1f})"
    )
