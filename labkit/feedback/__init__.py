"""Ratings: the store that keeps them, the panels that ask for them, and how far raters agree.

Nothing here imports torch or knows of a model; what is learned from ratings stands in stages and
labs.
"""

from labkit.feedback.merging import merge
from labkit.feedback.store import Feedback, Store

__all__ = ["Feedback", "Store", "merge"]
