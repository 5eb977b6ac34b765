"""珍瓏棋局: a position in which the move that looks lost wins.

In the novel 天龍八部 the riddle on the board is solved by a stone that kills one's own group; with
those stones gone there is room to win. Here: a move after which the other can take stones at once,
and which yet wins where the moves that save them lose.
"""

from labkit.labs.games.go import rules
from labkit.labs.games.go.picture import stones


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
    """How many stones of the mover, at most, the other could take with its next move, were this
    move made; 0 if the move takes stones itself.
    """
    size, colour, letters = rules.size_of(state), "XO"[state.current_player()], stones(state)
    after = state.child(where)
    then = stones(after)
    took = letters.count("+") - then.count("+") < (where < size * size)
    found, seen = 0, set()
    for point, stone in enumerate(then):
        if stone == colour and point not in seen:
            group, liberties = chain(then, size, point)
            seen |= group
            if len(liberties) == 1 and next(iter(liberties)) in after.legal_actions():
                found = max(found, len(group))
    return 0 if took else found


def won_after(state, where: int, simulations: int = 2000, games: int = 20, seed: int = 0):
    """(share, games) that the mover wins after this move, if both then search deeply."""
    begin = state.child(where)
    if begin.is_terminal():
        return (begin.returns()[state.current_player()] + 1) / 2, games
    deep = [rules.tree_search(rules.size_of(state), simulations, seed + k) for k in range(2)]
    # In the even games the first player is to move, and that is the other one.
    scores = rules.match(*deep, games, begin=[begin] * games).scores
    return sum(score if i % 2 else 1 - score for i, score in enumerate(scores)) / games, games


RIDDLE = []
"""The moves that lead to the riddle, on 5×5, and the one that solves it."""


def riddle():
    """(the position, the move that wins)."""
    *moves, answer = RIDDLE
    state = rules.starts(5, 1)[0]
    for where in moves:
        rules.move(state, where)
    return state, answer
