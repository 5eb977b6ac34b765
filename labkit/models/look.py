"""Sizes: parameters and 4-bit layers of a model, the bytes of each part, and a clear word where
memory runs out.
"""

import contextlib

import torch

from labkit import LabError


class OutOfMemory(LabError):
    """Memory ran out, on a GPU or a CPU; the message says what to lower."""


@contextlib.contextmanager
def enough_memory(advice: str):
    """Memory that runs out inside the block is an OutOfMemory with this advice."""
    from accelerate.utils.memory import should_reduce_batch_size

    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise OutOfMemory(f"Memory ran out. {advice}") from error


@contextlib.contextmanager
def saved_bytes(found: dict, model):
    """Counts what autograd keeps for the backward pass inside the block, the weights of `model`
    aside (transposed ones too): found["activations"], in bytes.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
    found["activations"] = max(found.get("activations", 0), sum(seen.values()))


def kv_bytes(model, batch: int, width: int) -> int:
    """The KV cache of `batch` rows of `width` tokens."""
    cfg = model.config
    size = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    heads = getattr(cfg, "num_key_value_heads", None) or cfg.num_attention_heads
    return 2 * cfg.num_hidden_layers * batch * width * heads * size * model.dtype.itemsize


def memory(model, optimizer=None) -> dict:
    """Bytes by part: base (as it is held, 4-bit layers packed), adapters (all of them), optimizer
    (its state).
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    kept = {
        "base": sum(p.nbytes for name, p in tensors if ".lora_" not in name),
        "adapters": sum(p.nbytes for name, p in tensors if ".lora_" in name),
    }
    states = [
        getattr(m.weight, "quant_state", None) for m in model.modules() if hasattr(m, "weight")
    ]
    kept["base"] += sum(state.absmax.nbytes for state in states if state is not None)
    if optimizer:
        kept["optimizer"] = sum(
            x.nbytes
            for state in optimizer.state.values()
            for x in state.values()
            if torch.is_tensor(x)
        )
    return kept


def describe(model) -> dict:
    """parameters (of the base, adapters aside), layers_4bit, trainable_parameters, quantization
    ("nf4" or "none").
    """
    from bitsandbytes.nn import Linear4bit

    four_bit = [module for module in model.modules() if isinstance(module, Linear4bit)]
    packed = {
        id(m.weight): m.weight.quant_state.shape.numel() for m in four_bit if m.weight.quant_state
    }  # two values a byte
    sizes = {
        id(p): packed.get(id(p), p.numel())
        for name, p in model.named_parameters()
        if ".lora_" not in name
    }
    return {
        "parameters": sum(sizes.values()),
        "layers_4bit": len(four_bit),
        "quantization": "nf4" if four_bit else "none",
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
