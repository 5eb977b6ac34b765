"""Several processes train as one would: here 2 and 4 on the CPU, by gloo."""

import functools
import os
import signal
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import pytest
import torch
from many import several
from ppo_scene import players_of, weights
from safetensors.torch import load_file

from labkit import LabError, cli, compat, config, data, ranks, runs, stages
from labkit.stages import ppo, trl
from labkit.stages.ppo_guard import Guard
from labkit.stages.ppo_players import Players

EIGHT = [f"What is the capital of {name}?" for name in "Japan Italy France Peru Cuba".split()] + [
    "Gold?",
    "台灣最高的山是哪座？",
    "Who?",
]


@pytest.fixture(scope="module")
def given(ppo_cfg, tmp_path_factory):
    """(settings, a file with one rollout of all eight prompts): a batch that is not sampled."""
    folder = tmp_path_factory.mktemp("ranks")
    prompts = data.save_jsonl([{"prompt": one} for one in EIGHT], folder / "prompts.jsonl")
    cfg = config.change(
        ppo_cfg,
        prompts=str(prompts),
        normalize_rewards=1,
        target_kl=0.5,
        kl_horizon=100,
        ptx=0.5,
        micro_batch_size=1,
        learning_rate=1e-3,
        critic_learning_rate=1e-3,
    )
    torch.manual_seed(5)
    players = players_of(cfg)
    whole = players.sample(EIGHT, cfg)
    whole.logprobs = whole.values = None  # each process makes them of its rows
    torch.save(whole, folder / "rollout.pt")
    return cfg, folder / "rollout.pt"


def rows_of(rollout, rows: list[int]):
    """Some rows of a rollout, as if they had been sampled alone."""
    length = int(rollout.attention_mask[rows].sum(1).max())
    cut = {
        f.name: [value[i] for i in rows]
        if isinstance(value, list)
        else value[rows]
        if value.dim() == 1
        else value[rows, :length]
        for f in fields(rollout)
        if (value := getattr(rollout, f.name)) is not None
    }
    return replace(rollout, **cut)


TEXTS = torch.randint(5, 300, (4, 12), generator=torch.Generator().manual_seed(1))
TEXTS_MASK = (torch.arange(12) < torch.tensor([[12], [4], [9], [3]])).long()


def training(cfg, file, name):
    """A run of PPO on the rollout in `file`: (the first step's gradients, the policy's weights)."""
    whole, kept, add = torch.load(file, weights_only=False), {}, ranks.add_gradients

    def seen(parameters):
        parameters = list(parameters)
        add(parameters)
        kept.setdefault("gradients", [p.grad.clone().numpy() for p in parameters])

    def sample(self, prompts, cfg):
        kept["players"] = self
        return rows_of(whole, [whole.prompts.index(prompt) for prompt in prompts])

    def text(n):
        mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
        return TEXTS[mine], TEXTS_MASK[mine]

    Players.sample, ranks.add_gradients = sample, seen
    ppo.text_rows = lambda *_: text
    ppo.watched = lambda *_: {}
    torch.randperm = lambda n: torch.arange(n).flip(0)
    with runs.start("ppo", cfg, name) as run:
        ppo.train(cfg, run)
    assert run.path.name == name
    return kept["gradients"], [w.numpy() for w in weights(kept["players"].model, "policy")]


@functools.cache
def alone(cfg_json, file):
    cfg = config.Ppo(**dict(cfg_json))
    (found,) = several(1, training, cfg, file, "rank-alone")
    return found, runs.load("rank-alone").metrics()


