"""Tables and metrics become figures: one plotly template, one way to show them, one live chart.

A figure is shown as plotly's own JSON with a sentence beside it (the text alternative), never as HTML with a
4 MB library inside. With LABKIT_STATIC_CHARTS=1 a PNG goes along, so that a committed notebook shows its
charts on GitHub as well.

Colours are Okabe and Ito's (distinct to colour-blind eyes), and lines differ in dash too. The background is
opaque: a chart reads alike in a light and a dark theme. Text from a model is untrusted: it is escaped, and
its control characters are made visible.
"""

import html
import json
import math
import sys
import time

import plotly.graph_objects as go
import plotly.io as pio

from labkit import LabError, pictures
from labkit.tables import Table, number, some, visible, width, written
from labkit.tables import table as table  # charts.table

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#AA4499",
    "#E69F00",
    "#56B4E9",
    "#222222",
)  # blue, vermilion, green, …
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
INK, PAPER, RULE = "#222222", "#ffffff", "#e3e3e3"
ABOVE, ZERO, BELOW = "#6cb4e4", PAPER, "#f0a35e"  # light enough for dark text on top
CHINESE = '"PingFang TC", "Microsoft JhengHei", "Noto Sans TC", "Noto Sans CJK TC"'
FONT = f'Inter, "Helvetica Neue", Arial, {CHINESE}, sans-serif'
MONO = f'"DejaVu Sans Mono", Menlo, Consolas, "Noto Sans Mono CJK TC", {CHINESE}, monospace'
MIME = "application/vnd.plotly.v1+json"

_axis = dict(
    gridcolor=RULE,
    linecolor="#8a8a8a",
    zerolinecolor="#b5b5b5",
    showline=True,
    zeroline=False,
    ticks="outside",
    tickcolor="#8a8a8a",
    automargin=True,
    title=dict(standoff=8, font=dict(size=13)),
)
pio.templates["labkit"] = go.layout.Template(
    layout=dict(
        colorway=list(COLOURS),
        font=dict(family=FONT, size=13, color=INK),
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        xaxis=_axis,
        yaxis=_axis,
        title=dict(
            font=dict(size=16),
            x=0,
            xref="container",
            xanchor="left",
            pad=dict(l=16),
            y=0.97,
            yref="container",
            yanchor="top",
        ),
        margin=dict(l=64, r=20, t=56, b=52),
        hoverlabel=dict(font=dict(family=FONT)),
        bargap=0.25,
        legend=dict(
            orientation="h",
            x=1,
            xanchor="right",
            y=1,
            yref="container",
            yanchor="top",
            bgcolor="rgba(255,255,255,0)",
        ),
    )
)


def curves(runs, metrics=None, x="step", smooth=0.0, title="", points=300):
    """Small-multiple lines, one panel per metric and one colour per run.

    Args: runs: a Run, a list of metric dicts, a list of Runs, or {name: either}. metrics: names, or {name:
    label}; None takes all numbers.
    smooth: weight of the past in a bias-corrected moving mean (0 none … 0.99 strong); of a single run, the
    raw line stays behind it, faint.
    points: longer lines are thinned to about this many across the page.
    """
    return go.Figure(_curves(_series(runs), metrics, x, smooth, title, points))


