"""The command line: what it prints where, its exit codes, and that a mistake is told in one
line.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from labkit import LabError, cli, config, data, runs
from labkit.stages import pairs as preferences

TEXT = "\n\n".join(
    f"The {a} sees the {b} near a {c}."
    for a in ("fox", "king", "bird", "girl", "old man", "cat")
    for b in ("river", "castle", "mountain", "sea", "tree")
    for c in ("stone", "house", "well", "gate")
)
SMALL = [
    "--hidden-size",
    "32",
    "--intermediate-size",
    "64",
    "--layers",
    "1",
    "--heads",
    "2",
    "--vocab-size",
    "300",
    "--context",
    "64",
    "--sequence-length",
    "16",
    "--batch-size",
    "4",
    "--validation-fraction",
    "0.1",
]


@pytest.fixture
def home(empty_runs, tiny_base):
    """A runs folder with nothing but the random base "tiny-base"."""
    shutil.copytree(tiny_base.path, empty_runs / "tiny-base")
    return empty_runs


@pytest.fixture
def sft_home(home):
    """The same and "sft-new", an adapter that has learned nothing yet."""
    from labkit import models

    cfg = config.Sft(base="tiny-base", lora_r=4, max_prompt_tokens=96, max_response_tokens=16)
    with runs.start("sft", cfg, "sft-new") as run:
        model, _ = models.load_base(cfg.base)
        models.save_adapter(models.add_lora(model, cfg), run, "default")
    return home


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "tales.txt").write_text(TEXT, "utf8")
    return str(tmp_path / "tales.txt")


@pytest.fixture
def pandalm():
    folder = Path(
        os.environ.get("LABKIT_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data"
    )
    if not (folder / "pandalm_human_pairs.json.gz").exists():
        pytest.skip(f"no real data in {folder} (set LABKIT_REAL_DATA)")
    return str(folder / "pandalm_human_pairs.json.gz")


def shell(*arguments, **options):
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "labkit", *arguments],
        capture_output=True,
        text=True,
        encoding="utf8",
        timeout=120,
        **options,
    )


def told(capsys, *arguments) -> str:
    """The one line that a failing command says: exit code 1, nothing on standard output, no
    traceback.
    """
    assert cli.main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert (
        out == "" and err.startswith("labkit: ") and err.count("\n") == 1 and err.endswith("\n")
    ), err
    return err


# --- output --------------------------------------------------------------------------------------


def test_info_in_a_fresh_process(home, tokenizer):
    done = shell("info", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == [
        "profile",
        "device",
        "model",
        "parameters",
        "layers_4bit",
        "quantization",
        "trainable_parameters",
        "versions",
    ]
    assert (report["profile"], report["model"], report["quantization"]) == (
        "tiny",
        "tiny-base",
        "nf4",
    )
    assert report["layers_4bit"] == 2 * 7  # q, k, v, o, gate, up, down
    assert (
        report["parameters"] == 64 * len(tokenizer) + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    )
    assert report["trainable_parameters"] == 2 * 16 * (4 * (64 + 64) + 3 * (64 + 128))
    assert {"labkit", "torch", "transformers", "trl", "peft", "bitsandbytes"} <= set(
        report["versions"]
    )


def test_info_for_people(home, capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert (
        "model: tiny-base\n" in out and "quantization: nf4\n" in out and "versions: labkit 0" in out
    )


def test_under_json_what_libraries_print_is_a_message(monkeypatch, capsys):
    def noisy(args):
        """Say too much."""
        print("Downloading…")
        return {"loss": float("nan"), "山": [1.5, float("inf")]}, ""

    monkeypatch.setattr(cli, "info", noisy)
    assert cli.main(["info", "--json"]) == 0
    out, err = capsys.readouterr()
    assert (
        json.loads(out, parse_constant=pytest.fail) == {"loss": None, "山": [1.5, None]}
        and err == "Downloading…\n"
    )
    assert cli.main(["info"]) == 0 and capsys.readouterr().out == "Downloading…\n\n"


def test_train_then_chat_then_export(empty_runs, corpus, tmp_path, capsys):
    assert (
        cli.main(
            [
                "train",
                "pretrain",
                "--corpus",
                corpus,
                "--steps",
                "12",
                "--name",
                "tales",
                "--json",
                *SMALL,
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["run"] == "tales" and report["folder"] == str(empty_runs / "tales")
    assert (
        report["evaluation"] == runs.load("tales").evaluation
        and report["evaluation"]["validation_loss"] > 0
    )
    assert "tales · step 12/12 · 100 %" in err
    assert runs.load("tales").info["config"]["corpus"] == corpus

    assert cli.main(["chat", "--seed", "1", "The fox", "sees"]) == 0  # the newest run that can talk
    out, err = capsys.readouterr()
    assert (
        out.startswith("The fox sees")
        and len(out) > 20
        and "tales is a base model: it continues your text" in err
    )
    assert cli.main(["chat", "--seed", "1", "The fox sees"]) == 0 and capsys.readouterr().out == out
    assert cli.main(["chat", "--seed", "2", "The fox sees"]) == 0 and capsys.readouterr().out != out

    assert cli.main(["export", "tales", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "tales", "folder": str(tmp_path / "out")}
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.hidden_size == 32


def test_train_for_people(empty_runs, corpus, capsys):
    assert cli.main(["train", "pretrain", "--corpus", corpus, "--steps", "2", *SMALL]) == 0
    out = capsys.readouterr().out
    assert out.startswith("pretrain-001 is trained (") and "\nvalidation_loss: " in out


def test_profile_sets_the_sizes(monkeypatch):
    seen = []
    monkeypatch.setattr(
        cli,
        "train",
        lambda args: (
            seen.append(cli.settings(args, getattr(config.profile(args.profile), args.stage)))
            or {},
            "",
        ),
    )
    assert cli.main(["train", "sft", "--profile", "small", "--epochs", "2"]) == 0
    assert cli.main(["train", "sft"]) == 0
    assert (seen[0].base, seen[0].epochs, seen[0].learning_rate) == (
        "HuggingFaceTB/SmolLM2-135M",
        2.0,
        2e-4,
    )
    assert seen[1] == config.Sft()


# --- chat ----------------------------------------------------------------------------------------


def test_chat_answers_one_prompt(sft_home, capsys):
    assert cli.main(["chat", "--run", "sft-new", "--json", "Gold?"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (
        report["run"] == "sft-new"
        and report["prompt"] == "Gold?"
        and isinstance(report["answer"], str)
    )
    assert err == "sft-new answers.\n"


def test_chat_loop(sft_home, capsys, monkeypatch):
    from labkit import rollout

    monkeypatch.setattr(
        rollout,
        "answer",
        lambda model, tokenizer, prompts, *_, **__: [f"You said {prompts[0]}.\nBye \x1b[31m"],
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\n" + "Gold " * 300 + "\n你好\n"))
    assert cli.main(["chat"]) == 0
    out, err = capsys.readouterr()
    assert out == "You said Hello.\nBye ⟨1B⟩[31m\nYou said 你好.\nBye ⟨1B⟩[31m\n\n"
    assert (
        "sft-new answers.\nlabkit: The prompt has " in err
        and "this model reads 160 at a time" in err
    )


def test_who_talks(sft_home, monkeypatch):
    assert cli.speaker("").name == "sft-new"  # newer than its base
    assert cli.speaker("tiny-base").stage == "pretrain"
    cfg = config.Reward()
    with runs.start("reward", cfg, "judge"):
        pass
    assert cli.speaker("").name == "sft-new"
    with pytest.raises(
        LabError, match="'judge' is a reward run: it scores answers and writes none"
    ):
        cli.speaker("judge")
    monkeypatch.setenv("LABKIT_RUNS", str(sft_home / "nothing"))
    monkeypatch.setattr(
        runs,
        "shipped",
        lambda stage: (
            runs.Run(sft_home, stage, stage) if stage in ("pretrain", "sft", "reward") else None
        ),
    )
    assert cli.speaker("").stage == "sft"


def test_run_prints_a_report(empty_runs, capsys, monkeypatch):
    series = pytest.importorskip("labkit.series")
    asked = []

    def run(profile, seeds, base=""):
        asked.append((profile.name, seeds))
        return {
            "profile": "tiny",
            "base": "pretrain-001",
            "habits": {"base_asks": 0.4},
            "seeds": [
                {
                    "seed": n,
                    "runs": ["sft-001"],
                    "seconds": {"sft": 10.0, "dpo": 5.6},
                    "sft_right": 0.8 + n / 10,
                }
                for n in range(2)
            ],
            "mean": {"sft_right": 0.85},
            "spread": {"sft_right": 0.1},
        }

    monkeypatch.setattr(series, "run", run)
    assert cli.main(["run", "--seeds", "2"]) == 0 and asked == [("tiny", 2)]
    out = capsys.readouterr().out
    assert (
        out.startswith("base_asks: 0.400\n\n| figure")
        and "| sft_right |  0.800 |  0.900 | 0.850 |  0.100 |" in out
    )
    assert "seed 1: sft 10 s, dpo 6 s\n" in out and out.endswith("report.json\n")
    assert cli.main(["run", "--seeds", "2", "--json"]) == 0 and json.loads(capsys.readouterr().out)[
        "mean"
    ] == {"sft_right": 0.85}
    assert "--seeds is 0" in told(capsys, "run", "--seeds", "0")


# --- ratings -------------------------------------------------------------------------------------


@pytest.fixture
def rated(empty_runs):
    """A store in the runs folder with ratings of two people, in several modes."""
    from labkit.feedback import Feedback, Store

    with contextlib.closing(Store()) as store:
        for rater, verdict in (("me", 0), ("you", 0), ("you", "skip")):
            store.add(
                Feedback(
                    "台灣最高的山？",
                    ("玉山", "泰\x1b山"),
                    "pair",
                    verdict,
                    rater=rater,
                    shown=(1, 0),
                    seconds=2.0,
                )
            )
        store.add(Feedback("Q" * 60, ("a", "b", ""), "rank", (1, 0, 2), tags=("wordy",)))
        store.add(Feedback("Gold?", ("A metal.",), "thumb", False))
        store.add(Feedback("Gold?", ("A metal.", "Wood"), "scale", (9, 2)))
    return store.path


def test_ratings_list(rated, capsys):
    assert cli.main(["ratings", "list"]) == 0
    out = capsys.readouterr().out
    assert (
        "| 台灣最高的山？" in out
        and "| 玉山 > 泰⟨1B⟩山" in out
        and "| skip" in out
        and "Q" * 39 + "…" in out
    )
    assert (
        "b > a > (empty)" in out
        and "| down: A metal." in out
        and "9: A metal., 2: Wood" in out
        and "wordy" in out
    )
    assert out.endswith(f"\n\n6 ratings in {rated}\n")
    assert cli.main(["ratings", "list", "--rater", "you", "--mode", "pair", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["store"] == str(rated) and report["count"] == 2
    assert [one["verdict"] for one in report["ratings"]] == [0, "skip"] and report["ratings"][0][
        "rater"
    ] == "you"
    assert cli.main(["ratings", "list", "--rater", "nobody"]) == 0
    assert capsys.readouterr().out == f"0 ratings in {rated}\n"


def test_ratings_export_and_import(rated, tmp_path, capsys):
    assert cli.main(["ratings", "export", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["count"] == 6 and {
        Path(report[name]).parent for name in ("ratings", "preferences", "thumbs")
    } == {tmp_path / "out"}
    again = ["ratings", "import", report["ratings"], "--store", str(tmp_path / "other.sqlite")]
    assert cli.main([*again, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "new": 6,
        "count": 6,
        "store": str(tmp_path / "other.sqlite"),
    }
    assert (
        cli.main(again) == 0
        and capsys.readouterr().out == f"0 new ratings; {tmp_path / 'other.sqlite'} now holds 6.\n"
    )
    assert cli.main(["ratings", "list", "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)["ratings"]
    assert cli.main(["ratings", "list", "--json", "--store", str(tmp_path / "other.sqlite")]) == 0
    assert json.loads(capsys.readouterr().out)["ratings"] == ours
    assert len(data.load_pairs(report["preferences"])) == 2 + 1 + 1  # an empty answer gives no pair


def test_ratings_agreement(rated, capsys):
    assert cli.main(["ratings", "agreement", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["raters", "comparisons", "thumbs"] and list(report["raters"]) == [
        "me",
        "you",
    ]
    (two,) = report["comparisons"]["pairs"]
    assert two["raters"] == ["me", "you"] and two["agreement"] == {
        "value": 1.0,
        "low": None,
        "high": None,
        "n": 1,
    }
    assert (
        report["raters"]["you"]["left"]["value"] == 0 and report["raters"]["you"]["seconds"] == 2.0
    )
    assert cli.main(["ratings", "agreement"]) == 0
    out = capsys.readouterr().out
    assert (
        "| me and you | 1.00 (n 1) | –         |" in out
        and "Fleiss' κ of all raters: –" in out
        and "0.00 (0.00 to 0.79, n 1)" in out
    )


def test_ratings_of_pandalm(empty_runs, pandalm, capsys):
    assert cli.main(["ratings", "import", pandalm, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"] == 3 * 999
    assert cli.main(["ratings", "agreement"]) == 0
    out = capsys.readouterr().out
    assert (
        "| annotator1 and annotator2 | 0.91 (0.90 to 0.93, n 999) | 0.85 (0.82 to 0.88, n 999) |"
        in out
    )


def test_ratings_mistakes(empty_runs, tmp_path, capsys):
    for command in (["list"], ["agreement"], ["export", str(tmp_path / "out")]):
        assert "There are no ratings yet" in told(capsys, "ratings", *command)
    assert not empty_runs.exists()  # looking makes no store
    (tmp_path / "bad.jsonl").write_text(
        '{"prompt": "Q", "chosen": "a", "rejected": "b"}\n{"verdict": 1}\n', "utf8"
    )
    assert 'line 2: has no "prompt"' in told(
        capsys, "ratings", "import", str(tmp_path / "bad.jsonl")
    )
    assert (
        cli.main(["ratings", "list", "--json"]) == 0
        and json.loads(capsys.readouterr().out)["count"] == 0
    )
    assert "holds no such rating" in told(capsys, "ratings", "agreement")
    assert "is not a store of ratings" in told(
        capsys, "ratings", "list", "--store", str(tmp_path / "bad.jsonl")
    )


# --- mistakes ------------------------------------------------------------------------------------


def test_a_mistake_is_one_line_and_exit_code_1(empty_runs):
    done = shell("train", "sft", "--profile", "huge")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "labkit: There is no profile 'huge'. Set LABKIT_PROFILE (or --profile) to one of: tiny,"
        " small, gpu.\n"
    )


def test_what_is_not_there(home, capsys, tmp_path, monkeypatch):
    assert "There is no run 'nobody'" in told(capsys, "chat", "--run", "nobody", "Hello")
    assert "There is no run 'nobody'" in told(capsys, "export", "nobody", str(tmp_path / "out"))
    assert "There is no file" in told(
        capsys, "train", "pretrain", "--corpus", str(tmp_path / "no.txt")
    )
    no_file = ("train", "dpo", "--data", str(tmp_path / "no.jsonl"))
    assert "There is no file" in told(capsys, *no_file)  # the SFT model is the shipped one
    monkeypatch.setattr(runs, "shipped", lambda stage: None)
    assert "There is no sft run yet. Train one: python -m labkit train sft" in told(
        capsys, *no_file
    )
    assert "steps is -1, but it must be above 0" in told(
        capsys, "train", "pretrain", "--steps", "-1"
    )
    assert "give it after the options" in told(capsys, "chat", "--json")
    assert {p.name for p in home.iterdir() if not p.name.startswith(".")} == {"tiny-base"}


def test_broken_jsonl_is_named_with_its_line(home, capsys, tmp_path):
    file = tmp_path / "demos.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"\n{"prompt": "c"}\n', "utf8")
    said = told(capsys, "train", "sft", "--data", str(file))
    assert str(file) in said and "line 2: broken JSON" in said and "line 3: " in said
    (tmp_path / "empty.txt").write_text("\n", "utf8")
    assert "empty.txt is empty" in told(
        capsys, "train", "pretrain", "--corpus", str(tmp_path / "empty.txt")
    )
    assert not list(home.glob("sft-*"))


def test_a_taken_name_and_a_full_folder(home, capsys, tmp_path, corpus):
    assert "There is a run 'tiny-base' already" in told(
        capsys, "train", "pretrain", "--name", "tiny-base", "--corpus", corpus, *SMALL
    )
    (tmp_path / "mine.txt").write_text("mine", "utf8")
    assert "exists and is not empty" in told(capsys, "export", "tiny-base", str(tmp_path))
    assert (tmp_path / "mine.txt").read_text("utf8") == "mine" and not (
        tmp_path / "config.json"
    ).exists()


def test_a_runs_folder_that_is_none(tmp_path, capsys, monkeypatch, corpus):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "file" / "runs"))
    assert "can't be used" in told(capsys, "train", "pretrain", "--corpus", corpus, *SMALL)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train"],
        ["train", "kto"],
        ["train", "sft", "--bogus", "1"],
        ["train", "sft", "--epochs", "many"],
        ["train", "sft", "--learn", "1"],
        ["export", "sft-001"],
        ["bench"],
        ["ratings"],
        ["ratings", "export"],
        ["ratings", "delete"],
        ["chat", "--temperature", "hot"],
    ],
)
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and capsys.readouterr().out == ""


def test_interrupt_leaves_no_run(empty_runs, corpus):
    # A background job may have been told to ignore Ctrl-C; the child must not inherit that.
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "labkit",
            "train",
            "pretrain",
            "--corpus",
            corpus,
            "--steps",
            "1000000",
            "--name",
            "long",
            *SMALL,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf8",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while "step 1/" not in (line := process.stderr.readline()):
            assert line, "it ended before its first step"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    last = err.strip().split("\n")[-1]
    assert process.returncode == 130 and out == "" and "Traceback" not in err
    assert last.startswith("labkit: Stopped. The unfinished run stays in ") and last.endswith(
        "start the stage again to get a whole one."
    )
    assert not (empty_runs / "long").exists() and runs.listing() == []
    with pytest.raises(LabError, match="unfinished"):
        runs.load("long")


def test_interrupt_elsewhere(monkeypatch, capsys):
    def stopped(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "info", stopped)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "labkit: Stopped.\n"


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", config.STAGES)
def test_every_setting_is_an_option(stage, capsys):
    kind = config.KINDS[stage]
    given = ["train", stage]
    for f in fields(kind):
        given += ["--" + f.name.replace("_", "-"), str(f.default)]
    assert cli.settings(cli.parser().parse_args(given), kind()) == kind()
    assert not any(hasattr(cli.parser().parse_args(["train", stage]), f.name) for f in fields(kind))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", stage, "--help"])
    assert (
        stopped.value.code == 0
        and "an error that says which" in capsys.readouterr().out
        or stage == "pretrain"
    )


def test_docstrings_of_fields():
    found = cli.docstrings()
    assert found["Pretrain", "layers"] == "Transformer blocks." and found[
        "Adapted", "lora_r"
    ].startswith("Rank")
    assert (
        "Pretrain",
        "seed",
    ) not in found  # it has none, and must not take the next thing for one


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from labkit import cli; cli.parser().parse_args(['train', 'ppo']);"
        "print({'torch', 'numpy', 'transformers', 'plotly', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


# --- pairs from elsewhere ------------------------------------------------------------------------


def test_pairs_with_a_long_prompt_are_left_out_and_counted(tokenizer, capsys):
    cfg = config.Reward(max_prompt_tokens=20, max_response_tokens=20)
    pairs = [data.Pair(f"Gold {i}?", "metal", "wood") for i in range(8)] + [
        data.Pair("Gold " * 50, "metal", "wood")
    ]
    training, held_out, dropped = preferences.split_pairs(tokenizer, pairs, cfg, 0.25)
    assert (len(training), len(held_out), dropped) == (6, 2, 1)
    assert (
        capsys.readouterr().err
        == "1 of 9 pairs have a prompt of more than max_prompt_tokens=20 tokens and are left out.\n"
    )
    with pytest.raises(
        LabError, match="1 of 1 pairs have a prompt of more than max_prompt_tokens=20 tokens. Raise"
    ):
        preferences.split_pairs(tokenizer, pairs[-1:], cfg, 0.25)


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_pandalm_pairs_train(stage, sft_home, pandalm, capsys):
    small = ["--max-response-tokens", "24", "--examples", "120", "--batch-size", "16"]
    assert cli.main(["train", stage, "--data", pandalm, "--json", *small]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["evaluation"]
    assert (
        found["pairs"] + found["held_out"] + found["dropped"] == 120
        and 0 < found["dropped"] < 110
        and 0 <= found["accuracy"] <= 1
    )
    assert (
        "of 120 pairs have a prompt of more than max_prompt_tokens=96 tokens and are left out."
        in err
    )
