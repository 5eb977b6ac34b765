"""What befalls the files of runs: damage, full and read-only disks, clocks, odd paths, hostile
folders. Each is a sentence that names the file, and nothing is lost.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest
import safetensors
import torch
from ppo_scene import random_run
from safetensors.torch import load_file, save_file

from labkit import LabError, config, models, runs, stages
from labkit.stages import checkpoint


@pytest.fixture(scope="module")
def made(tiny_base):
    """A base, an SFT and a reward run that lie in a folder of their own."""
    random_run("sft", "faults-sft", 1)
    random_run("reward", "faults-reward", 2)
    return runs.root()


@pytest.fixture
def copied(made, tmp_path, monkeypatch):
    """Copies of them, to be damaged."""
    root = tmp_path / "runs"
    for name in ("tiny-base", "faults-sft", "faults-reward"):
        shutil.copytree(made / name, root / name)
    monkeypatch.setenv("LABKIT_RUNS", str(root))
    return root


def use_everything():
    """Read every file of the three runs; the first LabError."""
    model, _ = models.load_base("tiny-base")
    model = models.load_adapter(model, runs.load("faults-sft"), "policy")
    models.load_head(runs.load("faults-reward"))
    for run in runs.listing():
        run.metrics()


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


FILES = [
    "tiny-base/model.safetensors",
    "tiny-base/config.json",
    "tiny-base/tokenizer.json",
    "tiny-base/tokenizer_config.json",
    "tiny-base/run.json",
    "faults-sft/adapter/adapter_model.safetensors",
    "faults-sft/adapter/adapter_config.json",
    "faults-sft/run.json",
    "faults-reward/head.safetensors",
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_file_is_named(copied, file, how):
    path = copied / file
    if how == "flipped":
        flip(path)
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 40 * (how == "cut")])
    if how == "gone" and file.endswith("run.json"):
        with pytest.raises(LabError, match="There is no run|no .* run"):
            use_everything()
        return
    named = path.parent if path.name == "run.json" else path
    with pytest.raises(LabError, match=re.escape(str(named))):
        use_everything()


def test_damaged_metrics_are_named(copied):
    with runs.start("sft", config.Sft(), "logged") as run:
        for step in range(9):
            run.log(step=step, loss=1.5)
    flip(run.path / "metrics.jsonl")
    with pytest.raises(LabError, match="metrics.jsonl is not what the run 'logged' wrote"):
        run.metrics()
    del run.info["files"]
    (run.path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    with pytest.raises(LabError, match="metrics.jsonl can't be read .* is damaged"):
        run.metrics()


def test_a_base_that_was_renamed_is_found_by_its_fingerprint(copied):
    (copied / "tiny-base").rename(copied / "our-base")
    assert models.base_of(runs.load("faults-sft")) == "our-base"
    assert models.load_policy("faults-sft")[0].base_info["name"] == "our-base"
    flip(copied / "our-base" / "model.safetensors")
    assert models.base_of(runs.load("faults-sft")) == "tiny-base"


# folders that no checksum speaks of -------------------------------------------------------------


def save(tensors):
    return lambda path: save_file(tensors(load_file(path)), path, metadata={"format": "pt"})


def less(state):
    return dict(list(state.items())[1:])


def narrower(state):
    return {key: value[..., :-1].contiguous() for key, value in state.items()}


def renamed(state):
    return {key.replace("layers", "strata"): value for key, value in state.items()}


def edit(**changes):
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


MISSHAPEN = [
    ("tiny-base/model.safetensors", save(less)),
    ("tiny-base/model.safetensors", save(narrower)),
    ("tiny-base/model.safetensors", save(renamed)),
    ("tiny-base/model.safetensors", lambda path: path.write_bytes(b"\xff" * 99)),
    ("tiny-base/config.json", edit(hidden_size=62)),
    ("tiny-base/config.json", edit(model_type="nonesuch")),
    ("tiny-base/config.json", lambda path: path.write_text("[]")),
    ("tiny-base/tokenizer.json", lambda path: path.write_text("{}")),
    ("tiny-base/tokenizer.json", lambda path: path.write_text("null")),
    ("tiny-base/tokenizer_config.json", lambda path: path.write_text("[1]")),
    ("faults-sft/adapter/adapter_model.safetensors", save(less)),
    ("faults-sft/adapter/adapter_model.safetensors", save(narrower)),
    ("faults-sft/adapter/adapter_model.safetensors", save(renamed)),
    ("faults-sft/adapter/adapter_model.safetensors", lambda path: path.write_bytes(b"")),
    ("faults-sft/adapter/adapter_config.json", edit(r=7)),
    ("faults-sft/adapter/adapter_config.json", edit(peft_type="NONESUCH")),
    ("faults-sft/adapter/adapter_config.json", edit(target_modules=["nowhere"])),
    ("faults-sft/adapter/adapter_config.json", lambda path: path.write_text("{")),
    ("faults-reward/head.safetensors", lambda path: path.write_bytes(b"no head")),
    ("faults-reward/head.safetensors", save(lambda state: {"weight": state["mean"]})),
]


@pytest.mark.parametrize("file, spoil", MISSHAPEN)
def test_misshapen_files_are_a_sentence(copied, file, spoil):
    """As somebody else's folder may hold them, or a run made before there were checksums."""
    for path in copied.glob("*/run.json"):
        info = json.loads(path.read_text())
        del info["checksum"], info["files"]
        path.write_text(json.dumps(info))
    spoil(copied / file)
    with pytest.raises(LabError, match="could not be loaded|was trained on the base") as told:
        use_everything()
    assert len(str(told.value)) < 900 and "\n" not in str(told.value)


