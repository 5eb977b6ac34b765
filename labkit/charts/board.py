"""The dashboard: what PPO does to a policy, on one page, while it trains and afterwards."""

from dataclasses import replace

from labkit import LabError
from labkit.charts.lines import Panel, lines, numbers
from labkit.charts.progress import Live
from labkit.charts.showing import figure, in_notebook, show
from labkit.charts.tables import Table, number, table

ANSWERS, LONGEST = 8, 300  # of a fixed prompt: rows in the table, characters of one answer

REWARD = Panel(
    "reward", {"score": "proxy (reward model)", "gold": "gold (judge)"}, wide=2, shaded=True
)
KL = Panel("KL (nats)", {"kl": "KL"}, zero=True)
REST = (
    Panel("length (tokens)", {"length": "length"}),
    Panel("entropy (nats/token)", {"entropy": "entropy"}),
    Panel("clip fraction", {"clip_fraction": "clip fraction"}, zero=True),
    Panel("EOS rate", {"eos_rate": "EOS rate"}),
)
MANNERS = {
    "hedging": "hedging",
    "apology": "apology",
    "ai_disclaimer": "disclaimer",
    "refusal": "refusal",
}
SYMPTOMS = Panel("symptoms", MANNERS, wide=2, zero=True)


class Dashboard(Live):
    """PPO on one page: proxy and gold reward, KL, length, entropy, clip fraction, EOS rate,
    symptoms, and how the answer to a fixed prompt changes.

        run.listeners.append(charts.dashboard(run))      # while it trains
        charts.show(charts.dashboard(run))               # afterwards
        charts.show(charts.dashboard(run, other))        # two runs in the same panels

    A run that trains can be drawn over finished ones as well. Metrics that are not numbers are
    gaps, a panel whose metrics were never logged says so. Raises LabError when a run holds none of
    them.
    """

    def __init__(self, run, *others):
        super().__init__(run, ("score", "gold", "kl", "length"))
        self.rows, self.others = run.metrics(), {other.name: other.metrics() for other in others}
        for name, rows in self.others.items():
            _check(name, rows)
        configs = [getattr(one, "info", {}).get("config", {}) for one in (run, *others)]
        levels = {config.get("target_kl") for config in configs if number(config.get("target_kl"))}
        symptoms = [SYMPTOMS]
        if others:  # four lines a run would be a tangle
            symptoms = [Panel(label, {name: label}, zero=True) for name, label in MANNERS.items()]
        self.panels = [REWARD, replace(KL, levels=tuple(sorted(levels))), *REST, *symptoms]

    def __call__(self, values):
        step = number(values.get("step"))
        while step and self.rows and (number(self.rows[-1].get("step")) or 0) >= step:
            self.rows.pop()  # a run that resumes goes over some steps again
        super().__call__(values)

    def parts(self) -> list:
        """The finished figure, and the fixed prompt's answers. LabError when nothing was logged."""
        _check(self.run.name, self.rows)
        return [part for part in (self.figure(), self.answers()) if part is not None]

    def _ipython_display_(self):
        show(self)

    def figure(self):
        """The figure alone."""
        return figure(self._lines(" and ".join(self._series())))

    def answers(self) -> Table | None:
        """The fixed prompt's answers, a row for each change (watch_prompt, watch_response in the
        metrics); None if the run watches none.
        """
        found = {name: _changes(rows) for name, rows in self._series().items()}
        prompts = {prompt for changes in found.values() for _, prompt, _ in changes}
        rows = []
        for name, changes in found.items():
            made = [
                {"run": name, "from step": step, "prompt": _short(prompt), "answer": _short(answer)}
                for step, prompt, answer in changes
            ]
            if left := max(0, len(made) - ANSWERS):
                made[1 : 1 + left] = [{"run": name, "prompt": "", "answer": f"({left} others)"}]
            rows += made
        if not rows:
            return None
        title, columns = "Fixed prompts", ["run", "from step", "prompt", "answer"]
        if len(found) == 1:
            columns.remove("run")
        if len(prompts) == 1:
            columns.remove("prompt")
            title = f"The fixed prompt: {_short(prompts.pop())}"
        return table(rows, columns, title=title)

    def spec(self, until=None) -> dict:
        return self._lines(self.line(values=0), until)

    def _lines(self, title, until=None):
        return lines(self._series(), self.panels, title=title, across=3, row=180, until=until)

    def _series(self):
        return {self.run.name: self.rows, **self.others}

    def _draw(self, last=False):
        super()._draw(last)
        if in_notebook() and (told := self.answers()):
            self._put("answers", told._repr_mimebundle_())


dashboard = Dashboard


def _check(name, rows):
    if not rows:
        raise LabError(f"{name!r} has logged nothing yet. Train it, or show a run that has begun.")
    asked = [metric for panel in (REWARD, KL, *REST, SYMPTOMS) for metric in panel.metrics]
    there = numbers({name: rows})
    if not set(asked) & set(there):
        raise LabError(
            f"{name!r} logged nothing that the dashboard of PPO shows ({', '.join(asked)}). It"
            f" logged {', '.join(there) or 'no numbers'}: charts.curves draws those."
        )


def _changes(rows) -> list[tuple]:
    """(step, prompt, answer) wherever the answer to the watched prompt is another than before."""
    changes = []
    for row in rows:
        if isinstance(row.get("watch_response"), str):
            prompt, answer = str(row.get("watch_prompt", "")), row["watch_response"]
            if not changes or changes[-1][1:] != (prompt, answer):
                changes.append((row.get("step"), prompt, answer))
    return changes


def _short(answer) -> str:
    return answer if len(answer) <= LONGEST else answer[: LONGEST - 1] + "…"