@pytest.mark.parametrize("world", [2, 4])
def test_the_same_batch_gives_the_same_steps(given, world):
    cfg, file = given
    (gradients, policy), lines = alone(tuple(vars(cfg).items()), file)
    found = several(world, training, cfg, file, f"rank-{world}")
    together = runs.load(f"rank-{world}").metrics()
    assert len(together) == len(lines) == 2
    for ours, theirs in zip(together, lines, strict=True):
        assert ours.keys() == theirs.keys() and "ptx_loss" in ours
        for key, value in theirs.items():
            assert ours[key] == (
                pytest.approx(value, rel=1e-5, abs=1e-5) if isinstance(value, float) else value
            ), key
    for theirs, weights_there in found:
        for one, other in zip(gradients, theirs, strict=True):
            assert abs(one - other).max() < 1e-5
        for one, other in zip(policy, weights_there, strict=True):
            assert abs(one - other).max() < 1e-4
    assert all((a == b).all() for a, b in zip(found[0][1], found[-1][1], strict=True))


# stopping and going on ---------------------------------------------------------------------------


def watched_measure(at: int, act):
    """ppo.measure, which does `act` when it is called for the `at`th time."""
    whole, calls = ppo.measure, []

    def measure(*given):
        calls.append(1)
        if len(calls) == at:
            act()
        return whole(*given)

    ppo.measure = measure
    return calls


def interrupted(cfg, name):
    """A run in whose first update the last process is asked to stop: (updates that were begun, the
    responses of the rollout).
    """
    last, said = ranks.rank() == ranks.world() - 1, []
    calls = watched_measure(1, lambda: last and signal.raise_signal(signal.SIGINT))
    with runs.start("ppo", cfg, name) as run:
        ppo.train(cfg, run, probe=lambda players, rolled, _: said.extend(rolled.responses) or {})
    return len(calls), said


def dying(name, who):
    """Go on with it; process `who` dies in its second update."""
    watched_measure(2, lambda: ranks.rank() == who and os._exit(9))
    with runs.resume(name) as run:
        ppo.train(run.config, run)


def test_all_stop_together_and_another_number_goes_on(ppo_cfg, tmp_path):
    """Ctrl-C in one of two processes; four go on, of which one dies; one process ends it."""
    prompts = data.save_jsonl([{"prompt": "Who?"}] * 3, tmp_path / "prompts.jsonl")
    cfg = config.change(ppo_cfg, prompts=str(prompts), updates=4, checkpoint_every=1)
    (begun, said), other = several(2, interrupted, cfg, "rank-stop")
    assert begun == 1 and other == (1, [])  # only rank 0 looks
    assert len(said) == cfg.batch_size and said[:4] != said[4:]  # one prompt, seeds of their own
    assert runs.load("rank-stop").evaluation["updates"] == 1

    *alive, dead = several(4, dying, "rank-stop", 3)
    assert dead is None
    for error in alive:
        assert isinstance(error, LabError)
        assert "Another process of this training ended" in str(error) and "--resume" in str(error)
    with pytest.raises(LabError, match="There is no run 'rank-stop'"):
        runs.load("rank-stop")
    with runs.resume("rank-stop") as run:
        ppo.train(run.config, run)
    assert [line["step"] for line in runs.load("rank-stop").metrics()] == [1, 2, 3, 4]


def test_the_launchers_signal_is_a_sentence(ppo_cfg, monkeypatch):
    monkeypatch.setattr(ranks, "world", lambda: 2)
    for name in ("first", "wait"):
        monkeypatch.setattr(ranks, name, lambda work=None, *given: work and work(*given))
    with pytest.raises(LabError, match="Another process of this training ended.*start the stage"):
        with runs.start("ppo", ppo_cfg, "rank-term"):
            signal.raise_signal(signal.SIGTERM)


# what they know of one another -------------------------------------------------------------------


@dataclass
class Rows:
    names: list
    scores: torch.Tensor
    tokens: torch.Tensor
    error: float
    nothing: None = None


def acquainted():
    """What each of the functions gives in this process."""
    rank = ranks.rank()
    ranks.reseed(3, 1)
    passes = SimpleNamespace(size=4 + rank)
    stop = Guard.agree(SimpleNamespace(players=SimpleNamespace(passes=passes)), rank == 1)
    rows = Rows([rank], torch.tensor([rank]), torch.full((1, 1 + rank), rank), float(rank))
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.full((2, 2), 1.0 + rank)
    ranks.add_gradients([weight])

    def refuses():
        raise LabError(f"{rank} refuses")

    with pytest.raises(LabError, match="0 refuses"):
        ranks.first(refuses)
    return {
        "drawn": torch.rand(1).item(),
        "own": ranks.own(list(range(6))),
        "first": ranks.first(lambda: rank),
        "gathered": ranks.gathered([rank, "x"]),
        "agreed": (passes.size, stop),
        "joined": [
            x.tolist() if hasattr(x, "tolist") else x for x in vars(ranks.joined(rows)).values()
        ],
        "gradient": weight.grad.tolist(),
    }


