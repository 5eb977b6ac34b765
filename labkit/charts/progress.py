"""How a figure is shown: once, or in place while a run goes on.
 A figure is shown as plotly's own JSON with a sentence beside it (the text alternative), never as
HTML with a 4 MB library inside. With LABKIT_STATIC_CHARTS=1 a PNG goes along, so that a committed
notebook shows its charts on GitHub as well. While a run goes on it is an SVG in one display (see
svg.py); when it ends, the figure takes that place. Between two drawings a hundred times as long as
the last one took goes by.
"""

import json
import sys
import time
from dataclasses import replace

import plotly.graph_objects as go
import plotly.io as pio

from labkit import LabError
from labkit.charts import pictures
from labkit.charts.lines import Panel, lines, numbers
from labkit.charts.svg import svg
from labkit.charts.tables import Table, number, table, written

MIME = "application/vnd.plotly.v1+json"
ANSWERS, LONGEST = 8, 300  # of a fixed prompt: rows in the table, characters of one answer

# The panels of the dashboard.
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
SYMPTOMS = Panel(
    "symptoms",
    {
        "hedging": "hedging",
        "apology": "apology",
        "ai_disclaimer": "disclaimer",
        "refusal": "refusal",
    },
    wide=2,
    zero=True,
)


def show(figure, alt=""):
    """Display a figure, a Table or a dashboard: a figure as plotly JSON with `alt`, a sentence that
    says what it shows (made from the data if not given).
    """
    if isinstance(figure, Dashboard):
        return figure.show()
    alt = alt or alt_of(figure)
    if not in_notebook():
        print(alt)
    elif isinstance(figure, Table):
        display(figure._repr_mimebundle_())
    elif "google.colab" in sys.modules:  # Colab draws plotly only through its own renderer
        pio.show(figure, renderer="colab")
    else:
        display(bundle(figure, alt))


def bundle(figure, alt="", static=None) -> dict:
    """The MIME bundle that `show` displays; `static` adds a PNG (None: where
    LABKIT_STATIC_CHARTS=1).
    """
    spec = figure if isinstance(figure, dict) else json.loads(figure.to_json())
    content = {
        MIME: {**spec, "config": {"responsive": True, "displaylogo": False}},
        "text/plain": alt or alt_of(figure),
    }
    if pictures.wanted() if static is None else static:
        content["image/png"] = pictures.png_base64(spec)
    return content


