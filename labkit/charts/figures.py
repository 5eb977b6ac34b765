"""Tables and metrics become figures: one plotly template, one way to show them, one live chart.
 The home of all of it for notebooks: the figures are made here and in lines.py, shown by live.py.
Text from a model is untrusted: it is escaped, and its control characters are made visible.
"""

import html
import math

import plotly.graph_objects as go

from labkit import LabError
from labkit.charts.lines import (
    CHINESE,
    COLOURS,
    DASHES,
    GREY,
    INK,
    PAPER,
    RULE,
    faint,
    layout_of,
    lines,
    text,
)
from labkit.charts.progress import MIME as MIME  # what notebooks ask of charts
from labkit.charts.progress import Dashboard as Dashboard
from labkit.charts.progress import Live as Live
from labkit.charts.progress import bundle as bundle
from labkit.charts.progress import dashboard as dashboard
from labkit.charts.progress import live as live
from labkit.charts.progress import panels_of
from labkit.charts.progress import show as show
from labkit.charts.tables import number, some, visible, width, written
from labkit.charts.tables import table as table

ABOVE, ZERO, BELOW = "#6cb4e4", PAPER, "#f0a35e"  # light enough for dark text on top
MONO = f'"DejaVu Sans Mono", Menlo, Consolas, "Noto Sans Mono CJK TC", {CHINESE}, monospace'


def curves(runs, metrics=None, x="step", smooth=0.0, title="", points=300):
    """Small-multiple lines, one panel per metric and one colour per run.

    Args: runs: a Run, a list of metric dicts, a list of Runs, or {name: either}. metrics: names, or
    {name: label}; None takes all numbers. smooth: weight of the past in a bias-corrected moving
    mean (0 none … 0.99 strong); of a single run, the raw line stays behind it, faint. points:
    longer lines are thinned to about this many across the page.
    """
    series = _series(runs)
    return go.Figure(lines(series, panels_of(some(series), metrics, x), x, smooth, title, points))


def bars(rows, x, y, group=None, error=None, title="", digits=2):
    """Bars from a list of dicts: column `x` names them, `y` is their height, `group` colours them,
    `error` is the ± half-width.
    """
    groups = {}
    for row in some(rows):
        groups.setdefault(row[group] if group else y, []).append(row)
    figure = go.Figure(
        layout=layout_of(
            title,
            360,
            xaxis=dict(type="category"),
            yaxis=dict(title=dict(text=text(y))),
            showlegend=bool(group),
        )
    )
    for i, (name, members) in enumerate(groups.items()):
        heights = [number(row.get(y)) for row in members]
        spread = (
            dict(
                type="data",
                array=[number(row.get(error)) or 0 for row in members],
                color=INK,
                thickness=1.2,
                width=5,
            )
            if error
            else None
        )
        figure.add_bar(
            x=[text(row[x]) for row in members],
            y=heights,
            name=text(name),
            marker_color=COLOURS[i % len(COLOURS)],
            error_y=spread,
            text=["" if h is None else written(h, digits) for h in heights],
            textposition="inside" if error else "auto",
            insidetextanchor="start" if error else "end",
            textangle=0,
            cliponaxis=False,
        )
    best = [
        f"{row[x]}{f' ({row[group]})' if group else ''}: {written(row.get(y), digits)}"
        for row in rows[:8]
    ]
    return _described(figure, f"Bars of {y}. {'; '.join(best)}")


