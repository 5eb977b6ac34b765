"""Figures and tables: what they hold, what they escape, how they are shown. Pictures are drawn
where there is a Chromium.
"""

import base64
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_panel_browser import CHROMIUM

from labkit import LabError, charts
from labkit.charts import diagrams, pictures, progress, showing, tables
from labkit.charts.figures import ABOVE, BELOW
from labkit.charts.look import PAPER, faint

ROWS = [{"step": i, "steps": 4, "loss": 4.0 / i, "kl": 0.1 * i} for i in (1, 2, 3, 4)]
EVIL = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "\u202eevil",
    "\x1b[31mred",
    "a\0b",
    "&lt;",
)


FILMS = {
    "0": [{"update": 0, "玉山": 0.25, "rest": 0.75}, {"update": 1, "玉山": 0.5, "rest": 0.5}],
    "0.2": [{"update": 0, "玉山": 0.25, "rest": 0.75}, {"update": 1, "玉山": 1.0, "rest": 0.0}],
}


class FakeRun:
    def __init__(self, name, rows):
        self.name, self.rows, self.listeners = name, rows, []

    def metrics(self):
        return self.rows


class FakeHandle:
    def __init__(self):
        self.updates = []

    def update(self, content, raw):
        assert raw
        self.updates.append(content)


@pytest.fixture
def notebook(monkeypatch):
    """A stand-in for a kernel; the list holds what was displayed, the handle what was updated."""
    shown, handle = [], FakeHandle()
    monkeypatch.delenv("LABKIT_STATIC_CHARTS", raising=False)
    for module in (showing, progress):
        monkeypatch.setattr(module, "in_notebook", lambda: True)
        monkeypatch.setattr(
            module, "display", lambda content, **options: shown.append((content, options)) or handle
        )
    monkeypatch.setattr("labkit.charts.board.in_notebook", lambda: True)
    return types.SimpleNamespace(shown=shown, handle=handle)


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(time=0.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now.time)
    return now


def figures():
    bars = [{"m": "SFT", "v": 0.5, "e": 0.1}, {"m": "PPO", "v": 0.7, "e": 0.1}]
    band = {"d": 0, "gold": 1.0, "gold lowest": 0.5, "gold highest": 1.5, "proxy": 2.0}
    return {
        "curves": charts.curves(ROWS, ["loss", "kl"], title="自督導式學習"),
        "one": charts.curves(ROWS, {"loss": "loss (nats)"}, smooth=0.5),
        "bars": charts.bars(bars, "m", "v", error="e"),
        "bands": charts.bands({"PPO": [band, {**band, "d": 1}]}, "d", ["gold", "proxy"]),
        "areas": charts.areas(FILMS, "update", ["玉山", "rest"], {"0": "β = 0"}, "β = ", "0"),
        "histogram": charts.histogram({"a": [0, 1, 2], "b": [1.0, float("nan")]}),
        "calibration": charts.calibration([0.1, 0.9, 0.8], [0, 1, 1]),
        "heat": charts.heat(["台", "灣", " is"], [1.0, -2.0, None]),
    }


