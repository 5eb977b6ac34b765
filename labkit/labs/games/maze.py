"""A maze without a reward on the way: the level for curiosity (望梅止渴).

The player begins at S and may go up, down, left, right; only G pays (1), and ends the game. Nobody
finds it by chance. T is a television: whoever stands before it sees a picture that was never there
before, and nothing follows from it.
"""

import numpy as np
import torch

from labkit.labs.games.film import EMPTY, GOAL, SHIP, WALL, Film
from labkit.labs.games.invaders import checked, luck

MAP = (
    "S.#...#...",
    "..#.#.#.#.",
    "#.#.#.#.#.",
    "#.#.#.#.#.",
    "#...#...#.",
    "#.#####.#.",
    "#.#...#.#.",
    "#T#.#...#.",
    "#########.",
    "G.........",
)
CELLS = np.array([list(row) for row in MAP])  # (10, 10)
ROWS, WIDE = CELLS.shape
PLACES = ROWS * WIDE
FREE = (CELLS != "#").ravel()  # (100,)
START, TARGET, TELEVISION = (int(np.flatnonzero(CELLS.ravel() == sign)[0]) for sign in "SGT")
PICTURES = 1_000_000  # that the television may show
ACTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def _moves() -> np.ndarray:
    """(100, 4): where each action leads from each cell; into a wall leads nowhere."""
    table = np.arange(PLACES)[:, None].repeat(len(ACTIONS), 1)
    for cell in np.flatnonzero(FREE):
        for a, (down, right) in enumerate(ACTIONS):
            row, column = cell // WIDE + down, cell % WIDE + right
            inside = 0 <= row < ROWS and 0 <= column < WIDE
            if inside and FREE[row * WIDE + column]:
                table[cell, a] = row * WIDE + column
    return table


MOVES = _moves()


class Maze:
    """B games at once, as `Many` of Space Invaders. What a game shows: its cell and the picture
    before it, (B, 2) whole numbers; the picture is 0 but before the television.
    """

    actions, shape, size = len(ACTIONS), (2,), PLACES + 1

    def __init__(self, limit: int = 120, television: bool = False):
        self.limit, self.television = checked(limit), television

    def reset(self, seeds) -> np.ndarray:
        self.seeds, self.time = np.asarray(seeds, np.int64) % 2**31, 0
        self.at = np.full(len(self.seeds), START)
        self.over = np.zeros(len(self.seeds), bool)
        return self.seen()

    def step(self, actions):
        """actions (B,) → what the games show now, rewards (B,) float32, over (B,) bool."""
        self.time += 1
        before = self.at
        self.at = np.where(self.over, before, MOVES[before, np.asarray(actions)])
        found = (self.at == TARGET) & ~self.over
        self.over |= found | (self.time >= self.limit)
        return self.seen(), found.astype(np.float32), self.over.copy()

    def seen(self) -> np.ndarray:
        watches = self.television & (self.at == TELEVISION)
        shows = 1 + luck(self.seeds, self.time) % PICTURES
        return np.stack([self.at, np.where(watches, shows, 0)], 1)

    @staticmethod
    def features(seen) -> np.ndarray:
        """The cell as a 1 among 100 places, and the picture as one number, (B, size) float32."""
        places = np.zeros((len(seen), PLACES + 1), np.float32)
        places[np.arange(len(seen)), seen[:, 0]] = 1
        places[:, PLACES] = seen[:, 1] / PICTURES
        return places


class Curiosity:
    """A reward that the player makes for itself: 1/√n for what it saw n times so far, over all its
    games and this batch. Bellemare et al., "Unifying count-based exploration and intrinsic
    motivation" (arXiv 1606.01868), without their density model: a maze can simply be counted.
    """

    def __init__(self):
        self.visits = {}

    def __call__(self, episodes):
        """Episodes → (B, T): what each action led to see, by how new it was."""
        pictures = (episodes.seen[..., PLACES] * PICTURES).round().long()
        keys = episodes.seen[..., :PLACES].argmax(-1) + PLACES * pictures  # (B, T)
        led = torch.roll(episodes.mask, -1, 1) * episodes.mask  # 1 where a next step was played
        led[..., -1] = 0
        seen, which, often = np.unique(
            keys[led.roll(1, 1) > 0].numpy(), return_inverse=True, return_counts=True
        )
        for key, times in zip(seen.tolist(), often.tolist()):
            self.visits[key] = self.visits.get(key, 0) + times
        worth = np.array([self.visits[key] ** -0.5 for key in seen.tolist()], np.float32)
        new = torch.zeros(keys.shape)
        new[led > 0] = torch.from_numpy(worth[which])
        return new

    def cells(self) -> int:
        """How many cells were seen so far."""
        return len({key % PLACES for key in self.visits})


def film(seen, said: str) -> Film:
    """Cells of one game, (T,) whole numbers → its film."""
    board = np.where(CELLS == "#", WALL, EMPTY).astype(np.uint8)
    board[CELLS == "G"] = GOAL
    frames = np.stack([board] * len(seen))
    frames.reshape(len(seen), -1)[np.arange(len(seen)), seen] = SHIP
    return Film(frames, said)
