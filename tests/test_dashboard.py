"""The dashboard of PPO: while a run goes on, afterwards, and for two runs; and the SVG that live
charts are.
"""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from test_charts import EVIL, FakeRun, clock, notebook  # noqa: F401  (fixtures)
from test_panel_browser import CHROMIUM, Page, browser, lab  # noqa: F401

from labkit import LabError, charts, config, runs
from labkit.charts import progress as live
from labkit.charts.lines import Panel, lines
from labkit.charts.svg import _ends, _ticks, svg

STEPS = 12


def entry(step, **more):
    """A line as PPO logs it."""
    rates = {"hedging": 0.1, "apology": 0.02 * step, "ai_disclaimer": 0.0, "refusal": 0.05}
    return {
        "step": step,
        "steps": STEPS,
        "score": 0.1 * step,
        "gold": 0.2 - 0.01 * step,
        "kl": 0.5 * step,
        "beta": 0.05,
        "length": 20.0 + step,
        "entropy": 0.3,
        "clip_fraction": 0.01,
        "eos_rate": 0.9,
        "prompt": "?",
        "response": "!",
        "watch_prompt": "台灣最高的山是哪座？",
        "watch_response": "玉山。" if step < 5 else "I'm sorry.",
        **rates,
        **more,
    }


class PpoRun(FakeRun):
    def __init__(self, name="ppo-001", rows=(), target=6.0):
        super().__init__(name, list(rows))
        self.info = {"config": {"target_kl": target}}


def whole(name="ppo-001", steps=STEPS, **more):
    return PpoRun(name, [entry(step, **more) for step in range(1, steps + 1)])


def headings(figure):
    return [
        re.sub("<[^>]*>", "", note.text).replace("\u00a0", "") for note in figure.layout.annotations
    ]


# --- a finished run, and two ---------------------------------------------------------------------


