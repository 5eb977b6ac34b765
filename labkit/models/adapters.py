"""LoRA adapters (arXiv 2106.09685) on one base: add, load, switch, save. What trains is not decided
by what is active.
"""

import contextlib
import copy
from pathlib import Path

import torch
from torch import nn

from labkit import LabError, ranks, runs
from labkit.compat import quiet, same_gradients
from labkit.config import expanded
from labkit.models import smollm2
from labkit.models.base import (
    ADAPTER,
    HEAD,
    NO_CODE,
    base_of,
    fingerprint,
    load_base,
    readable,
    resolve_base,
    run_name,
)

WEIGHTS = "adapter_model.safetensors"
ELSEWHERE = "Bring back a good copy, or name another: a run, a folder or a Hub id."


@quiet()
def add_lora(model, cfg, name: str = "default"):
    """A fresh trainable adapter `name` on every linear layer (lm_head excepted) of a base or
    PeftModel; returns the PeftModel.

    B starts at zero, so the adapted model is the base exactly until the first step.
    """
    from peft import LoraConfig, get_peft_model

    matrices = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    most = max(min(layer.in_features, layer.out_features) for layer in matrices)
    if cfg.lora_r > most:
        raise LabError(
            f"lora_r is {cfg.lora_r:,}, but no matrix of this base has a rank above {most:,}. Lower"
            " lora_r."
        )
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
    with same_gradients(model):
        model.add_adapter(name, lora)
    _trainable(model, name, True)
    use(model, name)
    return model


@quiet()
def load_adapter(model, run, name: str, trainable: bool = False):
    """Put the adapter of `run` on `model` (a base or PeftModel) under `name` and make it the active
    one; returns the PeftModel.

    Raises LabError when the run has no adapter or was trained on another base.
    """
    from peft import PeftModel

    folder = run.path / ADAPTER
    run.verify(f"{ADAPTER}/")
    if not (folder / WEIGHTS).exists():
        if (folder / "adapter_model.bin").exists():
            _refuse_pickled(folder)
        raise LabError(
            f"The run {run.name!r} ({run.stage}) holds no adapter. Name a run of sft, reward, ppo,"
            " dpo or kto."
        )
    own, other = model.base_info, run.info.get("base", {})
    if own["fingerprint"] != other.get("fingerprint"):
        raise LabError(
            f"The run {run.name!r} was trained on the base {other.get('name')!r} "
            f"({other.get('fingerprint')}), but the base loaded here is {own['name']!r} "
            f"({own['fingerprint']}). Load that base, or train the stage again on this one."
        )
    advice = "Bring back a good copy, or delete the run and train the stage again."
    with readable(f"The adapter in {folder}", advice):
        if not hasattr(model, "peft_config"):
            model = PeftModel.from_pretrained(
                model, folder, adapter_name=name, is_trainable=trainable
            )
        else:
            with same_gradients(model):
                model.load_adapter(folder, adapter_name=name, is_trainable=trainable)
        _refuse_parts(model, name, folder / WEIGHTS)
    _trainable(model, name, trainable)
    use(model, name)
    return model


def load_policy(run):
    """(model, tokenizer) ready to answer: the 4-bit base with the run's adapter as "policy"; a
    pretrain run gives the bare base.

    run: a Run, a run's name, or a model from elsewhere (runs.elsewhere).
    """
    if isinstance(run, str):
        if runs.elsewhere(run):
            return load_elsewhere(run)
        run = runs.load(run)
    if run.stage == "pretrain":
        return load_base(run_name(run))
    model, tokenizer = load_base(base_of(run))
    return load_adapter(model, run, "policy").eval(), tokenizer


