"""Shares with their intervals, a row for each method (a forest plot), as an SVG: a dot for the
mean, a line for its interval, a tick for each seed.
"""

import math
from dataclasses import dataclass

from labkit.charts.diagrams import SMALL, Picture
from labkit.charts.look import AXIS, GREY, INK, PAPER, RULE, colour
from labkit.charts.tables import some, table, visible

LEFT, RIGHT, TOP, LINE, GAP = 250, 630, 84, 22, 14  # pixels: the axis, the first row, a mark, a row
LOOKS = (("", True), ("6 4", False))  # of a first and a second mark: dash, whether its dot is full


@dataclass
class Forest:
    """See `forest`."""

    rows: list
    marks: dict
    title: str
    x: str

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/svg+xml": self.svg(), "text/plain": str(self)}

    def __str__(self):
        """Title and figures, a line for each mark of each row."""
        return str(table([line for row in self.rows for line in self._said(row)], title=self.title))

    def _said(self, row):
        for key, label in self.marks.items():
            if one := row.get(key):
                values = {name: one[name] for name in ("mean", "low", "high")}
                yield {"method": row["name"], "compared": label, **values}

    def svg(self) -> str:
        tall = TOP + len(self.rows) * (len(self.marks) * LINE + GAP) + 46
        page, bottom = Picture(tall), tall - 46
        page.words(16, 30, self.title, bold=True)
        for at, (label, (dash, full)) in enumerate(zip(self.marks.values(), LOOKS)):
            x = LEFT + 290 * at
            page.line((x, 54), (x + 34, 54), tone=INK, dash=dash, head=False)
            _dot(page, x + 17, 54, INK, full)
            page.words(x + 42, 59, label, SMALL)
        low, high = self._ends()

        def across(value):
            return LEFT + (value - low) / (high - low) * (RIGHT - LEFT)

        for tenth in range(round(low * 10), round(high * 10) + 1):
            x, even = across(tenth / 10), tenth == 5
            points = (x, TOP - 8), (x, bottom)
            page.line(*points, tone=AXIS if even else RULE, thick=2 if even else 1, head=False)
            page.words(x, bottom + 18, f"{tenth / 10:.1f}", SMALL, "middle")
        page.words((LEFT + RIGHT) / 2, bottom + 38, self.x, SMALL, "middle")
        y = TOP
        for i, row in enumerate(self.rows):
            hue = colour(row["name"], i)
            page.words(LEFT - 12, y + len(self.marks) * LINE / 2 + 5, row["name"], SMALL, "end")
            for key, (dash, full) in zip(self.marks, LOOKS):
                if one := row.get(key):
                    middle, ends = y + LINE / 2, [across(one[end]) for end in ("low", "high")]
                    page.line(*((x, middle) for x in ends), tone=hue, dash=dash, head=False)
                    for seed in one["seeds"]:
                        x = across(seed)
                        page.line(
                            (x, middle - 6), (x, middle + 6), tone=GREY, thick=1.2, head=False
                        )
                    _dot(page, across(one["mean"]), middle, hue, full)
                    said = f"{one['mean']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
                    page.words(RIGHT + 18, middle + 5, said, SMALL)
                y += LINE
            y += GAP
        return page.svg(f"{self.title}. {self._alt()}")

    def _ends(self) -> tuple[float, float]:
        """The axis: tenths around every interval, seed and ½."""
        each = [row[key] for row in self.rows for key in self.marks if row.get(key)]
        values = [v for one in each for v in (one["low"], one["high"], *one["seeds"])] + [
            0.45,
            0.55,
        ]
        return math.floor(min(values) * 10) / 10, math.ceil(max(values) * 10) / 10

    def _alt(self) -> str:
        lines = [line for row in self.rows for line in self._said(row)]
        return "; ".join(f"{o['method']}, {o['compared']}: {o['mean']:.2f}" for o in lines)


def forest(rows, marks, title="", x="share") -> Forest:
    """Shares (0 to 1) of methods beside each other and beside ½.

    rows: {"name", and for each of `marks` that it has {"mean", "low", "high", "seeds": [...]}}.
    marks: {key: label}, one or two: the first is drawn full and solid, the second hollow and
    dashed.
    """
    rows = [row | {"name": visible(str(row["name"]))} for row in some(list(rows))]
    marks = {key: visible(label) for key, label in marks.items()}
    return Forest(rows, marks, visible(title), visible(x))


def _dot(page, x, y, tone, full):
    fill = tone if full else PAPER
    page.parts.append(
        f'<circle cx="{x:g}" cy="{y:g}" r="5" fill="{fill}" stroke="{tone}" stroke-width="2"/>'
    )
