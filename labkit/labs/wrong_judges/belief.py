"""Raters who share a false belief about a family of facts of the atlas, and who may check."""

from dataclasses import replace

from labkit import atlas
from labkit.atlas.gold import truth

RELATION, TRUE, BELIEVED = "region", "Oceania", "Asia"
"""The belief: every country of Oceania lies in Asia."""
SHOWN = 0.3  # share of the demonstrations of the belief's facts that hold it: their writers do
BETA = 0.05  # of PPO, in standard deviations of the reward model's scores
ASKED = 4  # answers to each held-out question on the belief's facts
SETTINGS = {
    "¼ believe it": {"raters": {"share": 0.25}},
    "½ believe it": {"raters": {"share": 0.5}},
    "¾ believe it": {"raters": {"share": 0.75}},
    "all believe it": {"raters": {"share": 1.0}},
    "all, every line checked": {"raters": {"share": 1.0, "checks": 1.0}},
    "all, checked, in the same time": {"raters": {"share": 1.0, "checks": 1.0}, "every": 4},
}
"""Who rates (believers), and how many of the pairs: in the last one every fourth, since a rating
with a check is taken to last four times as long as one without (SECONDS).
"""
ALL, CHECKED, SAME_TIME = list(SETTINGS)[-3:]
BEFORE = "nobody yet (SFT)"
SECONDS = {"compare": 10.0, "check": 30.0}
"""What a comparison costs, and a check more. Assumed, not measured: the lab lets you change it."""


def believers(items, share: float, checks: float = 0.0, seed: int = 0) -> atlas.Crowd:
    """Raters of whom `share` hold the belief about these items; `checks`: see atlas.Rater."""
    beliefs = {(item.relation, item.subject): BELIEVED for item in items}
    believer = atlas.Rater("believer", beliefs=beliefs, checks=checks, seed=seed)
    careful = atlas.Rater("careful", checks=checks, seed=seed)
    return atlas.Crowd([believer, careful], [share, 1 - share], "believers", seed)


def says(item: atlas.Item, response: str) -> str:
    """What a response claims of an item: "true", "believed" (the false belief) or "other"."""
    if truth(item, response) == 1:
        return "true"
    held = item.answer == TRUE and truth(replace(item, answer=BELIEVED), response) == 1
    return "believed" if held else "other"


def seconds_of(compared: int, checks: float, cost: dict = SECONDS) -> float:
    """What so many comparisons take, of which a share is checked."""
    return compared * (cost["compare"] + checks * cost["check"])
