"""A run taken away: adapter, merged folder and GGUF, each with its card; who can talk to them; and
metrics that go elsewhere.
"""

import json
import stat
import sys
import types

import pytest
import torch

from labkit import LabError, cli, config, models, runs
from labkit.data import chat
from labkit.data.rows import Dialogue

CFG = config.Sft(base="tiny-base", lora_r=8, data="someone/chats:train_sft")


@pytest.fixture(scope="module")
def sft_run(tiny_base):
    """A random adapter that says of itself what a trained one would."""
    with runs.start("sft", CFG, "to-export") as run:
        model = models.add_lora(models.load_base("tiny-base")[0], CFG)
        for parameter in models.adapter_parameters(model, "default"):
            torch.nn.init.normal_(parameter, std=0.05)
        models.save_adapter(model, run, "default")
        run.info |= {"data_hash": "0123456789abcdef"}
        run.info["data"] = {
            "split": "train_sft",
            "rows": 1234,
            "of": 2000,
            "drawn": True,
            "columns": ["messages"],
            "left_out": [[7, '"messages" is empty', "row 3"]],
        }
        run.finish(loss=1.25, demonstrations=1234)
    return run


@pytest.fixture(scope="module")
def reward_run(sft_run):
    with runs.start("reward", config.Reward(reads="last"), "to-export-reward") as run:
        model = models.load_adapter(models.load_base("tiny-base")[0], sft_run, "reward")
        head = models.Head(64)
        head.normalise(torch.tensor([1.0, 5.0]))
        models.save_adapter(model, run, "reward", head)
    return run


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits


def refusal(call, *args, **more) -> str:
    with pytest.raises(LabError) as caught:
        call(*args, **more)
    return str(caught.value)


# --- the adapter ---------------------------------------------------------------------------------


