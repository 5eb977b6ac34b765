"""Figures from tables: what they hold, what they escape, how they are shown. PNGs are drawn where
there is a Chromium.
"""

import base64
import io
import json
import shutil
import struct
import sys
import types

import pytest

from labkit import LabError, charts
from labkit.charts import pictures, tables
from labkit.charts import progress as live

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
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr(
        live, "display", lambda content, **options: shown.append((content, options)) or handle
    )
    return types.SimpleNamespace(shown=shown, handle=handle)


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(time=0.0)
    monkeypatch.setattr(live.time, "perf_counter", lambda: now.time)
    return now


def figures():
    return {
        "curves": charts.curves(ROWS, ["loss", "kl"], title="自督導式學習"),
        "one": charts.curves(ROWS, {"loss": "loss (nats)"}, smooth=0.5),
        "bars": charts.bars(
            [{"m": "SFT", "v": 0.5, "e": 0.1}, {"m": "PPO", "v": 0.7, "e": 0.1}],
            "m",
            "v",
            error="e",
        ),
        "histogram": charts.histogram({"a": [0, 1, 2], "b": [1.0, float("nan")]}),
        "calibration": charts.calibration([0.1, 0.9, 0.8], [0, 1, 1]),
        "heat": charts.heat(["台", "灣", " is"], [1.0, -2.0, None]),
    }


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
    drawn = [
        charts.curves(form).to_plotly_json()["data"]
        for form in (run, [run], ROWS, {"run": ROWS}, {"run": run})
    ]
    assert (
        all(data == drawn[0] for data in drawn) and len(drawn[0]) == 2
    )  # loss and kl: neither step nor steps


def test_smoothing_is_a_bias_corrected_mean():
    raw, smooth = charts.curves(
        [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 4.0}], ["loss"], smooth=0.5
    ).data
    assert list(raw.y) == [1.0, 4.0]
    assert list(smooth.y) == [1.0, 3.0]  # (0.25 · 1 + 0.5 · 4) / 0.75


def test_curves_leave_gaps_and_thin_long_lines():
    line = charts.curves(
        [
            {"step": 1, "loss": 1.0},
            {"step": 2, "loss": float("nan")},
            {"step": 3},
            {"step": 4, "loss": 2},
        ],
        ["loss"],
    ).data[0]
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
    assert list(gold.y) == [1.0, 3.0] and list(proxy.x) == [0] and gold.line.dash != proxy.line.dash
    assert gold.name == "&lt;b&gt;PPO, gold" and figure.layout.shapes[0].y0 == 0.2
    assert "gold: 1.00 → 3.00" in figure.layout.meta["alt"]
    (line,) = charts.bands({"a": [{"d": 0, "gold": 1.0}]}, "d", "gold").data  # no spread, no band
    assert line.name == "a"
    with pytest.raises(LabError):
        charts.bands({}, "d", "gold")


def test_histogram_shares_and_calibration_by_hand():
    a, b = charts.histogram({"a": [0.0, 0.0, 1.0, 4.0], "b": [4.0]}, bins=2).data
    assert (
        list(a.y) == [0, 0.75, 0.25, 0.25, 0]
        and list(b.y) == [0, 0, 1, 1, 0]
        and list(a.x) == [0, 0, 2, 4, 4]
    )
    assert "mean 1.25, n = 4" in a.name
    measured = charts.calibration(
        [0.2] * 5 + [0.8] * 5, [1, 0, 0, 0, 0, 1, 1, 1, 0, 0], bins=2
    ).data[1]
    assert list(measured.x) == pytest.approx([0.2, 0.8]) and list(measured.y) == pytest.approx(
        [0.2, 0.6]
    )
    assert "mean gap 10.0%" in measured.name  # (0 + 0.2) / 2
    low, high = 0.2 - measured.error_y.arrayminus[0], 0.2 + measured.error_y.array[0]
    assert (low, high) == pytest.approx((0.0362, 0.6245), abs=2e-3)  # Wilson's interval of 1 in 5


