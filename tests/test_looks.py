"""How things look in a real browser: panels and the board by axe-core, notebooks by their sizes.

LABKIT_SCREENSHOTS names a folder to keep the pictures in; LABKIT_SLOW=1 opens every notebook, in
JupyterLab and in Notebook, light and dark, narrow and wide.
"""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from test_go_browser import CELL, Board
from test_panel_browser import (  # noqa: F401
    ANSWERS,
    CHROMIUM,
    PICTURES,
    TOKEN,
    Page,
    browser,
    chromium,
    jupyterlab,
    lab,
    rating_cell,
)

ROOT = Path(__file__).parent.parent
SLOW = bool(os.environ.get("LABKIT_SLOW"))
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium here (.ci/run installs one)"
)
PANELS = {
    "pair": ("Which is right?", ANSWERS[:2]),
    "thumb": ("Is it right?", ANSWERS[:1]),
    "rank": ("Which is best?", ANSWERS[:4]),
    "scale": ("How good?", ANSWERS[:1]),
    "regenerated": ("And now?", ANSWERS[:2]),
}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
# Of a part of a page, and not of JupyterLab's: landmarks and headings are the page's own.
RULES["rules"] = {name: {"enabled": False} for name in ("region", "heading-order")}


def faults(page, selector: str) -> list[str]:
    """What axe-core finds wrong with the parts of a page: "rule: its words, element"."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("([where, how]) => axe.run(where, how)", [selector, RULES])
    return [
        f"{rule['id']}: {rule['help']}, {node['html'][:200]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def test_axe_sees_what_is_wrong(browser):  # noqa: F811
    page = browser.new_page()
    page.set_content('<main lang="en"><button>✓</button><p>good</p></main>')
    assert faults(page, "main") == []
    page.set_content(
        '<main><button></button><p style="color:#ccc;background:#fff">pale words</p></main>'
    )
    assert {one.partition(":")[0] for one in faults(page, "main")} == {
        "color-contrast",
        "button-name",
    }
    page.close()


def themes(view):
    """JupyterLab's two themes, one after the other."""
    for theme in ("Light", "Dark"):
        view.command("apputils:change-theme", theme=f"JupyterLab {theme}")
        view.page.wait_for_function(f"() => document.body.dataset.jpThemeName.endsWith('{theme}')")
        yield theme


class Panels(Page):
    """A notebook with a panel of each mode."""

    def ready(self):
        self.page.wait_for_function(
            f"() => document.querySelectorAll('.labkit-panel[data-keys]').length == {len(PANELS)}"
        )


def test_panels_are_legible_and_named(lab, browser):  # noqa: F811
    cells = [rating_cell([item], mode, rater=mode) for mode, item in PANELS.items()]
    view = Panels(lab, browser, "panels", *cells)
    for theme in themes(view):
        assert faults(view.page, ".labkit-panel") == [], theme
        if PICTURES:
            view.page.screenshot(path=Path(PICTURES, f"panels-{theme.lower()}.png"), full_page=True)
    view.page.close()


FOCUSED = """() => {
  const at = document.activeElement, ring = getComputedStyle(at.querySelector('span') ?? at);
  return at.closest('.labkit-go') && ring[at.querySelector('span') ? 'boxShadow' : 'outlineStyle']
    != 'none';
}"""
"""Whether what has the focus on the board has a ring: a point about its stone, a button its own."""


def test_the_board_is_legible_and_named(lab, browser):  # noqa: F811
    view = Board(lab, browser, "go-looks", CELL)
    view.point("c3").click()
    for theme in themes(view):
        assert faults(view.page, ".labkit-go") == [], theme
        view.point("c3").focus()
        for key in ("ArrowRight", "Tab"):  # a point, then a button
            view.page.keyboard.press(key)
            assert view.page.evaluate(FOCUSED), (theme, key)
    view.page.add_style_tag(content=".labkit-go * { outline: none !important; }")
    assert not view.page.evaluate(FOCUSED)
    view.page.close()


