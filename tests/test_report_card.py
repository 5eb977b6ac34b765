"""The report card: what is said of made-up figures, and a page that needs nothing else."""

import copy
import html
import json
import re
from html.parser import HTMLParser

import pytest

from labkit import LabError, evals, series
from labkit.labs import report_card, report_page

LEVELS = {  # greedy and matched win rates of a first seed
    "ppo": (0.82, 0.75),
    "dpo": (0.80, 0.66),
    "kto": (0.78, 0.60),
    "rlaif": (0.70, 0.52),
}

CARD = {"wins_greedy": 0.6, "wins_matched": 0.58, "wins_n": 200, "words": 12.0}
CARD |= {"kl": 1.0, "over_refused": 0.2, "over_refused_n": 384}


def seed(number: int) -> dict:
    """A row of a report, as series.row makes it."""
    shift = 0.01 * number
    row = {"seed": number, "runs": {"sft": f"sft-{number}"}, "seconds": {"sft": 240.0, "ppo": 30.0}}
    manners = {"hedging": 0.14, "apology": 0.16, "ai_disclaimer": 0.09, "words": 16.0}
    manners |= {"refused": 0.9, "refused_n": 384, "over_refused": 0.25, "over_refused_n": 384}
    figures = {"sft": {**manners, "n": 300}}
    for name, (greedy, matched) in LEVELS.items():
        wins = {"wins_greedy": greedy + shift, "wins_matched": matched + shift, "wins_n": 300}
        figures[name] = {**manners, "hedging": 0.02, "words": 9.0, **wins, "kl": 1.5}
    figures["best_of_4"] = {"words": 15.0, "wins_greedy": 0.4, "wins_n": 300, "wins_random": 0.7}
    figures["random_of_4"] = {"words": 16.5, "wins_greedy": 0.3, "wins_n": 300, "gold": 0.25}
    figures["best_of_4"]["gold"] = 0.5
    row["costs"] = {
        name: {"demonstrations": 36_000, "comparisons": 1000 * i, "seconds": 200.0 + 10 * i}
        | {"peak_bytes": 7e8 + i}
        for i, name in enumerate(LEVELS)
    }
    return row | {f"{name}_{k}": v for name, one in figures.items() for k, v in one.items()}


def made(*numbers) -> dict:
    rows = [seed(number) for number in numbers]
    about = {"profile": "tiny", "base": "shipped/pretrain", "versions": {"torch": "2.13.0"}}
    settings = {"settings": {"ppo": {"beta": 0.2, "policy": ""}, "kto": {"beta": 0.1}}}
    return about | settings | {"seeds": rows, **series.summary(rows)}


@pytest.fixture
def report():
    return made(0, 1, 2)


def methods(found):
    return [row["method"] for row in found]


def test_the_rows_are_the_methods_that_the_report_has(report, tmp_path):
    found = report_card.rows(report, tmp_path)
    assert methods(found) == "SFT,random of 4,best of 4,PPO,DPO,KTO,RLAIF".split(",")
    assert found[3]["seeds"][1]["wins_greedy"] == pytest.approx(0.83)
    assert found[3]["costs"][0]["demonstrations"] == 36_000 and found[1]["costs"] == [{}] * 3
    for row in report["seeds"]:  # a report of an older labkit
        for key in [key for key in row if key.startswith(("kto", "rlaif"))]:
            del row[key]
    assert methods(report_card.rows(report, tmp_path))[-1] == "DPO"


def test_a_rate_has_the_interval_of_all_its_questions(report, tmp_path):
    ppo = report_card.rows(report, tmp_path)[3]
    one = report_card.share(ppo, "wins_greedy")
    assert one["n"] == 900 and one["seeds"] == pytest.approx([0.82, 0.83, 0.84])
    assert (one["low"], one["high"]) == pytest.approx(evals.interval(0.83, 900))
    assert report_card.share(ppo, "refused")["n"] == 3 * 384
    assert report_card.share(ppo, "hedging")["n"] == 900
    assert report_card.share(ppo, "no such") is None
    ppo["seeds"][1]["refused"] = float("nan")  # nothing was asked
    assert report_card.share(ppo, "refused") is None


