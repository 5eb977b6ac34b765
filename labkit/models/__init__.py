"""One 4-bit base, many adapters: what loads, adapts, switches, reads, measures, saves and exports
models lives here. What trains, samples or judges them does not, and no loss either.

Where others hold four models in memory (policy, reference, reward model, critic), here LoRA
adapters and heads (arXiv 2106.09685) share one base in NF4 (arXiv 2305.14314). The reference is a
frozen copy of the SFT adapter; with every adapter off the pre-trained base is left, which is *not*
the reference. Dropout is 0 everywhere, so a training forward and a scoring forward agree.

    model, tokenizer = load_base("")                    # NF4, frozen
    model = load_adapter(model, runs.latest("sft"), "policy", trainable=True)
    model = load_adapter(model, runs.latest("sft"), "reference")
    with reference(model): ...
"""

from labkit.compat import quiet
from labkit.models.adapters import (
    adapter_id,
    adapter_parameters,
    add_lora,
    load_adapter,
    load_policy,
    note_start,
    reference,
    save_adapter,
    use,
    using,
)
from labkit.models.base import (
    ADAPTER,
    HEAD,
    NO_CODE,
    base_id,
    base_of,
    check_context,
    compute_dtype,
    fingerprint,
    load_base,
    new_base,
    parameter_count,
    resolve_base,
    rounded,
    save_base,
)
from labkit.models.card import stage_of
from labkit.models.dense import Dense, Switched, forward, supports
from labkit.models.exporting import export, sequence_classifier
from labkit.models.look import (
    OutOfMemory,
    describe,
    enough_memory,
    fitting_rows,
    in_batches,
    kv_bytes,
    memory,
    row_bytes,
    saved_bytes,
)
from labkit.models.scoring import (
    LIKE_LENGTH,
    Head,
    RewardModel,
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
    "LIKE_LENGTH",
    "NO_CODE",
    "Head",
    "OutOfMemory",
    "RewardModel",
    "adapter_id",
    "adapter_parameters",
    "add_lora",
    "base_id",
    "base_of",
    "check_context",
    "compute_dtype",
    "describe",
    "enough_memory",
    "export",
    "fingerprint",
    "fitting_rows",
    "hidden_states",
    "in_batches",
    "kv_bytes",
    "load_adapter",
    "load_base",
    "load_head",
    "load_policy",
    "logits_at",
    "memory",
    "new_base",
    "note_start",
    "parameter_count",
    "quiet",
    "reference",
    "resolve_base",
    "rounded",
    "rewards",
    "row_bytes",
    "save_adapter",
    "save_base",
    "saved_bytes",
    "sequence_classifier",
    "stage_of",
    "use",
    "using",
]
