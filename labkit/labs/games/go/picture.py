"""A position of Go as a picture (SVG), with what a policy thinks as a heat map."""

import html
from dataclasses import dataclass, field

from labkit.charts.look import COLOURS, FONT, INK, PAPER, text
from labkit.labs.games.go import rules

CELL, EDGE = 44, 40  # pixels between lines; from the board's edge to the first line
WOOD, LINE = "#f3e3c3", "#7a6a4a"
HEAT = COLOURS[0]


def stones(state) -> str:
    """The board in letters, row a1 first: X black, O white, + empty."""
    size = rules.size_of(state)
    rows = [row.split()[-1] for row in str(state).splitlines() if row.strip()[:1].isdigit()]
    assert len(rows) == size
    return "".join(reversed(rows))


@dataclass
class Boards:
    """Positions side by side. Each: (title, state, {move: probability} to shade, moves to ring)."""

    boards: list[tuple] = field(default_factory=list)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/svg+xml": self.svg(), "text/plain": str(self)}

    def __str__(self):
        return "\n\n".join(f"{title}\n{said(state, heat)}" for title, state, heat, _ in self.boards)

    def svg(self) -> str:
        parts, x, tall = [], 0, 0
        for title, state, heat, ringed in self.boards:
            wide = 2 * EDGE + CELL * (rules.size_of(state) - 1) + 20
            parts += _board(x, title, state, heat, ringed)
            x, tall = x + wide, max(tall, wide + 34)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{text(str(self))}"'
            f' width="{x}" height="{tall}" viewBox="0 0 {x} {tall}" fill="{INK}"'
            f' font-family="{html.escape(FONT)}">'
            f'<rect width="{x}" height="{tall}" rx="10" fill="{PAPER}"/>{"".join(parts)}</svg>'
        )


def boards(*each) -> Boards:
    """A picture of positions: (title, state), (title, state, {move: probability}), or with the
    moves to ring as a fourth.
    """
    return Boards([(*one, *({}, ())[len(one) - 2 :]) for one in each])


def said(state, heat=None, most: int = 3) -> str:
    """A position in words and letters, with the likeliest moves of a policy."""
    size = rules.size_of(state)
    rows = [stones(state)[i : i + size] for i in range(0, size * size, size)]
    likely = sorted((heat or {}).items(), key=lambda one: -one[1])[:most]
    moves = ", ".join(f"{rules.name(move, size)} {share:.0%}" for move, share in likely)
    return "\n".join([*reversed(rows), *([f"likeliest: {moves}"] if moves else [])])


def _board(left, title, state, heat, ringed) -> list[str]:
    size = rules.size_of(state)
    first, last = EDGE, EDGE + CELL * (size - 1)
    passing = heat.get(size * size, 0)
    title += f" · pass {passing:.0%}" if passing >= 0.005 else ""
    parts = [
        _words(left + EDGE / 2 + 4, 24, title, 14, "start", bold=True),
        f'<rect x="{left + 14}" y="34" width="{last + EDGE - 16}" height="{last + EDGE - 16}"'
        f' rx="6" fill="{WOOD}"/>',
    ]
    top = 34 + EDGE - 8

    def at(move):
        return left + 8 + first + CELL * (move % size), top + CELL * (size - 1 - move // size)

    for i in range(size):
        (x, y), (right, _), (_, low) = at(i * size), at(i * size + size - 1), at(0)
        parts.append(f'<path d="M{x},{y}H{right}" stroke="{LINE}"/>')
        x, high = at((size - 1) * size + i)
        parts.append(f'<path d="M{x},{high}V{low}" stroke="{LINE}"/>')
        parts.append(_words(x, low + 27, rules.COLUMNS[i], 12))
        parts.append(_words(at(0)[0] - 25, y + 4, str(i + 1), 12))
    for move, share in heat.items():
        if move < size * size and share >= 0.005:
            x, y = at(move)
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="18" fill="{HEAT}"'
                f' fill-opacity="{0.12 + 0.75 * share:.2f}"/>'
            )
            ink = PAPER if share > 0.4 else INK
            parts.append(_words(x, y + 5, f"{100 * share:.0f}", 13, fill=ink))
    for move, stone in enumerate(stones(state)):
        if stone != "+":
            x, y = at(move)
            fill = {"X": "#1a1a1a", "O": "#ffffff"}[stone]
            parts.append(f'<circle cx="{x}" cy="{y}" r="19" fill="{fill}" stroke="#1a1a1a"/>')
    for move in ringed:
        x, y = at(move)
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="20" fill="none" stroke="{COLOURS[1]}" stroke-width="3"/>'
        )
    return parts


def _words(x, y, said, size, anchor="middle", fill=INK, bold=False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{fill}"'
    return f"<text {place}{weight}>{text(said)}</text>"
