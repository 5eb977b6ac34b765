"""A game as an animated picture (APNG) that moves wherever a page shows images, GitHub too: no
player, no script, no codec. Colours are a palette of eight; each cell is a tile of 8×8 dots.

The format: https://www.w3.org/TR/png-3/ (APNG is part of PNG since its third edition).
"""

import base64
import struct
import zlib

import numpy as np

EMPTY, SHIP, ALIEN, SHOT, BOMB, WALL, GOAL, GAP = range(8)
PALETTE = ("#ffffff", "#0072B2", "#D55E00", "#222222", "#AA4499", "#8a8a8a", "#009E73", "#ffffff")
DOTS = 8
TILES = {
    EMPTY: ("........",) * 7 + ("#.......",),  # a dot in the corner: where one cell ends
    SHIP: ("........", "...#....", "...#....", "..###...", ".#####..", "#######.", "#######.")
    + ("........",),
    ALIEN: ("..#.#...", ".#####..", "##.#.##.", "#######.", "#.###.#.", "#.#.#.#.", "...#....")
    + ("........",),
    SHOT: ("...#....",) * 6 + ("........",) * 2,
    BOMB: ("........", "..###...", ".#####..", ".#####..", ".#####..", "..###...", "...#....")
    + ("........",),
    WALL: ("########",) * 8,
    GOAL: ("...##...", "..####..", ".######.", "########", ".######.", "..####..", "...##...")
    + ("........",),
    GAP: ("...#....",) * 8,
}
FAINT = 5  # the colour of the dots between cells, and of the line between two films


def boards(seen) -> np.ndarray:
    """Planes of Space Invaders (T, 5, 10, 10) → what stands in every cell, (T, 10, 10)."""
    seen = np.asarray(seen)
    cells = np.zeros(seen.shape[:1] + seen.shape[2:], np.uint8)
    for plane, thing in ((3, BOMB), (2, SHOT), (1, ALIEN), (0, SHIP)):
        cells[seen[:, plane] > 0] = thing
    return cells


class Film:
    """A game's boards, (T, rows, columns) of EMPTY … GAP, as a picture that moves.

    said: the film in words, for who can't see it. seconds: how long a step is shown.
    """

    def __init__(self, cells, said: str, seconds: float = 0.12, scale: int = 3):
        self.cells, self.said = np.asarray(cells, np.uint8), said
        self.seconds, self.scale = seconds, scale

    def beside(self, other: "Film", said: str) -> "Film":
        """Both games at once; the shorter one's last board stays."""
        length = max(len(self.cells), len(other.cells))
        one, two = (f.cells[np.minimum(np.arange(length), len(f.cells) - 1)] for f in (self, other))
        gap = np.full((length, one.shape[1], 1), GAP, np.uint8)
        return Film(np.concatenate([one, gap, two], 2), said, self.seconds, self.scale)

    def png(self) -> bytes:
        """The animated PNG; it plays for ever, and rests a second at its end."""
        frames = [self._pixels(board) for board in self.cells]
        tall, wide = frames[0].shape
        colours = b"".join(bytes.fromhex(colour[1:]) for colour in PALETTE)
        header = struct.pack(">IIBBBBB", wide, tall, 8, 3, 0, 0, 0)
        parts = [_chunk(b"IHDR", header), _chunk(b"acTL", struct.pack(">II", len(frames), 0))]
        parts.append(_chunk(b"PLTE", colours))
        number = 0  # control and data chunks share one count
        for i, frame in enumerate(frames):
            lasts = round(1000 * (self.seconds if i < len(frames) - 1 else 1))
            shape = struct.pack(">IIIIIHHBB", number, wide, tall, 0, 0, lasts, 1000, 0, 0)
            parts.append(_chunk(b"fcTL", shape))
            rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in frame), 9)
            kind, before = (b"fdAT", struct.pack(">I", number + 1)) if i else (b"IDAT", b"")
            parts.append(_chunk(kind, before + rows))
            number += 2 if i else 1
        return b"".join([b"\x89PNG\r\n\x1a\n", *parts, _chunk(b"IEND", b"")])

    def _pixels(self, board) -> np.ndarray:
        """One board (rows, columns) → colours of its dots, scaled."""
        tall, wide = board.shape
        dots = TILE_COLOURS[board].transpose(0, 2, 1, 3).reshape(tall * DOTS, wide * DOTS)
        return dots.repeat(self.scale, 0).repeat(self.scale, 1)

    def __str__(self):
        return self.said

    def _repr_mimebundle_(self, **kwargs):
        return {"image/png": base64.b64encode(self.png()).decode(), "text/plain": self.said}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _tile(thing) -> np.ndarray:
    filled = np.array([[dot == "#" for dot in row] for row in TILES[thing]])
    return (filled * (FAINT if thing in (EMPTY, GAP) else thing)).astype(np.uint8)


TILE_COLOURS = np.stack([_tile(thing) for thing in sorted(TILES)])
