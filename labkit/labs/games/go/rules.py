"""Go on a small board: the rules (OpenSpiel's), positions as planes, and games of many at once.

A player is a function: positions, a list of states → moves, a list of numbers. Move k is the point
in column k % size and row k // size, counted from the corner a1; size² is the pass. Two passes end
a game, and so does move 2 · size²; then whoever holds more points (stones and what they surround)
has won, White with KOMI points more. A position that comes back ends it as a draw (superko).
"""

import random
from dataclasses import astuple, dataclass, field

import numpy as np
import torch

from labkit import LabError

KOMI = 0.5
"""Half a point leaves hardly any draws; of the records on 5×5 Black won 54 %."""
SIZES = range(3, 10)
PLANES = 5
COLUMNS = "abcdefghj"  # Go's boards have no i


def engine():
    """The module pyspiel. LabError where it is not installed."""
    try:
        import pyspiel
    except ImportError:
        raise LabError(
            "This notebook needs OpenSpiel for the rules of Go: run %pip install open_spiel, or "
            "read on in notebook 05; nothing else in the series needs it."
        ) from None
    return pyspiel


def new(size: int = 5):
    """The game (OpenSpiel's) on a board of size × size; .new_initial_state() is the empty board."""
    if size not in SIZES:
        raise LabError(
            f"There is no board of {size} × {size} here: take {SIZES[0]} to {SIZES[-1]}."
        )
    return engine().load_game(f"go(board_size={size},komi={KOMI})")


def starts(size: int, games: int) -> list:
    """That many empty boards."""
    rules = new(size)
    return [rules.new_initial_state() for _ in range(games)]


def scattered(size: int, games: int, dice: random.Random, most: int = 20) -> list:
    """That many positions after 2, 4, … or `most` stones put by lot; it is Black's turn."""
    rules, found = new(size), []
    while len(found) < games:
        state = rules.new_initial_state()
        for _ in range(2 * dice.randint(1, most // 2)):
            if not state.is_terminal():
                *points, passing = state.legal_actions()
                state.apply_action(dice.choice(points or [passing]))
        if not state.is_terminal():
            found.append(state)
    return found


def size_of(state) -> int:
    return int((state.num_distinct_actions() - 1) ** 0.5)


def name(move: int, size: int) -> str:
    """12 → "c3" on 5×5; the last one is "pass"."""
    return "pass" if move == size * size else f"{COLUMNS[move % size]}{move // size + 1}"


def move(state, where: int):
    """Make a move. LabError, and nothing done, where the rules forbid it."""
    size = size_of(state)
    if state.is_terminal():
        raise LabError("The game is over. Begin a new one.")
    if where not in state.legal_actions():
        said = name(where, size) if 0 <= where <= size * size else f"move {where}"
        raise LabError(f"{said} is not allowed here: the point is taken, or it is a ko.")
    state.apply_action(where)


def legal(states) -> torch.Tensor:
    """Which moves the rules allow: (B, size² + 1), True or False; the pass always is."""
    return torch.tensor(np.array([state.legal_actions_mask() for state in states], bool))


def planes(states) -> torch.Tensor:
    """The board as the mover sees it, (B, 5, size, size): own stones, the other's, points where a
    stone may be put; all ones if the other has just passed; all ones if the mover is Black.
    """
    size = size_of(states[0])
    seen = np.array([state.observation_tensor(0) for state in states], np.float32)
    seen = seen.reshape(-1, 4, size, size)  # Black's, White's, empty, all ones: White moves
    black = seen[:, 3:] == 0
    own, other = (np.where(black, seen[:, [i]], seen[:, [1 - i]]) for i in (0, 1))
    free = legal(states).numpy()[:, : size * size].reshape(-1, 1, size, size)
    passed = np.array([state.history()[-1:] == [size * size] for state in states])
    passed = np.broadcast_to(passed[:, None, None, None], free.shape)
    black = np.broadcast_to(black[:, :, :1, :1], free.shape)
    return torch.tensor(np.concatenate([own, other, free, passed, black], 1, dtype=np.float32))


def before(record: list[int], size: int = 5) -> list:
    """The positions in which the moves of a game were made. LabError where one breaks the rules."""
    state, found = starts(size, 1)[0], []
    for where in record:
        found.append(state.clone())
        move(state, where)
    return found


# --- players -------------------------------------------------------------------------------------


def anywhere(seed: int = 0):
    """A player that draws among the allowed moves."""
    dice = random.Random(seed)
    return lambda states: [dice.choice(state.legal_actions()) for state in states]


def searcher(size: int, simulations: int, seed: int = 0):
    """OpenSpiel's Monte Carlo tree search: `simulations` random games a move."""
    spiel = engine()
    guess = spiel.RandomRolloutEvaluator(1, seed + 1)
    return spiel.MCTSBot(new(size), guess, 2.0, simulations, 100, True, seed + 2, False)


def tree_search(size: int = 5, simulations: int = 25, seed: int = 0):
    """A player that looks ahead, as far as `simulations` random games a move let it see."""
    bot = searcher(size, simulations, seed)
    return lambda states: [bot.step(state) for state in states]


# --- games ---------------------------------------------------------------------------------------


@dataclass
class Played:
    """Games that have ended. scores: for each, 1 if the first player won, ½ for a draw, 0; moves:
    its moves, of which so many had been `made` before the two players began. The first player made
    the next one in the even games.
    """

    scores: list[float] = field(default_factory=list)
    moves: list[list[int]] = field(default_factory=list)
    made: list[int] = field(default_factory=list)

    def __add__(self, more: "Played") -> "Played":
        return Played(*(mine + its for mine, its in zip(astuple(self), astuple(more))))

    def rate(self, colour: str = "") -> tuple[float, int]:
        """(share won, games) of the first player: of all, or with "black" or "white" alone, which
        is meant for games that began on an empty board.
        """
        of = {"black": self.scores[::2], "white": self.scores[1::2]}.get(colour, self.scores)
        return sum(of) / len(of), len(of)


def match(one, other, games: int, size: int = 5, begin=None) -> Played:
    """Games between two players, all at the same time, half of them with either colour.

    begin: positions to play on from, one a game [the empty board]; there, `one` is the player to
    move in the even ones.
    """
    states = [state.clone() for state in begin] if begin else starts(size, games)
    first = [state.current_player() ^ (i % 2) for i, state in enumerate(states)]
    while open_ := [i for i, state in enumerate(states) if not state.is_terminal()]:
        for player, mine in ((one, True), (other, False)):
            turn = [i for i in open_ if (states[i].current_player() == first[i]) == mine]
            if turn:
                for i, chosen in zip(turn, player([states[i] for i in turn]), strict=True):
                    move(states[i], chosen)
            open_ = [i for i in open_ if i not in set(turn)]
    scores = [(state.returns()[colour] + 1) / 2 for state, colour in zip(states, first)]
    made = [len(state.history()) for state in begin] if begin else [0] * games
    return Played(scores, [state.history() for state in states], made)
