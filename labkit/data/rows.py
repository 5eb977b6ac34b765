"""One row of JSON becomes one record: the shapes that demonstrations, preferences and ratings come
in.

A reader raises Bad for a row of another form and Faulty for a text that can't be used, which their
author should mend, and Skip for a row of a form that only published collections have (hh-rlhf's,
PandaLM's, TL;DR's) that is to be left out and counted: ties, empty and equal answers.
"""

import math
import re
from collections import Counter
from dataclasses import MISSING, dataclass, fields

from labkit import LabError


class Dialogue(str):
    """A prompt of several turns: the text is the dialogue so far as hh-rlhf writes it, `turns` are
    its (role, text) pairs, which a chat template frames (chat.encode_prompt).
    """

    def __new__(cls, text: str, turns=()):
        made = super().__new__(cls, text)
        made.turns = tuple(turns)
        return made


@dataclass
class Demo:
    """A demonstration: what a good answer to this prompt looks like. `style`: how it is written
    (the atlas's styles).
    """

    prompt: str
    response: str
    style: str = ""


@dataclass
class Pair:
    """Two answers to one prompt, and which of them a rater preferred.

    margin: how much better it is said to be, in units of the reward (arXiv 2307.09288, eq. 2);
    confidence: the probability, ½ to 1, that the chosen one is the better (a soft label).
    """

    prompt: str
    chosen: str
    rejected: str
    rater: str = ""
    margin: float = 0.0
    confidence: float = 1.0

    def __repr__(self):
        """With margin and confidence where a rater gave them."""
        given = [f for f in fields(self) if f.default is MISSING or f.name == "rater"]
        given += [f for f in fields(self) if f not in given and getattr(self, f.name) != f.default]
        return f"Pair({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in given)})"


@dataclass
class Rating:
    """One answer with a thumb up (True) or down (False)."""

    prompt: str
    response: str
    label: bool


class Bad(LabError):
    """This row can't be used, and its author should know: the end of a sentence "line 3: …"."""


class Faulty(Bad):
    """The row has the right form, but its text can't be used: empty, equal, half a character. In a
    published collection such rows are left out and counted.
    """


class Row(dict):
    """A row that notes in the set `used` which of its columns are read, and gives no text with half
    a character in it: no file could hold that, and no tokenizer reads it.
    """

    def __init__(self, row: dict, used: set):
        super().__init__(row)
        self.used = used

    def __getitem__(self, name):
        self.used.add(name)
        value = super().__getitem__(name)
        if _halved(value):
            raise Faulty(f'"{name}" holds half a character (a lone surrogate)')
        return value

    def get(self, name, otherwise=None):
        return self[name] if name in self else otherwise


def _halved(value) -> bool:
    """Whether a text in it, however deep, holds a lone surrogate."""
    texts, todo = [], [value]
    while todo:  # no recursion: JSON may lie deeper than Python calls
        one = todo.pop()
        if isinstance(one, str):
            texts.append(one)
        elif isinstance(one, (dict, list)):
            todo += one.values() if isinstance(one, dict) else one
    return any(re.search("[\ud800-\udfff]", text) for text in texts)


class Skip(Exception):
    """This row of a published collection can't be used: leave it out and count it."""


def demo(row) -> Demo:
    if row.get("label") is False:
        raise Faulty('"label" is false: nobody should learn this answer (kto learns from thumbs)')
    if "messages" in row:
        return Demo(*_dialogue(row["messages"], "messages"))
    if "instruction" in row and "output" in row:
        return Demo(_instruction(row), field(row, "output"))
    style = row.get("style")
    style = style if isinstance(style, str) else ""
    return Demo(prompt(row), _answer(row, "response", "completion"), style)


def pair(row) -> Pair:
    if "response1" in row and "annotator1" in row:
        return _majority(row)
    if "summaries" in row and "choice" in row:
        return _comparison(row)
    rater = str(row.get("rater") or "")
    if "prompt" in row:
        made = Pair(prompt(row), _answer(row, "chosen"), _answer(row, "rejected"), rater)
        made.margin = _number(row, "margin", made.margin, 0, math.inf)
        made.confidence = _number(row, "confidence", made.confidence, 0.5, 1)
        if made.chosen.strip() == made.rejected.strip():
            raise Faulty('"chosen" and "rejected" are equal')
        return made
    whole = {name: _value(row, name) for name in ("chosen", "rejected")}
    (asked, chosen), (other, rejected) = (_dialogue(text, name) for name, text in whole.items())
    if asked != other:
        raise Skip("pair whose prompts differ")
    return _compared(asked, chosen, rejected, rater)


def _compared(prompt, chosen, rejected, rater) -> Pair:
    """A pair from a published collection."""
    if not prompt.strip() or not chosen.strip() or not rejected.strip():
        raise Skip("pair with an empty text")
    if chosen.strip() == rejected.strip():
        raise Skip("pair with equal answers")
    return Pair(prompt, chosen, rejected, rater)


def pandalm(row) -> tuple[str, tuple[str, str], list[int]]:
    """(prompt, two responses, three votes) of PandaLM's human test set (arXiv 2306.05087):
    annotator1..3 say 0 tie, 1 first better, 2 second better.
    """
    votes = [row.get(f"annotator{i}") for i in (1, 2, 3)]
    if any(type(vote) is not int or vote not in (0, 1, 2) for vote in votes):
        raise Bad(f"annotator1 to 3 are {votes}, but each must be 0, 1 or 2")
    prompt = "\n\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
    # A few answers are the JSON value true where the model wrote the word: they mean their text.
    return prompt, (str(row.get("response1", "")), str(row.get("response2", ""))), votes


