"""One 4-bit base, many adapters: load, adapt, switch, score, save, merge, export.
 Where others hold four models in memory (policy, reference, reward model, critic), here LoRA
adapters and heads (arXiv 2106.09685) share one base in NF4 (arXiv 2305.14314). The reference is a
frozen copy of the SFT adapter; with every adapter off the pre-trained base is left, which is *not*
the reference. Dropout is 0 everywhere, so a training forward and a scoring forward agree.

    model, tokenizer = load_base("")                    # NF4, frozen
    model = load_adapter(model, runs.latest("sft"), "policy", trainable=True)
    model = load_adapter(model, runs.latest("sft"), "reference")
    with reference(model): ...
"""

from labkit.models.adapters import (
    adapter_id,
    adapter_parameters,
    add_lora,
    load_adapter,
    load_policy,
    reference,
    save_adapter,
    use,
    using,
)
from labkit.models.base import (
    ADAPTER,
    HEAD,
    base_of,
    check_context,
    compute_dtype,
    fingerprint,
    load_base,
    new_base,
    quiet,
    resolve_base,
    save_base,
)
from labkit.models.dense import Dense, Switched, forward, supports
from labkit.models.exporting import export, sequence_classifier
from labkit.models.look import describe, kv_bytes, memory, saved_bytes
from labkit.models.scoring import (
    Head,
    RewardModel,
    float32_trainables,
    hidden_states,
    load_head,
    logits_at,
    rewards,
)

__all__ = [
    "Dense",
    "Switched",
    "forward",
    "supports",
    "ADAPTER",
    "HEAD",
    "Head",
    "RewardModel",
    "adapter_id",
    "adapter_parameters",
    "add_lora",
    "base_of",
    "check_context",
    "compute_dtype",
    "describe",
    "export",
    "sequence_classifier",
    "fingerprint",
    "float32_trainables",
    "hidden_states",
    "kv_bytes",
    "load_adapter",
    "load_base",
    "load_head",
    "load_policy",
    "logits_at",
    "memory",
    "new_base",
    "quiet",
    "reference",
    "resolve_base",
    "rewards",
    "save_adapter",
    "save_base",
    "saved_bytes",
    "use",
    "using",
]
