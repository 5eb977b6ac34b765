"""Rate the model's answers by clicking: five ways to ask, and every click is on disk before the
next item shows.

The state lives here, in Python. The view is core ipywidgets, so that one panel serves JupyterLab,
Notebook 7, Colab and VS Code; what core widgets can't do, hearing keys, is panels.js: a key presses
the button that carries its class, and no more.

Text from a model is untrusted: it is escaped, and characters that could hide or reorder something
are made visible (charts.tables). Which model wrote an answer never reaches the browser.
"""

import html
import random
import re
import string
import time
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import anywidget
import ipywidgets as widgets
import traitlets

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
CSS = Path(__file__).with_suffix(".css").read_text("utf8")


class Keys(anywidget.AnyWidget):
    """Hears the keys of the panel in which it stands (panels.js). label: what a screen reader calls
    the panel; asked, heard: how many clicks the page has told, and the kernel answered.
    """

    _esm = Path(__file__).with_suffix(".js")
    label = traitlets.Unicode("Rating panel").tag(sync=True)
    asked = traitlets.Int(0).tag(sync=True)
    heard = traitlets.Int(0).tag(sync=True)

    @traitlets.observe("asked")
    def _hear(self, change):
        self.heard = change["new"]


@dataclass(frozen=True)
class Item:
    """Something to rate: a prompt, its answers, and (never shown) which model wrote each."""

    prompt: str
    responses: tuple[str, ...]
    sources: tuple[str, ...] = ()


