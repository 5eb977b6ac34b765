"""You play Space Invaders: by keyboard or by mouse, one step a key, so that nobody has to be quick.

The state lives here, in Python; the view is core ipywidgets with the keys of the rating panels
(feedback/panels.js): a key presses the button that carries its class. A closed tab loses nothing
but the view.
"""

import base64
import html
import random

import ipywidgets as widgets
import numpy as np

from labkit import LabError
from labkit.feedback.panels import CSS, Keys
from labkit.labs.games import imitation
from labkit.labs.games.film import Film, boards
from labkit.labs.games.invaders import ACTIONS, GROUND, LIMIT, SpaceInvaders
from labkit.labs.games.many import Many

KEYS = {"left": "arrowleft", "fire": "space", "right": "arrowright", "new game": "n"}


class Play:
    """A panel to play in; it shows itself where it stands last in a cell. `games`: what was played,
    a list of (planes, action, reward) a game. `press("left")` does what the button does.
    """

    def __init__(self, seed: int | None = None, limit: int = LIMIT):
        self.game, self.games = SpaceInvaders(limit), []
        self._seed = random.randrange(2**31) if seed is None else seed
        self._build()
        self._new()

    def press(self, name: str):
        """One step: "left", "right" or "fire"; or "new game"."""
        if name == "new game":
            return self._new()
        if name not in ACTIONS:
            raise LabError(f"There is no button {name!r}. There are {', '.join(KEYS)}.")
        if self.game.over:
            return self._draw("This game is over. Press N for a new one.")
        seen, action = self.game.seen(), ACTIONS.index(name)
        _, reward, lost, late, info = self.game.step(action)
        self.games[-1].append((seen, action, reward))
        ends = {info["won"]: "You won!", lost and not info["won"]: "You lost.", late: "Time is up."}
        said = "Hit! " * int(reward) + ends.get(True, "")
        self._draw(f"{said} Press N for a new game." if self.game.over else said)

    @property
    def steps(self) -> int:
        """Played so far, in all games."""
        return sum(map(len, self.games))

    def episodes(self):
        """What you played, as `imitation.clone` takes it. LabError where nothing was played."""
        played = [game for game in self.games if game]
        if not played:
            raise LabError("You have not played yet: click in the panel and press an arrow key.")
        longest = max(map(len, played))
        shown = np.zeros((len(played), longest, *Many.shape), np.int8)
        actions, rewards, mask = np.zeros((3, len(played), longest))
        for i, game in enumerate(played):
            for t, step in enumerate(game):
                shown[i, t], actions[i, t], rewards[i, t], mask[i, t] = *step, 1
        return imitation.as_episodes(Many, shown, actions, rewards, mask)

    def __str__(self):
        return (
            f"Space Invaders: {self._where()} {self.steps} steps played so far. To play, run this"
            " cell in JupyterLab, Notebook 7, Colab or VS Code."
        )

    def _repr_mimebundle_(self, **kwargs):
        return {**self.widget._repr_mimebundle_(**kwargs), "text/plain": str(self)}

    # --- the view --------------------------------------------------------------------------------

    def _new(self):
        if not self.games or self.games[-1]:  # a game of no steps is no game
            self.games.append([])
        self.game.reset(seed=self._seed + len(self.games))
        self._draw("A new game.")

    def _build(self):
        self._head, self._board, self._status = (
            widgets.HTML().add_class(f"labkit-{name}") for name in ("head", "board", "status")
        )
        self.buttons = {}
        for name, key in KEYS.items():
            button = widgets.Button(description=name.capitalize()).add_class(f"labkit-key-{key}")
            button.on_click(lambda _, name=name: self.press(name))
            self.buttons[name] = button
        moves = widgets.Box(list(self.buttons.values())).add_class("labkit-verdicts")
        foot = widgets.Box([self._status]).add_class("labkit-foot")
        parts = (self._head, self._board, moves, foot)
        hidden = (widgets.HTML(f"<style>{CSS}</style>"), Keys(label="Space Invaders"))
        self.widget = widgets.Box([*parts, *(one.add_class("labkit-hidden") for one in hidden)])
        self.widget.add_class("labkit-panel")

    def _draw(self, said: str):
        hint = '<span class="labkit-hint">click in the panel to use the keys</span>'
        left, step = len(self.game.aliens), self.game.step_number
        self._head.value = (
            f"<span>game {len(self.games)} · step {step} of {self.game.limit} · {left} aliens"
            f" left</span>{hint}"
        )
        picture = base64.b64encode(Film(boards(self.game.seen()[None]), "").png()).decode()
        self._board.value = (
            f'<img alt="The board" src="data:image/png;base64,{picture}" width="300" height="300"'
            ' style="image-rendering:pixelated;display:block;margin:auto">'
        )
        self._status.value = html.escape(f"{said} {self._where()}".strip())

    def _where(self) -> str:
        """The board in words, for who hears it."""
        game = self.game
        said = [f"Your ship is in column {game.ship + 1} of {GROUND + 1}."]
        if game.aliens:
            row, column = min(game.aliens, key=lambda at: (abs(at[1] - game.ship), -at[0]))
            way = column - game.ship
            side = f"{abs(way)} to the {'right' if way > 0 else 'left'}" if way else "right above"
            said.append(f"The nearest alien is {side}, {GROUND - row} up, heading")
            said[-1] += f" {'right' if game.heading > 0 else 'left'}."
        above = [GROUND - row for row, column in game.bombs if column == game.ship]
        if above:
            said.append(f"A bomb is {min(above)} above you.")
        return " ".join(said)
