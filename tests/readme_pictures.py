"""README's pictures of PPO while it trains and of the film of one question, taken in JupyterLab:
`python tests/readme_pictures.py` (or the name of one). Some minutes; it needs Chromium and
playwright, as the tests of the panels do. (The panel's: LABKIT_SCREENSHOTS, test_panel_browser.py.)
"""

import sys
import tempfile
import time
from pathlib import Path

from test_panel_browser import ROOT, Page, chromium, jupyterlab

FOLDER = ROOT / ".github"
LARGEST = 300_000  # bytes
# Of each picture: the cell, and what stands on the page when it is taken.
SCENES = {
    "live-ppo": (
        """
from labkit import charts, config, ppo, runs
profile = config.profile("tiny")
with runs.start("ppo", config.change(profile.ppo, seed=1), "my-ppo") as run:
    run.listeners.append(charts.live(run, ["score", "kl", "length", "entropy"]))
    ppo.train(run.config, run)""",
        "step 16/24",
    ),
    "film": (
        """
from labkit import charts
from labkit.labs import film
charts.show(film.figure(film.load(), film.MOUNTAIN))""",
        "another question",
    ),
}


class View(Page):
    """A notebook in JupyterLab with a chart in place of the panel."""

    def ready(self):
        self.page.locator(".jp-OutputArea-output svg").first.wait_for(timeout=600_000)


def main():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        places = [Path(folder, name) for name in ("lab", "profile")]
        for place in places:
            place.mkdir()
        with jupyterlab(places[0]) as lab, chromium(places[1]) as browser:
            for name in sys.argv[1:] or SCENES:
                cell, shown = SCENES[name]
                view = View(lab, browser, name, cell.strip())
                view.page.set_viewport_size({"width": 1000, "height": 860})
                view.page.get_by_text(shown).first.wait_for(timeout=900_000)
                time.sleep(2)  # plotly draws its legend last
                picture = view.page.locator(".jp-Notebook .jp-CodeCell").first.screenshot()
                view.page.close()
                if len(picture) > LARGEST:
                    sys.exit(f"{name}: {len(picture):,} bytes, but {LARGEST:,} is the most.")
                (FOLDER / f"{name}.png").write_bytes(picture)
                print(f"{name}.png: {len(picture):,} bytes", flush=True)


if __name__ == "__main__":
    main()