def test_plain_peft_loads_the_adapter(sft_run, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.export(sft_run, tmp_path / "adapter", "adapter")
    plain = AutoModelForCausalLM.from_pretrained(folder / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = chat.encode_prompt(tokenizer, "What is gold?")
    bare = logits(plain, ids)
    adapted = logits(PeftModel.from_pretrained(plain, folder), ids)
    merged = AutoModelForCausalLM.from_pretrained(models.export(sft_run, tmp_path / "merged"))
    torch.testing.assert_close(adapted, logits(merged, ids), atol=1e-4, rtol=1e-4)
    assert (adapted - bare).abs().max() > 1e-2
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert not list(folder.rglob("run.json"))


def test_plain_peft_loads_the_reward_adapter_with_its_head(reward_run, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    folder = models.export(reward_run, tmp_path / "reward", "adapter")
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1)
    scorer = PeftModel.from_pretrained(plain, folder).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(
        models.export(reward_run, tmp_path / "merged")
    )
    ids, attention_mask = chat.pad([[2, 30, 40, 50, 3, 60, 1], [2, 30, 3, 1]], 0)
    with torch.no_grad():
        one, two = (
            m(input_ids=ids, attention_mask=attention_mask).logits for m in (scorer, merged)
        )
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    assert one.std() > 1e-3


def test_a_base_from_the_hub_is_named_not_copied(sft_run, tmp_path, monkeypatch):
    from labkit.models import exporting

    monkeypatch.setattr(exporting, "base_of", lambda run: "someone/base")
    monkeypatch.setattr(exporting, "resolve_base", lambda name: name)
    load = exporting.load_base

    def load_base(name, **more):
        model, tokenizer = load("tiny-base", **more)
        tokenizer.chat_template = None
        return model, tokenizer

    monkeypatch.setattr(exporting, "load_base", load_base)
    monkeypatch.setattr("labkit.models.card.base_of", lambda run: "someone/base")
    folder = models.export(sft_run, tmp_path / "adapter", "adapter")
    assert not (folder / "base").exists()
    told = json.loads((folder / "adapter_config.json").read_text("utf8"))
    assert told["base_model_name_or_path"] == "someone/base"
    # A base without a template: the adapter carries the frame that it was trained in.
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder).chat_template == chat.TEMPLATE
    card = (folder / "README.md").read_text("utf8")
    assert "base_model: someone/base" in card and "license:" not in card
    assert "https://huggingface.co/someone/base" in card


# --- the card ------------------------------------------------------------------------------------


def test_the_card_says_what_was_learned_measured_and_meant(
    sft_run, reward_run, tiny_base, tmp_path
):
    from huggingface_hub import ModelCard

    card = ModelCard.load(models.export(sft_run, tmp_path / "a", "adapter") / "README.md")
    assert card.data.library_name == "peft" and card.data.datasets == ["someone/chats"]
    assert card.data.tags == ["rlhf-labkit", "sft"] and card.data.license is None
    for part in (
        "`someone/chats:train_sft`, split train_sft (SHA-256 of what was read: 0123456789abcdef)",
        "1,234 of 2,000 rows, drawn at random; columns messages.",
        'Left out: 7 × "messages" is empty.',
        "| loss | 1.25 |",
        "## Intended use",
        "not to be relied on",
        "and of its data (someone/chats:train_sft) hold",
        'AutoModelForCausalLM.from_pretrained(FOLDER + "/base")',
        "| lora_r | 8 |",
        f"transformers {runs.versions()['transformers']}",
    ):
        assert part in card.text, part
    scores = ModelCard.load(models.export(reward_run, tmp_path / "r") / "README.md")
    assert scores.data.pipeline_tag == "text-classification"
    assert "It scores answers" in scores.text and "SequenceClassification" in scores.text
    base = ModelCard.load(models.export(tiny_base, tmp_path / "b") / "README.md")
    # Read from the atlas, and from nowhere else: the project's own licence.
    assert base.data.license == "apache-2.0" and "It continues text" in base.text


def test_the_code_of_the_card_runs(sft_run, tmp_path):
    for form in ("adapter", "merged"):
        folder = models.export(sft_run, tmp_path / form, form)
        code = (folder / "README.md").read_text("utf8").split("```python\n")[1].split("```")[0]
        made = {"FOLDER": str(folder)}
        exec(code, made)
        assert logits(made["model"], [2, 30, 3]).shape[-1] == len(made["tokenizer"])


# --- GGUF ----------------------------------------------------------------------------------------


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """A script in the place of llama.cpp's, which notes what it was given."""

    def write(body: str, where="PATH"):
        folder = tmp_path / "llama.cpp"
        folder.mkdir(exist_ok=True)
        script = folder / "convert_hf_to_gguf.py"
        script.write_text(f"#!/usr/bin/env python3\nimport json, pathlib, sys\n{body}\n", "utf8")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv(where, str(folder))

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    return write


NOTES = """
model, _, out, *_ = sys.argv[1:]
names = sorted(p.name for p in pathlib.Path(model).iterdir())
pathlib.Path(out).write_text(json.dumps([sys.argv[3:], names]))
"""


@pytest.mark.parametrize("where", ["PATH", "LLAMA_CPP"])
def test_gguf_by_the_public_converter(sft_run, converter, tmp_path, where):
    converter(NOTES, where)
    folder = models.export(sft_run, tmp_path / "gguf", "gguf")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "to-export.gguf"]
    (_, *more), names = json.loads((folder / "to-export.gguf").read_text("utf8"))
    assert more == ["--outtype", "f16"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    assert "llama-cli -m to-export.gguf" in (folder / "README.md").read_text("utf8")


def test_gguf_refusals_leave_nothing(sft_run, reward_run, converter, tmp_path):
    place = tmp_path / "gguf"
    said = refusal(models.export, sft_run, place, "gguf")
    assert "git clone https://github.com/ggml-org/llama.cpp" in said and "LLAMA_CPP" in said
    assert "scores and writes no text" in refusal(models.export, reward_run, place, "gguf")
    converter("sys.exit('noise\\nBPE pre-tokenizer was not recognized')")
    said = refusal(models.export, sft_run, place, "gguf")
    assert "can't convert this model (BPE pre-tokenizer was not recognized)" in said
    assert not place.exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".gguf")]


