"""RLHF Labs: make a language model in three stages, and feel each one.

`import labkit` loads nothing heavy; the modules read in the order of the story (see README).
"""

import os

# Before torch is imported: threads that wait should sleep. On a machine that does something else as well (a browser, say), threads that
# spin made training up to four times slower here; on an idle one it makes no difference that we could measure.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"


class LabError(Exception):
    """Something a learner can mend. The message says what happened and what to do.

    Jupyter shows the message alone (IPython asks an exception for `_render_traceback_`), and the command line prints it as one line.
    """

    def _render_traceback_(self):
        return [f"LabError: {self}"]
