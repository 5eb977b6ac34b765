"""The rating panel, pressed from Python: what it stores, what it shows, and that model text stays
text.
"""

import html
import json
import re
from collections import Counter
from pathlib import Path

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


def tree(widget, hidden=True):
    """All widgets of a panel, or only those that a person would see."""
    if hidden or "labkit-hidden" not in widget._dom_classes:
        yield widget
        for child in getattr(widget, "children", ()):
            yield from tree(child, hidden)


def on_screen(panel, kind):
    return [widget for widget in tree(panel.widget, hidden=False) if isinstance(widget, kind)]


def buttons(panel) -> list[str]:
    return [button.description for button in on_screen(panel, widgets.Button)]


def press(panel, *names):
    for name in names:
        (found,) = (b for b in on_screen(panel, widgets.Button) if b.description == name)
        found.click()


def made(panel) -> str:
    """The HTML on the screen."""
    return "\n".join(widget.value for widget in on_screen(panel, widgets.HTML))


def shown(panel) -> str:
    """All text on the screen."""
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", made(panel))).split())


def answers(panel) -> list[str]:
    """The answers on the screen, from left to right."""
    values = [widget.value for widget in on_screen(panel, widgets.HTML)]
    texts = [re.search('class="labkit-text".*?>(.*)</div>', value, re.S) for value in values]
    return [html.unescape(text[1]) for text in texts if text][1:]


def boxes(panel) -> list:
    return on_screen(panel, widgets.Checkbox)


def note(panel):
    return next(widget for widget in tree(panel.widget) if type(widget) is widgets.Text)


class Prefers:
    """A rater who likes one kind of answer best: by a number in the text."""

    def compare(self, prompt, a, b):
        first, second = (int(re.sub(r"\D", "", text) or 0) for text in (a, b))
        return "a" if first > second else "b" if second > first else "same"

    def thumb(self, prompt, response):
        return self.compare(prompt, response, "") == "a"


# --- the five modes ------------------------------------------------------------------------------


def test_a_pair_is_stored_in_terms_of_the_responses_not_of_the_screen(store):
    panel, expected = rate(PAIRS, store=store), []
    for said in ("A is better", "B is better", "Same", "A is better", "Skip"):
        place = {"A is better": 0, "B is better": 1}.get(said)
        expected.append(said.lower() if place is None else answers(panel)[place])
        press(panel, said)
    for one, item, said in zip(store.all(), PAIRS, expected):
        assert (one.prompt, one.responses, one.sources) == item
        assert said in (one.verdict, dict(enumerate(one.responses)).get(one.verdict))
        assert (one.mode, one.rater) == ("pair", "me") and one.id and one.time
    assert panel.results == store.all() and not panel.done and "5 of 6 rated" in shown(panel)
    press(panel, "A is better")
    assert panel.done and "Nothing is left" in shown(panel) and buttons(panel) == ["Undo"]


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
    press(panel, "Better", ">", "Worse", ">", "Same", "Skip")  # the last at once, unseen
    assert [one.verdict for one in store.all()] == [1, 0, "same", "skip"]
    assert {one.shown for one in store.all()} == {(0, 1)}


def test_thumb(store):
    panel = rate([("q", "an answer"), ("q", ("another",)), ("q", ["a third"])], "thumb", store)
    press(panel, "Good", "Bad", "Skip")
    judged = [(*one.responses, one.verdict) for one in store.all()]
    assert judged == [("an answer", True), ("another", False), ("a third", "skip")]


def test_rank_is_stored_as_an_order(store):
    panel = rate([("q", tuple("wxyz"))] * 2, "rank", store)
    at = {text: panels.LETTERS[place] for place, text in enumerate(answers(panel))}
    press(panel, at["y"], at["w"], "Save")
    assert len(store) == 0 and "still to do" in shown(panel)
    press(panel, f"{at['y']} is 1st")  # no longer: w moves up
    assert f"{at['w']} is 1st" in buttons(panel)
    press(panel, at["z"], at["y"], "Save")  # x is last
    (one,) = store.all()
    assert [one.responses[i] for i in one.verdict] == list("wzyx") and len(store.pairs()) == 6
    press(panel, "A", "Clear", "B")
    assert "Answer B 1st" in shown(panel)


