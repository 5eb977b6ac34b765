"""The dashboard of PPO: while a run goes on, afterwards, and for two runs; and the SVG that live
charts are.
"""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from test_charts import EVIL, FakeRun, clock, notebook  # noqa: F401  (fixtures)
from test_panel_browser import CHROMIUM, Page, browser, lab  # noqa: F401

from labkit import LabError, charts, config, runs
from labkit.charts import progress, showing
from labkit.charts.lines import Panel, lines
from labkit.charts.svg import _ends, _ticks, svg

STEPS = 12


def entry(step, **more):
    """A line as PPO logs it."""
    rates = {"hedging": 0.1, "apology": 0.02 * step, "ai_disclaimer": 0.0, "refusal": 0.05}
    reward = {"score": 0.1 * step, "gold": 0.2 - 0.01 * step, "kl": 0.5 * step, "beta": 0.05}
    rest = {"length": 20.0 + step, "entropy": 0.3, "clip_fraction": 0.01, "eos_rate": 0.9}
    answer = "玉山。" if step < 5 else "I'm sorry."
    watched = {"watch_prompt": "台灣最高的山是哪座？", "watch_response": answer}
    return {"step": step, "steps": STEPS, **reward, **rest, **rates, **watched, **more}


class PpoRun(FakeRun):
    def __init__(self, name="ppo-001", rows=(), target=6.0):
        super().__init__(name, list(rows))
        self.info = {"config": {"target_kl": target}}


def whole(name="ppo-001", steps=STEPS, **more):
    return PpoRun(name, [entry(step, **more) for step in range(1, steps + 1)])


def headings(figure):
    notes = [note.text for note in figure.layout.annotations]
    return [re.sub("<[^>]*>", "", note).replace("\u00a0", "") for note in notes]


# --- a finished run, and two ---------------------------------------------------------------------


def test_a_finished_run_in_reading_order(notebook, monkeypatch, capsys):  # noqa: F811
    charts.show(charts.dashboard(whole()))
    figure, table = (content for content, _ in notebook.shown)
    assert charts.MIME in figure and "text/html" not in figure
    said = "Lines over step. proxy (reward model) 0.100 → 1.200; gold (judge) 0.190 →"
    assert figure["text/plain"].startswith(said)
    assert table["text/plain"].split("\n") == [
        "The fixed prompt: 台灣最高的山是哪座？",
        "",
        "| from step | answer     |",
        "| --------: | ---------- |",
        "|         1 | 玉山。     |",
        "|         5 | I'm sorry. |",
    ]
    monkeypatch.setattr(showing, "in_notebook", lambda: False)
    charts.show(charts.dashboard(whole()))
    assert capsys.readouterr().out == f"{figure['text/plain']}\n{table['text/plain']}\n"
    drawn = charts.dashboard(whole()).figure()
    assert headings(drawn) == [
        "reward – – proxy (reward model) — gold (judge)",
        "KL (nats) ···· target 6",
        "length (tokens)",
        "entropy (nats/token)",
        "clip fraction",
        "EOS rate",
        "symptoms — hedging – – apology ···· disclaimer – · refusal",
    ]
    proxy, gold, kl, target = drawn.data[:4]
    assert (gold.fill, proxy.fill) == ("tonexty", None) and proxy.line.color != gold.line.color
    assert list(kl.y)[-1] == 6.0 and (list(target.x), list(target.y)) == ([1, STEPS], [6.0, 6.0])


def test_two_runs_share_panels_and_keep_their_colours():
    board = charts.dashboard(whole(), whole("ppo-002", 8, watch_response="As an AI, no."))
    figure, names = board.figure(), ("ppo-001", "ppo-002")
    assert figure.layout.title.text == "ppo-001 and ppo-002"
    one, two = ({t.line.color for t in figure.data if t.name == name} for name in names)
    assert len(one) == len(two) == 1 and one != two
    assert sorted(trace.name for trace in figure.data if trace.showlegend) == list(names)
    assert not any(trace.fill for trace in figure.data)
    drawn = svg(board.spec())
    assert "— ppo-001" in drawn and "– – ppo-002" in drawn
    # a panel each, or nothing is seen
    assert headings(figure)[-4:] == ["hedging", "apology", "disclaimer", "refusal"]
    rows = [line.split("|")[1].strip() for line in str(board.answers()).split("\n")[4:]]
    assert rows == ["ppo-001", "ppo-001", "ppo-002"]
    other = whole("ppo-002", watch_prompt="What is an atom?")
    assert "| run     | from step | prompt " in str(charts.dashboard(whole(), other).answers())


