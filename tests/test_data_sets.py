"""Data sets in the Hub's layout: folders of shards with a README, the forms that published
collections come in, what is told of them, what they are refused for. All offline.
"""

import contextlib
import gzip
import io
import json
import os
from pathlib import Path

import pytest

from labkit import LabError, data
from labkit.data import Demo, Pair, Rating, hub

USER, ANSWER = ({"role": role, "content": ""} for role in ("user", "assistant"))


def turns(*texts):
    """User and assistant in turn."""
    return [(USER, ANSWER)[i % 2] | {"content": text} for i, text in enumerate(texts)]


def shards(folder, **splits) -> str:
    """A folder as the Hub holds it: two parquet shards a split in data/, and a README that names
    the splits.
    """
    import datasets

    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        for shard, part in enumerate((rows[: len(rows) // 2], rows[len(rows) // 2 :])):
            if part:
                path = folder / f"data/{split}-{shard:05d}-of-00002.parquet"
                with contextlib.redirect_stderr(io.StringIO()):  # a bar
                    datasets.Dataset.from_list(part).to_parquet(path)
    files = "".join(f"  - split: {name}\n    path: data/{name}-*\n" for name in splits)
    head = f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
    (folder / "README.md").write_text(head, "utf8")
    return str(folder)


def jsonl(path, *rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


def refusal(load, *args, **options) -> str:
    with pytest.raises(LabError) as caught:
        load(*args, **options)
    return str(caught.value)


def feedback(i, chosen="yes", rejected="no", **more):
    """A row of HuggingFaceH4/ultrafeedback_binarized."""
    row = {"prompt": f"Q{i}", "prompt_id": f"{i:x}", "score_chosen": 9.0, "score_rejected": 2.0}
    for name, answer in (("chosen", chosen), ("rejected", rejected), ("messages", chosen)):
        row[name] = turns(f"Q{i}", answer)
    return row | more


@pytest.fixture
def ultrafeedback(tmp_path):
    """Each kind of data has a split of its own, and none is called "train"."""
    return shards(
        tmp_path / "ultrafeedback",
        train_prefs=[feedback(i) for i in range(6)],
        train_sft=[feedback(i, "sft") for i in range(4)],
        train_gen=[feedback(i) for i in range(3)],
        test_prefs=[feedback(9)],
    )


# --- the published forms -------------------------------------------------------------------------


def test_ultrafeedback_gives_each_stage_its_split(ultrafeedback, capsys):
    assert data.load_pairs(ultrafeedback) == [Pair(f"Q{i}", "yes", "no") for i in range(6)]
    assert data.load_demos(ultrafeedback) == [Demo(f"Q{i}", "sft") for i in range(4)]
    assert data.load_prompts(ultrafeedback) == ["Q0", "Q1", "Q2"]
    assert data.load_pairs(f"{ultrafeedback}:test_prefs") == [Pair("Q9", "yes", "no")]
    told = capsys.readouterr().err
    assert "split train_prefs: 6 of 6 rows taken; columns: chosen, prompt, rejected." in told
    assert "\n  prompt   'Q0'\n  chosen   'yes'\n  rejected 'no'\n" in told


def test_trl_libs_forms(tmp_path):
    pairs = [
        {"chosen": turns("Q", "yes"), "rejected": turns("Q", "no"), "score_chosen": 9.0},
        {"chosen": turns("Q", "a", "R", "b"), "rejected": turns("Q", "a", "R", "c")},
    ]
    folder = shards(tmp_path / "ultrafeedback_binarized", train=pairs, test=pairs[:1])
    one, two = data.load_pairs(folder)
    assert one == Pair("Q", "yes", "no") and (two.chosen, two.rejected) == ("b", "c")
    assert two.prompt.turns == (("user", "Q"), ("assistant", "a"), ("user", "R"))
    told = {"prompt": "SUBREDDIT: r/x\n\nTL;DR:", "chosen": " short", "rejected": " long"}
    tldr = shards(tmp_path / "tldr-preference", train=[told], validation=[told])
    assert data.load_pairs(tldr) == [Pair(told["prompt"], " short", " long")]
    thumbs = {"prompt": turns("Q"), "completion": [ANSWER | {"content": "A"}], "label": False}
    kto = shards(tmp_path / "kto-mix-14k", train=[thumbs, thumbs | {"label": True}])
    assert data.load_ratings(kto) == [Rating("Q", "A", False), Rating("Q", "A", True)]
    asked = shards(tmp_path / "ultrafeedback-prompt", train=[{"prompt": turns("Q")}])
    assert data.load_prompts(asked) == ["Q"]
    stories = shards(
        tmp_path / "TinyStories", train=[{"text": "Once."}], validation=[{"text": "x"}]
    )
    assert data.load_text(stories) == ["Once."]


def test_tldrs_comparisons(tmp_path):
    """openai/summarize_from_feedback: posts of Reddit, and articles of the news."""
    post = {"subreddit": "AskX", "title": "Tea?", "post": "I like it.", "article": None}
    news = {"subreddit": None, "title": None, "post": None, "article": "It rained."}
    two = [{"text": " first", "note": None}, {"text": " second", "note": None}]
    rows = [
        {"info": post, "summaries": two, "choice": 1, "worker": "w"},
        {"info": news, "summaries": two, "choice": 0, "worker": "w"},
        {"info": news, "summaries": [two[0], two[0]], "choice": 0, "worker": "w"},
    ]
    folder = tmp_path / "summaries"
    jsonl(folder / "comparisons" / "train.jsonl", *rows)
    jsonl(folder / "axis" / "train.jsonl", {"summary": {"text": "x"}})
    found = data.load_pairs(f"{folder}:comparisons/train")
    asked = "SUBREDDIT: r/AskX\n\nTITLE: Tea?\n\nPOST: I like it.\n\nTL;DR:"
    assert found == [
        Pair(asked, " second", " first", "human"),
        Pair("Article:\nIt rained.\n\nTL;DR:", " first", " second", "human"),
    ]
    assert found.about["left_out"] == [[1, "pair with equal answers", "train.jsonl, line 3"]]
    wrong = jsonl(tmp_path / "wrong.jsonl", rows[0] | {"choice": 2})
    assert '"choice" is 2 of 2 "summaries", but must be 0 or 1' in refusal(data.load_pairs, wrong)


@pytest.fixture
def hh(tmp_path):
    """hh-rlhf's layout: a folder for each part, gzipped JSONL, no README."""
    for part in ("harmless-base", "helpful-base"):
        for split, n in (("train", 20), ("test", 2)):
            ask = [f"\n\nHuman: {part} {i}\n\nAssistant: " for i in range(n)]
            rows = [{"chosen": one + "yes", "rejected": one + "no"} for one in ask]
            jsonl(tmp_path / "hh-rlhf" / part / f"{split}.jsonl.gz", *rows)
    return str(tmp_path / "hh-rlhf")


def test_parts_of_a_collection_are_mixed_where_only_some_rows_are_taken(hh):
    some = data.load_pairs(hh, 20)
    assert len(some) == 20 and len({pair.prompt for pair in some}) == 20
    from_first = sum(pair.prompt.startswith("harmless") for pair in some)
    assert 4 < from_first < 16 and some == data.load_pairs(hh, 20)  # the same each time
    assert some.about["drawn"] and some.about["of"] == 40
    every = data.load_pairs(hh)
    assert [pair.prompt[:8] for pair in every] == ["harmless"] * 20 + ["helpful-"] * 20
    part = data.load_pairs(f"{hh}:helpful-base/test")
    assert [pair.prompt for pair in part] == ["helpful-base 0", "helpful-base 1"]
    assert data.load_prompts(f"{hh}:helpful-base/test") == [pair.prompt for pair in part]
    # A folder of the set is a set, too.
    assert data.load_pairs(f"{hh}/helpful-base:test") == part


def test_a_parquet_set_is_mixed_too(ultrafeedback, capsys):
    some = data.load_pairs(ultrafeedback, 4)
    numbers = [int(pair.prompt[1:]) for pair in some]
    assert len(set(numbers)) == 4 and numbers != sorted(numbers)
    assert "4 of 6 rows taken, drawn at random" in capsys.readouterr().err


def test_a_subset_is_a_configuration_where_the_readme_has_one(tmp_path):
    for name in ("easy", "hard"):
        jsonl(tmp_path / "set" / f"{name}.jsonl", {"text": name})
    (tmp_path / "set" / "README.md").write_text(
        "---\nconfigs:\n- config_name: first\n  data_files: easy.jsonl\n  default: true\n"
        "- config_name: second\n  data_files: hard.jsonl\n---\n",
        "utf8",
    )
    assert data.load_text(str(tmp_path / "set")) == ["easy"]
    assert data.load_text(f"{tmp_path}/set:second/train") == ["hard"]


def test_single_tables(tmp_path, ultrafeedback):
    table = next(Path(ultrafeedback, "data").glob("train_sft-00000*"))
    assert data.load_demos(str(table)) == [Demo("Q0", "sft"), Demo("Q1", "sft")]
    (tmp_path / "thumbs.csv").write_text("prompt,response,label\nQ,A,True\nR,B,False\n", "utf8")
    found = data.load_ratings(str(tmp_path / "thumbs.csv"))
    assert found == [Rating("Q", "A", True), Rating("R", "B", False)]


@pytest.fixture
def online(tmp_path, monkeypatch):
    """online(folder): "someone/set" is this folder, as if it came from the Hub; gives the list of
    what was downloaded.
    """
    import datasets

    real, prepared, downloads = datasets.load_dataset_builder, datasets.DatasetBuilder, []
    prepare = prepared.download_and_prepare
    monkeypatch.setattr(
        prepared,
        "download_and_prepare",
        lambda self, *more, **how: (
            downloads.append(self.dataset_name),
            prepare(self, *more, **how),
        ),
    )

    def as_hub(folder):
        builder = lambda name, **more: real(folder, cache_dir=str(tmp_path / "cache"), **more)
        monkeypatch.setattr(datasets, "load_dataset_builder", builder)
        return downloads

    return as_hub


def test_a_hub_set_is_downloaded_but_a_text_and_a_large_one_are_streamed(
    tmp_path, monkeypatch, online
):
    rows = [{"text": f"{i:04d} " * 10} for i in range(200)]
    downloads = online(shards(tmp_path / "stories", train=rows))
    found = data.load_text("someone/set", enough=1000)
    assert [text[:4] for text in found] == [f"{i:04d}" for i in range(20)]
    assert found.about["of"] is None and not downloads
    some = data.load("someone/set", lambda row: row["text"][:4], 50)
    assert some.about["drawn"] and some.about["of"] == 200 and len(downloads) == 1
    assert len(set(some)) == 50 and some != sorted(some)
    assert len(data.load("someone/set", lambda row: row["text"])) == 200
    monkeypatch.setattr(hub, "LARGE", 10)
    large = data.load("someone/set", lambda row: row["text"][:4], 3)
    assert large == ["0000", "0001", "0002"] and len(downloads) == 2
    assert not large.about["drawn"]


def test_a_folder_that_has_changed_is_read_anew(tmp_path):
    """`datasets` keeps its copy of a folder by the folder's name."""
    for i in range(2):
        folder = shards(tmp_path / str(i) / "same", train=[{"prompt": f"Q{i}"}])
        assert data.load_prompts(folder) == [f"Q{i}"]


def test_the_real_folder_as_a_set(tmp_path):
    """Real pairs and tales, moved into the Hub's layout."""
    there = Path(__file__).parents[2] / "shared" / "data"
    real = Path(os.environ.get("LABKIT_REAL_DATA") or there)
    if not (real / "pandalm_human_pairs.json.gz").exists():
        pytest.skip(f"no real data in {real} (set LABKIT_REAL_DATA)")
    rows = json.loads(gzip.decompress((real / "pandalm_human_pairs.json.gz").read_bytes()))
    plain = [row | {f"response{i}": str(row[f"response{i}"]) for i in (1, 2)} for row in rows]
    pairs = data.load_pairs(shards(tmp_path / "pandalm", train=plain))
    assert pairs == data.load_pairs(str(real / "pandalm_human_pairs.json.gz"))
    why = {reason: n for n, reason, _ in pairs.about["left_out"]}
    assert why == {"pair without a winner": 105, "pair with an empty text": 52}
    tales = data.load_text(str(real / "fairytales.txt"))
    stories = shards(tmp_path / "tales", train=[{"text": text} for text in tales])
    some = data.load_text(stories, enough=50_000)
    assert some == tales[: len(some)] and 50_000 <= sum(map(len, some)) < 60_000
    asked = refusal(data.load_demos, str(real / "fairytale_qa.jsonl.gz"))
    assert 'line 1: has no "prompt" (it has: story, context, question, answer)' in asked


# --- what does not fit ---------------------------------------------------------------------------


def test_faulty_texts_of_a_collection_are_left_out_and_counted(tmp_path, capsys):
    rows = [
        feedback(0),
        feedback(1, rejected="yes"),
        feedback(2, chosen=""),
        feedback(3, chosen=None),
        feedback(4, rejected=[]) | {"rejected": []},
        feedback(5, rejected="yes"),
    ]
    found = data.load_pairs(shards(tmp_path / "set", train=rows))
    assert found == [Pair("Q0", "yes", "no")] and found.about["rows"] == 1
    told = capsys.readouterr().err
    assert "1 of 6 rows taken" in told
    assert '2 × "chosen" and "rejected" are equal (first: row 2)' in told
    assert '1 × "chosen[1].content" is empty (first: row 3)' in told
    assert '1 × "chosen[1].content" is null, but must be text (first: row 4)' in told
    assert '1 × "rejected" is empty (first: row 5)' in told
    none = shards(tmp_path / "none", train=rows[1:2])
    assert "has no usable record (1 × " in refusal(data.load_pairs, none)


def test_a_set_of_another_form_is_refused_at_once(ultrafeedback, tmp_path):
    said = refusal(data.load_ratings, f"{ultrafeedback}:train_prefs")
    assert "because 5 or more of its records can't be used. row 1: has no" in said
    assert 'row 1: has no "label" (it has: prompt, ' in said and "row 6" not in said
    chats = shards(tmp_path / "chats", train=[{"messages": turns("Q", "A")}])
    assert 'row 1: has no "chosen" (it has: messages)' in refusal(data.load_pairs, chats)
    assert data.load_demos(chats) == [Demo("Q", "A")]


def test_types_that_change_are_named_with_column_file_and_line(tmp_path):
    good = {"prompt": "Q", "chosen": "yes", "rejected": "no"}
    folder = tmp_path / "mixed"
    jsonl(folder / "data" / "train-00000-of-00002.jsonl", good, good)
    second = folder / "data" / "train-00001-of-00002.jsonl"
    jsonl(second, good, good | {"chosen": 3}, good | {"chosen": [{"text": "yes"}]})
    second.write_text(second.read_text("utf8") + "{broken\n", "utf8")
    said = refusal(data.load_pairs, str(folder))
    assert "because 3 of its records" in said
    assert 'train-00001-of-00002.jsonl, line 2: "chosen" is a number, but must be text' in said
    assert 'line 3: "chosen" must be a list of {"role", "content"}' in said
    assert "line 4: broken JSON" in said


def test_splits_and_subsets_that_are_not_there(ultrafeedback, hh):
    said = refusal(data.load_pairs, f"{ultrafeedback}:validation")
    assert (
        "has no split 'validation'. It has: train_prefs, train_sft, train_gen, test_prefs" in said
    )
    assert "has no split 'train'" in refusal(data.load_ratings, ultrafeedback)
    assert "doesn't contain any data files" in refusal(data.load_pairs, f"{hh}:helpful/train")


def test_broken_shards_and_folders(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(b"PAR1 but no table")
    said = refusal(data.load_pairs, str(tmp_path))
    assert said.startswith(f"The folder '{tmp_path}' can't be loaded (") and "Mend it" in said


@pytest.mark.parametrize(
    "error, told",
    [
        (ConnectionError("Couldn't reach it\nlong story"), "(ConnectionError: Couldn't reach it)"),
        (FileNotFoundError("'a/b' is a gated dataset"), "a gated set also wants its terms"),
    ],
)
def test_a_hub_set_out_of_reach(monkeypatch, error, told):
    import datasets

    def load_dataset_builder(name, **_):
        assert name == "someone/pairs"
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    said = refusal(data.load_pairs, "someone/pairs:test")
    assert said.startswith("The Hub data set 'someone/pairs:test' can't be loaded") and told in said
    assert "name a local folder or file" in said and "long story" not in said


def test_without_a_network_it_is_one_sentence():
    said = refusal(data.load_pairs, "someone/not-cached")
    assert (
        "can't be loaded (ConnectionError: Couldn't reach 'someone/not-cached' on the Hub" in said
    )


def test_sets_that_came_as_a_script_are_read_from_the_hubs_own_copy(monkeypatch, ultrafeedback):
    import datasets

    real, asked = datasets.load_dataset_builder, []

    def load_dataset_builder(name, revision=None, **more):
        asked.append((name, revision, more))
        if not revision:
            raise RuntimeError("Dataset scripts are no longer supported, but found set.py")
        return real(ultrafeedback)

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["default"])
    assert data.load_pairs("openai/set:comparisons/test_prefs") == [Pair("Q9", "yes", "no")]
    more = {"data_dir": "comparisons"}
    assert asked == [("openai/set", None, more), ("openai/set", hub.CONVERTED, more)]


def test_a_source_names_its_split_and_subset(tmp_path):
    assert hub.named("a/b") == ("a/b", "", "")
    assert hub.named("a/b:test") == ("a/b", "", "test")
    assert hub.named("a/b:easy/test") == ("a/b", "easy", "test")
    assert hub.named("C:\\data\\pairs.jsonl")[0] == "C:\\data\\pairs.jsonl"
    assert not hub.is_set("atlas") and not hub.is_set("C:\\data\\pairs.jsonl")
    assert not hub.is_set("../shared/pairs.jsonl") and hub.is_set("owner/name:split")
    plain = tmp_path / "a:b.jsonl"  # a file may be called so
    plain.write_text('{"prompt": "Q"}', "utf8")
    assert data.load_prompts(str(plain)) == ["Q"]


def test_files_are_told_of_inside_showing(tmp_path, capsys):
    file = jsonl(tmp_path / "mine.jsonl", {"prompt": "Q", "response": "A", "id": 3})
    data.load_demos(file)
    assert not capsys.readouterr().err
    with data.showing():
        data.load_demos(file)
    told = capsys.readouterr().err
    assert "mine.jsonl: 1 of 1 rows taken; columns: prompt, response." in told
    assert "prompt   'Q'" in told and "response 'A'" in told