def bars(rows, x, y, group=None, error=None, title="", digits=2):
    """Bars from a list of dicts: column `x` names them, `y` is their height, `group` colours them, `error`
    is the ± half-width.
    """
    groups = {}
    for row in some(rows):
        groups.setdefault(row[group] if group else y, []).append(row)
    figure = go.Figure(
        layout=_layout(
            title,
            360,
            xaxis=dict(type="category"),
            yaxis=dict(title=dict(text=_text(y))),
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
            x=[_text(row[x]) for row in members],
            y=heights,
            name=_text(name),
            marker_color=COLOURS[i % len(COLOURS)],
            error_y=spread,
            text=["" if h is None else written(h, digits) for h in heights],
            textposition="inside" if error else "auto",
            insidetextanchor="start" if error else "end",
            textangle=0,
            cliponaxis=False,
        )
    best = [
        f"{row[x]}{f' ({row[group]})' if group else ''}: {written(row.get(y), digits)}" for row in rows[:8]
    ]
    return _described(figure, f"Bars of {y}. {'; '.join(best)}")


def histogram(groups, x="value", bins=30, title=""):
    """Outlined histograms of {name: values} on shared bins, as shares of each group, with the means
    dashed.
    """
    groups = {name: [v for v in map(number, values) if v is not None] for name, values in groups.items()}
    everything = some([v for values in groups.values() for v in values])
    low, high = min(everything), max(everything)
    step = (high - low) / bins or 1.0
    figure = go.Figure(
        layout=_layout(
            title,
            340,
            xaxis=dict(title=dict(text=_text(x))),
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
        mean, label = sum(values) / len(values), _text(name)
        edges, shares = [low + step * b for b in range(bins + 1)], [c / len(values) for c in counts]
        figure.add_scatter(
            x=[low, *edges, edges[-1]],
            y=[0, *shares, shares[-1], 0],
            line=dict(shape="hv", color=colour, width=2),
            fill="tozeroy",
            fillcolor=_faint(colour, 0.18),
            name=f"{label} (mean {written(mean, 2)}, n = {len(values):,})",
        )
        figure.add_vline(x=mean, line=dict(color=colour, dash="dash", width=1.5))
        said.append(f"{name}: mean {written(mean, 2)} of {len(values):,}")
    return _described(figure, f"Histogram of {x}. {'; '.join(said)}")


def calibration(probabilities, outcomes, bins=10, title=""):
    """How often it happened against how probable it was said to be, in bins of equal count with 95 % Wilson
    intervals; the diagonal is perfect.
    """
    pairs = sorted(some(list(zip(probabilities, outcomes, strict=True))))
    bins = min(bins, len(pairs))
    said, happened, above, below, sizes, gap = [], [], [], [], [], 0.0
    for b in range(bins):
        part = pairs[b * len(pairs) // bins : (b + 1) * len(pairs) // bins]
        n, p, q = len(part), sum(p for p, _ in part) / len(part), sum(float(o) for _, o in part) / len(part)
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
        layout=_layout(
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
        error_y=dict(type="data", array=above, arrayminus=below, color=COLOURS[0], thickness=1.2, width=4),
        hovertemplate="said %{x:.1%}, happened %{y:.1%}, n = %{customdata}<extra></extra>",
    )
    return _described(
        figure,
        f"Calibration: mean gap {gap:.1%} between said and happened, {len(pairs):,} cases in {bins} bins",
    )


def heat(tokens, values, title="", label="value", columns=84):
    """Tokens in reading order, each on a colour for its value: blue above and orange below zero. None leaves
    a token white.
    """
    values = [number(v) for v in values]
    if len(tokens) != len(values):
        raise LabError(f"There are {len(tokens)} tokens but {len(values)} values. Give one value a token.")
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
        fill = _faint(ABOVE if strength > 0 else BELOW, abs(strength))
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
                    text=html.escape(shown).replace(" ", "\u00a0"), font=dict(family=MONO, size=13, color=INK)
                ),
            )
        )
        xs.append(column + size / 2)
        ys.append(line + 0.4)
        said = "none" if value is None else written(value, 3)
        hovers.append(f"{html.escape(shown)}<br>{_text(label)} {said}")
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
        colorbar=dict(thickness=10, title=dict(text=_text(label), side="right"), len=1, y=0.5),
    )
    hidden = dict(visible=False, fixedrange=True)
    rows = int(max(ys)) + 1
    figure = go.Figure(
        layout=_layout(
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
    figure.add_scatter(x=xs, y=ys, mode="markers", marker=marker, hovertext=hovers, hoverinfo="text")
    return _described(
        figure, f"{label} of {len(tokens)} tokens, from {written(min(known), 3)} to {written(max(known), 3)}"
    )


def show(figure, alt=""):
    """Display a figure (or a Table): as plotly JSON with `alt`, a sentence that says what it shows (made
    from the data if not given).
    """
    alt = alt or _alt(figure)
    if not _notebook():
        print(alt)
    elif isinstance(figure, Table):
        _display(figure._repr_mimebundle_())
    elif "google.colab" in sys.modules:  # Colab draws plotly only through its own renderer
        pio.show(figure, renderer="colab")
    else:
        _display(bundle(figure, alt))


def bundle(figure, alt="", static=None) -> dict:
    """The MIME bundle that `show` displays; `static` adds a PNG (None: where LABKIT_STATIC_CHARTS=1)."""
    spec = figure if isinstance(figure, dict) else json.loads(figure.to_json())
    content = {
        MIME: {**spec, "config": {"responsive": True, "displaylogo": False}},
        "text/plain": alt or _alt(figure),
    }
    if pictures.wanted() if static is None else static:
        content["image/png"] = pictures.png_base64(spec)
    return content


class Live:
    """A listener for `run.listeners`: one display, updated in place at most once per `every_seconds` and for
    under 2 % of the time.
    """

    def __init__(self, run, metrics=None, every_seconds=1.0, smooth=0.0):
        if pictures.wanted():
            pictures.browser()  # a missing browser should be known before an hour of training, not after
        self.run, self.metrics, self.every, self.smooth = run, metrics, every_seconds, smooth
        self.rows, self.drawn, self.handle = [], 0, None
        self.started, self.due, self.first = time.perf_counter(), 0.0, None

    def __call__(self, values):
        """Take one logged line; draw if it is time."""
        self.rows.append(values)
        if self.first is None and "step" in values:
            self.first = values["step"]
        now = time.perf_counter()
        if now >= self.due:
            self._draw()
            spent = time.perf_counter() - now
            self.due = now + max(self.every, 50 * spent)

    def finish(self):
        """Draw the last state, with its picture where one is wanted; safe to call again."""
        if self.drawn is not None and self.rows:
            self._draw(last=True)
            self.drawn = None

    def line(self) -> str:
        """sft-001 · step 120/300 · 40 % · 12 s left · loss 2.31"""
        seen = {key: value for row in self.rows for key, value in row.items()}
        parts, step, steps = [self.run.name], seen.get("step"), seen.get("steps")
        if step is not None:
            parts.append(f"step {step:,}" + (f"/{steps:,}" if steps else ""))
        if step is not None and steps:
            done = step - self.first + 1
            left = (time.perf_counter() - self.started) / max(done, 1) * (steps - step)
            parts += [
                f"{step / steps:.0%}".replace("%", " %"),
                f"{left:.0f} s left" if step < steps else f"{time.perf_counter() - self.started:.0f} s",
            ]
        names = self.metrics or [key for key in seen if key not in ("step", "steps")]
        parts += [
            f"{name} {written(seen[name], 3)}"
            for name in list(names)[:4]
            if number(seen.get(name)) is not None
        ]
        return " · ".join(parts)

    def _draw(self, last=False):
        line, self.drawn = self.line(), len(self.rows)
        if not _notebook():
            terminal = sys.stderr.isatty()
            if last or terminal or time.perf_counter() - getattr(self, "printed", -1e9) > 10:
                self.printed = time.perf_counter()
                print(
                    f"\r{line:<100}" if terminal else line,
                    end="\n" if last or not terminal else "",
                    file=sys.stderr,
                    flush=True,
                )
            return
        try:
            spec = _curves({self.run.name: self.rows}, self.metrics, "step", self.smooth, line)
        except LabError:  # the first lines may hold none of the metrics yet
            spec = None
        colab = "google.colab" in sys.modules
        content = {"text/plain": line}
        if spec and not colab:
            content = bundle(spec, line, static=last and pictures.wanted())
        if self.handle is None:
            self.handle = _display(content, display_id=True)
        else:
            self.handle.update(content, raw=True)
        if last and colab and spec:
            pio.show(go.Figure(spec), renderer="colab")


def live(run, metrics=None, every_seconds=1.0, smooth=0.0) -> Live:
    """`run.listeners.append(charts.live(run, ["loss"]))`: the metrics of a run while it trains (a line on
    stderr outside a notebook).
    """
    return Live(run, metrics, every_seconds, smooth)


def _curves(series, metrics, x, smooth, title, points=300) -> dict:
    """The figure of `curves` as plain dicts: building it costs about a millisecond, so a live chart may
    redraw.
    """
    found = dict.fromkeys(
        key
        for rows in some(series).values()
        for row in rows
        for key, value in row.items()
        if number(value) is not None and key not in (x, "steps")
    )
    labels = metrics if isinstance(metrics, dict) else {name: name for name in metrics or found}
    if not set(labels) & set(found):
        raise LabError(
            f"There is nothing to draw: no {', '.join(labels) or 'number'} was logged. "
            f"There is: {', '.join(found) or 'nothing'}."
        )
    across = 1 if len(labels) == 1 else 2
    down, points = math.ceil(len(labels) / across), points // across
    height = 340 if len(labels) == 1 else 210 * down + 90
    layout = _layout(
        title,
        height,
        showlegend=len(series) > 1,
        annotations=[],
        margin=dict(t=56 if len(labels) == 1 else 84),
    )
    gap_x, gap_y, data, said = 0.12, 66 / (height - 136) if down > 1 else 0, [], []
    for i, (name, label) in enumerate(labels.items()):
        column, row, n = i % across, i // across, "" if i == 0 else str(i + 1)
        left, panel_height = column * (1 + gap_x) / across, (1 - gap_y * (down - 1)) / down
        top = 1 - row * (panel_height + gap_y)
        right = left + (1 - gap_x * (across - 1)) / across
        lowest = i + across >= len(labels)
        layout[f"xaxis{n}"] = dict(
            domain=[left, right], anchor=f"y{n}", title=dict(text=_text(x)) if lowest else None
        )
        layout[f"yaxis{n}"] = dict(domain=[max(0, top - panel_height), top], anchor=f"x{n}")
        if len(labels) > 1:
            layout["annotations"].append(
                dict(
                    text=f"<b>{_text(label)}</b>",
                    x=left,
                    y=top,
                    xref="paper",
                    yref="paper",
                    xanchor="left",
                    yanchor="bottom",
                    showarrow=False,
                    yshift=3,
                )
            )
        else:
            layout["yaxis"]["title"] = dict(text=_text(label))
        for r, (who, rows) in enumerate(series.items()):
            pairs = [(row[x], number(row[name])) for row in rows if name in row and x in row]
            if not pairs:
                continue
            colour = COLOURS[r % len(COLOURS)]
            common = dict(
                type="scatter",
                mode="lines" if len(pairs) > 1 else "markers",
                xaxis=f"x{n}",
                yaxis=f"y{n}",
                name=_text(who),
                legendgroup=str(r),
            )
            kept = _thin(pairs, points)
            if smooth and len(series) == 1:
                data.append(
                    dict(
                        common,
                        x=[a for a, _ in kept],
                        y=[b for _, b in kept],
                        line=dict(color=_faint(colour, 0.3), width=1),
                        showlegend=False,
                        hoverinfo="skip",
                    )
                )
            if smooth:
                kept = _thin(_smoothed(pairs, smooth), points)
            data.append(
                dict(
                    common,
                    x=[a for a, _ in kept],
                    y=[b for _, b in kept],
                    showlegend=i == 0,
                    line=dict(color=colour, width=2, dash=DASHES[r % len(DASHES)]),
                    marker=dict(color=colour, size=7),
                )
            )
            whose = f" of {who}" if len(series) > 1 else ""
            said.append(f"{label}{whose} {written(pairs[0][1], 3)} → {written(pairs[-1][1], 3)}")
    layout["meta"] = dict(alt=visible(f"Lines over {x}. {'; '.join(said)}"))
    return dict(data=data, layout=layout)


def _series(runs) -> dict:
    """{name: list of metric dicts} from whatever `curves` accepts."""
    if hasattr(runs, "metrics"):
        return {runs.name: runs.metrics()}
    if isinstance(runs, dict):
        return {name: (one.metrics() if hasattr(one, "metrics") else list(one)) for name, one in runs.items()}
    runs = list(runs)
    if all(isinstance(one, dict) for one in runs):
        return {"run": runs}
    return {run.name: run.metrics() for run in runs}


def _layout(title, height, **more) -> dict:
    margin = {"t": 56 if title else 32, **more.pop("margin", {})}
    return dict(
        template=pio.templates["labkit"].to_plotly_json(),
        height=height,
        title=dict(text=_text(title)) if title else None,
        margin=margin,
        **more,
    )


def _described(figure, alt):
    return figure.update_layout(meta=dict(alt=visible(alt)))


def _alt(figure) -> str:
    if isinstance(figure, Table):
        return str(figure)
    layout = figure["layout"]
    meta = layout["meta"] if "meta" in layout else None
    return meta["alt"] if isinstance(meta, dict) and "alt" in meta else "A chart"


def _notebook() -> bool:
    """Whether a Jupyter kernel (not a terminal) is asking."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def _display(content, **options):
    from IPython.display import display

    return display(content, raw=True, **options)


def _text(value) -> str:
    """Text for a figure, where plotly would read tags."""
    return html.escape(visible(str(value)))


def _faint(colour, strength) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{strength:.3f})"


def _thin(pairs, points):
    every = -(-len(pairs) // points)
    return pairs if every == 1 else pairs[:-1:every] + pairs[-1:]


def _smoothed(pairs, weight):
    mean, mass, smoothed = 0.0, 0.0, []
    for a, b in pairs:
        if b is not None:
            mean, mass = weight * mean + (1 - weight) * b, weight * mass + 1 - weight
        smoothed.append((a, mean / mass if mass else None))
    return smoothed