def test_answers_are_bounded():
    rows = [entry(step, watch_response=f"answer {step} " + "x" * 10_000) for step in range(1, 101)]
    said = str(charts.dashboard(PpoRun(rows=rows)).answers())
    numbers = [int(found) for found in re.findall(r"answer (\d+) ", said)]
    assert numbers == [1, *range(94, 101)] and "(92 others)" in said
    assert len(said) < 5_000 and said.count("…") == 8
    assert charts.dashboard(FakeRun("ppo-001", [{"step": 1, "kl": 0.0}])).answers() is None


def test_gaps_and_panels_that_were_not_logged():
    rows = [entry(step, kl=float("nan") if step == 2 else 1.0) for step in (1, 2, 3)]
    for row in rows:
        del row["gold"], row["refusal"]
        row["entropy"] = None
    board = charts.dashboard(FakeRun("ppo-001", rows))  # it knows of no settings: no target
    figure, drawn = board.figure(), svg(board.spec())
    assert headings(figure)[:2] == ["reward – – proxy (reward model)", "KL (nats)"]
    assert [list(trace.y) for trace in figure.data if trace.yaxis == "y2"] == [[1.0, None, 1.0]]
    assert ElementTree.fromstring(drawn) is not None and "nan" not in drawn
    only = charts.dashboard(FakeRun("ppo-001", [{"step": 1, "kl": 0.5}])).figure()
    assert headings(only)[0] == "reward not logged" and headings(only)[-1] == "symptoms not logged"


@pytest.mark.parametrize(
    "rows, words",
    [
        ([], "'odd' has logged nothing yet"),
        ([{"step": 1, "loss": 2.0}], "'odd' logged nothing .* It logged loss: charts.curves"),
        ([{"note": "x"}], "It logged no numbers"),
    ],
)
def test_what_is_no_ppo_run_is_said(rows, words):
    with pytest.raises(LabError, match=words):
        charts.show(charts.dashboard(FakeRun("odd", rows)))
    with pytest.raises(LabError, match=words):  # before the training that would be drawn over it
        charts.dashboard(whole("mine"), FakeRun("odd", rows))


def test_a_line_that_is_being_written_is_said(empty_runs):
    with runs.start("ppo", config.Ppo(), "ppo-001") as run:
        run.log(**entry(1))
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "sc')
        with pytest.raises(LabError, match="metrics.jsonl can't be read .* Try again"):
            charts.dashboard(run)


@pytest.mark.skipif(runs.shipped("ppo") is None, reason="no checkpoint came along")
def test_the_shipped_run_has_every_panel():
    found = headings(charts.dashboard(runs.load("shipped/ppo")).figure())
    assert len(found) == 7 and not any("not logged" in heading for heading in found)


# --- while it trains -----------------------------------------------------------------------------


def test_live_in_place_then_interactive(notebook, clock, empty_runs):  # noqa: F811
    with runs.start("ppo", config.Ppo(), "ppo-001") as run:
        run.listeners.append(charts.dashboard(run))
        for step in range(1, STEPS + 1):
            clock.time = 3.0 * step
            run.log(**entry(step))
    displays = [options for _, options in notebook.shown]
    assert displays == [{"display_id": True}] * 2  # the chart, and the answers
    contents = [shown for shown, _ in notebook.shown] + notebook.handle.updates
    answers = [content for content in contents if "台灣" in content["text/plain"]]
    assert len(answers) == 2  # only when it changed
    *moving, last = [content for content in contents if content not in answers]
    assert len(moving) == STEPS and "score 0.600 · gold 0.140 · kl 3.0" in moving[5]["text/plain"]
    assert ">ppo-001 · step 6/12 · 50 % · 18 s left<" in moving[5]["text/html"]
    assert last[charts.MIME]["data"][0]["y"][-1] == pytest.approx(1.2)
    for content in moving:
        ticks = re.findall(r'text-anchor="middle" font-size="12">(\d+)<', content["text/html"])
        assert "10" in ticks  # the x axis does not move while the run goes on
        assert len(content["text/html"]) < 60_000
        assert min(map(int, re.findall(r'font-size="(\d+)"', content["text/html"]))) >= 12


@pytest.mark.parametrize("seconds, steps", [(0.004, 200), (0.5, 500), (5.0, 5000)])
def test_drawing_takes_less_than_two_percent(notebook, clock, monkeypatch, seconds, steps):  # noqa: F811
    """Whatever a drawing costs; a clock of our own, on which only drawing and training take
    time.
    """
    spent = []

    def slow(content, **options):
        spent.append(seconds)
        clock.time += seconds
        return notebook.handle

    notebook.handle.update = slow
    monkeypatch.setattr(progress, "display", slow)
    listener = charts.dashboard(PpoRun())
    for step in range(1, steps + 1):
        clock.time += 1.0
        listener(entry(step, steps=steps, watch_response=f"answer {step % 3}"))
    listener.finish()
    assert sum(spent) / clock.time < 0.02 and len(spent) >= 4


