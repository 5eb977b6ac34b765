"""A run that was killed goes on, from any moment, and nothing half written is ever taken for whole.

What is killed here is a toy loop, so that it can be killed at every touch of the disk; the stages
themselves are killed in test_kills.py.
"""

import functools
import json
import math
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from labkit import LabError, cli, config, data, runs
from labkit.stages import checkpoint
from labkit.stages import pairs as preferences


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


STEPS = 6


def toy(run):
    """Six steps of Adam on noise, a line each, a checkpoint after every second; then weights.pt."""
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([weight], lr=run.config.learning_rate)
    run.note_data(["text"])
    keeper = checkpoint.of(run)
    keeper.put({"weight": weight}, optimizer)
    for step in range(keeper.facts.get("step", 0), STEPS):
        ((weight - torch.randn(3)) ** 2).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        run.log(step=step + 1, first=weight[0])
        if step % 2:
            keeper.save(step=step + 1)
    (run.path / "weights.json").write_text(json.dumps(weight.tolist()))
    run.finish(last=weight[0].item())


def begin_or_go_on(name):
    goes_on = runs.checkpoints(runs.root() / (runs.PARTIAL + name))
    cfg = config.Sft(seed=5, learning_rate=0.1)
    with runs.resume(name) if goes_on else runs.start("sft", cfg, name) as run:
        toy(run)
    return run


def outcome(name):
    run = runs.load(name)
    run.verify("")
    left = sorted(p.name for p in run.path.iterdir() if p.name.startswith(runs.KEPT))
    return run.metrics(), run.evaluation, json.loads((run.path / "weights.json").read_text()), left


def killed(work, touch: int) -> bool:
    """Do the work in a process of its own, which kills itself before its `touch`-th change of the
    runs folder; whether it came so far.
    """
    pid = os.fork()
    if pid == 0:
        seen = 0

        def count(event, given):
            nonlocal seen
            flags = given[2] if event == "open" and isinstance(given[2], int) else 0
            changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
            if (changes or flags & (os.O_WRONLY | os.O_RDWR)) and ".locks" not in str(given[0]):
                if os.environ["LABKIT_RUNS"] in str(given[0]):
                    seen += 1
                    if seen == touch:
                        os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_killed_before_every_touch_of_the_disk():
    """At the start, in the loop, in a checkpoint, between the last one and the whole run: it starts
    again or goes on, and comes out the same. A second kill follows where it goes on.
    """
    begin_or_go_on("undisturbed")
    wanted = outcome("undisturbed")
    assert wanted[3] == [] and len(wanted[0]) == STEPS
    touch = gone_on = 0
    while killed(functools.partial(begin_or_go_on, f"killed-{touch + 1}"), touch := touch + 1):
        name = f"killed-{touch}"
        hidden = runs.root() / (runs.PARTIAL + name)
        if not hidden.exists():
            continue  # before there was anything, or once it was whole
        gone_on += bool(runs.checkpoints(hidden))
        killed(functools.partial(begin_or_go_on, name), 1 + touch % 5)
        begin_or_go_on(name)
        assert outcome(name) == wanted, touch
    assert touch > 20 and gone_on > 10
    for run in runs.listing():  # those that were killed once they were whole, too
        assert outcome(run.name)[:3] == wanted[:3]