def test_importing_charts_loads_no_plotly():
    heavy = "print({'plotly', 'numpy', 'scipy', 'kaleido', 'IPython'} & set(sys.modules))"
    command = [sys.executable, "-c", f"import sys, labkit.charts; {heavy}"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "set()\n"


# --- figures -------------------------------------------------------------------------------------


def test_curves_draw_each_metric_of_each_run():
    figure = charts.curves([FakeRun("ppo-001", ROWS), FakeRun("ppo-002", ROWS[:2])], ["loss", "kl"])
    assert [(t.name, t.xaxis, list(t.y)) for t in figure.data] == [
        ("ppo-001", "x", [4.0, 2.0, 4 / 3, 1.0]),
        ("ppo-002", "x", [4.0, 2.0]),
        ("ppo-001", "x2", pytest.approx([0.1, 0.2, 0.3, 0.4])),
        ("ppo-002", "x2", pytest.approx([0.1, 0.2])),
    ]
    assert figure.data[0].line.color == figure.data[2].line.color != figure.data[1].line.color
    assert figure.data[0].line.dash != figure.data[1].line.dash  # not by colour alone
    assert [t.showlegend for t in figure.data] == [True, True, False, False]


def test_curves_accept_every_form_and_find_the_metrics():
    run = FakeRun("run", ROWS)
    forms = (run, [run], ROWS, {"run": ROWS}, {"run": run})
    drawn = [charts.curves(form).to_plotly_json()["data"] for form in forms]
    assert all(data == drawn[0] for data in drawn)
    assert len(drawn[0]) == 2  # loss and kl: neither step nor steps


def test_smoothing_is_a_bias_corrected_mean_before_the_raw_line():
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 4.0}]
    raw, smooth = charts.curves(rows, ["loss"], smooth=0.5).data
    assert list(raw.y) == [1.0, 4.0]
    assert list(smooth.y) == [1.0, 3.0]  # (0.25 · 1 + 0.5 · 4) / 0.75


def test_curves_leave_gaps_and_thin_long_lines():
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}, {"step": 3}]
    line = charts.curves([*rows, {"step": 4, "loss": 2}], ["loss"]).data[0]
    assert (list(line.x), list(line.y)) == ([1, 2, 4], [1.0, None, 2])
    long = charts.curves([{"step": i, "loss": i} for i in range(10_000)], ["loss"]).data[0]
    assert len(long.x) <= 301 and (long.x[0], long.x[-1]) == (0, 9_999)


def test_bands_hold_the_line_and_its_spread():
    rows = [
        {"d": 0, "gold": 1.0, "gold lowest": 0.5, "gold highest": 1.5, "proxy": 2.0},
        {"d": 2, "gold": 3.0, "gold lowest": 2.0, "gold highest": 3.5, "proxy": None},
    ]
    figure = charts.bands({"<b>PPO": rows}, "d", ["gold", "proxy"], level={"start": 0.2})
    band, gold, proxy = figure.data
    assert list(band.x) == [0, 2, 2, 0] and list(band.y) == [0.5, 2.0, 3.5, 1.5]  # there and back
    assert list(gold.y) == [1.0, 3.0] and list(proxy.x) == [0]
    assert gold.name == "&lt;b&gt;PPO, gold" and figure.layout.shapes[0].y0 == 0.2
    assert "gold: 1.00 → 3.00" in figure.layout.meta["alt"]
    (line,) = charts.bands({"a": [{"d": 0, "gold": 1.0}]}, "d", "gold").data  # no spread, no band
    assert line.name == "a"


def test_gold_is_solid_proxy_dashed_and_sft_grey_everywhere():
    rows = [{"step": 1, "gold": 1.0, "proxy": 2.0, "method": "SFT (greedy)"}]
    for columns in (["gold", "proxy"], ["proxy", "gold"]):
        lines = {
            line.name: line.line
            for line in charts.bands({"PPO": rows, "SFT": rows}, "step", columns).data
        }
        assert {line.dash for name, line in lines.items() if "gold" in name} == {"solid"}
        assert {line.dash for name, line in lines.items() if "proxy" in name} == {"dash"}
        assert {line.color for name, line in lines.items() if "SFT" in name} == {"#666666"}
        assert [line.line.dash for line in charts.curves(rows, columns).data] == [
            {"gold": "solid", "proxy": "dash"}[column] for column in columns
        ]
    assert charts.bars(rows, "method", "gold").data[0].marker.color == ("#666666",)
    assert charts.bars(rows, "step", "gold", group="method").data[0].marker.color == "#666666"


