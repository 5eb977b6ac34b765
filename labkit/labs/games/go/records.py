"""Game records (棋譜) of the teacher, a Monte Carlo tree search of few simulations.

    python -m labkit.labs.games.go.records --size 5 --games 4000

writes data/go/records_5.txt.gz: a game a line, a letter a move. a is the corner a1, b the next
point of its row; the last letter is the pass.
"""

import argparse
import gzip
import string
from pathlib import Path

from labkit import LabError, runs
from labkit.labs.games.go import rules

LETTERS = string.ascii_letters  # 52: enough for the 50 moves of 7×7
SIMULATIONS = 100
"""How many random games the teacher looks ahead, per move."""


def teacher(size: int = 5, seed: int = 0):
    """The player whose games are the records."""
    return rules.tree_search(size, SIMULATIONS, seed)


def path(size: int = 5) -> Path:
    return runs.data_folder() / "go" / f"records_{size}.txt.gz"


def played(size: int, games: int) -> list[list[int]]:
    """Games of the teacher against itself, as lists of moves. The same at every call."""
    return rules.match(teacher(size), teacher(size, seed=1000), games, size).moves


def write(games: list[list[int]], file: Path):
    text = "".join("".join(LETTERS[move] for move in moves) + "\n" for moves in games)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode("ascii"), 9, mtime=0))


def read(size: int = 5, file: Path | None = None) -> list[list[int]]:
    """The games as lists of moves. LabError where there are none for this size."""
    file = Path(file or path(size))
    try:
        lines = gzip.decompress(file.read_bytes()).decode("ascii").splitlines()
        games = [[LETTERS.index(letter) for letter in line] for line in lines]
    except FileNotFoundError:
        raise LabError(
            f"There are no game records for {size} × {size} at {file}. Make some: "
            f"python -m labkit.labs.games.go.records --size {size}"
        ) from None
    except (OSError, EOFError, ValueError) as error:
        raise LabError(f"{file} holds no game records ({error}).") from None
    return games


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", type=int, default=5)
    options.add_argument("--games", type=int, default=4000)
    chosen = options.parse_args()
    write(played(chosen.size, chosen.games), path(chosen.size))


if __name__ == "__main__":
    main()
