"""A small world whose truth is known: real facts to ask for, a gold judge, and raters with human faults.

facts.py    what can be asked, and in which words      styles.py   demonstrations: one answer, many styles
text.py     the text for pre-training                  gold.py     truth, brevity, tone, refusal where due
raters.py   simulated raters: noise, length bias, disagreement
"""

from labkit.atlas.facts import Item, find, items, questions
from labkit.atlas.gold import Verdict, judge
from labkit.atlas.raters import Rater, panel
from labkit.atlas.styles import demos, prompts, respond
from labkit.atlas.text import corpus

__all__ = [
    "Item",
    "Rater",
    "Verdict",
    "corpus",
    "demos",
    "find",
    "items",
    "judge",
    "panel",
    "prompts",
    "questions",
    "respond",
]
