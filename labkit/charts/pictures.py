"""PNG twins of plotly figures, so that a committed notebook shows its charts on GitHub
(LABKIT_STATIC_CHARTS=1).
 One Chromium, driven by kaleido in a thread of its own, draws all pictures of a process: the first
takes a second or two, the others a fraction.
"""

import asyncio
import atexit
import base64
import os
import shutil
import threading

from labkit import LabError

WIDTH, SECONDS = 800, 60
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
_painter = None


def wanted() -> bool:
    """Whether charts should carry a PNG."""
    return os.environ.get("LABKIT_STATIC_CHARTS", "") not in ("", "0")


def browser() -> str:
    """The path of a Chromium (BROWSER_PATH, else the first on the PATH). LabError says what to
    install.
    """
    path = os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not path or not os.path.isfile(path):
        found = f"BROWSER_PATH={path} is no file" if path else "none was found"
        raise LabError(
            f"LABKIT_STATIC_CHARTS=1 draws pictures with Chromium, but {found}. Install it (Debian:"
            " apt-get install chromium fonts-noto-cjk), name it in BROWSER_PATH, or unset"
            " LABKIT_STATIC_CHARTS."
        )
    return path


def png(figure: dict) -> bytes:
    """A figure ({"data", "layout"}) as PNG, 800 px wide unless it says otherwise."""
    global _painter
    if _painter is None:
        _painter = _Painter(browser())
    layout = figure["layout"]
    options = dict(
        format="png",
        width=layout.get("width") or WIDTH,
        height=layout.get("height") or 400,
        scale=1,
    )
    return _painter.call(lambda kaleido: kaleido.calc_fig(figure, options))


def png_base64(figure: dict) -> str:
    return base64.b64encode(png(figure)).decode()


def stop():
    """Close the browser (it also closes when Python ends)."""
    global _painter
    painter, _painter = _painter, None
    if painter:
        painter.close()


class _Painter:
    """A kaleido and the event loop it lives in. (kaleido's own sync server waits for ever when its
    browser fails to start.)
    """

    def __init__(self, path):
        try:
            import kaleido
        except ImportError as error:
            raise LabError(
                "LABKIT_STATIC_CHARTS=1 needs kaleido. Install it (pip install kaleido), or unset "
                "LABKIT_STATIC_CHARTS."
            ) from error

        async def begin():
            # mathjax=False: otherwise the page waits for a script from the web.
            # --no-sandbox, which root needs, kaleido passes by itself.
            painter = kaleido.Kaleido(path=path, mathjax=False, timeout=SECONDS)
            await painter.open()
            return painter

        self.loop, self.kaleido = asyncio.new_event_loop(), None
        self.thread = threading.Thread(
            target=self.loop.run_forever, name="labkit-pictures", daemon=True
        )
        self.thread.start()
        self.kaleido = self.call(lambda _: begin())
        atexit.register(stop)

    def call(self, job):
        """Run job(kaleido), a coroutine, in the browser's thread and wait for its result."""
        future = asyncio.run_coroutine_threadsafe(job(self.kaleido), self.loop)
        try:
            return future.result(SECONDS)
        except Exception as error:  # choreographer and kaleido raise unrelated types; the learner's way out is the same
            future.cancel()
            raise LabError(
                f"Chromium could not draw a picture ({type(error).__name__}: {error}). Try it by"
                f" hand ({browser()} --version), or unset LABKIT_STATIC_CHARTS."
            ) from error

    def close(self):
        try:
            self.call(lambda kaleido: kaleido.close())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(10)
