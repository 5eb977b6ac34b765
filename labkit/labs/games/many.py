"""Many games of Space Invaders at once, in numpy: the rules of invaders.py for speed, equal to them
step for step (tests/test_games.py plays both).

All games begin together and are played to their end; one that is over stands still, with reward 0.
So B games are rows of a batch (B, T) with a mask, exactly as B answers are in notebook 07.
"""

import numpy as np

from labkit import LabError
from labkit.labs.games.invaders import (
    ACTIONS,
    BLOCK,
    DROP,
    FIRE,
    GROUND,
    LEFT,
    LIMIT,
    MARCH,
    PLANES,
    RIGHT,
    SIZE,
    checked,
    luck,
)

SIGHT = 5  # columns that a player sees to either side of its ship
WINDOW = 2 * SIGHT + 1


class Many:
    """B games at once. `actions`: how many there are; `size`: the length of `features`; `limit`:
    in steps.
    """

    actions, shape = len(ACTIONS), (len(PLANES), SIZE, SIZE)
    size = 3 * SIZE * WINDOW + SIZE + 1

    def __init__(self, limit: int = LIMIT):
        self.limit = checked(limit)

    def reset(self, seeds) -> np.ndarray:
        """Begin a game for each seed (B whole numbers) → what they show, (B, 5, 10, 10) int8."""
        self.seeds = np.asarray(seeds, np.int64) % 2**31
        games, self.time = len(self.seeds), 0
        self.rows = np.arange(games)
        self.ship = luck(self.seeds, 0) % SIZE  # (B,)
        self.right = luck(self.seeds, 1000) % 2 == 1  # (B,)
        self.aliens, self.bombs = np.zeros((2, games, SIZE, SIZE), bool)
        self.aliens[:, [row for row, _ in BLOCK], [column for _, column in BLOCK]] = True
        self.up, self.across = np.full((2, games), -1)  # the shot's row (-1: none) and column
        self.over = np.zeros(games, bool)
        return self.seen()

    def step(self, actions):
        """actions (B,) → what the games show now, rewards (B,) float32, over (B,) bool."""
        actions = np.asarray(actions)
        if actions.shape != self.ship.shape:
            raise LabError(f"{len(self.ship)} games need as many actions, not {actions.shape}.")
        if ((actions < 0) | (actions >= self.actions)).any():
            raise LabError(f"An action is none of 0 to {self.actions - 1}.")
        self.time += 1
        going, before = ~self.over, self.aliens.sum((1, 2))
        self._fly(actions, going)
        if self.time % MARCH == 0:
            self._march(going)
        self._fall(going)
        left = self.aliens.sum((1, 2))
        struck = self.bombs[self.rows, GROUND, self.ship]
        lost = struck | self.aliens[:, GROUND].any(1)
        self.over |= lost | (left == 0) | (self.time >= self.limit)
        return self.seen(), (before - left).astype(np.float32), self.over.copy()

    def _fly(self, actions, going):
        move = (actions == RIGHT).astype(int) - (actions == LEFT)
        self.ship = np.where(going, np.clip(self.ship + move, 0, GROUND), self.ship)
        flying = self.up >= 0
        self.up = np.where(going & flying, self.up - 1, self.up)
        fires = going & ~flying & (actions == FIRE)
        self.up = np.where(fires, GROUND - 1, self.up)
        self.across = np.where(fires, self.ship, self.across)
        self._hit(going)

    def _hit(self, going):
        hit = going & (self.up >= 0) & self.aliens[self.rows, self.up, self.across]
        self.aliens[self.rows[hit], self.up[hit], self.across[hit]] = False
        self.up[hit] = -1

    def _march(self, going):
        at_wall = np.where(self.right, self.aliens[..., GROUND].any(1), self.aliens[..., 0].any(1))
        side = np.where(self.right[:, None, None], *(np.roll(self.aliens, d, 2) for d in (1, -1)))
        # Whoever stands at the wall comes down instead, and turns round.
        moved = np.where(at_wall[:, None, None], np.roll(self.aliens, 1, 1), side)
        self.aliens = np.where(going[:, None, None], moved, self.aliens)
        self.right ^= at_wall & going
        self._hit(going)

    def _fall(self, going):
        fallen = np.roll(self.bombs, 1, 1)
        fallen[:, 0] = False
        if self.time % DROP == 0:
            there = self.aliens.any(1)  # (B, 10): columns that hold an alien
            count = there.sum(1)
            chosen = luck(self.seeds, self.time) % np.maximum(count, 1)
            column = (there.cumsum(1) == chosen[:, None] + 1).argmax(1)
            lowest = GROUND - self.aliens[self.rows, ::-1, column].argmax(1)
            drops = (count > 0) & (lowest < GROUND)
            fallen[self.rows[drops], lowest[drops] + 1, column[drops]] = True
        self.bombs = np.where(going[:, None, None], fallen, self.bombs)

    def seen(self) -> np.ndarray:
        """The five planes of every game, (B, 5, 10, 10) int8."""
        planes = np.zeros((len(self.ship), *self.shape), np.int8)
        planes[self.rows, 0, GROUND, self.ship] = 1
        planes[:, 1], planes[:, 3] = self.aliens, self.bombs
        flying = self.up >= 0
        planes[self.rows[flying], 2, self.up[flying], self.across[flying]] = 1
        planes[:, 4] = self.right[:, None, None]
        return planes

    @staticmethod
    def features(seen) -> np.ndarray:
        """The planes (B, 5, 10, 10) as a player reads them, (B, size) float32: aliens, shot and
        bombs seen from the ship (SIGHT columns to either side), its column, the heading.
        """
        ship = seen[:, 0, GROUND].argmax(1)  # (B,)
        wide = np.zeros((len(seen), 3, SIZE, SIZE + 2 * SIGHT), np.float32)
        wide[..., SIGHT : SIGHT + SIZE] = seen[:, 1:4]
        columns = ship[:, None] + np.arange(WINDOW)  # (B, 11)
        near = wide[np.arange(len(seen))[:, None], :, :, columns]  # (B, 11, 3, 10)
        parts = near.reshape(len(seen), -1), seen[:, 0, GROUND], seen[:, 4, 0, :1]
        return np.concatenate(parts, 1, dtype=np.float32)