def test_the_encoding_holds_for_several_runs_and_for_an_sft_run_alone():
    rows = [{"step": i, "score": i, "gold": i, "loss": i} for i in (1, 2)]
    both = charts.curves({"a": rows, "b": rows}, ["score", "gold", "loss"]).data
    assert [line.line.dash for line in both] == ["dash"] * 2 + ["solid"] * 2 + ["solid", "dash"]
    assert both[2].line.color != both[3].line.color
    assert charts.curves(FakeRun("shipped/sft", rows), ["loss"]).data[0].line.color == "#666666"
    assert charts.curves(FakeRun("dpo-001", rows), ["loss"]).data[0].line.color == "#0072B2"


def test_areas_stack_and_slide():
    figure = charts.areas(
        FILMS, "update", ["玉山", "rest"], {"0.2": "second"}, "β = ", ticks={0: "SFT", 1: "1"}
    )
    assert [(t.name, t.visible, t.stackgroup, list(t.y)) for t in figure.data] == [
        ("玉山", True, "0", [0.25, 0.5]),
        ("rest", True, "0", [0.75, 0.5]),
        ("玉山", False, "0.2", [0.25, 1.0]),
        ("rest", False, "0.2", [0.75, 0.0]),
    ]
    assert figure.data[0].fillcolor != figure.data[1].fillcolor
    (slider,) = figure.layout.sliders
    assert slider.active == 0 and slider.currentvalue.prefix == "β = "
    assert [step.label for step in slider.steps] == ["0", "0.2"]
    shown, retitled = slider.steps[1].args
    assert shown == {"visible": [False, False, True, True]} and retitled == {"title.text": "second"}
    assert "玉山 25% → 50%" in figure.layout.meta["alt"]
    assert not charts.areas({"one": FILMS["0"]}, "update", ["rest"]).layout.sliders
    with pytest.raises(LabError, match="no film '7'. There are: 0, 0.2"):
        charts.areas(FILMS, "update", ["rest"], start="7")