class Live:
    """A listener for `run.listeners`: one display, updated in place at most once per
    `every_seconds` and for under 2 % of the time.
    """

    def __init__(self, run, metrics=None, every_seconds=1.0, smooth=0.0):
        if pictures.wanted():
            pictures.browser()  # a missing browser should be known before an hour of training, not after
        self.run, self.metrics, self.every, self.smooth = run, metrics, every_seconds, smooth
        self.rows, self.drawn, self.displays = [], 0, {}
        self.started, self.due, self.first = time.perf_counter(), 0.0, None

    def __call__(self, values):
        """Take one logged line; draw if it is time."""
        self.rows.append(values)
        if self.first is None and "step" in values:
            self.first = values["step"]
        now = time.perf_counter()
        if now >= self.due:
            self._draw()
            spent = time.perf_counter() - now
            self.due = now + max(
                self.every, 100 * spent
            )  # 1 %: with the last drawing it stays under 2

    def finish(self):
        """Draw the last state, with its picture where one is wanted; safe to call again."""
        if self.drawn is not None and self.rows:
            self._draw(last=True)
            self.drawn = None

    def line(self, values=4) -> str:
        """sft-001 · step 120/300 · 40 % · 12 s left · loss 2.31, with at most so many values."""
        seen = {key: value for row in self.rows for key, value in row.items()}
        parts, step, steps = [self.run.name], seen.get("step"), seen.get("steps")
        if step is not None:
            parts.append(f"step {step:,}" + (f"/{steps:,}" if steps else ""))
        if step is not None and steps and self.first is not None:
            done = step - self.first + 1
            left = (time.perf_counter() - self.started) / max(done, 1) * (steps - step)
            parts += [
                f"{step / steps:.0%}".replace("%", " %"),
                (
                    f"{left:.0f} s left"
                    if step < steps
                    else f"{time.perf_counter() - self.started:.0f} s"
                ),
            ]
        names = self.metrics or [key for key in seen if key not in ("step", "steps")]
        parts += [
            f"{name} {written(seen[name], 3)}"
            for name in list(names)[:values]
            if number(seen.get(name)) is not None
        ]
        return " · ".join(parts)

    def spec(self, until=None) -> dict:
        """The figure as plain dicts; its x axis goes to `until`."""
        series = {self.run.name: self.rows}
        panels = panels_of(series, self.metrics)
        return lines(series, panels, smooth=self.smooth, title=self.line(), until=until)

    def _draw(self, last=False):
        line, self.drawn = self.line(), len(self.rows)
        if not in_notebook():
            terminal = sys.stderr.isatty()
            if last or terminal or time.perf_counter() - getattr(self, "printed", -1e9) > 10:
                self.printed = time.perf_counter()
                print(
                    f"\r{line:<100}" if terminal else line,
                    end="\n" if last or not terminal else "",
                    file=sys.stderr,
                    flush=True,
                )
            return
        try:
            spec = self.spec(None if last else self.rows[-1].get("steps"))
        except LabError:  # the first lines may hold none of the metrics yet
            spec = None
        content, colab = {"text/plain": line}, "google.colab" in sys.modules
        if spec and not last:
            content["text/html"] = svg(spec)
        elif spec and not colab:
            content = bundle(spec, line)
        self._put("chart", content)
        if last and colab and spec:
            pio.show(go.Figure(spec), renderer="colab")

    def _put(self, name, content):
        """Show something in a display of its own, later in place of what it showed before."""
        if name not in self.displays:
            self.displays[name] = [display(content, display_id=True), content]
        elif self.displays[name][1] != content:
            self.displays[name][0].update(content, raw=True)
            self.displays[name][1] = content


class Dashboard(Live):
    """What PPO does to a policy, on one page; see `dashboard`."""

    def __init__(self, run, *others, every_seconds=1.0):
        super().__init__(run, ("score", "gold", "kl", "length"), every_seconds)
        self.rows, self.others = _rows(run), {other.name: _rows(other) for other in others}
        for name, rows in self.others.items():
            _check(name, rows)
        targets = [
            getattr(one, "info", {}).get("config", {}).get("target_kl") for one in (run, *others)
        ]
        levels = tuple(sorted({target for target in targets if number(target)}))
        symptoms = [SYMPTOMS]
        if others:  # four lines a run would be a tangle
            symptoms = [
                Panel(label, {name: label}, zero=True) for name, label in SYMPTOMS.metrics.items()
            ]
        self.panels = [REWARD, replace(KL, levels=levels), *REST, *symptoms]

    def __call__(self, values):
        step = number(values.get("step"))
        while step and self.rows and (number(self.rows[-1].get("step")) or 0) >= step:
            self.rows.pop()  # a run that resumes goes over some steps again
        super().__call__(values)

    def show(self):
        """The finished figure, and how the fixed prompt's answer changed. LabError when nothing of
        it was logged.
        """
        _check(self.run.name, self.rows)
        show(self.figure())
        told = self.answers()
        if told and in_notebook():
            display(_no_mathematics(told))
        elif told:
            print(told)

    _ipython_display_ = show

    def figure(self) -> go.Figure:
        """The figure alone."""
        return go.Figure(self._lines(" and ".join(self._series())))

    def answers(self) -> Table | None:
        """The fixed prompt's answers, a row for each change (watch_prompt, watch_response in the
        metrics); None if the run watches none.
        """
        found = {name: _changes(rows) for name, rows in self._series().items()}
        prompts = {prompt for changes in found.values() for _, prompt, _ in changes}
        rows = []
        for name, changes in found.items():
            kept = changes if len(changes) <= ANSWERS else [changes[0], *changes[-ANSWERS + 1 :]]
            for i, (step, prompt, answer) in enumerate(kept):
                if i == 1 and len(kept) < len(changes):
                    rows.append(
                        {
                            "run": name,
                            "prompt": "",
                            "answer": f"({len(changes) - len(kept)} others)",
                        }
                    )
                rows.append(
                    {
                        "run": name,
                        "from step": step,
                        "prompt": _short(prompt),
                        "answer": _short(answer),
                    }
                )
        columns = (
            ["run"] * (len(found) > 1)
            + ["from step"]
            + ["prompt"] * (len(prompts) > 1)
            + ["answer"]
        )
        title = (
            f"The fixed prompt: {_short(prompts.pop())}" if len(prompts) == 1 else "Fixed prompts"
        )
        return table(rows, columns, title=title) if rows else None

    def spec(self, until=None) -> dict:
        return self._lines(self.line(values=0), until)

    def _lines(self, title, until=None):
        return lines(self._series(), self.panels, title=title, across=3, row=180, until=until)

    def _series(self):
        return {self.run.name: self.rows, **self.others}

    def _draw(self, last=False):
        super()._draw(last)
        if in_notebook() and (told := self.answers()):
            self._put("answers", _no_mathematics(told))


