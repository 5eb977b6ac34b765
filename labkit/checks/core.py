"""What every checker is made of: calling a learner's function, comparing its answer, hinting."""

import copy
import functools

import torch

from labkit.checks import noting
from labkit.config import LabError

# Errors whose own words say little to somebody who meets them for the first time.
IN_WORDS = {
    StopIteration: "`next` found nothing; its second argument is what it gives then",
    IndexError: "it asks for a place that the list does not have",
    KeyError: "it asks for a key that the dictionary does not have",
    OverflowError: "a number became too large for a float",
    RecursionError: "it calls itself without an end",
}


class NotYet(Exception):
    """What keeps a function from being right, in words for its author."""


def checker(praise: str, exercise=None):
    """Turn a function that raises NotYet into one that prints the verdict, notes a right answer
    (noting) and returns True or False. What it returns, words, stands before the praise.
    exercise: names the exercise by the arguments, where the function's name does not.
    """

    def wrap(check):
        @functools.wraps(check)
        def judged(*arguments) -> bool:
            try:
                said = check(*arguments)
            except (NotYet, LabError) as hint:
                print("Not yet:", " ".join(str(hint).split()))  # one line, whatever it quotes
                return False
            print(f"Right: {said}; {praise}" if said else f"Right: {praise}")
            noting.note(exercise(*arguments) if exercise else check.__name__)
            return True

        return judged

    return wrap


def call(function, *arguments, hint=""):
    """The function's answer to copies of the arguments. A missing `return` is a NotYet, and so is
    whatever it raises, with `hint` behind it.
    """
    given = copy.deepcopy(arguments)
    try:
        answer = function(*given)
    except Exception as error:  # a learner's code may raise anything
        stopped = f"your function stopped with {type(error).__name__}"
        reason = IN_WORDS.get(type(error), str(error)).rstrip(".")
        stopped = f"{stopped}: {reason}" if reason else stopped
        raise NotYet(f"{stopped}. {hint}".strip()) from error
    if answer is None or answer is NotImplemented or answer is ...:
        raise NotYet("your function returns nothing yet.")
    return answer


def close(answer, wanted, tolerance=1e-4) -> bool:
    """Whether a number or tensor is (nearly) the wanted one; another shape or type is a NotYet."""
    try:
        answer, wanted = torch.as_tensor(answer), torch.as_tensor(wanted)
    except (TypeError, ValueError, RuntimeError):
        kind = type(answer).__name__
        raise NotYet(f"it returns {kind}, but a number or a tensor is wanted.") from None
    if answer.shape != wanted.shape:
        shapes = f"{tuple(answer.shape)}, but {tuple(wanted.shape)}"
        raise NotYet(f"it returns the shape {shapes} is wanted.")
    return torch.allclose(answer.double(), wanted.double(), atol=tolerance, rtol=tolerance)


def shown(answer):
    """Numbers as a hint writes them: a tensor as a list, six decimal places."""
    answer = answer.tolist() if hasattr(answer, "tolist") else answer
    if isinstance(answer, (list, tuple)):
        return [shown(part) for part in answer]
    return round(answer, 6) if isinstance(answer, float) else answer


def settle(answer, right, mistakes=(), otherwise="", tolerance=1e-4):
    """Nothing if the answer is right; else NotYet, with the hint of the first (value, hint) in
    `mistakes` that gives this answer, or `otherwise`.
    """
    if close(answer, right, tolerance):
        return
    for value, hint in mistakes:
        if close(answer, value, tolerance):
            raise NotYet(hint)
    raise NotYet(otherwise or f"it gives {shown(answer)}, but {shown(right)} is right.")


def solved(praise: str, *cases):
    """Turn a solution (numbers in, numbers out) into the checker of functions that should do the
    same, tried on every (arguments, hint) of `cases`.
    """

    def wrap(right):
        def check(function):
            for arguments, hint in cases:
                answer, wanted = call(function, *arguments, hint=hint), right(*arguments)
                called = f"{getattr(function, '__name__', 'it')}({', '.join(map(str, arguments))})"
                wrong = f"{called} gives {shown(answer)}, but {shown(wanted)} is right. {hint}"
                settle(answer, wanted, otherwise=wrong, tolerance=1e-6)

        check.__name__, check.__doc__ = right.__name__, right.__doc__
        return checker(praise)(check)

    return wrap


def hold_masked(function, right, logprobs, *others):
    """The answer must stay `right` where masked log-probabilities are −inf; the mask comes last."""
    holes = logprobs.masked_fill(others[-1] == 0, float("-inf"))
    lost = (
        "right on ordinary numbers, but where a masked log-probability is −inf the result is lost,"
        " because 0 · inf is not 0. Select with the mask instead of multiplying."
    )
    settle(call(function, holes, *others), right, otherwise=lost)


@checker("it came out as you said. Say in one sentence why.", noting.guessed)
def check_prediction(guess, choices, experiment):
    """guess: the one of `choices` that will have the highest figure. experiment: a function without
    arguments that measures it, → {choice: figure}; it runs only when there is a guess.
    """
    names = ", ".join(map(repr, choices))
    if guess not in choices:
        raise NotYet(f"first your guess, then the experiment: write one of {names}.")
    found = call(experiment)
    if not isinstance(found, dict) or set(found) != set(choices):
        raise NotYet(f"the experiment should return a figure for each of {names}.")
    measured = ", ".join(f"{name} {float(value):.3g}" for name, value in found.items())
    highest = [name for name, value in found.items() if value == max(found.values())]
    if guess not in highest:
        said = f"you said {guess!r}, and it is {' and '.join(map(repr, highest))} ({measured})"
        raise NotYet(f"{said}. What did you not think of? Would another seed change it?")
    return measured
