"""Export: a run as a plain Hugging Face folder, as an adapter in PEFT's format, or as GGUF, each
with its model card.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from labkit import LabError
from labkit.config import expanded
from labkit.data import chat
from labkit.models.adapters import load_adapter
from labkit.models.base import ADAPTER, base_of, load_base, resolve_base, save_base
from labkit.models.card import card
from labkit.models.scoring import load_head

FORMS = ("merged", "adapter", "gguf")
CONVERTER = "convert_hf_to_gguf.py"  # llama.cpp's


def export(run, folder, form: str = "merged") -> Path:
    """Write a run into a new `folder`, in one of FORMS, with a model card (README.md); returns the
    folder.

    "merged": `AutoModelForCausalLM.from_pretrained(folder)` (and vLLM) needs neither labkit nor
    peft. The adapter is merged into the unquantised base, although it was trained on the NF4 one:
    weights differ by NF4's rounding, about 7 % of a weight's usual size, so log-probabilities
    differ a little too (a test shows how much). A pretrain run is copied as it is. A reward run
    becomes an AutoModelForSequenceClassification with one label; its head has no bias, so scores
    are the normalised ones plus the constant `config.reward_shift`. "adapter": PEFT's own format
    (adapter_folder). "gguf": the merged model by llama.cpp's public converter. The tokenizer's chat
    template renders the frame that the run was trained in.

    Raises LabError when folder exists and is not empty, and leaves nothing where a form fails.
    """
    folder = expanded(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LabError(f"{folder} exists and is not empty. Name a new folder to export into.")
    write = {"merged": merged_folder, "adapter": adapter_folder, "gguf": gguf_folder}.get(form)
    if write is None:
        raise LabError(f"There is no form {form!r} to export. Choose one of {', '.join(FORMS)}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the last step is a rename.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as aside:
        made = Path(aside) / "made"
        write(run, made)
        (made / "README.md").write_text(card(run, form), "utf8")
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        made.rename(folder)
    return folder


def merged_folder(run, folder: Path):
    """Base and adapter as one model."""
    if run.stage == "pretrain":
        model, tokenizer = load_base(str(run.path), quantize=False)
    else:
        model, tokenizer = load_base(base_of(run), quantize=False)
        model = load_adapter(model, run, "default").merge_and_unload()
    if run.stage == "reward":
        model = sequence_classifier(model, load_head(run))
    save_base(model.cpu(), chat.carry_frame(tokenizer), folder)


def adapter_folder(run, folder: Path):
    """The adapter alone, as PEFT writes it; a base that is not on the Hub lies beside it, in base/.

    A reward run's head is part of it: PEFT loads it on
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).
    """
    from peft import PeftConfig
    from safetensors.torch import load_file, save_file

    source = run.path / ADAPTER
    if not source.exists():
        raise LabError(f"The run {run.name!r} ({run.stage}) has no adapter. Export it merged.")
    base = resolve_base(base_of(run))
    model, tokenizer = load_base(base_of(run), quantize=False)
    load_adapter(model, run, "default")  # LabError where it is another base's
    folder.mkdir(parents=True)
    config, state = (
        PeftConfig.from_pretrained(source),
        load_file(source / "adapter_model.safetensors"),
    )
    if run.stage == "reward":
        head = load_head(run)
        refuse_mean(head)
        config.task_type = "SEQ_CLS"
        state["base_model.model.score.weight"] = (head.weight / head.std).detach().cpu()
    config.base_model_name_or_path = base
    if Path(base).is_dir():
        config.base_model_name_or_path = "base"
        shutil.copytree(base, folder / "base", ignore=shutil.ignore_patterns("run.json", "*.jsonl"))
    config.save_pretrained(folder)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    chat.carry_frame(tokenizer).save_pretrained(folder)


def gguf_folder(run, folder: Path):
    """The merged model as NAME.gguf in 16 bits, which llama.cpp and its kin read."""
    if run.stage == "reward":
        raise LabError(
            "A reward model scores and writes no text: GGUF has no use. Export it merged."
        )
    converter = find_converter()
    with tempfile.TemporaryDirectory() as plain:
        merged_folder(run, Path(plain))
        folder.mkdir(parents=True)
        file = folder / f"{run.name.replace('/', '-')}.gguf"
        command = [sys.executable, converter, plain, "--outfile", str(file), "--outtype", "f16"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not file.exists():
        reason = (done.stderr.strip() or "it wrote nothing").split("\n")[-1][:300]
        raise LabError(
            f"{CONVERTER} can't convert this model ({reason}). It knows the tokenizers of published"
            " models; export the run merged to use it with transformers or vLLM."
        )


def find_converter() -> str:
    """The path of llama.cpp's converter: in LLAMA_CPP (its folder) or on the PATH."""
    own = Path(os.environ.get("LLAMA_CPP", "")) / CONVERTER
    found = str(own) if os.environ.get("LLAMA_CPP") and own.exists() else shutil.which(CONVERTER)
    if found is None:
        raise LabError(
            f"GGUF is written by llama.cpp's {CONVERTER}, which is not installed here. Get it:"
            " git clone https://github.com/ggml-org/llama.cpp && pip install gguf, then set"
            " LLAMA_CPP to that folder; or export the run merged and convert it elsewhere."
        )
    return found


def refuse_mean(head):
    """LabError for a head that reads what no class of transformers reads."""
    if head.reads != "last":
        raise LabError(
            "This reward model reads the mean over all tokens, which no class of transformers does."
            " Train one that reads the last token: python -m labkit train reward --reads last"
        )


def sequence_classifier(model, head):
    """`model` and `head` as an AutoModelForSequenceClassification with one label."""
    from transformers import AutoModelForSequenceClassification

    refuse_mean(head)
    model.config.num_labels = 1
    scorer = AutoModelForSequenceClassification.from_config(model.config, dtype=torch.float32)
    setattr(scorer, scorer.base_model_prefix, model.base_model)
    scorer.score.weight.data = (head.weight / head.std).data.clone()
    scorer.config.reward_shift = (head.mean / head.std).item()
    return scorer
