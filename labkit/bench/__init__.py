"""Measurements that take minutes: each figure stands beside what bounds it on this machine, or
beside a peer on it; and `exercises`, which fills notebooks in or hands them to nbgrader. No other
room but the command line may import this one, and nothing that a learner needs may live here: of
the wheel, only this file is part.
"""

from labkit import LabError

try:
    from labkit.bench.notebooks import series
    from labkit.bench.pretraining import STEPS, pretrain
    from labkit.bench.ratings import feedback
    from labkit.bench.sampling import BATCHES, rollout
except ModuleNotFoundError as error:
    if not str(error.name).startswith("labkit.bench"):
        raise
    raise LabError(
        "Benches come with the repository and not with the package: clone it, and run this there."
    ) from None

__all__ = ["BATCHES", "STEPS", "feedback", "pretrain", "rollout", "series"]
