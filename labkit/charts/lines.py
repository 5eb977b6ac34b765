"""Lines in small multiples as plain dicts: what becomes a plotly figure, and what svg.py draws
while a run goes on. Building the dicts costs about a millisecond, a go.Figure many.
"""

from dataclasses import dataclass

from labkit import LabError
from labkit.charts.look import COLOURS, GREY, INK, MARKS, colour, dash, faint, text
from labkit.charts.tables import number, some, visible, written

POINTS = 300  # of a line across the page: longer ones are thinned


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


def panels_of(series, metrics, x="step") -> list[Panel]:
    """A panel per metric: names, {name: label}, or None for all numbers."""
    if not isinstance(metrics, dict):
        metrics = {name: name for name in metrics or numbers(series, x)}
    return [Panel(label, {name: label}) for name, label in metrics.items()]


def numbers(series, x="step") -> list[str]:
    """The metrics that hold a number somewhere, in the order of their first appearance."""
    entries = [entry for rows in series.values() for row in rows for entry in row.items()]
    found = dict.fromkeys(key for key, value in entries if number(value) is not None)
    return [key for key in found if key not in (x, "steps")]


def lines(series, panels, x="step", smooth=0.0, title="", across=2, row=210, until=None) -> dict:
    """`panels` in reading order, `across` in a row of `row` pixels, as {"data", "layout"}.

    Args: series: {run: list of metric dicts}; smooth: see charts.curves; until: where the x axis
    ends, for a run that goes on. Raises LabError when there is no number for any panel.
    """
    there = numbers(some(series), x)
    asked = [name for panel in panels for name in panel.metrics]
    if not set(asked) & set(there):
        raise LabError(
            f"There is nothing to draw: no {', '.join(asked) or 'number'} was logged. "
            f"There is: {', '.join(there) or 'nothing'}."
        )
    single = len(panels) == 1
    across = min(across, sum(panel.wide for panel in panels))
    places = _places(panels, across)
    down = places[-1][0] + 1
    height = 340 if single else row * down + 90
    gap_x, gap_y = 0.24 / across, 66 / (height - 136) if down > 1 else 0
    column, line = (1 + gap_x) / across, (1 + gap_y) / down  # a panel and the gap after it
    layout = dict(
        title=dict(text=text(title)),
        height=height,
        showlegend=len(series) > 1,
        annotations=[],
        margin=dict(t=56 if single else 84),
    )
    data, said, named = [], [], set()
    for i, (panel, (r, first, end)) in enumerate(zip(panels, places)):
        n = str(i + 1) if i else ""
        points = POINTS * panel.wide // across
        traces, keys, told = _panel(panel, series, x, smooth, points, until)
        said += told
        for trace in traces:
            data.append(trace | dict(type="scatter", xaxis=f"x{n}", yaxis=f"y{n}"))
            # A run is named once, by a line whose dash is the run's (in a panel of several metrics
            # it is the metric's).
            once = len(panel.metrics) == 1 and trace["name"] not in named
            if data[-1].setdefault("showlegend", once):
                named.add(trace["name"])
        left, top = first * column, 1 - r * line
        below = any(r2 > r and first2 <= first < end2 for r2, first2, end2 in places)
        layout[f"xaxis{n}"] = dict(
            domain=[left, min(1.0, end * column - gap_x)],
            anchor=f"y{n}",
            title=dict(text="" if below else text(x)),
            range=[*_ends(traces, until)] if until and traces else None,
        )
        layout[f"yaxis{n}"] = dict(
            domain=[max(0.0, top - line + gap_y), top],
            anchor=f"x{n}",
            title=dict(text=text(panel.title) if single else ""),
            rangemode="tozero" if panel.zero else "normal",
        )
        if not single:
            heading = "\u00a0 ".join([f"<b>{text(panel.title)}</b>", *keys])
            at = dict(x=left, y=top, xref="paper", yref="paper", xanchor="left", yanchor="bottom")
            layout["annotations"].append(dict(text=heading, showarrow=False, yshift=3, **at))
    layout["meta"] = dict(alt=visible(f"Lines over {x}. {'; '.join(said)}"))
    return dict(data=data, layout=layout)


