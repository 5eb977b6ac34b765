"""The doors for data: what comes in, in which shapes, and what each door says to bad input."""

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from labkit import LabError, data
from labkit.atlas import sources
from labkit.data import Demo, Pair, Rating

PAIR = {"prompt": "台灣最高的山？", "chosen": "玉山", "rejected": "泰山"}
LOADERS = (data.load_demos, data.load_pairs, data.load_ratings, data.load_prompts, data.load_text)


def jsonl(path, *rows):
    path.write_text(
        "".join(
            (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n"
            for row in rows
        ),
        "utf8",
    )
    return str(path)


def refusal(load, *args, **options):
    """The message of the LabError that a call raises."""
    with pytest.raises(LabError) as caught:
        load(*args, **options)
    return str(caught.value)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "mine.jsonl"


# --- what comes in -------------------------------------------------------------------------------


def test_a_pair_is_the_same_in_every_shape(file):
    plain = {"prompt": "Q?", "chosen": "yes", "rejected": "no"}
    turns = {
        "prompt": [{"role": "user", "content": "Q?"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    whole = {name: turns["prompt"] + turns[name] for name in ("chosen", "rejected")}
    mixed = {**whole, "prompt": "Q?"}
    hh = {name: f"\n\nHuman: Q?\n\nAssistant: {plain[name]}" for name in ("chosen", "rejected")}
    shapes = (plain, turns, whole, mixed, hh)
    assert data.load_pairs(jsonl(file, *shapes)) == [Pair("Q?", "yes", "no")] * 5


def test_a_dialogue_is_cut_at_its_last_answer(file):
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Q?\n\nAssistant: "
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Q?"},
    ]
    prompt = "Human: Hi\n\nAssistant: Hello\n\nHuman: Q?"
    hh = {"chosen": start + "a", "rejected": start + "b"}
    a, b = ([{"role": "assistant", "content": answer}] for answer in "ab")
    as_turns = {"prompt": turns, "chosen": a, "rejected": b}
    assert data.load_pairs(jsonl(file, hh, as_turns)) == [Pair(prompt, "a", "b")] * 2


def test_demos_in_every_shape(file):
    rows = [
        {"prompt": "Q", "response": "A"},
        {"prompt": "Q", "completion": "A"},
        {"instruction": "Q", "input": "", "output": "A"},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    ]
    assert data.load_demos(jsonl(file, *rows)) == [Demo("Q", "A")] * 4
    more = ({"prompt": "Q", "response": "A", "style": "short"},)
    more += ({"instruction": "Add", "input": "1 2", "output": "3"},)
    expected = [Demo("Q", "A", "short"), Demo("Add\n\n1 2", "3")]
    assert data.load_demos(jsonl(file, *more)) == expected


def test_ratings_and_prompts(file, tmp_path):
    thumb = {"prompt": "Q", "response": "A", "label": False}
    assert data.load_ratings(jsonl(file, thumb)) == [Rating("Q", "A", False)]
    turns = [{"role": "user", "content": "R"}, {"role": "assistant", "content": "A"}]
    assert data.load_prompts(jsonl(file, {"prompt": "Q"}, {"messages": turns})) == ["Q", "R"]
    plain = tmp_path / "prompts.txt"
    plain.write_text("Q one?\n\n  誰來告訴我呀 \n", "utf8")
    assert data.load_prompts(str(plain)) == ["Q one?", "誰來告訴我呀"]
    assert data.load_prompts(str(plain), limit=1) == ["Q one?"]


def test_json_arrays_gzip_bom_and_windows_lines(tmp_path, file):
    array, packed, windows = tmp_path / "a.json", tmp_path / "b.jsonl.gz", tmp_path / "c.jsonl"
    array.write_text(json.dumps([PAIR, PAIR], indent=1), "utf8")
    packed.write_bytes(gzip.compress(json.dumps(PAIR).encode()))
    windows.write_bytes("\ufeff".encode() + (json.dumps(PAIR) + "\r\n").encode() * 2)
    assert [len(data.load_pairs(str(path))) for path in (array, packed, windows)] == [2, 1, 2]
    (plain,) = data.load_pairs(jsonl(file, PAIR))
    (said,) = data.load_pairs(jsonl(file, {**PAIR, "margin": 2, "confidence": 0.6}))
    assert (plain.margin, plain.confidence) == (0.0, 1.0)
    assert (said.margin, said.confidence) == (2.0, 0.6)
    assert repr(plain).endswith("rater='')") and "margin=2.0, confidence=0.6)" in repr(said)
    odd = {**PAIR, "chosen": "one\u2028line"}  # a line separator inside a string is no end of line
    assert data.load_pairs(jsonl(file, odd))[0].chosen == "one\u2028line"


def test_text_is_cut_at_blank_lines(tmp_path, file):
    text = tmp_path / "tales.txt"
    text.write_text("Once upon\na time.\n \t\n\n\nThe end.\n", "utf8")
    assert data.load_text(str(text)) == ["Once upon\na time.", "The end."]
    (tmp_path / "tales.txt.gz").write_bytes(gzip.compress(text.read_bytes()))
    assert data.load_text(str(tmp_path / "tales.txt.gz")) == data.load_text(str(text))
    assert data.load_text(jsonl(file, {"text": "a\n\nb"})) == ["a\n\nb"]
    text.write_text("[Illustration]\n\n{sic}\n", "utf8")  # no JSON
    assert data.load_text(str(text)) == data.load_prompts(str(text)) == ["[Illustration]", "{sic}"]
    text.write_text('{"text": "a", "prompt": "b"}\n', "utf8")  # JSONL under another name
    assert (data.load_text(str(text)), data.load_prompts(str(text))) == (["a"], ["b"])


def test_a_text_without_blank_lines_is_cut_at_its_lines_or_into_pieces(tmp_path):
    """ "Any plain text" will do: a sentence a line, an old Mac's line ends, a single line."""
    text = tmp_path / "tales.txt"
    text.write_bytes(b"One.\nTwo.\n")
    assert data.load_text(str(text)) == ["One.", "Two."]
    text.write_bytes(b"One.\rTwo.\r\rThree.")
    assert data.load_text(str(text)) == ["One.\nTwo.", "Three."]
    text.write_text("x" * 4500)
    assert [len(one) for one in data.load_text(str(text))] == [2000, 2000, 500]


def test_the_atlas_is_asked_by_name(monkeypatch):
    monkeypatch.setattr(sources.text, "corpus", lambda: ["玉山"])
    asked = []
    two = [Demo("Q", "A"), Demo("R", "B")]
    monkeypatch.setattr(sources.styles, "demos", lambda n: asked.append(n) or two)
    monkeypatch.setattr(sources.styles, "feedback_prompts", lambda: ["feedback?"])
    found = (
        sources.load_text("atlas"),
        sources.load_demos("atlas", 1),
        sources.load_prompts("atlas"),
    )
    assert found == (["玉山"], [Demo("Q", "A")], ["feedback?"])
    sources.load_demos("atlas", 20_000)  # as many as are wanted
    assert asked == [12_000, 20_000]
    assert "policy's own answers" in refusal(data.load_pairs, "atlas")


def test_pandalm_votes(tmp_path, capsys):
    def row(first, second, *votes, instruction="Do", more=""):
        return {
            "instruction": instruction,
            "input": more,
            "response1": first,
            "response2": second,
            **{f"annotator{i}": v for i, v in enumerate(votes, 1)},
        }

    file = tmp_path / "p.json"
    file.write_text(
        json.dumps(
            [
                row("a", "b", 1, 1, 2),
                row("a", "b", 2, 0, 2, more="x"),
                row("a", "b", 0, 0, 1),
                row("a", "b", 0, 1, 2),
                row("", "b", 2, 2, 2),
                row(True, "b", 2, 2, 2),
            ]
        ),
        "utf8",
    )  # the real file holds `true` where the model wrote the word
    assert data.load_pairs(str(file)) == [
        Pair("Do", "a", "b", "human"),
        Pair("Do\n\nx", "b", "a", "human"),
        Pair("Do", "b", "True", "human"),
    ]
    told = capsys.readouterr().err
    assert "3 of 6 rows taken" in told
    assert "left out: 2 × pair without a winner (first: record 3), 1 × pair with an empty" in told
    file.write_text(json.dumps([row("a", "b", 1, 1, 3)]), "utf8")
    assert "record 1: annotator1 to 3 are [1, 1, 3], but each must be 0, 1 or 2" in refusal(
        data.load_pairs, str(file)
    )


def test_the_real_pandalm_file():
    folder = Path(
        os.environ.get("LABKIT_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data"
    )
    if not (folder / "pandalm_human_pairs.json.gz").exists():
        pytest.skip(f"no real data in {folder} (set LABKIT_REAL_DATA)")
    pairs = data.load_pairs(str(folder / "pandalm_human_pairs.json.gz"))
    assert len(pairs) == 842  # 999 less 105 ties or splits and 52 with an empty text
    assert all(p.chosen.strip() and p.rejected.strip() and p.chosen != p.rejected for p in pairs)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("load", LOADERS)
def test_every_door_refuses_what_is_no_text_file(load, tmp_path):
    (tmp_path / "tales.txt").write_text("x", "utf8")
    assert re.search("is a folder without data.*tales.txt", refusal(load, str(tmp_path)))
    (tmp_path / "empty.txt").write_text(" \n\n", "utf8")
    (tmp_path / "latin.txt").write_bytes("first\ncaf\xe9\n".encode("latin1"))
    (tmp_path / "model.txt").write_bytes(b"good\nab\0cd")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"x" * 10_000)[:20])
    assert "tales.txt" in refusal(load, str(tmp_path / "tale.txt")).split("Did you mean")[1]
    assert "no folder" in refusal(load, str(tmp_path / "nowhere" / "a.txt"))
    for name, said in {
        "empty.txt": "is empty",
        "latin.txt": "is not UTF-8 text (line 2 has the byte 0xe9)",
        "model.txt": "is a binary file, not text (line 2",
        "cut.jsonl.gz": "can't be read",
    }.items():
        assert f"{name} {said}" in refusal(load, str(tmp_path / name))
    assert "Did you mean atlas?" in refusal(load, "atlsa")


@pytest.mark.parametrize(
    "row, reason",
    [
        ({**PAIR, "rejected": "玉山 "}, '"chosen" and "rejected" are equal'),
        ({**PAIR, "rejected": " "}, '"rejected" is empty'),
        ({**PAIR, "prompt": ""}, '"prompt" is empty'),
        ({**PAIR, "chosen": None}, '"chosen" is null, but must be text'),
        ({**PAIR, "margin": -1}, '"margin" is -1, but must be a number, 0 or more'),
        (
            {**PAIR, "confidence": 0.3},
            '"confidence" is 0.3, but must be a number, between 0.5 and 1',
        ),
        ({**PAIR, "confidence": "high"}, "\"confidence\" is 'high', but must be a number"),
        ({**PAIR, "chosen": 3}, '"chosen" is a number, but must be text'),
        ({"prompt": "Q", "chosen": "a"}, 'has no "rejected" (it has: prompt, chosen)'),
        (
            {"chosen": "a", "rejected": "b"},
            'has no "prompt", and "chosen" holds no "\\n\\nAssistant:"',
        ),
        ({**PAIR, "prompt": [{"text": "Q"}]}, '"prompt" must be a list of {"role", "content"}'),
        (
            {**PAIR, "chosen": [{"role": "user", "content": "Q"}]},
            '"chosen" must end in an assistant message',
        ),
        ({**PAIR, "chosen": "\ud83d"}, '"chosen" holds half a character'),
        (["a"], "a list, but must be an object"),
        ("3", "a number, but must be an object"),
        ('{"prompt": "Q", ', "broken JSON"),
        ("[" * 1, "broken JSON"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_loaded(row, reason, file):
    source = jsonl(file, PAIR, "", json.dumps(row) if not isinstance(row, str) else row)
    said = refusal(data.load_pairs, source)
    assert "mine.jsonl was not loaded, because 1 of its records" in said
    assert f"line 3: {reason}" in said and "Mend or delete" in said


def test_all_bad_lines_are_gathered_up_to_five_in_order(file):
    rows = ("{broken", PAIR, {**PAIR, "chosen": ""}, "{broken", {}, {}, {}, PAIR)
    said = refusal(data.load_pairs, jsonl(file, *rows))
    assert "because 6 of its" in said and "and 1 more" in said
    places = re.findall(r'line (\d): (?:broken JSON|"chosen" is empty|has no "chosen")', said)
    assert places == ["1", "3", "4", "5", "6"]


def test_no_line_at_all_is_json(tmp_path):
    (tmp_path / "story.txt").write_text("Once\nupon\n", "utf8")
    assert "It should hold one JSON object a line." in refusal(
        data.load_pairs, str(tmp_path / "story.txt")
    )


def test_broken_arrays_and_labels(tmp_path, file):
    (tmp_path / "a.json").write_text('[{"prompt": "Q"},', "utf8")
    assert "is broken JSON" in refusal(data.load_pairs, str(tmp_path / "a.json"))
    thumb = {"prompt": "Q", "response": "A"}
    said = refusal(data.load_ratings, jsonl(file, {**thumb, "label": 1}))
    assert '"label" is a number, but must be true or false' in said
    assert 'has no "label"' in refusal(data.load_ratings, jsonl(file, thumb))
    assert "The limit is -1" in refusal(data.load_pairs, jsonl(file, PAIR), limit=-1)


# --- out again -----------------------------------------------------------------------------------


def test_split_keeps_each_prompt_on_one_side():
    pairs = [Pair(f"Q{i % 40}", f"a{i}", f"b{i}") for i in range(200)]
    train, held = data.split(pairs, 0.25, seed=3)
    assert not {p.prompt for p in train} & {p.prompt for p in held}
    assert (len({p.prompt for p in held}), len(train) + len(held)) == (10, 200)
    assert {p.prompt for p in data.split(pairs[::-1], 0.25, seed=3)[1]} == {p.prompt for p in held}
    assert {p.prompt for p in data.split(pairs, 0.25, seed=4)[1]} != {p.prompt for p in held}
    assert [len(part) for part in data.split(["x", "y", "x"], 0.01)] in (
        [1, 2],
        [2, 1],
    )  # one prompt at least on either side


def test_split_refuses():
    assert "2 different prompts" in refusal(
        data.split, [Pair("Q", "a", "b"), Pair("Q ", "c", "d")], 0.2
    )
    assert "2 different prompts" in refusal(data.split, [], 0.2)
    assert "between 0 and 1" in refusal(data.split, ["x", "y"], 1.0)


def test_save_and_load_give_the_same_records(tmp_path):
    pairs = [Pair("Q\u2028\n\t", "答案 🙂", 'b"\\', "me"), Pair("R", "a", "b")]
    path = data.save_jsonl(pairs, tmp_path / "new" / "pairs.jsonl")
    assert data.load_pairs(str(path)) == pairs
    assert [p.name for p in path.parent.iterdir()] == ["pairs.jsonl"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = data.save_jsonl([{"prompt": "old"}], tmp_path / "p.jsonl")
    assert "half a character" in refusal(
        data.save_jsonl, [{"prompt": "fine"}, {"prompt": "\ud83d"}], path
    )

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dumps", full)
    assert "No space left on device" in refusal(data.save_jsonl, [{"prompt": "new"}], path)
    assert path.read_text("utf8") == '{"prompt": "old"}\n' and list(tmp_path.iterdir()) == [path]
    assert "not written" in refusal(data.save_jsonl, [], tmp_path)  # a folder


# --- what used to come in unseen -----------------------------------------------------------------

HALF = "half \ud83d"


@pytest.mark.parametrize(
    "load, row, name",
    [
        (data.load_pairs, {"chosen": f"\n\nHuman: a\n\nAssistant: {HALF}"}, "chosen"),
        (data.load_pairs, {"response1": HALF}, "response1"),
        (data.load_pairs, {"input": HALF}, "input"),
        (data.load_pairs, {**PAIR, "rater": HALF}, "rater"),
        (data.load_demos, {"instruction": "Q", "output": "A", "input": HALF}, "input"),
        (data.load_demos, {"messages": [{"role": "user", "content": HALF}]}, "messages"),
        (data.load_prompts, {"messages": [{"role": "user", "content": HALF}]}, "messages"),
    ],
)
def test_half_a_character_is_refused_in_every_form(load, row, name, file):
    hh = {one: f"\n\nHuman: a\n\nAssistant: {one}" for one in ("chosen", "rejected")}
    votes = {"annotator1": 1, "annotator2": 1, "annotator3": 2}
    pandalm = {"instruction": "Do", "input": "", "response1": "a", "response2": "b", **votes}
    whole = hh if row.keys() & hh.keys() and "prompt" not in row else {}
    whole = pandalm if load is data.load_pairs and row.keys() & pandalm.keys() else whole
    said = refusal(load, jsonl(file, json.dumps({**whole, **row})))
    assert f'line 1: "{name}" holds half a character (a lone surrogate)' in said


def test_answers_labelled_false_are_no_demonstrations(file):
    row = {"prompt": "Q", "response": "A"}
    assert data.load_demos(jsonl(file, {**row, "label": True})) == [Demo("Q", "A")]
    said = refusal(data.load_demos, jsonl(file, {**row, "label": True}, {**row, "label": False}))
    assert 'line 2: "label" is false' in said and "kto" in said


def test_what_is_no_plain_file_is_called_by_its_name(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for place in (tmp_path / "pipe.jsonl", "/dev/zero"):
        assert "is a pipe or a device, not a file" in refusal(data.load_pairs, str(place))
    pointer = tmp_path / "big.jsonl"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    for load in LOADERS:
        assert "is a pointer of Git LFS" in refusal(load, str(pointer))
    assert "can't be a path here" in refusal(data.load_pairs, "~nosuchuser/mine.jsonl")
    assert "can't be a path here" in refusal(data.load_pairs, "./" + "x" * 5_000)


def test_a_file_larger_than_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(data.files, "room", lambda: 3_000_000)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(50_000_000)))
    (tmp_path / "long.txt").write_bytes(b"x" * 5_000_000)
    for name in ("bomb.gz", "long.txt"):
        assert "more than this machine has memory for" in refusal(
            data.load_text, str(tmp_path / name)
        )
    (tmp_path / "short.txt").write_bytes(b"x" * 2_000_000)
    assert data.load_text(str(tmp_path / "short.txt"))


def test_a_sentence_stays_one_that_can_be_read(file):
    said = refusal(data.load_pairs, jsonl(file, {"x" * 100_000: 1}))
    assert len(said) < 2_600 and said.startswith(str(file)) and said.endswith("a line.")
    number = refusal(data.load_pairs, jsonl(file, '{"prompt": ' + "9" * 5_000 + "}"))
    assert "line 1: broken JSON (a number of more digits than can be read)" in number
    assert "nested too deep" in refusal(data.load_pairs, jsonl(file, "[" * 100_000, "{}"))