def rate(items, mode="pair", store=None, rater="me", seed=0, tags=TAGS, fastest=0.15) -> "Panel":
    """A panel that asks `rater` about `items`; it shows itself where it stands last in a cell.

    items: Items or tuples (prompt, responses[, sources]), or a function without arguments that
    returns the next one to ask about, and None at the end. mode: "pair"; "regenerated": a first
    answer and a new one (OpenAI's "Was this response better or worse?"); "thumb": one answer;
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
    """Made by rate(). widget: the view; verdicts: its buttons (pair, regenerated, thumb)."""

    def __init__(self, items, mode, store, rater, seed, tags, fastest):
        self.mode, self.store, self.rater = mode, store, rater
        self.seed, self.fastest, self._quiet = seed, fastest, False
        # An item at hand or still to do is a judgement without a verdict, beside its number.
        self._todo, self._judged = deque(), {}  # _judged: id → (judgement, (number, item))
        self._before = 0  # how often the store had the item at hand when it was asked about
        self._choose, self._total = items if callable(items) else None, None
        self._items = [] if self._choose else list(items)
        if not self._choose:
            self._open()
        self._build(tags)
        self._try(self._advance)

    @property
    def results(self) -> list[Feedback]:
        """The judgements of these items so far."""
        return [judged for judged, _ in self._judged.values()]

    @property
    def done(self) -> bool:
        """Whether no item is left."""
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

        rater: has .compare(prompt, a, b) -> "a", "b" or "same", and for thumbs .thumb(prompt,
        response) -> bool (atlas.Rater); ranks and scales count the comparisons that an answer wins.
        """
        before, fastest = len(self._judged), self.fastest
        self.fastest, self._quiet, self._marks = 0, True, {}
        try:
            while self._item and (n is None or len(self._judged) - before < n):
                count = len(self._judged)
                for button in self._presses(rater):
                    button.click()
                if len(self._judged) == count:
                    raise LabError(self._said)
        finally:
            self.fastest, self._quiet = fastest, False
            self._draw()
        return self.results[before:]

    def _presses(self, rater) -> list:
        """The buttons by which a simulated rater judges the item at hand."""
        seen = [self._item.responses[i] for i in self._shown]

        def wins(place, *more):
            """How many of the other answers (and of `more`) this one beats; a draw is half."""
            others = [*seen[:place], *seen[place + 1 :], *more]
            said = [rater.compare(self._item.prompt, seen[place], other) for other in others]
            return said.count("a") + said.count("same") / 2

        places = range(len(seen))
        if self.mode == "thumb":
            return [self.verdicts[rater.thumb(self._item.prompt, seen[0])]]
        if self.mode == "rank":
            order = sorted(places, key=wins, reverse=True)
            return [*(self._marking[place] for place in order), self._save]
        if self.mode == "scale":
            scores = [round(9 * wins(place, "") / len(seen)) for place in places]
            return [self._marking[score] for score in scores] + [self._save] * (len(seen) > 1)
        verdict = self.verdicts[{1: 0, 0: 1, 0.5: "same"}[wins(0)]]
        return [self._on, verdict] if self.mode == "regenerated" else [verdict]

    # --- items -----------------------------------------------------------------------------------

    def _open(self):
        """What this rater has judged already counts as done; the rest, numbered, is to do."""
        self._todo, self._judged, earlier = deque(), {}, defaultdict(deque)
        for one in self.store.all(rater=self.rater, mode=self.mode):
            earlier[one.prompt, one.responses].append(one)
        for number, item in enumerate(self._items):
            item = self._checked(item, f"Item {number + 1}")
            found = earlier[item.prompt, item.responses]
            if found:  # an item that is there twice is asked twice
                one = found.popleft()
                self._judged[one.id] = one, (number, item)
            else:
                self._todo.append((number, item))
        self._total = len(self._todo) + len(self._judged)
        if not self._total:
            raise LabError("There is nothing to rate: the list of items is empty.")

    def _checked(self, item, what) -> Feedback:
        try:
            item = item if isinstance(item, Item) else Item(*item)
        except TypeError:
            raise LabError(f"{what} is {item!r:.60}. Make it (prompt, responses).") from None
        texts = (item.responses,) if isinstance(item.responses, str) else item.responses
        try:
            fits = Feedback(item.prompt, texts, self.mode, "skip", self.rater, sources=item.sources)
        except LabError as error:
            raise LabError(f"{what} can't be rated: {error}") from None
        if len(fits.responses) > len(LETTERS):
            raise LabError(f"{what} has {len(texts)} answers. Show at most {len(LETTERS)}.")
        return fits

    def _advance(self):
        """Go on to the next item: of the list, or the one that the caller's function chooses."""
        self._item, self._number = None, len(self._judged)
        try:
            if self._todo:
                self._number, self._item = self._todo.popleft()
            elif self._choose and (chosen := self._choose()) is not None:
                self._item = self._checked(chosen, "The next item")
            if self._item:
                self._before = self.store.judged(self._item)
        finally:  # where the choice fails, nothing stands there
            shown = list(range(len(self._item.responses) if self._item else 0))
            if self.mode != "regenerated":  # which asks about first and new
                random.Random(f"{self.seed} {self.rater} {self._number}").shuffle(shown)
            self._shown, self._marks, self._page = tuple(shown), {}, 0
            self._reasons()
            self._draw()
            self._since = time.monotonic()

    # --- clicks ----------------------------------------------------------------------------------

    def _try(self, action):
        """Do what a click asks for; where that fails, say so in one sentence, and what stands there
        stays.
        """
        try:
            action()
        except LabError as error:
            self._say(str(error), "alert")
        except Exception as error:  # nothing else would show it: this runs in a widget's callback
            reason = f"{type(error).__name__}: {error}"
            self._say(f"That failed ({reason}). Stored ratings are safe.", "alert")

    def _judge(self, verdict, said):
        """Put a verdict in the store, and only then go on."""
        if self._item is None:
            return
        if self.store.judged(self._item) > self._before:
            if not self._choose:
                self._open()
            self._say("You have rated this in another tab. Here is the next.")
            return self._advance()
        judged = replace(
            self._item,
            verdict=verdict,
            shown=self._shown,
            tags=[tag for tag, box in self._tags.items() if box.value],
            note=self._note.value.strip(),
            seconds=round(time.monotonic() - self._since, 2),
        )
        judged = self.store.add(judged)
        self._judged[judged.id] = judged, (self._number, self._item)
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
            said = " > ".join(LETTERS[place] for place in order)
            return self._judge(tuple(self._shown[place] for place in order), said)
        said = ", ".join(f"{LETTERS[place]} {score}" for place, score in self._marks.items())
        scores = {self._shown[place]: score for place, score in self._marks.items()}
        self._judge(tuple(scores[i] for i in sorted(scores)), said)

    def _clear(self):
        self._marks = {}
        self._draw()

    def _undo(self):
        """Take this rater's newest judgement back and ask again, with its tags and note as they
        were.
        """
        newest = self.store.all(rater=self.rater)[-1:]
        if not self._judged or not newest:
            return self._say("There is nothing to undo.")
        if newest[0].id not in self._judged:
            return self._say("Your newest rating was made in another panel: undo it there.")
        taken = self.store.undo(self.rater)
        if self._item:
            self._todo.appendleft((self._number, self._item))
        self._todo.appendleft(self._judged.pop(taken.id)[1])
        self._advance()
        self._reasons(taken.tags, taken.note)
        self._say("Taken back. Rate it again.")

    # --- the view --------------------------------------------------------------------------------

    def _build(self, tags):
        self._head, self._prompt, self._place, self._question, self._status = (
            widgets.HTML().add_class(f"labkit-{name}")
            for name in ("head", "prompt", "place", "question", "status")
        )
        self._cards, self._grid = [], _row("labkit-cards")
        self.verdicts = {
            value: self._button(text, key, self._answer, value, text)
            for text, key, value in VERDICTS.get(self.mode, ())
        }
        self._marking, pager = [], []
        if self.mode == "rank":
            self._marking = [self._button("", f"{p + 1}", self._mark, p) for p in range(9)]
        if self.mode == "scale":
            self._marking = [self._button(f"{n}", f"{n % 10}", self._mark, n) for n in range(1, 11)]
        if self.mode == "regenerated":
            back = self._button("<", "arrowleft", self._turn, 0)
            self._on = self._button(">", "arrowright", self._turn, 1)
            back.tooltip, self._on.tooltip = "Show the first answer", "Show the new answer"
            pager = [_row("labkit-pager", back, self._place, self._on)]
        self._save = self._button("Save", "s", self._finish)
        clear = self._button("Clear", "backspace", self._clear)
        self._skip = self._button("Skip", "k", self._answer, "skip", "skipped")
        undo = self._button("Undo", "z", self._undo)
        for quiet in (self._skip, undo):
            quiet.add_class("labkit-quiet")
        self._tags = {
            tag: widgets.Checkbox(description=visible(tag), indent=False).add_class(key)
            for tag, key in _tag_keys(tags).items()
        }
        self._note = widgets.Text(
            description="Note", placeholder="why? (if you like)", continuous_update=False
        )
        marks = (_row(f"labkit-{self.mode}", *self._marking), self._save, clear)
        self._body = _row(
            "labkit-body",
            self._prompt,
            *pager,
            self._grid,
            self._question,
            _row("labkit-verdicts", *(self.verdicts.values() or marks)),
            _row("labkit-tags", *self._tags.values()),
            self._note.add_class("labkit-note").add_class("labkit-key-n"),
        )
        self.widget = _row(
            "labkit-panel",
            widgets.HTML(f"<style>{CSS}</style>").add_class("labkit-hidden"),
            self._head,
            self._body,
            _row("labkit-foot", self._skip, undo, self._status),
            Keys().add_class("labkit-hidden"),
        )

    def _button(self, text, key, action, *arguments):
        def click(_):
            if time.monotonic() - self._since >= self.fastest:
                self._try(lambda: action(*arguments))

        button = widgets.Button(description=text).add_class(f"labkit-key-{key}")
        button.on_click(click)
        return button

    def _reasons(self, tags=(), note=""):
        for tag, box in self._tags.items():
            box.value = tag in tags
        self._note.value = note

    def _draw(self):
        if self._quiet:  # a Jupyter server drops messages where more than 1,000 come in a second
            return
        rated = f'max="{self._total}" value="{len(self._judged)}"'
        bar = f'<progress aria-label="rated" {rated}></progress>' if self._total else ""
        hint = '<span class="labkit-hint">click in the panel to use the keys</span>'
        self._head.value = f"{bar}<span>{self._share()}{self._left()}</span>{hint}"
        for part in (self._body, self._skip):
            _switch(part, "labkit-hidden", self.done)
        if self.done:
            return self._say("Nothing is left to rate. Thank you.")
        paged, count, left = self.mode == "regenerated", len(self._shown), self._unmarked()
        names = [f"Answer {letter}" for letter in LETTERS[:count]]
        asked = names[left[0]].replace("A", "a", 1) if left else "each answer"
        if paged or count == 1:
            names, asked = ["Answer"] * count, "this answer"
        ranks = {place: ORDINALS[n] for n, place in enumerate(self._marks)}
        marks = {"rank": ranks, "scale": self._marks}.get(self.mode, {})
        self._prompt.value = _text(self._item.prompt, "Prompt")
        self._place.value = f"{self._page + 1} / 2"
        self._question.value = QUESTIONS[self.mode].format(asked)
        self._cards += [widgets.HTML() for _ in range(len(self._cards), count)]
        self._grid.children = self._cards[:count]
        for place, (index, card) in enumerate(zip(self._shown, self._cards)):
            card.value = _text(self._item.responses[index], names[place], marks.get(place, ""))
            _switch(card, "labkit-hidden", paged and place != self._page)
        for place, button in enumerate(self._marking if self.mode == "rank" else ()):
            letter, rank = LETTERS[place], ranks.get(place)
            button.description = f"{letter} is {rank}" if rank else letter
            _switch(button, "labkit-on", rank is not None)
            _switch(button, "labkit-hidden", place >= count)

    def _share(self) -> str:
        return f"{len(self._judged)} {f'of {self._total} ' if self._total else ''}rated"

    def _left(self) -> str:
        """The time left, by the median time of a rating so far."""
        seconds = [one.seconds for one in self.results if one.verdict != "skip"]
        if self._total is None or self.done or len(seconds) < 3:
            return ""
        minutes = median(seconds) * (self._total - len(self._judged)) / 60
        return f" · about {minutes:.0f} min left" if minutes >= 1 else " · less than a minute left"

    def _say(self, sentence, kind="said"):
        self._said = sentence
        self._status.value = f'<span class="labkit-{kind}">{html.escape(visible(sentence))}</span>'


def _row(name, *children):
    return widgets.Box(children).add_class(name)


def _switch(widget, name, on):
    (widget.add_class if on else widget.remove_class)(name)


def _text(text, name, mark="") -> str:
    """Untrusted text, in a box that it can't leave, set in its own direction and language."""
    lang = next((tag for tag, script in LANGUAGES.items() if re.search(script, text[:5000])), "")
    inside = html.escape(visible(text, newline="\n")) or '<i class="labkit-empty">(empty)</i>'
    box = f'role="group" aria-label="{name}" tabindex="0" dir="auto" lang="{lang}"'
    return (
        f'<div class="labkit-name">{name} <span>{mark}</span></div>'
        f'<div class="labkit-text" {box}>{inside}</div>'
    )


def _tag_keys(tags) -> dict:
    """The class of a key for each tag: its first letter that is still free (s, k, n and z are taken
    by Save, Skip, Note, Undo).
    """
    keys, free = {}, [c for c in string.ascii_lowercase if c not in "sknz"]
    for tag in tags:
        key = next((c for c in [*tag.lower(), *free] if c in free), "none")
        free = [c for c in free if c != key]
        keys[tag] = f"labkit-key-{key}"
    return keys