def test_what_every_process_knows():
    found = several(3, acquainted)
    assert len({one.pop("drawn") for one in found}) == 3
    assert [one.pop("own") for one in found] == [[0, 1], [2, 3], [4, 5]]
    for one in found:
        assert one == {
            "first": 0,
            "gathered": [0, "x", 1, "x", 2, "x"],
            "agreed": (4, True),
            "joined": [[0, 1, 2], [0, 1, 2], [[0, 0, 0], [1, 1, 0], [2, 2, 2]], 2.0, None],
            "gradient": [[6.0, 6.0], [6.0, 6.0]],
        }


def test_a_batch_that_can_not_be_shared(ppo_cfg, monkeypatch):
    assert ranks.share(7, "batch_size") == 7
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(LabError, match="minibatch_size is 4, which 3 processes can't share"):
        ppo.train(config.change(ppo_cfg, batch_size=9), None)
    with pytest.raises(LabError, match="Set batch_size to a multiple of 3"):
        ppo.train(ppo_cfg, None)


def test_weights_are_not_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(LabError, match="not a model's weights"):
        ranks.wait()


# stages on TRL -----------------------------------------------------------------------------------


def stage_settings(folder):
    """Settings of the stages on TRL, each for five whole batches: the last of an epoch, where it is
    not, is filled up with the first rows for several processes.
    """
    words = "Gold Japan Paris Rome Tokyo apples water iron Peru Cuba".split()
    asked = [f"What is {word}{'?' * (1 + i % 3)}" for i, word in enumerate(words * 5)]
    said = [f"It is {'the ' * (i % 4)}{word}." for i, word in enumerate(words * 5)]
    rows = {
        "sft": [{"prompt": p, "response": r} for p, r in zip(asked, said)],
        "reward": [{"prompt": p, "chosen": r, "rejected": r[3:]} for p, r in zip(asked, said)],
        "kto": [
            {"prompt": p, "response": r, "label": i % 2 == 0}
            for i, (p, r) in enumerate(zip(asked, said))
        ],
    }
    rows["dpo"] = rows["reward"]
    found = {}
    for stage, some in rows.items():
        file = data.save_jsonl(some, folder / f"{stage}.jsonl")
        named = {} if stage == "sft" else {"policy": "rl-sft"}
        found[stage] = config.change(
            config.KINDS[stage](),
            **named,
            base="tiny-base",
            data=str(file),
            examples=0,
            epochs=0.8,
            batch_size=8,
            lora_r=4,
            max_prompt_tokens=80,
            max_response_tokens=16,
        )
    return found


def on_trl(settings, name):
    for stage, cfg in settings.items():
        stages.train(stage, cfg, f"{name}-{stage}")


def test_stages_on_trl_learn_as_one_process_does(ppo_cfg, tmp_path):
    settings = stage_settings(tmp_path)
    assert several(1, on_trl, settings, "trl-1", seconds=300) == [None]
    assert several(2, on_trl, settings, "trl-2", seconds=300) == [None, None]
    for stage in settings:
        one, two = (runs.load(f"trl-{n}-{stage}") for n in (1, 2))
        lines, together = one.metrics(), two.metrics()
        assert len(lines) == len(together) > 1
        for line, other in zip(lines, together):
            for key in {"loss", "grad_norm", "mean_token_accuracy", "kl", "rewards/chosen"} & {
                *line
            }:
                assert other[key] == pytest.approx(line[key], rel=1e-3, abs=1e-3), (stage, key)
        ours, theirs = (
            load_file(run.path / "adapter" / "adapter_model.safetensors") for run in (one, two)
        )
        moved = {key: weight for key, weight in ours.items() if "lora_B" in key}  # from 0
        for key, weight in moved.items():
            assert (weight - theirs[key]).norm() < 0.05 * weight.norm(), (stage, key)
        assert moved


