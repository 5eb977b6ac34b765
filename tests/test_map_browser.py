"""The map of notebook 00 in JupyterLab: a click opens the notebook, and so does the Enter key; a
page that shows no drawing shows its links.
"""

import re
import sys
import types

import nbformat
import pytest
from test_panel_browser import CHROMIUM, Page, browser, lab  # noqa: F401

from labkit import charts, launch
from labkit.charts.diagrams import room

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
CELL = "from labkit import charts\ncharts.course()"


class Map(Page):
    def ready(self):
        self.page.locator(".jp-OutputArea-output svg a").first.wait_for()

    def opened(self) -> str:
        """The notebook in front, once it is another one."""
        self.page.wait_for_function(
            f"() => jupyterapp.shell.currentWidget?.context?.path !== '{self.name}.ipynb'"
        )
        return self.page.evaluate("() => jupyterapp.shell.currentWidget.context.path")


def test_a_click_on_the_map_opens_the_notebook(lab, browser):  # noqa: F811
    for one in launch.LABS:
        nbformat.write(nbformat.v4.new_notebook(), lab.notebooks / one.page)
    view = Map(lab, browser, "map", CELL)
    links = view.page.locator(".jp-OutputArea-output svg a")
    assert links.count() == len(launch.LABS)
    links.filter(has_text="09 DPO").click()
    assert view.opened() == "09_dpo.ipynb"
    view.open()
    view.run()
    links.filter(has_text="07 PPO").focus()
    view.page.keyboard.press("Enter")
    assert view.opened() == "07_ppo.ipynb"
    view.page.close()


def test_where_no_drawing_is_shown_the_links_stay(lab, browser):  # noqa: F811
    """A notebook that somebody else ran is not trusted, and JupyterLab takes the SVG out."""
    data = {"text/html": charts.course().html(), "text/plain": str(charts.course())}
    output = nbformat.v4.new_output("execute_result", data, execution_count=1)
    cell = nbformat.v4.new_code_cell(CELL, outputs=[output], execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), lab.notebooks / "theirs.ipynb")
    page = browser.new_page()
    page.goto(f"{lab.url}/doc/tree/theirs.ipynb?token=a-token-for-the-tests")
    links = page.locator(".jp-OutputArea-output a")
    links.first.wait_for()
    assert links.count() == len(launch.LABS) and page.locator(".jp-OutputArea svg").count() == 0
    assert "13 when humans" in " ".join(links.all_text_contents())
    page.close()


def test_no_word_of_the_map_leaves_its_box():
    """Nor its page: 15 pixels or more, on a drawing 800 wide."""
    drawn = charts.course().html()
    words = re.findall(r'<text x="(\d+)" y="(\d+)" font-size="(\d+)"[^>]*>([^<]*)<', drawn)
    boxes = re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', drawn)
    assert len(boxes) == len(launch.LABS) and len(words) > 3 * len(boxes)
    for x, y, size, said in words:
        x, y, size = int(x), int(y), int(size)
        within = [
            int(left) + int(wide)
            for left, top, wide, tall in boxes
            if int(left) <= x < int(left) + int(wide) and int(top) < y < int(top) + int(tall)
        ]
        assert size >= 15 and x + room(said, size) <= min(within, default=800), said
    for one in launch.LABS:
        assert f'<a href="{one.page}">' in drawn and one.costs in drawn


def test_on_colab_the_map_opens_colab(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setenv("COLAB_NOTEBOOK_ID", "1")
    assert f'<a href="{launch.colab("07_ppo.ipynb")}" target="_blank">' in charts.course().html()
