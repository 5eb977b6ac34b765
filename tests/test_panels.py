"""The rating panel, pressed from Python: what it stores, what it shows, and that model text stays
text.
"""

import html
import json
import re
from collections import Counter

import ipywidgets as widgets
import pytest

from labkit import LabError
from labkit.atlas import Rater
from labkit.feedback import Store, panels

EVIL = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '<a href="javascript:window.hacked = 1">x</a>',
    "</div></div><h1>out</h1>",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "a\0b",
    "x" * 100_000,
    "&lt;b&gt;",
    "$$\\href{javascript:alert(1)}{x}$$ **bold** ![](http://localhost:1/x.png)",
)
PAIRS = [
    (f"question {i}", (f"first {i}", f"second {i}"), ("model-one", "model-two")) for i in range(6)
]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "feedback.sqlite")


def rate(items, mode="pair", store=None, **options):
    return panels.rate(items, mode, store, fastest=0, **options)


def tree(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


def visible(widget):
    """The widgets that a person would see."""
    if "labkit-hidden" not in widget._dom_classes:
        yield widget
        for child in getattr(widget, "children", ()):
            yield from visible(child)


def press(panel, text):
    found = [
        w for w in visible(panel.widget) if isinstance(w, widgets.Button) and w.description == text
    ]
    assert len(found) == 1, f"{len(found)} buttons say {text!r}"
    found[0].click()


def shown(panel) -> str:
    """All text on the screen."""
    return html.unescape(re.sub("<[^>]*>", " ", " ".join(raw(panel))))


def raw(panel) -> list[str]:
    return [w.value for w in visible(panel.widget) if isinstance(w, widgets.HTML)]


def answers(panel) -> list[str]:
    """The answers on the screen, from left to right."""
    texts = [re.search('class="labkit-text".*?>(.*)</div>', value, re.S) for value in raw(panel)]
    return [html.unescape(text[1]) for text in texts if text][1:]


class Prefers:
    """A rater who likes one kind of answer best: by a number in the text."""

    def compare(self, prompt, a, b):
        first, second = (int(re.sub(r"\D", "", text) or 0) for text in (a, b))
        return "a" if first > second else "b" if second > first else "same"


# --- the five modes ------------------------------------------------------------------------------


def test_a_pair_is_stored_in_terms_of_the_responses_not_of_the_screen(store):
    panel = rate(PAIRS, store=store)
    expected = []
    for said in ("A is better", "B is better", "Same", "A is better", "Skip"):
        place = {"A is better": 0, "B is better": 1}.get(said)
        expected.append(said.lower() if place is None else answers(panel)[place])
        press(panel, said)
    got = [
        one.verdict if isinstance(one.verdict, str) else one.responses[one.verdict]
        for one in store.all()
    ]
    assert got == expected
    for one, item in zip(store.all(), PAIRS):
        assert (one.prompt, one.responses, one.sources) == item
        assert (one.mode, one.rater) == ("pair", "me") and one.id and one.time
    assert panel.results == store.all() and not panel.done and "5 of 6 rated" in shown(panel)
    press(panel, "A is better")
    assert panel.done and "Nothing is left" in shown(panel)
    assert not [
        w.description for w in visible(panel.widget) if getattr(w, "description", "") == "Same"
    ]


def test_regenerated_shows_one_answer_at_a_time_and_wants_the_new_one_seen(store):
    panel = rate(PAIRS, "regenerated", store)
    assert "Was this response better or worse?" in shown(panel) and "1 / 2" in shown(panel)
    assert answers(panel) == ["first 0"]
    press(panel, "Better")
    assert len(store) == 0 and "Look at the new answer first" in shown(panel)
    press(panel, ">")
    assert answers(panel) == ["second 0"] and "2 / 2" in shown(panel)
    press(panel, "<")
    assert answers(panel) == ["first 0"]
    press(panel, "Better")
    for said in ("Worse", "Same"):
        press(panel, ">")
        press(panel, said)
    press(panel, "Skip")  # at once, unseen
    assert [one.verdict for one in store.all()] == [1, 0, "same", "skip"]
    assert {one.shown for one in store.all()} == {(0, 1)}


def test_thumb(store):
    panel = rate([("q", "an answer"), ("q", ("another",)), ("q", ["a third"])], "thumb", store)
    for said in ("Good", "Bad", "Skip"):
        press(panel, said)
    assert [(one.responses, one.verdict) for one in store.all()] == [
        (("an answer",), True),
        (("another",), False),
        (("a third",), "skip"),
    ]


def test_rank_is_stored_as_an_order(store):
    panel = rate([("q", tuple("wxyz"))] * 2, "rank", store)
    at = {text: panels.LETTERS[place] for place, text in enumerate(answers(panel))}
    press(panel, at["y"])
    press(panel, at["w"])
    press(panel, "Save")
    assert len(store) == 0 and "still to do" in shown(panel)
    press(panel, f"{at['y']} is 1st")  # no longer: w moves up
    press(panel, at["z"])
    assert f"{at['w']} is 1st" in [getattr(w, "description", "") for w in visible(panel.widget)]
    press(panel, at["y"])
    press(panel, "Save")  # x is last
    (one,) = store.all()
    assert [one.responses[i] for i in one.verdict] == list("wzyx")
    assert len(store.pairs()) == 6
    press(panel, "A")
    press(panel, "Clear")
    press(panel, "B")
    assert "Answer B 1st" in " ".join(shown(panel).split())


def test_scale_of_several_and_of_one(store):
    panel = rate([("q", ("x", "y"))], "scale", store)
    order = answers(panel)
    assert "How good is answer A" in shown(panel)
    press(panel, "4")
    press(panel, "Clear")
    press(panel, "3")
    press(panel, "Save")
    assert (
        len(store) == 0
        and "B still to do" in shown(panel)
        and "How good is answer B" in shown(panel)
    )
    press(panel, "10")
    press(panel, "5")  # both have a score
    press(panel, "Save")
    (one,) = store.all()
    assert dict(zip(one.responses, one.verdict)) == dict(zip(order, (3, 10)))
    alone = rate([("q", "x")], "scale", store)
    press(alone, "7")  # one answer: one click
    assert store.all()[-1].verdict == (7,) and alone.done


@pytest.mark.parametrize(
    "mode, n, verdict",
    [
        ("pair", 2, 1),
        ("regenerated", 2, 1),
        ("thumb", 1, True),
        ("rank", 5, (4, 3, 2, 1, 0)),
        ("scale", 3, (4, 7, 10)),
    ],
)
def test_a_simulated_rater_presses_the_buttons(store, mode, n, verdict):
    items = [(f"q{i}", tuple(f"answer {j + 1}" for j in range(n))) for i in range(10)]
    panel = panels.rate(items, mode, store)
    assert len(panel.simulate(Prefers(), 3)) == 3 and len(store) == 3 and not panel.done
    assert len(panel.simulate(Prefers())) == 7 and panel.done
    assert panel.simulate(Prefers()) == []
    assert {one.verdict for one in store.all()} == {verdict}
    assert (
        len({one.shown for one in store.all()}) == {1: 1, 2: 2 - (mode == "regenerated")}.get(n)
        or n > 2
    )


def test_the_atlas_raters_can_rate(store):
    items = [
        ("What is the capital of France?", ("Rome.", "Paris.", "I can't help with that.")[:n])
        for n in (2, 3)
    ]
    panel = rate(items[:1], store=store)
    (one,) = panel.simulate(Rater(temperature=0))
    assert one.verdict == 1
    (one,) = rate(items[1:], "rank", store).simulate(Rater(temperature=0))
    assert one.verdict[0] == 1
    same = rate([("What is the capital of France?", ("Paris.", "Paris."))], store=store)
    assert same.simulate(Rater(temperature=0))[0].verdict == "same"


def test_simulating_many_sends_few_messages(store):
    panel, sent = panels.rate(PAIRS * 50, store=store), []
    panel._head.observe(lambda change: sent.append(change), "value")
    panel.simulate(Prefers())
    assert len(store) == 300 and len(sent) == 1 and "300 of 300" in shown(panel)


# --- undo, skip, tags, note ----------------------------------------------------------------------


def tick(panel, *tags):
    for box in tree(panel.widget):
        if isinstance(box, widgets.Checkbox) and box.description in tags:
            box.value = True


def field(panel):
    return next(w for w in tree(panel.widget) if type(w) is widgets.Text)


def test_tags_and_note_go_with_their_rating_and_are_empty_for_the_next(store):
    panel = rate(PAIRS, store=store)
    tick(panel, "wordy", "refuses")
    field(panel).value = "  太長了 "
    press(panel, "Same")
    press(panel, "Same")
    first, second = store.all()
    assert (first.tags, first.note) == (("wordy", "refuses"), "太長了") and (
        second.tags,
        second.note,
    ) == ((), "")
    press(panel, "Undo")
    press(panel, "Undo")  # back at the first, with what was said about it
    assert field(panel).value == "太長了"
    assert [
        w.description for w in tree(panel.widget) if isinstance(w, widgets.Checkbox) and w.value
    ] == ["wordy", "refuses"]
    assert "question 0" in shown(panel) and len(store) == 0
    own = rate(PAIRS, store=store, tags=("rhymes", "無聊"))
    assert [w.description for w in tree(own.widget) if isinstance(w, widgets.Checkbox)] == [
        "rhymes",
        "無聊",
    ]


def test_undo_asks_again_on_the_same_sides(store):
    panel = rate(PAIRS, store=store)
    press(panel, "Undo")
    assert "nothing to undo" in shown(panel)
    order = answers(panel)
    press(panel, "A is better")
    after = answers(panel)
    press(panel, "Undo")
    assert (
        len(store) == 0
        and panel.results == []
        and answers(panel) == order
        and "0 of 6" in shown(panel)
    )
    press(panel, "B is better")
    assert answers(panel) == after
    panel.simulate(Prefers())
    assert panel.done
    press(panel, "Undo")  # out of the end
    assert not panel.done and "question 5" in shown(panel) and len(store) == 5


def test_undo_of_something_rated_elsewhere_says_so(store):
    panel, other = rate(PAIRS, store=store), rate([("q", "x")], "thumb", store)
    press(panel, "Same")
    press(other, "Good")
    press(panel, "Undo")
    assert "another panel" in shown(panel) and len(panel.results) == 1 and len(store) == 2
    press(other, "Undo")
    press(panel, "Undo")
    assert len(store) == 0


def test_the_place_of_the_answers_is_shuffled_by_the_seed(store):
    def sides(seed, rater="me"):
        panel = rate(PAIRS * 10, store=store, seed=seed, rater=rater)
        return [one.shown for one in panel.simulate(Prefers())]

    first = sides(0, "a")
    assert 15 < Counter(first)[(0, 1)] < 45
    assert sides(1, "b") != first
    other = Store(store.path.parent / "other.sqlite")
    assert [
        one.shown for one in rate(PAIRS * 10, store=other, rater="a").simulate(Prefers())
    ] == first


def test_who_wrote_an_answer_never_reaches_the_browser(store):
    panel = rate(PAIRS, store=store)
    press(panel, "Same")
    states = json.dumps([w.get_state() for w in tree(panel.widget)], default=str)
    assert "question 1" in states and "model-one" not in states and "model-two" not in states


# --- going on, and what comes next ---------------------------------------------------------------


def test_it_goes_on_at_the_first_item_not_yet_rated(store):
    rate(PAIRS, store=store).simulate(Prefers(), 2)
    again = rate(PAIRS, store=Store(store.path))
    assert (
        "question 2" in shown(again)
        and "2 of 6 rated" in shown(again)
        and again.results == store.all()
    )
    press(again, "Undo")
    assert "question 1" in shown(again) and len(store) == 1
    assert "question 0" in shown(rate(PAIRS, store=store, rater="someone else"))
    assert "question 0" in shown(rate(PAIRS, "regenerated", store))


def test_an_item_that_is_there_twice_is_asked_twice(store):
    items = [PAIRS[0], PAIRS[1], PAIRS[0]]
    rate(items, store=store).simulate(Prefers(), 1)
    again = rate(items, store=store)
    assert "question 1" in shown(again)
    again.simulate(Prefers())
    assert [one.prompt for one in store.all()] == ["question 0", "question 1", "question 0"]


def test_a_function_can_choose_what_comes_next(store):
    todo = [panels.Item(*pair) for pair in PAIRS[:2]]
    panel = rate(lambda: todo.pop() if todo else None, store=store)
    assert "question 1" in shown(panel) and "0 rated" in shown(panel)
    press(panel, "Same")
    assert "question 0" in shown(panel)
    press(panel, "Undo")
    press(panel, "Same")
    press(panel, "Same")
    assert panel.done and [one.prompt for one in store.all()] == ["question 1", "question 0"]


def test_a_choice_that_fails_is_told_and_costs_no_rating(store):
    todo = [PAIRS[0]]
    panel = rate(lambda: todo.pop(), store=store)
    press(panel, "Same")
    assert len(store) == 1 and "IndexError" in shown(panel) and "safe" in shown(panel)
    assert "question 0" not in shown(panel)


def test_a_store_that_fails_is_told_and_the_item_stays(store):
    class Full:
        def all(self, **_):
            return []

        def add(self, feedback):
            raise LabError("The disk is full. Free some <space>.")

    panel = rate(PAIRS, store=Full())
    press(panel, "Same")
    assert "The disk is full. Free some <space>." in shown(panel) and "question 0" in shown(panel)
    assert panel.results == [] and not panel.done
    with pytest.raises(LabError, match="disk is full"):
        panel.simulate(Prefers())


def test_a_click_meant_for_the_item_before_does_not_count(store):
    panel = panels.rate(PAIRS, store=store, fastest=0.2)
    press(panel, "Same")
    assert len(store) == 0
    panel._since -= 1
    press(panel, "Same")
    press(panel, "Same")
    assert len(store) == 1 and store.all()[0].seconds >= 1
    alone = panels.rate([("q", "x"), ("r", "y")], "scale", store, fastest=0.2)
    press(alone, "7")
    alone._since -= 1
    press(alone, "3")
    assert [one.verdict for one in store.all(mode="scale")] == [(3,)]


def test_the_time_left_follows_the_median(store):
    panel = rate(PAIRS, store=store)
    for seconds in (30, 30, 400, 30):
        assert "left" not in shown(panel) or len(panel.results) >= 3
        panel._since -= seconds
        press(panel, "Same")
    assert "about 1 min left" in shown(panel)


@pytest.mark.parametrize(
    "items, mode, message",
    [
        ([], "pair", "nothing to rate"),
        (PAIRS, "stars", "no mode 'stars'"),
        ([("q", ("a", "b", "c"))], "pair", "Item 1 .*3"),
        ([PAIRS[0], ("q", ("a",))], "pair", "Item 2 "),
        ([("q", ("a", 3))], "pair", "Item 1 .*text"),
        ([("q", tuple("abcdefghij"))], "rank", "at most 9"),
        ([3], "pair", "Item 1 is 3"),
        ([("q",)], "thumb", "Item 1 is"),
        ([("q", ("a", "b"), ("me",))], "pair", "sources"),
    ],
)
def test_what_can_not_be_rated_is_refused_in_one_sentence(store, items, mode, message):
    with pytest.raises(LabError, match=message):
        rate(items, mode, store)


# --- what the front end gets ---------------------------------------------------------------------


@pytest.mark.parametrize("evil", EVIL, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("mode", ["pair", "thumb", "rank"])
def test_model_text_is_text(store, evil, mode):
    panel = rate(
        [(evil, (evil, "b", "c")[: {"thumb": 1, "pair": 2, "rank": 3}[mode]])], mode, store
    )
    made = "".join(raw(panel))
    tags = set(re.findall("<([^ >]+)", made))
    assert tags <= {"div", "/div", "span", "/span", "progress", "/progress", "i", "/i"}, tags
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", made)
    kept = evil.replace("\x1b", "⟨1B⟩").replace("\0", "⟨00⟩").replace("\u202e", "⟨202E⟩")
    assert kept in answers(panel) and kept in shown(panel)
    assert not any(isinstance(w, widgets.HTMLMath) for w in tree(panel.widget))
    panel.simulate(Prefers())
    assert store.all()[0].prompt == evil


def test_empty_answers_lone_surrogates_and_odd_tags(store):
    assert "(empty)" in shown(rate([("q", "")], "thumb", store))
    with pytest.raises(LabError, match="surrogate"):
        rate([("q", "\ud800")], "thumb", store)
    panel = rate(
        [("q", "a")], "thumb", store, tags=("<b>", "\u202ex", "skn", *"abcdefghijklmnopqrstuvwxyz")
    )
    boxes = [w for w in tree(panel.widget) if isinstance(w, widgets.Checkbox)]
    keys = Counter(name for box in boxes for name in box._dom_classes)
    assert (
        boxes[1].description == "⟨202E⟩x" and set(keys) & {"labkit-key-s", "labkit-key-z"} == set()
    )
    assert all(count == 1 for key, count in keys.items() if key != "labkit-key-none")


@pytest.mark.parametrize(
    "text, lang",
    [
        ("玉山是台灣最高的山。", "zh-Hant"),
        ("这是中国最长的河。", "zh-Hans"),
        ("富士山は高い。", "ja"),
        ("한라산", "ko"),
        ("أعلى جبل", "ar"),
        ("הר מירון", "he"),
        ("Jade Mountain", ""),
    ],
)
def test_language_and_direction_are_set(store, text, lang):
    panel = rate([(text, text)], "thumb", store)
    assert f'dir="auto" lang="{lang}"' in "".join(raw(panel))


def test_every_part_has_a_key_and_none_has_two(store):
    for mode, n in (("pair", 2), ("regenerated", 2), ("thumb", 1), ("rank", 9), ("scale", 1)):
        panel = rate([("q", tuple("abcdefghi"[:n]))], mode, store)
        parts = [
            w
            for w in tree(panel.widget)
            if isinstance(w, (widgets.Button, widgets.Checkbox, widgets.Text))
        ]
        keys = [[c for c in w._dom_classes if c.startswith("labkit-key-")] for w in parts]
        assert all(len(names) == 1 for names in keys)
        used = [key for (key,), w in zip(keys, parts) if w in set(visible(panel.widget))]
        assert len(set(used)) == len(used)


def test_without_widgets_it_says_what_to_do(store):
    panel = rate(PAIRS, store=store)
    bundle = panel._repr_mimebundle_(include=None, exclude=None)
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert (
        bundle["text/plain"] == str(panel)
        and "simulate" in str(panel)
        and "0 of 6 rated" in str(panel)
    )