def test_histogram_and_calibration_by_hand():
    a, b = charts.histogram({"a": [0.0, None, 1.0, 5.0], "b": [4.0]}).data
    assert list(a.x) == [0, 1, 5] and list(b.x) == [4] and a.bingroup == b.bingroup
    assert "mean 2.00, n = 3" in a.name
    said, happened = [0.2] * 5 + [0.8] * 5, [1, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    measured = charts.calibration(said, happened, bins=2).data[1]
    assert list(measured.x) == pytest.approx([0.2, 0.8])
    assert list(measured.y) == pytest.approx([0.2, 0.6])
    assert "mean gap 10.0%" in measured.name  # (0 + 0.2) / 2
    low, high = 0.2 - measured.error_y.arrayminus[0], 0.2 + measured.error_y.array[0]
    assert (low, high) == pytest.approx((0.0362, 0.6245), abs=2e-3)  # Wilson's interval of 1 in 5
    uneven = charts.calibration([0.1, 0.9, 0.8], [0, 1, 1], bins=2).data[1]
    assert "mean gap 13.3%" in uneven.name  # (1 · 0.1 + 2 · 0.15) / 3


def test_strips_hold_every_figure_and_the_sentences():
    words = ["玉", "山", "<b>", " 。", "[END]"]
    rows = {"value": [0.5, 1.0, None, -1.0, 0.001], "penalty": [0.0, -0.2, 0.1, 0.0, 0.0]}
    drawn = charts.strips(words, rows, {"value": "It rises <to> 1."}, title="One answer")
    tree = ElementTree.fromstring(drawn.svg())
    said = [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    for part in ("One answer", "玉", "[END]", "value", "It rises <to> 1.", "1.00", "−1.00", "0.00"):
        assert part in said
    assert "-0.00" not in said and "−0.00" not in said
    fills = [rect.get("fill") for rect in tree.iter("{http://www.w3.org/2000/svg}rect")][1:]
    assert len(fills) == 10 and fills[2] == PAPER  # None is white
    assert fills[1] == faint(ABOVE, 1) and fills[3] == faint(BELOW, 1)
    assert fills[0] == faint(ABOVE, 0.5)  # by its strip's largest value
    assert fills[6] == faint(BELOW, 1)
    sizes = [float(text.get("font-size")) for text in tree.iter() if text.get("font-size")]
    assert min(sizes) >= 12
    bundle = charts.bundle(drawn)
    assert set(bundle) == {"image/svg+xml", "text/plain"}
    assert "| 山" in bundle["text/plain"] and "value: It rises <to> 1." in bundle["text/plain"]


def test_strips_wrap_long_answers_and_refuse_other_lengths():
    short, long = (charts.strips(["word"] * n, {"value": [1.0] * n}) for n in (5, 40))
    heights, widths = zip(
        *(
            map(float, re.findall(r'(?:height|width)="(\d+)"', one.svg())[:2])
            for one in (short, long)
        )
    )
    assert set(heights) == {800} and widths[1] > 2 * widths[0]
    boxes = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', long.svg())
    assert len(boxes) == 40 and max(float(x) + float(w) for x, w in boxes) <= 800
    with pytest.raises(LabError, match="3 tokens but 2 values of 'value'. Give one value a token"):
        charts.strips(["a", "b", "c"], {"value": [1.0, 2.0]})
    with pytest.raises(LabError, match="nothing to draw"):
        charts.strips([], {"value": []})


def test_a_forest_puts_shares_intervals_and_seeds_beside_each_other():
    def share(mean, *seeds):
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "seeds": seeds}

    rows = [
        {"name": "PPO <b>", "greedy": share(0.8, 0.7, 0.9), "matched": share(0.6, 0.6)},
        {"name": "best of 4", "greedy": share(0.5, 0.5)},
    ]
    drawn = charts.forest(rows, {"greedy": "both <greedy>", "matched": "matched"}, "Wins", "share")
    tree = ElementTree.fromstring(drawn.svg())
    place = "{http://www.w3.org/2000/svg}"
    said = [text.text for text in tree.iter(f"{place}text")]
    for part in ("Wins", "PPO <b>", "both <greedy>", "0.80 (0.70 to 0.90)", "best of 4", "share"):
        assert part in said
    assert [x for x in said if re.fullmatch(r"0\.\d", x)] == [
        "0.4",
        "0.5",
        "0.6",
        "0.7",
        "0.8",
        "0.9",
    ]
    keys, dots = 2, list(tree.iter(f"{place}circle"))
    assert [dot.get("fill") == PAPER for dot in dots[keys:]] == [False, True, False]
    x = [float(dot.get("cx")) for dot in dots[keys:]]  # one scale for all
    assert (x[0] - x[1]) / (x[1] - x[2]) == pytest.approx(2, abs=0.01)
    seeds = [line for line in tree.iter(f"{place}polyline") if line.get("stroke-width") == "1.2"]
    assert len(seeds) == 4
    assert min(float(text.get("font-size")) for text in tree.iter(f"{place}text")) >= 12
    assert "0.600" in str(drawn) and "matched" in str(drawn)
    assert "PPO <b>, matched: 0.60" in tree.find(f"{place}title").text
    assert set(charts.bundle(drawn)) == {"image/svg+xml", "text/plain"}


def test_heat_colours_by_sign_and_wraps():
    figure = charts.heat(["good", " bad", "none"] * 20, [1.0, -2.0, None] * 20)
    boxes = figure.layout.shapes
    blue, orange = "rgba(108,180,228,0.500)", "rgba(240,163,94,1.000)"
    assert [box.fillcolor for box in boxes[:3]] == [blue, orange, "rgba(240,163,94,0.000)"]
    assert len({box.y0 for box in boxes}) > 1 and max(box.x1 for box in boxes) <= 84
    with pytest.raises(LabError, match="2 tokens but 1 values"):
        charts.heat(["a", "b"], [1.0])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.curves([]),
        lambda: charts.curves({}),
        lambda: charts.bars([], "x", "y"),
        lambda: charts.bands({}, "x", "y"),
        lambda: charts.areas({}, "x", ["y"]),
        lambda: charts.areas({"a": []}, "x", ["y"]),
        lambda: charts.histogram({"a": []}),
        lambda: charts.calibration([], []),
        lambda: charts.heat(["a"], [None]),
        lambda: charts.table([]),
        lambda: charts.forest([], {"wins": "wins"}),
    ],
)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(LabError, match="nothing to draw"):
        draw()


