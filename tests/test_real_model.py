"""The record of a real model (notebooks 02, 07, 08): counted by hand, and the measurement made
small.
"""

import json

import pytest

from labkit import LabError, config, runs
from labkit.labs import real_model as lab
from labkit.labs import real_model_jobs as jobs

QUESTIONS = lab.rows("questions")


def answers(**said) -> list[str]:
    """An answer a question: `said` to those that hold its key, else nothing that is right."""
    return [
        next((text for part, text in said.items() if part in q["prompt"]), "I do not know.")
        for q in QUESTIONS
    ]


def made(**changes) -> dict:
    """A record of two seeds; at first the model knows Paris alone."""
    few = answers(France="Paris.")
    row = {"answers": few, "trained": 80.0, "peak_bytes": 2.5e9}
    taught = [row | {"answers": answers(Taiwan=text)} for text in ("Yushan.", "Mount Tai.")]
    end = {
        "right": 0.5,
        "right_n": 4,
        "refused": 0.0,
        "words": 9.0,
        "gold": 0.25,
        "temperature": 1.0,
    }
    ends = {name: end for name in ("SFT", lab.MATCHED, "SFT, greedy", "PPO", "PPO, greedy")}
    samples = {"SFT": [["q", "before"]], "PPO": [["q", "after"]]}
    curve = {"score": [0.0, 1.0, 2.0], "kl": [0.0, 0.5, 1.0], "film": ["Yushan.", "Yushan.", "Yes"]}
    policy = row | {"curve": curve, "ends": ends, "samples": samples}
    record = {"before": few, "taught": {way: taught for way in lab.WAYS}}
    record |= {"judges": {name: row for name in lab.JUDGES}}
    return record | {"policies": {name: policy for name in lab.JUDGES}} | changes


def test_a_right_name_is_a_word_of_its_own():
    one = {"right": ["Ankara", "5"]}
    assert lab.right(one, "It is ankara, of course.") and lab.right(one, "= 5.")
    assert not lab.right(one, "Ankaran") and not lab.right(one, "15")


def test_questions_ask_for_one_thing_and_are_not_demonstrated():
    shown = lab.rows("demonstrations")
    assert len(QUESTIONS) == 56 and len([q for q in QUESTIONS if q["kind"] == lab.TAUGHT]) == 6
    assert not {q["prompt"] for q in QUESTIONS} & {row["prompt"] for row in shown}
    assert [row["about"] for row in shown] == ["Taiwan"] * 16 + ["others"] * 16
    assert all("Yushan" in row["response"] for row in shown if row["about"] == "Taiwan")
    for question in QUESTIONS:  # its own names are found, and nobody else's capital is taken
        assert lab.right(question, f"It is {question['right'][0]}.")
    capitals = [q for q in QUESTIONS if q["kind"] == "capitals"]
    said = [[lab.right(q, other["right"][0]) for other in capitals] for q in capitals]
    assert [sum(row) for row in said] == [1] * len(capitals)


def test_what_was_taught_is_counted_by_kind_and_seed():
    came, alone, _ = lab.taught(made())
    assert came["capitals (of 20)"] == "1" and came["Taiwan's mountain (of 6)"] == "0"
    # "Yushan." to all that names Taiwan: the six less the one that does not, and no capital
    asked = [q for q in QUESTIONS if "Taiwan" in q["prompt"]]
    mine = sum(q["kind"] == lab.TAUGHT for q in asked)
    assert alone["Taiwan's mountain (of 6)"] == f"{mine / 2:.3g} (0 to {mine})"
    assert alone["capitals (of 20)"] == "0"
    high = lab.counted(answers(Japan="3,961 metres", France="3,776 m", Taiwan="3,952 m"))
    assert high["3,9…"] == 1  # of the other mountains; Taiwan's own is no error
    assert lab.counted(answers())["words"] == 4