def live(run, metrics=None, every_seconds=1.0, smooth=0.0) -> Live:
    """`run.listeners.append(charts.live(run, ["loss"]))`: the metrics of a run while it trains (a
    line on stderr outside a notebook).
    """
    return Live(run, metrics, every_seconds, smooth)


def dashboard(run, *others, every_seconds=1.0) -> Dashboard:
    """PPO on one page: proxy and gold reward, KL, length, entropy, clip fraction, EOS rate,
    symptoms, and how the answer to a fixed prompt changes.

        run.listeners.append(charts.dashboard(run))      # while it trains
        charts.show(charts.dashboard(run))               # afterwards
        charts.show(charts.dashboard(run, other))        # two runs in the same panels, a colour each

    A run that trains can be drawn over finished ones as well. Metrics that are not numbers are
    gaps, a panel whose metrics were never logged says so. Raises LabError when a run holds none of
    them.
    """
    return Dashboard(run, *others, every_seconds=every_seconds)


def panels_of(series, metrics, x="step") -> list[Panel]:
    """A panel per metric: names, {name: label}, or None for all numbers."""
    labels = (
        metrics
        if isinstance(metrics, dict)
        else {name: name for name in metrics or numbers(series, x)}
    )
    return [Panel(label, {name: label}) for name, label in labels.items()]


def alt_of(figure) -> str:
    """The sentence beside a figure."""
    if isinstance(figure, Table):
        return str(figure)
    layout = figure["layout"]
    meta = layout["meta"] if "meta" in layout else None
    return meta["alt"] if isinstance(meta, dict) and "alt" in meta else "A chart"


def in_notebook() -> bool:
    """Whether a Jupyter kernel (not a terminal) is asking."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def display(content, **options):
    from IPython.display import display

    return display(content, raw=True, **options)


def _rows(run) -> list[dict]:
    try:
        return list(run.metrics())
    except ValueError as error:
        raise LabError(
            f"The metrics of {run.name!r} can't be read ({error}): another process may be writing a"
            " line at this moment. Try again; if it stays, the file was damaged and the run has to"
            " be trained again."
        ) from error


def _check(name, rows):
    asked = [metric for panel in (REWARD, KL, *REST, SYMPTOMS) for metric in panel.metrics]
    there = numbers({name: rows})
    if not rows:
        raise LabError(f"{name!r} has logged nothing yet. Train it, or show a run that has begun.")
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


def _no_mathematics(told: Table) -> dict:
    """A table's MIME bundle in which JupyterLab sets no formula: a model's $…$ is text."""
    content = told._repr_mimebundle_()
    return {
        **content,
        "text/html": f'<div class="tex2jax_ignore mathjax_ignore">{content["text/html"]}</div>',
    }
