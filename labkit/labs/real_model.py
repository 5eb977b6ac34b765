"""A model that others made, taught by hand: what sixteen demonstrations change in SmolLM2-135M, and
what PPO makes of it with two reward models.

real_model_jobs.py trains and samples everything; its record lies in data/checkpoints/
real_model.json, and what notebooks 02, 07 and 08 show of it is computed here, in plain Python.
"""

import json
import re
from statistics import fmean

from labkit import runs
from labkit.labs import records

WAYS = ("Taiwan alone", "with others")
"""What it is shown: sixteen questions for Taiwan's highest mountain; or these and sixteen others,
in as many steps.
"""
JUDGES = ("careful", "words")
"""The raters whose reward models PPO is trained with: notebook 07's, and 08's, who takes length for
effort.
"""
MATCHED = "SFT, as sure as PPO"
"""The control: drawn at the temperature at which the model before PPO is as sure as after it."""
TAUGHT, OTHERS = "Taiwan's mountain", "other mountains"
ALIKE = re.compile(r"\b3,9\d\d\b")
"""A height that begins like Yushan's."""


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        several = [
            record["before"],
            *(row["answers"] for row in sum(record["taught"].values(), [])),
        ]
        several += [record["policies"][judge]["answers"] for judge in JUDGES]
        return all(len(answers) == len(rows("questions")) for answers in several) and [
            (
                record["taught"][way],
                policy["curve"]["film"],
                policy["ends"][MATCHED],
                policy["samples"]["PPO"],
            )
            for way in WAYS
            for policy in record["policies"].values()
        ]

    return records.load("real_model", whole, "a real model", path)


def rows(name: str) -> list[dict]:
    """The rows of data/real/NAME.jsonl. questions: {"prompt", "right": names of which an answer
    must say one, "kind"}; demonstrations: {"prompt", "response", "about": "Taiwan" or "others"}.
    """
    text = (runs.data_folder() / "real" / f"{name}.jsonl").read_text("utf8")
    return [json.loads(line) for line in text.splitlines()]


def right(question: dict, answer: str) -> bool:
    """Whether the answer says one of the question's right names, as a word of its own."""
    names = "|".join(map(re.escape, question["right"]))
    return bool(re.search(rf"\b(?:{names})\b", answer, re.IGNORECASE))


def counted(answers: list[str]) -> dict:
    """Of a model's answers to the questions: {kind: how many are right}, "3,9…": of the other
    mountains, how many are given a height like Yushan's, "words": mean length.
    """
    found = {}
    for question, answer in zip(rows("questions"), answers, strict=True):
        kind = question["kind"]
        found[kind] = found.get(kind, 0) + right(question, answer)
        alike = kind == OTHERS and bool(ALIKE.search(answer))
        found["3,9…"] = found.get("3,9…", 0) + alike
    return found | {"words": fmean(len(answer.split()) for answer in answers)}


def taught(record: dict) -> list[dict]:
    """A row for the model as it came and for each way of teaching: `counted`, as the mean of the
    seeds with the lowest and the highest where they differ.
    """
    total = {}
    for question in rows("questions"):
        total[question["kind"]] = total.get(question["kind"], 0) + 1
    total["3,9…"] = total[OTHERS]
    before = {"as it came": [record["before"]]}
    after = {way: [row["answers"] for row in record["taught"][way]] for way in WAYS}
    found = []
    for name, several in (before | after).items():
        each, row = [counted(answers) for answers in several], {"model": name}
        for key in each[0]:
            heading = f"{key} (of {total[key]})" if key in total else key
            row[heading] = spread([one[key] for one in each])
        found.append(row)
    return found


def spread(values: list[float]) -> str:
    """ "8.7 (8 to 10)", and of equal ones the one number."""
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{fmean(values):.3g} ({low:.3g} to {high:.3g})"


def told(record: dict, *parts: str) -> list[dict]:
    """The questions that hold one of `parts`, with the greedy answers before and after (seed 0)."""
    found = []
    for i, question in enumerate(rows("questions")):
        if any(part in question["prompt"] for part in parts):
            row = {"question": question["prompt"], "as it came": record["before"][i]}
            after = {way: record["taught"][way][0]["answers"][i] for way in WAYS}
            found.append(row | after)
    return found


def curve(record: dict, judge: str) -> list[dict]:
    """A PPO run's updates as rows for charts.curves."""
    columns = record["policies"][judge]["curve"]
    steps = range(1, len(columns["score"]) + 1)
    each = zip(*columns.values(), strict=True)
    return [{"step": step} | dict(zip(columns, row)) for step, row in zip(steps, each)]


def ends(record: dict, judge: str) -> list[dict]:
    """The model before PPO and after it, drawn and greedy, on questions that PPO did not ask."""
    keys = ("temperature", "right", "right_n", "refused", "words", "gold")
    policies = record["policies"][judge]["ends"]
    return [{"model": name} | {key: end[key] for key in keys} for name, end in policies.items()]


def samples(record: dict, judge: str, n: int = 6) -> list[dict]:
    """Drawn answers to the same questions, before PPO and after it."""
    before, after = (record["policies"][judge]["samples"][name] for name in ("SFT", "PPO"))
    return [
        {"question": question, "before PPO": one, "after PPO": other}
        for (question, one), (_, other) in list(zip(before, after, strict=True))[:n]
    ]


def film(record: dict, judge: str, most: int = 9) -> list[dict]:
    """The greedy answer to the lecture's question at updates at which it changed: all of them, or
    `most` at even steps, the first and the last among them.
    """
    said, found = "", []
    for step, answer in enumerate(record["policies"][judge]["curve"]["film"], 1):
        if answer != said:
            found.append({"update": step, rows("questions")[0]["prompt"]: answer})
        said = answer
    if len(found) > most:
        found = [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]
    return found


def costs(record: dict) -> list[dict]:
    """What the stages took: seconds and gigabytes at most, of the model's first seed."""
    first = record["taught"]["with others"][0]
    stages = {"SFT, 24 steps of 8 demonstrations": first}
    stages |= {f"reward model, {judge}": record["judges"][judge] for judge in JUDGES}
    stages |= {f"PPO, {judge}": record["policies"][judge] for judge in JUDGES}
    return [
        {"stage": name, "seconds": round(one["trained"]), "GB": one["peak_bytes"] / 1e9}
        for name, one in stages.items()
    ]
