"""How a chart is shown: as plotly's own JSON with a sentence beside it (the text alternative),
never as HTML with a 4 MB library inside. With LABKIT_STATIC_CHARTS=1 a picture goes along.
"""

import os
import sys

from labkit.charts import pictures
from labkit.charts.look import TEMPLATE

MIME = "application/vnd.plotly.v1+json"
# Without showSendToCloud=False, plotly 7 offers to upload the chart ("Share chart..."). Without
# typesetMath=False, $…$ is a formula wherever the page has MathJax; what a model says is text.
CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False, "typesetMath": False}


def show(chart):
    """Display a figure, a table or a dashboard; outside a notebook, print what it says."""
    for part in chart.parts() if hasattr(chart, "parts") else [chart]:
        if in_notebook():
            display(bundle(part))
        else:
            print(alt_of(part))


def bundle(chart) -> dict:
    """The MIME bundle that `show` displays."""
    if not hasattr(chart, "to_dict"):  # a table, or strips: no figure of plotly's
        return chart._repr_mimebundle_()
    # Colab draws plotly only through a script of its own.
    renderer = _renderers()["colab" if in_colab() else "plotly_mimetype"]
    content = {**renderer.to_mimebundle(chart.to_dict()), "text/plain": alt_of(chart)}
    if pictures.wanted() and (picture := pictures.png(chart.to_dict())):
        content["image/png"] = picture
    return content


def figure(spec):
    """{"data", "layout"} as a plotly figure with our template."""
    import plotly.graph_objects as go  # here, so that `import labkit.charts` stays quick

    _renderers()  # for a figure that a cell ends with, without `show`
    return go.Figure(spec["data"], {**spec["layout"], "template": TEMPLATE})


def _renderers():
    """Plotly's renderers, with our settings."""
    import plotly.io as pio

    for name in ("plotly_mimetype", "colab"):
        pio.renderers[name].config = CONFIG
    return pio.renderers


def alt_of(chart) -> str:
    """The sentence beside a figure; a table's (or strips') own text."""
    if not hasattr(chart, "to_dict"):  # a table, or strips: no figure of plotly's
        return str(chart)
    return (chart.layout.meta or {}).get("alt", "A chart")


def in_notebook() -> bool:
    """Whether a Jupyter kernel (not a terminal) is asking."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def in_colab() -> bool:
    """Whether Colab's page is what shows the charts. A Colab kernel may also serve another front
    end (VS Code), which draws plotly's own JSON: by this variable plotly tells them apart.
    """
    return "google.colab" in sys.modules and "COLAB_NOTEBOOK_ID" in os.environ


def display(content, **options):
    """Show a MIME bundle; with display_id=True, return a handle that can update it."""
    from IPython.display import display

    return display(content, raw=True, **options)
