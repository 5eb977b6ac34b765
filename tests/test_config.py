"""Settings: every bad value is refused with a sentence, and the profiles build."""

from dataclasses import fields

import pytest

from labkit import LabError, config

STAGES = {
    "pretrain": config.Pretrain,
    "sft": config.Sft,
    "reward": config.Reward,
    "ppo": config.Ppo,
    "dpo": config.Dpo,
}
POSITIVE = ("learning_rate", "batch_size", "lora_r", "lora_alpha", "max_prompt_tokens")


@pytest.mark.parametrize(
    "kind, field, value, must",
    [
        *[
            (kind, name, value, "above 0")
            for kind in (config.Sft, config.Reward, config.Ppo, config.Dpo)
            for name in POSITIVE
            for value in (0, -1)
        ],
        *[(kind, "examples", -1, "0 or more") for kind in (config.Sft, config.Reward, config.Dpo)],
        *[
            (config.Ppo, name, 0, "above 0")
            for name in (
                "updates",
                "epochs",
                "clip",
                "value_clip",
                "temperature",
                "kl_horizon",
                "gamma",
                "max_grad_norm",
                "critic_learning_rate",
            )
        ],
        *[
            (config.Ppo, name, -0.1, "0 or more")
            for name in ("beta", "target_kl", "missing_eos_penalty")
        ],
        *[
            (config.Pretrain, name, 0, "above 0")
            for name in (
                "layers",
                "hidden_size",
                "intermediate_size",
                "batch_size",
                "steps",
                "learning_rate",
                "muon_learning_rate",
            )
        ],
        (config.Sft, "epochs", 0.0, "above 0"),
        (config.Sft, "learning_rate", float("nan"), "above 0"),
        (config.Sft, "max_response_tokens", 1, "2 or more"),
        (config.Reward, "validation_fraction", 0.0, "between 0 and 1"),
        (config.Reward, "validation_fraction", 1.0, "between 0 and 1"),
        (config.Dpo, "beta", -0.1, "0 or more"),
        (config.Ppo, "warmup", -1, "0 or more"),
        (config.Ppo, "gamma", 1.1, "above 0 and at most 1"),
        (config.Ppo, "gae_lambda", 1.1, "between 0 and 1"),
        (config.Ppo, "gae_lambda", -0.1, "between 0 and 1"),
        (config.Ppo, "minibatch_size", 65, "between 1 and batch_size=64"),
        (config.Ppo, "minibatch_size", 0, "between 1 and batch_size=64"),
        (config.Pretrain, "vocab_size", 299, "at least 300"),
        (config.Pretrain, "heads", 3, "a divisor of hidden_size=128"),
        (config.Pretrain, "heads", 0, "a divisor"),
        (config.Pretrain, "sequence_length", 257, "between 8 and context=256"),
        (config.Pretrain, "sequence_length", 7, "between 8 and context=256"),
        (config.Pretrain, "optimizer", "sgd", '"muon" or "adamw"'),
        (config.Pretrain, "warmup", -1, "0 or more"),
        (config.Pretrain, "validation_fraction", 0.0, "between 0 and 1"),
        (config.Sft, "learning_rate", "fast", "a number"),
        (config.Sft, "batch_size", 2.5, "a whole number"),
        (config.Sft, "base", None, "text"),
        (config.Ppo, "clip", None, "a number"),
        (config.Pretrain, "steps", True, "a whole number"),
    ],
)
def test_a_bad_value_is_refused(kind, field, value, must):
    with pytest.raises(LabError) as caught:
        kind(**{field: value})
    assert str(caught.value).startswith(
        f"{kind.__name__}.{field} is {value!r}, but it must be {must}"
    )
    with pytest.raises(LabError):
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
    bases = {getattr(profile, stage).base for stage in config.STAGES[1:]}
    assert bases == (
        {""}
        if name == "tiny"
        else {"HuggingFaceTB/SmolLM2-135M"}
        if name == "small"
        else {"Qwen/Qwen3-0.6B-Base"}
    )


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


def test_every_setting_has_a_plain_type():
    """The command line makes an option of each field, so each must be text, a whole number or a
    number.
    """
    assert config.STAGES == tuple(STAGES)
    assert {f.type for kind in STAGES.values() for f in fields(kind)} == {str, int, float}


def test_a_lab_error_renders_without_a_traceback():
    assert LabError("Say so.")._render_traceback_() == ["LabError: Say so."]
