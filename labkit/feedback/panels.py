"""Rate the model's answers by clicking: five ways to ask, and every click is on disk before the
next item shows.
 The state lives here, in Python. The view is core ipywidgets, so that one panel serves JupyterLab,
Notebook 7, Colab and VS Code; what core widgets can't do, hearing keys, is panels.js: a key presses
the button that carries its class, and no more.
 Text from a model is untrusted: it is escaped, and characters that could hide or reorder something
are made visible (labkit.tables). Which model wrote an answer never reaches the browser.
"""

import html
import random
import re
import string
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import anywidget
import ipywidgets as widgets

from labkit import LabError
from labkit.charts.tables import visible
from labkit.feedback import Feedback, Store

TAGS = ("wrong", "wordy", "hedging", "apologising", "unsafe", "refuses")
LETTERS, ORDINALS = "ABCDEFGHI", ("1st", "2nd", "3rd", *(f"{n}th" for n in range(4, 10)))
QUESTIONS = {
    "pair": "Which answer is better?",
    "regenerated": "Was this response better or worse?",
    "thumb": "Is this a good answer?",
    "rank": "Put the answers in order, the best first.",
    "scale": "How good is {}, from 1 (useless) to 10 (perfect)?",
}
# Buttons: what each says, its key, and its verdict (an int is a place on the screen).
VERDICTS = {
    "pair": (("A is better", "1", 0), ("Same", "0", "same"), ("B is better", "2", 1)),
    "regenerated": (("Better", "1", 1), ("Worse", "2", 0), ("Same", "0", "same")),
    "thumb": (("Good", "1", True), ("Bad", "2", False)),
}
# Which glyphs, and which voice of a screen reader: the first script that is found decides.
LANGUAGES = {
    "ja": "[\u3040-\u30ff]",
    "ko": "[\uac00-\ud7af]",
    "zh-Hans": "[们这说时为对发过吗长儿]",
    "zh-Hant": "[\u3400-\u9fff]",
    "ar": "[\u0600-\u06ff]",
    "he": "[\u0590-\u05ff]",
}


@dataclass(frozen=True)
class Item:
    """Something to rate: a prompt, its answers, and (never shown) which model wrote each."""

    prompt: str
    responses: tuple[str, ...]
    sources: tuple[str, ...] = ()


def rate(items, mode="pair", store=None, rater="me", seed=0, tags=TAGS, fastest=0.15) -> "Panel":
    """A panel that asks `rater` about `items`; it shows itself where it stands last in a cell.

    Args: items: Items or tuples (prompt, responses[, sources]), or a function without arguments
    that returns the next one to ask about, and None at the end. mode: "pair"; "regenerated": a
    first answer and a new one (OpenAI's "Was this response better or worse?"); "thumb": one answer;
    "rank": 2 to 9 answers (InstructGPT, arXiv 2203.02155); "scale": 1 to 9 answers, 1-10 each.
    store: a feedback.Store [the one in your runs folder]. What it holds of this rater is not asked
    again. seed: decides which answer stands where. tags: reasons to tick. fastest: seconds; a click
    that comes sooner after an item appeared was meant for the one before: it is ignored. Raises
    LabError for an unknown mode, an item that doesn't fit it, and no items at all.
    """
    if mode not in QUESTIONS:
        raise LabError(f"There is no mode {mode!r}. Choose one of {', '.join(QUESTIONS)}.")
    return Panel(items, mode, Store() if store is None else store, rater, seed, tags, fastest)


