"""What a plan says of a base that can be loaded here, and of those that can't."""

import pytest
import torch

from labkit import LabError, cli, config, models
from labkit.bench import plan


def ppo(**values):
    return config.change(config.gpu().ppo, batch_size=16, minibatch_size=8, **values)


@pytest.mark.parametrize("critic", ["head", "adapter"])
def test_the_parts_are_those_of_a_base_that_is_loaded(tiny_base, monkeypatch, critic):
    """4-bit layers, adapters, gradients and AdamW's state, to the byte."""
    monkeypatch.setattr("labkit.models.base.SMALL", 0)  # its scales in 8 bits, as a large one's
    cfg = ppo(critic=critic, reward="one,two")
    parts, _ = plan.memory(plan.sized("tiny-base"), cfg, 1, 1e9)
    model = models.load_base("tiny-base")[0]
    whole = sum(p.numel() for p in model.parameters() if p.dtype == torch.float32)
    # Here the rest is float32, on a card 16 bits; the angles of the positions are not counted.
    angles = sum(buffer.nbytes for buffer in model.buffers())
    assert models.memory(model)["base"] == parts["base in 4 bits"] + 4 * whole + angles
    assert parts["embeddings and norms"] == 2 * whole

    trained = ["policy", "critic"] if critic == "adapter" else ["policy"]
    for name in [*trained, "reference", "reward", "reward1"]:
        model = models.add_lora(model, cfg, name)
    assert models.memory(model)["adapters"] == parts["adapters"]
    weights = [p for name in trained for p in models.adapter_parameters(model, name)]
    optimizer = torch.optim.AdamW(weights)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    state = models.memory(model, optimizer)["optimizer"] - 4 * len(weights)  # its step counters
    assert state + sum(p.grad.nbytes for p in weights) == parts["gradients, optimiser"]


def test_a_layer_in_four_bits():
    assert plan.four_bits(64) == 32 + 1 + 4
    assert plan.four_bits(64 * 257) == 32 * 257 + 257 + 8


@pytest.mark.parametrize("name, billions", [("0.6b", 0.596), ("8b", 8.19), ("32b", 32.76)])
def test_qwen3s_sizes_are_its_own(name, billions):
    """The numbers of parameters that its makers give."""
    count = sum(p.numel() for p in plan.sized(name).parameters())
    assert count / 1e9 == pytest.approx(billions, rel=1e-3)


def test_a_pass_fills_what_is_left():
    cfg, model = ppo(), plan.sized("0.6b")
    each = models.row_bytes(model, 384, 128, True)
    parts, _ = plan.memory(model, cfg, 1, 1e12)
    held = sum(parts.values()) - parts["KV cache"] - parts["one pass"]
    assert plan.memory(model, cfg, 1, 1e12)[1] == 8  # no more than a minibatch
    room = held + max(parts["KV cache"], 2 * each) + 1
    assert plan.memory(model, cfg, 1, room)[1] == int((room - held) // each) < 8
    assert plan.memory(model, cfg, 1, held + parts["KV cache"] - 1)[1] == 0
    assert plan.memory(model, cfg, 2, 1e12)[1] == 4
    assert plan.memory(model, cfg, 2, 1e12)[0]["KV cache"] == parts["KV cache"] / 2


def test_seconds_by_hand(tiny_base):
    """One row of 384 tokens, 128 of them sampled; the critic a head, no checkpoints."""
    cfg = ppo(gradient_checkpointing=0, critic="head", epochs=3, reward="one")
    model = plan.sized("tiny-base")
    weights = sum(p.numel() for p in model.parameters())
    forward = 2 * weights * 384
    # Arithmetic alone counts where bytes cost nothing.
    times = plan.seconds(model, cfg, 16, speed=1e9, bandwidth=1e18)
    assert times["sampling"] == pytest.approx(2 * weights * 128 / 1e9)
    assert times["scoring"] == pytest.approx(2 * forward / 1e9)
    assert times["training"] == pytest.approx(3 * 2 * forward / 1e9)
    slow = plan.seconds(model, cfg, 16, speed=1e18, bandwidth=1e6)
    read = weights / 2 + models.kv_bytes(model, 1, 384) / 2
    assert slow["sampling"] == pytest.approx(128 * read / 1e6)
    more = ppo(gradient_checkpointing=1, critic="adapter", epochs=3, reward="one")
    times = plan.seconds(model, more, 16, speed=1e9, bandwidth=1e18)
    assert times["scoring"] == pytest.approx(3 * forward / 1e9)
    assert times["training"] == pytest.approx(3 * 3 * 2 * forward / 1e9)


def test_more_cards_are_faster_and_a_small_one_is_too_small():
    one, eight = (plan.plan("8b", ppo(), gpus, price=2.0) for gpus in (1, 8))
    assert eight["samples_per_second"] > 3 * one["samples_per_second"]
    assert one["fits"] and not plan.plan("32b", ppo(), 1, "t4")["fits"]
    assert eight["cost"] == pytest.approx(2.0 * 8 * eight["hours"])
    assert "assumed" in one and "estimated" in one
    assert "cost" not in plan.plan("8b", ppo())  # nobody named a price


def test_what_can_not_be_planned_is_a_sentence(capsys):
    with pytest.raises(LabError, match="no card 'tpu'.*h200"):
        plan.plan("8b", ppo(), card="tpu")
    with pytest.raises(LabError, match="gpus is 3, but batch_size 16.*multiples"):
        plan.plan("8b", ppo(), gpus=3)
    with pytest.raises(LabError, match="no model 'nobody/nothing' to plan for.*0.6b"):
        plan.plan("nobody/nothing", ppo())
    assert cli.main(["plan", "--gpus", "0"]) == 1
    assert "gpus is 0" in capsys.readouterr().err


def test_the_verb_prints_parts_seconds_and_what_is_assumed(capsys):
    assert cli.main(["plan", "--model", "0.6b", "--card", "t4", "--batch-size", "32"]) == 0
    out = capsys.readouterr().out
    for word in ("base in 4 bits", "KV cache", "an update", "fits: yes", "assumed: all seconds"):
        assert word in out, word
