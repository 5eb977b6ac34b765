"""Metrics and tables become plotly figures. Text from a model is untrusted: all of it is escaped,
and its control characters are made visible.
"""

from statistics import fmean

from labkit import LabError
from labkit.charts.lines import lines, panels_of
from labkit.charts.look import COLOURS, GREY, INK, MONO, PAPER, RULE, colour, dash, faint, text
from labkit.charts.showing import figure
from labkit.charts.tables import number, some, visible, width, written

# Stacked areas: neighbours differ in lightness and pattern as well as in colour.
AREAS = ("#0072B2", "#8ecae6", "#D55E00", "#AA4499", "#E69F00", "#d4d4d4")
AREA_SHAPES = ("", "", "/", ".", "x", "")
ABOVE, BELOW = "#6cb4e4", "#f0a35e"  # zero, in a heat map: light enough for dark text on top


def curves(runs, metrics=None, x="step", smooth=0.0, title=""):
    """Small-multiple lines, one panel per metric and one colour per run.

    Args: runs: a Run, a list of metric dicts, a list of Runs, or {name: either}. metrics: names, or
    {name: label}; None takes all numbers. smooth: weight of the past in a bias-corrected moving
    mean (0 none … 0.99 strong); of a single run, the raw line stays behind it, faint.
    """
    runs = [runs] if hasattr(runs, "metrics") else runs
    if not isinstance(runs, dict):
        plain = all(isinstance(one, dict) for one in runs)
        runs = {"run": runs} if plain else {run.name: run for run in runs}
    series = {
        name: one.metrics() if hasattr(one, "metrics") else list(one) for name, one in runs.items()
    }
    return figure(lines(series, panels_of(some(series), metrics, x), x, smooth, title))


def bars(rows, x, y, group=None, error=None, title=""):
    """Bars from a list of dicts: column `x` names them, `y` is their height, `group` colours them,
    `error` is the ± half-width.
    """
    groups = {}
    for row in some(rows):
        groups.setdefault(row[group] if group else y, []).append(row)
    drawn = _blank(title, 360, xaxis_type="category", yaxis_title_text=text(y))
    for i, (name, members) in enumerate(groups.items()):
        heights = [number(row.get(y)) for row in members]
        spread = [number(row.get(error)) or 0 for row in members] if error else None
        drawn.add_bar(
            x=[text(row[x]) for row in members],
            y=heights,
            name=text(name),
            marker_color=colour(name, i) if group else [colour(row[x], 0) for row in members],
            error_y=dict(array=spread, color=INK, thickness=1.2, width=5),
            text=["" if h is None else written(h, 2) for h in heights],
            textposition="inside" if error else "auto",
            insidetextanchor="start" if error else "end",
            textangle=0,
            cliponaxis=False,
        )
    drawn.update_layout(showlegend=bool(group))
    said = [
        f"{row[x]}{f' ({row[group]})' if group else ''}: {written(row.get(y), 2)}"
        for row in rows[:8]
    ]
    return _saying(drawn, f"Bars of {y}. {'; '.join(said)}")


def bands(series, x, columns, title="", level=None):
    """Lines with their spread: {name: rows} over column `x`, one colour a name and one dash for
    each of `columns`.

    Where a row holds "COLUMN lowest" and "COLUMN highest" as well, the band between them is shaded.
    level: {label: height} of a dotted line.
    """
    columns, said = [columns] if isinstance(columns, str) else list(columns), []
    single = len(columns) == 1
    drawn = _blank(
        title,
        400,
        xaxis_title_text=text(x),
        yaxis_title_text=text(columns[0] if single else "score"),
    )
    drawn.update_layout(legend=dict(yref="paper", yanchor="bottom"), margin_t=84)
    for i, (name, rows) in enumerate(some(series).items()):
        hue = colour(name, i)
        for j, column in enumerate(columns):
            there = [row for row in rows if number(row.get(column)) is not None]
            whole = [row for row in there if number(row.get(f"{column} lowest")) is not None]
            label = text(name if single else f"{name}, {column}")
            if whole:  # along the lowest, and back along the highest
                lowest = [row[f"{column} lowest"] for row in whole]
                highest = [row[f"{column} highest"] for row in whole]
                drawn.add_scatter(
                    x=[row[x] for row in whole + whole[::-1]],
                    y=lowest + highest[::-1],
                    fill="toself",
                    fillcolor=faint(hue, 0.13),
                    mode="none",
                    legendgroup=label,
                    showlegend=False,
                    hoverinfo="skip",
                )
            drawn.add_scatter(
                x=[row[x] for row in there],
                y=[row[column] for row in there],
                mode="lines+markers",
                name=label,
                legendgroup=label,
                line=dict(color=hue, dash=dash(column, j)),
                marker_size=6,
            )
            if there:
                first, last = (written(there[end][column], 2) for end in (0, -1))
                said.append(f"{name}, {column}: {first} → {last}")
    for label, height in (level or {}).items():
        drawn.add_hline(height, line=dict(color=GREY, dash="dot"), annotation_text=text(label))
    return _saying(drawn, f"Lines over {x} with their spread. {'; '.join(said)}")


