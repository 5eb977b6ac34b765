"""The pictures of the five rating panels that notebook 05 shows: `python tests/panel_pictures.py`.

Run it again when other checkpoints are shipped or when a panel looks different: the answers are
those of the shipped models. Half a minute; it needs Chromium and playwright, as the tests of the
panels do. Light and dark stand side by side in one PNG, because a notebook's <picture> follows the
system's theme and not JupyterLab's.
"""

import base64
import sys
import tempfile
from pathlib import Path

import test_panel_browser
from test_panel_browser import ROOT, Page, chromium, jupyterlab, rating_cell

FOLDER = ROOT / "notebooks/pictures"
LARGEST = 120_000  # bytes
WIDE = 760  # of the page in which a panel stands: narrow, so that two fit beside each other
# Of each mode: the question, how many answers, and the buttons that are pressed before the picture.
SCENES = {
    "pair": ("台灣最高的山是哪座？", 2, ()),
    "regenerated": ("What is the capital of France?", 2, ()),
    "thumb": ("你是誰？", 1, ()),
    "rank": ("What is the highest mountain in Taiwan?", 4, ()),
    "scale": ("請教我讓自己家的 wifi 變快。", 3, ()),
}


def answers(prompts, n):
    """{prompt: n different answers}: greedy ones of the shipped models, then the SFT model's,
    sampled.
    """
    from labkit import models, rollout, runs

    runs.seed_everything(5)
    found = {prompt: [] for prompt in prompts}
    speakers = [models.load_policy(runs.latest(stage)) for stage in ("ppo", "sft", "dpo")]
    for speaker, temperature in [(one, 0) for one in speakers] + [(speakers[1], 1.0)] * 20:
        said = rollout.answer(*speaker, list(prompts), temperature=temperature)
        for prompt, text in zip(prompts, said):
            if text.strip() and text not in found[prompt]:
                found[prompt].append(text)
    return {prompt: texts[:n] for prompt, texts in found.items()}


def side_by_side(browser, shots) -> bytes:
    """PNGs beside each other, as one PNG."""
    page = browser.new_page()
    sources = (f"data:image/png;base64,{base64.b64encode(shot).decode()}" for shot in shots)
    row = "".join(f'<img src="{source}">' for source in sources)
    page.set_content(
        f"<body style='margin:0;background:transparent'><div id=row style='display:inline-flex;"
        f"gap:12px;align-items:start'>{row}</div>"
    )
    picture = page.locator("#row").screenshot(omit_background=True)
    page.close()
    return picture


def main():
    test_panel_browser.WAIT = 60_000  # ms
    said = answers([question for question, _, _ in SCENES.values()], 4)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        places = [Path(folder, name) for name in ("lab", "profile")]
        for place in places:
            place.mkdir()
        with jupyterlab(places[0]) as lab, chromium(places[1]) as browser:
            for mode, (question, n, presses) in SCENES.items():
                items = [(question, said[question][:n])] + [
                    (f"{i}", list("abcd"[:n])) for i in range(24)
                ]
                view = Page(lab, browser, mode, rating_cell(items, mode))
                view.page.set_viewport_size({"width": WIDE, "height": 1400})
                for name in presses:
                    view.panel.get_by_role("button", name=name, exact=True).click()
                shots = [view.picture(theme) for theme in ("Light", "Dark")]
                picture = side_by_side(browser, shots)
                view.page.close()
                if len(picture) > LARGEST:
                    sys.exit(f"{mode}: {len(picture):,} bytes, but {LARGEST:,} is the most.")
                (FOLDER / f"panel-{mode}.png").write_bytes(picture)
                print(f"panel-{mode}.png: {len(picture):,} bytes; {said[question][:n]}")


if __name__ == "__main__":
    main()
