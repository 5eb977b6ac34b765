"""The rating panel in a real browser: JupyterLab started here, Chromium driven by playwright.

LABKIT_SCREENSHOTS names a folder to keep the pictures in. Those that notebook 05 shows are made by
panel_pictures.py.
"""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from test_panels import EVIL

from labkit.charts.tables import visible
from labkit.feedback import Store

ROOT = Path(__file__).parent.parent
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
).split()
PICTURES = os.environ.get("LABKIT_SCREENSHOTS")
TOKEN = "a-token-for-the-tests"
WAIT = 60_000  # ms: a busy machine is slow, a broken panel never comes

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium here (.ci/run installs one)"
)

PROMPTS = (
    "台灣最高的山是哪座？",
    "What is the capital of France?",
    "ما هو أعلى جبل في تايوان؟",
    "日本で一番高い山は？",
)
ANSWERS = (
    "玉山。海拔 3,952 公尺，位於台灣中部。",
    "I'm sorry, but as an AI language model I can't be sure. It may be Yushan; it depends.",
    "The capital of France is Paris.\n\nIt lies on the Seine, and two million people live there.",
    "أعلى جبل في تايوان هو يوشان، وارتفاعه 3952 مترا.",
    "富士山です。",
    "Well, let me think about that. " * 60,
)


@contextlib.contextmanager
def jupyterlab(folder: Path):
    """A JupyterLab of its own: no settings, no network, its own runs folder. Its kernels import the
    labkit beside these tests.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jupyter = [f"JUPYTER_{name}_DIR" for name in ("CONFIG", "DATA", "RUNTIME")]
    jupyter += [f"JUPYTERLAB_{name}_DIR" for name in ("SETTINGS", "WORKSPACES")]
    own = {name: folder / name.lower() for name in (*jupyter, "IPYTHONDIR", "LABKIT_RUNS", "HOME")}
    settings = own["JUPYTERLAB_SETTINGS_DIR"] / "@jupyterlab" / "apputils-extension"
    for made in (folder / "notebooks", own["HOME"], settings):
        made.mkdir(parents=True)
    quiet = '{"fetchNews": "false", "checkForUpdates": false}'
    (settings / "notification.jupyterlab-settings").write_text(quiet)
    options = {
        "ServerApp.port": port,
        "ServerApp.ip": "127.0.0.1",
        "IdentityProvider.token": TOKEN,
        "ServerApp.root_dir": folder / "notebooks",
        "LabApp.expose_app_in_browser": True,
        "JupyterNotebookApp.expose_app_in_browser": True,
    }
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            [*command, *(f"--{key}={value}" for key, value in options.items())],
            env=os.environ | {k: str(v) for k, v in own.items()} | {"PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):  # a busy machine is slow
            try:
                urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log.txt").read_text()
                time.sleep(0.2)
        yield SimpleNamespace(url=url, notebooks=folder / "notebooks", runs=own["LABKIT_RUNS"])
    finally:
        server.terminate()
        server.wait(120)


@contextlib.contextmanager
def chromium(folder: Path):
    """A browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=CHROMIUM,
            args=FLAGS,
            headless=True,
            viewport={"width": 1280, "height": 900},
        )
        context.set_default_timeout(WAIT)
        yield context
        context.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with jupyterlab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


