"""The model card of an exported run: where it comes from, what it learned from, what was measured,
what it is for, and whose terms hold.
"""

import re

from labkit import LabError, launch, runs
from labkit.config import expanded
from labkit.models.base import base_of

TAG = "rlhf-labkit"
USES = {
    "pretrain": "It continues text; it was not taught to answer.",
    "reward": "It scores answers, to train or to choose by; scores of different prompts are not"
    " comparable, and a score is no measure of truth.",
    "ai_feedback": "It judges which of two answers is better.",
}
LOADS = {
    "merged": """\
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)""",
    "adapter": """\
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained({base}{labels})
model = PeftModel.from_pretrained(model, FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)""",
    "gguf": "llama-cli -m {name}.gguf -cnv",
}


def card(run, form: str) -> str:
    """README.md of `run`, exported in `form`: YAML for the Hub, then Markdown."""
    from huggingface_hub import ModelCardData

    base, source = base_of(run), _source(run)
    hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base)) and not base.startswith("shipped/")
    ours = source == "atlas" and not hub and _corpus(run) == "atlas"
    data = ModelCardData(
        base_model=base if hub else None,
        library_name={"merged": "transformers", "adapter": "peft"}.get(form, "gguf"),
        license="apache-2.0" if ours else None,
        pipeline_tag="text-classification" if run.stage == "reward" else "text-generation",
        datasets=[hub_id] if (hub_id := _hub_id(source)) else None,
        tags=[TAG, run.stage],
    )
    parts = {
        "": f"# {run.name}\n\nMade by the stage `{run.stage}` of [RLHF"
        f" Labs](https://github.com/{launch.REPOSITORY})"
        + (f" from the base `{base}`." if base else "."),
        "Data": _data(run, source),
        "Metrics": _table(run.evaluation, "on held-out data"),
        "Intended use": USES.get(run.stage, "It answers questions in the manner it was taught.")
        + " It was made to see how such models are trained and what goes wrong, and is not to be"
        " relied on: it states falsehoods as fluently as facts, and nobody has tested it for harm.",
        "Licence": "Apache-2.0; what the data took from others: data/NOTICE.md of the project."
        if ours
        else f"The terms of {f'its base (https://huggingface.co/{base})' if hub else 'its base'}"
        f" and of its data ({source}) hold for what was made of them.",
        "Load it": _load(run, form, base if hub else ""),
        "Settings": _table(run.info.get("config", {}), "")
        + f"\n\nVersions: {', '.join(f'{k} {v}' for k, v in run.info.get('versions', {}).items())}",
    }
    text = "\n\n".join(f"## {name}\n\n{part}" if name else part for name, part in parts.items())
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


def stage_of(folder) -> str:
    """The stage that the card of an exported folder names; "" without such a card."""
    file = expanded(folder) / "README.md"
    text = file.read_text("utf8", errors="replace") if file.is_file() else ""
    found = re.match(rf"---\n(?:.*\n)*?- {TAG}\n- (\w+)\n", text)
    return found[1] if found else ""


def _source(run) -> str:
    config = run.info.get("config", {})
    return next((config[key] for key in ("data", "prompts", "corpus") if config.get(key)), "")


def _corpus(run) -> str:
    """What the base of a run read."""
    try:
        base = run if run.stage == "pretrain" else runs.load(base_of(run))
    except LabError:
        return ""
    return base.info.get("config", {}).get("corpus", "")


def _hub_id(source: str) -> str:
    from labkit.data import hub

    return hub.named(source)[0] if hub.is_hub_id(source) and hub.is_set(source) else ""


def _data(run, source: str) -> str:
    about = run.info.get("data", {})
    split = f", split {about['split']}" if about.get("split") else ""
    lines = [f"`{source}`{split} (SHA-256 of what was read: {run.info.get('data_hash', '–')})."]
    if about:
        of = f" of {about['of']:,}" if about.get("of") else ""
        drawn = ", drawn at random" if about.get("drawn") else ""
        lines.append(f"{about['rows']:,}{of} rows{drawn}; columns {', '.join(about['columns'])}.")
        lines += [f"Left out: {n:,} × {why}." for n, why, _ in about["left_out"]]
    return "\n".join(lines)


def _table(values: dict, note: str) -> str:
    rows = [f"| {key} | {value} |" for key, value in sorted(values.items()) if value != ""]
    return "\n".join([f"| | {note} |", "| --- | --- |", *rows]) if rows else "None was measured."


def _load(run, form: str, base: str) -> str:
    reward = run.stage == "reward"
    auto = f"AutoModelFor{'SequenceClassification' if reward else 'CausalLM'}"
    code = LOADS[form].format(
        auto=auto,
        base=f'"{base}"' if base else 'FOLDER + "/base"',
        labels=", num_labels=1" if reward else "",
        name=run.name.replace("/", "-"),
    )
    return f"```{'bash' if form == 'gguf' else 'python'}\n{code}\n```"
