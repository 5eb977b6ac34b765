"""A run is whole or not there."""

import json
import os
import random
import subprocess
import sys

import pytest

from labkit import LabError, config, runs


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(
        runs.shelf, "data_folder", lambda: tmp_path / "data"
    )  # nothing shipped, unless a test puts it there
    return tmp_path / "runs"


def make(stage="sft", name=None, **evaluation):
    with runs.start(stage, config.Sft(), name) as run:
        run.finish(**evaluation)
    return run


def names(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != runs.LOCKS)


def test_a_whole_run_gets_its_name(root):
    with runs.start("sft", config.Sft(learning_rate=0.5)) as run:
        assert names(root) == [".partial-sft-001"] and run.path == root / ".partial-sft-001"
        run.log(step=1, loss=2.5)
        run.finish(accuracy=0.1234567891)
    assert names(root) == ["sft-001"] and names(run.path) == ["metrics.jsonl", "run.json"]
    again = runs.load("sft-001")
    assert (again.stage, again.shipped, again.evaluation) == ("sft", False, {"accuracy": 0.123457})
    assert (
        again.info["config"]["learning_rate"] == 0.5
        and again.info["seconds"] >= 0
        and again.info["versions"]["labkit"]
    )
    assert make().name == "sft-002"


def test_metrics_come_back_as_they_went(root):
    import numpy
    import torch

    with runs.start("sft", config.Sft()) as run:
        seen = []
        run.listeners.append(seen.append)
        run.log(step=1, loss=torch.tensor(0.5), score=numpy.float64(0.25), text="玉\u2028山\n")
        run.log(step=2)
    assert (
        runs.load("sft-001").metrics()
        == seen
        == [{"step": 1, "loss": 0.5, "score": 0.25, "text": "玉\u2028山\n"}, {"step": 2}]
    )
    assert make("dpo").metrics() == []


def test_listeners_are_told_the_end(root):
    class Listener:
        ended = 0

        def __call__(self, values):
            pass

        def finish(self):
            self.ended += 1

    good, bad = Listener(), Listener()
    with runs.start("sft", config.Sft()) as run:
        run.listeners += [good, print]
    with pytest.raises(ZeroDivisionError), runs.start("sft", config.Sft()) as run:
        run.listeners.append(bad)
        raise ZeroDivisionError
    assert (good.ended, bad.ended) == (1, 1)


def test_an_error_inside_leaves_only_the_partial(root):
    make()
    with pytest.raises(ZeroDivisionError), runs.start("sft", config.Sft()) as run:
        run.log(step=1)
        raise ZeroDivisionError
    assert names(root) == [".partial-sft-002", "sft-001"] and names(run.path) == [
        "metrics.jsonl",
        "run.json",
    ]
    assert runs.latest("sft").name == "sft-001" and [r.name for r in runs.listing()] == ["sft-001"]
    for name in ("sft-002", ".partial-sft-002", "", "."):
        with pytest.raises(LabError, match="There is no run"):
            runs.load(name)
    with pytest.raises(LabError, match="an unfinished one of that name.*There are: sft-001"):
        runs.load("sft-002")


def test_an_interrupted_run_says_so_and_can_start_again(root):
    with (
        pytest.raises(LabError, match="Stopped.*start the stage again") as caught,
        runs.start("sft", config.Sft(), "mine"),
    ):
        raise KeyboardInterrupt
    assert caught.value.__suppress_context__ and names(root) == [".partial-mine"]
    assert make(name="mine").path == root / "mine" and names(root) == ["mine"]


def test_names(root):
    make(name="我的-run_1.a")
    with pytest.raises(LabError, match="already in .*Choose another name"):
        make(name="我的-run_1.a")
    for bad in ("../up", "a/b", ".hidden", "-", "a b", "a\\b", "a\0b"):
        with pytest.raises(LabError, match="can't be a run's name"):
            make(name=bad)
    assert names(root) == ["我的-run_1.a"] and names(root.parent) == ["runs"]


