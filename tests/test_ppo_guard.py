"""What guards PPO: runs that stop go on exactly, memory that runs out, alarms, and a KL that runs
away.
"""

import signal

import pytest
import torch
from ppo_scene import one_update, random_run, same, weights

from labkit import LabError, cli, config, models, rollout, runs
from labkit.stages import checkpoint, ppo, ppo_guard


def go_on(name, judge=None, **changes):
    with runs.resume(name, **changes) as run:
        ppo.train(run.config, run, judge)
    return run


def ran_away(cfg, name, judge=None):
    """A run that stops in its second update, with a checkpoint of the first. The first update's KL
    is rounding noise, the second's some nats: the bound lies between.
    """
    stopped = {"updates": 4, "checkpoint_every": 1, "max_kl": 0.01, "learning_rate": 0.05}
    with pytest.raises(LabError, match="KL to the reference ran away.*runs.resume.*learning_rate"):
        one_update(cfg, judge, name=name, **stopped)
    assert not (runs.root() / name).exists()


# stopping and going on ---------------------------------------------------------------------------


@pytest.mark.parametrize("critic", ["adapter", "head"])
def test_resume_is_bit_for_bit(ppo_cfg, critic, monkeypatch):
    """Stopped after update 3 of 6, killed in update 5, gone on twice: the metrics of a run that was
    never stopped.
    """
    how = {
        "updates": 6,
        "checkpoint_every": 2,
        "critic": critic,
        "target_kl": 1.0,
        "kl_horizon": 100,
    }
    through = one_update(ppo_cfg, name=f"rl-through-{critic}", **how)
    assert not (through.path / runs.CHECKPOINT).exists()
    six, name = config.change(ppo_cfg, **how), f"rl-stopped-{critic}"
    with runs.start("ppo", six, name) as run:
        run.listeners.append(lambda v: v["step"] == 3 and signal.raise_signal(signal.SIGINT))
        ppo.train(six, run)
    assert runs.load(name).evaluation["updates"] == 3 and models.load_policy(
        name
    )  # whole, and it can be used

    measure, calls = ppo.measure, []

    def dies(*args):
        calls.append(args)
        if len(calls) == 2:  # in update 5, after the checkpoint of 4
            raise KeyboardInterrupt
        return measure(*args)

    with monkeypatch.context() as patch, pytest.raises(LabError, match=f"Stopped.*--resume {name}"):
        patch.setattr(ppo, "measure", dies)
        torch.rand(7)  # whatever was drawn meanwhile
        go_on(name)
    assert go_on(name).metrics() == through.metrics()
    policies = [weights(models.load_policy(one)[0], "policy") for one in (name, through.name)]
    assert same(*policies)
    with pytest.raises(LabError, match="is whole"), runs.resume(name):
        pass


