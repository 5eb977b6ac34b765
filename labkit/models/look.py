"""Sizes: parameters and 4-bit layers of a model, the bytes of each part, and a clear word where
memory runs out.
"""

import contextlib

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from labkit import LabError, runs

ALONE = (
    "It was one text alone in a pass: shorten it, close what else uses the memory, or choose a"
    " smaller base (LABKIT_PROFILE=small, or tiny)."
)


class OutOfMemory(LabError):
    """Memory ran out, on a GPU or a CPU; the message says what to lower."""


@contextlib.contextmanager
def enough_memory(advice: str):
    """Memory that runs out inside the block is an OutOfMemory with this advice."""
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise OutOfMemory(f"Memory ran out. {advice}") from error


def in_batches(work, rows, size: int) -> list:
    """What `work` returns for each of `rows`, asked for at most `size` of them at once: for fewer
    where memory runs out. OutOfMemory where it runs out for a single one.
    """
    found, rows = [], list(rows)
    while rows:
        part = rows[:size]
        try:
            with enough_memory(ALONE):
                found += work(part)
        except OutOfMemory:
            if len(part) == 1:
                raise
            size = len(part) // 2
        else:
            rows = rows[size:]
            continue
        clear_device_cache()  # here the error, which holds on to what did not fit, is gone
    return found


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
    _, keys = _widths(cfg)
    return 2 * cfg.num_hidden_layers * batch * width * keys * model.dtype.itemsize


def _widths(cfg) -> tuple[int, int]:
    """Of all query heads together and of all key heads."""
    size = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    heads = getattr(cfg, "num_key_value_heads", None) or cfg.num_attention_heads
    return cfg.num_attention_heads * size, heads * size


def row_bytes(model, width: int, logits: int, checkpointed: bool = False) -> int:
    """What a training pass of LoRA on a 4-bit base holds for one row of `width` tokens, `logits` of
    which are compared with the vocabulary: an estimate from the sizes of the layers (d wide, their
    queries h, their MLP m). Measured passes of small models lay within a fifth of it.

    Per token and layer: two norms keep their input in float32 (two more where queries and keys have
    their own), attention q, k, v and what it returns, the MLP its three products; and each linear
    layer with an adapter its input: in half precision a copy in float32 apiece, else one for those
    that read the same. Per logit: itself, in float32, its gradient, and one copy on the way.
    """
    cfg, size = model.config, model.dtype.itemsize
    d, (h, k) = cfg.hidden_size, _widths(cfg)
    m = getattr(cfg, "intermediate_size", None) or 4 * d
    inputs = 4 * (5 * d + h + m) if size < 4 else 4 * (2 * d + h + m)
    norms = 4 * (2 * d + (h + k if cfg.model_type == "qwen3" else 0))
    layer = inputs + norms + size * (4 * h + 3 * m)
    kept = cfg.num_hidden_layers * layer
    if checkpointed:
        kept = cfg.num_hidden_layers * size * d + layer
    return width * kept + logits * cfg.vocab_size * (size + 3 * 4)


def fitting_rows(most: int, bytes_each: int) -> int:
    """How many rows go through a pass at once: `most`, or on a GPU those that 0.8 of the free
    memory holds, one at least.
    """
    if runs.device().type != "cuda":
        return most
    kept_aside = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # by torch, for us
    free = torch.cuda.mem_get_info()[0] + kept_aside
    return max(1, min(most, int(0.8 * free) // bytes_each))


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
    states += [getattr(state, "state2", None) for state in states]  # of scales in 8 bits
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