def test_heat_colours_by_sign_and_wraps():
    figure = charts.heat(["good", " bad", "none"] * 20, [1.0, -2.0, None] * 20)
    colours = [shape.fillcolor for shape in figure.layout.shapes[:3]]
    assert colours == [
        "rgba(108,180,228,0.500)",
        "rgba(240,163,94,1.000)",
        "rgba(240,163,94,0.000)",
    ]
    assert (
        len({shape.y0 for shape in figure.layout.shapes}) > 1
        and max(shape.x1 for shape in figure.layout.shapes) <= 84
    )
    with pytest.raises(LabError, match="2 tokens but 1 values"):
        charts.heat(["a", "b"], [1.0])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.curves([]),
        lambda: charts.curves({}),
        lambda: charts.bars([], "x", "y"),
        lambda: charts.histogram({}),
        lambda: charts.histogram({"a": []}),
        lambda: charts.calibration([], []),
        lambda: charts.heat([], []),
        lambda: charts.heat(["a"], [None]),
        lambda: charts.table([]),
    ],
)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(LabError, match="nothing to draw"):
        draw()


def test_a_metric_that_was_not_logged_is_named():
    with pytest.raises(LabError, match="no rewards was logged. There is: loss, kl"):
        charts.curves(ROWS, ["rewards"])


def test_every_figure_says_what_it_shows():
    for name, figure in figures().items():
        assert len(live.alt_of(figure)) > 20, name
    assert (
        live.alt_of(figures()["curves"]) == "Lines over step. loss 4.000 → 1.000; kl 0.100 → 0.400"
    )


# --- untrusted text ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", EVIL)
def test_text_stays_text(text):
    drawn = [
        charts.heat([text, "x"], [1.0, 0.0]),
        charts.bars([{"m": text, "v": 1.0}], "m", "v", title=text),
        charts.histogram({text: [1.0]}, x=text),
        charts.curves({text: [{"step": 1, text: 1.0}]}, title=text),
    ]
    for figure in drawn:
        spec = (
            json.dumps(
                {
                    "data": figure.to_plotly_json()["data"],
                    "layout": {**figure.to_plotly_json()["layout"], "meta": None},
                },
                ensure_ascii=False,
                default=str,
            )
            .replace("<br>", "")
            .replace("<b>", "")
            .replace("</b>", "")
            .replace("<extra></extra>", "")
        )
        assert not set("\u202e\x1b\0") & set(live.alt_of(figure))
        assert (
            "<" not in spec
            and "\u202e" not in spec
            and "\\u0000" not in spec
            and "\\u001b" not in spec
        )
    made = charts.table([{"answer": text, text: 1}], title=text)._repr_mimebundle_()
    inner = made["text/html"]
    assert not any(bad in inner for bad in ("<script", "<img", "<a ", "\u202e", "\x1b", "\0"))
    assert (
        "\u202e" not in made["text/plain"]
        and "\x1b" not in made["text/plain"]
        and "\0" not in made["text/plain"]
    )


def test_visible():
    assert tables.visible("a\tb\nc\x1b\u202e\ud800\u2028") == "a⇥b⏎c⟨1B⟩⟨202E⟩\ufffd⟨2028⟩"
    assert tables.visible("玉山 👩\u200d🏫 é") == "玉山 👩\u200d🏫 é"


# --- tables --------------------------------------------------------------------------------------


def test_a_table_reads_well_as_text_and_html():
    made = charts.table(
        [
            {"method": "SFT", "win": 0.51234, "rate": 3e-5, "n": 1200, "ok": True},
            {"method": "強化|學習", "win": None, "n": 3, "ok": False},
        ]
    )
    assert str(made).split("\n") == [
        "| method     |   win |    rate |     n | ok  |",
        "| ---------- | ----: | ------: | ----: | --- |",
        "| SFT        | 0.512 | 3.0e-05 | 1,200 | yes |",
        "| 強化\\|學習 |     – |       – |     3 | no  |",
    ]
    inner = made._repr_mimebundle_()["text/html"]
    assert inner.count("<tr>") == 3 and inner.count('<th scope="col"') == 5 and "強化|學習" in inner


