"""Pre-training: the optimiser, the rows, the schedule, and whole runs on a learner's own text."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import parametrize

from labkit import LabError, config, models, runs
from labkit.data import chat
from labkit.models import dense
from labkit.stages import pretrain

TALE = (
    "Once upon a time there was a fox who lived in a wood. He ate nine cakes and slept. The king"
    " was not amused at all."
)


def small(corpus, **values):
    sizes = dict(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        layers=1,
        heads=2,
        context=64,
        sequence_length=16,
        batch_size=4,
        steps=12,
        warmup=2,
    )
    return config.Pretrain(corpus=str(corpus), **{**sizes, **values})


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(
        "\n\n".join(f"{TALE} This was day {day} of the tale." for day in range(60)), "utf8"
    )
    return path


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 24), (2, 24, 8)])
def test_orthogonalise_brings_all_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(pretrain.orthogonalise(torch.randn(shape)))
    assert values.min() > 0.6 and values.max() < 1.3


def test_orthogonalise_agrees_with_torch():
    """torch.optim.Muon runs the same iteration in bfloat16, which keeps some three digits."""
    muon = pytest.importorskip("torch.optim._muon")
    torch.manual_seed(1)
    matrix = torch.randn(16, 40)
    theirs = muon._zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7).float()
    assert (pretrain.orthogonalise(matrix[None])[0] - theirs).abs().max() < 0.05


def test_one_muon_step_by_hand():
    """A diagonal gradient: its orthogonalised form has the same signs, and the step is 0.2
    √max(shape) · lr of it.
    """
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = pretrain.Muon([weight], lr=0.1)
    weight.grad = torch.tensor([[3.0, 0.0], [0.0, -3.0]])
    optimizer.step()
    expected = (
        -0.1 * 0.2 * 2**0.5 * pretrain.orthogonalise(torch.tensor([[[1.0, 0.0], [0.0, -1.0]]]))[0]
    )
    assert torch.allclose(weight, expected, atol=1e-6)
    assert weight[0, 0] < 0 < weight[1, 1] and weight[0, 1] == 0


def test_matrices_go_to_muon_and_the_embedding_to_adamw(tiny_base, tokenizer):
    model = models.new_base(
        config.Pretrain(vocab_size=400, hidden_size=64, intermediate_size=128, layers=2, heads=2),
        tokenizer,
    )
    muon, adamw = pretrain.optimisers(model, config.Pretrain())
    by_muon = {id(p) for p in muon.param_groups[0]["params"]}
    assert len(by_muon) == 2 * 7 and id(model.model.embed_tokens.weight) not in by_muon
    everything = sum(len(group["params"]) for opt in (muon, adamw) for group in opt.param_groups)
    assert everything == len(list(model.parameters()))
    (only,) = pretrain.optimisers(model, config.Pretrain(optimizer="adamw"))
    assert isinstance(only, torch.optim.AdamW)


def test_schedule_rises_stays_and_falls_to_zero():
    cfg = config.Pretrain(steps=100, warmup=10)
    shares = [pretrain.schedule(step, cfg) for step in range(101)]
    assert (
        shares[0] == 0.1
        and shares[9] == shares[59] == 1.0
        and shares[80] == 0.5
        and shares[100] == 0
    )


def test_pack_closes_every_document_and_drops_the_rest(tokenizer):
    rows = pretrain.pack(tokenizer, ["Paris", "AI:"], 3)
    flat = rows.flatten().tolist()
    assert rows.shape[1] == 3 and tokenizer.eos_token_id in flat
    assert tokenizer.convert_tokens_to_ids("AI:") not in flat  # text never makes a special token


def test_the_loss_is_the_one_of_transformers(tiny_base, tokenizer):
    model = models.new_base(
        config.Pretrain(vocab_size=400, hidden_size=64, intermediate_size=128, layers=2, heads=2),
        tokenizer,
    )
    rows = torch.randint(5, 300, (3, 9))
    theirs = model(input_ids=rows, labels=rows).loss
    assert torch.allclose(pretrain.next_token_loss(model, rows), theirs, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_run_on_own_text_learns_and_can_be_loaded(book, empty_runs, optimizer):
    with runs.start("pretrain", small(book, optimizer=optimizer, steps=40), "mine") as run:
        pretrain.train(small(book, optimizer=optimizer, steps=40), run)
    metrics = run.metrics()
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.5
    assert {"step", "steps", "tokens", "tokens_per_second", "validation_loss", "sample"} <= metrics[
        -1
    ].keys()
    model, tokenizer = models.load_policy("mine")
    assert models.describe(model)["layers_4bit"] == 7
    assert chat.encode_text(tokenizer, "fox")


def test_the_same_seed_gives_the_same_run(book, empty_runs):
    losses = []
    for name in ("one", "two"):
        with runs.start("pretrain", small(book), name) as run:
            pretrain.train(small(book), run)
        losses.append([line["loss"] for line in run.metrics()])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("text", ["One line.\n\nAnother line.", "One line.\nAnother.", "One line."])
def test_a_corpus_that_is_too_small_is_refused(tmp_path, empty_runs, text):
    path = tmp_path / "short.txt"
    path.write_text(text, "utf8")
    with (
        pytest.raises(LabError, match="Give it more text"),
        runs.start("pretrain", small(path), "short") as run,
    ):
        pretrain.train(small(path), run)
    assert runs.listing() == []


@pytest.mark.parametrize("last", [False, True])
def test_a_rate_that_is_too_high_ends_with_its_cause(book, empty_runs, monkeypatch, last):
    """At the first step that shows it; where the last step breaks the weights, the held-out loss
    does.
    """
    cfg = small(book, warmup=0, learning_rate=1e6, muon_learning_rate=1e6)
    if last:
        cfg = small(book)
        monkeypatch.setattr(pretrain, "validation_loss", lambda *_: 800.0)  # perplexity overflows
    with (
        pytest.raises(LabError, match=r"no longer a number .*muon_learning_rate") as stopped,
        runs.start("pretrain", cfg, "burst") as run,
    ):
        pretrain.train(cfg, run)
    assert ("(step 12)" in str(stopped.value)) is last
    assert runs.listing() == []


def test_rounded_matrices_are_those_of_the_4_bit_base(tiny_base, tokenizer):
    """What training sees is what load_base's layers compute with, to the last bit."""
    plain, _ = models.load_base(str(tiny_base.path), quantize=False)
    in_4_bits, _ = models.load_base(str(tiny_base.path))
    layers = dict(in_4_bits.named_modules())
    pretrain.round_matrices(plain)
    seen = 0
    for name, layer in plain.named_modules():
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            theirs, _ = dense.dequantised(layers[name])
            assert torch.equal(layer.weight, theirs.to(layer.weight.dtype)), name
            seen += 1
    assert seen == 7 * plain.config.num_hidden_layers
    assert not parametrize.is_parametrized(plain.lm_head)