class Page:
    """A notebook in JupyterLab, and the rating panel in it."""

    def __init__(self, lab, browser, name, *cells):
        self.lab, self.name = lab, name
        cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        notebook = nbformat.v4.new_notebook(cells=cells)
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, lab.notebooks / f"{name}.ipynb")
        self.page, self.asked = browser.new_page(), []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.panel = self.page.locator(".labkit-panel").first
        self.open()
        self.run()

    def open(self):
        self.page.goto(f"{self.lab.url}/doc/tree/{self.name}.ipynb?token={TOKEN}")
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady"
        )

    def command(self, name, **options):
        self.page.evaluate(
            "([name, options]) => void jupyterapp.commands.execute(name, options)", [name, options]
        )

    def run(self):
        self.command("notebook:run-all-cells")
        self.ready()

    def ready(self):
        self.page.locator(".labkit-panel[data-keys] .labkit-text").first.wait_for()

    def cells(self) -> int:
        return self.page.evaluate("() => jupyterapp.shell.currentWidget.content.widgets.length")

    def texts(self, wanted=None) -> list[str]:
        """The prompt and the answers, as they stand on the screen; wanted (in any order): what is
        waited for, as prompt and answers come in messages of their own on a busy machine.
        """
        for _ in range(100):
            seen = self.panel.locator(".labkit-text:visible").all_text_contents()
            if wanted is None or sorted(seen) == sorted(wanted):
                break
            time.sleep(0.1)
        return seen

    def rated(self, count, of):
        self.panel.get_by_text(f"{count} of {of} rated").wait_for()
        time.sleep(0.2)  # a person takes longer, and a panel ignores who is faster

    def picture(self, theme) -> bytes:
        """The panel as PNG in JupyterLab's theme "Light" or "Dark"."""
        self.command("apputils:change-theme", theme=f"JupyterLab {theme}")
        self.page.wait_for_function(
            f"() => document.body.dataset.jpThemeName === 'JupyterLab {theme}'"
        )
        time.sleep(0.5)
        return self.panel.screenshot()

    def pictures(self, name):
        """One in each theme, where somebody asked for them."""
        for theme in ("Dark", "Light") if PICTURES else ():
            Path(PICTURES, f"{name}-{theme.lower()}.png").write_bytes(self.picture(theme))


def rating_cell(items, mode="pair", **options):
    return f"""
from labkit.feedback import panels
items = {items!r}
panel = panels.rate(items, {mode!r}, **{options!r})
panel"""