def bands(series, x, columns, title="", level=None):
    """Lines with their spread: {name: rows} over column `x`, one colour a name and one dash for
    each of `columns`.

    Where a row holds "COLUMN lowest" and "COLUMN highest" as well, the band between them is shaded.
    level: {label: height} of a dotted line.
    """
    columns, said = [columns] if isinstance(columns, str) else list(columns), []
    single = len(columns) == 1
    figure = go.Figure(
        layout=layout_of(
            title,
            400,
            xaxis=dict(title=dict(text=text(x))),
            yaxis=dict(title=dict(text=text(columns[0] if single else "score"))),
            legend=dict(y=1, yref="paper", yanchor="bottom"),
            margin=dict(t=84),
        )
    )
    for i, (name, rows) in enumerate(some(series).items()):
        colour = COLOURS[i % len(COLOURS)]
        for column, dash in zip(columns, DASHES):
            there = [row for row in rows if number(row.get(column)) is not None]
            whole = [row for row in there if number(row.get(f"{column} lowest")) is not None]
            label = text(name if single else f"{name}, {column}")
            if whole:
                figure.add_scatter(
                    x=[row[x] for row in whole + whole[::-1]],
                    y=[row[f"{column} lowest"] for row in whole]
                    + [row[f"{column} highest"] for row in whole[::-1]],
                    fill="toself",
                    fillcolor=faint(colour, 0.13),
                    mode="none",
                    name=label,
                    legendgroup=label,
                    showlegend=False,
                    hoverinfo="skip",
                )
            figure.add_scatter(
                x=[row[x] for row in there],
                y=[row[column] for row in there],
                mode="lines+markers",
                name=label,
                legendgroup=label,
                line=dict(color=colour, dash=dash),
                marker=dict(size=6),
            )
            if there:
                said.append(
                    f"{name}, {column}: {written(there[0][column], 2)} →"
                    f" {written(there[-1][column], 2)}"
                )
    for label, height in (level or {}).items():
        figure.add_hline(
            y=height, line=dict(color=GREY, dash="dot", width=1.5), annotation_text=text(label)
        )
    return _described(figure, f"Lines over {x} with their spread. {'; '.join(said)}")


def histogram(groups, x="value", bins=30, title=""):
    """Outlined histograms of {name: values} on shared bins, as shares of each group, with the means
    dashed.
    """
    groups = {
        name: [v for v in map(number, values) if v is not None] for name, values in groups.items()
    }
    everything = some([v for values in groups.values() for v in values])
    low, high = min(everything), max(everything)
    step = (high - low) / bins or 1.0
    figure = go.Figure(
        layout=layout_of(
            title,
            340,
            xaxis=dict(title=dict(text=text(x))),
            yaxis=dict(title=dict(text="share"), tickformat=".0%"),
        )
    )
    said = []
    for i, (name, values) in enumerate(groups.items()):
        if not values:
            continue
        counts, colour = [0] * bins, COLOURS[i % len(COLOURS)]
        for v in values:
            counts[min(int((v - low) / step), bins - 1)] += 1
        mean, label = sum(values) / len(values), text(name)
        edges, shares = [low + step * b for b in range(bins + 1)], [c / len(values) for c in counts]
        figure.add_scatter(
            x=[low, *edges, edges[-1]],
            y=[0, *shares, shares[-1], 0],
            line=dict(shape="hv", color=colour, width=2),
            fill="tozeroy",
            fillcolor=faint(colour, 0.18),
            name=f"{label} (mean {written(mean, 2)}, n = {len(values):,})",
        )
        figure.add_vline(x=mean, line=dict(color=colour, dash="dash", width=1.5))
        said.append(f"{name}: mean {written(mean, 2)} of {len(values):,}")
    return _described(figure, f"Histogram of {x}. {'; '.join(said)}")


def calibration(probabilities, outcomes, bins=10, title=""):
    """How often it happened against how probable it was said to be, in bins of equal count with 95
    % Wilson intervals; the diagonal is perfect.
    """
    pairs = sorted(some(list(zip(probabilities, outcomes, strict=True))))
    bins = min(bins, len(pairs))
    said, happened, above, below, sizes, gap = [], [], [], [], [], 0.0
    for b in range(bins):
        part = pairs[b * len(pairs) // bins : (b + 1) * len(pairs) // bins]
        n, p, q = (
            len(part),
            sum(p for p, _ in part) / len(part),
            sum(float(o) for _, o in part) / len(part),
        )
        # Wilson's interval: z = 1.96, z² = 3.84
        centre = (q + 1.92 / n) / (1 + 3.84 / n)
        half = 1.96 * math.sqrt(q * (1 - q) / n + 0.96 / n**2) / (1 + 3.84 / n)
        said.append(p)
        happened.append(q)
        above.append(max(0.0, centre + half - q))
        below.append(max(0.0, q - centre + half))
        sizes.append(n)
        gap += n * abs(p - q) / len(pairs)
    unit = dict(range=[-0.02, 1.02], tickformat=".0%")
    figure = go.Figure(
        layout=layout_of(
            title,
            380,
            xaxis=dict(title=dict(text="said"), **unit),
            yaxis=dict(title=dict(text="happened"), **unit),
        )
    )
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line=dict(color="#8a8a8a", dash="dash", width=1.5),
        name="perfect",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=said,
        y=happened,
        mode="lines+markers",
        name=f"measured (mean gap {gap:.1%}, n = {len(pairs):,})",
        customdata=sizes,
        marker=dict(size=8),
        line=dict(color=COLOURS[0]),
        error_y=dict(
            type="data", array=above, arrayminus=below, color=COLOURS[0], thickness=1.2, width=4
        ),
        hovertemplate="said %{x:.1%}, happened %{y:.1%}, n = %{customdata}<extra></extra>",
    )
    return _described(
        figure,
        f"Calibration: mean gap {gap:.1%} between said and happened, {len(pairs):,} cases in {bins}"
        " bins",
    )


