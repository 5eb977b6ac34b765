"""The report card as one HTML file, which opens offline: no script, no address."""

import html
import json

from labkit import charts
from labkit.charts.look import FONT, GREY, INK, PAPER, RULE
from labkit.charts.tables import visible
from labkit.labs.report_card import WINS, picture, rows, sentences, table, values

FILES = ("report.json", "report.html")
STYLE = f"""
body {{ font: 15px/1.5 {FONT}; color: {INK}; background: {PAPER}; margin: 24px auto;
  max-width: 1240px; padding: 0 16px }}
table {{ border-collapse: collapse; font-size: 13px; margin: 8px 0 }}
caption {{ text-align: left; font-weight: bold; padding: 6px 0 }}
th, td {{ border-bottom: 1px solid {RULE}; padding: 4px 8px }}
svg {{ max-width: 100%; height: auto }}
small {{ color: {GREY} }}
"""


def page(report: dict, folder=None) -> str:
    """The report as one HTML file: picture, table, what they say, every figure of every seed,
    settings, versions. It loads nothing: its policy forbids it.
    """
    found = rows(report, folder)
    about = {key: report.get(key) for key in ("profile", "base")}
    names = ", ".join(str(row["seed"]) for row in report["seeds"])
    parts = [f"<p>{escaped(facts(about | {'seeds': names} | report.get('versions', {})))}</p>"]
    if found:
        drawn = [row for row in found if any(values(row, key) for key in WINS)]
        parts += [picture(found).svg()] if drawn else []
        parts += [as_html(table(found)), "<h2>What it says</h2>", f"<p>{spoken(found)}</p>"]
        parts += [f"<p><small>{escaped(HOW)} {escaped(report.get('note', ''))}</small></p>"]
    parts += ["<h2>Every figure</h2>", as_html(charts.table(every(report), digits=3))]
    parts += ["<h2>Runs and seconds</h2>", as_html(charts.table(made(report), digits=1))]
    settings = report.get("settings", {})
    parts += ["<h2>Settings</h2>"] * bool(settings)
    parts += [
        f"<details><summary>{escaped(stage)}</summary><p>{escaped(facts(chosen))}</p></details>"
        for stage, chosen in settings.items()
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Report card</title><style>{STYLE}</style></head>\n<body><h1>Report card</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


HOW = (
    "Wins: share of held-out questions where the method's answer has the higher gold mark, ties"
    " half. Against greedy SFT the method says its likeliest answer, too (best and random of 4"
    " choose among sampled ones). At equal entropy the method is sampled at temperature 1, and SFT"
    " at the temperature where it has the method's entropy per answer: this takes away what is"
    " gained by becoming less random alone."
    " Gold: the mean mark of sampled answers."
    " Intervals are Wilson's over the questions of all seeds. KL to SFT in nats per answer. Words"
    " and symptoms are of answers sampled at temperature 1; refused (harmful requests) and"
    " over-refused (their harmless look-alikes) of greedy ones. Seconds: all stages after"
    " pre-training. Peak MB: of the process, in the stage that held the most; on a GPU, what was"
    " allocated there. Rows with a “·” are from the records that came with the project."
)


def spoken(found: list[dict]) -> str:
    return "<br>".join(map(escaped, sentences(found)))


def facts(values: dict) -> str:
    return " · ".join(
        f"{key} {value!s}" for key, value in values.items() if value not in (None, "")
    )


def every(report: dict) -> list[dict]:
    """A line per figure: each seed, mean, spread (highest minus lowest), n a seed."""
    each = report["seeds"]
    return [
        {"figure": key, **{f"seed {row['seed']}": row[key] for row in each}, "mean": value}
        | {"spread": report["spread"][key], "n a seed": each[0].get(f"{key}_n")}
        for key, value in report["mean"].items()
    ]


def made(report: dict) -> list[dict]:
    """A line per part of the series: each seed's seconds."""
    parts = dict.fromkeys(part for row in report["seeds"] for part in row["seconds"])
    return [
        {
            "part": part,
            **{f"seed {row['seed']}": row["seconds"].get(part) for row in report["seeds"]},
        }
        for part in parts
    ]


def as_html(one) -> str:
    return one._repr_mimebundle_()["text/html"]


def escaped(text) -> str:
    return html.escape(visible(str(text)))


def write(report: dict, folder) -> None:
    """The report's FILES in `folder`."""
    texts = json.dumps(report, indent=1) + "\n", page(report)
    for name, text in zip(FILES, texts, strict=True):
        (folder / name).write_text(text, "utf8")