def areas(films, x, columns, titles=None, slider="", start="", ticks=None):
    """Stacked areas of shares that sum to 1, with a slider where there are several films: {name:
    rows}, each row with column `x` and a share in each of `columns` (the first lies at the bottom).

    Args: titles: {name: title}; slider: what stands before the name of the film that is shown;
    start: the name it begins with (default: the first); ticks: {x: label}. The slider is part of
    the figure, so that it also moves where no kernel runs.
    """
    names = list(some(films))
    start, titles = start or names[0], titles or {}
    if start not in films:
        raise LabError(f"There is no film {start!r}. There are: {', '.join(map(str, names))}.")
    hues = [(*AREAS, *COLOURS)[i % (len(AREAS) + len(COLOURS))] for i in range(len(columns))]
    shapes = [AREA_SHAPES[i % len(AREA_SHAPES)] for i in range(len(columns))]
    drawn = _blank(titles.get(start, ""), 460 if len(films) > 1 else 400)
    for name, rows in films.items():
        for column, hue, shape in zip(columns, hues, shapes):
            drawn.add_scatter(
                x=[row[x] for row in some(rows)],
                y=[number(row[column]) for row in rows],
                name=text(column),
                visible=name == start,
                stackgroup=text(name),
                mode="lines",
                line=dict(width=1.2, color=PAPER),
                fillcolor=hue,
                fillpattern=dict(shape=shape, bgcolor=hue, fgcolor=PAPER, size=8, solidity=0.16),
                hovertemplate="%{y:.0%}<extra>" + text(column) + "</extra>",
            )
    beside = dict(orientation="v", x=1.01, xanchor="left", y=1, yref="paper", yanchor="top")
    drawn.update_layout(legend=dict(traceorder="reversed", **beside), hovermode="x unified")
    drawn.update_yaxes(range=[0, 1], tickformat=".0%", title_text="share of the answers")
    drawn.update_xaxes(title_text=text(x), showgrid=False)
    if ticks:
        drawn.update_xaxes(tickvals=list(ticks), ticktext=[text(one) for one in ticks.values()])
    if len(films) > 1:
        steps = [
            dict(
                label=text(name),
                method="update",
                args=[
                    {"visible": [other == name for other in names for _ in columns]},
                    {"title.text": text(titles.get(name, ""))},
                ],
            )
            for name in names
        ]
        drawn.update_layout(
            sliders=[
                dict(
                    active=names.index(start),
                    steps=steps,
                    pad=dict(t=58),
                    currentvalue=dict(prefix=text(slider), font=dict(size=14)),
                )
            ],
            margin_b=110,
        )
    first, last = films[start][0], films[start][-1]
    said = [f"{one} {first[one]:.0%} → {last[one]:.0%}" for one in columns]
    shown = f", {slider}{start}" if len(films) > 1 else ""
    return _saying(drawn, f"Stacked areas over {x}{shown}. {'; '.join(said)}")


def histogram(groups, x="value", bins=30, title=""):
    """Histograms of {name: values} on at most `bins` shared bins, as shares of each group, with the
    means dashed.
    """
    groups = {
        name: [v for v in map(number, values) if v is not None] for name, values in groups.items()
    }
    some([v for values in groups.values() for v in values])
    drawn = _blank(title, 340, xaxis_title_text=text(x), yaxis_title_text="share")
    drawn.update_layout(barmode="overlay", bargap=0, yaxis_tickformat=".0%", showlegend=True)
    said = []
    for i, (name, values) in enumerate(groups.items()):
        if not values:
            continue
        hue, mean = colour(name, i), fmean(values)
        drawn.add_histogram(
            x=values,
            histnorm="probability",
            bingroup="all",
            nbinsx=bins,
            marker=dict(color=faint(hue, 0.25), line=dict(color=hue, width=1.5)),
            name=f"{text(name)} (mean {written(mean, 2)}, n = {len(values):,})",
        )
        drawn.add_vline(mean, line=dict(color=hue, dash="dash", width=1.5))
        said.append(f"{name}: mean {written(mean, 2)} of {len(values):,}")
    return _saying(drawn, f"Histogram of {x}. {'; '.join(said)}")