def test_two_starts_at_once(root):
    with runs.start("sft", config.Sft()) as one, runs.start("sft", config.Sft()) as two:
        one.log(step=1)
        two.log(step=2)
        assert (one.name, two.name) == ("sft-001", "sft-002")
        with (
            pytest.raises(LabError, match="Another process is training 'sft-001'"),
            runs.start("sft", config.Sft(), "sft-001"),
        ):
            pass
    assert runs.load("sft-001").metrics() == [{"step": 1}] and runs.load("sft-002").metrics() == [
        {"step": 2}
    ]


TRAINS = """
import sys, time
from labkit import config, runs
name = sys.argv[1] or None
with runs.start("sft", config.Sft(), name) as run:
    run.log(step=1)
    print(run.name, flush=True)
    sys.stdin.readline()
"""


def training(name=""):
    """Another process that trains under a name until it hears something."""
    return subprocess.Popen(
        [sys.executable, "-c", TRAINS, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_process_does_not_block_its_name(root):
    """Whatever its number was: in a container it may be that of the next one."""
    process = training("mine")
    assert process.stdout.readline() == "mine\n"
    with (
        pytest.raises(LabError, match="Another process is training 'mine'"),
        runs.start("sft", config.Sft(), "mine"),
    ):
        pass
    (root / ".partial-mine" / runs.CHECKPOINT).touch()
    with pytest.raises(LabError, match="Another process"), runs.resume("mine"):
        pass
    process.kill()
    process.wait()
    with runs.resume("mine"):
        pass
    assert runs.load("mine").metrics() == [{"step": 1}]


def test_a_name_in_an_unfinished_run_leads_nowhere(root):
    partial = root / ".partial-mine"
    with pytest.raises(RuntimeError), runs.start("sft", config.Sft(), "mine") as run:
        (run.path / runs.CHECKPOINT).touch()
        raise RuntimeError
    file = partial / "run.json"
    info = json.loads(file.read_text("utf8")) | {"name": "../../escaped"}
    del info["checksum"]
    file.write_text(json.dumps(info), "utf8")
    with runs.resume("mine"):
        pass
    assert (root / "mine" / "run.json").exists() and not (root.parent.parent / "escaped").exists()


def test_trainings_begun_together_have_a_folder_each(root):
    together = [training() for _ in range(4)]
    found = [process.stdout.readline().strip() for process in together]
    assert sorted(found) == ["sft-001", "sft-002", "sft-003", "sft-004"]
    for process in together:
        process.communicate("on")
    assert [runs.load(name).metrics() for name in found] == [[{"step": 1}]] * 4


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"x"', '{"stage": "sft"}', "\udcff"])
def test_a_corrupted_run_is_named(root, text):
    run = make()
    (run.path / "run.json").write_bytes(text.encode("utf8", "surrogateescape"))
    for ask in (lambda: runs.load("sft-001"), lambda: runs.latest("sft"), runs.listing):
        with pytest.raises(LabError, match="sft-001 is not a whole run.*Delete the folder"):
            ask()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk(root, monkeypatch, error):
    make()

    def full(*args, **kwargs):
        raise error

    with (
        pytest.raises(LabError, match="disk is full.*earlier runs are untouched"),
        runs.start("sft", config.Sft()) as run,
    ):
        monkeypatch.setattr(
            run, "log", full
        )  # a checkpoint or a metric: the first write that fails
        run.log(step=1)
    assert [r.name for r in runs.listing()] == ["sft-001"]
    monkeypatch.setattr(runs.Run, "note", full)
    with pytest.raises(LabError, match="disk is full"), runs.start("sft", config.Sft()):
        pass
    assert [r.name for r in runs.listing()] == ["sft-001"]


def test_other_errors_pass(root):
    with pytest.raises(FileNotFoundError), runs.start("sft", config.Sft()):
        open("no such file")


def test_latest_is_the_newest_own_run_then_the_shipped_one(root, tmp_path):
    with pytest.raises(LabError, match="no sft run yet.*python -m labkit train sft"):
        runs.latest("sft")
    shipped = tmp_path / "data" / "checkpoints" / "sft"
    shipped.mkdir(parents=True)
    (shipped / "run.json").write_text(
        json.dumps({"stage": "sft", "name": "sft", "evaluation": {"accuracy": 1.0}}), "utf8"
    )
    assert (
        runs.latest("sft").shipped
        and runs.latest("sft").evaluation == {"accuracy": 1.0}
        and runs.load("shipped/sft").shipped
    )
    for name in ("b", "a"):
        make(name=name)
    for moment, name in ((100, "b"), (50, "a")):
        os.utime(root / name / "run.json", (moment, moment))
    make("dpo", "c")
    assert runs.latest("sft").name == "b" and not runs.latest("sft").shipped
    assert [run.name for run in runs.listing()] == ["a", "b", "c"]
    assert runs.latest("sft", "a").name == "a" and runs.latest("sft", "shipped/sft").shipped
    with pytest.raises(LabError, match="'c' is a dpo run, but a sft run is needed"):
        runs.latest("sft", "c")
    assert runs.policy().name == "b" and runs.policy("c").stage == "dpo"
    make("reward", "r")
    with pytest.raises(LabError, match="'r' is a reward run and holds no policy"):
        runs.policy("r")
    with pytest.raises(LabError, match="There are: a, b, c, r, shipped/sft"):
        runs.load("d")


def test_an_experiment_aside_is_taken_by_name_alone(root):
    make(name="series")
    with runs.start("sft", config.Sft(), "experiment", aside=True):
        pass
    assert runs.latest("sft").name == "series" and runs.policy().name == "series"
    assert runs.latest("sft", "experiment").info["aside"]
    assert [run.name for run in runs.listing()] == ["series", "experiment"]
    assert [run.name for run in runs.series()] == ["series"]


def test_where_runs_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("LABKIT_RUNS")
    assert runs.root().name == "runs" and runs.listing is not None
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "elsewhere"))
    assert runs.root() == tmp_path / "elsewhere" and runs.listing() == []


