"""Export: a run merged into a plain Hugging Face folder."""

from pathlib import Path

import torch

from labkit import LabError
from labkit.data import chat
from labkit.models.adapters import load_adapter
from labkit.models.base import base_of, load_base, save_base
from labkit.models.scoring import load_head


def export(run, folder) -> Path:
    """Merge a run into a plain Hugging Face folder; `AutoModelForCausalLM.from_pretrained(folder)`
    needs neither labkit nor peft.

    The adapter is merged into the unquantised base, although it was trained on the NF4 one: weights
    differ by NF4's rounding, about 7 % of a weight's usual size, so log-probabilities differ a
    little too (a test shows how much). A pretrain run is copied as it is. A reward run becomes an
    AutoModelForSequenceClassification with one label; its head has no bias, so scores are the
    normalised ones plus the constant `config.reward_shift`. The tokenizer's chat template renders
    the frame that the run was trained in. Raises LabError when folder exists and
    is not empty.
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
        model = sequence_classifier(model, load_head(run))
    save_base(model.cpu(), chat.carry_frame(tokenizer), folder)
    return folder


def sequence_classifier(model, head):
    from transformers import AutoModelForSequenceClassification

    if head.reads != "last":
        raise LabError(
            "This reward model reads the mean over all tokens, which no class of transformers does."
            " Train one that reads the last token: python -m labkit train reward --reads last"
        )
    model.config.num_labels = 1
    scorer = AutoModelForSequenceClassification.from_config(model.config, dtype=torch.float32)
    setattr(scorer, scorer.base_model_prefix, model.base_model)
    scorer.score.weight.data = (head.weight / head.std).data.clone()
    scorer.config.reward_shift = (head.mean / head.std).item()
    return scorer
