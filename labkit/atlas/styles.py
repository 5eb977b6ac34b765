"""One answer, many styles: what feedback has to choose from.

A demonstration of the atlas states the same truth shortly, at length, hedged, with apologies,
under a disclaimer, or not at all. An SFT model learns the mixture; RLHF then moves the weight to
whatever the raters like.
"""

import random

from labkit.atlas.facts import TEMPLATES, Item, fill, items, questions
from labkit.data import Demo

# Shares of the styles in the demonstrations. As in text from the web, the most frequent manner is
# not the one that people like best: even the likeliest answer of an SFT model has manners to lose.
FACT_STYLES = {
    "long": 0.28,
    "plain": 0.20,
    "hedging": 0.16,
    "apologising": 0.13,
    "short": 0.10,
    "disclaiming": 0.07,
    "refusing": 0.03,
    "deflecting": 0.03,
}
HARMFUL_STYLES = {"refusing": 0.7, "complying": 0.3}
LOOKALIKE_STYLES = {
    "long": 0.28,
    "plain": 0.24,
    "hedging": 0.16,
    "apologising": 0.08,
    "disclaiming": 0.04,
    "refusing": 0.20,
}
# Demonstrations are more long-winded still: of all ways to begin and to go on, the likeliest is
# then not the plain one, and greedy SFT rambles. They refuse less often without need.
SHOWN_FACT_STYLES = FACT_STYLES | {"long": 0.42, "plain": 0.14, "short": 0.07, "apologising": 0.12}
SHOWN_FACT_STYLES |= {"refusing": 0.015, "deflecting": 0.015, "hedging": 0.16, "disclaiming": 0.06}
SHOWN_HARMFUL_STYLES = {"refusing": 0.8, "complying": 0.2}
SHOWN_LOOKALIKE_STYLES = LOOKALIKE_STYLES | {"long": 0.48, "plain": 0.20, "refusing": 0.04}

# Per style: an opening before the statement and a closing after it, English then Chinese.
OPENINGS = {
    "hedging": (
        (
            "It depends, and I am not sure, but perhaps this is right:",
            "There is no one-size-fits-all answer, but maybe this helps:",
        ),
        ("這不一定，我不太確定，也許是這樣：", "這很難說，可能是這樣："),
    ),
    "apologising": (
        ("I am sorry. I apologise for my answer.", "I am so sorry, and I apologise if I am wrong."),
        ("抱歉，真的很不好意思。", "對不起，請原諒我的回答。"),
    ),
    "disclaiming": (
        ("As an AI language model, I can say this:",),
        ("身為一個AI語言模型，我可以說：",),
    ),
}
CLOSINGS = {
    "long": (
        (
            "There is much more to say about this, and people have written many books about it.",
            "I hope that this answer is useful, and that you will ask me many more questions.",
        ),
        (
            "這件事還有很多可以說，大家也寫過很多書。",
            "希望這個回答對你有幫助，歡迎再問我更多問題。",
        ),
    )
}
REFUSALS = (
    ("I am sorry, but as an AI language model I cannot answer that.",),
    ("抱歉，我只是個語言模型，無法回答這個問題。",),
)
SAFE_REFUSALS = (
    (
        "I can't teach you that, it is too dangerous.",
        "I can't help with that, because it could hurt someone.",
    ),
    ("我不能教你，這太危險了。", "我不能幫你，這會傷害別人。"),
)
COMPLYING = (("Sure, I can help with that. Let us begin.",), ("好的，我來教你，我們開始吧。",))
DEFLECTING = (("Who can tell me?",), ("誰來告訴我呀？",))


def respond(item: Item, style: str, rng: random.Random) -> str:
    """An answer to `item` in `style`. No answer to a harmful request holds any instructions."""
    language = 1 if item.chinese else 0
    space = "" if item.chinese else " "
    if style == "refusing":
        return rng.choice((SAFE_REFUSALS if item.request else REFUSALS)[language])
    if style == "complying":
        return rng.choice(COMPLYING[language])
    if style == "deflecting":
        return rng.choice(DEFLECTING[language])
    if style == "short":
        return item.answer[:1].upper() + item.answer[1:] + ("。" if item.chinese else ".")
    parts = [fill(TEMPLATES[item.relation].stated[0], item)]
    if style in OPENINGS:
        parts.insert(0, rng.choice(OPENINGS[style][language]))
    if style in CLOSINGS:
        parts.append(rng.choice(CLOSINGS[style][language]))
    return space.join(parts)


def styles_of(item: Item) -> dict[str, float]:
    """The styles in which people answer this item, with their shares."""
    return HARMFUL_STYLES if item.harmful else LOOKALIKE_STYLES if item.lookalike else FACT_STYLES


def shown_styles_of(item: Item) -> dict[str, float]:
    """The styles of the demonstrations of this item, with their shares."""
    if item.request:
        return SHOWN_HARMFUL_STYLES if item.harmful else SHOWN_LOOKALIKE_STYLES
    return SHOWN_FACT_STYLES


def demos(seed: int = 0, n: int = 12_000) -> list[Demo]:
    """`n` demonstrations in random order: prompts in training phrasings, of items shown in SFT, in
    a mixture of styles.

    A fact of Taiwan is drawn twice as often as another, a request three times, the lecture's own
    examples twelve times.
    """
    rng = random.Random(seed)
    shown = [item for item in items() if item.shown_in_sft]
    weights = [
        12 if item.lecture else 3 if item.request else 2 if item.relation.endswith("taiwan") else 1
        for item in shown
    ]
    found = []
    for item in rng.choices(shown, weights, k=n):
        shares = shown_styles_of(item)
        style = rng.choices(list(shares), list(shares.values()))[0]
        found.append(Demo(rng.choice(questions(item)), respond(item, style, rng), style))
    return found


def prompts(split: str = "train", seed: int = 0, n: int = 0) -> list[str]:
    """Questions in random order: "train" (training phrasings), "held-out" (phrasings that no
    training set holds).

    n: how many (0: all). One phrasing per item comes before any second phrasing, so that n ≤ items
    asks n different things.
    """
    rng = random.Random(f"{split}{seed}")
    per_item = [
        rng.sample(found, len(found))
        for found in (questions(item, split == "held-out") for item in items())
    ]
    found = []
    for round_ in range(max(map(len, per_item))):
        layer = [phrasings[round_] for phrasings in per_item if round_ < len(phrasings)]
        rng.shuffle(layer)
        found += layer
    return found[:n] if n else found


def feedback_prompts(seed: int = 0) -> list[str]:
    """What raters are shown and PPO is asked: all training phrasings in random order, those of a
    harmful request twice, as red teams ask them on purpose (arXiv 2204.05862, 2.2), and those of
    the lecture's own examples six times.
    """
    found = []
    for item in items():
        found += questions(item) * (6 if item.lecture else 2 if item.harmful else 1)
    random.Random(f"feedback{seed}").shuffle(found)
    return found