# --- notebooks -----------------------------------------------------------------------------------

CUT = """() => {
  const rolls = (e) => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  const home = document.querySelector('.jp-Notebook'), wide = home.getBoundingClientRect().right;
  const seen = [...home.querySelectorAll('.jp-OutputArea-output, .jp-RenderedMarkdown')];
  return seen.flatMap((top) => [...top.querySelectorAll('*')]).filter((e) => {
    if (!e.getClientRects().length || getComputedStyle(e).visibility == 'hidden') return false;
    if (e.getBoundingClientRect().right <= wide + 1) return false;
    for (let up = e; up && up !== home; up = up.parentElement) if (rolls(up)) return false;
    return true;
  }).map((e) => e.outerHTML.slice(0, 200));
}"""
"""What of the outputs and texts lies beyond the notebook's right edge, and can't be rolled to."""

WIDE_CODE = """() => [...document.querySelectorAll('.jp-CodeCell .cm-scroller')]
  .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.innerText.slice(0, 80))"""
BLANK = """() => [...document.querySelectorAll('.jp-Notebook img')]
  .filter((e) => !e.naturalWidth && !e.src.startsWith('http')).map((e) => e.outerHTML)"""
"""Pictures that did not come; badges are on the net, which tests do without."""
DEAD = """() => [...document.querySelectorAll('.jp-OutputArea-output')].map((e) => e.innerText)
  .filter((said) => /^(Error displaying widget|Loading widget)/.test(said))"""
DRAWN = """() => document.querySelector('.jp-MarkdownCell') &&
  [...document.querySelectorAll('.jp-MarkdownCell')].every(
  (e) => e.querySelector('.jp-RenderedMarkdown')?.innerText.trim()) &&
  ![...document.images].some((e) => !e.complete && !e.src.startsWith('http'))"""
"""Whether the texts are set: a cell that waits for it has no height, and hides what is wrong."""
CHARTS = """() => [...document.querySelectorAll('.plot-img')]
  .map((e) => e.dispatchEvent(new MouseEvent('mouseenter'))).length"""
"""The pictures of charts become charts, as under a mouse."""
ROLLED = """() => [...document.querySelectorAll('.jp-RenderedPlotly')]
  .filter((e) => e.scrollWidth > e.clientWidth + 1 && e.layout?.width === undefined)
  .map((e) => e.innerText.slice(0, 80))"""
"""Charts wider than their place; tokens in a row have a width of their own, and roll."""
TALL = """() => 300 + Math.max(...[...document.querySelectorAll('.jp-Notebook, .jp-Notebook *')]
  .map((e) => e.scrollHeight))"""
TO_ITS_END = """() => [...document.querySelectorAll('.jp-Notebook, .jp-Notebook *')]
  .filter((e) => e.scrollHeight > 16000).forEach((e) => e.scrollTo(0, e.scrollHeight))"""
HIGHEST = 16_000  # px that Chromium draws at once
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SOME = NOTEBOOKS if SLOW else ["00_start_here", "07_ppo"]
APPS = {"JupyterLab": "doc/tree", "Notebook": "notebooks"}
SIZES = (1400, 800) if SLOW else (1400,)


