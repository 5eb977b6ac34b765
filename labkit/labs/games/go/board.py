"""A board on which you play a policy, by mouse or by keyboard.

`Play` is the game as a machine of states, in Python: what you may do, what it then says. `Board`
shows it; board.js draws what Python says and sends back what was pressed, no more.
"""

from pathlib import Path

import anywidget
import traitlets

from labkit import LabError
from labkit.labs.games.go import rules
from labkit.labs.games.go.picture import boards, said, stones

SIDES = ("Black", "White")


class Play:
    """Your game against a policy. player: who answers (see rules.py); thinks: a function of a state
    → the policy's probability of every move; colour: 0, you are Black and begin, or 1.
    """

    def __init__(self, player, thinks, size: int = 5, colour: int = 0):
        self.player, self.thinks, self.size, self.colour = player, thinks, size, colour
        self.new()

    def new(self):
        """Begin a new game."""
        self.state = rules.starts(self.size, 1)[0]
        self.said, self.alert = f"You are {SIDES[self.colour]}.", False
        self._answer()

    def press(self, where: int):
        """Your move (size²: pass). What can't be done is said, and changes nothing."""
        try:
            rules.move(self.state, where)
        except LabError as error:
            self.said, self.alert = f"{error}", True
            return
        self.said, self.alert = "", False
        self._answer()

    def other(self):
        """Change sides, in a new game."""
        self.colour = 1 - self.colour
        self.new()

    def undo(self):
        """Take back your last move, and the answer to it."""
        moves = self.state.history()
        back = next((n for n in range(len(moves) - 1, -1, -1) if n % 2 == self.colour), None)
        if back is None:
            self.said, self.alert = "There is nothing to take back.", True
            return
        self.state = rules.starts(self.size, 1)[0]
        for where in moves[:back]:
            self.state.apply_action(where)
        self.said, self.alert = "Taken back. Your move.", False

    @property
    def over(self) -> bool:
        return self.state.is_terminal()

    def _answer(self):
        """Let the policy move if it is its turn, and say how things stand."""
        if not self.over and self.state.current_player() != self.colour:
            before = stones(self.state).count("XO"[self.colour])
            where = self.player([self.state])[0]
            rules.move(self.state, where)
            taken = before - stones(self.state).count("XO"[self.colour])
            how = "passed" if where == self.size**2 else f"played {rules.name(where, self.size)}"
            how += f" and took {taken} {'stone' if taken == 1 else 'stones'}" if taken else ""
            self.said = f"{self.said} The policy {how}.".lstrip()
        self.said = f"{self.said} {self._ending() if self.over else 'Your move.'}".lstrip()

    def _ending(self) -> str:
        result = self.state.returns()[self.colour]
        how = {1: "you have won", -1: "the policy has won", 0: "a draw"}[int(result)]
        return f"The game is over: {how}. Press n for a new one."

    def view(self) -> dict:
        """What is shown: letters of the board, the last move, the policy's probabilities where it
        is your turn, allowed moves, and the sentence.
        """
        heat = [] if self.over else [round(p, 4) for p in self.thinks(self.state)]
        return {
            "size": self.size,
            "stones": stones(self.state),
            "last": (self.state.history() or [-1])[-1],
            "heat": heat,
            "names": [rules.name(move, self.size) for move in range(self.size**2)],
            "colour": self.colour,
            "over": self.over,
            "said": self.said,
            "alert": self.alert,
        }


class Board(anywidget.AnyWidget):
    """Shows a Play, and lets you play it."""

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, play: Play, **options):
        super().__init__(view=play.view(), **options)
        self.play = play
        self.on_msg(self._pressed)

    def _pressed(self, _, content, buffers):
        """What was pressed in the browser: a point, or new, undo, other."""
        if not isinstance(content, dict):
            return
        if type(content.get("move")) is int:
            self.play.press(content["move"])
        elif content.get("do") in ("new", "undo", "other"):
            getattr(self.play, content["do"])()
        self.view = self.play.view()

    def __str__(self):
        return (
            f"{self.play.said}\n{said(self.play.state)}\n(To play, run this cell in JupyterLab, "
            "Notebook 7, Colab or VS Code.)"
        )

    def _repr_mimebundle_(self, **kwargs):
        """The widget; where none is shown, a picture of the position."""
        found = super()._repr_mimebundle_(**kwargs)
        data, *more = found if isinstance(found, tuple) else (found,)
        heat = dict(enumerate(self.play.view()["heat"]))
        picture = boards(("You against the policy", self.play.state, heat))
        data = {**data, "text/plain": str(self), "image/svg+xml": picture.svg()}
        return (data, *more) if more else data
