"""The checkers of notebook 05: right answers pass, and each checker is tested against wrong
ones.
"""

import itertools
import re

import pytest

from labkit import checks


def kappa(table, chance=None):
    n = sum(map(sum, table))
    observed = sum(table[i][i] for i in range(len(table))) / n
    expected = sum(sum(row) * sum(column) for row, column in zip(table, zip(*table))) / n**2
    expected = expected if chance is None else chance(table, n)
    return (observed - expected) / (1 - expected)


def observed(table):
    return sum(table[i][i] for i in range(len(table))) / sum(map(sum, table))


def places(order):
    return list(itertools.combinations(range(len(order)), 2))


RIGHT = [
    (checks.check_sides, lambda shown, place: shown[place]),
    (checks.check_ranked_pairs, lambda order: list(itertools.combinations(order, 2))),
    (
        checks.check_ranked_pairs,
        lambda order: [[a, b] for i, a in enumerate(order) for b in order[i + 1 :]][::-1],
    ),
    (checks.check_cohen, kappa),
]

WRONG = [
    (checks.check_sides, lambda shown, place: place, "stood on the left"),
    (checks.check_sides, lambda shown, place: shown.index(place), "three answers"),
    (checks.check_sides, lambda shown, place: shown[1 - place], "Nothing was shuffled"),
    (checks.check_sides, lambda shown, place: shown, "response 0, not"),
    (
        checks.check_ranked_pairs,
        lambda order: [(b, a) for a, b in itertools.combinations(order, 2)],
        "turned round",
    ),
    (checks.check_ranked_pairs, lambda order: list(zip(order, order[1:])), "only neighbours"),
    (checks.check_ranked_pairs, places, "places in the ranking|turned round"),
    (
        checks.check_ranked_pairs,
        lambda order: list(itertools.permutations(order, 2)),
        "holds the 1 pairs",
    ),
    (checks.check_ranked_pairs, lambda order: 3, "a list of pairs"),
    (checks.check_cohen, observed, "take off what chance"),
    (
        checks.check_cohen,
        lambda t: observed(t) - (observed(t) - kappa(t)) / (1 - kappa(t)) if kappa(t) < 1 else 0,
        "0.5|left to gain",
    ),
    (checks.check_cohen, lambda t: kappa(t, lambda t, n: 1 / len(t)), "margins"),
    (
        checks.check_cohen,
        lambda t: kappa(t, lambda t, n: sum((sum(row) / n) ** 2 for row in t)),
        "both shares",
    ),
    (checks.check_cohen, lambda t: -kappa(t), "has κ = 0.400"),
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
def test_unfinished_or_broken_code_is_one_line(check, function, capsys):
    for unfinished in (lambda *_: None, lambda *_: 1 / 0, lambda: 1, lambda *_: "玉山"):
        assert check(unfinished) is False
        said = capsys.readouterr().out
        assert said.startswith("Not yet: ") and said.count("\n") == 1


def test_the_textbook_case_is_worked_by_hand():
    """20 and 15 of 50 agreed: 0.7. By chance 25 · 30 and 25 · 20 of 2,500: 0.5. κ = 0.2 / 0.5."""
    assert kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)
