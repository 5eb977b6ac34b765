"""The chart that moves while a run trains: an SVG in one display, redrawn in place; when the run
ends, plotly's figure takes that place.
"""

import sys
import time

from labkit import LabError
from labkit.charts.lines import lines, panels_of
from labkit.charts.showing import bundle, display, figure, in_colab, in_notebook
from labkit.charts.svg import svg
from labkit.charts.tables import number, written


class Live:
    """The metrics of a run while it trains: `run.listeners.append(charts.live(run, ["loss"]))`. It
    draws at most once a second, and for under 2 % of the time (a line on stderr outside a
    notebook). metrics: names, or {name: label}; None takes all numbers.
    """

    def __init__(self, run, metrics=None):
        self.run, self.metrics = run, metrics
        self.rows, self.displays, self.finished = [], {}, False
        self.started, self.due, self.drawn = time.perf_counter(), 0.0, 0
        self.first = None  # (step, time) of the first line: what came before it was no step

    def __call__(self, values):
        """Take one logged line; draw if it is time."""
        self.rows.append(values)
        now = time.perf_counter()
        if self.first is None and values.get("step") is not None:
            self.first = values["step"], now
        if now >= self.due:
            self._draw()
            pause = 1 if in_notebook() or sys.stderr.isatty() else 10
            spent = time.perf_counter() - now  # 1 % of the time: under 2 with the last drawing
            self.due = now + max(pause, 100 * spent)

    def finish(self):
        """Draw the last state, with its picture where one is wanted; safe to call again."""
        if self.rows and not self.finished:
            self._draw(last=True)
            self.finished = True

    def line(self, values=4) -> str:
        """sft-001 · step 120/300 · 40 % · 12 s left · loss 2.31, with at most so many values."""
        seen = {key: value for row in self.rows for key, value in row.items()}
        parts, step, steps = [self.run.name], seen.get("step"), seen.get("steps")
        if step is not None:
            parts.append(f"step {step:,}" + (f"/{steps:,}" if steps else ""))
        if step is not None and steps and self.first is not None:
            now, (first, since) = time.perf_counter(), self.first
            parts.append(f"{100 * step / steps:.0f} %")
            if step >= steps:
                parts.append(f"{now - self.started:.0f} s")
            elif step > first:
                parts.append(f"{(now - since) / (step - first) * (steps - step):.0f} s left")
        names = list(self.metrics or (key for key in seen if key not in ("step", "steps")))
        shown = [name for name in names[:values] if number(seen.get(name)) is not None]
        return " · ".join(parts + [f"{name} {written(seen[name], 3)}" for name in shown])

    def spec(self, until=None) -> dict:
        """The figure as plain dicts; its x axis goes to `until`."""
        series = {self.run.name: self.rows}
        return lines(series, panels_of(series, self.metrics), title=self.line(), until=until)

    def _draw(self, last=False):
        line, before, self.drawn = self.line(), self.drawn, len(self.rows)
        if not in_notebook():
            terminal = sys.stderr.isatty()
            if before == self.drawn and not terminal:
                return  # a log has this line already
            end = "\n" if last or not terminal else ""
            line = f"\r{line:<100}" if terminal else line
            print(line, end=end, file=sys.stderr, flush=True)
            return
        try:
            spec = self.spec(None if last else self.rows[-1].get("steps"))
        except LabError:  # the first lines may hold none of the metrics yet
            self._put("chart", {"text/plain": line})
            return
        if not last:
            self._put("chart", {"text/html": svg(spec), "text/plain": line})
        elif in_colab():  # a script runs only in an output of its own
            self._put("chart", {"text/plain": line})
            display(bundle(figure(spec)))
        else:
            self._put("chart", {**bundle(figure(spec)), "text/plain": line})

    def _put(self, name, content):
        """Show something in a display of its own, later in place of what it showed before."""
        handle, before = self.displays.get(name, (None, None))
        if handle is None:
            handle = display(content, display_id=True)
        elif content != before:
            handle.update(content, raw=True)
        self.displays[name] = handle, content


live = Live
