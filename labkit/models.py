"""One 4-bit base, many adapters: load, adapt, switch, score, save, merge, export.

Where others hold four models in memory (policy, reference, reward model, critic), here LoRA adapters and heads
(arXiv 2106.09685) share one base in NF4 (arXiv 2305.14314). The reference is a frozen copy of the SFT
adapter; with every adapter off the pre-trained base is left, which is *not* the reference. Dropout is 0
everywhere, so a training forward and a scoring forward agree.

    model, tokenizer = load_base("")                    # NF4, frozen
    model = load_adapter(model, runs.latest("sft"), "policy", trainable=True)
    model = load_adapter(model, runs.latest("sft"), "reference")
    with reference(model): ...
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

from labkit import LabError, chat, runs
from labkit.logprobs import position_ids

ADAPTER, HEAD = "adapter", "head.safetensors"


# --- the base ---


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
    """No progress bars over things that take a second, no advice about kernels that are not installed, and
    no FutureWarnings: those are between trl, peft and transformers, nothing a learner can act on."""
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
    """Where the base lies: "" → the newest pretrain run (else the shipped one), a run name, a folder, or a
    Hub id as it is.

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
    sums = [_sha256(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.name != HEAD]
    return hashlib.sha256("".join(sums).encode()).hexdigest()[:12]


def compute_dtype() -> torch.dtype:
    """float32 on a CPU (bf16 is far slower there), bf16 on a GPU that has it in hardware, else float16
    (T4).
    """
    if runs.device().type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_base(name: str = "", quantize: bool = True):
    """(model, tokenizer) of the base `name` (see resolve_base), frozen, in NF4 unless quantize=False;
    lm_head is never quantised.

    The tokenizer's pad token differs from EOS (chat.set_pad). `model.base_info` keeps {"name",
    "fingerprint"} for the adapters' runs. Raises LabError when the Hub can't be reached or has no such
    model.
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
        with quiet() if Path(path).is_dir() else contextlib.nullcontext():  # a download shows its progress
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
            # On CPUs with AVX512-BF16, bitsandbytes repacks the weights at the first scoring forward and
            # from then on computes in bf16, without a gradient. Off: training and scoring do the same
            # float32 arithmetic, on every CPU.
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False).eval()
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.base_info = {"name": _base_name(name, path), "fingerprint": fingerprint(path)}
    return model, tokenizer


def _base_name(name: str, path: str) -> str:
    """The name under which the base can be found again: a run's name rather than where its folder happens
    to be.
    """
    if name:
        return name
    run = runs.latest("pretrain")
    return f"shipped/{run.stage}" if run.shipped else run.name


def base_of(run, name: str = "") -> str:
    """The base to load for an adapter run: `name` when a setting gives one, else the base that the adapter
    was trained on.
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


# --- adapters ---


@quiet()
def add_lora(model, cfg, name: str = "default"):
    """A fresh trainable adapter `name` on every linear layer (lm_head excepted) of a base or PeftModel;
    returns the PeftModel.

    B starts at zero, so the adapted model is the base exactly until the first step.
    """
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=cfg.lora_r,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    if not hasattr(model, "peft_config"):
        return get_peft_model(model, lora, adapter_name=name)
    with _same_gradients(model):
        model.add_adapter(name, lora)
    _trainable(model, name, True)
    use(model, name)
    return model


@quiet()
def load_adapter(model, run, name: str, trainable: bool = False):
    """Put the adapter of `run` on `model` (a base or PeftModel) under `name` and make it the active one;
    returns the PeftModel.

    Raises LabError when the run has no adapter or was trained on another base.
    """
    from peft import PeftModel

    folder = run.path / ADAPTER
    if not (folder / "adapter_model.safetensors").exists():
        raise LabError(
            f"The run {run.name!r} ({run.stage}) holds no adapter. Name a run of sft, reward, ppo or dpo."
        )
    own, other = model.base_info, run.info.get("base", {})
    if own["fingerprint"] != other.get("fingerprint"):
        raise LabError(
            f"The run {run.name!r} was trained on the base {other.get('name')!r} "
            f"({other.get('fingerprint')}), but the base loaded here is {own['name']!r} "
            f"({own['fingerprint']}). Load that base, or train the stage again on this one."
        )
    if not hasattr(model, "peft_config"):
        model = PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable)
    else:
        with _same_gradients(model):
            model.load_adapter(folder, adapter_name=name, is_trainable=trainable)
    _trainable(model, name, trainable)
    use(model, name)
    return model


def load_policy(run):
    """(model, tokenizer) ready to answer: the 4-bit base with the run's adapter as "policy"; a pretrain run
    gives the bare base.

    run: a Run or a run's name.
    """
    run = runs.load(run) if isinstance(run, str) else run
    if run.stage == "pretrain":
        return load_base(f"shipped/{run.stage}" if run.shipped else run.name)
    model, tokenizer = load_base(base_of(run))
    return load_adapter(model, run, "policy").eval(), tokenizer


