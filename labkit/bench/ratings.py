"""`bench feedback`: what the store costs a click."""

import contextlib
import tempfile
from pathlib import Path
from statistics import median

from labkit import runs
from labkit.bench.measure import seconds


def feedback(before: int = 10_000, adds: int = 500) -> dict:
    """Seconds of `add`, `undo` and `len` with `before` ratings in the store, and of opening and
    reading it all; and a click in a rating panel, until the next item stands there (without the way
    to the browser and back).

    Measured on the disk of the runs folder, in a folder that is deleted afterwards. The slowest add
    counts most: it may hold a checkpoint of the write-ahead log.
    """
    from labkit.feedback import Feedback, Store, panels  # not in every process of `bench ppo`

    answers = ("玉山。" * 100, "泰山。" * 100)
    marks = {"shown": (1, 0), "tags": ("wordy",), "sources": ("a", "b")}
    one = Feedback("台灣最高的山？", answers, "pair", 0, **marks)
    runs.root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=runs.root()) as folder:
        path = Path(folder, "feedback.sqlite")
        with contextlib.closing(Store(path)) as store:
            store.extend([one] * before)
        opening = seconds(lambda: Store(path).close())[0]
        with contextlib.closing(Store(path)) as store:
            added = sorted(seconds(lambda: store.add(one), adds))
            panel = panels.rate(
                [(one.prompt, answers)] * 100, store=store, rater="bench", fastest=0
            )
            clicked = seconds(panel.verdicts["same"].click, 100)
            return {
                "ratings_before": before,
                "adds": adds,
                "add_seconds_median": median(added),
                "add_seconds_p99": added[int(0.99 * (adds - 1))],
                "add_seconds_max": added[-1],
                "click_seconds_median": median(clicked),
                "click_seconds_max": max(clicked),
                "undo_seconds_median": median(seconds(store.undo, 20)),
                "len_seconds_median": median(seconds(store.__len__, 20)),
                "all_seconds": seconds(store.all)[0],
                "open_seconds": opening,
                "store_bytes": path.stat().st_size,
            }