def test_the_table_shows_gain_manners_and_price_of_each(report, tmp_path):
    text = str(report_card.table(report_card.rows(report, tmp_path)))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    for part in ("0.83 (0.80 to 0.85)", "0.76 (", "1.50", "9.00", "0.02", "0.25", "900", "1,152"):
        assert part in lines["PPO"]
    assert "36,000 demonstrations" in lines["PPO"] and "comparisons" not in lines["PPO"]
    assert "36,000 demonstrations, 1,000 comparisons" in lines["DPO"]
    assert "210 |" in lines["DPO"] and "700 |" in lines["DPO"]


def test_what_is_said_follows_the_figures(report, tmp_path):
    def said():
        return "\n".join(report_card.sentences(report_card.rows(report, tmp_path)))

    text = said()
    assert "every seed lie above ½ for PPO, DPO, KTO; not for RLAIF." in text
    assert "Against greedy SFT, PPO wins most (0.83), then DPO (0.81); the 3 seeds agree" in text
    assert "KTO minus DPO, against greedy SFT: -0.02 (seeds -0.02, -0.02, -0.02), within 5" in text
    assert "KTO minus DPO, against SFT at equal entropy: -0.06" in text and "not within 5" in text
    assert "RLAIF minus PPO" in text
    assert "best of 4 has a gold mark +0.25 beside a random choice of the same size, and" in text
    assert "wins 0.70 (0.67 to 0.73) against it" in text and "records" not in text
    assert (
        "Hedging, SFT 0.14 (0.12 to 0.16): more often with none; less often with PPO, DPO" in text
    )
    assert "Apology, SFT 0.16 (0.14 to 0.19): more often with none; less often with none." in text
    assert "16.0 by SFT, 9.0 (PPO) to 16.5 (random of 4) else" in text
    assert "PPO (200 s) took the least time, RLAIF (230 s) the most" in text

    report["seeds"][2]["dpo_wins_greedy"] = 0.9
    report["seeds"][0]["ppo_wins_matched"] = 0.4  # one seed that loses is enough
    for row in report["seeds"]:
        row["kto_hedging"] = 0.5
    text = said()
    assert "above ½ for DPO, KTO; not for PPO, RLAIF." in text
    assert "DPO wins most (0.84), then PPO (0.83); the seeds do not agree on the order" in text
    assert "more often with KTO; less often with PPO, DPO, RLAIF." in text


def test_policies_of_other_records_are_rows_too(report, tmp_path):
    card = CARD | {"seconds": 77.0}
    record = {
        "seeds": [
            {"seed": n, "cards": {"revisions": card, "once": card} if n else {"revisions": card}}
            | {"rounds": [{"wins": 0.5}, card], "sft": {"words": 3.0, "over_refused": 0.1}}
            for n in range(2)
        ]
    }
    (tmp_path / "constitution.json").write_text(json.dumps(record), "utf8")
    (tmp_path / "form.json").write_text(json.dumps({"rates": [1, 2]}), "utf8")
    found = report_card.rows(report, tmp_path)
    assert methods(found)[7:] == ["constitution · revisions", "constitution · rounds · 2"]
    one = found[7]
    assert (
        report_card.share(one, "wins_greedy")["n"] == 400 and report_card.cost(one, "seconds") == 77
    )
    assert "constitution · revisions" in str(report_card.table(found))
    assert "constitution · revisions" in str(report_card.picture(found))
    said = report_card.sentences(found)
    assert said[:-1] == report_card.sentences(found[:7])  # they change nothing for the others
    assert said[-1].startswith("In other records: Against") and "· rounds · 2." in said[-1]


