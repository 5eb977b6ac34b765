"""Rules that read a poem: does it rhyme by 平水韻, is it a 七言絕句, and what is that worth.

A rule is a function of a poem that gives a number; `Judge` makes it what PPO and GRPO ask.
"""

import functools
import re
import time
from collections import Counter
from statistics import fmean

from labkit import LabError, data, runs
from labkit.data import chat

RHYME = "上平聲十一真"  # the given rhyme (限韻): 人春新身 …
HAN = "[\u3400-\u9fff]"
QUATRAIN = re.compile(f"({HAN}{{7}}，{HAN}{{7}}。){{2}}")


@functools.cache
def rhymes() -> dict[str, frozenset[str]]:
    """{character: the rhymes that it belongs to}, by 平水韻 (data/tang/rhymes.txt): 106 rhymes,
    8,550 characters, of which a fifth have more than one reading.
    """
    lines = data.read_text(runs.data_folder() / "tang/rhymes.txt").split("\n")
    found = {}
    for name, characters in (line.split() for line in lines if line):
        for character in characters:
            found[character] = found.get(character, frozenset()) | {name}
    return found


def rhyme(a: str, b: str) -> bool:
    """Whether two characters rhyme: they share a rhyme, and are not the same character."""
    table = rhymes()
    return a != b and bool(table.get(a, frozenset()) & table.get(b, frozenset()))


def seven(poem: str) -> bool:
    """Four lines of seven Chinese characters, closed by ，。，。, and nothing else."""
    return bool(QUATRAIN.fullmatch(poem))


def ends(poem: str) -> list[str]:
    """The last character of each line."""
    return re.findall(f"({HAN})[，。]", poem)


def rhymed(poem: str) -> bool:
    """Whether lines 2 and 4 of four rhyme."""
    last = ends(poem)
    return len(last) == 4 and rhyme(last[1], last[3])


def well_formed(poem: str) -> bool:
    """What the full rule asks for: form and rhyme."""
    return seven(poem) and rhymed(poem)


# --- as rewards ----------------------------------------------------------------------------------


def to_rhyme(poem: str, different: bool = True) -> float:
    """The full rule, a rhyme given (限韻): a third for the form, and then a third for each of lines
    2 and 4 that ends in RHYME, the second time on another character.
    """
    if not seven(poem):
        return 0.0
    _, second, _, fourth = ends(poem)
    first, again = (RHYME in rhymes().get(one, ()) for one in (second, fourth))
    return (1 + first + (again and not (different and second == fourth))) / 3


def any_rhyme(poem: str) -> float:
    """The same without a given rhyme: a half for the form, and 1 for form and rhyme."""
    return (seven(poem) + well_formed(poem)) / 2


def same_allowed(poem: str) -> float:
    """A weak rule: `to_rhyme`, but a character may rhyme with itself."""
    return to_rhyme(poem, different=False)


def counted(poem: str) -> float:
    """A weak rule: characters counted, in quatrains' worth (28), and nothing else."""
    return len(re.findall(HAN, poem)) / 28


RULES = {
    "a given rhyme": to_rhyme,
    "any rhyme": any_rhyme,
    "same allowed": same_allowed,
    "counted": counted,
}


class Judge:
    """A rule as the function that PPO and TRL's GRPO ask: (prompts, responses) → rewards. It keeps
    what it saw: `rows`, one a call, with "seconds" since it was made, "samples" so far, the mean
    "reward", and `figures`.
    """

    def __init__(self, rule):
        if not callable(rule):
            raise LabError(f"A rule is a function of a poem that gives a number, not {rule!r}.")
        self.rule, self.__name__ = rule, getattr(rule, "__name__", "rule")
        self.rows, self.samples, self.began = [], 0, time.perf_counter()

    def __call__(self, prompts, responses=None, completions=None, **_):
        responses = completions if responses is None else responses
        rewards = [self.mark(poem) for poem in responses]
        self.samples += len(rewards)
        row = {"seconds": time.perf_counter() - self.began, "samples": self.samples}
        self.rows.append(row | {"reward": fmean(rewards), **figures(prompts, responses)})
        return rewards

    def mark(self, poem: str) -> float:
        try:
            return float(self.rule(poem))
        except (TypeError, ValueError) as error:
            raise LabError(
                f"The rule {self.__name__!r} gave no number for the poem {poem[:16]!r} ({error})."
                " It must return one for every text, an empty one too."
            ) from error


def figures(prompts: list[str], said: list[str]) -> dict[str, float]:
    """What can be counted of poems, whatever the rule: shares of "well-formed", "seven" (the form),
    "rhymed" and "as asked" (the first character); "distinct": different characters of a poem as a
    share of its characters; "repeated": the share of its most frequent one; "endings": different
    last characters of line 4 (of any text, its last), as a share of the poems.
    """
    if not said:
        raise LabError("There is no poem to look at: the list is empty.")
    letters = [re.findall(HAN, poem) for poem in said]
    full_ones = [one for one in letters if one] or [["無"]]
    asked = [prompt.removesuffix(chat.AI)[-1:] for prompt in prompts]
    return {
        "well-formed": fmean(map(well_formed, said)),
        "seven": fmean(map(seven, said)),
        "rhymed": fmean(map(rhymed, said)),
        "as asked": fmean(poem[:1] == first for poem, first in zip(said, asked, strict=True)),
        "distinct": fmean(len(set(one)) / len(one) for one in full_ones),
        "repeated": fmean(max(Counter(one).values()) / len(one) for one in full_ones),
        "endings": len({one[-1] for one in full_ones}) / len(said),
    }