def test_pickled_weights_and_links_and_paths_that_lead_outside_are_refused(copied, tmp_path):
    def told(name="faults-sft"):
        with pytest.raises(LabError) as caught:
            models.load_policy(name)
        return str(caught.value)

    adapter = copied / "faults-sft" / "adapter"
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps({}))
    (adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is not what the run" in told()
    assert "Pickled weights are not loaded" in told(str(adapter))
    run = runs.load("faults-sft")
    del run.info["files"]
    run.note()
    assert "Pickled weights are not loaded" in told()

    run = runs.load("faults-reward")
    for outside in ("../tiny-base/config.json", "/etc/passwd"):
        run.info["files"] = {outside: "0"}
        run.note()
        with pytest.raises(LabError, match="is refused: its run.json leads outside"):
            models.load_head(runs.load("faults-reward"))
    secret = tmp_path / "elsewhere"
    shutil.copytree(copied / "tiny-base", secret)
    (copied / "linked").symlink_to(secret)
    assert "linked is a link, which no run is" in told("linked")
    (copied / "linked").unlink()
    assert "There is no run '../elsewhere'" in told("../elsewhere")
    with pytest.raises(LabError, match="There is no unfinished run '../elsewhere'"):
        with runs.resume("../elsewhere"):
            pass
    (copied / ".partial-new").symlink_to(secret)
    with pytest.raises(LabError, match="is a link"), runs.start("sft", config.Sft(), "new"):
        pass
    assert (secret / "model.safetensors").exists()


# disks, clocks, names, paths ---------------------------------------------------------------------


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"The fox ate {day} cakes and slept." for day in range(90)), "utf8")
    return config.Pretrain(
        corpus=str(path),
        vocab_size=300,
        hidden_size=8,
        intermediate_size=8,
        layers=1,
        heads=1,
        context=64,
        sequence_length=16,
        batch_size=4,
        steps=2,
    )