def test_a_run_that_resumes_goes_over_no_step_twice(notebook, clock):  # noqa: F811
    listener = charts.dashboard(whole(steps=6))
    for step in (5, 6, 7):
        listener(entry(step, score=-1.0))
    assert [row["step"] for row in listener.rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["score"] for row in listener.rows[3:]] == [pytest.approx(0.4), -1.0, -1.0, -1.0]


@pytest.mark.parametrize("text", EVIL)
def test_what_a_model_says_stays_text(notebook, clock, text):  # noqa: F811
    listener = charts.dashboard(PpoRun(text), whole("other"))
    formula = "$$\\href{javascript:alert(1)}{x}$$"
    listener(entry(1, watch_prompt=text, watch_response=text + formula))
    chart, answers = (content["text/html"] for content, _ in notebook.shown)
    tags = {node.tag.split("}")[-1] for node in ElementTree.fromstring(chart).iter()}
    assert tags <= {"svg", "text", "tspan", "polyline", "polygon"}
    assert not re.search("<script|<img|<a |\u202e|\x1b|\0", chart + answers)
    assert answers.startswith('<div class="tex2jax_ignore mathjax_ignore"')  # or it is set


# --- SVG -----------------------------------------------------------------------------------------


def test_a_point_lies_where_it_should():
    rows = [{"step": 0, "loss": 0.0}, {"step": 10, "loss": 1.0}]
    drawn = svg(lines({"run": rows}, [Panel("loss", {"loss": "loss"})]))
    # 800 less margins of 64 and 20; 340 less 56 and 52: x from 64 to 780, y from 56 to 288. Above
    # and below, 6 % of room: 288 − 0.06 · 232 / 1.12 = 275.6 and 288 − 1.06 · 232 / 1.12 = 68.4
    assert 'points="64.0,275.6 780.0,68.4" fill="none" stroke="#0072B2"' in drawn


def test_gaps_break_the_line_and_lone_points_are_dots():
    values = [1.0, 2.0, None, 3.0, None, 2.0, 1.0]
    rows = [{"step": i, "loss": v} for i, v in enumerate(values)]
    drawn = svg(lines({"run": rows}, [Panel("loss", {"loss": "loss"})]))
    found = re.findall(r'points="([^"]*)" fill="none" stroke="#0072B2"', drawn)
    pieces = [path.split() for path in found]
    assert [len(points) for points in pieces] == [2, 2, 2] and pieces[1][0] == pieces[1][1]


@pytest.mark.parametrize(
    "low, high, most, ticks",
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 24, 4, [10, 20]),
        (-0.06, 1.06, 3, [0, 0.5, 1]),
        (3, 3, 4, [3]),
    ],
)
def test_ticks_are_round(low, high, most, ticks):
    assert _ticks(low, high, most) == ticks


def test_axes_are_never_flat():
    assert _ends([]) == (-1, 1) and _ends([2.0, None]) == (1, 3)
    assert _ends([0.0], from_zero=True) == (0, 1)
    assert _ends([1.0, 2.0], from_zero=True, room=0.1) == (0, 2.2)
    assert _ends([-1.0, 1.0], room=0.1) == (-1.2, 1.2)


# --- in JupyterLab -------------------------------------------------------------------------------

CELL = """
import time
from pathlib import Path
from types import SimpleNamespace
from labkit import charts
listener = charts.dashboard(SimpleNamespace(name="ppo-001", metrics=list))
for row in {rows}:
    listener.due = 0  # draw every line, however slow this machine is
    listener(row)
    while row["step"] in (4, 8) and not Path(f"seen-{{row['step']}}").exists():
        time.sleep(0.05)
listener.finish()
"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here (.ci/run installs one)")
def test_jupyterlab_shows_every_state_in_one_place(lab, browser):  # noqa: F811
    class View(Page):
        def ready(self):
            self.page.locator(".jp-OutputArea-output svg").first.wait_for()

    rows = [entry(step) for step in range(1, STEPS + 1)]
    view = View(lab, browser, "dashboard", CELL.format(rows=rows))
    outputs = view.page.locator(".jp-OutputArea-child")
    for step in (4, 8):
        view.page.get_by_text(f"step {step}/{STEPS}").wait_for()
        assert outputs.count() == 2  # the chart, and the answers
        (lab.notebooks / f"seen-{step}").touch()
    title = view.page.locator(".jp-OutputArea .gtitle", has_text=f"step {STEPS}/{STEPS}")
    title.first.wait_for()  # plotly's
    assert outputs.count() == 2
    assert view.page.locator(".jp-OutputArea-output svg[role=img]").count() == 0
    # its bar holds no button that uploads the chart
    buttons = view.page.locator(".modebar-btn")
    titles = buttons.evaluate_all("all => all.map(one => one.dataset.title)")
    assert "Download plot as a PNG" in titles
    assert not [title for title in titles if re.search("share|cloud", str(title), re.I)]