def test_a_best_of_a_record_has_its_random_choice_beside_it(report, tmp_path):
    record = {"seeds": [{"best 1": CARD | {"gold": 0.7}, "random 1": CARD | {"gold": 0.6}}]}
    (tmp_path / "helpful_or_safe.json").write_text(json.dumps(record), "utf8")
    said = report_card.sentences(report_card.rows(report, tmp_path))
    assert "helpful or safe · best 1 has a gold mark +0.10 beside a random choice" in "".join(said)


def test_your_report_comes_before_the_projects(report, empty_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(report_card, "shipped", lambda: tmp_path)
    with pytest.raises(LabError, match="no report of the series at .*labkit run --seeds 3"):
        report_card.load()
    report_page.write(report, tmp_path)
    assert report_card.load() == (report, "the project's report")
    empty_runs.mkdir()
    for broken in ("[", "[]", "{}", '{"profile": "tiny", "seeds": [{}]}'):
        (empty_runs / "report.json").write_text(broken, "utf8")
        with pytest.raises(LabError, match="is no report of the series. Make one"):
            report_card.load()
    report_page.write(report | {"profile": "small"}, empty_runs)
    assert report_card.load() == (report | {"profile": "small"}, "your report")


# --- the page ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags that stand open, every attribute, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)


def test_the_page_holds_every_method_and_figure(report, tmp_path):
    text = report_page.page(report, tmp_path)
    page = Page(text)
    assert page.open == [] and {"svg", "table", "h1", "details"} <= page.tags
    words = "\n".join(page.words)
    for part in (*report_card.NAMES.values(), *report["mean"], *report_card.LABELS.values()):
        assert part in words or part in ("thumbs", "AI labels"), part  # nobody's here
    for line in report_card.sentences(report_card.rows(report, tmp_path)):
        assert line in words
    for part in (
        "0.83 (0.80 to 0.85)",
        "seeds 0, 1, 2",
        "torch 2.13.0",
        "beta 0.2",
        "seed 2",
        "240",
    ):
        assert part in words
    for row in report["seeds"]:
        assert f"{row['ppo_wins_matched']:.3f}" in words


def test_the_page_opens_offline(report, tmp_path):
    text = report_page.page(report, tmp_path)
    page = Page(text)
    names = {"http://www.w3.org/2000/svg"}  # of a language, not an address that is read
    assert set(re.findall(r"\w+://[^\s\"'<>)]+", text)) == names
    assert not page.tags & {"script", "link", "img", "iframe", "object", "image", "base"}
    assert not {name for name, _ in page.attributes} & {"src", "href", "xlink:href", "srcset"}
    assert "@import" not in text and "default-src 'none'" in text


def test_text_in_a_report_stays_text(report, tmp_path):
    evil = "<script>alert(1)</script>\u202e"
    report = copy.deepcopy(report)
    report |= {"profile": evil, "base": evil, "settings": {evil: {evil: evil}}}
    report["versions"] = {evil: evil}
    report["seeds"][0]["seconds"] = {evil: 1.0}
    report["mean"][evil] = report["spread"][evil] = 0.5
    for row in report["seeds"]:
        row[evil] = 0.5
    card = CARD
    (tmp_path / "form.json").write_text(json.dumps({"seeds": [{evil: card}]}), "utf8")
    text = report_page.page(report, tmp_path)
    assert "script" not in Page(text).tags and "\u202e" not in text
    assert html.escape("<script>alert(1)</script>⟨202E⟩") in text


def test_the_page_has_the_reports_own_note(report, tmp_path):
    assert "Alone, &lt;b&gt;." in report_page.page(report | {"note": "Alone, <b>."}, tmp_path)


def test_report_and_page_are_written(report, tmp_path):
    report_page.write(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf8")) == report
    assert (tmp_path / "report.html").read_text("utf8") == report_page.page(report)