def test_forms_that_are_not_there(sft_run, tiny_base, tmp_path):
    assert "merged, adapter, gguf" in refusal(models.export, sft_run, tmp_path / "x", "onnx")
    assert "has no adapter" in refusal(models.export, tiny_base, tmp_path / "x", "adapter")


# --- templates -----------------------------------------------------------------------------------


def test_an_adapter_carries_its_frame(sft_run, tmp_path):
    from transformers import AutoTokenizer

    folder = models.export(sft_run, tmp_path / "sft", "adapter")
    asked = [{"role": "user", "content": "Gold?"}]
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        asked, tokenize=False, add_generation_prompt=True
    )
    assert text == "USER:Gold?AI:"


def test_a_frame_is_the_same_before_and_after_export(tokenizer):
    """A Hub base without a template gets ours at export, with its EOS, and its BOS if it puts one
    in front of texts.
    """
    import copy

    from tokenizers.processors import TemplateProcessing

    for habit in (False, True):
        base = copy.deepcopy(tokenizer)
        base.chat_template = None
        base.eos_token = base.bos_token = "[PAD]"
        if habit:
            base.backend_tokenizer.post_processor = TemplateProcessing(
                single="[PAD] $A", special_tokens=[("[PAD]", base.bos_token_id)]
            )
        before = chat.encode_prompt(base, "Gold?")
        assert (before[0] == base.bos_token_id) == habit
        after = copy.deepcopy(base)
        chat.carry_frame(after)
        assert chat.encode_prompt(after, "Gold?") == before
        system = Dialogue("", [("system", "Be brief."), ("user", "Gold?")])
        assert chat.encode_prompt(after, system) == chat.encode_prompt(base, "Be brief.\n\nGold?")


