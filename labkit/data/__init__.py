"""Records, the files and Hub sets they come from, and what a model reads of them: template,
padding, masks.

Nothing here knows what an answer is worth, or what the atlas is; torch is imported only to make
tensors.
"""

from labkit.data.files import (
    cut,
    load,
    load_demos,
    load_pairs,
    load_prompts,
    load_ratings,
    load_text,
    read_text,
    save_jsonl,
    showing,
    split,
)
from labkit.data.rows import Demo, Pair, Rating

__all__ = [
    "Demo",
    "Pair",
    "Rating",
    "cut",
    "load",
    "load_demos",
    "load_pairs",
    "load_prompts",
    "load_ratings",
    "load_text",
    "read_text",
    "save_jsonl",
    "showing",
    "split",
]