def test_a_finished_run_in_reading_order(notebook):  # noqa: F811
    charts.show(charts.dashboard(whole()))
    figure, table = (content for content, _ in notebook.shown)
    assert charts.MIME in figure and "text/html" not in figure
    assert figure["text/plain"].startswith(
        "Lines over step. proxy (reward model) 0.100 → 1.200; gold (judge) 0.190 →"
    )
    assert str(table["text/plain"]).split("\n") == [
        "The fixed prompt: 台灣最高的山是哪座？",
        "",
        "| from step | answer     |",
        "| --------: | ---------- |",
        "|         1 | 玉山。     |",
        "|         5 | I'm sorry. |",
    ]
    drawn = charts.dashboard(whole()).figure()
    assert headings(drawn) == [
        "reward — proxy (reward model) – – gold (judge)",
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
    assert (
        len({trace.line.dash for trace in drawn.data[-4:]}) == 4
    )  # the symptoms, not by colour alone


def test_outside_a_notebook_it_prints(capsys):
    charts.show(charts.dashboard(whole()))
    said = capsys.readouterr().out
    assert "kl" in said.lower() and "|         5 | I'm sorry. |" in said


def test_two_runs_share_panels_and_keep_their_colours():
    one, two = whole("ppo-001"), whole("ppo-002", 8, watch_response="As an AI, no.")
    board = charts.dashboard(one, two)
    figure = board.figure()
    assert figure.layout.title.text == "ppo-001 and ppo-002"
    colours = {
        name: {t.line.color for t in figure.data if t.name == name}
        for name in ("ppo-001", "ppo-002")
    }
    assert (
        all(len(found) == 1 for found in colours.values())
        and colours["ppo-001"] != colours["ppo-002"]
    )
    assert sorted(trace.name for trace in figure.data if trace.showlegend) == ["ppo-001", "ppo-002"]
    assert not any(trace.fill for trace in figure.data)
    assert headings(figure)[-4:] == [
        "hedging",
        "apology",
        "disclaimer",
        "refusal",
    ]  # a panel each, or nothing is seen
    assert [line.split("|")[1].strip() for line in str(board.answers()).split("\n")[4:]] == [
        "ppo-001",
        "ppo-001",
        "ppo-002",
    ]


def test_fixed_prompts_that_differ_are_named():
    other = whole("ppo-002", watch_prompt="What is an atom?")
    assert "| run     | from step | prompt " in str(charts.dashboard(whole(), other).answers())


def test_answers_are_bounded():
    rows = [entry(step, watch_response=f"answer {step} " + "x" * 10_000) for step in range(1, 101)]
    said = str(charts.dashboard(PpoRun(rows=rows)).answers())
    assert (
        "answer 1 " in said
        and "(92 others)" in said
        and "answer 94 " in said
        and "answer 93 " not in said
    )
    assert len(said) < 5_000 and said.count("…") == 8
    assert charts.dashboard(FakeRun("ppo-001", [{"step": 1, "kl": 0.0}])).answers() is None


def test_gaps_and_panels_that_were_not_logged():
    rows = [entry(step, kl=float("nan") if step == 2 else 1.0) for step in (1, 2, 3)]
    for row in rows:
        del row["gold"], row["refusal"]
        row["entropy"] = None
    figure = charts.dashboard(
        FakeRun("ppo-001", rows)
    ).figure()  # a run that knows of no settings: no target
    assert headings(figure)[:2] == ["reward — proxy (reward model)", "KL (nats)"]
    assert [list(trace.y) for trace in figure.data if trace.yaxis == "y2"] == [[1.0, None, 1.0]]
    shown = svg(charts.dashboard(FakeRun("ppo-001", rows)).spec())
    assert ElementTree.fromstring(shown) is not None and "nan" not in shown
    only = charts.dashboard(
        FakeRun("ppo-001", [{"step": 1, "kl": 0.5}, {"step": 2, "kl": 0.4}])
    ).figure()
    assert headings(only)[0] == "reward not logged" and headings(only)[-1] == "symptoms not logged"


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: PpoRun(), "'ppo-001' has logged nothing yet"),
        (
            lambda: FakeRun("sft-001", [{"step": 1, "loss": 2.0}]),
            "'sft-001' logged nothing .* It logged loss: charts.curves",
        ),
        (lambda: FakeRun("odd", [{"note": "x"}]), "It logged no numbers"),
    ],
)
def test_what_is_no_ppo_run_is_said(make, words):
    with pytest.raises(LabError, match=words):
        charts.show(charts.dashboard(make()))
    with pytest.raises(LabError, match=words):
        charts.dashboard(
            whole("mine"), make()
        )  # before the training starts that would be drawn over it


