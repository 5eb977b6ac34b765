"""The base: resolve its name, load it in NF4 (arXiv 2305.14314), say which precision it computes
in.
"""

import contextlib
import hashlib
import re
import warnings
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from labkit import LabError, compat, runs
from labkit.compat import quiet
from labkit.data import chat
from labkit.models import smollm2

NO_CODE = {"trust_remote_code": False}  # else transformers asks, and runs a folder's code on "y"
ADAPTER, HEAD = "adapter", "head.safetensors"
PARTS = ("model", "config", "generation_config", "tokenizer", "special_tokens", "chat_template")
SMALL = 50_000_000  # parameters below which a base computes in float32, on a GPU too


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


def save_base(model, tokenizer, path):
    """Write model and tokenizer in Hugging Face layout (a pretrain run's own folder)."""
    with quiet():
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)


def resolve_base(name: str = "") -> str:
    """Where the base lies: "" → the newest pretrain run (else the shipped one), a run name, a
    folder, a Hub id as it is, or "smollm2" (see smollm2.py).

    Raises LabError for a folder without a model, an unknown run, or a name that can't be a Hub id.
    """
    if not name:
        return str(runs.latest("pretrain").path)
    if name == smollm2.NAME:
        return str(smollm2.smollm2())
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


def fingerprint(base: str) -> str:
    """12 hex digits of SHA-256 over the weight files of a folder; a Hub id stands for itself."""
    if not Path(base).is_dir():
        return base
    files = sorted(Path(base).glob("*.safetensors"))
    sums = [runs.sha256(f) for f in files if f.name != HEAD]
    return hashlib.sha256("".join(sums).encode()).hexdigest()[:12]


@contextlib.contextmanager
def readable(what: str, advice: str):
    """Whatever goes wrong inside the block while files are read is a LabError: files come from
    anywhere, and every library has errors of its own. Memory that runs out stays what it is.
    """
    try:
        with warnings.catch_warnings():  # what it says, adapters.py makes an error
            warnings.filterwarnings("ignore", "Found missing adapter keys")
            yield
    except LabError:
        raise
    except Exception as error:
        if should_reduce_batch_size(error):
            raise
        reason = str(error).strip().split("\n")[0][:300].rstrip(".") or type(error).__name__
        raise LabError(f"{what} could not be loaded ({reason}). {advice}") from error


def parameter_count(base: str) -> int:
    """How many parameters the base at `base` (a folder or a Hub id) has, from its config alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):  # shapes without memory
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base, **NO_CODE))
    return sum(p.numel() for p in model.parameters())


def compute_dtype(parameters: int | None = None) -> torch.dtype:
    """What a base of so many parameters (None: a large one) is to compute in. Ask a model that is
    loaded for its `dtype`.

    float32 on a CPU, where bf16 is far slower, and for small bases on a GPU too: it costs little,
    and ours needs it. The tiny base's activations reach 93,093, more than float16 holds, and in
    bf16 the direction of its PPO gradient is mostly rounding (cosine 0.39 to float32's). Else bf16
    on a GPU that has it in hardware, and float16 on one that has not (T4).
    """
    small = parameters is not None and parameters < SMALL
    if runs.device().type == "cpu" or small:
        return torch.float32
    return (
        torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    )


def load_base(name: str = "", quantize: bool = True):
    """(model, tokenizer) of the base `name` (see resolve_base), frozen, in NF4 unless
    quantize=False; lm_head is never quantised.

    The tokenizer's EOS closes an answer (chat.set_eos), its pad token is another (chat.set_pad).
    `model.base_info` keeps {"name", "fingerprint"} for the adapters' runs. Raises LabError when the
    Hub can't be reached or has no such model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    path, dtype, extra = resolve_base(name), torch.float32, {}
    download = not Path(path).is_dir()  # shows its progress
    if (Path(path) / "run.json").exists():
        runs.shelf.read(Path(path).resolve()).verify(PARTS)
    advice = (
        "Bring back a good copy, or name another base: a run, a folder or a Hub id. A Hub model"
        " needs the internet once; without a network, set LABKIT_PROFILE=tiny."
    )
    with readable(f"The base model {path!r}", advice):
        with contextlib.nullcontext() if download else quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, **NO_CODE)
            if quantize:
                compat.blocks_across_rows()
                size = parameter_count(path)
                dtype = compute_dtype(size)
                extra["quantization_config"] = BitsAndBytesConfig(
                    load_in_4bit=True,
                    bnb_4bit_quant_type="nf4",
                    bnb_4bit_compute_dtype=dtype,
                    # The scales too, in 8 bits (QLoRA, section 3): 0.4 bits a weight, which counts
                    # in a large base. Every checkpoint of the tiny one was trained without.
                    bnb_4bit_use_double_quant=size >= SMALL,
                    llm_int8_skip_modules=["lm_head"],
                )
            model, told = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                device_map={"": runs.device()},
                use_safetensors=True,  # pickled weights can run code
                output_loading_info=True,
                **NO_CODE,
                **extra,
            )
        if missing := sorted(told["missing_keys"]):  # transformers would draw them at random
            raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    compat.same_arithmetic(model)
    chat.set_pad(chat.set_eos(tokenizer, model.generation_config.eos_token_id))
    model.requires_grad_(False).eval()
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.base_info = {
        "name": name or run_name(runs.latest("pretrain")),
        "fingerprint": fingerprint(path),
    }
    return model, tokenizer


def run_name(run) -> str:
    """The name under which a pretrain run's base can be found again, wherever its folder lies."""
    return f"shipped/{run.stage}" if run.shipped else run.name


@torch.no_grad()
def rounded(weight: torch.Tensor) -> torch.Tensor:
    """`weight` (R, C) as it comes back from NF4: what load_base's 4-bit layers compute with."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    compat.blocks_across_rows()
    return dequantize_4bit(*quantize_4bit(weight.contiguous(), quant_type="nf4"))


def base_of(run, name: str = "") -> str:
    """The base to load for an adapter run: `name` when a setting gives one, else the base that the
    adapter was trained on, by its fingerprint where it was renamed.
    """
    trained_on = run.info.get("base", {})
    known = name or trained_on.get("name", "")
    try:
        resolve_base(known)
    except LabError:
        renamed = (
            one.name
            for one in runs.listing()
            if one.stage == "pretrain"
            and not name
            and fingerprint(str(one.path)) == trained_on.get("fingerprint")
        )
        return next(renamed, known)
    return known


def base_id(name: str) -> str:
    """The fingerprint of the base that a setting names; "" where it names none: any will do."""
    return fingerprint(resolve_base(name)) if name else ""


def check_context(model, cfg):
    """LabError when prompt and response together don't fit into the model's context."""
    context = getattr(model.config, "max_position_embeddings", None)
    wanted = cfg.max_prompt_tokens + cfg.max_response_tokens
    if context and wanted > context:
        raise LabError(
            f"max_prompt_tokens + max_response_tokens is {wanted}, "
            f"but this model reads at most {context} tokens. Lower one of them."
        )