def adapter_id(run) -> str:
    """Which adapter: a fingerprint of its weights, so that a run can say which policy it started from."""
    return fingerprint(str(run.path / ADAPTER))


def adapter_parameters(model, name: str) -> list[nn.Parameter]:
    """The LoRA matrices of one adapter, for an optimiser."""
    return [p for key, p in model.named_parameters() if f".{name}." in key and ".lora_" in key]


def _trainable(model, name: str, trainable: bool):
    for parameter in adapter_parameters(model, name):
        parameter.requires_grad_(trainable)


@contextlib.contextmanager
def _same_gradients(model):
    """peft makes the adapter that it activates trainable and freezes the others; here who trains is not
    decided by who is active.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    yield
    for parameter, trains in before:
        parameter.requires_grad_(trains)


def use(model, name: str):
    """Make `name` the active adapter. What is frozen stays frozen, what trains stays trainable."""
    with _same_gradients(model):
        model.set_adapter(name)


@contextlib.contextmanager
def using(model, name: str):
    """`name` is the active adapter inside the block; the one before it comes back after."""
    before = model.active_adapter
    if before == name:
        yield model
        return
    use(model, name)
    try:
        yield model
    finally:
        use(model, before)


@contextlib.contextmanager
def reference(model):
    """The frozen SFT adapter "reference" inside the block, without gradients."""
    with using(model, "reference"), torch.no_grad():
        yield model


def save_adapter(model, run, name: str, head=None):
    """Write adapter `name` as run.path/adapter/ (PEFT's own layout) and the head as
    run.path/head.safetensors; note the base in run.info.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder, config = run.path / ADAPTER, model.peft_config[name]
    folder.mkdir(parents=True, exist_ok=True)
    run.info["base"] = dict(model.base_info)
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    save_file(
        {key: value.detach().float().cpu().contiguous() for key, value in state.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    was = config.inference_mode, config.base_model_name_or_path
    config.inference_mode, config.base_model_name_or_path = (
        True,
        model.base_info["name"],
    )  # a name, not a path of this machine
    config.save_pretrained(folder)
    config.inference_mode, config.base_model_name_or_path = was
    if head is not None:
        save_file(
            {key: value.detach().float().cpu().contiguous() for key, value in head.state_dict().items()},
            run.path / HEAD,
        )


# --- reward ---


class Head(nn.Module):
    """hidden (B, d) → score (B,), normalised: (weight · hidden − mean) / std. weight is (1, d), mean and
    std are () tensors.
    """

    def __init__(self, width: int):
        super().__init__()
        # std 1/√(d+1), bias none (arXiv 2009.01325; "The N implementation details of RLHF with PPO").
        self.weight = nn.Parameter(torch.randn(1, width) / (width + 1) ** 0.5)
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def forward(self, hidden):
        return ((hidden.float() @ self.weight.float().T).squeeze(-1) - self.mean) / self.std

    @torch.no_grad()
    def normalise(self, scores):
        """Give `scores`, (N,) as this head makes them now, mean 0 and variance 1."""
        self.mean += self.std * scores.mean()
        self.std *= scores.std(correction=0).clamp(min=1e-6)


def load_head(run) -> Head:
    """The head of a reward run, frozen, on the training device."""
    from safetensors.torch import load_file

    if not (run.path / HEAD).exists():
        raise LabError(
            f"The run {run.name!r} ({run.stage}) has no reward head. "
            "Name a reward run, or train one: python -m labkit train reward"
        )
    state = load_file(run.path / HEAD)
    head = Head(state["weight"].shape[1])
    head.load_state_dict(state)
    return head.requires_grad_(False).to(runs.device())


def hidden_states(model, ids, attention_mask):
    """Last hidden states (B, T, d) under the active adapter; lm_head is not run."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    return base.base_model(
        input_ids=ids,
        attention_mask=attention_mask,
        position_ids=position_ids(attention_mask),
        use_cache=False,
    ).last_hidden_state


def logits_at(model, ids, attention_mask, places):
    """(logits (N, V), hidden (B, T, d)) under the active adapter: lm_head runs only where `places` (B, T) is True.

    At a rollout's shapes most positions are prompt or padding, and the vocabulary is most of the memory.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    # These models do something to their logits after lm_head: theirs are taken as they come.
    special = ("final_logit_softcapping", "logits_scaling", "logit_scale")
    if any(getattr(model.config, key, None) for key in special):
        out = model(input_ids=ids, attention_mask=attention_mask, position_ids=position_ids(attention_mask), use_cache=False,
                    output_hidden_states=True)  # fmt: skip
        return out.logits[places], out.hidden_states[-1]
    hidden = hidden_states(model, ids, attention_mask)
    return base.get_output_embeddings()(hidden[places]), hidden


def rewards(model, head, ids, attention_mask, adapter: str = "reward"):
    """Scores (B,) of prompt + response, ids (B, T): the head at each row's last real token, under the
    adapter "reward".
    """
    with using(model, adapter):
        hidden = hidden_states(model, ids, attention_mask)
    last = attention_mask.size(1) - 1 - attention_mask.flip(1).argmax(1)  # padding may be on either side
    return head(hidden[torch.arange(len(ids), device=ids.device), last])


class RewardModel(nn.Module):
    """Adapter and head in the shape that TRL's RewardTrainer trains: logits (B, 1). No second base is
    loaded for it.
    """

    def __init__(self, model, head):
        super().__init__()
        self.model, self.head, self.config = model, head, model.config
        self.config.num_labels = 1
        self.gradient_checkpointing_enable = model.gradient_checkpointing_enable

    def add_model_tags(self, tags):
        """TRL labels what it trained; nothing to label here."""

    def forward(self, input_ids, attention_mask, use_cache=False):
        from transformers.modeling_outputs import SequenceClassifierOutput

        return SequenceClassifierOutput(
            logits=rewards(self.model, self.head, input_ids, attention_mask).unsqueeze(-1)
        )


@contextlib.contextmanager
def float32_trainables(model):
    """Build a TRL trainer inside this block: trainable weights come out as they went in, in float32.

    TRL casts them to bf16 under a 4-bit base. On a CPU that makes every step twice as slow (and the
    RewardTrainer fail), and it would round the policy away from its reference before the first step. A GPU
    works in bf16 by autocast and keeps float32 masters as well.
    """
    kept = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    yield
    for parameter, data in kept:
        parameter.data = data


# --- looking and exporting ---


@contextlib.contextmanager
def saved_bytes(found: dict):
    """Counts what autograd keeps for the backward pass inside the block, weights aside: found["activations"], in bytes."""
    seen = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
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
    return 2 * cfg.num_hidden_layers * batch * width * heads * size * compute_dtype().itemsize


def memory(model, optimizer=None) -> dict:
    """Bytes by part: base (as it is held, 4-bit layers packed), adapters (all of them), optimizer (its state)."""
    tensors = [(name, p) for name, p in [*model.named_parameters(), *model.named_buffers()]]
    kept = {"base": sum(p.nbytes for name, p in tensors if ".lora_" not in name),
            "adapters": sum(p.nbytes for name, p in tensors if ".lora_" in name)}  # fmt: skip
    states = [getattr(m.weight, "quant_state", None) for m in model.modules() if hasattr(m, "weight")]
    kept["base"] += sum(state.absmax.nbytes for state in states if state is not None)
    if optimizer:
        kept["optimizer"] = sum(
            x.nbytes for state in optimizer.state.values() for x in state.values() if torch.is_tensor(x)
        )
    return kept


def describe(model) -> dict:
    """parameters (of the base, adapters aside), layers_4bit, trainable_parameters, quantization ("nf4" or
    "none").
    """
    from bitsandbytes.nn import Linear4bit

    four_bit = [module for module in model.modules() if isinstance(module, Linear4bit)]
    packed = {
        id(m.weight): m.weight.quant_state.shape.numel() for m in four_bit if m.weight.quant_state
    }  # two values a byte
    sizes = {
        id(p): packed.get(id(p), p.numel()) for name, p in model.named_parameters() if ".lora_" not in name
    }
    return {
        "parameters": sum(sizes.values()),
        "layers_4bit": len(four_bit),
        "quantization": "nf4" if four_bit else "none",
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def export(run, folder) -> Path:
    """Merge a run into a plain Hugging Face folder; `AutoModelForCausalLM.from_pretrained(folder)` needs
    neither labkit nor peft.

    The adapter is merged into the unquantised base, although it was trained on the NF4 one: weights differ
    by NF4's rounding, about 7 % of a weight's usual size, so log-probabilities differ a little too (a test
    shows how much). A pretrain run is copied as it is. A reward run becomes an
    AutoModelForSequenceClassification with one label; its head has no bias, so scores are the normalised
    ones plus the constant `config.reward_shift`. Raises LabError when folder exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LabError(f"{folder} exists and is not empty. Name a new folder to export into.")
    if run.stage == "pretrain":
        model, tokenizer = load_base(str(run.path), quantize=False)
    else:
        model, tokenizer = load_base(base_of(run), quantize=False)
        model = load_adapter(model, run, "default").merge_and_unload()
    if run.stage == "reward":
        model = _sequence_classifier(model, load_head(run))
    save_base(model.cpu(), tokenizer, folder)
    return folder


def _sequence_classifier(model, head):
    from transformers import AutoModelForSequenceClassification

    model.config.num_labels = 1
    scorer = AutoModelForSequenceClassification.from_config(model.config, dtype=torch.float32)
    setattr(scorer, scorer.base_model_prefix, model.base_model)
    scorer.score.weight.data = (head.weight / head.std).data.clone()
    scorer.config.reward_shift = (head.mean / head.std).item()
    return scorer
