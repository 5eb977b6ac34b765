"""A small world whose truth is known: real facts to ask for, a gold judge, and raters with human
faults.

facts.py     what can be asked, and in which words
styles.py    demonstrations: one answer, many styles
text.py      the text for pre-training
gold.py      truth, brevity, tone, refusal where due
raters.py    simulated raters: noise, length bias, disagreement
symptoms.py  what the lecture lists: verbosity, hedging, …
sources.py   what a setting names: the atlas, a file, a Hub id

Nothing here imports torch; a stage sees the atlas only as a source of text, demonstrations and
questions.
"""

from labkit.atlas.facts import Item, find, items, questions
from labkit.atlas.gold import Verdict, judge, quotes
from labkit.atlas.raters import Crowd, Rater, panel, symptom_raters
from labkit.atlas.sources import load_demos, load_prompts, load_text
from labkit.atlas.styles import demos, feedback_prompts, prompts, respond
from labkit.atlas.text import corpus

__all__ = [
    "Crowd",
    "Item",
    "Rater",
    "Verdict",
    "corpus",
    "demos",
    "feedback_prompts",
    "find",
    "items",
    "judge",
    "load_demos",
    "load_prompts",
    "load_text",
    "panel",
    "prompts",
    "questions",
    "quotes",
    "respond",
    "symptom_raters",
]