def test_a_whole_run_that_was_killed_before_it_was_tidy_is_whole(root, monkeypatch):
    """Its checkpoint is left, and going on from it changes nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(runs.work, "KEPT", "nothing")
        begin_or_go_on("untidy")
    assert (root / "untidy" / runs.CHECKPOINT).exists()
    before = outcome("untidy")
    with runs.resume("untidy") as run:
        toy(run)
    assert outcome("untidy") == (*before[:3], [])


# damaged checkpoints -----------------------------------------------------------------------------


class Stop(Exception):
    pass


def stopped(name, at=5):
    """A run that stopped after step `at`: checkpoints of steps 4 and 2."""

    def stop(line):
        if line["step"] == at:
            raise Stop

    cfg = config.Sft(seed=5, learning_rate=0.1)
    with pytest.raises(Stop), runs.start("sft", cfg, name) as run:
        run.listeners.append(stop)
        toy(run)
    return run.path


def flip(file, place):
    """Turn one bit of the byte at `place`, a share of the file."""
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.8, 1.0, "cut", "empty"])
def test_the_checkpoint_before_a_damaged_one_is_used(place, capsys):
    begin_or_go_on("whole")
    last = stopped("damaged") / runs.CHECKPOINT
    cut = {"cut": last.read_bytes()[:-9], "empty": b""}
    last.write_bytes(cut[place]) if place in cut else flip(last, place)
    begin_or_go_on("damaged")
    said = capsys.readouterr().err
    assert str(last) in said and "going on from the one before" in said
    assert outcome("damaged") == outcome("whole")
    for file in runs.checkpoints(stopped("both")):
        flip(file, 0.9)
    with pytest.raises(LabError, match=f"{runs.BEFORE} can't be used.*start the stage again"):
        begin_or_go_on("both")


def test_a_line_that_was_half_written_is_dropped():
    begin_or_go_on("whole")
    with (stopped("half") / "metrics.jsonl").open("a", encoding="utf8") as file:
        file.write('{"step": 6, "fir')
    begin_or_go_on("half")
    assert outcome("half") == outcome("whole")


def test_checkpoints_are_written_now_and_then(monkeypatch):
    """Every half minute, and more seldom where one takes long to write."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: now.s)
    with runs.start("sft", config.Sft(), "paced") as run:
        keeper = checkpoint.Keeper(run)
        keeper.put({"w": torch.zeros(1)})
        asked = []
        for now.s in range(0, 400, 10):
            if keeper.due():
                asked.append(now.s)
                monkeypatch.setattr(
                    checkpoint, "save", lambda *_, **__: setattr(now, "s", now.s + 2)
                )
                keeper.save()
        assert asked[0] == 30 and set(math.dist([a], [b]) for a, b in zip(asked, asked[1:])) == {
            110
        }
        keeper.run = None
        assert not keeper.due()


# what it goes on with ----------------------------------------------------------------------------


def test_it_goes_on_with_what_it_began_with():
    stopped("mine")
    for changes, said in (
        ({"lora_r": 64}, "lora_r can't change on the way"),
        ({"seed": 6, "epochs": 9}, "seed, epochs can't change"),
        ({"stage": "dpo"}, "is a sft run.*train sft --resume mine"),
        ({"speed": 1}, "no setting 'speed'"),
    ):
        with pytest.raises(LabError, match=said), runs.resume("mine", **changes):
            pass
    with runs.resume("mine", seed=5, learning_rate=0.2) as run:  # the same is no change
        assert run.config.learning_rate == 0.2
        toy(run)


def test_other_data_are_refused(monkeypatch):
    stopped("mine")
    monkeypatch.setattr(runs.Run, "note_data", lambda run, _: run.info.update(data_hash="other"))
    with pytest.raises(LabError, match="did not begin with the data that there is now"):
        begin_or_go_on("mine")
    monkeypatch.undo()


def test_the_command_line_says_what_it_would_ignore(root, monkeypatch, capsys):
    stopped("mine")
    for more, said in (
        (["--name", "other"], "leave out --name"),
        (["--profile", "tiny"], "leave out --profile"),
        (["--lora-r", "64"], "lora_r can't change"),
    ):
        assert cli.main(["train", "sft", "--resume", "mine", *more]) == 1
        assert said in capsys.readouterr().err
    assert cli.main(["train", "dpo", "--resume", "mine"]) == 1
    assert "train sft --resume mine" in capsys.readouterr().err


