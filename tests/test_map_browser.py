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

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")
CELL = "from labkit import charts\ncharts.course()"


class Map(Page):
    def ready(self):
        self.page.locator(".jp-OutputArea-output svg foreignObject a").first.wait_for()

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
    links = view.page.locator(".jp-OutputArea-output svg foreignObject a")
    assert links.count() == len(launch.LABS)
    over = "all => all.filter(a => a.scrollHeight > a.clientHeight).map(a => a.textContent)"
    assert links.evaluate_all(over) == []  # no word leaves its box
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
    assert (
        links.count() == len(launch.LABS) and page.locator(".jp-OutputArea-output svg").count() == 0
    )
    assert "13 when humans" in " ".join(links.all_text_contents())
    page.close()


def test_the_map_says_what_the_table_says():
    drawn = charts.course().html()
    for one in launch.LABS:
        about = f"<b>{one.number} {one.title}</b><br>\n{one.costs}<br>\n"
        assert drawn.count(f'<a href="{one.page}"') == 1 and about in drawn
        assert f"{one.number} {one.title}" in str(charts.course())
    assert (
        "uses 02 06<" in drawn and min(map(int, re.findall(r"font-size[:=\"]+(\d+)", drawn))) >= 15
    )


def test_on_colab_the_map_opens_colab(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setenv("COLAB_NOTEBOOK_ID", "1")
    assert f'<a href="{launch.colab("07_ppo.ipynb")}" target="_blank"' in charts.course().html()