def test_scale_of_several_and_of_one(store):
    panel = rate([("q", ("x", "y"))], "scale", store)
    order = answers(panel)
    assert "How good is answer A" in shown(panel)
    press(panel, "4", "Clear", "3", "Save")
    assert len(store) == 0 and "B still to do" in shown(panel)
    assert "How good is answer B" in shown(panel)
    press(panel, "10", "5", "Save")  # at 5, both have a score
    (one,) = store.all()
    assert dict(zip(one.responses, one.verdict)) == dict(zip(order, (3, 10)))
    alone = rate([("q", "x")], "scale", store)
    assert "How good is this answer" in shown(alone)
    press(alone, "7")  # one answer: one click
    assert store.all()[-1].verdict == (7,) and alone.done


SIMULATED = {
    "pair": (2, 1),
    "regenerated": (2, 1),
    "thumb": (1, True),
    "rank": (5, (4, 3, 2, 1, 0)),
    "scale": (3, (4, 7, 10)),
}


@pytest.mark.parametrize("mode", SIMULATED)
def test_a_simulated_rater_presses_the_buttons(store, mode):
    n, verdict = SIMULATED[mode]
    items = [(f"q{i}", tuple(f"answer {j + 1}" for j in range(n))) for i in range(10)]
    panel = panels.rate(items, mode, store)
    assert len(panel.simulate(Prefers(), 3)) == 3 and len(store) == 3 and not panel.done
    assert len(panel.simulate(Prefers())) == 7 and panel.done
    assert panel.simulate(Prefers()) == []
    assert {one.verdict for one in store.all()} == {verdict}
    orders = {one.shown for one in store.all()}
    assert (len(orders) == 1) == (mode in ("thumb", "regenerated"))


def test_the_atlas_raters_can_rate(store):
    question = "What is the capital of France?"
    items = [
        (question, ("Rome.", "Paris.", "I can't help with that.")),
        (question, ("Paris.", "Paris.")),
    ]
    (ranked,) = rate(items[:1], "rank", store).simulate(Rater(temperature=0))
    (same,) = rate(items[1:], store=store).simulate(Rater(temperature=0))
    assert ranked.verdict[0] == 1 and same.verdict == "same"
    good = [(question, ("Paris.",)), (question, ("Rome.",))]
    thumbs = rate(good, "thumb", store).simulate(Rater(temperature=0))
    assert {one.responses[0]: one.verdict for one in thumbs} == {"Paris.": True, "Rome.": False}


def test_simulating_many_sends_few_messages(store):
    panel, sent = panels.rate(PAIRS * 50, store=store), []
    panel._head.observe(lambda change: sent.append(change), "value")
    panel.simulate(Prefers())
    assert len(store) == 300 and len(sent) == 1 and "300 of 300" in shown(panel)


# --- undo, tags, note, sides ---------------------------------------------------------------------


def test_tags_and_note_go_with_their_rating_and_come_back_with_undo(store):
    panel = rate(PAIRS, store=store)
    for box in boxes(panel):
        box.value = box.description in ("wordy", "refuses")
    note(panel).value = "  太長了 "
    press(panel, "Same", "Same")
    said = [(one.tags, one.note) for one in store.all()]
    assert said == [(("wordy", "refuses"), "太長了"), ((), "")]
    press(panel, "Undo", "Undo")
    assert note(panel).value == "太長了" and "question 0" in shown(panel) and len(store) == 0
    assert [box.description for box in boxes(panel) if box.value] == ["wordy", "refuses"]
    own = rate(PAIRS, store=store, tags=("rhymes", "無聊"))
    assert [box.description for box in boxes(own)] == ["rhymes", "無聊"]


