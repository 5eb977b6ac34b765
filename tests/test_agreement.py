"""Agreement: figures that can be checked by hand, first on made-up raters, then on ten rows of
PandaLM's three humans.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from labkit.feedback import Feedback, Store
from labkit.feedback import agreement as module
from labkit.feedback.agreement import agreement

FEW = 200  # resamples: enough for a test


def pair(verdict, rater="me", prompt="Q", responses=("a", "b"), **more):
    return Feedback(prompt, responses, "pair", verdict, rater=rater, **more)


def raters(*columns, names=("x", "y", "z")):
    """A pair per place in the columns, a rater per column."""
    return [
        pair(verdict, name, f"question {i}")
        for name, column in zip(names, columns)
        for i, verdict in enumerate(column)
    ]


def value(figure):
    return figure and figure["value"]


def test_two_raters_by_hand():
    report = agreement(raters([0, 0, 0, 1, 1, "same"], [0, 0, 1, 1, 0, "same"]), FEW)
    (two,) = report["comparisons"]["pairs"]
    assert two["raters"] == ["x", "y"] and two["agreement"]["n"] == two["cohen"]["n"] == 6
    assert value(two["agreement"]) == pytest.approx(4 / 6)
    expected = (
        3 * 3 + 2 * 2 + 1 * 1
    ) / 36  # each says first 3 times, second 2 times, the same once
    assert value(two["cohen"]) == pytest.approx((4 / 6 - expected) / (1 - expected))
    assert two["cohen"]["low"] < value(two["cohen"]) < two["cohen"]["high"]
    assert report["thumbs"] == {"pairs": [], "fleiss": None}


def test_three_raters_by_hand():
    """Fleiss' own way: per item (Σ n² − N) / (N (N − 1)), and the categories' shares squared."""
    found = agreement(raters([0, 1, 0, 1], [0, 1, 1, 1], [0, 1, 0, 0]), FEW)["comparisons"][
        "fleiss"
    ]
    observed = (1 + 1 + 1 / 3 + 1 / 3) / 4
    expected = (6 / 12) ** 2 + (6 / 12) ** 2
    assert (
        found["value"] == pytest.approx((observed - expected) / (1 - expected)) and found["n"] == 4
    )


def test_kappa_knows_chance_from_agreement():
    chance = np.random.default_rng(0)
    columns = chance.integers(0, 2, (3, 400)).tolist()
    report = agreement(raters(*columns), FEW)["comparisons"]
    for two in report["pairs"]:
        assert (
            two["cohen"]["low"] < 0 < two["cohen"]["high"] and 0.4 < value(two["agreement"]) < 0.6
        )
    assert report["fleiss"]["low"] < 0 < report["fleiss"]["high"]
    same = agreement(raters(columns[0], columns[0]), FEW)["comparisons"]
    assert (
        value(same["pairs"][0]["cohen"])
        == same["pairs"][0]["cohen"]["low"]
        == value(same["fleiss"])
        == 1
    )
    opposite = agreement(raters(columns[0], [1 - v for v in columns[0]]), FEW)["comparisons"][
        "pairs"
    ][0]
    assert value(opposite["agreement"]) == 0 and value(opposite["cohen"]) < -0.9


def test_a_kappa_without_meaning_is_none():
    (two,) = agreement(raters([0, 0, 0], [0, 0, 0]), FEW)["comparisons"]["pairs"]
    assert value(two["agreement"]) == 1 and two["cohen"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 3,
    }
    (two,) = agreement(raters([0], [1]), FEW)["comparisons"]["pairs"]
    assert two["agreement"] == {"value": 0.0, "low": None, "high": None, "n": 1}
    assert agreement([], FEW) == {"raters": {}} | dict.fromkeys(
        ("comparisons", "thumbs"), {"pairs": [], "fleiss": None}
    )


def test_the_order_of_the_responses_does_not_matter():
    judged = [
        pair(0, "x"),
        pair(1, "y", responses=("b", "a")),
        pair(0, "x", "R"),
        pair(0, "y", "R", ("b", "a")),
    ]
    (two,) = agreement(judged, FEW)["comparisons"]["pairs"]
    assert value(two["agreement"]) == 0.5 and two["agreement"]["n"] == 2


def test_other_modes_are_compared_pair_by_pair():
    judged = [
        Feedback("Q", ("a", "b", "c"), "rank", (0, 1, 2), rater="x"),
        Feedback("Q", ("c", "b", "a"), "scale", (2, 2, 9), rater="y"),
        Feedback("Q", ("a", "b"), "regenerated", 1, rater="z"),
    ]
    report = agreement(judged, FEW)["comparisons"]
    found = {
        tuple(two["raters"]): (value(two["agreement"]), two["agreement"]["n"])
        for two in report["pairs"]
    }
    assert found == {("x", "y"): (pytest.approx(2 / 3), 3), ("x", "z"): (0, 1), ("y", "z"): (0, 1)}
    assert report["fleiss"]["n"] == 1  # a against b is what all three judged


def test_thumbs_have_their_own_table():
    judged = [
        Feedback("Q", (text,), "thumb", verdict, rater=rater)
        for rater, verdicts in (
            ("x", [True, True, False, "skip"]),
            ("y", [True, False, False, True]),
        )
        for text, verdict in zip("abcd", verdicts)
    ]
    report = agreement(judged, FEW)
    (two,) = report["thumbs"]["pairs"]
    assert (
        value(two["agreement"]) == pytest.approx(2 / 3) and two["agreement"]["n"] == 3
    )  # a skip is no opinion
    assert report["comparisons"]["pairs"] == [] and report["raters"]["x"]["skipped"] == 1


def test_consistency_on_repeated_pairs():
    judged = [
        *(pair(v) for v in (0, 0, 1)),  # kept, changed
        pair(0, prompt="R"),
        pair(1, prompt="R", responses=("b", "a")),  # kept, though the sides were changed
        pair(0, prompt="S"),  # no repeat
        pair("skip", prompt="S"),
    ]
    found = agreement(judged, FEW)["raters"]["me"]
    assert found["consistency"]["value"] == pytest.approx(2 / 3) and found["consistency"]["n"] == 3
    assert found["ratings"] == 7 and found["skipped"] == 1


def test_position_bias():
    judged = [
        pair(v, prompt=str(i), shown=shown)
        for i, (v, shown) in enumerate(
            [(0, (0, 1)), (1, (1, 0)), (1, (0, 1)), ("same", (0, 1)), (0, ())]
        )
    ]
    left = agreement(judged, FEW)["raters"]["me"]["left"]
    assert left["value"] == pytest.approx(2 / 3) and left["n"] == 3
    always = agreement(
        [pair(i % 2, prompt=str(i), shown=(i % 2, 1 - i % 2)) for i in range(20)], FEW
    )
    left = always["raters"]["me"]["left"]
    assert left["value"] == 1 and 0.5 < left["low"] < 1  # Wilson: 20 of 20 is not certainty
    assert left["low"] == pytest.approx(20 / (20 + 1.959964**2), abs=1e-5)
    assert agreement([pair(0)], FEW)["raters"]["me"]["left"] is None


def test_seconds_per_rating():
    judged = [
        pair(0, seconds=2.0),
        pair(1, seconds=4.0),
        pair(0, seconds=9.0),
        pair("skip", seconds=100.0),
        pair(0),
    ]
    assert agreement(judged, FEW)["raters"]["me"]["seconds"] == 4.0


def test_the_interval_covers_what_it_should():
    """Of 95 % intervals on samples from a known share, about 95 % hold it."""
    chance, hits = np.random.default_rng(0), 0
    for seed in range(60):
        table = np.stack([np.zeros(80, int), (chance.random(80) < 0.3).astype(int)], 1)
        found = module.figure(module.equal, table, FEW, seed)
        hits += found["low"] <= 0.7 <= found["high"]
    assert 52 <= hits <= 60


# --- PandaLM's three humans ----------------------------------------------------------------------


def test_ten_rows_of_pandalm_by_hand():
    """Rows 283 to 292 hold four disagreements of several kinds (0: the same, 1 or 2 is better)."""
    votes = (
        [1, 1, 1, 1, 2, 2, 1, 2, 1, 2],  # says 1 six times, 2 four times
        [0, 1, 1, 0, 1, 2, 0, 2, 0, 2],  # says 0 four times, 1 three times, 2 three times
        [1, 1, 1, 1, 2, 2, 0, 2, 0, 2],  # says 0 twice, 1 four times, 2 four times
    )
    judged = raters(*([("same", 0, 1)[vote] for vote in row] for row in votes), names="123")
    report = agreement(judged, FEW)["comparisons"]
    found = {
        tuple(two["raters"]): (value(two["agreement"]), value(two["cohen"]))
        for two in report["pairs"]
    }
    assert found == {
        # agree on 5 of 10; by chance on (6·3 + 4·3) / 100 = 0.30; κ = 0.20 / 0.70
        ("1", "2"): (0.5, pytest.approx(2 / 7)),
        # agree on 8 of 10; by chance on (6·4 + 4·4) / 100 = 0.40; κ = 0.40 / 0.60
        ("1", "3"): (0.8, pytest.approx(2 / 3)),
        # agree on 7 of 10; by chance on (4·2 + 3·4 + 3·4) / 100 = 0.32; κ = 0.38 / 0.68
        ("2", "3"): (0.7, pytest.approx(19 / 34)),
    }
    # Fleiss: 5 rows where all three agree, 5 where two do: (5 · 1 + 5 · 1/3) / 10 = 2/3.
    # Of 30 votes 6 are 0, 13 are 1, 11 are 2: by chance (36 + 169 + 121) / 900 = 326/900.
    fleiss = (2 / 3 - 326 / 900) / (1 - 326 / 900)
    assert report["fleiss"]["value"] == pytest.approx(fleiss) and report["fleiss"]["n"] == 10


def test_all_of_pandalm(tmp_path):
    """The κ of its paper (arXiv 2306.05087, 5.1): 0.85, 0.88 and 0.86."""
    folder = os.environ.get("LABKIT_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data"
    file = Path(folder, "pandalm_human_pairs.json.gz")
    if not file.exists():
        pytest.skip(f"no real data in {folder} (set LABKIT_REAL_DATA)")
    store = Store(tmp_path / "feedback.sqlite")
    store.load(file)
    report = agreement(store.all(), FEW)
    pairs = report["comparisons"]["pairs"]
    assert [round(value(two["cohen"]), 2) for two in pairs] == [0.85, 0.88, 0.86]
    for two in pairs:
        assert two["cohen"]["low"] < value(two["cohen"]) < two["cohen"]["high"]
    # 136 rows ask what an earlier row asked already (37 of them with the sides changed)
    assert {one["consistency"]["n"] for one in report["raters"].values()} == {136}
