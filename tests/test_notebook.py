"""What a notebook and a stage go on from: a run on its base, or a word on how to get one."""

import os

import pytest

from labkit import LabError, config, notebook, runs
from labkit.stages import module

SMOL = "HuggingFaceTB/SmolLM2-135M"


def make(stage, name, base, fingerprint=None):
    with runs.start(stage, config.KINDS[stage](), name) as run:
        run.info["base"] = {"name": base, "fingerprint": fingerprint or base}
    moment = 1000 + len(runs.listing())
    os.utime(run.path / "run.json", (moment, moment))
    return run


def test_the_tiny_profile_begins_with_what_came_along(empty_runs, capsys):
    assert notebook.using("sft").shipped and notebook.using("ppo").shipped
    assert "ppo: the checkpoint that came with the project" in capsys.readouterr().out


@pytest.mark.parametrize("profile", ["small", "gpu"])
@pytest.mark.parametrize("stage", notebook.SMALL_RUNS)
def test_nothing_of_another_base_is_picked(empty_runs, monkeypatch, stage, profile):
    monkeypatch.setenv("LABKIT_PROFILE", profile)
    base, command = getattr(config.profile(), stage).base, stage.replace("_", "-")
    make(stage, "tiny", "pretrain-001", "abc")
    said = f"no {stage} run on the base {base} yet.*train {command} --profile {profile}.*add --"
    with pytest.raises(LabError, match=f"{said}.*about .* minutes.*Notebook .* trains it"):
        notebook.using(stage)
    make(stage, "mine", base)
    make(stage, "later", "pretrain-001", "abc")
    assert notebook.using(stage).name == "mine"
    assert notebook.using(stage, "later").name == "later"  # who names one gets it


def test_the_small_runs_can_be_trained(empty_runs, capsys):
    """Their options are settings that hold, and the notebooks are there."""
    assert set(notebook.SMALL_RUNS) == set(config.STAGES[1:])
    for stage, (lab, options, _) in notebook.SMALL_RUNS.items():
        words = options.removeprefix("--").split(" --")
        values = {name.replace("-", "_"): int(value) for name, value in map(str.split, words)}
        config.change(getattr(config.small(), stage), **values)
        assert (runs.data_folder().parent / "notebooks" / f"{lab}.ipynb").exists()


def test_a_base_of_ones_own_carries_all_that_follows(empty_runs):
    make("sft", "smol", SMOL)  # of another profile
    assert notebook.using("sft").shipped
    make("sft", "mine", "pretrain-001", "abc")
    make("sft", "smol-2", SMOL)
    assert notebook.using("sft").name == "mine"
    for stage in ("reward", "ppo"):
        with pytest.raises(LabError, match=f"no {stage} run on the base abc yet"):
            notebook.using(stage)
        make(stage, f"my-{stage}", "pretrain-001", "abc")
        assert notebook.using(stage).name == f"my-{stage}"


def test_a_cell_names_the_profile(empty_runs, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_PROFILE", "tiny")
    assert notebook.setup(profile="small").name == "small"
    assert config.profile().name == "small"  # and so for all that asks later
    assert capsys.readouterr().out.startswith("profile small on cpu; your runs go to")
    with pytest.raises(LabError, match="no profile 'huge'"):
        notebook.setup(profile="huge")


def test_a_profile_that_the_machine_chose_is_explained(empty_runs, monkeypatch, capsys):
    monkeypatch.delenv("LABKIT_PROFILE")
    monkeypatch.setattr(config, "card", lambda: 24.0)
    assert notebook.setup().name == "gpu"
    assert "(there is a CUDA card of 24 GB; else say setup(profile=" in capsys.readouterr().out


def test_what_is_compared_stands_on_one_base(empty_runs, monkeypatch, capsys):
    """Of another profile nothing came along: until all stages are there, the shipped ones speak."""
    monkeypatch.setenv("LABKIT_PROFILE", "small")
    base = config.profile().sft.base
    make("sft", "mine", base)
    assert all(run.shipped for run in notebook.finished("SFT", "PPO").values())
    make("ppo", "my-ppo", base)
    found = notebook.finished("SFT", "PPO")
    assert {name: run.name for name, run in found.items()} == {"SFT": "mine", "PPO": "my-ppo"}
    assert "ppo: your run my-ppo" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["reward", "ppo", "dpo", "kto", "ai_feedback"])
def test_a_stage_starts_from_its_base_alone(empty_runs, stage):
    cfg = config.KINDS[stage](base=SMOL)
    with (
        pytest.raises(LabError, match=f"no sft run on the base {SMOL}"),
        runs.start(stage, cfg) as run,
    ):
        module(stage).train(cfg, run)


def test_ppo_takes_a_reward_model_of_its_policys_base(empty_runs):
    make("sft", "mine", "pretrain-001", "abc")
    cfg = config.Ppo(policy="mine")
    with (
        pytest.raises(LabError, match="no reward run on the base abc"),
        runs.start("ppo", cfg) as run,
    ):
        module("ppo").train(cfg, run)
