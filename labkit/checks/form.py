"""The exercises of notebook 08b: a baseline without the poem itself, and a rule that is not cheated
so.
"""

import re

from labkit.checks.core import NotYet, call, checker, solved

REAL = (
    "朝辭白帝彩雲間，千里江陵一日還。兩岸猿聲啼不住，輕舟已過萬重山。",
    "故人西辭黃鶴樓，煙花三月下揚州。孤帆遠影碧空盡，唯見長江天際流。",
    "春雲春日共朦朧，滿院梨花半夜風。宿酒未醒珠箔捲，艷歌初闋玉樓空。",
)
CHEATS = {
    "山" * 7 + "，" + "山" * 7 + "。" + "山" * 7 + "，" + "山" * 7 + "。": (
        "one character, 28 times"
    ),
    "風月" * 14: "two characters in turn, and no line ends",
    "春風春雨春雲春，春風春雨春雲春。春風春雨春雲春，春風春雨春雲春。": "one line, four times",
    "朝辭白帝彩雲間千里江陵一日還兩岸猿聲啼不住輕舟已過萬重山": "28 characters without a mark",
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。": "a 五言絕句",
    "": "nothing at all",
}


@solved(
    "what a poem is compared with no longer holds the poem itself: the baseline is unbiased.",
    (([1.0, 0.0],), "Of two, each is compared with the other one."),
    (([1.0, 1.0, 0.0, 0.0],), "The mean of the *others*: divide by their number, G − 1."),
    (([0.5, 0.5, 0.5],), "Where all are alike there is nothing to learn: all 0."),
    (([1.0, 0.0, 0.0, 0.0, 0.0],), "One good one of five stands 1 above the mean of the others."),
)
def check_leave_one_out(rewards):
    """function(rewards) → each reward less the mean of the other rewards of its group."""
    total, others = sum(rewards), len(rewards) - 1
    return [one - (total - one) / others for one in rewards]


@checker("the poems pass, and none of these cheats. Which one would still pass?")
def check_rule(function):
    """function(poem) → something true for three quatrains of the Tang, and something false for the
    cheats of a rule that only counts characters.
    """
    for poem in REAL:
        if not _said(function, poem):
            raise NotYet(f"it refuses a poem of the Tang: {poem}")
    for poem, what in CHEATS.items():
        if _said(function, poem):
            raise NotYet(f"it still pays for {what}: {poem[:16] or '(no text)'}")


def _said(function, poem):
    answer = call(function, poem)
    if isinstance(answer, (str, re.Match)):
        return bool(answer)
    try:
        return float(answer) > 0
    except (TypeError, ValueError):
        raise NotYet(
            f"it returns {type(answer).__name__}, but True or False (or a number) is wanted."
        ) from None
