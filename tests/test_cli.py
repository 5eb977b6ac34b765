"""The command line: what it prints where, its exit codes, and that a mistake is told in one
line.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from labkit import LabError, cli, config, data, runs, stages
from labkit.stages import pairs as preferences

ROOT = Path(__file__).parents[1]
TEXT = "\n\n".join(
    f"The {a} sees the {b} near a {c}."
    for a in ("fox", "king", "bird", "girl", "old man", "cat")
    for b in ("river", "castle", "mountain", "sea", "tree")
    for c in ("stone", "house", "well", "gate")
)
SMALL = shlex.split(
    "--hidden-size 32 --intermediate-size 64 --layers 1 --heads 2 --vocab-size 300 --context 64"
    " --sequence-length 16 --batch-size 4 --validation-fraction 0.1"
)


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


def shell(*arguments, **options):
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "labkit", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf8", timeout=120, **options
    )


def printed(capsys, *arguments) -> str:
    """What a command that succeeds prints."""
    capsys.readouterr()
    assert cli.main(list(arguments)) == 0
    return capsys.readouterr().out


def reported(capsys, *arguments) -> dict:
    """The one JSON object of a command, which is all that it prints."""
    return json.loads(printed(capsys, *arguments, "--json"), parse_constant=pytest.fail)


def told(capsys, *arguments) -> str:
    """The one line that a failing command says: exit code 1, nothing on standard output, no
    traceback.
    """
    capsys.readouterr()
    assert cli.main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch("labkit: .+\n", err), err
    return err


# --- the grammar ---------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """Every command that README and the Makefile write out, in words."""
    text = (ROOT / "README.md").read_text("utf8") + (ROOT / "Makefile").read_text("utf8")
    found = re.findall(r"(?:python|\$\(BIN\)) -m labkit ([^#`\n…]+)", text)
    table = re.findall(r"\| `(bench [^`]+)` \|", text)
    return [shlex.split(command) for command in found + table]


def test_every_command_of_the_readme_parses():
    assert len(commands()) > 15
    for words in commands():
        if "--help" not in words:
            assert callable(cli.parse(words)), words


def test_options_stand_before_or_after():
    for words in (
        "chat --run me --seed 1 --json Hi there",
        "chat Hi there --seed 1 --run me --json",
        "--json chat --run=me --seed=1 -- Hi there",
    ):
        command = cli.parse(words.split())
        wanted = {"prompt": ("Hi", "there"), "run": "me", "temperature": None, "seed": 1}
        assert command.json and command.verb.keywords == wanted


def parsed_settings(*words):
    return cli.given(cli.parse(words).verb.verb.keywords["settings"])


@pytest.mark.parametrize("stage", config.STAGES)
def test_every_setting_is_an_option_with_its_docstring(stage, capsys):
    kind, verb = config.KINDS[stage], stage.replace("_", "-")
    words = ["train", verb]
    for f in fields(kind):
        words += ["--" + f.name.replace("_", "-"), str(f.default)]
    assert kind(**parsed_settings(*words)) == kind()
    assert parsed_settings("train", verb) == {}  # what is not named is not set
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", verb, "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert stopped.value.code == 0 and f"(tiny: {kind().learning_rate})" in out
    wanted = "Transformer blocks." if stage == "pretrain" else "Rank of the LoRA matrices"
    assert wanted in out and "--resume" in out


@pytest.mark.parametrize(
    "words",
    [
        "",
        "train",
        "train grpo",
        "train sft --bogus 1",
        "train sft --epochs many",
        "train sft --batch-size 2.5",
        "train sft --learn 1",
        "export sft-001",
        "bench",
        "ratings",
        "ratings export",
        "ratings delete",
        "chat --temperature hot",
    ],
)
def test_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words.split())
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and err


def test_a_mistyped_option_is_named_with_its_neighbour(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "sft", "--lerning-rate", "1"])
    err = capsys.readouterr().err
    assert "--lerning-rate" in err and "--learning-rate" in err


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from labkit import cli\n"
        "cli.main(['chat', '--run', 'no such run'])\n"
        "try: cli.main(['train', 'ppo', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'plotly', 'datasets', 'rich'}\n"
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("\nset()\n"), done.stdout + done.stderr


def test_version(capsys):
    assert re.fullmatch(r"rlhf-labkit \d+\.\d+\.\d+\n", printed(capsys, "--version"))


# --- output --------------------------------------------------------------------------------------


def test_info_in_a_fresh_process(home, tokenizer):
    (home / ".partial-dead").mkdir()
    (home / ".partial-dead" / "run.json").write_text("half")
    done = shell("info", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == [
        "profile",
        "why",
        "would not fit",
        "device",
        "model",
        "parameters",
        "layers_4bit",
        "quantization",
        "trainable_parameters",
        "versions",
        "unfinished",
    ]
    assert report["unfinished"] == [{"name": "dead", "bytes": 4, "at_work": False, "resume": False}]
    assert report["profile"] == "tiny" and report["model"] == "tiny-base"
    assert (
        report["quantization"] == "nf4" and report["layers_4bit"] == 2 * 7
    )  # q k v o gate up down
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert report["parameters"] == 64 * len(tokenizer) + 2 * layer + 64
    assert report["trainable_parameters"] == 2 * 16 * (4 * (64 + 64) + 3 * (64 + 128))
    assert {"labkit", "torch", "transformers", "trl", "peft"} <= set(report["versions"])


def test_info_for_people(home, capsys):
    out = printed(capsys, "info")
    assert "model: tiny-base\n" in out and "versions: labkit 0" in out
    assert "why: LABKIT_PROFILE says so\n" in out
    assert "would not fit: gpu needs a CUDA card of 12 GB, and there is none" in out
    assert "why: --profile says so\n" in printed(capsys, "info", "--profile", "tiny")


def test_json_is_pure(monkeypatch, capsys):
    """What a library prints becomes a message; NaN becomes null; Chinese stays as it is."""
    from labkit import bench

    def noisy():
        print("Downloading…")
        return {"loss": float("nan"), "山": ["玉山", 1.5, float("inf")]}

    monkeypatch.setattr(bench, "feedback", noisy)
    assert cli.main(["bench", "feedback", "--json"]) == 0
    assert capsys.readouterr() == ('{"loss": null, "山": ["玉山", 1.5, null]}\n', "Downloading…\n")
    assert printed(capsys, "bench", "feedback").startswith("Downloading…\nloss: nan\n山: 玉山, 1.5")


def test_json_is_utf8_on_any_terminal(empty_runs):
    from labkit.feedback import Feedback, Store

    with contextlib.closing(Store()) as store:
        store.add(Feedback("台灣最高的山？", ("玉山😀", "泰山"), "pair", 0))
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert "玉山😀" in shell("ratings", "list", "--json", env=ascii_only).stdout
    assert r"\u7389" in shell("ratings", "list", env=ascii_only).stdout


# --- train, run, export --------------------------------------------------------------------------


def test_train_then_chat_then_export(empty_runs, corpus, tmp_path, capsys):
    words = ["train", "pretrain", "--corpus", corpus, *SMALL, "--name", "tales"]
    assert cli.main([*words, "--steps", "12", "--json"]) == 0
    out, err = capsys.readouterr()
    report, run = json.loads(out), runs.load("tales")
    assert report["run"] == "tales" and report["folder"] == str(empty_runs / "tales")
    assert report["evaluation"] == run.evaluation and run.evaluation["validation_loss"] > 0
    assert "tales · step 12/12 · 100 %" in err and run.info["config"]["corpus"] == corpus

    words = ["chat", "The fox", "sees", "--seed"]
    assert cli.main([*words, "1"]) == 0  # the newest run that can talk
    out, err = capsys.readouterr()
    assert out.startswith("The fox sees") and len(out) > 20 and "tales is a base model" in err
    assert printed(capsys, *words, "1") == out != printed(capsys, *words, "2")

    report = reported(capsys, "export", "tales", str(tmp_path / "out"))
    assert report["run"] == "tales" and report["folder"] == str(tmp_path / "out")
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.hidden_size == 32

    out = printed(capsys, "train", "pretrain", "--corpus", corpus, "--steps", "2", *SMALL)
    assert out.startswith("pretrain-001 is trained (") and "\nvalidation_loss: " in out


def test_named_settings_override_the_profiles(empty_runs, monkeypatch, capsys):
    class Module:
        @staticmethod
        def train(cfg, run, **_):
            run.finish(seen=1.0)

    monkeypatch.setattr(stages, "module", lambda stage: Module)
    small = ["--profile", "small", "--epochs", "2", "--name", "small"]
    printed(capsys, "train", "sft", *small)
    printed(capsys, "train", "sft", "--name", "tiny")
    wanted = config.change(config.profile("small").sft, epochs=2.0)
    assert runs.load("small").config == wanted and runs.load("tiny").config == config.Sft()


def test_run_prints_a_report(empty_runs, capsys, monkeypatch):
    from labkit import series

    asked = []
    one = {"runs": ["sft-001"], "seconds": {"sft": 10.0, "dpo": 5.6}}

    def run(profile, seeds, base=""):
        asked.append((profile.name, seeds, base))
        return {
            "seeds": [
                one | {"seed": n, "sft_right": 0.8 + n / 10, "sft_right_n": 250} for n in range(2)
            ],
            "mean": {"sft_right": 0.85},
            "spread": {"sft_right": 0.1},
        }

    monkeypatch.setattr(series, "run", run)
    out = printed(capsys, "run", "--seeds", "2")
    assert "| sft_right |  0.800 |  0.900 | 0.850 |  0.100 |" in out and "250 |" in out
    assert "seed 1: sft 10.0" in out and out.endswith("report.html\n") and "report.json" in out
    assert reported(capsys, "run", "--seeds", "2", "--base", "b")["mean"] == {"sft_right": 0.85}
    assert asked == [("tiny", 2, ""), ("tiny", 2, "b")]
    assert "--seeds is 0" in told(capsys, "run", "--seeds", "0")


# --- chat ----------------------------------------------------------------------------------------


def test_chat_answers_one_prompt(sft_home, capsys):
    report = reported(capsys, "chat", "--run", "sft-new", "Gold?")
    assert report["run"] == "sft-new" and report["prompt"] == "Gold?"
    assert isinstance(report["answer"], str)


def test_a_temperature_or_a_seed_that_is_none_is_told(sft_home, capsys):
    for words in ("--temperature nan", "--temperature inf", "--temperature -1"):
        assert "it must be a number, 0 or more" in told(capsys, "chat", "Hi", *words.split())
    for seed in ("-1", str(2**32), str(10**30)):
        assert "between 0 and 4294967295" in told(capsys, "chat", "Hi", "--seed", seed)


def test_sizes_beyond_the_machine_are_told_before_anything_is_allocated(sft_home, capsys):
    huge = {"lora-r": "sft", "vocab-size": "pretrain", "seed": "kto", "batch-size": "dpo"}
    for option, stage in huge.items():
        said = told(capsys, "train", stage, f"--{option}", "99999999999")
        assert option.replace("-", "_") in said and "it must be" in said
    assert "no matrix of this base has a rank above" in told(
        capsys, "train", "sft", "--base", "tiny-base", "--lora-r", "999999"
    )
    assert "would not be heeded" in told(capsys, "train", "dpo", "--lora-r", "64")
    assert "can't be a path here" in told(capsys, "train", "sft", "--data", "~nosuchuser/x.jsonl")
    assert "can't be a path here" in told(capsys, "ratings", "list", "--store", "~nosuchuser/x")


def test_a_damaged_store_is_rescued(rated, capsys):
    path = runs.root() / "feedback.sqlite"
    assert "is whole: there is nothing to rescue" in told(capsys, "ratings", "rescue")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)
    assert "python -m labkit ratings rescue" in told(capsys, "ratings", "list")


def test_chat_loop(sft_home, capsys, monkeypatch):
    from labkit import rollout

    def answer(model, tokenizer, prompts, *_, **__):
        return [f"You said {prompts[0]}.\nBye \x1b[31m"]

    monkeypatch.setattr(rollout, "answer", answer)
    said = "Hello\n\n" + "Gold " * 300 + "\n你好\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    assert cli.main(["chat"]) == 0
    out, err = capsys.readouterr()
    assert out == "You said Hello.\nBye ⟨1B⟩[31m\nYou said 你好.\nBye ⟨1B⟩[31m\n\n"
    assert "sft-new answers.\nlabkit: The prompt has " in err
    assert "this model reads 160 at a time" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    assert [turn["prompt"] for turn in reported(capsys, "chat")["turns"]] == ["Hello", "你好"]


def test_who_talks(sft_home, monkeypatch):
    assert cli.speaker("").name == "sft-new"  # newer than its base
    assert cli.speaker("tiny-base").stage == "pretrain"
    with runs.start("reward", config.Reward(), "judge"):
        pass
    assert cli.speaker("").name == "sft-new"
    with pytest.raises(LabError, match="'judge' is a reward run"):
        cli.speaker("judge")
    monkeypatch.setenv("LABKIT_RUNS", str(sft_home / "nothing"))
    came = {stage: runs.Run(sft_home, stage, stage) for stage in ("pretrain", "sft", "reward")}
    monkeypatch.setattr(runs, "shipped", came.get)
    assert cli.speaker("").stage == "sft"


# --- ratings -------------------------------------------------------------------------------------


@pytest.fixture
def rated(empty_runs):
    """A store in the runs folder with ratings of two people, in several modes."""
    from labkit.feedback import Feedback, Store

    two = ("玉山", "泰\x1b山")
    with contextlib.closing(Store()) as store:
        for rater, verdict in (("me", 0), ("you", 0), ("you", "skip")):
            shown = {"rater": rater, "shown": (1, 0), "seconds": 2.0}
            store.add(Feedback("台灣最高的山？", two, "pair", verdict, **shown))
        store.add(Feedback("Q" * 60, ("a", "b", ""), "rank", (1, 0, 2), tags=("wordy",)))
        store.add(Feedback("Gold?", ("A metal.",), "thumb", False))
        store.add(Feedback("Gold?", ("A metal.", "Wood"), "scale", (9, 2)))
    return store.path


def test_ratings_list(rated, capsys):
    out = printed(capsys, "ratings", "list")
    for text in (
        "| 台灣最高的山？",
        "| 玉山 > 泰⟨1B⟩山",
        "| skip",
        "Q" * 39 + "…",
        "b > a > (empty)",
        "| down: A metal.",
        "9: A metal., 2: Wood",
        "wordy",
    ):
        assert text in out
    assert out.endswith(f"\n\n6 ratings in {rated}\n")
    report = reported(capsys, "ratings", "list", "--rater", "you", "--mode", "pair")
    assert report["store"] == str(rated) and report["count"] == 2
    assert [one["verdict"] for one in report["ratings"]] == [0, "skip"]
    assert report["ratings"][0]["rater"] == "you"
    assert printed(capsys, "ratings", "list", "--rater", "nobody") == f"0 ratings in {rated}\n"


def test_ratings_export_and_import(rated, tmp_path, capsys):
    report = reported(capsys, "ratings", "export", str(tmp_path / "out"))
    files = [Path(report[name]) for name in ("ratings", "preferences", "thumbs")]
    assert report["count"] == 6 and {file.parent for file in files} == {tmp_path / "out"}
    there = ["--store", str(tmp_path / "other.sqlite")]
    again = reported(capsys, "ratings", "import", report["ratings"], *there)
    assert again == {"new": 6, "count": 6, "store": there[1]}
    assert printed(capsys, "ratings", "import", report["ratings"], *there).startswith("0 new")
    ours, theirs = (reported(capsys, "ratings", "list", *store) for store in ((), there))
    assert ours["ratings"] == theirs["ratings"]
    assert len(data.load_pairs(report["preferences"])) == 2 + 1 + 1  # an empty answer gives no pair


def test_ratings_agreement(rated, capsys):
    report = reported(capsys, "ratings", "agreement")
    assert list(report) == ["raters", "comparisons", "thumbs"]
    assert list(report["raters"]) == ["me", "you"]
    (two,) = report["comparisons"]["pairs"]
    assert two["raters"] == ["me", "you"]
    assert two["agreement"] == {"value": 1.0, "low": None, "high": None, "n": 1}
    out = printed(capsys, "ratings", "agreement")
    assert "| me and you | 1.00 (n 1) | –         |" in out
    assert "Fleiss' κ of all raters: –" in out and "0.00 (0.00 to 0.79, n 1)" in out


def test_ratings_mistakes(empty_runs, tmp_path, capsys):
    for words in (["list"], ["agreement"], ["export", str(tmp_path / "out")]):
        assert "There are no ratings yet" in told(capsys, "ratings", *words)
    assert not empty_runs.exists()  # looking makes no store
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "Q", "chosen": "a", "rejected": "b"}\n{"verdict": 1}\n', "utf8")
    assert 'line 2: has no "prompt"' in told(capsys, "ratings", "import", str(bad))
    assert reported(capsys, "ratings", "list")["count"] == 0
    assert "holds no such rating" in told(capsys, "ratings", "agreement")
    assert "is not a store of ratings" in told(capsys, "ratings", "list", "--store", str(bad))


# --- mistakes ------------------------------------------------------------------------------------


def test_a_mistake_is_one_line_and_exit_code_1(empty_runs):
    done = shell("train", "sft", "--profile", "huge")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch("labkit: There is no profile 'huge'.* tiny, small, gpu.\n", done.stderr)


def test_what_is_not_there(home, capsys, tmp_path, monkeypatch):
    no_run = "There is no run 'nobody'"
    assert no_run in told(capsys, "chat", "--run", "nobody", "Hello")
    assert no_run in told(capsys, "export", "nobody", str(tmp_path / "out"))
    assert r"'a\x1bb'" in told(capsys, "chat", "--run", "a\x1bb", "Hello")
    absent = str(tmp_path / "no.jsonl")
    assert "There is no file" in told(capsys, "train", "pretrain", "--corpus", absent)
    assert "There is no file" in told(
        capsys, "train", "dpo", "--data", absent
    )  # on the shipped SFT
    monkeypatch.setattr(runs.shelf, "shipped", lambda stage: None)
    no_sft = told(capsys, "train", "dpo", "--data", absent)
    assert "There is no sft run yet. Train one: python -m labkit train sft" in no_sft
    assert "steps is -1" in told(capsys, "train", "pretrain", "--steps", "-1")
    assert "--temperature is -1" in told(capsys, "chat", "--temperature", "-1", "Hello")
    assert {p.name for p in home.iterdir() if not p.name.startswith(".")} == {"tiny-base"}


def test_broken_jsonl_is_named_with_its_line(home, capsys, tmp_path):
    file, empty = tmp_path / "demos.jsonl", tmp_path / "empty.txt"
    file.write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"\n{"prompt": "c"}\n', "utf8")
    said = told(capsys, "train", "sft", "--data", str(file))
    assert str(file) in said and "line 2: broken JSON" in said and "line 3: " in said
    empty.write_text("\n", "utf8")
    assert "empty.txt is empty" in told(capsys, "train", "pretrain", "--corpus", str(empty))
    assert not list(home.glob("sft-*"))


def test_nothing_is_overwritten(home, capsys, tmp_path, corpus):
    taken = ["train", "pretrain", "--name", "tiny-base", "--corpus", corpus, *SMALL]
    assert "There is a run 'tiny-base' already" in told(capsys, *taken)
    (tmp_path / "mine.txt").write_text("mine", "utf8")
    assert "exists and is not empty" in told(capsys, "export", "tiny-base", str(tmp_path))
    assert (tmp_path / "mine.txt").read_text("utf8") == "mine"
    assert not (tmp_path / "config.json").exists()


def test_a_runs_folder_that_is_none(tmp_path, capsys, monkeypatch, corpus):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "file" / "runs"))
    assert "can't be written" in told(capsys, "train", "pretrain", "--corpus", corpus, *SMALL)


def test_interrupt_leaves_no_run(empty_runs, corpus):
    words = ["train", "pretrain", "--corpus", corpus, "--steps", "1000000", "--name", "long"]
    process = subprocess.Popen(
        [sys.executable, "-m", "labkit", *words, *SMALL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf8",
        # A background job may have been told to ignore Ctrl-C; the child must not inherit that.
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
    assert last.startswith("labkit: Stopped. The unfinished run stays in ")
    assert not (empty_runs / "long").exists() and runs.listing() == []
    with pytest.raises(LabError, match="unfinished"):
        runs.load("long")


def test_interrupt_elsewhere(monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "profile", stopped)
    assert cli.main(["info"]) == 130 and capsys.readouterr().err == "labkit: Stopped.\n"


# --- pairs, prompts and text by file -------------------------------------------------------------


def test_pairs_with_a_long_prompt_are_left_out_and_counted(tokenizer, capsys):
    cfg = config.Reward(max_prompt_tokens=20, max_response_tokens=20)
    pairs = [data.Pair(f"Gold {i}?", "metal", "wood") for i in range(8)]
    pairs.append(data.Pair("Gold " * 50, "metal", "wood"))
    training, held_out, dropped = preferences.split_pairs(tokenizer, pairs, cfg, 0.25)
    assert (len(training), len(held_out), dropped) == (6, 2, 1)
    assert "1 of 9 pairs" in capsys.readouterr().err
    with pytest.raises(LabError, match="1 of 1 pairs .*max_prompt_tokens=20"):
        preferences.split_pairs(tokenizer, pairs[-1:], cfg, 0.25)


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_own_pairs_train(stage, sft_home, tmp_path, capsys):
    rows = [
        {"prompt": "Gold? " * (1 if i % 8 else 60) + str(i), "chosen": "metal", "rejected": "wood"}
        for i in range(64)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), "utf8")
    small = shlex.split("--max-response-tokens 24 --batch-size 16 --epochs 1")
    found = reported(capsys, "train", stage, "--data", str(file), *small)["evaluation"]
    assert found["pairs"] + found["held_out"] + found["dropped"] == 64 and found["dropped"] == 8
    assert 0 <= found["accuracy"] <= 1
