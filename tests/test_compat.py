"""The third-party internals that labkit leans on: each test notices when a library has changed, and
so whether what stands in compat is still needed and still helps.
"""

import logging
import subprocess
import sys
import warnings

import pytest
import torch

from labkit import compat, config, models

CFG = config.Sft(lora_r=4, lora_alpha=8)
ROW = {"input_ids": [2, 30, 40, 3], "labels": [-100, 30, 40, 3]}
PAIR = {"prompt_ids": [2, 30], "chosen_ids": [40, 3], "rejected_ids": [41, 3]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(160, 160), (448, 160), (96, 96), (64, 128), (5, 10)])
def test_4bit_weights_of_any_width_come_back(shape, dtype):
    """Beside the blocks multiplied out here. When the first test below fails, the function can
    go.
    """
    from bitsandbytes import functional

    compat.blocks_across_rows()
    torch.manual_seed(0)
    weight = torch.randn(shape)
    packed, state = functional.quantize_4bit(weight.to(dtype), blocksize=64, quant_type="nf4")
    places = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten().long()
    places = places[: weight.numel()]
    scales = state.absmax.repeat_interleave(64)[: weight.numel()]
    by_hand = (state.code[places] * scales).view(shape)
    back = functional.dequantize_4bit(packed, state).float()
    assert back.shape == weight.shape and (back - by_hand).abs().max() < 0.02
    assert (back - weight).norm() / weight.norm() < 0.11


def test_without_it_some_widths_do_not():
    code = (
        "import torch; from bitsandbytes import functional as f; torch.manual_seed(0);"
        "w = torch.randn(160, 160); packed = f.quantize_4bit(w, blocksize=64, quant_type='nf4');"
        "print(((f.dequantize_4bit(*packed) - w).norm() / w.norm()).item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "Error" in done.stderr:
        pytest.fail(done.stderr)
    error = float(done.stdout)
    assert error > 0.2, f"bitsandbytes is right by itself now ({error:.2f}): compat can shrink"


@pytest.fixture
def adapted(tiny_base):
    model, tokenizer = models.load_base("tiny-base")
    return models.add_lora(model, CFG), tokenizer


def trainer(name, model, tokenizer, row, tmp_path):
    import trl
    from datasets import Dataset

    kind = getattr(trl, name + "Trainer")
    settings = getattr(trl, name + "Config")(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=None
    )
    rows = Dataset.from_list([row])
    return kind, dict(model=model, args=settings, train_dataset=rows, processing_class=tokenizer)


def test_quiet_turns_the_known_knobs_and_turns_them_back():
    import bitsandbytes  # noqa: F401  its logger is there once it is imported
    from transformers.utils import logging as transformers_logging

    assert "bitsandbytes" in logging.Logger.manager.loggerDict
    transformers_logging.enable_progress_bar()
    with compat.quiet(), warnings.catch_warnings(record=True) as said:
        warnings.warn("between libraries", FutureWarning, stacklevel=1)
        assert not transformers_logging.is_progress_bar_enabled()
    assert transformers_logging.is_progress_bar_enabled() and not said
    assert logging.getLogger("bitsandbytes").level == logging.ERROR


def test_bitsandbytes_still_has_the_flag_that_repacks_weights(adapted):
    from bitsandbytes.nn import Linear4bit

    assert hasattr(Linear4bit(8, 8), "support_avx512bf16_for_cpu")
    layers = [module for module in adapted[0].modules() if isinstance(module, Linear4bit)]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_peft_still_trains_what_it_activates(adapted):
    model, _ = adapted
    (frozen,) = {p.requires_grad_(False) for p in models.adapter_parameters(model, "default")[:1]}
    with compat.same_gradients(model):
        model.set_adapter("default")
        assert frozen.requires_grad
    assert not frozen.requires_grad


@pytest.mark.parametrize("guarded", [False, True])
def test_trl_still_casts_what_trains_under_a_4bit_base(adapted, tmp_path, guarded):
    model, tokenizer = adapted
    weights = [p for p in model.parameters() if p.requires_grad]
    before = [p.data for p in weights]
    kind, given = trainer("SFT", model, tokenizer, ROW, tmp_path)
    if guarded:
        with compat.float32_trainables(model):
            kind(**given)
        assert all(p.data is b or torch.equal(p, b) for p, b in zip(weights, before, strict=True))
    else:
        kind(**given)
    assert {p.dtype for p in weights} == {torch.float32 if guarded else torch.bfloat16}


def test_trl_s_dpo_still_wants_text(adapted, tmp_path):
    kind, given = trainer("DPO", *adapted, PAIR, tmp_path)
    with pytest.raises(KeyError):
        kind(**given)


def test_trl_s_dpo_takes_ids(adapted, tmp_path):
    kind, given = trainer("DPO", *adapted, PAIR, tmp_path)
    assert compat.takes_ids(kind)(**given).train_dataset[0] == PAIR


def test_trl_s_kto_takes_ids_in_their_order_alone(adapted, tmp_path):
    """Its own preparation wants text, and it refuses an order in which a row would lose the answer
    beside it.
    """
    row = {"prompt_ids": [2, 30], "completion_ids": [31, 3], "KL_completion_ids": [32, 3]}
    kind, given = trainer("KTO", *adapted, row | {"label": True}, tmp_path)
    with pytest.raises(KeyError):
        kind(**given)
    adapted[0].delete_adapter("ref")
    kind = compat.takes_ids(kind)
    assert kind(**given).train_dataset[0] == row | {"label": True}
    adapted[0].delete_adapter("ref")
    given["args"].train_sampling_strategy = "random"
    with pytest.raises(ValueError, match="train_sampling_strategy='sequential'"):
        kind(**given)


def test_trl_still_asks_a_wrapped_model_for_these(adapted, tmp_path):
    model, tokenizer = adapted
    row = {"chosen_ids": [2, 30, 3], "rejected_ids": [2, 31, 3]}
    wrapped = models.RewardModel(model, models.Head(64), passes=None)
    kind, given = trainer("Reward", wrapped, tokenizer, row, tmp_path)
    kind(**given)
    del wrapped.add_model_tags
    with pytest.raises(AttributeError, match="add_model_tags"):
        kind(**given)
