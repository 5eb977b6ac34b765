"""Twelve hostile strings in a real browser: as prompts, answers and notes of the five panels, as
run names, in tables, in charts' titles and hovers, in SVG and in report.html. Nothing runs, nothing
is fetched, nothing leaves its box; and a panel whose kernel is gone says so.
"""

import copy
import time

import pytest
from test_panel_browser import OUTSIDE, Page, browser, lab, pytestmark, rating_cell  # noqa: F401
from test_report_card import report  # noqa: F401

from labkit.charts.tables import visible
from labkit.feedback import Store
from labkit.labs import report_page

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "<img src=http://127.0.0.1:9/x.png onerror='window.hacked = 1'>",
    "<svg onload='window.hacked = 1'><a xlink:href='javascript:window.hacked = 1'>x</a></svg>",
    '"><iframe srcdoc="<script>parent.hacked = 1</script>"></iframe>',
    "</td></table></text></svg></div></div><h1 style='position:fixed;inset:0'>out</h1>",
    "<a href='javascript:window.hacked = 1'>x</a> <b>bold</b> <br>",
    "$$\\href{javascript:window.hacked = 1}{x}$$ $\\style{position:fixed}{x}$ \\(x\\)",
    "&lt;img src=x onerror='window.hacked = 1'&gt; &quot; &#60;b&#62;",
    "![](http://127.0.0.1:9/x.png) [x](javascript:window.hacked) `x` **x**",
    "\u202egnp.exe\u2066 \x1b[31mred\x1b[0m \0 \ufeff \u2028",
    "x" * 20_000,
    "%{x} %{customdata[0]} <extra></extra> {{constructor.constructor('window.hacked=1')()}} ${1}",
)

# What is in the page that no text of ours may bring, and what ran.
SEEN = """() => ({
    hacked: window.hacked ?? null,
    foreign: [...document.querySelectorAll('.jp-OutputArea-output :is(script, iframe, h1, object,'
        + ' mjx-container, img[src]:not([src^="data:"]), a[href^="javascript"])')]
        .map(one => one.outerHTML.slice(0, 200)),
})"""


class View(Page):
    """Charts in a notebook: they are there when the last cell has printed."""

    def ready(self):
        self.page.get_by_text("all is drawn").last.wait_for(timeout=180_000)
        time.sleep(2)  # whoever typesets, does it after the output is there


def untouched(view):
    """Nothing ran, and nothing was asked for beyond the server."""
    page = view.page
    seen = page.evaluate(SEEN)
    assert seen == {"hacked": None, "foreign": []}
    here = ("ws:", view.lab.url, f"blob:{view.lab.url}", "data:")  # blob: panels.js itself
    assert not [url for url in view.asked if not url.startswith(here)]
    assert not [url for url in view.asked if "x.png" in url]


@pytest.mark.parametrize("mode", ["pair", "regenerated", "thumb", "rank", "scale"])
def test_hostile_text_in_a_panel(lab, browser, mode, record_property):  # noqa: F811
    count = {"thumb": 1, "rank": 3, "scale": 1}.get(mode, 2)
    items = [(evil, (evil, "short", "b")[:count]) for evil in HOSTILE]
    view = Page(lab, browser, f"hostile-{mode}", rating_cell(items, mode, rater=f"<b>{mode}"))
    view.page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    press = {"thumb": "Good", "rank": "Save", "scale": "7", "regenerated": "Better"}
    for i, evil in enumerate(HOSTILE):
        view.rated(i, len(HOSTILE))
        shown = visible(evil, newline="\n")
        assert shown in view.texts()
        assert view.page.evaluate(OUTSIDE) == [], ascii(evil[:40])
        untouched(view)
        view.panel.get_by_label("Note").fill(evil.replace("\0", "")[:500])
        if mode == "regenerated":
            view.panel.get_by_title("Show the new answer").click()
        for letter in "AB" if mode == "rank" else ():
            view.panel.get_by_role("button", name=letter, exact=True).click()
        view.panel.get_by_role("button", name=press.get(mode, "Same"), exact=True).click()
    view.panel.get_by_text("Nothing is left to rate").wait_for()
    untouched(view)
    kept = Store(lab.runs / "feedback.sqlite").all(f"<b>{mode}")
    assert [one.prompt for one in kept] == list(HOSTILE)
    view.page.close()
    for name, value in {"tried": 12, "survived": 12, "lost": 0}.items():
        record_property(name, value)