@pytest.fixture(scope="module")
def saved(lab):  # noqa: F811
    """The server with this project's notebooks in it, trusted, and all their cells on the page."""
    home = lab.notebooks.parent
    shutil.copytree(ROOT / "notebooks", lab.notebooks, dirs_exist_ok=True)
    trust = [sys.executable, "-m", "jupyter", "trust", *lab.notebooks.glob("[01]*.ipynb")]
    data = {"JUPYTER_DATA_DIR": str(home / "jupyter_data_dir")}
    subprocess.run(trust, env=os.environ | data, check=True, capture_output=True)
    settings = home / "jupyterlab_settings_dir" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    return lab


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("app", APPS)
def test_a_saved_notebook_can_be_read(saved, browser, app, name):  # noqa: F811
    """Nothing lies beyond the edge, no picture is missing, no code has to be rolled, no widget is
    dead; a screenshot of each is not empty. Charts, once alive, fit the page.
    """
    page = browser.new_page()
    page.goto(f"{saved.url}/{APPS[app]}/{name}.ipynb?token={TOKEN}")
    cells = len(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells)
    page.wait_for_function(
        f"() => document.querySelectorAll('.jp-Notebook .jp-Cell').length >= {cells}"
    )
    page.wait_for_function("() => window.jupyterapp")
    page.wait_for_function(DRAWN)
    view = SimpleNamespace(page=page, command=partial(Page.command, SimpleNamespace(page=page)))
    found = {}
    for theme in themes(view):
        for width in SIZES:
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(1500)
            wrong = [one for check in (CUT, BLANK, DEAD) for one in page.evaluate(check)]
            wrong += page.evaluate(WIDE_CODE) if width == 1400 else []
            if wrong:
                found[theme, width] = wrong[:5]
            tall = page.evaluate(TALL)
            page.set_viewport_size({"width": width, "height": min(tall, HIGHEST)})
            page.wait_for_timeout(1000)
            picture = page.screenshot()
            assert len(picture) > 100_000  # bytes: an empty page has a tenth
            if PICTURES:
                kept = Path(PICTURES, f"{name}-{app}-{theme.lower()}-{width}.png")
                kept.write_bytes(picture)
                if tall > HIGHEST:
                    page.evaluate(TO_ITS_END)
                    page.screenshot(path=kept.with_stem(f"{kept.stem}-end"))
    charts = page.evaluate(CHARTS)
    page.wait_for_function(
        f"() => document.querySelectorAll('.jp-RenderedPlotly .main-svg').length >= {charts}"
    )
    page.set_viewport_size({"width": 800, "height": 1000})
    page.wait_for_timeout(1500)
    found["charts"] = page.evaluate(ROLLED)
    page.close()
    assert found == {"charts": []}


WRONG = {  # what each check must see, and what it must leave alone
    CUT: (
        '<div class="jp-RenderedMarkdown"><p style="width:3000px">beyond</p></div>',
        '<div class="jp-OutputArea-output" style="overflow:auto"><p style="width:3000px">rolls</p>'
        '</div><div class="jp-OutputArea-output"><b>good</b></div>',
    ),
    BLANK: (
        '<img src="data:image/png;base64,none">',
        '<img src="http://localhost/badge.svg"><img src="data:image/svg+xml,'
        "%3Csvg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/%3E\">",
    ),
    WIDE_CODE: (
        f'<div class="jp-CodeCell"><pre class="cm-scroller" style="overflow:auto">{300 * "x"}</pre>'
        "</div>",
        '<div class="jp-CodeCell"><pre class="cm-scroller">short</pre></div>',
    ),
    DEAD: (
        '<div class="jp-OutputArea-output">Error displaying widget: model not found</div>',
        '<div class="jp-OutputArea-output">Rating panel: 0 of 25 rated.</div>',
    ),
    ROLLED: (
        '<div class="jp-RenderedPlotly" style="overflow:auto"><p style="width:999px">x</p></div>',
        '<div class="jp-RenderedPlotly"><p>fits</p></div>',
    ),
}


@pytest.mark.parametrize("check", WRONG, ids=("CUT", "BLANK", "WIDE_CODE", "DEAD", "ROLLED"))
def test_each_check_sees_what_is_wrong(browser, check):  # noqa: F811
    page, (wrong, right) = browser.new_page(), WRONG[check]
    for inside, seen in ((wrong, 1), (right, 0)):
        page.set_content(f'<div class="jp-Notebook" style="width:700px">{inside}</div>')
        assert len(page.evaluate(check)) == seen, inside
    page.close()
