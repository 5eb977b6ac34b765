"""Settings: every bad value is refused with a sentence, and the profiles build."""

import re
from dataclasses import fields
from types import SimpleNamespace

import pytest

from labkit import LabError, config

STAGES = {
    "pretrain": config.Pretrain,
    "sft": config.Sft,
    "reward": config.Reward,
    "ppo": config.Ppo,
    "dpo": config.Dpo,
    "kto": config.Kto,
    "ai_feedback": config.AiFeedback,
}
ADAPTED = (config.Sft, config.Reward, config.Ppo, config.Dpo, config.Kto, config.AiFeedback)
# (the classes, their settings, values that are refused, what the sentence says they must be)
REFUSED = [
    (
        ADAPTED,
        "learning_rate batch_size lora_r lora_alpha max_prompt_tokens epochs",
        (0, -1),
        "above 0",
    ),
    (
        (config.Ppo,),
        "updates epochs clip value_clip temperature kl_horizon gamma max_grad_norm max_kl"
        " critic_learning_rate",
        (0,),
        "above 0",
    ),
    (
        (config.Pretrain,),
        "layers hidden_size intermediate_size batch_size steps learning_rate muon_learning_rate",
        (0,),
        "above 0",
    ),
    (
        (config.Ppo,),
        "beta target_kl missing_eos_penalty warmup critic_warmup micro_batch_size ptx"
        " checkpoint_every",
        (-1,),
        "0 or more",
    ),
    ((config.Sft, config.Reward, config.Dpo, config.Kto), "examples", (-1,), "0 or more"),
    ((config.Dpo, config.Kto), "beta", (-0.1,), "0 or more"),
    ((config.Kto,), "desirable_weight undesirable_weight", (0.0, -1.0), "above 0"),
    ((config.Kto,), "batch_size", (1, 33), "even"),
    ((config.Pretrain,), "warmup", (-1,), "0 or more"),
    (ADAPTED, "max_response_tokens", (1,), "2 or more"),
    ((config.Reward, config.Pretrain), "validation_fraction", (0.0, 1.0), "between 0 and 1"),
    ((config.Ppo,), "gamma", (1.1,), "above 0 and at most 1"),
    ((config.Ppo,), "gae_lambda", (1.1, -0.1), "between 0 and 1"),
    ((config.Ppo,), "minibatch_size", (65, 0), "between 1 and batch_size=64"),
    ((config.Ppo,), "normalize_rewards", (2,), "0 or 1"),
    (ADAPTED, "gradient_checkpointing", (2,), "0 or 1"),
    ((config.Ppo,), "critic", ("tail",), '"adapter" or "head"'),
    ((config.Pretrain,), "vocab_size", (299,), "at least 300"),
    ((config.Pretrain,), "heads", (3, 0), "a divisor of hidden_size=160"),
    ((config.Pretrain,), "sequence_length", (257, 7), "between 8 and context=256"),
    ((config.Pretrain,), "optimizer", ("sgd",), '"muon" or "adamw"'),
    ((config.Sft,), "learning_rate", (float("nan"),), "above 0"),
    ((config.Sft,), "learning_rate", ("fast", None), "a number"),
    ((config.Pretrain,), "steps", (2.5, True), "a whole number"),
    ((config.Sft,), "base", (None,), "text"),
    ((config.Pretrain, *ADAPTED), "seed", (-1, 2**32, 10**30), "between 0 and 4294967295"),
    ((config.Pretrain,), "vocab_size", (99_999_999_999,), "at most 1,000,000"),
    ((config.Pretrain,), "layers", (10**9,), "at most 1,000"),
    (ADAPTED, "lora_r max_prompt_tokens", (10**9,), "at most 1,000,000"),
    ((config.Sft, config.Dpo), "batch_size", (10**12,), "at most 1,000,000"),
    ((config.Sft,), "data policy", ("half \udcff",), "text without half a character"),
    ((config.Sft,), "examples", (10**12,), "at most 10,000,000"),
    ((config.Sft,), "epochs learning_rate", (float("inf"),), "finite"),
]


@pytest.mark.parametrize(
    "kind, field, value, must",
    [
        (kind, field, value, must)
        for kinds, names, values, must in REFUSED
        for kind in kinds
        for field in names.split()
        for value in values
    ],
)
def test_a_bad_value_is_refused(kind, field, value, must):
    said = re.escape(f"{kind.__name__}.{field} is {value!r}, but it must be {must}")
    with pytest.raises(LabError, match=said):
        kind(**{field: value})
    with pytest.raises(LabError, match=said):
        config.change(kind(), **{field: value})


def test_good_edges_are_accepted():
    config.Pretrain(sequence_length=256, warmup=0, heads=1)
    config.Sft(examples=0, epochs=1, learning_rate=1)
    config.Ppo(minibatch_size=64, beta=0, gamma=1, gae_lambda=0, warmup=0)