def load_elsewhere(name: str):
    """(model, tokenizer) of such a model, in NF4. LabError for one that scores and writes no text,
    and for an adapter with pickled weights.
    """
    from peft import PeftConfig, PeftModel
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import find_adapter_config_file

    path = str(expanded(name)) if expanded(name).is_dir() else name
    with readable(f"The model {name!r}", ELSEWHERE):
        adapter = None if name == smollm2.NAME else find_adapter_config_file(path)
    if adapter is None:
        base = resolve_base(path)
        known = Path(base).is_dir()
        with readable(f"The config.json in {base}", ELSEWHERE):
            kinds = AutoConfig.from_pretrained(base, **NO_CODE).architectures if known else []
        _refuse_scorer(name, any("Classification" in kind for kind in kinds or []))
        return load_base(path)
    folder = Path(adapter).parent
    with readable(f"The adapter_config.json of {name}", ELSEWHERE):
        config = PeftConfig.from_pretrained(path)
    _refuse_scorer(name, config.task_type == "SEQ_CLS")
    if Path(path).is_dir() and not (folder / WEIGHTS).exists():
        _refuse_pickled(folder)
    beside = folder / "base"
    model, tokenizer = load_base(str(beside) if beside.is_dir() else config.base_model_name_or_path)
    with readable(f"The adapter {name!r}", ELSEWHERE), quiet():
        if (folder / "tokenizer_config.json").exists():  # its template is the one that it learned
            tokenizer.chat_template = AutoTokenizer.from_pretrained(folder, **NO_CODE).chat_template
        model = PeftModel.from_pretrained(model, path, adapter_name="policy").eval()
        if (folder / WEIGHTS).exists():
            _refuse_parts(model, "policy", folder / WEIGHTS)
        return model, tokenizer


def _refuse_pickled(folder: Path):
    raise LabError(
        f"{folder} has no {WEIGHTS}. Pickled weights are not loaded, since they can run code: save"
        " the adapter again as safetensors."
    )


def _refuse_parts(model, name: str, file: Path):
    """ValueError where the adapter `name` has matrices that its file lacks: peft only warns, and
    leaves what it drew at random.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        there = set(opened.keys())
    wanted = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if missing := sorted(wanted.keys() - there):
        raise ValueError(f"{len(missing)} of its matrices are missing, such as {missing[0]}")


def _refuse_scorer(name: str, scores: bool):
    if scores:
        raise LabError(f"{name} is a reward model: it scores answers and writes none.")


def adapter_id(run) -> str:
    """Which adapter: a fingerprint of its weights, so that a run can say which policy it started
    from.
    """
    return fingerprint(str(run.path / ADAPTER))


def note_start(run, model, policy=None):
    """Note in run.info what a stage begins with, by name, so that it is found again when the run
    goes on, and by fingerprint, so that nothing else is taken for it.
    """
    run.info["base"] = dict(model.base_info)
    if policy:
        run.info["policy"] = adapter_id(policy)
        run.info["config"]["policy"] = policy.name
    else:
        run.info["config"]["base"] = model.base_info["name"]
    run.note()


def adapter_parameters(model, name: str) -> list[nn.Parameter]:
    """The LoRA matrices of one adapter, for an optimiser."""
    return [p for key, p in model.named_parameters() if f".{name}." in key and ".lora_" in key]


def _trainable(model, name: str, trainable: bool):
    for parameter in adapter_parameters(model, name):
        parameter.requires_grad_(trainable)


def use(model, name: str):
    """Make `name` the active adapter. What is frozen stays frozen, what trains stays trainable."""
    with same_gradients(model):
        model.set_adapter(name)


@contextlib.contextmanager
def using(model, name: str):
    """`name` is the active adapter inside the block; the one before it comes back after. "" is a
    base that has none.
    """
    before = model.active_adapter if name else ""
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
    run.path/head.safetensors; note the base in run.info. Of several processes rank 0 writes.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    run.info["base"] = dict(model.base_info)
    if not ranks.main():
        return
    folder, config = run.path / ADAPTER, copy.copy(model.peft_config[name])
    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    save_file(_plain(state), folder / WEIGHTS, metadata={"format": "pt"})
    config.inference_mode = True
    config.base_model_name_or_path = model.base_info["name"]  # a name, not a path of this machine
    config.save_pretrained(folder)
    if head is not None:
        save_file(_plain(head.state_dict()), run.path / HEAD)


def _plain(state: dict) -> dict:
    return {key: value.detach().float().cpu().contiguous() for key, value in state.items()}
