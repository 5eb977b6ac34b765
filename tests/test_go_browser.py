"""The board of notebook 04 in a real browser: a game by mouse and by keyboard."""

import os
from pathlib import Path

import pytest
from test_panel_browser import CHROMIUM, PICTURES, Page, browser, chromium, jupyterlab, lab  # noqa: F401

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium here (.ci/run installs one)"
)

# Against a policy that always passes, and would rather play d4 than a1.
CELL = """
from labkit.labs.games import go
thinks = lambda state: [0.1] + [0.0] * 17 + [0.6] + [0.0] * 6 + [0.3]
play = go.Play(lambda states: [25] * len(states), thinks)
go.Board(play)"""


class Board(Page):
    """A notebook with a board in it."""

    def ready(self):
        self.board = self.page.locator(".labkit-go").first
        self.board.locator("[data-stone]").first.wait_for()

    def point(self, name):
        return self.board.get_by_role("button", name=f"{name},")

    def says(self, sentence):
        self.board.get_by_role("status").get_by_text(sentence, exact=True).wait_for()

    def picture(self, theme):
        self.panel = self.board
        return super().picture(theme)


def test_a_game_by_mouse_and_keyboard(lab, browser):  # noqa: F811
    view = Board(lab, browser, "go", CELL, "after = 1")
    page = view.page
    view.says("You are Black. Your move.")
    assert view.point("d4").get_attribute("aria-label") == "d4, empty, policy 60 %"
    assert "policy 30 %" in view.board.get_by_role("button", name="Pass").text_content()

    marks = (
        "[...document.querySelectorAll('.labkit-go [data-%s]')].map((x) => x.dataset.%s).join('')"
    )
    assert page.evaluate(marks % ("column", "column")) == "abcde"
    assert page.evaluate(marks % ("row", "row")) == "54321"

    view.point("c3").click()
    view.says("The policy passed. Your move.")
    assert view.point("c3").get_attribute("aria-label") == "c3, black stone"
    view.point("c3").click()
    view.says("c3 is not allowed here: the point is taken, or it is a ko.")

    # Arrows move, Enter puts a stone; JupyterLab's own keys do nothing while the board is used.
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    for key in ("x", "d", "d", "b", "a"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    view.says("The policy passed. Your move.")
    assert view.point("d4").get_attribute("aria-label") == "d4, black stone" and view.cells() == 2
    for _ in range(6):  # no further than the edge
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("e4,")
    page.keyboard.press("z")
    view.says("Taken back. Your move.")
    assert view.point("d4").get_attribute("aria-label").startswith("d4, empty")
    page.keyboard.press("h")
    page.wait_for_function("() => !document.querySelector('.labkit-go').innerText.includes('60')")
    page.keyboard.press("h")

    for theme in ("Dark", "Light") if PICTURES else ():
        Path(os.environ["LABKIT_SCREENSHOTS"], f"go-{theme.lower()}.png").write_bytes(
            view.picture(theme)
        )

    page.keyboard.press("p")  # both pass: over
    view.says("The game is over: you have won. Press n for a new one.")
    view.point("a1").click()
    view.says("The game is over. Begin a new one.")
    page.keyboard.press("n")
    view.says("You are Black. Your move.")
    page.keyboard.press("o")
    view.says("You are White. The policy passed. Your move.")

    # The tab is closed in the middle of a game, and opened again: the same kernel, the same cell.
    view.open()
    view.run()
    view.says("You are Black. Your move.")
    assert view.point("c3").get_attribute("aria-label") == "c3, empty"
    page.close()