def test_an_adapters_template_counts_not_its_bases(sft_run, tmp_path):
    folder = models.export(sft_run, tmp_path / "adapter", "adapter")
    (folder / "base" / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "base" / "tokenizer_config.json"
    told = json.loads(file.read_text("utf8"))
    file.write_text(json.dumps(told | {"chat_template": None}), "utf8")
    assert models.load_base(str(folder / "base"))[1].chat_template is None
    assert models.load_policy(str(folder))[1].chat_template


# --- chat ----------------------------------------------------------------------------------------


def said(capsys, *words) -> dict:
    capsys.readouterr()
    assert cli.main(["chat", "What is gold?", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_chat_with_a_run_its_adapter_and_its_merged_folder(sft_run, tiny_base, tmp_path, capsys):
    adapter = str(models.export(sft_run, tmp_path / "adapter", "adapter"))
    merged = str(models.export(sft_run, tmp_path / "merged"))
    bare = str(models.export(tiny_base, tmp_path / "bare"))
    run, same = (said(capsys, "--run", name) for name in ("to-export", adapter))
    assert same["run"] == adapter
    assert same["answer"].startswith(run["answer"]) and run["answer"]  # it may speak longer
    assert said(capsys, "--run", merged)["answer"] != said(capsys, "--run", bare)["answer"]
    assert said(capsys, "--run", bare, "--seed", "1")["answer"].startswith("What is gold?")
    assert "answer" in said(capsys, "--run", str(tiny_base.path))  # a folder in any runs folder


def test_who_does_not_talk(reward_run, sft_run, tmp_path, capsys):
    for form in ("adapter", "merged"):
        folder = models.export(reward_run, tmp_path / form, form)
        assert "it scores answers" in refusal(models.load_policy, str(folder))
    pickled = models.export(sft_run, tmp_path / "pickled", "adapter")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    assert "Pickled weights are not loaded" in refusal(models.load_policy, str(pickled))
    from safetensors.torch import load_file

    whole = models.export(sft_run, tmp_path / "whole")
    torch.save(load_file(whole / "model.safetensors"), whole / "pytorch_model.bin")
    (whole / "model.safetensors").unlink()
    assert "could not be loaded" in refusal(models.load_policy, str(whole))
    assert "holds no model" in refusal(models.load_policy, str(tmp_path))
    assert "could not be loaded" in refusal(models.load_policy, "someone/not-cached")
    assert "There is no run 'nobody'" in refusal(models.load_policy, "nobody")


# --- metrics that go elsewhere -------------------------------------------------------------------


class Tracker:
    """What trackio is to transformers' callback, kept in lists."""

    def __init__(self):
        self.context_vars = types.SimpleNamespace(
            current_space_id=types.SimpleNamespace(get=lambda: None)
        )
        self.began, self.logged, self.ended = {}, [], 0
        self.config = type("Config", (dict,), {"update": lambda s, v, **_: dict.update(s, v)})()

    def init(self, **how):
        self.began = how

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.ended += 1


@pytest.fixture
def trackio(monkeypatch):
    from transformers.integrations import integration_utils

    tracker = Tracker()
    monkeypatch.setattr(integration_utils, "is_trackio_available", lambda: True)
    monkeypatch.setitem(sys.modules, "trackio", tracker)
    return tracker


def test_what_a_run_logs_goes_to_the_tracker(trackio, empty_runs):
    cfg = config.Ppo(report_to="trackio", updates=7)
    with runs.start("ppo", cfg, "watched") as run:
        assert trackio.began["name"] == "watched" and trackio.config["updates"] == 7
        run.log(step=3, steps=9, kl=0.5, response="玉山")
        assert trackio.logged == [
            {"train/kl": 0.5, "train/response": "玉山", "train/global_step": 3}
        ]
        assert not trackio.ended
    assert trackio.ended == 1
    with runs.start("ppo", config.Ppo(), "alone") as run:
        run.log(step=1, kl=0.1)
    assert len(trackio.logged) == 1


def test_a_trl_stage_reports_too(trackio, tiny_base, tmp_path, capsys):
    demos = tmp_path / "demos.jsonl"
    demos.write_text("".join(f'{{"prompt": "Q{i}", "response": "A"}}\n' for i in range(12)), "utf8")
    words = ["--base", "tiny-base", "--batch-size", "4", "--report-to", "trackio"]
    assert cli.main(["train", "sft", "--data", str(demos), "--name", "reported", *words]) == 0
    assert "demos.jsonl: 12 of 12 rows taken; columns: prompt, response." in capsys.readouterr().err
    losses = [one["train/loss"] for one in trackio.logged if "train/loss" in one]
    told = [line["loss"] for line in runs.load("reported").metrics() if "loss" in line]
    assert losses == told and losses and trackio.ended == 1


def test_tensorboards_own_callback(monkeypatch, empty_runs):
    """Its writer is torch's, which wants the package: a stand-in keeps what it is given."""
    from transformers.integrations import integration_utils

    written = []

    class Writer:
        def __init__(self, log_dir):
            self.folder = log_dir

        def __getattr__(self, name):
            return lambda *given: written.append((name, self.folder, *given))

    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = Writer
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    with runs.start("pretrain", config.Pretrain(report_to="tensorboard"), "board") as run:
        run.log(step=5, loss=2.5)
    assert [one[2:] for one in written if one[0] == "add_scalar"] == [("train/loss", 2.5, 5)]
    assert str(empty_runs) in str(written[0][1])
    assert any('"vocab_size": 4096' in str(one) for one in written) and written[-1][0] == "close"


def test_trackers_that_can_not_be_used(empty_runs):
    for name, why in (("trackio", "requires trackio"), ("dashboard", "dashboard is not supported")):
        with pytest.raises(LabError, match=f"report_to is '{name}'.*{why}"):
            with runs.start("sft", config.Sft(report_to=name), "no"):
                pytest.fail("it began")
    assert not (empty_runs / "no").exists()
