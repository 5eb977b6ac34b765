"""Notebook 04's Go on a small board: the rules (OpenSpiel's), a mediocre teacher's game records, a
small net that learns from them and then from its own games, a board to play it on, its record.
"""

from labkit.labs.games.go.board import Board, Play
from labkit.labs.games.go.learn import (
    Episodes,
    SelfPlay,
    episodes,
    imitate,
    improve,
    lessons,
    self_play,
    turned,
)
from labkit.labs.games.go.net import Net, load_net, matched_temperature, opinions, player, save_net
from labkit.labs.games.go.picture import boards
from labkit.labs.games.go.record import against, clearest, curve, load, solved, summary
from labkit.labs.games.go.records import SIMULATIONS, read, teacher
from labkit.labs.games.go.rules import (
    KOMI,
    Played,
    anywhere,
    before,
    legal,
    match,
    move,
    name,
    new,
    planes,
    scattered,
    starts,
    tree_search,
)
from labkit.labs.games.go.sacrifice import given_up, riddles, won_after

__all__ = [
    "Board",
    "Episodes",
    "KOMI",
    "Net",
    "Play",
    "Played",
    "SIMULATIONS",
    "SelfPlay",
    "against",
    "anywhere",
    "before",
    "boards",
    "clearest",
    "curve",
    "episodes",
    "given_up",
    "imitate",
    "improve",
    "legal",
    "lessons",
    "load",
    "load_net",
    "match",
    "matched_temperature",
    "move",
    "name",
    "new",
    "opinions",
    "planes",
    "player",
    "read",
    "riddles",
    "save_net",
    "scattered",
    "self_play",
    "solved",
    "starts",
    "summary",
    "teacher",
    "tree_search",
    "turned",
    "won_after",
]
