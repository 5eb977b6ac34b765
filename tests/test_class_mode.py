"""A simulated class: its circles are found again by κ, and the charts and figures say what is
there.
"""

import random

import numpy as np
import pytest

from labkit import LabError, charts
from labkit.atlas import Rater, demos, find, respond
from labkit.atlas.facts import TEMPLATES
from labkit.feedback import Feedback, agreement
from labkit.labs import class_mode


def pairs(n: int) -> list[tuple]:
    """(prompt, one style's answer, another's) of atlas questions."""
    rng, found = random.Random(0), []
    for demo in demos(seed=3, n=6 * n):
        item = find(demo.prompt)
        if not item.request and item.relation != "identity" and TEMPLATES[item.relation].stated:
            a, b = (respond(item, style, rng) for style in rng.sample(STYLES, 2))
            found.append((demo.prompt, a, b))
    return found[:n]


STYLES = ("plain", "long", "hedging", "apology")


@pytest.fixture(scope="module")
def judged():
    items, found = pairs(60), []
    pupils = class_mode.pupils(15, seed=1)
    for _, rater in pupils.values():
        found += class_mode.rated(rater, items)
    return pupils, items, found


def test_the_groups_are_equal_and_their_names_tell_nothing():
    pupils = class_mode.pupils(30, seed=1)
    groups = [group for group, _ in pupils.values()]
    assert sorted(groups) == sorted(10 * list(class_mode.TASTES)) and groups != sorted(groups)
    assert all(
        name == rater.name and name.startswith("pupil-") for name, (_, rater) in pupils.items()
    )
    assert class_mode.pupils(30, seed=1).keys() == pupils.keys()
    assert [g for g, _ in class_mode.pupils(30, seed=1).values()] == groups
    assert [g for g, _ in class_mode.pupils(30, seed=2).values()] != groups


def test_what_a_rater_says_is_stored_of_the_answers_and_not_of_their_places(judged):
    _, items, _ = judged
    exact = Rater("exact", temperature=0)
    said = class_mode.rated(exact, items)
    assert len({one.shown for one in said}) == 2
    for one, (prompt, a, b) in zip(said, items):
        assert one.responses == (a, b)
        assert one.verdict == {"a": 0, "b": 1, "same": "same"}[exact.compare(prompt, a, b)]


def test_a_sheet_holds_what_all_judged():
    def one(rater, prompt, verdict, turned=False):
        return Feedback(prompt, ("b", "a") if turned else ("a", "b"), "pair", verdict, rater)

    many = [
        one("x", "P", 0),
        one("y", "P", 0, turned=True),
        one("x", "Q", "same"),
        one("y", "Q", 1),
    ]
    names, items, table = class_mode.sheet([*many, one("x", "R", 0), one("x", "P", 1)])
    assert names == ["x", "y"] and items == [("P", "a", "b"), ("Q", "a", "b")]
    assert table.tolist() == [[1, -1], [0, -1]]  # the first judgement of x, on P, counts
    turned = [one("x", "P", 0, turned=True), one("y", "P", 0)]
    names, items, table = class_mode.sheet(turned)
    assert items == [("P", "b", "a")] and table.tolist() == [[1, -1]]
    for none in ([], [one("x", "P", 0), one("y", "Q", 0)]):
        with pytest.raises(LabError, match="no pair that all raters judged"):
            class_mode.sheet(none)


def test_kappas_are_those_of_the_agreement_report(judged):
    _, _, found = judged
    few = [one for one in found if one.rater in ("pupil-01", "pupil-02", "pupil-03")]
    names, _, table = class_mode.sheet(few)
    report = agreement.agreement(few, resamples=5)["comparisons"]
    kappa = class_mode.kappas(table)
    for one in report["pairs"]:
        i, j = map(names.index, one["raters"])
        assert kappa[i, j] == kappa[j, i] == pytest.approx(one["cohen"]["value"])
    assert class_mode.fleiss(table)["value"] == pytest.approx(report["fleiss"]["value"])
    assert (kappa.diagonal() == 1).all()


def test_kappa_finds_the_circles_that_were_simulated(judged):
    pupils, _, found = judged
    names, items, table = class_mode.sheet(found)
    order, circle = class_mode.circles(class_mode.kappas(table), 3)
    assert sorted(order) == list(range(15))
    groups = {c: {pupils[n][0] for n, at in zip(names, circle) if at == c} for c in circle}
    assert sum(len(group) == 1 for group in groups.values()) >= 2
    shuffled = np.random.default_rng(0).permuted(table, axis=0)
    assert class_mode.kappas(shuffled)[np.triu_indices(15, 1)].mean() < 0.1
    rows = class_mode.split(table, circle)
    assert rows[0]["apart"] == max(row["apart"] for row in rows) > 0.8
    row = rows[0]
    mean = table[row["item"]][np.array(circle) == circle[0]].mean()
    assert row[f"circle {circle[0]}"] == pytest.approx(mean)


def test_pairs_to_learn_from_are_those_of_the_raters_named(judged):
    _, _, found = judged
    told = class_mode.told_apart(found, ["pupil-01"])
    assert {pair.rater for pair in told} == {"pupil-01"}
    assert len(told) == sum(one.verdict != "same" for one in found if one.rater == "pupil-01")


def test_preferring_is_a_share_in_which_a_draw_is_half(judged):
    _, items, _ = judged
    prompts, one, other = (list(column) for column in zip(*items))
    rater = Rater("exact", temperature=0)
    there = class_mode.prefer([rater], prompts, one, other)
    back = class_mode.prefer([rater], prompts, other, one)
    assert there + back == pytest.approx(1) and there != 0.5
    assert class_mode.prefer([rater], prompts, one, one) == 0.5


def test_a_grid_shows_every_value_under_its_names():
    drawn = charts.grid(["r<1>", "r2"], ["a", "b", "c"], [[1, None, -0.5], [0, 0.25, 2]], "T", "κ")
    (heat,) = drawn.data
    assert [list(row) for row in heat.z] == [[1, None, -0.5], [0, 0.25, 2]]
    assert (heat.zmin, heat.zmax) == (-2, 2) and heat.hovertext[0][1] == "r&lt;1&gt; · b"
    assert list(drawn.layout.yaxis.ticktext) == ["r&lt;1&gt;", "r2"]
    assert "from -0.50 to 2. T" in drawn.layout.meta["alt"]
    many = charts.grid(list(range(41)), [1], [[1.0]] * 41)
    assert not many.layout.yaxis.ticktext and many.layout.xaxis.ticktext
    with pytest.raises(LabError, match="another shape"):
        charts.grid(["r"], ["a"], [[1, 2]])
