"""Constitutional AI (arXiv 2212.08073): a list of principles in place of people's labels.

    answer → critique → revision → SFT on the revisions            (SL-CAI, the first half)
    two answers → which keeps the principle? → reward model → PPO  (RL-CAI, the second)

A large model is asked for its critique in words. The tiny one can't be prompted, so an adapter is
taught to critique, to revise and to judge by seeds, demonstrations that are written here from the
atlas's styles: it knows these principles, and no other.

principles.py  the list, and what is asked: critique, revision
teaching.py    what the adapter is taught by, and how well it does
critic.py      the second half: the critic as a judge, and its labels
record.py      what came out over seeds; constitution_jobs.py trained everything
"""

# ruff: noqa: F403  (whoever uses the lab finds all of it as constitution.NAME)
from labkit.labs.constitution.critic import *
from labkit.labs.constitution.principles import *
from labkit.labs.constitution.record import *
from labkit.labs.constitution.teaching import *