def test_a_metric_that_was_not_logged_is_named():
    with pytest.raises(LabError, match="no rewards was logged. There is: loss, kl"):
        charts.curves(ROWS, ["rewards"])


# --- untrusted text ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", EVIL)
def test_text_stays_text(text):
    made = [
        charts.heat([text, "x"], [1.0, 0.0]),
        charts.bars([{"m": text, "v": 1.0}], "m", "v", title=text),
        charts.histogram({text: [1.0]}, x=text),
        charts.bands({text: [{"d": 1, text: 1.0}]}, "d", text, level={text: 1}),
        charts.curves({text: [{"step": 1, text: 1.0}]}, title=text),
        charts.areas({text: [{"d": 1, text: 1.0}]}, "d", [text], {text: text}, ticks={1: text}),
        charts.table([{"answer": text, text: 1}], title=text),
    ]
    for chart in made:
        content = charts.bundle(chart)
        assert not set("\u202e\x1b\0") & set(content["text/plain"])
        spec = content.pop(charts.MIME, {"layout": {}})
        spec["layout"]["meta"] = None  # the alternative: no page reads it as HTML
        said = json.dumps([spec, content.get("text/html")], ensure_ascii=False)
        assert not re.search("<script|<img|<a |\u202e|\\\\u001b|\\\\u0000", said)


def test_a_quote_in_a_figure_is_one_that_plotly_reads():
    """Of entities plotly knows a few names and every number."""
    drawn = charts.bars([{"m": 'the "best" & <b>', "v": 1.0}], "m", "v", title='"')
    assert drawn.data[0].x[0] == "the &#34;best&#34; &amp; &lt;b&gt;"
    assert "&quot;" not in drawn.to_json()


def test_what_looks_like_a_formula_stays_text():
    """In a table and in a live chart by MathJax's own class, in plotly by its setting. What holds
    no formula is written as it always was.
    """
    for text in ("$x$", "\\(x\\)", "\\begin{a}"):
        (page,) = [charts.table([{"a": text}])._repr_mimebundle_()["text/html"]]
        assert page.startswith('<div class="tex2jax_ignore mathjax_ignore"')
        assert tables.as_text(text) and not tables.as_text("x")
    assert charts.table([{"a": "x"}])._repr_mimebundle_()["text/html"].startswith("<div style=")
    assert charts.bundle(charts.curves(ROWS))[charts.MIME]["config"]["typesetMath"] is False


def test_visible():
    assert tables.visible("a\tb\nc\x1b\u202e\ud800\u2028") == "a⇥b⏎c⟨1B⟩⟨202E⟩\ufffd⟨2028⟩"
    assert tables.visible("玉山 👩\u200d🏫 é") == "玉山 👩\u200d🏫 é"


# --- tables --------------------------------------------------------------------------------------


def test_a_table_reads_well_as_text_and_html():
    rows = [
        {"method": "SFT", "win": 0.51234, "rate": 3e-5, "n": 1200, "ok": True},
        {"method": "強化|學習", "win": None, "n": 3, "ok": False},
    ]
    made = charts.table(rows)
    assert str(made).split("\n") == [
        "| method     |   win |    rate |     n | ok  |",
        "| ---------- | ----: | ------: | ----: | --- |",
        "| SFT        | 0.512 | 3.0e-05 | 1,200 | yes |",
        "| 強化\\|學習 |     – |       – |     3 | no  |",
    ]
    page = made._repr_mimebundle_()["text/html"]
    assert page.count("<tr>") == 3 and page.count('<th scope="col"') == 5 and "強化|學習" in page
    assert page.count("text-align:right") == 3 * 3  # the three columns of numbers


