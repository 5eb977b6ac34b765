"""The checkers of notebooks 06 and 09: right answers pass, and each checker is tested against wrong
ones.
"""

import math
import re

import pytest

from labkit import checks


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def optimal(reference, rewards, beta):
    weights = [
        p * math.exp((r - max(rewards)) / beta) for p, r in zip(reference, rewards, strict=True)
    ]
    return [w / sum(weights) for w in weights]


def exact_kl(k, n):
    shares = [(i / k) ** n - ((i - 1) / k) ** n for i in range(1, k + 1)]
    return sum(p * math.log(p * k) for p in shares if p > 0)


RIGHT = [
    (checks.check_bradley_terry, lambda chosen, rejected: softplus(rejected - chosen)),
    (checks.check_best_of_n, lambda answers, score: max(answers, key=score)),
    (checks.check_best_of_n_kl, exact_kl),
    (checks.check_optimal_policy, optimal),
    (
        checks.check_push,
        lambda chosen, rejected, beta: beta / (1 + math.exp(beta * (chosen - rejected))),
    ),
    (
        checks.check_smoothed_dpo,
        lambda margin, error: (1 - error) * softplus(-margin) + error * softplus(margin),
    ),
]

WRONG = [
    (
        checks.check_bradley_terry,
        lambda chosen, rejected: softplus(chosen - rejected),
        "mind the sign",
    ),
    (
        checks.check_bradley_terry,
        lambda chosen, rejected: math.log(1 + math.exp(rejected - chosen)),
        "overflows",
    ),
    (
        checks.check_bradley_terry,
        lambda chosen, rejected: 1 / (1 + math.exp(rejected - chosen)),
        "log 2",
    ),
    (checks.check_best_of_n, lambda answers, score: min(answers, key=score), "highest score"),
    (checks.check_best_of_n, lambda answers, score: min(answers, key=len), "ask `score`"),
    (checks.check_best_of_n, lambda answers, score: max(map(score, answers)), "answer itself"),
    (
        checks.check_best_of_n_kl,
        lambda k, n: math.log(n) - (n - 1) / n,
        "3 times in 4|1, 5|nothing",
    ),
    (checks.check_best_of_n_kl, lambda k, n: math.log(min(n, k)), "3 times in 4"),
    (
        checks.check_optimal_policy,
        lambda ref, r, beta: [p * math.exp(x / beta) for p, x in zip(ref, r, strict=True)],
        "no reason",
    ),
    (
        checks.check_optimal_policy,
        lambda ref, r, beta: optimal([1 / len(r)] * len(r), r, beta),
        "no reason",
    ),
    (
        checks.check_optimal_policy,
        lambda ref, r, beta: optimal(ref, r, 1 / beta),
        "reference · exp|Weight every",
    ),
    (
        checks.check_optimal_policy,
        lambda ref, r, beta: [
            p * math.exp(x) / sum(q * math.exp(y) for q, y in zip(ref, r, strict=True))
            for p, x in zip(ref, r, strict=True)
        ],
        "exp\\(reward / β\\)",
    ),
    (
        checks.check_push,
        lambda chosen, rejected, beta: beta / (1 + math.exp(-beta * (chosen - rejected))),
        "pushed less",
    ),
    (
        checks.check_push,
        lambda chosen, rejected, beta: 1 / (1 + math.exp(beta * (chosen - rejected))),
        "½ of β",
    ),
    (checks.check_smoothed_dpo, lambda margin, error: softplus(-margin), "wrong way round"),
    (
        checks.check_smoothed_dpo,
        lambda margin, error: error * softplus(-margin) + (1 - error) * softplus(margin),
        "never errs",
    ),
]


@pytest.mark.parametrize("check, function", RIGHT)
def test_a_right_answer_is_right(check, function, capsys):
    assert check(function) is True
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize("check, function, hint", WRONG)
def test_a_wrong_answer_is_refused_with_a_hint(check, function, hint, capsys):
    assert check(function) is False
    said = capsys.readouterr().out
    assert re.search(hint, said) and said.startswith("Not yet: "), said


@pytest.mark.parametrize("check, function", RIGHT)
def test_an_unfinished_answer_is_not_yet(check, function, capsys):
    assert check(lambda *_: None) is False
    assert capsys.readouterr().out.startswith("Not yet")


@pytest.mark.parametrize("check, function", RIGHT)
def test_a_mistake_in_the_learners_code_is_one_line(check, function, capsys):
    assert check(lambda *_: 1 / 0) is False
    said = capsys.readouterr().out
    assert "ZeroDivisionError" in said and said.count("\n") == 1
    assert check(lambda: 1) is False  # a wrong signature
    assert check(lambda *_: "玉山") is False or check is checks.check_best_of_n
