"""Lines in small multiples as plain dicts, and the look that all figures share: one plotly
template.
 The dicts are a plotly figure, and what svg.py draws while a run goes on: building them costs about
a millisecond, a go.Figure many.
 Colours are Okabe and Ito's (distinct to colour-blind eyes), and lines differ in dash too. The
background is opaque: a chart reads alike in a light and a dark theme. All text is escaped (`text`).
"""

import html
from dataclasses import dataclass

import plotly.graph_objects as go
import plotly.io as pio

from labkit import LabError
from labkit.charts.tables import number, some, visible, written

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
INK, PAPER, RULE, AXIS, GREY = "#222222", "#ffffff", "#e3e3e3", "#8a8a8a", "#666666"
CHINESE = '"PingFang TC", "Microsoft JhengHei", "Noto Sans TC", "Noto Sans CJK TC"'
FONT = f'Inter, "Helvetica Neue", Arial, {CHINESE}, sans-serif'
MARGIN = dict(l=64, r=20, t=56, b=52)
MARKS = {
    "solid": "—",
    "dash": "– –",
    "dot": "····",
    "dashdot": "– ·",
    "longdash": "— —",
}  # in a panel's title

_axis = dict(
    gridcolor=RULE,
    linecolor=AXIS,
    zerolinecolor="#b5b5b5",
    showline=True,
    zeroline=False,
    ticks="outside",
    tickcolor=AXIS,
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
        margin=MARGIN,
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


@dataclass
class Panel:
    """One of the small multiples. Its metrics differ in dash, and in colour where there is one
    run.
    """

    title: str
    metrics: dict
    """{name in the metrics: label}; the labels stand beside the title when there are several."""
    wide: int = 1
    """Columns that it takes."""
    zero: bool = False
    """Whether its axis begins at zero."""
    shaded: bool = False
    """Whether the gap between its first two lines is shaded (where there is one run)."""
    levels: tuple = ()
    """Heights of dotted lines: targets."""


def lines(
    series, panels, x="step", smooth=0.0, title="", points=300, across=2, row=210, until=None
) -> dict:
    """`panels` in reading order, `across` in a row of `row` pixels, as a plotly figure ({"data",
    "layout"}).

    Args: series: {run: list of metric dicts}; smooth, points: see charts.curves; until: where the x
    axis ends, for a run that goes on. Raises LabError when there is no number for any panel.
    """
    there = numbers(some(series), x)
    asked = [name for panel in panels for name in panel.metrics]
    if not set(asked) & set(there):
        raise LabError(
            f"There is nothing to draw: no {', '.join(asked) or 'number'} was logged. "
            f"There is: {', '.join(there) or 'nothing'}."
        )
    across = min(across, sum(panel.wide for panel in panels))
    places, used, down = [], 0, 1
    for panel in panels:
        if used + panel.wide > across:
            used, down = 0, down + 1
        places.append(
            (down - 1, used, used + panel.wide)
        )  # row, first column, first column after it
        used += panel.wide
    single = len(panels) == 1
    height = 340 if single else row * down + 90
    layout = layout_of(
        title,
        height,
        showlegend=len(series) > 1,
        annotations=[],
        margin=dict(t=56 if single else 84),
    )
    gap_x, gap_y = 0.24 / across, 66 / (height - 136) if down > 1 else 0
    column, line = (1 + gap_x) / across, (1 + gap_y) / down  # a panel and the gap after it
    data, said, legend = [], [], set()
    for i, (panel, (r, first, end)) in enumerate(zip(panels, places)):
        n = "" if i == 0 else str(i + 1)
        traces, heading, told = _panel(
            panel, series, x, smooth, points * panel.wide // across, until
        )
        for trace in traces:
            trace |= dict(type="scatter", xaxis=f"x{n}", yaxis=f"y{n}")
            # a run is named once, by a line whose dash is the run's (in a panel of several it is
            # the metric's)
            once = len(panel.metrics) == 1 and trace["name"] not in legend
            trace["showlegend"] = trace.get("showlegend", once)
            legend |= {trace["name"]} if trace["showlegend"] else set()
        data += traces
        said += told
        below = any(r2 > r and first2 <= first < end2 for r2, first2, end2 in places)
        ends = [a for trace in traces for a in (trace["x"][0], trace["x"][-1])]
        top = 1 - r * line
        layout[f"xaxis{n}"] = dict(
            domain=[first * column, min(1.0, end * column - gap_x)],
            anchor=f"y{n}",
            title=None if below else dict(text=text(x)),
            range=[min(ends), max(*ends, until)] if until and ends else None,
        )
        layout[f"yaxis{n}"] = dict(
            domain=[max(0.0, top - line + gap_y), top],
            anchor=f"x{n}",
            title=dict(text=text(panel.title)) if single else None,
            rangemode="tozero" if panel.zero else "normal",
        )
        if not single:
            where = dict(
                x=first * column,
                y=top,
                xref="paper",
                yref="paper",
                xanchor="left",
                yanchor="bottom",
            )
            layout["annotations"].append(dict(text=heading, showarrow=False, yshift=3, **where))
    layout["meta"] = dict(alt=visible(f"Lines over {x}. {'; '.join(said)}"))
    return dict(data=data, layout=layout)


def _panel(panel, series, x, smooth, points, until):
    """(traces, heading, what they say) of one panel."""
    traces, keys, said, one_run = [], {}, [], len(series) == 1
    for r, (who, rows) in enumerate(series.items()):
        for m, (name, label) in enumerate(panel.metrics.items()):
            pairs = [
                (row[x], number(row[name]))
                for row in rows
                if name in row and number(row.get(x)) is not None
            ]
            if not pairs:
                continue
            of_several = len(panel.metrics) > 1
            colour = COLOURS[(m if one_run else r) % len(COLOURS)]
            dash = DASHES[(m if of_several else r) % len(DASHES)]
            kept = thin(smoothed(pairs, smooth) if smooth else pairs, points)
            if smooth and one_run:
                raw = thin(pairs, points)
                traces.append(
                    _trace(
                        raw,
                        who,
                        mode="lines",
                        line=dict(color=faint(colour, 0.3), width=1),
                        **_SILENT,
                    )
                )
            traces.append(
                _trace(
                    kept,
                    who,
                    mode="lines" if len(pairs) > 1 else "markers",
                    line=dict(color=colour, width=2, dash=dash),
                    marker=dict(color=colour, size=7),
                )
            )
            if of_several:
                keys[label] = _key(colour if one_run else INK, f"{MARKS[dash]} {text(label)}")
                traces[-1]["hovertemplate"] = f"%{{y:.3f}}<extra>{text(who)}, {text(label)}</extra>"
            if panel.shaded and m == 1 and one_run:
                traces[-1] |= dict(fill="tonexty", fillcolor=faint(INK, 0.08))
            whose = "" if one_run else f" of {who}"
            said.append(f"{label}{whose} {written(pairs[0][1], 3)} → {written(pairs[-1][1], 3)}")
    if not traces:
        keys["none"] = _key(GREY, "not logged")
    else:
        ends = [a for trace in traces for a in (trace["x"][0], trace["x"][-1])] + [until] * bool(
            until
        )
        for level in panel.levels:
            keys[level] = _key(GREY, f"{MARKS['dot']} target {level:g}")
            flat = [(min(ends), level), (max(ends), level)]
            traces.append(
                _trace(
                    flat,
                    "target",
                    mode="lines",
                    line=dict(color=GREY, width=1.5, dash="dot"),
                    **_SILENT,
                )
            )
    return traces, "\u00a0 ".join([f"<b>{text(panel.title)}</b>", *keys.values()]), said


def numbers(series, x="step") -> list[str]:
    """The metrics that hold a number somewhere, in the order of their first appearance."""
    return list(
        dict.fromkeys(
            key
            for rows in series.values()
            for row in rows
            for key, value in row.items()
            if number(value) is not None and key not in (x, "steps")
        )
    )


def layout_of(title, height, **more) -> dict:
    """A figure's layout: our template, its title and height, and `more`."""
    margin = {"t": 56 if title else 32, **more.pop("margin", {})}
    return dict(
        template=pio.templates["labkit"].to_plotly_json(),
        height=height,
        title=dict(text=text(title)) if title else None,
        margin=margin,
        **more,
    )


def text(value) -> str:
    """Text for a figure, where plotly would read tags."""
    return html.escape(visible(str(value)))


def faint(colour, strength) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{strength:.3f})"


def thin(pairs, points):
    every = -(-len(pairs) // points)
    return pairs if every == 1 else pairs[:-1:every] + pairs[-1:]


def smoothed(pairs, weight):
    mean, mass, done = 0.0, 0.0, []
    for a, b in pairs:
        if b is not None:
            mean, mass = weight * mean + (1 - weight) * b, weight * mass + 1 - weight
        done.append((a, mean / mass if mass else None))
    return done


_SILENT = dict(showlegend=False, hoverinfo="skip")


def _trace(pairs, name, **look) -> dict:
    return dict(
        x=[a for a, _ in pairs],
        y=[b for _, b in pairs],
        name=text(name),
        legendgroup=text(name),
        **look,
    )


def _key(colour, words) -> str:
    return f'<span style="color:{colour}">{words}</span>'
