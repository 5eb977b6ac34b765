"""The exercises of notebook 14: Wilson's interval, and the temperature of equal entropy."""

import math

import torch

from labkit.checks.core import NotYet, call, checker, close, settle, shown


def entropy(logits, temperature) -> float:
    """Mean entropy in nats of softmax(logits (N, V) / temperature) over the N rows."""
    logprobs = torch.log_softmax(logits.double() / temperature, -1)
    return -(logprobs.exp() * logprobs).sum(-1).mean().item()


@checker("this is the control's temperature: as decided as the method, and nothing learned.")
def check_temperature_of(function):
    """function(logits (N, V), target) → the temperature between 0.05 and 5 at which the mean
    entropy of softmax(logits / temperature) over the N rows is `target` nats.
    """
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [3.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, -4.0]])
    for right in (2.0, 1.0, 0.5):
        target = entropy(logits, right)
        answer = call(function, logits, target)
        summed = solved_by(logits, target / len(logits))
        bits = solved_by(logits, target * math.log(2))
        mistakes = (
            (1 / right, "the logits are divided by a temperature, not multiplied by it."),
            (summed, "the entropies of the rows are added up here; take their mean."),
            (bits, "this is right for bits (log2); entropy in nats takes log."),
        )
        if close(answer, right, tolerance=1e-2):
            continue
        reached = f"{shown(float(answer))}, where it is {there(logits, float(answer))}"
        wrong = (
            f"the entropy should be {target:.3f} nats, which it is at {right}. Yours: {reached}."
            " A higher temperature gives more entropy."
        )
        settle(answer, right, mistakes, wrong, tolerance=1e-2)


def solved_by(logits, target) -> float:
    """The temperature at which `entropy` is `target`."""
    low, high = 0.05, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(logits, middle) < target else (low, middle)
    return (low + high) / 2


def there(logits, temperature: float) -> str:
    """The entropy at a learner's temperature, in words where it has none."""
    return f"{entropy(logits, temperature):.3f}" if temperature > 0 else "not defined"


@checker("ten out of ten is not yet certainty.")
def check_wilson(function):
    """function(wins, n) → (low, high), Wilson's 95 % interval (z = 1.96) of a share of `wins` in
    `n` prompts.
    """
    z = 1.96
    for wins, n in ((8, 10), (10, 10), (0, 10), (160, 200)):
        p = wins / n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        plain = z * math.sqrt(p * (1 - p) / n)
        answer = call(function, wins, n)
        try:
            low, high = map(float, answer)
        except (TypeError, ValueError, RuntimeError):
            wanted = "two numbers, (low, high), are wanted"
            raise NotYet(f"it returns {answer!r}, but {wanted}.") from None
        no_width = "this is p ± 1.96 √(p(1−p)/n), which has no width at all for 10 wins in 10."
        mistakes = (
            ((p - plain, p + plain), no_width),
            ((centre + half, centre - half), "the two ends are swapped: (low, high)."),
        )
        wanted = f"({centre - half:.3f}, {centre + half:.3f})"
        wrong = f"{wins} wins in {n} should give {wanted}, not ({low:.3f}, {high:.3f})."
        settle((low, high), (centre - half, centre + half), mistakes, wrong, tolerance=1e-3)