def calibration(probabilities, outcomes, bins=10, title=""):
    """How often it happened (True or False each) against how probable it was said to be, in bins of
    equal count with 95 % Wilson intervals; the diagonal is perfect.
    """
    from scipy.stats import binomtest  # here, so that `import labkit.charts` stays quick

    pairs = sorted(some(list(zip(probabilities, outcomes, strict=True))))
    bins = min(bins, len(pairs))
    parts = [pairs[b * len(pairs) // bins : (b + 1) * len(pairs) // bins] for b in range(bins)]
    said = [fmean(p for p, _ in part) for part in parts]
    happened = [fmean(o for _, o in part) for part in parts]
    spreads = [
        binomtest(int(sum(o for _, o in part)), len(part)).proportion_ci(method="wilson")
        for part in parts
    ]
    gap = sum(len(part) * abs(p - q) for part, p, q in zip(parts, said, happened)) / len(pairs)
    drawn = _blank(title, 380, xaxis_title_text="said", yaxis_title_text="happened")
    drawn.update_xaxes(range=[-0.02, 1.02], tickformat=".0%")
    drawn.update_yaxes(range=[-0.02, 1.02], tickformat=".0%")
    drawn.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line=dict(color=GREY, dash="dash", width=1.5),
        name="perfect",
        hoverinfo="skip",
    )
    drawn.add_scatter(
        x=said,
        y=happened,
        mode="lines+markers",
        name=f"measured (mean gap {gap:.1%}, n = {len(pairs):,})",
        customdata=[len(part) for part in parts],
        marker_size=8,
        line_color=COLOURS[0],
        error_y=dict(
            array=[spread.high - q for spread, q in zip(spreads, happened)],
            arrayminus=[q - spread.low for spread, q in zip(spreads, happened)],
            thickness=1.2,
            width=4,
        ),
        hovertemplate="said %{x:.1%}, happened %{y:.1%}, n = %{customdata}<extra></extra>",
    )
    alt = f"mean gap {gap:.1%} between said and happened, {len(pairs):,} cases in {bins} bins"
    return _saying(drawn, f"Calibration: {alt}")


def heat(tokens, values, title="", label="value"):
    """Tokens in reading order, each on a colour for its value: blue above and orange below zero.
    None leaves a token white.
    """
    values, columns = [number(v) for v in values], 84
    if len(tokens) != len(values):
        raise LabError(
            f"There are {len(tokens)} tokens but {len(values)} values. Give one value a token."
        )
    known = some([v for v in values if v is not None])
    top = max(map(abs, known)) or 1.0
    boxes, centres, hovers, column, line = [], [], [], 0.0, 0
    for token, value in zip(tokens, values):
        shown = visible(str(token))
        shown = shown if len(shown) <= 40 else shown[:39] + "…"
        size = width(shown) + 1.2
        if column and column + size > columns:
            column, line = 0.0, line + 1
        strength = (value or 0) / top
        words = dict(text=text(shown).replace(" ", "\u00a0"), font=dict(family=MONO))
        boxes.append(
            dict(
                x0=column,
                x1=column + size - 0.25,
                y0=line,
                y1=line + 0.8,
                fillcolor=faint(ABOVE if strength > 0 else BELOW, abs(strength)),
                line=dict(width=1, color=RULE),
                label=words,
            )
        )
        centres.append((column + size / 2, line + 0.4))
        said = "none" if value is None else written(value, 3)
        hovers.append(f"{text(shown)}<br>{text(label)} {said}")
        column += size
        if str(token).endswith("\n"):
            column, line = 0.0, line + 1
    rows = max(boxes[-1]["y0"] + 1, 4)
    hidden = dict(visible=False, fixedrange=True)
    drawn = _blank(title, 30 * rows + (64 if title else 32), shapes=boxes, width=800)
    drawn.update_layout(margin=dict(l=16, r=16, t=48 if title else 16, b=16), showlegend=False)
    drawn.update_xaxes(range=[0, columns], **hidden).update_yaxes(range=[rows, 0], **hidden)
    below = min(known) < 0
    drawn.add_scatter(  # unseen points, for the words on hovering and for the bar of colours
        x=[x for x, _ in centres],
        y=[y for _, y in centres],
        mode="markers",
        marker=dict(
            color=[v or 0 for v in values],
            cmin=-top if below else 0,
            cmax=top,
            colorscale=[BELOW, PAPER, ABOVE] if below else [PAPER, ABOVE],
            opacity=0,
            size=18,
            colorbar=dict(thickness=10, len=1, y=0.5, title=dict(text=text(label), side="right")),
        ),
        hovertext=hovers,
        hoverinfo="text",
    )
    low, high = written(min(known), 3), written(max(known), 3)
    return _saying(drawn, f"{label} of {len(tokens)} tokens, from {low} to {high}")


def _blank(title, height, **layout):
    """A figure without data; layout: see plotly's "magic underscores"."""
    margin = dict(t=56 if title else 32)
    base = dict(title=dict(text=text(title)), height=height, margin=margin)
    return figure(dict(data=[], layout=base)).update_layout(**layout)


def _saying(drawn, alt):
    """The figure with its text alternative."""
    return drawn.update_layout(meta=dict(alt=visible(alt)))