def test_a_table_takes_chosen_columns_and_headings():
    assert str(charts.table([{"a": 1.0, "b": 2}], {"b": "Beta"})).split("\n")[0] == "| Beta |"
    assert str(charts.table([{"a": 1.26}], ["a"], digits=1)).endswith("| 1.3 |")
    broken = charts.table([{"a": "one\nline"}], title="t")
    assert "one\nline</td>" in broken._repr_mimebundle_()["text/html"]
    assert str(broken).startswith("t\n\n") and "one line" in str(broken)


# --- showing -------------------------------------------------------------------------------------


def test_show_emits_plotly_json_and_a_sentence_never_html(notebook):
    for name, figure in figures().items():
        charts.show(figure)
        content = notebook.shown[-1][0]
        assert set(content) == {charts.MIME, "text/plain"} and len(json.dumps(content)) < 60_000
        assert len(content["text/plain"]) > 20, name
        spec = content[charts.MIME]
        assert "bdata" not in json.dumps(spec)  # arrays in base64: older front ends read none
        assert spec["layout"]["template"]["layout"]["paper_bgcolor"] == "#ffffff"
        assert spec["config"]["showSendToCloud"] is False  # nobody uploads a chart by accident
    charts.show(figures()["curves"])
    alt = "Lines over step. loss 4.000 → 1.000; kl 0.100 → 0.400"
    assert notebook.shown[-1][0]["text/plain"] == alt
    charts.show(charts.table([{"a": 1}]))
    assert set(notebook.shown[-1][0]) == {"text/html", "text/plain"}


def test_a_figure_that_a_cell_ends_with_has_our_settings():
    import plotly.io as pio

    bare = pio.renderers["plotly_mimetype"].to_mimebundle(charts.curves(ROWS).to_dict())
    assert bare[charts.MIME]["config"]["showSendToCloud"] is False


def test_show_outside_a_notebook_prints(capsys):
    charts.show(charts.curves(ROWS, ["loss"]))
    assert capsys.readouterr().out == "Lines over step. loss 4.000 → 1.000\n"


@pytest.fixture
def colab(monkeypatch):
    """Colab's page, by the two signs that plotly and we go by."""
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setenv("COLAB_NOTEBOOK_ID", "1")


def test_colab_gets_a_page_that_loads_plotly(notebook, colab):
    charts.show(charts.curves(ROWS))
    page = notebook.shown[0][0]["text/html"]
    assert "cdn.plot.ly" in page and '"showSendToCloud": false' in page and len(page) < 60_000


@pytest.mark.parametrize("sign", ["its kernel in VS Code", "the variable alone"])
def test_what_is_not_colabs_page_gets_plotlys_own_format(notebook, colab, monkeypatch, sign):
    if sign == "the variable alone":
        monkeypatch.delitem(sys.modules, "google.colab")
    else:
        monkeypatch.delenv("COLAB_NOTEBOOK_ID")
    charts.show(charts.curves(ROWS))
    assert charts.MIME in notebook.shown[0][0]


# --- live ----------------------------------------------------------------------------------------