def test_the_words_fit_what_works(monkeypatch):
    """Where there is a checkpoint nobody is told to start again."""
    with pytest.raises(LabError, match="Stopped.*train ai-feedback --resume words"):
        with runs.start("ai_feedback", config.AiFeedback(), "words") as run:
            (run.path / runs.CHECKPOINT).touch()
            raise KeyboardInterrupt
    with pytest.raises(LabError, match="disk is full.*go on from its last checkpoint.*resume full"):
        with runs.start("sft", config.Sft(), "full") as run:
            (run.path / runs.BEFORE).touch()  # the newer one went, at the wrong moment
            raise OSError(28, "No space left on device")
    with pytest.raises(LabError, match="halve it. Or go on from .*--resume far --learning-rate"):
        with runs.start("sft", config.Sft(), "far") as run:
            run.log(step=1)
            (run.path / runs.CHECKPOINT).touch()
            raise LabError("The loss is no longer a number: halve it.")
    with pytest.raises(LabError, match="disk is full.*start the stage again"):
        with runs.start("sft", config.Sft(), "fuller"):
            raise OSError(28, "No space left on device")


# the same seed, the same weights -----------------------------------------------------------------


def test_a_run_is_the_same_whether_it_made_its_pairs_or_found_them(monkeypatch, root):
    """The random numbers after it do not tell. (Seen: the same seed and data, another head.)"""
    made = [data.Pair(f"{i}?", "yes", "no") for i in range(5)]
    monkeypatch.setattr(preferences.rollout, "preference_pairs", lambda *_, **__: drawn() or made)
    monkeypatch.setattr(preferences.models, "adapter_id", lambda _: "theirs")
    drawn = lambda: torch.rand(1) and None
    cfg, after = config.Reward(examples=5), []
    for name in ("makes", "finds"):
        with runs.start("reward", cfg, name) as run:
            run.info["policy"] = "theirs"
            pairs, counted = preferences.load_preferences(cfg, None, None, None, run)
            data.save_jsonl(pairs, run.path / preferences.PAIRS)
            run.finish(**counted)
            after.append((torch.rand(1).item(), pairs, counted))
        monkeypatch.setattr(preferences, "_made", None)  # the second one must not ask
    assert after[0] == after[1] and after[0][1] == made
    assert sorted(p.name for p in run.path.iterdir()) == ["pairs.jsonl", "run.json"]


def test_a_run_that_goes_on_learns_from_the_pairs_that_it_made(monkeypatch, root):
    """However many others have come meanwhile."""
    made = [data.Pair("1?", "yes", "no")]
    monkeypatch.setattr(preferences.models, "adapter_id", lambda _: "theirs")
    monkeypatch.setattr(preferences.rollout, "preference_pairs", lambda *_, **__: made)
    cfg = config.Reward(examples=1)
    ask = lambda run: preferences.load_preferences(cfg, None, None, None, run)
    with pytest.raises(Stop), runs.start("reward", cfg, "mine") as run:
        first = ask(run)
        (run.path / runs.CHECKPOINT).touch()
        raise Stop
    monkeypatch.setattr(preferences.rollout, "preference_pairs", None)
    with runs.resume("mine") as run:
        assert ask(run) == first == (made, {"compared": 0, "ties": 0})


# what dead trainings leave -----------------------------------------------------------------------


def test_dead_runs_are_listed_and_cleaned_and_living_ones_stay(root, capsys, tmp_path):
    stopped("dead")
    begin_or_go_on("whole")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (root / ".partial-link").symlink_to(outside)
    with runs.start("sft", config.Sft(), "alive") as run:
        run.log(step=1)
        found = {one["name"]: one for one in runs.unfinished()}
        assert set(found) == {"dead", "alive"}
        assert (found["dead"]["at_work"], found["alive"]["at_work"]) == (False, True)
        assert (found["dead"]["resume"], found["alive"]["resume"]) == (True, False)
        assert found["dead"]["bytes"] > 1000
        assert cli.main(["runs", "clean", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        size = found["dead"]["bytes"]
        assert report == {"removed": {"dead": size}, "at_work": ["alive"], "bytes": size}
    assert {run.name for run in runs.listing()} == {"whole", "alive"}
    assert (outside / "precious").exists()
    assert cli.main(["runs", "clean"]) == 0
    assert capsys.readouterr().out == "0 bytes are free again.\n"
    stopped("dead")
    assert cli.main(["runs", "list", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in report["runs"]] == ["whole", "alive"]
    assert [run["name"] for run in report["unfinished"]] == ["dead"]
    assert cli.main(["runs", "clean"]) == 0
    assert "dead is deleted (" in capsys.readouterr().out and not runs.unfinished()
