"""珍瓏棋局: positions in which the move that looks lost wins.

    python -m labkit.labs.games.go.sacrifice --count 30

writes data/go/riddles_5.txt.gz: a position a line, as the moves that lead to it and, last, the one
that solves it, in the letters of the game records.

In the novel 天龍八部 the riddle on the board is solved by a stone that kills one's own group; with
those stones gone there is room to win. Here: a move after which the other can take two stones or
more at once, and which is yet the only one that wins.
"""

import argparse
import random
import sys
from pathlib import Path

from labkit.labs.games.go import records, rules
from labkit.labs.games.go.picture import stones

SIEVES = ((30, -0.2), (200, 0.2), (1000, 0.3), (3000, 0.3))
"""What a riddle must stand: (random games of a search, how clearly it must see who wins)."""


EARLIEST = 18
"""Moves before a riddle: on an emptier board another move wins, too."""


def chain(letters: str, size: int, point: int) -> tuple[set[int], set[int]]:
    """The stones that stand together with the one at `point`, and their liberties (free points
    beside them). letters: a board as of picture.stones.
    """
    group, liberties, todo = {point}, set(), [point]
    while todo:
        here = todo.pop()
        for beside in neighbours(here, size):
            if letters[beside] == "+":
                liberties.add(beside)
            elif letters[beside] == letters[point] and beside not in group:
                group.add(beside)
                todo.append(beside)
    return group, liberties


def neighbours(point: int, size: int) -> list[int]:
    row, column = divmod(point, size)
    found = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    return [r * size + c for r, c in found if 0 <= r < size and 0 <= c < size]


def given_up(state, where: int) -> int:
    """How many stones this move puts where the other can take them with its next one: its own and
    those that it joins; 0 if it takes stones itself, or passes.
    """
    size, before = rules.size_of(state), stones(state)
    if where == size * size:
        return 0
    after = state.child(where)
    then = stones(after)
    group, liberties = chain(then, size, where)
    took = then.count("+") >= before.count("+")
    taken_next = len(liberties) == 1 and liberties <= set(after.legal_actions())
    return len(group) if taken_next and not took else 0


def worth(state, where: int, search) -> float:
    """What a search expects for the mover after this move: −1 lost to 1 won."""
    after, mover = state.child(where), state.current_player()
    if after.is_terminal():
        return after.returns()[mover]
    best = max(search.mcts_search(after).children, key=lambda child: child.explore_count)
    if best.outcome:  # proven
        return best.outcome[mover]
    expected = best.total_reward / max(1, best.explore_count)  # for the one who moves there
    return -expected


def solves(state, where: int, search, clear: float) -> bool:
    """Whether this move wins and no other does, as clearly as that, in the eyes of a search."""
    others = [move for move in state.legal_actions() if move != where]
    return worth(state, where, search) > clear and all(
        worth(state, other, search) < -clear for other in others
    )


def find(count: int, size: int = 5, seed: int = 0, log=None) -> list[list[int]]:
    """That many riddles, as moves of which the last is the answer, on boards that filled by lot.

    log: a function of a riddle found and how many positions were looked through so far.
    """
    dice, seen, found = random.Random(seed), set(), []
    sieves = [(rules.searcher(size, depth, seed), clear) for depth, clear in SIEVES]
    while len(found) < count:
        moves = rules.scattered(size, 1, dice, most=36)[0].history()
        for made, position in list(enumerate(rules.before(moves, size)))[EARLIEST:]:
            board = stones(position), position.current_player()
            if board in seen:
                continue
            seen.add(board)
            for where in position.legal_actions():
                if given_up(position, where) > 1 and all(
                    solves(position, where, search, clear) for search, clear in sieves
                ):
                    found.append([*moves[:made], where])
                    if log:
                        log(found[-1], len(seen))
    return found[:count]


def won_after(state, where: int, simulations: int = 2000, games: int = 20, seed: int = 0):
    """(share, games) that the mover wins after this move, if both then search deeply."""
    begin = state.child(where)
    if begin.is_terminal():
        return (begin.returns()[state.current_player()] + 1) / 2, games
    deep = [rules.tree_search(rules.size_of(state), simulations, seed + k) for k in range(2)]
    # In the even games the first player is to move, and that is the other one.
    scores = rules.match(*deep, games, begin=[begin] * games).scores
    return sum(score if i % 2 else 1 - score for i, score in enumerate(scores)) / games, games


def path(size: int = 5) -> Path:
    return records.path(size).with_name(f"riddles_{size}.txt.gz")


def riddles(size: int = 5) -> list[tuple]:
    """Those that came with the project: (the position, the move that wins)."""
    return [(rules.before(moves, size)[-1], moves[-1]) for moves in records.read(size, path(size))]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", type=int, default=5)
    options.add_argument("--count", type=int, default=30)
    chosen = options.parse_args()
    found = find(chosen.count, chosen.size, log=lambda *row: print(*row, file=sys.stderr))
    records.write(found, path(chosen.size))


if __name__ == "__main__":
    main()