def test_undo_asks_again_on_the_same_sides(store):
    panel = rate(PAIRS, store=store)
    press(panel, "Undo")
    assert "nothing to undo" in shown(panel)
    order = answers(panel)
    press(panel, "A is better")
    after = answers(panel)
    press(panel, "Undo")
    assert len(store) == 0 and panel.results == []
    assert answers(panel) == order and "0 of 6" in shown(panel)
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
    store.undo()  # not by the panel
    press(panel, "Undo")
    assert "nothing to undo" in shown(panel) and len(store) == 0


def test_the_place_of_the_answers_is_shuffled_by_the_seed(store, tmp_path):
    def sides(seed, rater, store=store):
        panel = rate(PAIRS * 10, store=store, seed=seed, rater=rater)
        return [one.shown for one in panel.simulate(Prefers())]

    first = sides(0, "a")
    assert 15 < Counter(first)[(0, 1)] < 45
    assert sides(1, "b") != first == sides(0, "a", Store(tmp_path / "other.sqlite"))


# --- going on, and what comes next ---------------------------------------------------------------


def test_it_goes_on_at_the_first_item_not_yet_rated(store):
    rate(PAIRS, store=store).simulate(Prefers(), 2)
    again = rate(PAIRS, store=Store(store.path))
    assert "question 2" in shown(again) and "2 of 6 rated" in shown(again)
    assert again.results == store.all()
    press(again, "Undo")
    assert "question 1" in shown(again) and len(store) == 1
    assert "question 0" in shown(rate(PAIRS, store=store, rater="someone else"))
    assert "question 0" in shown(rate(PAIRS, "regenerated", store))


@pytest.mark.parametrize("chosen", [False, True])
def test_two_tabs_ask_one_rater_once(store, chosen):
    """The later click of two on one item is not stored, and the panel goes on where both are."""

    def items():
        left = [one for one in PAIRS if all(r.prompt != one[0] for r in store.all("me"))]
        return left[0] if left else None

    here, there = (rate(items if chosen else PAIRS, store=store) for _ in range(2))
    press(here, "Same", "Same")
    press(there, "Same")
    assert "rated this in another tab" in there._said and len(store) == 2
    assert there._item.prompt == "question 2" == here._item.prompt
    press(there, "Same", "Undo", "Same")
    press(here, "Same")
    assert len(store) == 3 and here._item.prompt == "question 3"
    prompts = [one.prompt for one in store.all()]
    assert len(set(prompts)) == len(prompts)


def test_the_kernel_answers_a_click(store):
    (keys,) = (one for one in tree(rate(PAIRS, store=store).widget) if isinstance(one, panels.Keys))
    keys.asked = 3
    assert keys.heard == 3


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
    press(panel, "Undo", "Same", "Same")
    assert panel.done and [one.prompt for one in store.all()] == ["question 1", "question 0"]


def test_a_choice_that_fails_is_told_and_costs_no_rating(store):
    todo = [PAIRS[0]]
    panel = rate(lambda: todo.pop(), store=store)
    press(panel, "Same")
    assert len(store) == 1 and "IndexError" in shown(panel) and "safe" in shown(panel)
    assert "question 0" not in shown(panel)


def test_a_store_that_fails_is_told_and_the_item_stays(store, monkeypatch):
    def full(judged):
        raise LabError("The disk is full. Free some <space>.")

    monkeypatch.setattr(store, "add", full)
    panel = rate(PAIRS, store=store)
    press(panel, "Same")
    assert "The disk is full. Free some <space>." in html.unescape(panel._status.value)
    assert "question 0" in shown(panel) and panel.results == [] and not panel.done
    with pytest.raises(LabError, match="disk is full.*<space>"):
        panel.simulate(Prefers())