def test_live_updates_one_display_in_place(notebook, clock):
    listener = charts.live(FakeRun("sft-001", []), ["loss"])
    for second in range(40):
        clock.time = second / 4
        listener({"step": second + 1, "steps": 40, "loss": 1.0 / (second + 1)})
    listener.finish()
    listener.finish()
    assert [options for _, options in notebook.shown] == [{"display_id": True}]
    *moving, last = [notebook.shown[0][0], *notebook.handle.updates]
    assert len(moving) == 10  # once a second
    for content in moving:  # plotly's renderer keeps a first state
        assert set(content) == {"text/html", "text/plain"}
        assert content["text/html"].startswith("<svg")
    assert last["text/plain"] == "sft-001 · step 40/40 · 100 % · 10 s · loss 0.025"
    assert len(last[charts.MIME]["data"][0]["x"]) == 40 and "image/png" not in last


def test_live_on_colab_ends_with_a_chart_in_an_output_of_its_own(notebook, clock, colab):
    listener = charts.live(FakeRun("sft-001", []), ["loss"])
    for clock.time in (1.0, 2.0):
        listener({"step": int(clock.time), "steps": 2, "loss": clock.time})
    listener.finish()
    assert [options for _, options in notebook.shown] == [{"display_id": True}, {}]
    assert "cdn.plot.ly" in notebook.shown[1][0]["text/html"]
    assert set(notebook.handle.updates[-1]) == {"text/plain"}


def test_live_says_how_long(notebook, clock):
    """From the steps alone: what a stage did before its first one takes no part in it."""
    listener = charts.live(FakeRun("ppo-001", []), ["kl"])
    clock.time = 800.0  # the stage samples its pairs
    listener({"step": 1, "steps": 12, "kl": 0.1})
    assert notebook.shown[0][0]["text/plain"] == "ppo-001 · step 1/12 · 8 % · kl 0.100"
    clock.time = 804.0
    listener({"step": 3, "steps": 12, "kl": 0.5, "loss": 1})
    said = notebook.handle.updates[-1]["text/plain"]
    assert said == "ppo-001 · step 3/12 · 25 % · 18 s left · kl 0.500"


def test_live_copes_with_lines_without_its_metrics(notebook, clock):
    listener = charts.live(FakeRun("sft-001", []), ["loss"])
    for clock.time, values in enumerate(
        ({"note": "starting"}, {"loss": 1.0}, {"step": 1, "loss": 1.0})
    ):
        listener(values)
    assert notebook.shown[0][0] == {"text/plain": "sft-001"}
    without_step, whole = [content["text/html"] for content in notebook.handle.updates]
    assert "<polyline" not in without_step and "<polyline" in whole


def test_live_outside_a_notebook_is_a_line_on_stderr(capsys, clock, monkeypatch):
    listener = charts.live(FakeRun("sft-001", []), ["loss"])
    for second in range(21):
        clock.time = float(second)
        listener({"step": second + 1, "steps": 21, "loss": 2.0})
    listener.finish()
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 3  # at 0, 10 and 20 s, and not twice
    assert said.err.endswith("sft-001 · step 21/21 · 100 % · 20 s · loss 2.000\n")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    listener = charts.live(FakeRun("sft-001", []), ["loss"])
    listener(ROWS[0])
    listener.finish()
    assert sys.stderr.getvalue().count("\r") == 2 and sys.stderr.getvalue().count("\n") == 1


# --- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nowhere/chrome", shutil.which("false")])
def test_without_a_browser_there_is_a_warning_and_no_picture(monkeypatch, path):
    pytest.importorskip("kaleido")
    pictures._painter.cache_clear()
    monkeypatch.setenv("LABKIT_STATIC_CHARTS", "1")
    monkeypatch.setenv("BROWSER_PATH", path)
    with pytest.warns(UserWarning, match="apt-get install chromium"):
        assert "image/png" not in charts.bundle(charts.curves(ROWS))
    monkeypatch.setenv("LABKIT_STATIC_CHARTS", "0")
    assert "image/png" not in charts.bundle(charts.curves(ROWS))  # nor a warning


def test_without_kaleido_there_is_a_warning_and_no_picture(monkeypatch):
    pictures._painter.cache_clear()
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.warns(UserWarning, match="pip install kaleido"):
        assert pictures.png({"data": [], "layout": {}}) is None