def _majority(row) -> Pair:
    """PandaLM's row as one pair: the majority of the three votes counts."""
    prompt, (first, second), votes = pandalm(row)
    vote, count = Counter(votes).most_common(1)[0]
    if vote == 0 or count < 2:
        raise Skip("pair without a winner")
    return _compared(prompt, *((first, second) if vote == 1 else (second, first)), "human")


def _comparison(row) -> Pair:
    """TL;DR's comparisons (openai/summarize_from_feedback, arXiv 2009.01325): a post, or an article
    of the news, two summaries and the place of the better one. The prompt is the paper's (table 5).
    """
    info, better = row["info"], row["choice"]
    texts = [one.get("text") or "" for one in row["summaries"]]
    if len(texts) != 2 or better not in (0, 1):
        raise Bad(f'"choice" is {better!r} of {len(texts)} "summaries", but must be 0 or 1 of two')
    asked = f"Article:\n{info.get('article') or ''}"
    if info.get("post"):
        asked = f"SUBREDDIT: r/{info.get('subreddit')}\n\nTITLE: {info.get('title')}\n\n"
        asked += f"POST: {info['post']}"
    return _compared(f"{asked}\n\nTL;DR:", texts[better], texts[1 - better], "human")


def rating(row) -> Rating:
    label = _value(row, "label")
    if label is None:
        raise Faulty('"label" is null')
    if not isinstance(label, bool):
        raise Bad(f'"label" is {kind(label)}, but must be true or false')
    return Rating(prompt(row), _answer(row, "response", "completion"), label)


def prompt(row) -> str:
    if "prompt" not in row and "messages" in row:
        turns = _turns(row["messages"], "messages")
        return transcript(turns[:-1] if turns[-1][0] == "assistant" else turns)
    if isinstance(row.get("prompt"), list):
        return transcript(_turns(row["prompt"], "prompt"))
    if "prompt" not in row and "chosen" in row:  # a pair of whole dialogues
        return _dialogue(row["chosen"], "chosen")[0]
    if "prompt" not in row and "instruction" in row:
        return _instruction(row)
    return field(row, "prompt")


def _answer(row, *names) -> str:
    name = next((n for n in names if n in row), names[0])
    if isinstance(row.get(name), list):
        role, text = _turns(row[name], name)[-1]
        if role != "assistant":
            raise Bad(f'"{name}" must end in an assistant message')
        return text
    return field(row, name)


def _instruction(row) -> str:
    """Alpaca's instruction and input as one prompt."""
    asked, more = field(row, "instruction"), row.get("input")
    return f"{asked}\n\n{more}" if isinstance(more, str) and more.strip() else asked


def _number(row, name, usual: float, low: float, high: float) -> float:
    """The number under a name, `usual` where the row has none."""
    value = row.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"between {low:g} and {high:g}"
        raise Bad(f'"{name}" is {value!r}, but must be a number, {limits}')
    return float(value)


def field(row, name) -> str:
    """The text under a name."""
    return _checked(_value(row, name), name)


def _value(row, name):
    if name not in row:
        raise Bad(f'has no "{name}" (it has: {", ".join(map(str, row)) or "nothing"})')
    return row[name]


def _checked(value, name) -> str:
    if not isinstance(value, str):
        raise (Faulty if value is None else Bad)(f'"{name}" is {kind(value)}, but must be text')
    if not value.strip():
        raise Faulty(f'"{name}" is empty')
    return value


def _turns(messages, name) -> list[tuple[str, str]]:
    """[{"role", "content"}, …] as (role, text) pairs."""
    if messages is None or messages == []:
        raise Faulty(f'"{name}" is {"null" if messages is None else "empty"}')
    turns = messages if isinstance(messages, list) else [None]
    if not all(isinstance(t, dict) and isinstance(t.get("role"), str) for t in turns):
        raise Bad(f'"{name}" must be a list of {{"role", "content"}}')
    return [
        (turn["role"], _checked(turn.get("content"), f"{name}[{i}].content"))
        for i, turn in enumerate(turns)
    ]


NAMES = {"user": "Human: ", "assistant": "Assistant: "}  # hh-rlhf's


def transcript(turns) -> str:
    """A prompt of one turn is its text; of several, a Dialogue."""
    if len(turns) == 1:
        return turns[0][1]
    text = "\n\n".join(NAMES.get(role, "") + text for role, text in turns)
    return Dialogue(text, turns)


def _dialogue(value, name) -> tuple[str, str]:
    """(prompt, answer) of a whole dialogue: messages, or hh-rlhf's "\\n\\nHuman: …\\n\\nAssistant:
    …", where the last answer is what was judged (arXiv 2204.05862).
    """
    if isinstance(value, str):
        whole = "\n\nHuman:" + value.strip("\n").removeprefix("Human:")
        _, *parts = re.split(r"\n\n(Human|Assistant):", whole)
        roles = ["user" if one == "Human" else "assistant" for one in parts[::2]]
        turns = list(zip(roles, map(str.strip, parts[1::2]), strict=True))
        if roles[-1] != "assistant":
            raise Bad(f'has no "prompt", and "{name}" holds no "\\n\\nAssistant:" to find one by')
    else:
        turns = _turns(value, name)
        if len(turns) < 2 or turns[-1][0] != "assistant":
            raise Bad(f'"{name}" must end in an assistant message after a user message')
    return transcript(turns[:-1]), turns[-1][1]


KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    str: "text",
    type(None): "null",
}


def kind(value) -> str:
    """What JSON calls a value; a Hub data set may hold other types."""
    return KINDS.get(type(value), f"a {type(value).__name__}")