class Panel:
    """Made by rate(). widget: the view; verdicts: its buttons (pair, regenerated, thumb); results:
    the judgements of these items so far; done: no item is left.
    """

    def __init__(self, items, mode, store, rater, seed, tags, fastest):
        self.mode, self.store, self.rater, self.seed, self.fastest = (
            mode,
            store,
            rater,
            seed,
            fastest,
        )
        self.results, self._places = (
            [],
            {},
        )  # judgements, and by their ids the (number, item) that each is of
        self._todo, self._choose = deque(), items if callable(items) else None
        self._quiet, self._total = False, None
        if not self._choose:
            self._open(items)
        self._build(tags)
        self._try(self._advance)

    @property
    def done(self) -> bool:
        return self._item is None

    def __str__(self):
        return (
            f"Rating panel ({self.mode}, rater {self.rater!r}): {self._share()}. To click, run this"
            " cell in JupyterLab, Notebook 7, Colab or VS Code; where no widgets are shown,"
            " panel.simulate(rater) clicks for you."
        )

    def _repr_mimebundle_(self, **kwargs):
        return {**self.widget._repr_mimebundle_(**kwargs), "text/plain": str(self)}

    def simulate(self, rater, n=None) -> list[Feedback]:
        """Let a simulated rater press the buttons, n times or to the end; returns the new
        judgements.

        rater: has .compare(prompt, a, b) -> "a", "b" or "same" (atlas.Rater). A thumb is up when it
        likes the answer better than an empty one; ranks and scales count the comparisons that an
        answer wins.
        """
        before, fastest = len(self.results), self.fastest
        self.fastest, self._quiet, self._marks = 0, True, {}
        try:
            while self._item and (n is None or len(self.results) - before < n):
                count = len(self.results)
                for button in self._presses(rater):
                    button.click()
                if len(self.results) == count:  # the panel has said why
                    raise LabError(html.unescape(re.sub("<.*?>", "", self._status.value)))
        finally:
            self.fastest, self._quiet = fastest, False
            self._draw()
        return self.results[before:]

    def _presses(self, rater) -> list:
        """The buttons by which a simulated rater judges the item at hand."""

        def wins(a, others):
            return sum(
                {"a": 1, "same": 0.5, "b": 0}[rater.compare(self._item.prompt, a, b)]
                for b in others
            )

        seen = [self._item.responses[i] for i in self._shown]
        if self.mode in ("pair", "regenerated"):
            return [
                *self._pager[1:],
                self.verdicts[{1: 0, 0: 1, 0.5: "same"}[wins(seen[0], seen[1:])]],
            ]
        if self.mode == "thumb":
            return [self.verdicts[wins(seen[0], [""]) == 1]]
        rivals = [[*seen[:p], *seen[p + 1 :]] for p in range(len(seen))]
        if self.mode == "rank":
            won = [-wins(a, others) for a, others in zip(seen, rivals)]
            return [
                *(self._marking[p] for p in sorted(range(len(seen)), key=won.__getitem__)),
                self._save,
            ]
        score = [round(9 * wins(a, [*others, ""]) / len(seen)) for a, others in zip(seen, rivals)]
        return [*(self._marking[s] for s in score), *[self._save][: len(seen) - 1]]

    # --- items -----------------------------------------------------------------------------------

    def _open(self, items):
        """What this rater has judged already goes to `results`; the rest, numbered, is still to
        do.
        """
        earlier = defaultdict(deque)
        for one in self.store.all(rater=self.rater, mode=self.mode):
            earlier[one.prompt, one.responses].append(one)
        for number, item in enumerate(items):
            item = self._checked(item, f"Item {number + 1}")
            if found := earlier[
                item.prompt, item.responses
            ]:  # an item that is there twice is asked twice
                self._keep(found.popleft(), (number, item))
            else:
                self._todo.append((number, item))
        self._total = len(self._todo) + len(self.results)
        if not self._total:
            raise LabError("There is nothing to rate: the list of items is empty.")

    def _keep(self, judged, place):
        self.results.append(judged)
        self._places[judged.id] = place

    def _checked(self, item, what) -> Item:
        try:
            item = item if isinstance(item, Item) else Item(*item)
        except TypeError:
            raise LabError(
                f"{what} is {item!r:.60}. Make it an Item or (prompt, responses)."
            ) from None
        responses = (item.responses,) if isinstance(item.responses, str) else item.responses
        try:
            fits = Feedback(item.prompt, responses, self.mode, "skip", sources=item.sources)
        except LabError as error:
            raise LabError(f"{what} can't be rated: {error}") from None
        if len(fits.responses) > len(LETTERS):
            raise LabError(
                f"{what} has {len(fits.responses)} answers. Show at most {len(LETTERS)}."
            )
        return Item(fits.prompt, fits.responses, fits.sources)

    def _advance(self):
        """Go on to the next item: of the list, or the one that the caller's function chooses."""
        self._item, self._number = None, len(self.results)
        try:
            if self._todo:
                self._number, self._item = self._todo.popleft()
            elif self._choose and (chosen := self._choose()) is not None:
                self._item = self._checked(chosen, "The next item")
        finally:  # where the choice fails, nothing stands there
            shown = list(range(len(self._item.responses) if self._item else 0))
            if self.mode != "regenerated":  # which asks about first and new
                random.Random(f"{self.seed} {self.rater} {self._number}").shuffle(shown)
            self._shown, self._marks, self._page = tuple(shown), {}, 0
            self._reasons()
            self._draw()
            self._since = time.monotonic()

    # --- clicks ----------------------------------------------------------------------------------

    def _click(self, action):
        if time.monotonic() - self._since >= self.fastest:
            self._try(action)

    def _try(self, action):
        """Do what a click asks for; where that fails, say so in one sentence, and what stands there
        stays.
        """
        try:
            action()
        except LabError as error:
            self._say(str(error), alert=True)
        except Exception as error:  # nothing else would show it: this runs in a widget's callback
            self._say(
                f"That failed ({type(error).__name__}: {error}). Stored ratings are safe.",
                alert=True,
            )

    def _judge(self, verdict, said):
        """Put a verdict in the store, and only then go on."""
        if self._item is None:
            return
        seconds = round(time.monotonic() - self._since, 2)
        tags = tuple(tag for tag, box in self._tags.items() if box.value)
        item, note = self._item, self._note.value.strip()
        judged = Feedback(
            item.prompt,
            item.responses,
            self.mode,
            verdict,
            self.rater,
            self._shown,
            tags,
            note,
            seconds,
            item.sources,
        )
        self._keep(self.store.add(judged), (self._number, item))
        self._say(f"Stored: {said}.")
        self._advance()

    def _answer(self, value, said):
        if self.mode == "regenerated" and value != "skip" and 1 not in self._marks:
            return self._say("Look at the new answer first: press >.")
        self._judge(self._shown[value] if type(value) is int else value, said)

    def _turn(self, page):
        self._page, self._marks[page] = page, True
        self._draw()

    def _unmarked(self) -> list[int]:
        return [place for place in range(len(self._shown)) if place not in self._marks]

    def _mark(self, value):
        """Scale: the first answer without a score gets this one. Rank: this answer comes next, or
        loses its place.
        """
        alone = len(self._shown) == 1
        if self.mode == "scale" and (left := [0] if alone else self._unmarked()):
            self._marks[left[0]] = value
        elif self.mode == "rank" and self._marks.pop(value, None) is None:
            self._marks[value] = True
        self._draw()
        if alone:
            self._finish()

    def _finish(self):
        """Scale and rank: store the marks once they are complete. (A rank's last place follows from
        the others.)
        """
        left = self._unmarked()
        if len(left) > (self.mode == "rank"):
            return self._say(f"Not yet: {', '.join(LETTERS[p] for p in left)} still to do.")
        if self.mode == "rank":
            order = [*self._marks, *left]
            return self._judge(
                tuple(self._shown[p] for p in order), " > ".join(LETTERS[p] for p in order)
            )
        said = ", ".join(f"{LETTERS[p]} {score}" for p, score in self._marks.items())
        self._judge(tuple(self._marks[self._shown.index(i)] for i in range(len(self._shown))), said)

    def _clear(self):
        self._marks = {}
        self._draw()

    def _undo(self):
        """Take this rater's newest judgement back and ask again, with its tags and note as they
        were.
        """
        if not self.results:
            return self._say("There is nothing to undo.")
        if self.store.all(rater=self.rater)[-1].id not in self._places:
            return self._say("Your newest rating was made in another panel: undo it there.")
        taken = self.store.undo(self.rater)
        if self._item:
            self._todo.appendleft((self._number, self._item))
        self._todo.appendleft(self._places.pop(taken.id))
        self.results = [one for one in self.results if one.id != taken.id]
        self._advance()
        self._reasons(taken.tags, taken.note)
        self._say("Taken back. Rate it again.")

    # --- the view --------------------------------------------------------------------------------

    def _build(self, tags):
        self._head, self._prompt, self._place, self._question, self._status = (
            _styled(widgets.HTML(), f"labkit-{name}")
            for name in ("head", "prompt", "place", "question", "status")
        )
        self.verdicts = {
            value: self._button(text, key, lambda value=value, text=text: self._answer(value, text))
            for text, key, value in VERDICTS.get(self.mode, ())
        }
        self._marking = {
            "rank": [
                self._button("", f"{place + 1}", lambda place=place: self._mark(place))
                for place in range(9)
            ],
            "scale": [
                self._button(f"{n}", f"{n % 10}", lambda n=n: self._mark(n)) for n in range(1, 11)
            ],
        }.get(self.mode, [])
        self._save = self._button("Save", "s", self._finish)
        self._skip = self._button(
            "Skip", "k", lambda: self._answer("skip", "skipped"), "labkit-quiet"
        )
        undo = self._button("Undo", "z", self._undo, "labkit-quiet")
        self._pager = (
            []
            if self.mode != "regenerated"
            else [
                self._button(
                    "<", "arrowleft", lambda: self._turn(0), tooltip="Show the first answer"
                ),
                self._button(
                    ">", "arrowright", lambda: self._turn(1), tooltip="Show the new answer"
                ),
            ]
        )
        self._tags = {
            tag: _styled(
                widgets.Checkbox(description=visible(tag), indent=False), f"labkit-key-{key}"
            )
            for tag, key in _tag_keys(tags).items()
        }
        self._note = _styled(
            widgets.Text(
                description="Note", placeholder="why? (if you like)", continuous_update=False
            ),
            "labkit-note",
            "labkit-key-n",
        )
        self._cards, self._grid = [], _row("labkit-cards")
        clear = self._button("Clear", "backspace", self._clear)
        marks = _row(f"labkit-{self.mode}", *self._marking)
        self._body = _row(
            "labkit-body",
            self._prompt,
            *(
                [_row("labkit-pager", self._pager[0], self._place, self._pager[1])]
                if self._pager
                else ()
            ),
            self._grid,
            self._question,
            _row("labkit-verdicts", *(self.verdicts.values() or (marks, self._save, clear))),
            _row("labkit-tags", *self._tags.values()),
            self._note,
        )
        style = _styled(widgets.HTML(f"<style>{CSS}</style>"), "labkit-hidden")
        foot = _row("labkit-foot", self._skip, undo, self._status)
        self.widget = _row(
            "labkit-panel", style, self._head, self._body, foot, _styled(Keys(), "labkit-hidden")
        )

    def _button(self, text, key, action, name="labkit-choice", tooltip=None):
        button = _styled(
            widgets.Button(description=text, tooltip=tooltip), name, f"labkit-key-{key}"
        )
        button.on_click(lambda _: self._click(action))
        return button

    def _reasons(self, tags=(), note=""):
        for tag, box in self._tags.items():
            box.value = tag in tags
        self._note.value = note

    def _draw(self):
        if self._quiet:  # a Jupyter server drops messages where more than 1,000 come in a second
            return
        bar = (
            f'<progress aria-label="rated" max="{self._total}"'
            f' value="{len(self.results)}"></progress>'
        )
        hint = '<span class="labkit-hint">click in the panel to use the keys</span>'
        self._head.value = (
            f"{bar if self._total else ''}<span>{self._share()}{self._left()}</span>{hint}"
        )
        for part in (self._body, self._skip):
            _switch(part, "labkit-hidden", self.done)
        if self.done:
            return self._say("Nothing is left to rate. Thank you.")
        self._prompt.value = _text(self._item.prompt, "Prompt")
        self._place.value = f"{self._page + 1} / 2"
        self._draw_answers(len(self._shown))

    def _draw_answers(self, count):
        left, names = self._unmarked(), [f"answer {letter}" for letter in LETTERS[:count]]
        if count == 1 or self._pager:
            names = ["this answer"] * count
        self._question.value = QUESTIONS[self.mode].format(
            names[left[0]] if left else "each answer"
        )
        ranked = (
            {place: ORDINALS[n] for n, place in enumerate(self._marks)}
            if self.mode == "rank"
            else {}
        )
        marks = self._marks if self.mode == "scale" else ranked
        self._cards += [widgets.HTML() for _ in range(len(self._cards), count)]
        for place, index in enumerate(self._shown):
            name = names[place].removeprefix("this ").replace("answer", "Answer")
            self._cards[place].value = _text(
                self._item.responses[index], name, marks.get(place, "")
            )
            _switch(self._cards[place], "labkit-hidden", bool(self._pager) and place != self._page)
        if len(self._grid.children) != count:
            self._grid.children = self._cards[:count]
        for place, button in enumerate(self._marking if self.mode == "rank" else ()):
            button.description = (
                f"{LETTERS[place]} is {ranked[place]}" if place in ranked else LETTERS[place]
            )
            _switch(button, "labkit-on", place in ranked)
            _switch(button, "labkit-hidden", place >= count)

    def _share(self) -> str:
        return f"{len(self.results)} {f'of {self._total} ' if self._total else ''}rated"

    def _left(self) -> str:
        """The time left, by the median time of a rating so far."""
        seconds = [one.seconds for one in self.results if one.verdict != "skip"]
        if self._total is None or self.done or len(seconds) < 3:
            return ""
        minutes = median(seconds) * (self._total - len(self.results)) / 60
        return f" · about {minutes:.0f} min left" if minutes >= 1 else " · less than a minute left"

    def _say(self, sentence, alert=False):
        self._status.value = (
            "<span"
            f' class="labkit-{"alert" if alert else "said"}">{html.escape(visible(sentence))}</span>'
        )