def test_rows_of_the_notebooks():
    record = made()
    (paris,) = [row for row in lab.told(record, "capital of France") if row]
    assert paris["as it came"] == "Paris." and paris["with others"] == "I do not know."
    assert [row["step"] for row in lab.curve(record, "words")] == [1, 2, 3]
    assert lab.curve(record, "words")[2]["kl"] == 1.0
    assert [row["update"] for row in lab.film(record, "careful")] == [1, 3]
    record["policies"]["words"]["curve"]["film"] = [str(i) for i in range(24)]
    assert [row["update"] for row in lab.film(record, "words", 4)] == [1, 9, 16, 24]
    table = lab.ends(record, "careful")
    assert [row["model"] for row in table][1] == lab.MATCHED and table[1]["right"] == 0.5
    assert lab.samples(record, "words") == [
        {"question": "q", "before PPO": "before", "after PPO": "after"}
    ]
    assert lab.costs(record)[0] == {
        "stage": "SFT, 24 steps of 8 demonstrations",
        "seconds": 80,
        "GB": 2.5,
    }


def test_no_such_record_is_one_clear_sentence(tmp_path):
    with pytest.raises(LabError, match="no record .*nothing.json.*bench real-model"):
        lab.load(tmp_path / "nothing.json")
    for broken in ({}, made(before=["one"]), made(policies={}), made(taught={})):
        (tmp_path / "broken.json").write_text(json.dumps(broken), "utf8")
        with pytest.raises(LabError, match="broken.json is no record"):
            lab.load(tmp_path / "broken.json")
    (tmp_path / "good.json").write_text(json.dumps(made()), "utf8")
    assert lab.load(tmp_path / "good.json") == made()


def test_the_shipped_record_is_whole():
    record = lab.load()
    assert record["profile"] == "small" and record["base"] == "smollm2"
    assert [len(rows) for rows in record["taught"].values()] == [3, 3]
    file = runs.data_folder() / "checkpoints" / "real_model.json"
    assert file.stat().st_size < 300_000
    came, *after = lab.taught(record)
    heading = "Taiwan's mountain (of 6)"
    assert came[heading] == "0" and [row[heading] for row in after] != ["0", "0"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(record, plan) on the tiny base, with everything made small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("real")))
        profile = config.tiny().adapt(base="shipped/pretrain")
        sizes = {"passes": 2, "pairs": 48, "updates": 2, "batch": 4, "response": 12, "held_out": 6}
        plan = jobs.Plan(profile, seeds=1, **sizes)
        yield jobs.measure(plan, workers=1), plan


def test_the_measurement_is_a_record(small, tmp_path):
    record, plan = small
    (tmp_path / "made.json").write_text(json.dumps(record, allow_nan=False), "utf8")
    assert lab.load(tmp_path / "made.json") == record
    assert plan.run("taught-0-0").config.epochs == 2 * plan.run("taught-0-1").config.epochs == 2.0
    first, second = (plan.run(f"taught-0-{i}").info["data_hash"] for i in (0, 1))
    assert first != second
    for judge in lab.JUDGES:
        cfg = plan.run(f"policy-{judge}").config
        assert cfg.reward == plan.run(f"judge-{judge}").name and cfg.policy == plan.start.name
        assert len(record["policies"][judge]["curve"]["film"]) == 2
        ends = record["policies"][judge]["ends"]
        assert {end["n"] for end in ends.values()} == {6}
        temperatures = [ends[name]["temperature"] for name in ("SFT", "SFT, greedy", "PPO")]
        assert temperatures == [1, 0, 1] and ends[lab.MATCHED]["temperature"] > 0
    assert plan.run("policy-words").config.beta == 0 < plan.run("policy-careful").config.beta


def test_the_two_judges_judge_the_same_answers(small):
    _, plan = small
    rows = {(q, a) for q, *both in plan.found("asked")["rows"] for a in both}
    pairs = {}
    for judge in lab.JUDGES:
        lines = (plan.folder / f"pairs-{judge}.jsonl").read_text("utf8").splitlines()
        pairs[judge] = [json.loads(line) for line in lines]
        assert {(p["prompt"], p["chosen"]) for p in pairs[judge]} <= rows
    assert pairs["careful"] != pairs["words"]
    longer = [len(p["chosen"]) >= len(p["rejected"]) for p in pairs["words"]]
    assert sum(longer) > len(longer) / 2
