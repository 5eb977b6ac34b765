"""The look that all charts share: colours, dashes, fonts, plotly's template.

One encoding everywhere: gold is solid, proxy dashed, the SFT model grey; else colours are Okabe and
Ito's (distinct to colour-blind eyes), and lines differ in dash too. The background is opaque: a
chart reads alike in a light and a dark theme. No text is smaller than 12 pixels.
"""

import html

from labkit.charts.tables import visible

# blue, vermilion, green, purple, orange, sky, black
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9", "#222222")
INK, PAPER, RULE, AXIS, GREY = "#222222", "#ffffff", "#e3e3e3", "#8a8a8a", "#666666"
# plotly's names of dashes, and how each is written in a panel's title
MARKS = {"solid": "—", "dash": "– –", "dot": "····", "dashdot": "– ·", "longdash": "— —"}
DASHES = tuple(MARKS)
CHINESE = '"PingFang TC", "Microsoft JhengHei", "Noto Sans TC", "Noto Sans CJK TC"'
FONT = f'Inter, "Helvetica Neue", Arial, {CHINESE}, sans-serif'
MONO = f'"DejaVu Sans Mono", Menlo, Consolas, "Noto Sans Mono CJK TC", {CHINESE}, monospace'
MARGIN = dict(l=64, r=20, t=56, b=52)

_axis = dict(
    gridcolor=RULE,
    linecolor=AXIS,
    tickcolor=AXIS,
    ticks="outside",
    showline=True,
    zeroline=False,
    automargin=True,
    title=dict(standoff=8, font=dict(size=13)),
)
_top_left = dict(x=0, xref="container", xanchor="left", y=0.97, yref="container", yanchor="top")
_top_right = dict(x=1, xanchor="right", y=1, yref="container", yanchor="top")
TEMPLATE = dict(
    layout=dict(
        colorway=COLOURS,
        font=dict(family=FONT, size=13, color=INK),
        hoverlabel=dict(font=dict(family=FONT)),
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        xaxis=_axis,
        yaxis=_axis,
        title=dict(font=dict(size=16), pad=dict(l=16), **_top_left),
        legend=dict(orientation="h", bgcolor="rgba(255,255,255,0)", **_top_right),
        margin=MARGIN,
        bargap=0.25,
    )
)


def colour(name, i) -> str:
    """The colour of the i-th model or run of a chart."""
    sft = str(name).upper().rpartition("/")[2].startswith("SFT")
    return GREY if sft else COLOURS[i % len(COLOURS)]


def dash(name, i) -> str:
    """The dash of the i-th line of a colour. A reward model's score is the proxy."""
    kind = str(name).partition(" ")[0]
    known = {"gold": "solid", "proxy": "dash", "score": "dash"}
    return known.get(kind) or DASHES[i % len(DASHES)]


def faint(colour, strength) -> str:
    """A colour at an opacity of 0 to 1."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{strength:.3f})"


def text(value) -> str:
    """Text for a figure, where plotly would read tags. Of entities it knows few by name: a quote
    goes by number.
    """
    return html.escape(visible(str(value))).replace("&quot;", "&#34;")
