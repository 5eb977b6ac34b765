"""A table of numbers as colours: raters by raters, raters by items."""

from labkit import LabError
from labkit.charts.figures import ABOVE, BELOW
from labkit.charts.look import PAPER, text
from labkit.charts.showing import figure
from labkit.charts.tables import number, some, visible, written


def grid(rows, columns, values, title="", label="value", x="", y=""):
    """values[i][j] of row i and column j: blue above and orange below zero, None left white.

    rows, columns: names, which stand at the edges where there are 40 or fewer of them. x, y: what
    the columns and the rows are.
    """
    shown = [[number(value) for value in row] for row in values]
    if len(shown) != len(rows) or any(len(row) != len(columns) for row in shown):
        raise LabError(
            f"There are {len(rows)} rows and {len(columns)} columns, but the values have another"
            " shape. Give one value for each."
        )
    known = some([value for row in shown for value in row if value is not None])
    top = max(map(abs, known)) or 1.0
    names = [[text(name) for name in each] for each in (columns, rows)]
    across, down = (dict(tickmode="array", tickvals=list(range(len(each)))) for each in names)
    axes = [
        axis | dict(ticktext=each if len(each) <= 40 else [], title=dict(text=text(said)))
        for axis, each, said in zip((across, down), names, (x, y))
    ]
    map_of = dict(
        type="heatmap",
        z=shown,
        xgap=1,
        ygap=1,
        zmin=-top,
        zmax=top,
        colorscale=[[0, BELOW], [0.5, PAPER], [1, ABOVE]],
        hovertext=[[f"{r} · {c}" for c in names[0]] for r in names[1]],
        hovertemplate=f"%{{hovertext}}<br>{text(label)} %{{z:.2f}}<extra></extra>",
        colorbar=dict(thickness=10, title=dict(text=text(label), side="right")),
    )
    layout = dict(
        title=dict(text=text(title)),
        height=max(300, 17 * len(rows) + 130),
        xaxis=axes[0] | dict(tickangle=-90, tickfont=dict(size=12)),
        yaxis=axes[1] | dict(autorange="reversed", tickfont=dict(size=12)),
        meta=dict(
            alt=visible(
                f"{label} of {len(rows)} × {len(columns)}, from {written(min(known), 2)} to"
                f" {written(max(known), 2)}. {title}"
            )
        ),
    )
    return figure(dict(data=[map_of], layout=layout))