def heat(tokens, values, title="", label="value", columns=84):
    """Tokens in reading order, each on a colour for its value: blue above and orange below zero.
    None leaves a token white.
    """
    values = [number(v) for v in values]
    if len(tokens) != len(values):
        raise LabError(
            f"There are {len(tokens)} tokens but {len(values)} values. Give one value a token."
        )
    known = some([v for v in values if v is not None])
    top = max(map(abs, known)) or 1.0
    low = -top if min(known) < 0 else 0.0
    scale = [[0, ZERO], [1, ABOVE]] if not low else [[0, BELOW], [0.5, ZERO], [1, ABOVE]]
    shapes, xs, ys, hovers, column, line = [], [], [], [], 0.0, 0
    for token, value in zip(tokens, values):
        shown = visible(str(token))
        shown = shown if len(shown) <= 40 else shown[:39] + "…"
        size = width(shown) + 1.2
        if column and column + size > columns:
            column, line = 0.0, line + 1
        strength = 0 if value is None else value / top
        fill = faint(ABOVE if strength > 0 else BELOW, abs(strength))
        shapes.append(
            dict(
                type="rect",
                x0=column,
                x1=column + size - 0.25,
                y0=line,
                y1=line + 0.8,
                fillcolor=fill,
                line=dict(width=1, color=RULE),
                label=dict(
                    text=html.escape(shown).replace(" ", "\u00a0"),
                    font=dict(family=MONO, size=13, color=INK),
                ),
            )
        )
        xs.append(column + size / 2)
        ys.append(line + 0.4)
        said = "none" if value is None else written(value, 3)
        hovers.append(f"{html.escape(shown)}<br>{text(label)} {said}")
        column += size
        if str(token).endswith("\n"):
            column, line = 0.0, line + 1
    marker = dict(
        color=[v or 0 for v in values],
        cmin=low,
        cmax=top,
        colorscale=scale,
        opacity=0,
        size=18,
        colorbar=dict(thickness=10, title=dict(text=text(label), side="right"), len=1, y=0.5),
    )
    hidden = dict(visible=False, fixedrange=True)
    rows = int(max(ys)) + 1
    figure = go.Figure(
        layout=layout_of(
            title,
            30 * max(rows, 4) + (64 if title else 32),
            width=800,
            shapes=shapes,
            showlegend=False,
            margin=dict(l=16, r=16, t=48 if title else 16, b=16),
            xaxis=dict(range=[0, columns], **hidden),
            yaxis=dict(range=[max(rows, 4), 0], **hidden),
        )
    )
    figure.add_scatter(
        x=xs, y=ys, mode="markers", marker=marker, hovertext=hovers, hoverinfo="text"
    )
    return _described(
        figure,
        f"{label} of {len(tokens)} tokens, from {written(min(known), 3)} to"
        f" {written(max(known), 3)}",
    )


def _series(runs) -> dict:
    """{name: list of metric dicts} from whatever `curves` accepts."""
    if hasattr(runs, "metrics"):
        return {runs.name: runs.metrics()}
    if isinstance(runs, dict):
        return {
            name: one.metrics() if hasattr(one, "metrics") else list(one)
            for name, one in runs.items()
        }
    runs = list(runs)
    if all(isinstance(one, dict) for one in runs):
        return {"run": runs}
    return {run.name: run.metrics() for run in runs}


def _described(figure, alt):
    return figure.update_layout(meta=dict(alt=visible(alt)))