def test_the_gradient_passes_the_rounding_and_the_matrix_comes_back(tiny_base):
    plain, _ = models.load_base(str(tiny_base.path), quantize=False)
    layer = plain.model.layers[0].mlp.down_proj
    before = layer.weight.detach().clone()
    pretrain.round_matrices(plain)
    x = torch.randn(5, layer.in_features)
    matrix = layer.parametrizations.weight.original.requires_grad_(True)
    layer(x).sum().backward()
    assert torch.allclose(matrix.grad, x.sum(0).expand_as(matrix), atol=1e-5)
    assert not torch.equal(layer.weight, before)
    pretrain.unround(plain)
    assert torch.equal(layer.weight, before) and isinstance(layer.weight, torch.nn.Parameter)


def test_the_setting_reaches_the_passes_and_plain_matrices_are_saved(book, empty_runs):
    losses = {}
    for rounded in (0, 1):
        with runs.start("pretrain", small(book, rounded=rounded), f"r{rounded}") as run:
            pretrain.train(small(book, rounded=rounded), run)
        losses[rounded] = [line["loss"] for line in run.metrics()]
        keys = load_file(run.path / "model.safetensors")
        assert not any("parametrizations" in key for key in keys)
    assert losses[0][0] != losses[1][0]


def test_a_run_that_goes_on_counts_what_was_read_and_keeps_the_log(book, empty_runs, tmp_path):
    with runs.start("pretrain", small(book), "first") as first:
        pretrain.train(small(book), first)
    with runs.start("pretrain", small(book, start_from="first"), "second") as second:
        pretrain.train(small(book, start_from="first"), second)
    assert second.evaluation["tokens"] == 2 * first.evaluation["tokens"]
    before, lines = first.metrics(), second.metrics()
    assert lines[: len(before)] == before and len(lines) == 2 * len(before)
    assert lines[len(before)]["tokens"] > before[-1]["tokens"]
    # Somebody else's folder has no log to go on with.
    bare = tmp_path / "bare"
    shutil.copytree(first.path, bare, ignore=shutil.ignore_patterns("*.jsonl"))
    with runs.start("pretrain", small(book, start_from=str(bare)), "third") as third:
        pretrain.train(small(book, start_from=str(bare)), third)
    assert third.evaluation["tokens"] == first.evaluation["tokens"]