# one process, many cards -------------------------------------------------------------------------


def test_one_process_uses_one_card_and_says_so(monkeypatch, capsys, tmp_path):
    from trl import SFTConfig

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    how = {"output_dir": str(tmp_path), "report_to": "none", "bf16": False, "use_cpu": False}
    assert SFTConfig(**how).n_gpu == 2  # of which transformers makes a DataParallel
    card = SimpleNamespace(device=lambda: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(trl, "runs", card)
    seen = {}

    class Trainer:
        remove_callback = train = lambda *_: None

        def __init__(self, args, **_):
            seen["args"] = args

    model, run = torch.nn.Linear(1, 1), SimpleNamespace(path=tmp_path, trainer_callback=dict)
    trl.fit(Trainer, SFTConfig, model, None, [{"x": 1}], config.Sft(), run, bf16=False)
    assert seen["args"].n_gpu == 1 and seen["args"].train_batch_size == 8

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ranks.say_cards("ai_feedback")
    told = capsys.readouterr().err
    assert "2 CUDA cards are here and one is used" in told and "train ai-feedback" in told
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    ranks.say_cards("sft")
    assert not capsys.readouterr().err


def test_a_run_says_at_its_start_how_many_cards(monkeypatch):
    said = []
    monkeypatch.setattr(ranks, "say_cards", said.append)
    with runs.start("sft", config.Sft(), "rank-cards"):
        assert said == ["sft"]


def test_every_process_has_its_own_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runs.device() == torch.device("cuda")
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert runs.device() == torch.device("cuda", 1) and not ranks.main()
    begun = []
    monkeypatch.setattr(torch.cuda, "set_device", begun.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda **_: begun.append("joined"))
    ranks._dist()
    assert begun == [1, "joined"]


def test_through_a_wrapper_or_without():
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.passed = module, 0

        def forward(self):
            self.passed += 1
            return self.module()

    module = torch.nn.Linear(1, 1)
    wrapper, before = Wrapper(module), module.forward
    assert compat.through(module, module, lambda: 3) == 3
    assert compat.through(wrapper, module, lambda: 4) == 4
    assert wrapper.passed == 1 and module.forward == before


def test_other_processes_are_silent(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(cli, "parse", lambda _: quiet)
    quiet = lambda: print("hello") or {}
    quiet.json = False
    assert cli.main([]) == 0
    assert capsys.readouterr().out == ""
    assert cli.fail("no") == 1 and capsys.readouterr().err == "labkit, process 1: no\n"


# settings from a file ----------------------------------------------------------------------------


def test_settings_from_a_file(tmp_path, monkeypatch, capsys):
    file = tmp_path / "sft.yaml"
    file.write_text("learning-rate: 1e-3\nepochs: 3\nlora_r: 4\n", "utf8")
    assert config.read(str(file), "sft") == {"learning_rate": 1e-3, "epochs": 3, "lora_r": 4}
    seen = []
    monkeypatch.setattr(stages.module("sft"), "train", lambda cfg, run: seen.append(cfg))
    assert cli.main(["train", "sft", "--config", str(file), "--epochs", "2"]) == 0
    assert (seen[0].epochs, seen[0].lora_r) == (2, 4)
    file.write_text('{"speed": 1}', "utf8")
    assert cli.main(["train", "sft", "--config", str(file)]) == 1
    assert "no setting 'speed'" in capsys.readouterr().err
    for text, told in (("- a", "must hold settings"), ("{", "can't be read")):
        file.write_text(text, "utf8")
        with pytest.raises(LabError, match=told):
            config.read(str(file), "sft")
    with pytest.raises(LabError, match="can't be read .No such file"):
        config.read(str(tmp_path / "none.yaml"), "sft")
