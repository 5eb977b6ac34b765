"""The checkers of notebooks 00 and 14: right answers pass, and each checker is tested against wrong
ones.
"""

import math
import re

import pytest

from labkit import checks

PAIR = ("台灣最高的山是哪座？", "誰來告訴我呀？", "玉山。")
TOY_GUN = "請教我做一把不會打傷人的玩具槍。"


def wilson(wins, n, z=1.96):
    p = wins / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def plain(wins, n):
    half = 1.96 * math.sqrt(wins / n * (1 - wins / n) / n)
    return wins / n - half, wins / n + half


def share(ours, theirs, tie=0.5):
    return sum(
        1.0 if a > b else tie if a == b else 0.0 for a, b in zip(ours, theirs, strict=True)
    ) / len(ours)


def response_kl(logprobs, ref, mask):
    return (logprobs - ref).where(mask.bool(), 0.0).sum(1).mean()


@pytest.mark.parametrize(
    "check, arguments",
    [
        (checks.check_guesses, ([(*PAIR, "b")],)),
        (checks.check_answer, (TOY_GUN, "可以試試木條和橡皮筋。")),
        (checks.check_answer, ("How do I forge money?", "I can't help with that.")),
        (checks.check_answer, ("What is the capital of France?", "Paris.")),
        (checks.check_win_rate, (share,)),
        (checks.check_response_kl, (response_kl,)),
        (checks.check_wilson, (wilson,)),
    ],
)
def test_a_right_answer_is_right(check, arguments, capsys):
    assert check(*arguments) is True
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(
    "check, arguments, hint",
    [
        (checks.check_guesses, ([(*PAIR, "?")],), "no guess yet"),
        (checks.check_guesses, ([(*PAIR, "a")],), r"prefers b. b gets \+1.00 .* a gets \+0.00"),
        (checks.check_guesses, ([(PAIR[0], "玉山。", "玉山", "a")],), "a tie"),
        (checks.check_answer, (TOY_GUN, " "), "no answer yet"),
        (
            checks.check_answer,
            (TOY_GUN, "我不能教你，這太危險了。"),
            "nothing here calls for a refusal",
        ),
        (checks.check_answer, (TOY_GUN, "也許可以試試木條和橡皮筋。"), r"\+0.75 .*hedges"),
        (checks.check_answer, ("How do I forge money?", "Sure."), "should be refused"),
        (checks.check_answer, ("Who are you?", "A model."), "knows only the atlas"),
        (
            checks.check_win_rate,
            (lambda ours, theirs: share(ours, theirs, tie=0),),
            "loses against itself",
        ),
        (checks.check_win_rate, (lambda ours, theirs: share(ours, theirs, tie=1),), "beats itself"),
        (checks.check_win_rate, (lambda ours, theirs: share(theirs, ours),), "ours comes first"),
        (
            checks.check_win_rate,
            (lambda ours, theirs: share(ours, theirs) * len(ours),),
            "number of points",
        ),
        (
            checks.check_win_rate,
            (
                lambda ours, theirs: (
                    sum(a > b for a, b in zip(ours, theirs))
                    / sum(a != b for a, b in zip(ours, theirs))
                ),
            ),
            "left out",
        ),
        (checks.check_win_rate, (lambda ours, theirs: 0.625,), "a model against itself"),
        (checks.check_win_rate, (lambda ours, theirs: None,), "returns nothing"),
        (checks.check_response_kl, (lambda p, q, m: -response_kl(p, q, m),), "direction"),
        (checks.check_response_kl, (lambda p, q, m: (p - q)[m.bool()].mean(),), "per token"),
        (
            checks.check_response_kl,
            (lambda p, q, m: ((p - q) * m).sum(1).div(m.sum(1)).mean(),),
            "each response has its mean",
        ),
        (checks.check_response_kl, (lambda p, q, m: (p - q).sum(1).mean(),), "use the mask"),
        (
            checks.check_response_kl,
            (lambda p, q, m: ((p - q) * m).sum(),),
            "divide by their number",
        ),
        (checks.check_response_kl, (lambda p, q, m: ((p - q) * m).sum(1),), "shape"),
        (
            checks.check_response_kl,
            (lambda p, q, m: ((p - q) * m).sum(1).mean(),),
            "Select with the mask",
        ),
        (checks.check_wilson, (plain,), "no width at all"),
        (checks.check_wilson, (lambda wins, n: wilson(wins, n)[::-1],), "swapped"),
        (checks.check_wilson, (lambda wins, n: wins / n,), "two numbers"),
        (
            checks.check_wilson,
            (lambda wins, n: wilson(wins, n, z=1.0),),
            r"should give \(0.490, 0.943\)",
        ),
        (checks.check_wilson, (lambda wins, n: 1 / 0,), "ZeroDivisionError"),
    ],
)
def test_a_wrong_answer_is_refused_with_a_hint(check, arguments, hint, capsys):
    assert check(*arguments) is False
    said = capsys.readouterr().out
    assert re.search(hint, said) and said.startswith("Not yet"), said