class Keys(anywidget.AnyWidget):
    """Hears the keys of the panel in which it stands (panels.js)."""

    _esm = Path(__file__).with_suffix(".js")


CSS = Path(__file__).with_suffix(".css").read_text("utf8")


def _row(name, *children):
    return _styled(widgets.Box(children), name)


def _styled(widget, *names):
    for name in names:
        widget.add_class(name)
    return widget


def _switch(widget, name, on):
    (widget.add_class if on else widget.remove_class)(name)


def _text(text, name, mark="") -> str:
    """Untrusted text, in a box that it can't leave, set in its own direction and language."""
    lang = next((tag for tag, script in LANGUAGES.items() if re.search(script, text[:5000])), "")
    inside = html.escape(visible(text, newline="\n")) or '<i class="labkit-empty">(empty)</i>'
    box = f'role="group" aria-label="{name}" tabindex="0" dir="auto" lang="{lang}"'
    return (
        f'<div class="labkit-name">{name} <span>{mark}</span></div><div class="labkit-text"'
        f" {box}>{inside}</div>"
    )


def _tag_keys(tags) -> dict:
    """A key for each tag: its first letter that is still free (s, k, n and z are taken by Save,
    Skip, Note, Undo).
    """
    keys = {}
    for tag in tags:
        free = set(string.ascii_lowercase) - {*"sknz", *keys.values()}
        keys[tag] = next((c for c in tag.lower() + string.ascii_lowercase if c in free), "none")
    return keys
