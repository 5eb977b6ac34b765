"""Figures of every token of one answer, as an SVG: tokens in a row, a strip of colours under them
for each figure, a sentence under each strip.
"""

import html
from dataclasses import dataclass

from labkit import LabError
from labkit.charts.figures import ABOVE, BELOW
from labkit.charts.look import FONT, INK, MONO, PAPER, RULE, faint, text
from labkit.charts.tables import number, some, table, visible, width, written

WIDE, LEFT, CELL, SIZE, NOTE = 800, 92, 24, 13, 13  # pixels; LEFT: room for the strips' names
LONGEST = 16  # columns of a token's name


@dataclass
class Strips:
    """See `strips`."""

    tokens: list
    rows: dict
    notes: dict
    title: str = ""

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/svg+xml": self.svg(), "text/plain": str(self)}

    def __str__(self):
        """Title, table of the figures, sentences."""
        values = zip(*self.rows.values())
        lines = [
            {"token": token} | dict(zip(self.rows, each))
            for token, each in zip(self.tokens, values)
        ]
        notes = [f"{name}: {note}" for name, note in self.notes.items()]
        return "\n".join([str(table(lines, digits=2, title=self.title)), *notes])

    def svg(self) -> str:
        names = [_short(token) for token in self.tokens]
        parts, y = [], 14
        if self.title:
            parts.append(_words(12, y + 12, self.title, 16, weight="bold"))
            y += 30
        tops = {
            name: max(map(abs, filter(None, row)), default=1) for name, row in self.rows.items()
        }
        for part in _lines(names):
            places = _places([names[i] for i in part])
            for i, (x, wide) in zip(part, places):
                parts.append(_words(x + wide / 2, y + 15, names[i], SIZE, "middle", MONO))
            y += 22
            for name, row in self.rows.items():
                parts.append(_words(LEFT - 8, y + 16, name, SIZE, "end"))
                for i, (x, wide) in zip(part, places):
                    parts += _cell(x, y, wide, row[i], tops[name])
                y += CELL
                if part[-1] == len(names) - 1 and name in self.notes:  # under the last line alone
                    parts.append(_words(LEFT, y + 15, self.notes[name], NOTE))
                    y += 28
            y += 12
        alt = f"{self.title or 'An answer'}: {', '.join(self.rows)} of {len(names)} tokens"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{text(alt)}"'
            f' width="{WIDE}" height="{y}" viewBox="0 0 {WIDE} {y}" fill="{INK}"'
            f' font-family="{html.escape(FONT)}">'
            f'<rect width="{WIDE}" height="{y}" rx="10" fill="{PAPER}"/>{"".join(parts)}</svg>'
        )


def strips(tokens, rows, notes=None, title="") -> Strips:
    """Tokens with a strip for each of `rows`, {name: a value for each token}: blue above and orange
    below zero, each strip by its own largest value; None leaves a cell white.

    notes: {name: a sentence under that strip}, of at most about 100 characters. Raises LabError
    where a row has another length than the tokens.
    """
    tokens = some([str(token) for token in tokens])
    rows = {name: [number(value) for value in row] for name, row in some(rows).items()}
    for name, row in rows.items():
        if len(row) != len(tokens):
            raise LabError(
                f"There are {len(tokens)} tokens but {len(row)} values of {name!r}. Give one value"
                " a token."
            )
    return Strips(tokens, rows, notes or {}, title)


def _short(token) -> str:
    shown = visible(token).replace(" ", "\u00a0") or "∅"
    return shown if width(shown) <= LONGEST else shown[: LONGEST // 2] + "…"


def _wide(name) -> float:
    """Pixels of a token's column: its name, or a figure such as −0.12."""
    return max(46, 8 * width(name) + 10)


def _lines(names) -> list[list[int]]:
    """The tokens' places, as many in a line as the panel has room for."""
    lines, room = [[]], WIDE - LEFT - 12
    for i, name in enumerate(names):
        if lines[-1] and sum(_wide(names[j]) for j in lines[-1]) + _wide(name) > room:
            lines.append([])
        lines[-1].append(i)
    return lines


def _places(names) -> list[tuple]:
    """(x, width) of each token's column in its line."""
    places, x = [], LEFT
    for name in names:
        places.append((x, _wide(name)))
        x += _wide(name)
    return places


def _cell(x, y, wide, value, top) -> list[str]:
    fill = PAPER if value is None else faint(ABOVE if value > 0 else BELOW, abs(value) / top)
    box = f'x="{x + 1:g}" y="{y + 1:g}" width="{wide - 2:g}" height="{CELL - 2}" rx="3"'
    rect = f'<rect {box} fill="{fill}" stroke="{RULE}"/>'
    said = "" if value is None else _figure(value)
    return [rect, _words(x + wide / 2, y + 16, said, 12, "middle")]


def _figure(value) -> str:
    """Two decimal places, with a true minus; 0 for what rounds to it."""
    return written(round(value, 2) + 0.0, 2).replace("-", "−")


def _words(x, y, said, size, anchor="start", font="", weight="") -> str:
    style = f' font-family="{html.escape(font)}"' if font else ""
    style += f' font-weight="{weight}"' if weight else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"'
    return f"<text {place}{style}>{text(said)}</text>"