CHARTS = """
from types import SimpleNamespace
from IPython.display import display
from labkit import charts
from labkit.charts.svg import svg
texts = TEXTS
for text in texts:
    run = SimpleNamespace(name=text, metrics=lambda: [{"step": i, text: i} for i in range(3)])
    made = [
        charts.table([{"answer": text, text: 1}], title=text),
        charts.curves(run, title=text),
        charts.bars([{"m": text, "v": 1.0}], "m", "v", title=text),
        charts.heat([text, "x"], [1.0, 0.5], title=text, label=text),
        charts.strips([text, "x"], {text[:40]: [1.0, -1.0]}, {text[:40]: text}, title=text),
    ]
    for one in made:
        charts.show(one)
    listener = charts.live(run)
    listener({"step": 1, text: 1.0})  # as SVG; it stays one, since nothing ends it
    listener.due = 0
    listener({"step": 2, text: 2.0})
print("all is", "drawn")
"""


@pytest.mark.parametrize("first", range(0, 12, 4))  # JupyterLab shows 50 outputs of a cell
def test_hostile_text_in_tables_and_charts(lab, browser, first, record_property):  # noqa: F811
    texts = HOSTILE[first : first + 4]
    cell = CHARTS.replace("TEXTS", repr(texts))
    view = View(lab, browser, f"hostile-charts-{first}", cell)
    page = view.page
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    plots = page.locator(".js-plotly-plot")
    drawn = 0
    for i in range(plots.count()):  # a notebook draws what is scrolled to
        plots.nth(i).scroll_into_view_if_needed()
        box = plots.nth(i).bounding_box()
        if box:
            drawn += 1
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            time.sleep(0.2)
    assert drawn >= 3 * len(texts)
    untouched(view)
    said = page.locator(".jp-OutputArea-output table").all_text_contents()
    for text in texts:
        shown = visible(text, newline="\n")
        assert any(shown in one for one in said), ascii(text[:40])
    wide = page.evaluate("""() => [...document.querySelectorAll('.jp-OutputArea-output')]
        .filter(one => one.getBoundingClientRect().right > innerWidth + 1).length""")
    assert wide == 0
    view.page.close()
    for name, value in {"tried": 4 * 6, "survived": 4 * 6, "lost": 0}.items():
        record_property(name, value)


def test_hostile_text_in_a_report(browser, report, tmp_path, record_property):  # noqa: F811
    for text in HOSTILE:
        one = copy.deepcopy(report)
        one |= {"profile": text, "base": text, "note": text, "settings": {text: {text: text}}}
        one["versions"] = {text: text}
        one["seeds"][0]["seconds"] = {text: 1.0}
        one["mean"][text] = one["spread"][text] = 0.5
        for row in one["seeds"]:
            row[text] = 0.5
        file = tmp_path / "report.html"
        file.write_text(report_page.page(one, tmp_path), "utf8")
        page, asked = browser.new_page(), []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
        page.goto(file.as_uri())
        assert page.evaluate("window.hacked ?? null") is None
        foreign = "script, img, iframe, object, a, h1 + h1, [onload], [onerror]"
        assert page.locator(foreign).count() == 0, ascii(text[:40])
        assert asked == [file.as_uri()]
        assert page.text_content("body").count(visible(text)) >= 5, ascii(text[:40])
        page.close()
    for name, value in {"tried": 12, "survived": 12, "lost": 0}.items():
        record_property(name, value)


def test_a_panel_whose_kernel_is_gone_says_so(lab, browser):  # noqa: F811
    view = Page(lab, browser, "gone", rating_cell([("Q", ("a", "b"))] * 3, rater="gone"))
    silent = view.panel.get_by_text("The kernel does not answer")
    view.panel.get_by_role("button", name="Same", exact=True).click()
    view.rated(1, 3)
    time.sleep(6)
    assert silent.count() == 0  # a kernel that lives is not called dead
    view.page.evaluate(
        "() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.shutdown()"
    )
    view.panel.get_by_role("button", name="Same", exact=True).click()
    silent.wait_for()
    assert view.panel.get_by_role("alert").count() == 1
    assert len(Store(lab.runs / "feedback.sqlite").all("gone")) == 1
    view.page.close()