DRAW = """
import psutil
from test_charts import charts, figures
for name, figure in figures().items():
    print(name, figure.layout.height, charts.bundle(figure)["image/png"])
print(sum("--headless" in one.cmdline() for one in psutil.Process().children()))
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
def test_one_browser_draws_all_pictures():
    """In a Python of its own, which must end without help while the browser is still there."""
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "LABKIT_STATIC_CHARTS": "1", "PYTHONPATH": path}
    ran = subprocess.run(
        [sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    *lines, browsers = ran.stdout.splitlines()
    for line in lines:
        name, height, picture = line.split()
        picture = base64.b64decode(picture)
        assert struct.unpack(">II", picture[16:24]) == (800, int(height)), name
        assert picture.startswith(b"\x89PNG") and len(picture) < 60_000, name
    assert len(lines) == len(figures()) and browsers == "1"


# --- diagrams ------------------------------------------------------------------------------------

FOLDER = Path(__file__).parent.parent / "notebooks"
BOXES = re.compile("[\u2500-\u257f►◄▲▼]")  # characters that drew boxes
REMOTE = re.compile(r"!\[[^]]*\]\((?!https://[^)]*badge)https?:|<img[^>]*https?:")


def texts_of(notebook: Path) -> list[str]:
    """The text cells of a notebook, and its code."""
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text("utf8"))["cells"]]


@pytest.mark.parametrize("name", diagrams.PICTURES)
def test_a_pictures_file_is_what_the_code_draws(name):
    assert (FOLDER / "pictures" / f"{name}.svg").read_text("utf8") == diagrams.drawn(name), (
        "draw it again: python -m labkit.charts.diagrams"
    )


def test_there_is_no_other_picture():
    """The panels' PNGs are tests/panel_pictures.py's."""
    assert {file.stem for file in (FOLDER / "pictures").glob("*.svg")} == set(diagrams.PICTURES)


@pytest.mark.parametrize("name", diagrams.PICTURES)
def test_a_picture_keeps_its_words_large_and_on_its_panel(name):
    root = ElementTree.fromstring(diagrams.drawn(name))
    wide, tall = float(root.get("width")), float(root.get("height"))
    for one in root.iter("{http://www.w3.org/2000/svg}text"):
        size, x, y = (float(one.get(key)) for key in ("font-size", "x", "y"))
        room = diagrams.room(one.text, size)
        left = x - room * {"start": 0, "middle": 0.5, "end": 1}[one.get("text-anchor")]
        assert size >= 15 and left >= 0 and left + room <= wide and size <= y <= tall - 10, one.text
    assert "http" not in diagrams.drawn(name).replace("http://www.w3.org/2000/svg", "")
    assert root[0].text == diagrams.alt(name) and len(diagrams.alt(name)) > 100


def test_every_notebook_shows_its_pictures_and_draws_no_boxes():
    shown, there = "", set()
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        texts = texts_of(notebook)
        there.add(number := notebook.name.split("_")[0])
        assert diagrams.markdown(number) in "\n".join(texts), notebook.name
        assert not [text for text in texts if BOXES.search(text)], notebook.name
        assert not [text for text in texts if REMOTE.search(text)], notebook.name
        shown += "\n".join(texts)
    # 11 is drawn; its notebook is to come.
    drawn = [name for name in diagrams.PICTURES if name in there]
    assert [name for name in drawn if diagrams.markdown(name) not in shown] == []


def test_the_checkers_of_pictures_see_what_is_wrong():
    assert BOXES.search("a ──> b") and BOXES.search("│") and not BOXES.search("a → b — c")
    assert REMOTE.search("![x](https://example.org/a.png)") and not REMOTE.search("![x](a.png)")
    assert REMOTE.search('<img src="http://a/b.png">')
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    assert not REMOTE.search(f"![Open in Colab]({badge})")