def test_a_line_that_is_being_written_is_said(empty_runs):
    with runs.start("ppo", config.Ppo(), "ppo-001") as run:
        run.log(**entry(1))
        with (run.path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "sc')
        with pytest.raises(LabError, match="'ppo-001' can't be read .* Try again"):
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
    assert [options for _, options in notebook.shown] == [
        {"display_id": True}
    ] * 2  # the chart, and the answers
    drawn, answers = [], []
    for content in [shown for shown, _ in notebook.shown] + notebook.handle.updates:
        (answers if "台灣" in content["text/plain"] else drawn).append(content)
    assert len(answers) == 2  # only when it changed
    assert len(drawn) == STEPS + 1 and all("<svg" in content["text/html"] for content in drawn[:-1])
    assert ">ppo-001 · step 6/12 · 50 % · 18 s left<" in drawn[5]["text/html"]
    assert "score 0.600 · gold 0.140 · kl 3.000 · length 26.000" in drawn[5]["text/plain"]
    assert charts.MIME in drawn[-1] and drawn[-1][charts.MIME]["data"][0]["y"][-1] == pytest.approx(
        1.2
    )
    axes = [
        set(re.findall(r'text-anchor="middle" font-size="11">(\d+)<', content["text/html"]))
        for content in drawn[:-1]
    ]
    assert all("10" in ticks for ticks in axes)  # the x axis does not move while the run goes on
    assert max(len(content["text/html"]) for content in drawn[:-1]) < 60_000


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
    monkeypatch.setattr(live, "display", slow)
    listener = charts.dashboard(PpoRun())
    for step in range(1, steps + 1):
        clock.time += 1.0
        listener(entry(step, steps=steps, watch_response=f"answer {step % 3}"))
    listener.finish()
    assert sum(spent) / clock.time < 0.02 and len(spent) >= 4


def test_live_over_a_finished_run(notebook, clock):  # noqa: F811
    listener = charts.dashboard(PpoRun("ppo-002"), whole("ppo-001"))
    listener(entry(1))
    shown = notebook.shown[0][0]["text/html"]
    assert (
        ElementTree.fromstring(shown) is not None
        and "– – ppo-001" in shown
        and "— ppo-002" in shown
    )


def test_a_run_that_resumes_goes_over_no_step_twice(notebook, clock):  # noqa: F811
    listener = charts.dashboard(whole(steps=6))
    for step in (5, 6, 7):
        clock.time += 2.0
        listener(entry(step, score=-1.0))
    assert [row["step"] for row in listener.rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["score"] for row in listener.rows[3:]] == [pytest.approx(0.4), -1.0, -1.0, -1.0]


def test_live_outside_a_notebook_is_a_line(capsys, clock):  # noqa: F811
    listener = charts.dashboard(PpoRun())
    listener(entry(1))
    listener.finish()
    assert "step 1/12" in capsys.readouterr().err


@pytest.mark.parametrize("text", EVIL)
def test_what_a_model_says_stays_text(notebook, clock, text):  # noqa: F811
    listener = charts.dashboard(PpoRun(text), whole("other"))
    listener(
        entry(1, watch_prompt=text, watch_response=text + "$$\\href{javascript:alert(1)}{x}$$")
    )
    chart, answers = (content["text/html"] for content, _ in notebook.shown)
    tags = {
        tag.split("}")[-1] for tag in (node.tag for node in ElementTree.fromstring(chart).iter())
    }
    assert tags <= {"svg", "text", "tspan", "polyline", "polygon"}
    assert not any(
        bad in chart + answers for bad in ("<script", "<img", "<a ", "\u202e", "\x1b", "\0")
    )
    assert answers.startswith(
        '<div class="tex2jax_ignore mathjax_ignore">'
    )  # or JupyterLab would set the formula


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
    found = [
        path.split() for path in re.findall(r'points="([^"]*)" fill="none" stroke="#0072B2"', drawn)
    ]
    assert [len(points) for points in found] == [2, 2, 2] and found[1][0] == found[1][1]


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
    assert (
        _ends([]) == (-1, 1)
        and _ends([2.0, None]) == (1, 3)
        and _ends([0.0], from_zero=True) == (0, 1)
    )
    assert _ends([1.0, 2.0], from_zero=True, room=0.1) == (0, 2.2) and _ends(
        [-1.0, 1.0], room=0.1
    ) == (-1.2, 1.2)


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

    view = View(
        lab, browser, "dashboard", CELL.format(rows=[entry(step) for step in range(1, STEPS + 1)])
    )
    outputs = view.page.locator(".jp-OutputArea-child")
    for step in (4, 8):
        view.page.get_by_text(f"step {step}/{STEPS}").wait_for()
        assert outputs.count() == 2  # the chart, and the answers
        (lab.notebooks / f"seen-{step}").touch()
    view.page.locator(
        ".jp-OutputArea .gtitle", has_text=f"step {STEPS}/{STEPS}"
    ).first.wait_for()  # plotly's
    assert (
        outputs.count() == 2
        and view.page.locator(".jp-OutputArea-output svg[role=img]").count() == 0
    )