def _places(panels, across) -> list[tuple]:
    """(row, first column, first column after it) of each panel."""
    places, row, used = [], 0, 0
    for panel in panels:
        if used + panel.wide > across:
            row, used = row + 1, 0
        places.append((row, used, used + panel.wide))
        used += panel.wide
    return places


def _panel(panel, series, x, smooth, points, until):
    """(traces, the keys beside its title, what the lines say) of one panel."""
    traces, keys, said = [], {}, []
    one_run, several = len(series) == 1, len(panel.metrics) > 1
    for r, (who, rows) in enumerate(series.items()):
        for m, (name, label) in enumerate(panel.metrics.items()):
            rows_there = [row for row in rows if name in row and number(row.get(x)) is not None]
            pairs = [(row[x], number(row[name])) for row in rows_there]
            if not pairs:
                continue
            hue = COLOURS[m % len(COLOURS)] if one_run and several else colour(who, r)
            # In a panel of one metric runs differ in dash too, unless the metric has a dash of its
            # own everywhere.
            kind = dash(label, m if one_run or several else r)
            if smooth and one_run:
                raw = dict(color=faint(hue, 0.3), width=1)
                traces.append(_trace(_thin(pairs, points), who, raw, **_SILENT))
            drawn = _smoothed(pairs, smooth) if smooth else pairs
            traces.append(
                _trace(_thin(drawn, points), who, dict(color=hue, width=2, dash=kind))
                | dict(
                    mode="lines" if len(pairs) > 1 else "markers", marker=dict(color=hue, size=7)
                )
            )
            if several:
                keys[label] = _key(hue if one_run else INK, f"{MARKS[kind]} {text(label)}")
                traces[-1]["hovertemplate"] = f"%{{y:.3f}}<extra>{text(who)}, {text(label)}</extra>"
            if panel.shaded and m == 1 and one_run:
                traces[-1] |= dict(fill="tonexty", fillcolor=faint(INK, 0.08))
            whose = "" if one_run else f" of {who}"
            said.append(f"{label}{whose} {written(pairs[0][1], 3)} → {written(pairs[-1][1], 3)}")
    if not traces:
        return [], [_key(GREY, "not logged")], said
    for level in panel.levels:
        keys[level] = _key(GREY, f"{MARKS['dot']} target {level:g}")
        flat = [(end, level) for end in _ends(traces, until)]
        look = dict(color=GREY, width=1.5, dash="dot")
        traces.append(_trace(flat, "target", look, **_SILENT))
    return traces, list(keys.values()), said


_SILENT = dict(showlegend=False, hoverinfo="skip")


def _trace(pairs, name, line, **more) -> dict:
    xs, ys = [a for a, _ in pairs], [b for _, b in pairs]
    name = text(name)
    return dict(x=xs, y=ys, name=name, legendgroup=name, mode="lines", line=line, **more)


def _key(colour, words) -> str:
    return f'<span style="color:{colour}">{words}</span>'


def _ends(traces, until=None) -> tuple:
    """The first and the last x."""
    ends = [trace["x"][end] for trace in traces for end in (0, -1)] + [until] * bool(until)
    return min(ends), max(ends)


def _thin(pairs, points):
    every = -(-len(pairs) // points)
    return pairs if every == 1 else pairs[:-1:every] + pairs[-1:]


def _smoothed(pairs, weight):
    """A bias-corrected moving mean; gaps stay."""
    mean, mass, done = 0.0, 0.0, []
    for a, b in pairs:
        if b is not None:
            mean, mass = weight * mean + (1 - weight) * b, weight * mass + 1 - weight
        done.append((a, mean / mass if mass else None))
    return done
