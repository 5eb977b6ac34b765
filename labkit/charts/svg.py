"""The figures of lines.py as SVG: what a live chart shows while its run goes on.

Plotly's renderer in JupyterLab keeps a display's first state, and its FigureWidget brings five
megabytes of script and vanishes when the kernel does. An SVG takes about two milliseconds, needs no
script, is replaced in place without a flicker, and works wherever HTML does. It is as high as
plotly's figure and as wide as the page: the shapes are stretched (not their strokes), while words
keep their size and stand at a share of the width.
"""

import html
import math

from labkit.charts.look import AXIS, FONT, INK, MARGIN, MARKS, PAPER, RULE
from labkit.charts.tables import as_text

WIDE = 800  # in which the shapes are drawn
_STROKES = {"dash": "8 5", "dot": "2 4", "dashdot": "8 4 2 4", "longdash": "13 6"}


def svg(figure: dict) -> str:
    """An <svg> for a figure of `lines`. All text in the figure is escaped already."""
    layout, data = figure["layout"], figure["data"]
    tall, margin = layout["height"], MARGIN | layout["margin"]
    inner_wide, inner_tall = WIDE - margin["l"] - margin["r"], tall - margin["t"] - margin["b"]
    shapes, words = [], [_words(16, 30, layout["title"]["text"], size=16)]
    if layout["showlegend"]:
        runs = [(trace["line"], trace["name"]) for trace in data if trace["showlegend"]]
        keys = [_span(line["color"], f"{MARKS[line['dash']]} {name}") for line, name in runs]
        words.append(_words(WIDE - margin["r"], 29, "\u00a0 ".join(keys), size=13, anchor="end"))
    for key in [key for key in layout if key.startswith("xaxis")]:
        x_axis, y_axis = layout[key], layout["y" + key[1:]]
        left, right = (margin["l"] + inner_wide * end for end in x_axis["domain"])
        bottom, top = (margin["t"] + inner_tall * (1 - end) for end in y_axis["domain"])
        if mine := [trace for trace in data if trace["xaxis"] == "x" + key[5:]]:
            _panel(shapes, words, mine, x_axis, y_axis, left, right, top, bottom)
    for note in layout["annotations"]:
        x, y = margin["l"] + inner_wide * note["x"], margin["t"] + inner_tall * (1 - note["y"])
        said = note["text"].replace("<b>", '<tspan font-weight="bold">').replace("</b>", "</tspan>")
        said = said.replace('<span style="color:', '<tspan fill="').replace("</span>", "</tspan>")
        words.append(_words(x, y - 7, said))
    alt, font = html.escape(layout["meta"]["alt"]), html.escape(FONT)
    size = f'width="100%" height="{tall}"'
    stretched = f'{size} viewBox="0 0 {WIDE} {tall}" preserveAspectRatio="none"'
    plain = as_text("".join(words))
    return (
        f'<svg {plain}xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{alt}" {size} '
        f'style="display:block;background:{PAPER}" font-family="{font}" fill="{INK}">'
        f"<svg {stretched}>{''.join(shapes)}</svg>{''.join(words)}</svg>"
    )


def _panel(shapes, words, traces, x_axis, y_axis, left, right, top, bottom):
    """Grid, axes and lines of one panel, added to `shapes` and `words`."""
    x_low, x_high = x_axis["range"] or _ends([v for trace in traces for v in trace["x"]])
    values = [v for trace in traces for v in trace["y"]]
    y_low, y_high = _ends(values, from_zero=y_axis["rangemode"] == "tozero", room=0.06)

    def across(x):
        return left + (x - x_low) * (right - left) / (x_high - x_low or 1)

    def up(y):
        return bottom - (y - y_low) * (bottom - top) / (y_high - y_low)

    for tick in _ticks(y_low, y_high, (bottom - top) / 28):
        shapes.append(_path([(left, up(tick)), (right, up(tick))], RULE))
        words.append(_words(left, up(tick) + 4, f"{tick:g}", anchor="end", shift=-6))
    for tick in _ticks(x_low, x_high, (right - left) / 48):
        shapes.append(_path([(across(tick), top), (across(tick), bottom)], RULE))
        words.append(_words(across(tick), bottom + 16, f"{tick:g}", anchor="middle"))
    shapes.append(_path([(left, top), (left, bottom), (right, bottom)], AXIS))
    middle = (left + right) / 2
    words.append(_words(middle, bottom + 34, x_axis["title"]["text"], anchor="middle"))
    words.append(_words(left, top - 8, y_axis["title"]["text"]))
    before = []
    for trace in traces:
        pieces = [[]]  # between gaps
        for x, y in zip(trace["x"], trace["y"]):
            if y is None:
                pieces.append([])
            else:
                pieces[-1].append((across(x), up(y)))
        points = sum(pieces, [])
        if trace.get("fill"):
            outline = _points(before + points[::-1])
            shapes.append(f'<polygon points="{outline}" fill="{trace["fillcolor"]}"/>')
        before = points
        for piece in filter(None, pieces):
            if len(piece) > 1:
                shapes.append(_path(piece, **trace["line"]))
            else:  # a line of no length with round ends: a dot
                shapes.append(_path(piece * 2, trace["line"]["color"], width=7))


def _words(x, y, words, size=12, anchor="start", shift=0) -> str:
    """Text at x of WIDE and `shift` pixels beside it."""
    place = f'x="{100 * x / WIDE:.2f}%" y="{y:.1f}" dx="{shift}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}">{words}</text>' if words else ""


def _span(colour, words) -> str:
    return f'<tspan fill="{colour}">{words}</tspan>'


def _path(points, color, width=1, dash=None) -> str:
    ends = f'stroke-dasharray="{_STROKES[dash]}"' if dash in _STROKES else 'stroke-linecap="round"'
    stroke = f'fill="none" stroke="{color}" stroke-width="{width}" {ends}'
    return f'<polyline points="{_points(points)}" {stroke} vector-effect="non-scaling-stroke"/>'


def _points(points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ends(values, from_zero=False, room=0.0) -> tuple:
    """(lowest, highest) of an axis, never equal, with some room beyond the data."""
    values = [v for v in values if v is not None] + [0.0] * from_zero or [0.0]
    low, high = min(values), max(values)
    if low == high:
        return (low, low + 1) if from_zero else (low - 1, high + 1)
    room *= high - low
    return low - room * (low < 0 or not from_zero), high + room * (high > 0 or not from_zero)


def _ticks(low, high, most) -> list[float]:
    """Round numbers from low to high, about `most` of them: steps of 1, 2 or 5 times a power of
    ten.
    """
    rough = (high - low or 1) / max(most, 2)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * s for s in (1, 2, 5, 10) if s == 10 or power * s >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