WRITERS = {
    "pretrain": (
        "metrics.jsonl",
        "run.json.tmp",
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
    "sft": ("adapter/adapter_model.safetensors", "adapter/adapter_config.json"),
    "reward": ("head.safetensors",),
}


def safetensors_are_refused(patch):
    """safetensors puts a file of its own in the place of a link: what it raises on a full disk."""

    def full(*_, **__):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    patch.setattr(safetensors.torch, "serialize_file", full)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full disk, /dev/full")
@pytest.mark.parametrize("stage, file", [(s, file) for s in WRITERS for file in WRITERS[s]])
def test_a_disk_that_is_full_at_any_file(tiny_base, stage, file, book, monkeypatch):
    """The file is the system's own full disk: whoever writes it, by whatever library."""
    name = f"full-{stage}-{os.path.basename(file)}"
    with pytest.raises(LabError, match="The disk is full.*earlier runs are untouched"):
        with runs.start(stage, book if stage == "pretrain" else config.Sft(), name) as run:
            (run.path / file).parent.mkdir(exist_ok=True)
            if file.endswith(".safetensors"):
                safetensors_are_refused(monkeypatch)
            else:
                (run.path / file).symlink_to("/dev/full")
            if stage == "pretrain":
                stages.module(stage).train(book, run)
            else:
                model = models.add_lora(models.load_base("tiny-base")[0], config.Sft())
                models.save_adapter(model, run, "default", models.Head(64))
    assert not (runs.root() / name).exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full disk, /dev/full")
def test_a_disk_that_is_full_at_a_checkpoint_costs_that_one(empty_runs, capsys, monkeypatch):
    with runs.start("sft", config.Sft(), "full") as run:
        keeper = checkpoint.Keeper(run)
        keeper.put({"w": torch.zeros(1)})
        keeper.save(step=1)
        with monkeypatch.context() as patch:
            safetensors_are_refused(patch)
            keeper.save(step=2)
        assert "a checkpoint could not be written" in capsys.readouterr().err
        assert checkpoint.newest(run.path)[1]["step"] == 1
        for step in range(3):
            run.log(step=step)
        (run.path / "metrics.jsonl.tmp").symlink_to("/dev/full")
        with pytest.raises(OSError):
            run.rewind(2)
        (run.path / "metrics.jsonl.tmp").unlink()
        assert len(run.metrics()) == 3


def test_a_folder_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    places = [tmp_path / "file" / "runs", "/proc/nowhere/runs", "/sys/runs"]
    for place in places:
        monkeypatch.setenv("LABKIT_RUNS", str(place))
        with pytest.raises(LabError, match="can't be written.*LABKIT_RUNS"):
            with runs.start("sft", config.Sft(), "x"):
                pass
        assert runs.listing() == runs.unfinished() == []
    for number, said in ((30, "read-only"), (122, "quota")):
        monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "runs"))
        with pytest.raises(LabError, match=said), runs.start("sft", config.Sft(), "y"):
            raise OSError(number, os.strerror(number))


def test_a_clock_that_was_set_back(empty_runs, monkeypatch):
    """The newest run is the one that was trained last, and no time is negative."""
    import time

    for name in ("first", "second"):
        with runs.start("sft", config.Sft(), name):
            pass
    ahead = time.time() + 1e6
    os.utime(empty_runs / "second" / "run.json", (ahead, ahead))
    monkeypatch.setattr(time, "time", lambda: 1e9)
    with runs.start("sft", config.Sft(), "third"):
        pass
    assert [run.name for run in runs.listing()] == ["first", "second", "third"]
    assert runs.latest("sft").name == "third" and runs.latest("sft").info["seconds"] >= 0


ODD = "my runs 我的 🏔 'x' [1]"


def test_any_path_will_do_and_no_home(tiny_base, tmp_path):
    """Spaces, Chinese, emoji, quotes and brackets in the folder; an environment without HOME."""
    root = tmp_path / ODD
    shutil.copytree(tiny_base.path, root / "tiny-base")
    script = """
import sys
sys.path.insert(0, "tests")
from labkit import models, runs, config, stages
from labkit.stages import checkpoint
checkpoint.EVERY = 0
cfg = config.Pretrain(corpus=sys.argv[1], start_from="tiny-base", sequence_length=16, batch_size=4,
                      context=160, steps=12)
def stop(line):
    if line["step"] == 11: raise RuntimeError
try:
    with runs.start("pretrain", cfg, "年-1") as run:
        run.listeners.append(stop)
        stages.module("pretrain").train(cfg, run)
except RuntimeError:
    pass
with runs.resume("年-1") as run:
    stages.module("pretrain").train(run.config, run)
print(len(runs.load("年-1").metrics()), models.load_base("年-1")[0].base_info["name"])
"""
    book = root / "書 📖.txt"
    book.write_text("\n\n".join(f"The fox ate {day} cakes." for day in range(90)), "utf8")
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "USERPROFILE")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(book)],
        env=env | {"LABKIT_RUNS": str(root), "PYTHONIOENCODING": "utf8"},
        capture_output=True,
        text=True,
        encoding="utf8",
    )
    assert done.stdout == "3 年-1\n", done.stderr