def test_killed_between_the_last_update_and_the_end(ppo_cfg, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(LabError, match="Stopped"):
        patch.setattr(models, "save_adapter", killed)
        one_update(ppo_cfg, name="rl-late", updates=2, checkpoint_every=1)
    go_on("rl-late")
    assert runs.load("rl-late").evaluation["updates"] == 2 and models.load_policy("rl-late")


def test_resume_with_other_settings(ppo_cfg):
    ran_away(ppo_cfg, "rl-away")
    with pytest.raises(LabError, match="unfinished run 'rl-away' with a checkpoint"):
        one_update(ppo_cfg, name="rl-away")
    with pytest.raises(LabError, match="no setting 'speed'"), runs.resume("rl-away", speed=1):
        pass
    go_on("rl-away", max_kl=1e6, learning_rate=1e-4)
    assert [line["step"] for line in runs.load("rl-away").metrics()] == [1, 2, 3, 4]
    with pytest.raises(LabError, match="no unfinished run 'nobody'"), runs.resume("nobody"):
        pass


def test_the_command_line_goes_on(ppo_cfg, capsys):
    """A KL that runs away stops the run with the way on; the way works."""
    ran_away(ppo_cfg, "rl-cli")
    assert cli.main(["train", "ppo", "--resume", "rl-cli"]) != 0  # with the same settings: no
    assert "--resume rl-cli" in capsys.readouterr().err
    assert (
        cli.main(
            ["train", "ppo", "--resume", "rl-cli", "--learning-rate", "1e-4", "--max-kl", "1e6"]
        )
        == 0
    )
    run = runs.load("rl-cli")
    assert run.evaluation["updates"] == 4 and run.info["config"]["learning_rate"] == 1e-4
    assert cli.main(["train", "ppo", "--resume", "rl-cli"]) != 0
    assert "is whole" in capsys.readouterr().err


def test_the_runs_found_at_the_start_stay_the_runs(ppo_cfg):
    """Names left empty are looked up once: a run trained meanwhile does not slip in. (Seen: KL 1.32
    instead of 0.93.)
    """
    random_run("sft", "rl-sft-newest", 11)
    random_run("reward", "rl-reward-newest", 12)
    ran_away(config.change(ppo_cfg, policy="", reward=""), "rl-named")
    info = runs.shelf.read(runs.root() / ".partial-rl-named").info
    assert (
        info["config"]["policy"] == "rl-sft-newest"
        and info["config"]["reward"] == "rl-reward-newest"
    )
    random_run("sft", "rl-sft-later", 13)
    random_run("reward", "rl-reward-later", 14)
    run = go_on("rl-named", max_kl=1e6)
    assert (run.config.policy, run.config.reward) == ("rl-sft-newest", "rl-reward-newest")


def test_an_adapter_that_changed_is_refused(ppo_cfg):
    random_run("sft", "rl-sft-changed", 15)
    ran_away(config.change(ppo_cfg, policy="rl-sft-changed"), "rl-changed")
    model, _ = models.load_policy("rl-sft-changed")
    models.adapter_parameters(model, "policy")[0].data += 1
    models.save_adapter(model, runs.load("rl-sft-changed"), "policy")
    with pytest.raises(LabError, match="another policy adapter"):
        go_on("rl-changed", max_kl=1e6)


def test_a_function_that_rewarded_is_asked_for_again(ppo_cfg, capsys):
    """A run that used a function says so, and without one it does not go on. (Seen: score 23.0 →
    −0.2.)
    """
    calls = []

    def taste(prompts, responses):
        calls.append(len(prompts))
        return [float(len(text)) for text in responses]

    ran_away(ppo_cfg, "rl-judged", taste)
    with pytest.raises(LabError, match="rewarded by the function 'taste'.*judge="):
        go_on("rl-judged", max_kl=1e6)
    assert cli.main(["train", "ppo", "--resume", "rl-judged", "--max-kl", "1e6"]) != 0
    assert "'taste'" in capsys.readouterr().err
    calls.clear()
    run = go_on("rl-judged", taste, max_kl=1e6, learning_rate=1e-4)
    assert len(calls) >= 2 and runs.load(run.name).info["judge"] == "taste"


def test_a_whole_run_that_may_not_go_on_stays_whole(ppo_cfg):
    def taste(prompts, responses):
        return [float(len(text)) for text in responses]

    cfg = config.change(ppo_cfg, updates=4)
    with runs.start("ppo", cfg, "rl-half") as run:
        run.listeners.append(lambda v: v["step"] == 2 and signal.raise_signal(signal.SIGINT))
        ppo.train(cfg, run, taste)
    with pytest.raises(LabError, match="rewarded by the function"):
        go_on("rl-half")
    assert runs.load("rl-half").evaluation["updates"] == 2
    go_on("rl-half", taste)
    assert runs.load("rl-half").evaluation["updates"] == 4


def test_a_broken_checkpoint_is_said(ppo_cfg):
    ran_away(ppo_cfg, "rl-broken")
    (runs.root() / ".partial-rl-broken" / runs.CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(LabError, match="checkpoint.*can't be used"):
        go_on("rl-broken")


def test_full_disk_at_a_checkpoint_costs_only_the_checkpoint(ppo_cfg, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    run = one_update(ppo_cfg, updates=2, checkpoint_every=1)
    assert capsys.readouterr().err.count("could not be written ([Errno 28]") == 2
    assert runs.load(run.name).evaluation["updates"] == 2


def test_a_checkpoint_that_can_not_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    import safetensors.torch

    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    checkpoint.save(tmp_path, {"w": weight}, optimizer, update=1)
    save = safetensors.torch.save_file

    def half(tensors, path, metadata):
        save(tensors, path, metadata)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with pytest.raises(OSError):
        checkpoint.save(tmp_path, {"w": weight}, optimizer, update=2)
    assert [p.name for p in tmp_path.iterdir()] == [runs.CHECKPOINT]
    assert checkpoint.newest(tmp_path)[1] == {"update": 1}


def test_second_interrupt_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with runs.interruptible() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# memory ------------------------------------------------------------------------------------------


def test_parts_are_chosen_from_the_free_memory(ppo_cfg, scene, monkeypatch):
    """Before anything runs out: three rows of prompt and response, policy and critic."""
    model = scene[0].model
    cfg = config.change(ppo_cfg, minibatch_size=6, micro_batch_size=5, gradient_checkpointing=1)
    assert ppo_guard.MicroBatch(cfg, model).size == 5
    each = models.row_bytes(model, 88, 8, True) + models.row_bytes(model, 88, 0, True)
    monkeypatch.setattr(models, "fitting_rows", lambda most, bytes_each: (most, bytes_each))
    assert ppo_guard.MicroBatch(cfg, model).size == (5, each)
    whole = config.change(cfg, micro_batch_size=0, critic="head", gradient_checkpointing=0)
    assert ppo_guard.MicroBatch(whole, model).size == (6, models.row_bytes(model, 88, 8))


def test_checkpointed_layers_learn_the_same(ppo_cfg, monkeypatch):
    """Through peft, with a critic of its own, whose adapter is not the active one afterwards."""
    monkeypatch.setattr(models.dense, "SMALL", 0)
    runs = [one_update(ppo_cfg, gradient_checkpointing=on) for on in (0, 1)]
    without, with_them = (run.evaluation["memory"].pop("activations") for run in runs)
    assert with_them < without / 2
    one, other = (run.metrics()[0] for run in runs)
    for key in ("kl", "policy_loss", "value_loss", "max_abs_logratio"):
        assert other[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6), key


def test_memory_that_runs_out_halves_the_parts(ppo_cfg, scene, capsys):
    """In sampling's measure as in the update: the same metrics, in smaller parts."""
    enough = one_update(ppo_cfg).metrics()[0]
    whole = rollout.Rollout.parts

    def tight(self, rows, size):
        for one in whole(self, rows, size):
            yield one  # gradients of a pass that did not come to its end must not count
            if size > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout.Rollout, "parts", tight)
        found = one_update(ppo_cfg).metrics()[0]
    assert "going on with 2 responses" in capsys.readouterr().err
    assert found["kl"] == pytest.approx(enough["kl"], abs=1e-3)
    assert found["policy_loss"] == pytest.approx(enough["policy_loss"], abs=1e-3)

    def none_at_all(size):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    with pytest.raises(LabError, match="Memory ran out with a single response"):
        ppo_guard.MicroBatch(ppo_cfg, scene[0].model).fit(none_at_all)
    with pytest.raises(RuntimeError, match="another"):
        ppo_guard.MicroBatch(ppo_cfg, scene[0].model).fit(
            lambda size: (_ for _ in ()).throw(RuntimeError("another"))
        )


def test_memory_is_reported_by_part(ppo_cfg):
    players = {}
    run = one_update(ppo_cfg, probe=lambda one, *_: players.update(one=one) or {})
    memory = run.evaluation["memory"]
    assert set(memory) == {"base", "adapters", "optimizer", "activations", "kv_cache"}
    assert all(value > 0 for value in memory.values())
    policy = models.adapter_parameters(players["one"].model, "policy")
    trainable = 2 * 4 * sum(p.numel() for p in policy)
    assert memory["adapters"] == 2 * trainable  # four adapters
    assert memory["optimizer"] > 2 * trainable  # two moments for two of them


# alarms ------------------------------------------------------------------------------------------


def of_kls(kls):
    """An experience whose responses have these KLs to the reference."""
    mask, zeros = torch.ones(len(kls), 1), torch.zeros(len(kls), 1)
    return ppo.Experience(
        torch.tensor(kls)[:, None], zeros, zeros, mask, zeros[:, 0], mask[:, 0].bool()
    )


def test_alarms(capsys):
    ppo_guard.alarm(
        1e-5, of_kls([0.1, -0.2, 0.05])
    )  # all is well: a batch may come out a little negative
    ppo_guard.alarm(0.0, of_kls([0.0] * 64))
    ppo_guard.alarm(0.32, of_kls([0.0] * 64), torch.bfloat16)  # rounding, in bfloat16
    assert capsys.readouterr().err == ""
    ppo_guard.alarm(0.3, of_kls([0.0] * 64))
    assert "off by 0.3" in capsys.readouterr().err
    ppo_guard.alarm(5.0, of_kls([0.0] * 64), torch.bfloat16)
    assert "off by 5" in capsys.readouterr().err
    ppo_guard.alarm(0.0, of_kls([-233.0] * 64))
    assert "KL to the reference is -233" in capsys.readouterr().err


def test_the_loop_raises_the_alarms(ppo_cfg, monkeypatch):
    heard = []
    monkeypatch.setattr(ppo_guard, "alarm", lambda *args: heard.append(args))
    run = one_update(ppo_cfg)
    ((error, found, dtype),) = heard
    assert error == run.metrics()[0]["first_ratio_error"] and found.scores.shape == (8,)
    assert dtype == torch.float32


def test_a_constant_reward_is_said_once(ppo_cfg, capsys):
    one_update(ppo_cfg, lambda prompts, responses: [0.5] * len(responses), updates=2)
    assert capsys.readouterr().err.count("got the same reward") == 1


def test_responses_that_never_end_or_all_end_at_once_are_said(scene):
    batch, scores = scene[1], torch.randn(4)
    batch.ended = torch.zeros(4, dtype=torch.bool)
    assert (
        "no response in a rollout ended by itself" in ppo_guard.nothing_to_learn(scores, batch)[0]
    )
    batch.ended = ~batch.ended
    batch.response_mask = torch.zeros_like(batch.response_mask)
    batch.response_mask[:, -1] = 1
    (said,) = ppo_guard.nothing_to_learn(scores, batch)
    assert "every response of a rollout was empty" in said


def test_whom_a_run_took_is_on_disk_before_its_first_update(ppo_cfg):
    """A run that is killed at once must still refuse to go on with others."""
    found = []

    def probe(players, *_):
        found.append(runs.shelf.read(run.path).info)
        return {}

    cfg = config.change(ppo_cfg, updates=1)
    with runs.start("ppo", cfg, "rl-noted") as run:
        ppo.train(cfg, run, probe=probe)
    took = {key: found[0].get(key) for key in ("judge", "policy", "rewards")}
    assert took == {key: run.info[key] for key in took} and took["judge"] == ""
