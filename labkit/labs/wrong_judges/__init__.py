"""People who judge and are divided, or all wrong, or agree only so far: what reward models and PPO
make of them.

divided.py       two groups of raters, what is believed of them, and where PPO would go
distribution.py  the reward model with a spread
belief.py        raters who are all wrong, and who look up what an answer quotes
annotators.py    agreement, and the ceiling of every reward model
you.py           ten questions to the learner
record.py        what came out over seeds; wrong_judges_jobs.py trained everything
"""

# ruff: noqa: F403  (whoever uses the lab finds all of it as wrong_judges.NAME)
from labkit.labs.wrong_judges.annotators import *
from labkit.labs.wrong_judges.belief import *
from labkit.labs.wrong_judges.distribution import *
from labkit.labs.wrong_judges.divided import *
from labkit.labs.wrong_judges.record import *
from labkit.labs.wrong_judges.you import *