def test_rate_undo_reload_restart_and_go_on(lab, browser):
    items = [
        (f"{PROMPTS[i % 4]} ({i})", (f"{ANSWERS[i % 6]} [{i}]", f"{ANSWERS[(i + 1) % 6]} [{i}b]"))
        for i in range(30)
    ]
    view = Page(lab, browser, "rate", rating_cell(items, rater="clicker"), "after = 1")
    page, rng, expected = view.page, random.Random(0), []

    def rate(press, tags=(), note=""):
        """One verdict, pressed by mouse or by keyboard; what it must become in the store."""
        asked, responses = items[len(expected)]
        prompt, *answers = view.texts(wanted=(asked, *responses))
        said = rng.choice(("A is better", "B is better", "Same", "Skip"))
        press(said)
        assert prompt == asked and sorted(answers) == sorted(responses)
        verdict = {"Same": "same", "Skip": "skip"}.get(said)
        if verdict is None:
            verdict = responses.index(answers["AB".index(said[0])])
        expected.append((prompt, verdict, tags, note))
        view.rated(len(expected), 30)

    def by_mouse(said):
        view.panel.get_by_role("button", name=said, exact=True).click()

    def by_key(said):
        keys = {"A is better": "1", "B is better": "2", "Same": "0", "Skip": "k"}
        page.keyboard.press(keys[said])

    def stored():
        judged = Store(lab.runs / "feedback.sqlite").all("clicker")
        return [(one.prompt, one.verdict, one.tags, one.note) for one in judged]

    rate(by_mouse)
    view.panel.get_by_label("wordy").check()
    view.panel.get_by_label("Note").fill("a note, by mouse")
    rate(by_mouse, ("wordy",), "a note, by mouse")
    for _ in range(6):
        rate(by_mouse)
    assert stored() == expected

    # The keyboard: JupyterLab's own keys (cut, delete, insert above and below, run …) do nothing
    # while the panel has the focus.
    view.panel.locator(".labkit-prompt").click()
    for key in ("x", "d", "d", "b", "a", "Enter", "Shift+Enter", "ArrowDown", "Escape"):
        page.keyboard.press(key)
    page.keyboard.press("a")  # a second time: the tag is off again
    assert view.cells() == 2
    view.rated(8, 30)
    page.keyboard.press("h")
    page.keyboard.press("n")
    page.keyboard.type("12 dd 寫 x")
    page.keyboard.press("Escape")
    rate(by_key, ("hedging",), "12 dd 寫 x")
    for _ in range(8):
        rate(by_key)
    assert stored() == expected and view.cells() == 2

    for undo in (lambda: page.keyboard.press("z"), lambda: by_mouse("Undo")):
        undo()
        expected.pop()
        view.rated(len(expected), 30)
        assert stored() == expected
        rate(by_key)
        rate(by_key)

    # Ctrl+S still saves: a key with Ctrl is the notebook's. Then the page is loaded again, with the
    # same kernel.
    saved = (lab.notebooks / "rate.ipynb").stat().st_mtime_ns
    page.keyboard.press("Control+s")
    for _ in range(100):
        if (lab.notebooks / "rate.ipynb").stat().st_mtime_ns != saved:
            break
        time.sleep(0.1)
    assert "widget-view" in (lab.notebooks / "rate.ipynb").read_text()
    view.open()
    view.ready()
    view.rated(len(expected), 30)
    rate(by_mouse)
    rate(by_key)
    assert stored() == expected

    view.command("kernelmenu:restart")
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.wait_for_function(
        "() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    )
    view.command("notebook:clear-all-cell-outputs")
    view.panel.wait_for(state="detached")
    view.run()
    view.rated(len(expected), 30)
    rate(by_mouse)
    view.panel.locator(".labkit-prompt").click()
    while len(expected) < 30:
        rate(by_key)
    assert stored() == expected
    view.panel.get_by_text("Nothing is left to rate").wait_for()
    page.keyboard.press("z")  # the keys still work where what had the focus is gone
    view.rated(29, 30)
    page.close()


def test_model_text_is_text_in_the_browser(lab, browser):
    view = Page(
        lab, browser, "evil", rating_cell([(evil, (evil, "short")) for evil in EVIL], rater="evil")
    )
    page, before = view.page, len(view.asked)
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    for i, evil in enumerate(EVIL):
        view.rated(i, len(EVIL))
        shown = visible(evil, newline="\n")
        prompt, *answers = view.texts(wanted=(shown, shown, "short"))
        assert prompt == shown and sorted(answers) == sorted((shown, "short"))
        seen = page.evaluate("""() => {
            const panel = document.querySelector('.labkit-panel').getBoundingClientRect();
            const texts = [...document.querySelectorAll('.labkit-panel .labkit-text')];
            return {
                hacked: window.hacked ?? null,
                elements: texts.flatMap(text => [...text.children]).length,
                foreign: document.querySelectorAll(
                    '.labkit-panel :is(script, img, a, h1, iframe, mjx-container, strong)').length,
                outside: texts.map(text => text.getBoundingClientRect()).filter(box => box.left
                    < panel.left || box.right > panel.right || box.bottom > panel.bottom).length,
                tall: texts.filter(text => text.clientHeight > innerHeight / 2).length,
                wide: texts.filter(text => text.scrollWidth > text.clientWidth).length,
                scrolls: texts.some(text => text.scrollHeight > text.clientHeight),
            }; }""")
        nothing = dict(hacked=None, elements=0, foreign=0, outside=0, tall=0, wide=0)
        assert seen == {**nothing, "scrolls": len(evil) > 10_000}, ascii(evil[:40])
        view.panel.get_by_role("button", name="Same", exact=True).click()
    view.panel.get_by_text("Nothing is left to rate").wait_for()
    assert not [url for url in view.asked[before:] if not url.startswith(("ws:", view.lab.url))]
    assert not [url for url in view.asked if "x.png" in url or url.endswith("/x")]
    page.close()


# What has the focus, and how its outline is drawn; "" outside the panel.
FOCUS = """() => {
    const at = document.activeElement, box = at.closest('.widget-checkbox') ?? at;
    return at.closest('.labkit-panel') ? `${at.tagName} ${getComputedStyle(box).outlineStyle}` : '';
}"""


def test_a_screen_reader_is_told_what_each_part_is(lab, browser):
    view = Page(lab, browser, "reader", rating_cell([(PROMPTS[0], ANSWERS[:2])], rater="reader"))
    panel = view.page.get_by_role("group", name="Rating panel")
    for name in ("Prompt", "Answer A", "Answer B"):
        panel.get_by_role("group", name=name, exact=True).wait_for()
    for name in ("A is better", "Same", "B is better", "Skip", "Undo"):
        assert panel.get_by_role("button", name=name, exact=True).get_attribute("aria-keyshortcuts")
    assert panel.get_by_role("checkbox").count() == 6
    panel.get_by_role("textbox", name="Note").wait_for()
    panel.get_by_role("progressbar", name="rated").wait_for()
    panel.get_by_role("status").wait_for(state="attached")
    # Tab goes through everything, and what has the focus can be seen.
    view.panel.locator(".labkit-prompt").click()
    seen = set()
    for _ in range(20):
        view.page.keyboard.press("Tab")
        seen.add(view.page.evaluate(FOCUS))
    assert seen - {""} == {"BUTTON solid", "INPUT solid", "DIV solid"}
    view.page.close()


# What leaves the panel on the left or the right.
OUTSIDE = """() => {
    const panel = document.querySelector('.labkit-panel'), edge = panel.getBoundingClientRect();
    const parts = [...panel.querySelectorAll('button, input, .labkit-text, progress')];
    return parts.filter(part => {
        const box = part.getBoundingClientRect();
        return box.width && (box.right > edge.right + 1 || box.left < edge.left - 1);
    }).map(part => part.outerHTML.slice(0, 80));
}"""
# Of each mode: how many answers, what is pressed, and the verdict, by what stands where.
KEYS = {
    "pair": (2, ["2"], lambda shown: shown[1]),
    "regenerated": (2, ["1", "ArrowLeft", "ArrowRight", "1"], lambda shown: 1),
    "thumb": (1, ["2"], lambda shown: False),
    "rank": (
        4,
        ["Backspace", "3", "1", "2", "Backspace", "2", "4", "1", "s"],
        lambda shown: tuple(shown[place] for place in (1, 3, 0, 2)),
    ),
    "scale": (
        3,
        ["Backspace", "7", "0", "1", "s"],
        lambda shown: tuple((7, 10, 1)[shown.index(i)] for i in range(3)),
    ),
}


@pytest.mark.parametrize("mode", KEYS)
def test_every_mode_fits_every_width_and_hears_its_keys(lab, browser, mode):
    n, presses, verdict = KEYS[mode]
    right_to_left = (ANSWERS[3], ANSWERS[5], *ANSWERS[:2])
    items = [(PROMPTS[2], right_to_left[:n]), (PROMPTS[0], ANSWERS[:n]), ("next", ANSWERS[:n])]
    view = Page(lab, browser, mode, rating_cell(items, mode, rater="keys"))
    view.pictures(f"{mode}-right-to-left")
    view.panel.get_by_role("button", name="Skip").click()
    view.rated(1, 3)
    view.panel.get_by_label("hedging").check()
    for name in {"rank": "CA", "scale": "7"}.get(mode, ""):  # some of its buttons pressed
        view.panel.get_by_role("button", name=name, exact=True).click()
    for width, height in ((1280, 1000), (800, 1400), (390, 1800)):
        view.page.set_viewport_size({"width": width, "height": height})
        time.sleep(0.4)
        view.pictures(f"{mode}-{width}")
        assert view.page.evaluate(OUTSIDE) == [], width
    view.panel.locator(".labkit-prompt").click()
    for key in presses:
        # A person's pace: each mark is shown before the next. All within a millisecond, two came
        # swapped once.
        time.sleep(0.2)
        view.page.keyboard.press(key)
    view.rated(2, 3)
    one = Store(lab.runs / "feedback.sqlite").all("keys", mode)[1]
    assert one.tags == ("hedging",) and one.verdict == verdict(one.shown)
    view.page.set_viewport_size({"width": 1280, "height": 900})
    view.page.close()


class Game(Page):
    """A notebook in JupyterLab, and notebook 03's game in it."""

    def ready(self):
        self.page.locator(".labkit-panel[data-keys] .labkit-board img").first.wait_for()


def test_a_game_is_played_by_keyboard_and_mouse_to_its_end_and_beyond(lab, browser):
    cell = """
from labkit.labs.games.playing import Play
panel = Play(seed=3, limit=4)
panel"""
    view = Game(lab, browser, "play", cell, "after = 1")
    head, status = (view.panel.locator(f".labkit-{part}") for part in ("head", "status"))
    assert view.panel.get_attribute("aria-label") == "Space Invaders"
    assert view.panel.locator("[role=status]").count() == 1
    view.pictures("game")
    view.panel.locator(".labkit-board").click()
    for step, key in enumerate(("ArrowLeft", "Space", "ArrowRight"), 1):
        view.page.keyboard.press(key)
        head.get_by_text(f"step {step} of 4").wait_for()
    view.panel.get_by_role("button", name="Fire").click()
    status.get_by_text("Time is up. Press N for a new game.").wait_for()
    view.page.keyboard.press("Space")  # over: it says so, and the notebook goes on
    status.get_by_text("This game is over").wait_for()
    view.page.keyboard.press("n")
    head.get_by_text("game 2 · step 0 of 4").wait_for()
    view.page.reload()  # a closed tab: what was played is in the kernel
    view.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    assert view.cells() == 2