def test_a_table_takes_chosen_columns_and_headings():
    assert str(charts.table([{"a": 1.0, "b": 2}], {"b": "Beta"})).split("\n")[0] == "| Beta |"
    assert str(charts.table([{"a": 1.26}], ["a"], digits=1)).endswith("| 1.3 |")
    assert "line<" not in charts.table([{"a": "one\nline"}])._repr_mimebundle_()[
        "text/html"
    ].replace("one\nline</td>", "")


# --- showing -------------------------------------------------------------------------------------


def test_show_emits_plotly_json_and_text_never_html(notebook):
    for figure in figures().values():
        charts.show(figure)
    charts.show(charts.curves(ROWS), alt="The loss falls.")
    for content, _ in notebook.shown:
        assert set(content) == {charts.MIME, "text/plain"} and len(json.dumps(content)) < 60_000
    assert notebook.shown[-1][0]["text/plain"] == "The loss falls."
    charts.show(charts.table([{"a": 1}]))
    assert set(notebook.shown[-1][0]) == {"text/html", "text/plain"}


def test_show_outside_a_notebook_prints(capsys):
    charts.show(charts.curves(ROWS), alt="The loss falls.")
    assert capsys.readouterr().out == "The loss falls.\n"


def test_show_in_colab_uses_its_renderer(notebook, monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(live.pio, "show", lambda figure, renderer: asked.append(renderer))
    charts.show(charts.curves(ROWS))
    assert asked == ["colab"] and notebook.shown == []


def test_figures_hold_plain_lists_and_our_template():
    """Base64 arrays, which plotly makes of NumPy's, are not read by older front ends."""
    for figure in figures().values():
        spec = charts.bundle(figure, static=False)[charts.MIME]
        assert "bdata" not in json.dumps(spec)
        assert (
            spec["layout"]["template"]["layout"]["paper_bgcolor"] == "#ffffff"
            and "CJK" in spec["layout"]["template"]["layout"]["font"]["family"]
        )


# --- live ----------------------------------------------------------------------------------------


def test_live_updates_one_display_in_place(notebook, clock):
    run = FakeRun("sft-001", [])
    listener = charts.live(run, ["loss"], every_seconds=1.0)
    for second in range(40):
        clock.time = second / 4
        listener({"step": second + 1, "steps": 40, "loss": 1.0 / (second + 1)})
    listener.finish()
    listener.finish()
    assert len(notebook.shown) == 1 and notebook.shown[0][1] == {"display_id": True}
    assert (
        len(notebook.handle.updates) == 10
    )  # nine of the ten seconds after the first, and the end
    for content in [
        notebook.shown[0][0],
        *notebook.handle.updates[:-1],
    ]:  # plotly's renderer keeps a first state
        assert set(content) == {"text/html", "text/plain"} and content["text/html"].startswith(
            "<svg"
        )
    last = notebook.handle.updates[-1]
    assert last["text/plain"] == "sft-001 · step 40/40 · 100 % · 10 s · loss 0.025"
    assert len(last[charts.MIME]["data"][0]["x"]) == 40 and "image/png" not in last


def test_live_says_how_long(notebook, clock):
    listener = charts.live(FakeRun("ppo-001", []), ["kl"])
    clock.time = 6.0
    listener({"step": 3, "steps": 12, "kl": 0.5, "loss": 1})
    listener.rows[0]["step"] = 3
    listener.first = 1
    assert listener.line() == "ppo-001 · step 3/12 · 25 % · 18 s left · kl 0.500"


def test_live_copes_with_lines_without_its_metrics(notebook, clock):
    listener = charts.live(FakeRun("sft-001", []), ["loss"])
    listener({"note": "starting"})
    assert notebook.shown[0][0] == {"text/plain": "sft-001"}
    clock.time = 2.0
    listener({"loss": 1.0})
    assert (
        "<polyline" not in notebook.handle.updates[0]["text/html"]
    )  # without a step there is no point
    clock.time = 4.0
    listener({"step": 1, "loss": 1.0})
    assert "<polyline" in notebook.handle.updates[1]["text/html"]


def test_a_slow_display_is_drawn_seldom(notebook, clock, monkeypatch):
    def slow(content, **options):
        clock.time += 1.0
        return notebook.handle

    monkeypatch.setattr(live, "display", slow)
    listener = charts.live(FakeRun("sft-001", []), ["loss"])
    for second in range(1, 51):
        clock.time = float(second)
        listener({"step": second, "loss": 1.0})
    assert notebook.handle.updates == []  # one second of drawing waits for fifty: under 2 %


def test_live_outside_a_notebook_is_a_line_on_stderr(capsys, clock, monkeypatch):
    listener = charts.live(FakeRun("sft-001", []), ["loss"])
    for second in range(21):
        clock.time = float(second)
        listener({"step": second + 1, "steps": 21, "loss": 2.0})
    listener.finish()
    said = capsys.readouterr()
    assert (
        said.out == ""
        and said.err.count("\n") <= 4
        and said.err.endswith("sft-001 · step 21/21 · 100 % · 20 s · loss 2.000\n")
    )

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    listener = charts.live(FakeRun("sft-001", []), ["loss"])
    listener(ROWS[0])
    listener.finish()
    assert sys.stderr.getvalue().count("\r") == 2 and sys.stderr.getvalue().count("\n") == 1


# --- pictures ------------------------------------------------------------------------------------


def test_no_browser_is_said_before_training(monkeypatch):
    monkeypatch.setenv("LABKIT_STATIC_CHARTS", "1")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    monkeypatch.setattr(pictures, "_painter", None)
    for ask in (
        lambda: charts.live(FakeRun("sft-001", [])),
        lambda: charts.bundle(charts.curves(ROWS)),
    ):
        with pytest.raises(LabError, match="none was found. Install it .*apt-get install chromium"):
            ask()
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chrome")
    with pytest.raises(LabError, match="BROWSER_PATH=/nowhere/chrome is no file"):
        pictures.browser()
    monkeypatch.setenv("LABKIT_STATIC_CHARTS", "0")
    assert "image/png" not in charts.bundle(charts.curves(ROWS))


def test_no_kaleido_is_said(monkeypatch):
    monkeypatch.setattr(pictures, "browser", lambda: sys.executable)
    monkeypatch.setattr(pictures, "_painter", None)
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(LabError, match="needs kaleido. Install it"):
        pictures.png({"data": [], "layout": {}})


def test_a_browser_that_does_not_start_is_said(monkeypatch):
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", shutil.which("false"))
    monkeypatch.setattr(pictures, "SECONDS", 10)
    monkeypatch.setattr(pictures, "_painter", None)
    with pytest.raises(LabError, match="Chromium could not draw a picture"):
        pictures.png({"data": [], "layout": {}})


@pytest.mark.skipif(
    not any(map(shutil.which, pictures.BROWSERS)),
    reason="no Chromium here (apt-get install chromium fonts-noto-cjk)",
)
def test_pictures_are_drawn_by_one_browser(monkeypatch):
    monkeypatch.setenv("LABKIT_STATIC_CHARTS", "1")
    painters = set()
    try:
        for name, figure in figures().items():
            picture = base64.b64decode(charts.bundle(figure)["image/png"])
            width, height = struct.unpack(">II", picture[16:24])
            assert picture.startswith(b"\x89PNG") and (width, height) == (
                800,
                figure.layout.height,
            ), name
            assert len(picture) < 60_000, name
            painters.add(id(pictures._painter))
        assert len(painters) == 1
    finally:
        pictures.stop()
    assert pictures._painter is None
