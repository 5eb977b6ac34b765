"""What a player is paid, where it is not what the game pays: Episodes → rewards (B, T).

The aim is the same in all three: to shoot every alien ("won").
"""

import torch

from labkit.labs.games.invaders import ALIENS
from labkit.maths.logprobs import last_places


def won(episodes) -> torch.Tensor:
    """(B,) bool: every alien was shot."""
    return episodes.scores == ALIENS


def sparse(episodes):
    """1 at the end of a game that was won, and nothing else."""
    return last_places(episodes.mask) * won(episodes).float()[:, None]


def shaped(episodes):
    """Sparse, and 1/8 for each alien: steps towards the aim are paid."""
    return sparse(episodes) + episodes.rewards / ALIENS


def staying(episodes):
    """Sparse, and 1/20 for each step that the ship is still there: it sounds as sensible."""
    return sparse(episodes) + episodes.mask / 20


WAYS = {"sparse": sparse, "shaped": shaped, "badly shaped": staying}
