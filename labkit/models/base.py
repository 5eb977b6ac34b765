"""The base: resolve its name, load it in NF4 (arXiv 2305.14314), say which precision it computes
in.
"""

import contextlib
import functools
import hashlib
import logging
import re
import warnings
from pathlib import Path

import torch
from torch import nn

from labkit import LabError, runs
from labkit.data import chat

ADAPTER, HEAD = "adapter", "head.safetensors"


def new_base(cfg, tokenizer):
    """A Llama with random weights and tied embeddings in the sizes of cfg (config.Pretrain)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=cfg.hidden_size,
            intermediate_size=cfg.intermediate_size,
            num_hidden_layers=cfg.layers,
            num_attention_heads=cfg.heads,
            num_key_value_heads=cfg.heads,
            max_position_embeddings=cfg.context,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            attention_dropout=0.0,
        )
    )


@contextlib.contextmanager
def quiet():
    """No progress bars over things that take a second, no advice about kernels that are not
    installed, and no FutureWarnings: those are between trl, peft and transformers, nothing a
    learner can act on.
    """
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def save_base(model, tokenizer, path):
    """Write model and tokenizer in Hugging Face layout (a pretrain run's own folder)."""
    with quiet():
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)


def resolve_base(name: str = "") -> str:
    """Where the base lies: "" → the newest pretrain run (else the shipped one), a run name, a
    folder, or a Hub id as it is.

    Raises LabError for a folder without a model, an unknown run, or a name that can't be a Hub id.
    """
    if not name:
        return str(runs.latest("pretrain").path)
    if Path(name).is_dir():
        if not (Path(name) / "config.json").exists():
            raise LabError(
                f"The folder {name} holds no model (no config.json). "
                "Name a folder in Hugging Face layout, a run or a Hub id."
            )
        return str(name)
    if (
        (runs.root() / name).exists()
        or name.startswith("shipped/")
        or not re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    ):
        return str(runs.latest("pretrain", name).path)
    return name


@functools.lru_cache(maxsize=32)
def _sha256(file: str, size: int, changed: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(base: str) -> str:
    """12 hex digits of SHA-256 over the weight files of a folder; a Hub id stands for itself."""
    if not Path(base).is_dir():
        return base
    files = sorted(Path(base).glob("*.safetensors"))
    sums = [
        _sha256(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.name != HEAD
    ]
    return hashlib.sha256("".join(sums).encode()).hexdigest()[:12]


def compute_dtype() -> torch.dtype:
    """float32 on a CPU (bf16 is far slower there), bf16 on a GPU that has it in hardware, else
    float16 (T4).
    """
    if runs.device().type == "cpu":
        return torch.float32
    return (
        torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    )


def load_base(name: str = "", quantize: bool = True):
    """(model, tokenizer) of the base `name` (see resolve_base), frozen, in NF4 unless
    quantize=False; lm_head is never quantised.

    The tokenizer's pad token differs from EOS (chat.set_pad). `model.base_info` keeps {"name",
    "fingerprint"} for the adapters' runs. Raises LabError when the Hub can't be reached or has no
    such model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, extra = resolve_base(name), {}
    if quantize:
        from transformers import BitsAndBytesConfig

        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute_dtype(),
            llm_int8_skip_modules=["lm_head"],
        )
    try:
        with (
            quiet() if Path(path).is_dir() else contextlib.nullcontext()
        ):  # a download shows its progress
            tokenizer = chat.set_pad(AutoTokenizer.from_pretrained(path))
            model = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=compute_dtype() if quantize else torch.float32,
                device_map={"": runs.device()},
                **extra,
            )
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise LabError(
            f"The base model {path!r} could not be loaded ({reason}). "
            "For a Hub model, connect to the internet once and "
            "check its name; without a network, set LABKIT_PROFILE=tiny or name a run or a folder."
        ) from error
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On CPUs with AVX512-BF16, bitsandbytes repacks the weights at the first scoring
            # forward and from then on computes in bf16, without a gradient. Off: training and
            # scoring do the same float32 arithmetic, on every CPU.
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False).eval()
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.base_info = {"name": _base_name(name, path), "fingerprint": fingerprint(path)}
    return model, tokenizer


def _base_name(name: str, path: str) -> str:
    """The name under which the base can be found again: a run's name rather than where its folder
    happens to be.
    """
    if name:
        return name
    run = runs.latest("pretrain")
    return f"shipped/{run.stage}" if run.shipped else run.name


def base_of(run, name: str = "") -> str:
    """The base to load for an adapter run: `name` when a setting gives one, else the base that the
    adapter was trained on.
    """
    return name or run.info.get("base", {}).get("name", "")


def check_context(model, cfg):
    """LabError when prompt and response together don't fit into the model's context."""
    context, wanted = (
        getattr(model.config, "max_position_embeddings", None),
        cfg.max_prompt_tokens + cfg.max_response_tokens,
    )
    if context and wanted > context:
        raise LabError(
            f"max_prompt_tokens + max_response_tokens is {wanted}, "
            f"but this model reads at most {context} tokens. Lower one of them."
        )
