"""PNG twins of plotly figures, so that a committed notebook shows its charts on GitHub
(LABKIT_STATIC_CHARTS=1). kaleido draws them with the Chromium that BROWSER_PATH names, or that it
finds. One browser draws all pictures of a process: 0.2 s each, where one for each takes 3 s.
"""

import base64
import functools
import os
import warnings

WIDTH = 800


def wanted() -> bool:
    """Whether charts should carry a PNG."""
    return os.environ.get("LABKIT_STATIC_CHARTS", "") not in ("", "0")


def png(figure: dict) -> str | None:
    """A figure ({"data", "layout"}) as a PNG in base64, 800 px wide unless it says otherwise. Where
    it can't be drawn, a warning and None: a missing picture must not cost a training.
    """
    layout = figure["layout"]
    size = dict(width=layout.get("width") or WIDTH, height=layout.get("height") or 400)
    try:
        return base64.b64encode(_painter()(figure, dict(format="png", **size))).decode()
    except Exception as error:  # kaleido and choreographer raise many types
        warnings.warn(
            f"There is no static picture of this chart ({error}). LABKIT_STATIC_CHARTS=1 needs"
            " kaleido (pip install kaleido) and Chromium (Debian: apt-get install chromium"
            " fonts-noto-cjk), which BROWSER_PATH may name.",
            stacklevel=2,
        )
        return None


@functools.cache
def _painter():
    """kaleido's function that draws, after its browser was started."""
    import kaleido

    settings = dict(mathjax=False)  # otherwise the page waits for a script from the web
    # A first browser by itself: when one doesn't start, this raises, and the server waits for ever.
    kaleido.calc_fig_sync({"data": [], "layout": {}}, kopts=settings)
    kaleido.start_sync_server(**settings)
    return kaleido.calc_fig_sync
