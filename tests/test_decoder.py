"""Our decoder against transformers' own forward pass: the same log-probabilities for every shape of
model that it claims to know.
"""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from labkit import config, models, rollout
from labkit.data import chat
from labkit.maths.logprobs import (
    position_ids,
    predicts,
    response_logprobs,
    scattered_logprobs,
    shift_mask,
)
from labkit.models import dense
from labkit.rollout import decoder, sampling

SMALL = dict(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    eos_token_id=1,
    pad_token_id=0,
)
SHAPES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=4)),
    "llama, grouped queries, scaled rope": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SMALL,
            num_key_value_heads=2,
            attention_bias=True,
            rope_scaling={
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        )
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, num_key_value_heads=2)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=60,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            eos_token_id=1,
            pad_token_id=0,
        )
    ),
}


def shaken(name):
    """A small model of that shape, with weights large enough for its attention to matter."""
    torch.manual_seed(0)
    model = SHAPES[name]().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("length", [1, 5])
def test_grouped_queries_share_keys_in_the_length_axis(length, monkeypatch):
    """What enable_gqa gives within rounding, by a call that every kernel can take."""
    plain, seen = F.scaled_dot_product_attention, []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: seen.append((a, k)) or plain(*a, **k)
    )
    torch.manual_seed(0)
    q, k, v = torch.randn(3, length, 6, 8), *torch.randn(2, 3, 7, 2, 8)
    readable = torch.rand(3, 1, length, 7) > 0.4
    readable[..., 0] = True
    found = dense.attention(q, k, v, readable.repeat(1, 1, 3, 1))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    wanted = plain(q, k, v, attn_mask=readable, enable_gqa=True).transpose(1, 2).flatten(2)
    assert torch.allclose(found, wanted, atol=1e-6)
    (((queries, keys, *_), how),) = seen
    assert queries.shape[:2] == keys.shape[:2] and not how.get("enable_gqa")


def prompts():
    ids = torch.randint(2, 60, (5, 7))
    mask = torch.ones_like(ids)
    for row, pads in enumerate((0, 3, 6, 1, 0)):
        ids[row, :pads] = mask[row, :pads] = 0
    return ids, mask


def said(engine, ids, mask, n=9, temperature=1.0, eos=1):
    """(sequences, mask, log-probabilities) with rows cut at their eos."""
    response, logprobs = torch.zeros(len(ids), n, dtype=torch.long), torch.zeros(len(ids), n)
    for t, (tokens, logps, _, rows) in enumerate(engine.decode(ids, mask, n, temperature, eos)):
        response[rows, t], logprobs[rows, t] = tokens, logps
    kept = ((response == eos).cumsum(1) - (response == eos).long() == 0).long()
    return torch.cat([ids, response * kept], 1), torch.cat([mask, kept], 1), logprobs * kept, kept


