"""Rhymed quatrains and a reward that needs no rater: a rule reads the poem and says 1 or 0.

This is where RLHF and reinforcement learning with verifiable rewards meet (RLVR, arXiv 2411.15124,
6): policy gradient, clip and KL stay; reward model and raters are gone. A poet of a million weights
learns from the quatrains of the Tang in three stages, as everything here: a base that reads, SFT
that is asked for a 七言絕句 and shown whatever quatrain comes (so that it writes 五言 too, as the
lecture's model did), and then PPO or TRL's GRPO (arXiv 2402.03300) on a rule.

rules.py     平水韻, the form, and both as rewards
poet.py      base, demonstrations, SFT
learning.py  PPO and GRPO on a rule
record.py    what came out over seeds; form_jobs.py measured it
"""

# ruff: noqa: F403  (whoever uses the lab finds all of it as form.NAME)
from labkit.labs.form.learning import *
from labkit.labs.form.poet import *
from labkit.labs.form.record import *
from labkit.labs.form.rules import *