def test_change_replaces_and_names_unknown_fields():
    old = config.Sft(learning_rate=0.5)
    new = config.change(old, batch_size=8)
    assert (new.learning_rate, new.batch_size, old.batch_size) == (0.5, 8, 32) and type(
        new
    ) is config.Sft
    with pytest.raises(
        LabError, match="Sft has no setting 'lerning_rate'. It has: .*learning_rate"
    ):
        config.change(old, lerning_rate=1.0)


@pytest.mark.parametrize("name", config.PROFILES)
def test_profiles_build_and_hold_their_own_checks(name):
    profile = config.profile(name)
    assert profile.name == name
    for stage, kind in STAGES.items():
        cfg = getattr(profile, stage)
        assert (
            type(cfg) is kind and config.change(cfg) == cfg
        )  # adapt() sets fields past the checks: they must hold
    base = {"tiny": "", "small": "HuggingFaceTB/SmolLM2-135M", "gpu": "Qwen/Qwen3-0.6B-Base"}[name]
    assert {getattr(profile, stage).base for stage in config.STAGES[1:]} == {base}


def test_large_bases_hold_little_of_their_layers():
    """Gradient checkpointing, and on a GPU as many rows a pass as its memory holds."""
    on = {
        name: {
            getattr(config.profile(name), stage).gradient_checkpointing
            for stage in STAGES
            if stage != "pretrain"
        }
        for name in config.PROFILES
    }
    assert on == {"tiny": {0}, "small": {0, 1}, "gpu": {1}}
    assert (config.small().ppo.micro_batch_size, config.gpu().ppo.micro_batch_size) == (8, 0)


def test_profiles_do_not_share_state():
    config.tiny().sft.learning_rate = 9.0
    assert config.tiny().sft.learning_rate != 9.0


def test_the_profile_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("LABKIT_PROFILE", "small")
    assert (config.profile().name, config.profile("gpu").name) == ("small", "gpu")
    monkeypatch.delenv("LABKIT_PROFILE")
    assert config.profile().name == "tiny"
    monkeypatch.setenv("LABKIT_PROFILE", "huge")
    with pytest.raises(LabError, match="no profile 'huge'.*tiny, small, gpu"):
        config.profile()


@pytest.mark.parametrize("gigabytes, name", [(0, "tiny"), (8, "tiny"), (12, "gpu"), (141, "gpu")])
def test_the_profile_suits_the_machine(monkeypatch, gigabytes, name):
    monkeypatch.delenv("LABKIT_PROFILE")
    monkeypatch.setattr(config, "card", lambda: float(gigabytes))
    assert config.profile().name == name
    _, why = config.chosen()
    assert ("none" if gigabytes == 0 else str(gigabytes)) in why
    monkeypatch.setenv("LABKIT_PROFILE", "small")
    assert config.chosen() == ("small", "LABKIT_PROFILE says so")


def test_the_card_is_read_from_torch(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = SimpleNamespace(total_memory=15_800_000_000)  # a T4
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    assert config.card() == 15.8 and config.lacks("gpu") == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert config.card() == 0 and config.lacks("gpu").endswith("there is none")


def test_what_does_not_fit_is_said(monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5_000_000_000))
    assert config.lacks("tiny") == ""
    assert config.lacks("small") == "needs 8 GB of memory, and 5 are free"


def test_every_setting_has_a_plain_type():
    """The command line makes an option of each field, so each must be text, a whole number or a
    number.
    """
    assert config.STAGES == tuple(STAGES)
    assert {f.type for kind in STAGES.values() for f in fields(kind)} == {str, int, float}


def test_a_lab_error_renders_without_a_traceback():
    assert LabError("Say so.")._render_traceback_() == ["LabError: Say so."]


def test_a_base_larger_than_the_machine_is_refused_by_its_size():
    with pytest.raises(LabError, match="parameters takes .* GB to train, and this machine has"):
        config.Pretrain(hidden_size=100_000, heads=10, layers=1_000, vocab_size=1_000_000)


def test_settings_come_from_a_plain_file_of_a_size_that_settings_have(tmp_path):
    for path, said in {
        "/dev/zero": "it is no plain file",
        "~nosuchuser/x.yaml": "can't be a path here",
        str(tmp_path / "nowhere.yaml"): "No such file",
    }.items():
        with pytest.raises(LabError, match=said):
            config.read(path, "ppo")
    for text, said in {"[" * 5_000: "can't be read", "x: 1\n" * 300_000: "far too long"}.items():
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(LabError, match=said):
            config.read(str(tmp_path / "mine.yaml"), "ppo")


def test_a_setting_that_a_stage_would_not_heed_is_refused():
    for stage in ("reward", "ppo", "dpo", "kto"):
        with pytest.raises(LabError, match=f"lora_r would not be heeded: {stage} goes on"):
            config.refuse_idle(stage, {"lora_r": 64, "beta": 0.1})
    with pytest.raises(LabError, match="lora_r and lora_alpha would"):
        config.refuse_idle("sft", {"lora_r": 64, "lora_alpha": 1, "policy": "sft-001"})
    config.refuse_idle("sft", {"lora_r": 64})
    config.refuse_idle("ai_feedback", {"lora_r": 64})
    config.refuse_idle("dpo", {"beta": 0.1})