def forward(model, ids, mask):
    return response_logprobs(
        model(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask)).logits, ids
    )


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_logprobs_are_the_training_forwards(name):
    model = shaken(name)
    assert dense.supports(model)
    ids, mask = prompts()
    full, kept_mask, logprobs, kept = said(decoder.Decoder(model), ids, mask)
    assert kept.sum() > 20
    again = forward(model, full, kept_mask)[:, -kept.shape[1] :] * kept
    assert torch.allclose(logprobs, again, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("merge", [True, False])
@torch.no_grad()
def test_4bit_and_lora(name, merge, tmp_path):
    """Dequantised and merged, or through the model's own layers: the adapted 4-bit model speaks."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    shaken(name).save_pretrained(tmp_path)
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["lm_head"],
    )
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantised, dtype=torch.float32
    )
    for module in base.modules():
        module.support_avx512bf16_for_cpu = False  # as models.load_base does
    model = models.add_lora(base, config.Sft(lora_r=4, lora_alpha=8), "policy")
    for parameter in models.adapter_parameters(model, "policy"):
        parameter.normal_(0, 0.2)
    ids, mask = prompts()
    full, kept_mask, logprobs, kept = said(decoder.Decoder(model.eval(), merge), ids, mask)
    assert torch.allclose(
        logprobs, forward(model, full, kept_mask)[:, -kept.shape[1] :] * kept, atol=1e-4
    )
    with model.disable_adapter():
        bare = forward(model, full, kept_mask)[:, -kept.shape[1] :] * kept
    assert not torch.allclose(
        logprobs, bare, atol=1e-2
    )  # the test can tell: without the adapter it is another policy


@torch.no_grad()
def test_static_buffers_as_on_cuda():
    """What is captured as a graph on a GPU, run without a graph: columns not yet written are never
    read.
    """
    model = shaken("llama")
    ids, mask = prompts()
    engine, greedy = decoder.Decoder(model), decoder.Decoder(model)
    expected, *_ = said(greedy, ids, mask, temperature=0, eos=-1)

    def static(batch):
        def step(tokens, positions, column):
            column = torch.tensor([column])
            engine.open.index_fill_(3, column, True)
            return engine._forward(tokens, positions, column, engine.open)

        return step

    engine._stepper = static
    assert torch.equal(said(engine, ids, mask, temperature=0, eos=-1)[0], expected)


@torch.no_grad()
def test_rows_that_ended_are_dropped_and_the_rest_goes_on_unharmed():
    model = shaken("llama")
    ids, mask = prompts()
    _, _, _, kept = said(decoder.Decoder(model), ids, mask, eos=-1)
    greedy, *_ = said(decoder.Decoder(model), ids, mask, temperature=0, eos=-1)
    eos = int(greedy[0, 8])  # what row 0 says second ends it here
    sizes = [len(rows) for *_, rows in decoder.Decoder(model).decode(ids, mask, 9, 0.0, eos)]
    assert sizes[0] == 5 and sizes[-1] < 5 and sizes == sorted(sizes, reverse=True)
    full, _, _, cut = said(decoder.Decoder(model), ids, mask, temperature=0, eos=eos)
    assert torch.equal(full[:, 7:], greedy[:, 7:] * cut)


def test_draw_follows_the_softmax_and_never_the_impossible():
    torch.manual_seed(0)
    logits = torch.tensor([[1.0, -float("inf"), 0.0, 2.0, -float("inf")]]).expand(20_000, 5)
    tokens, logprobs = decoder.draw(logits, 0.5)
    p = torch.tensor([2.0, -float("inf"), 0.0, 4.0, -float("inf")]).softmax(-1)
    assert torch.allclose(tokens.bincount(minlength=5) / 20_000, p, atol=0.012)
    assert torch.allclose(logprobs, p[tokens].log(), atol=1e-5)
    assert decoder.draw(logits[:1], 0)[0].item() == 3


def test_values_are_read_beside_the_tokens(tiny_base):
    model, tokenizer = models.load_base("tiny-base")
    head = models.Head(64)
    torch.manual_seed(0)
    out = rollout.sample(
        model, tokenizer, ["Gold?", "What is the capital of Japan?"], 8, 4.0, value_head=head
    )
    with torch.no_grad():
        hidden = models.hidden_states(model, out.input_ids, out.attention_mask)
    mask = shift_mask(out.response_mask)
    assert out.values.shape == out.logprobs.shape == mask.shape
    assert torch.allclose(out.values, head(hidden)[:, :-1] * mask, atol=1e-4)


@pytest.mark.parametrize(
    "build",
    [
        lambda: MistralConfig(**SMALL, sliding_window=8),
        lambda: Qwen2Config(
            **SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=0
        ),
        lambda: GPT2Config(scale_attn_by_inverse_layer_idx=True),
    ],
)
def test_shapes_that_it_does_not_know_are_left_to_generate(build):
    model = torch.nn.Module()
    model.config = build()
    assert not dense.supports(model)


def test_generate_samples_where_the_decoder_can_not_and_says_so_once(
    tiny_base, monkeypatch, capsys
):
    model, tokenizer = models.load_base("tiny-base")
    torch.manual_seed(3)
    ours = rollout.sample(model, tokenizer, ["Gold?"], 6, 0.0)
    monkeypatch.setattr(dense, "SHAPES", set())
    monkeypatch.setattr(sampling, "_said", set())
    theirs = [rollout.sample(model, tokenizer, ["Gold?"], 6, 0.0) for _ in range(2)][0]
    assert theirs.responses == ours.responses and theirs.logprobs is None
    assert capsys.readouterr().err.count("does not know models of type 'llama'") == 1


@torch.no_grad()
def test_logits_only_where_a_response_token_is_predicted(tiny_base):
    """scattered_logprobs and logits_at give what the full logits give, on the response."""
    model, tokenizer = models.load_base("tiny-base")
    rows = [
        chat.encode(tokenizer, "Gold?", "Yes, gold."),
        chat.encode(tokenizer, "What is the capital of Japan?", "Tokyo."),
    ]
    ids, mask = chat.pad([ids for ids, _ in rows], tokenizer.pad_token_id)
    response_mask, _ = chat.pad([mask for _, mask in rows], 0)
    logits, _ = models.logits_at(model, ids, mask, predicts(response_mask))
    assert len(logits) == response_mask.sum()
    found = scattered_logprobs(logits, ids, response_mask, 0.7)
    full = response_logprobs(
        model(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask)).logits, ids, 0.7
    )
    assert torch.allclose(found, full * shift_mask(response_mask), atol=1e-4)


@torch.no_grad()
def test_logits_of_a_model_that_caps_them(tiny_base):
    """A model with something between lm_head and its logits is asked for the logits themselves."""
    model, _ = models.load_base("tiny-base")
    ids = torch.randint(4, 60, (2, 5))
    places = torch.ones_like(ids).bool()
    plain = models.logits_at(model, ids, torch.ones_like(ids), places)[0]
    model.config.logit_scale = 1.0
    assert torch.allclose(
        models.logits_at(model, ids, torch.ones_like(ids), places)[0], plain, atol=1e-5
    )