def test_a_click_meant_for_the_item_before_does_not_count(store):
    panel = panels.rate([("q", "x"), ("r", "y")], "scale", store, fastest=3600)
    press(panel, "7")
    assert len(store) == 0
    panel._since -= 3600
    press(panel, "3", "5")
    assert [(one.verdict, one.seconds >= 3600) for one in store.all()] == [((3,), True)]


def test_the_time_left_follows_the_median(store):
    panel = rate(PAIRS, store=store)
    for seconds in (30, 30, 400, 30):
        assert ("left" in shown(panel)) == (len(panel.results) == 3)
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
        ([("q", "\ud800")], "thumb", "surrogate"),
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
@pytest.mark.parametrize("n, mode", enumerate(("thumb", "pair", "rank"), 1))
def test_model_text_is_text(store, evil, n, mode):
    panel = rate([(evil, (evil, "b", "c")[:n])], mode, store)
    tags = set(re.findall("</?([^ >]+)", made(panel)))
    assert tags <= {"div", "span", "progress", "i"}, tags
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", made(panel))
    kept = evil.replace("\x1b", "⟨1B⟩").replace("\0", "⟨00⟩").replace("\u202e", "⟨202E⟩")
    assert kept in answers(panel) and kept in html.unescape(panel._prompt.value)
    assert not any(isinstance(widget, widgets.HTMLMath) for widget in tree(panel.widget))
    panel.simulate(Prefers())
    assert store.all()[0].prompt == evil


def test_who_wrote_an_answer_never_reaches_the_browser(store):
    panel = rate(PAIRS, store=store)
    press(panel, "Same")
    states = json.dumps([widget.get_state() for widget in tree(panel.widget)], default=str)
    assert "question 1" in states and "model-one" not in states and "model-two" not in states


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
    assert f'dir="auto" lang="{lang}"' in made(rate([(text, text)], "thumb", store))


def test_an_empty_answer_is_said_to_be_empty(store):
    assert "(empty)" in shown(rate([("q", "")], "thumb", store))


@pytest.mark.parametrize("mode, n", zip(panels.QUESTIONS, (2, 2, 1, 9, 1)))
def test_every_part_has_a_key_and_none_has_two(store, mode, n):
    odd = ("<b>", "\u202ex", "skn", *"abcdefghijklmnopqrstuvwxyz")
    for tags in (panels.TAGS, odd):
        panel = rate([("q", tuple("abcdefghi"[:n]))], mode, store, tags=tags)
        parts = on_screen(panel, (widgets.Button, widgets.Checkbox, widgets.Text))
        keys = [[c for c in part._dom_classes if c.startswith("labkit-key-")] for part in parts]
        assert {len(names) for names in keys} == {1}
        used = Counter(key for (key,) in keys)
        left_over = used.pop("labkit-key-none", 0)  # more tags than letters
        assert set(used.values()) == {1} and (left_over > 0) == (tags is odd)
    assert boxes(panel)[1].description == "⟨202E⟩x"


def test_without_widgets_it_says_what_to_do(store):
    panel = rate(PAIRS, store=store)
    bundle = panel._repr_mimebundle_(include=None, exclude=None)
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == str(panel) and "simulate" in str(panel)
    assert "0 of 6 rated" in str(panel)


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", panels.QUESTIONS)
def test_notebook_05_shows_a_local_picture_of_every_panel(mode):
    """panel_pictures.py makes them."""
    folder = Path(__file__).parent.parent / "notebooks"
    name = f"pictures/panel-{mode}.png"
    picture = (folder / name).read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 120_000
    cells = json.loads((folder / "05_collecting_feedback.ipynb").read_text("utf8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    (alt,) = re.findall(rf"!\[([^\]]+)\]\({re.escape(name)}\)", text)
    assert f'"{mode}"' in alt and len(alt) > 30
    assert not re.search(r"!\[[^\]]*\]\(http(?!s://(colab|mybinder))", text)