def test_seed_everything():
    import numpy
    import torch

    def draw():
        runs.seed_everything(7)
        return random.random(), numpy.random.rand(), torch.rand(()).item()

    assert draw() == draw()


def test_the_trainer_callback_logs_numbers_only(root):
    from types import SimpleNamespace

    with runs.start("sft", config.Sft()) as run:
        run.trainer_callback().on_log(
            None,
            SimpleNamespace(global_step=3, max_steps=9),
            None,
            {"loss": 1.0, "train_runtime": 5.0, "total_flos": 1.0, "note": "x"},
        )
        run.trainer_callback().on_log(None, SimpleNamespace(global_step=3, max_steps=9), None, None)
    assert run.metrics() == [{"step": 3, "steps": 9, "loss": 1.0}]


def test_a_run_says_what_memory_it_held_and_not_what_others_did():
    def used(megabytes):
        with runs.start("sft", config.Sft()) as run:
            bytearray(megabytes * 2**20)
        return run.info["peak_bytes"] / 2**20

    small, large, again = used(1), used(400), used(1)
    now, peak = runs.memory()
    assert 0 < now <= peak and large > 400
    if os.access("/proc/self/clear_refs", os.W_OK):  # elsewhere a peak stays
        assert large - small > 300 < large - again


def test_a_resumed_run_keeps_its_higher_peak(root):
    with pytest.raises(LabError), runs.start("ppo", config.Ppo(), "long") as run:
        (run.path / runs.CHECKPOINT).touch()
        run.info["peak_bytes"] = 2**60
        run.note()
        raise LabError("stopped")
    with runs.resume("long") as run:
        (run.path / runs.CHECKPOINT).unlink()
    assert runs.load("long").info["peak_bytes"] == 2**60


def test_a_trainers_figures_are_logged_and_its_summary_is_not(root):
    from types import SimpleNamespace

    with runs.start("sft", config.Sft(), "logged") as run:
        log = run.trainer_callback()
        state = SimpleNamespace(global_step=5, max_steps=10)
        log.on_log(None, state, None, {"loss": 2.0, "epoch": 0.5, "note": "text"})
        log.on_log(None, state, None, {"train_runtime": 3.0, "total_flos": 1.0, "epoch": 1.0})
    assert run.metrics() == [{"step": 5, "steps": 10, "loss": 2.0, "epoch": 0.5}]
