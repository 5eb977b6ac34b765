"""Space Invaders on 10×10 cells: the game of the lecture's course, small enough for two cores.

    from labkit.labs.games import invaders
    game = gymnasium.make("labkit/SpaceInvaders-v0")

Rows count from the top, columns from the left. Your ship stands in the lowest row. Each step it
does one of three things: LEFT, RIGHT, FIRE. It has one shot in the air at a time (as in the arcade
game of 1978); the shot climbs one cell a step. Eight aliens march sideways, one cell every MARCH
steps; at a wall they come down one row and turn round. Every DROP steps the lowest alien of a
random column drops a bomb, which falls one cell a step.

Reward: 1 for every alien that is shot, and nothing else. The game is over when all aliens are shot
(won), when a bomb hits the ship, when an alien reaches the lowest row, or after `limit` steps.

What chance decides (where the ship begins, where the aliens go, who drops) is a function of the
game's seed and the step, so that one game and the same game among thousands (`Many`) are equal step
for step. Written for this course; not a copy of the arcade game's or MinAtar's rules.
"""

import gymnasium
import numpy as np
from gymnasium import spaces

from labkit import LabError

SIZE, LIMIT = 10, 80  # cells a side, steps a game
LEFT, RIGHT, FIRE = range(3)
ACTIONS = ("left", "right", "fire")
BLOCK = tuple((row, column) for row in (1, 2) for column in range(3, 7))  # where aliens begin
ALIENS, MARCH, DROP = len(BLOCK), 3, 4
GROUND = SIZE - 1  # the ship's row
PLANES = ("ship", "aliens", "shot", "bombs", "heading")


def luck(seed, step):
    """A number below 2³² that looks random and that only seed and step decide (an integer hash).
    Whole numbers or int64 arrays, below 2³¹.
    """
    x = (seed * 40503 + step * 2654435761) % 2**32
    for _ in range(2):
        x = (x ^ (x >> 16)) * 73244475 % 2**32
    return x ^ (x >> 16)


def checked(limit) -> int:
    """The number of steps after which a game is over."""
    if not isinstance(limit, int) or limit < 1:
        raise LabError(f"limit is {limit!r}: a game needs an end. Give a number of steps from 1.")
    return limit


class SpaceInvaders(gymnasium.Env):
    """One game. Observation: five planes of 0 and 1, (5, 10, 10): where the ship, the aliens, the
    shot and the bombs are, and whether the aliens are heading right (a whole plane). Action: 0
    left, 1 right, 2 fire. info: "aliens" left, and whether it is "won".

    limit: steps after which time is up (`truncated`).
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 8}

    def __init__(self, limit: int = LIMIT, render_mode=None):
        self.limit, self.render_mode = checked(limit), render_mode
        self.observation_space = spaces.MultiBinary((len(PLANES), SIZE, SIZE))
        self.action_space = spaces.Discrete(len(ACTIONS))
        self.step_number = None  # no game yet

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        # A seed is the game; without one, the generator of the last seed names the next game.
        self.seed = seed % 2**31 if seed is not None else int(self.np_random.integers(2**31))
        self.step_number, self.over = 0, False
        self.ship = luck(self.seed, 0) % SIZE
        self.heading = 1 if luck(self.seed, 1000) % 2 else -1
        self.aliens, self.bombs, self.shot = set(BLOCK), set(), None
        return self.seen(), {"aliens": ALIENS, "won": False}

    def step(self, action):
        if self.step_number is None:
            raise LabError("There is no game yet: call reset() before the first step.")
        if self.over:
            raise LabError("This game is over: call reset() for a new one.")
        if not self.action_space.contains(action):
            known = ", ".join(f"{i} ({name})" for i, name in enumerate(ACTIONS))
            raise LabError(f"There is no action {action!r} here. There are {known}.")
        self.step_number += 1
        before = len(self.aliens)
        self._fly(action)
        if self.step_number % MARCH == 0:
            self._march()
        self._fall()
        won = not self.aliens
        lost = (GROUND, self.ship) in self.bombs or any(row == GROUND for row, _ in self.aliens)
        late = self.step_number >= self.limit
        self.over = won or lost or late
        info = {"aliens": len(self.aliens), "won": won}
        done = bool(won or lost)
        return self.seen(), float(before - len(self.aliens)), done, bool(late and not done), info

    def _fly(self, action):
        """The ship moves or fires; its shot climbs."""
        self.ship = min(max(self.ship + {LEFT: -1, RIGHT: 1, FIRE: 0}[int(action)], 0), GROUND)
        if self.shot:
            row, column = self.shot
            self.shot = (row - 1, column) if row else None
        elif action == FIRE:
            self.shot = (GROUND - 1, self.ship)
        self._hit()

    def _hit(self):
        if self.shot in self.aliens:
            self.aliens.remove(self.shot)
            self.shot = None

    def _march(self):
        wall = GROUND if self.heading > 0 else 0
        if any(column == wall for _, column in self.aliens):
            self.heading = -self.heading
            self.aliens = {(row + 1, column) for row, column in self.aliens}
        else:
            self.aliens = {(row, column + self.heading) for row, column in self.aliens}
        self._hit()

    def _fall(self):
        self.bombs = {(row + 1, column) for row, column in self.bombs if row < GROUND}
        columns = sorted({column for _, column in self.aliens})
        if self.step_number % DROP == 0 and columns:
            column = columns[luck(self.seed, self.step_number) % len(columns)]
            lowest = max(row for row, c in self.aliens if c == column)
            if lowest < GROUND:
                self.bombs.add((lowest + 1, column))

    def seen(self) -> np.ndarray:
        """The five planes, (5, 10, 10) int8."""
        planes = np.zeros((len(PLANES), SIZE, SIZE), np.int8)
        planes[0, GROUND, self.ship] = 1
        for plane, things in zip(planes[1:4], (self.aliens, {self.shot} - {None}, self.bombs)):
            for place in things:
                plane[place] = 1
        planes[4] = self.heading > 0
        return planes

    def render(self):
        """The board in characters: W alien, ! bomb, | shot, A ship."""
        if self.render_mode == "ansi":
            return drawn(self.seen())


def drawn(planes) -> str:
    """Planes (5, 10, 10) as ten lines of ten characters."""
    signs = zip("A!|W", (planes[i] for i in (0, 3, 2, 1)))
    board = np.full((SIZE, SIZE), ".")
    for sign, plane in list(signs)[::-1]:
        board[np.asarray(plane) > 0] = sign
    return "\n".join("".join(row) for row in board)


gymnasium.register("labkit/SpaceInvaders-v0", entry_point=SpaceInvaders)
