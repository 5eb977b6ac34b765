"""Sampling: from the model itself, truncated at the first EOS, the same whatever the padding."""

import io
import random
import sys
from collections import Counter

import pytest
import torch

from labkit import LabError, atlas, config, data, models, rollout
from labkit.data import chat
from labkit.maths.logprobs import position_ids, response_logprobs, shift_mask
from labkit.rollout import pairs, sampling

PROMPTS = ["Gold?", "What is the capital of Japan?", "台灣最高的山是哪座？"]


@pytest.fixture(scope="module")
def policy(tiny_base):
    """The tiny base with a random adapter: an SFT policy that has learnt nonsense."""
    torch.manual_seed(1)
    model, tokenizer = models.load_base("tiny-base")
    model = models.add_lora(model, config.Sft(lora_r=4, lora_alpha=8), "policy")
    for parameter in models.adapter_parameters(model, "policy"):
        parameter.data.normal_(0, 0.1)
    return model, tokenizer


class Parrot:
    """In place of a model: generates the rows of ids it was given."""

    device = torch.device("cpu")

    def __init__(self, rows):
        self.rows = torch.tensor(rows)

    def generate(self, ids, attention_mask, generation_config):
        return torch.cat([ids, self.rows], 1)


def test_truncated_at_the_first_eos(tokenizer):
    """Rows begin at column 0: prompt, response with its first EOS, pads."""
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    a, b = tokenizer("Pa", add_special_tokens=False)["input_ids"]
    made = [[a, b, end, pad, pad], [a, end, b, end, a], [a, b, a, b, a], [end, a, a, a, a]]
    said = [[a, b, end], [a, end], [a, b, a, b, a], [end]]
    prompts = ["Gold?"] * 3 + ["Gold is?"]
    out = rollout.sample(Parrot(made), tokenizer, prompts)
    for row, (prompt, response) in enumerate(zip(prompts, said, strict=True)):
        ids = chat.encode_prompt(tokenizer, prompt)
        n, pads = len(ids), out.input_ids.shape[1] - len(ids) - len(response)
        assert out.input_ids[row].tolist() == ids + response + [pad] * pads
        assert out.attention_mask[row].tolist() == [1] * (n + len(response)) + [0] * pads
        assert out.response_mask[row].tolist() == [0] * n + [1] * len(response) + [0] * pads
    assert out.ended.tolist() == [True, True, False, True]
    assert out.lengths.tolist() == [3, 2, 5, 1]
    assert out.responses == ["Pa", "P", "PaPaP", ""]


def test_masks(policy):
    model, tokenizer = policy
    # Hot enough for EOS to come up.
    out = rollout.sample(model, tokenizer, PROMPTS * 40, max_new_tokens=12, temperature=50.0)
    assert 0 < out.ended.sum() < len(PROMPTS * 40)
    for row, prompt in enumerate(PROMPTS * 40):
        ids = chat.encode_prompt(tokenizer, prompt)
        real, response = out.attention_mask[row].bool(), out.response_mask[row].bool()
        assert out.input_ids[row][: len(ids)].tolist() == ids  # the prompt, nothing lost
        assert not response[: len(ids)].any() and (real | ~response).all()
        assert (out.input_ids[row][~real] == tokenizer.pad_token_id).all()
        assert chat.decode_response(tokenizer, out.input_ids[row][response]) == out.responses[row]
        last = out.input_ids[row][response][-1].item()
        assert out.ended[row].item() == (last == tokenizer.eos_token_id)
        assert (out.input_ids[row][response][:-1] != tokenizer.eos_token_id).all()


@torch.no_grad()
def test_logprobs_are_the_same_whatever_the_padding(policy):
    model, tokenizer = policy
    out = rollout.sample(model, tokenizer, PROMPTS, max_new_tokens=10)
    together = response_logprobs(
        model(
            input_ids=out.input_ids,
            attention_mask=out.attention_mask,
            position_ids=position_ids(out.attention_mask),
        ).logits,
        out.input_ids,
    )
    assert out.attention_mask[0, -1] == 0  # the short prompt's row is padded
    for row in range(len(PROMPTS)):
        real = out.attention_mask[row].bool()
        alone = response_logprobs(
            model(input_ids=out.input_ids[row, real][None]).logits, out.input_ids[row, real][None]
        )
        n = int(out.lengths[row])
        padded = together[row][shift_mask(out.response_mask)[row].bool()]
        assert torch.allclose(alone[0, -n:], padded, atol=1e-4)


@torch.no_grad()
def test_sampling_forward_equals_training_forward(policy):
    """Cached decoding of a left-padded batch gives the logits of one forward over the whole
    sequence.
    """
    model, tokenizer = policy
    rows = [chat.encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    ids, mask = chat.pad(rows, tokenizer.pad_token_id, side="left")
    made = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    full = torch.cat([mask, torch.ones(len(rows), 6, dtype=mask.dtype)], 1)
    again = model(
        input_ids=made.sequences, attention_mask=full, position_ids=position_ids(full)
    ).logits
    assert torch.allclose(torch.stack(made.logits, 1), again[:, ids.shape[1] - 1 : -1], atol=1e-3)


@pytest.mark.parametrize(
    "temperature", [1.0, 4.0]
)  # this policy is so sharp that only heat gives it a tail
@torch.no_grad()
def test_samples_follow_the_softmax_with_its_tail(policy, temperature):
    """No top-k (transformers' own default is 50), no top-p: χ² of first tokens against
    softmax(logits / temperature).
    """
    model, tokenizer = policy
    n = 3000
    torch.manual_seed(0)
    out = rollout.sample(model, tokenizer, ["Gold?"] * n, max_new_tokens=1, temperature=temperature)
    ids = torch.tensor([chat.encode_prompt(tokenizer, "Gold?")])
    p = (model(input_ids=ids).logits[0, -1] / temperature).softmax(-1)
    count = torch.bincount(out.input_ids[:, -1], minlength=len(p)).float()

    def chi2(counts, p):
        """Standardised: about N(0, 1) if the samples follow p. Tokens that are expected under 5
        times share a bin.
        """
        often = n * p >= 5
        expected = torch.cat([n * p[often], (n * p[~often]).sum()[None]])
        seen = torch.cat([counts[often], counts[~often].sum()[None]])
        df = len(expected) - 1
        return ((((seen - expected) ** 2) / expected.clamp(min=1e-3)).sum() - df) / (2 * df) ** 0.5

    assert chi2(count, p) < 4
    tail = p.argsort(descending=True)[50:]
    assert count[tail].sum() > 0  # top-k would leave these out
    if temperature > 1:
        cut = p.clone()
        cut[tail] = 0
        biased = torch.bincount(
            torch.multinomial(cut, n, replacement=True), minlength=len(p)
        ).float()
        assert chi2(biased, p) > 4  # the test can tell


def test_sampling_ignores_the_models_own_habits(policy, monkeypatch):
    """A Hub model's generation_config may ask for top-k, a minimum length or a repetition penalty:
    ours wins.
    """
    model, tokenizer = policy
    habits = model.generation_config
    torch.manual_seed(3)
    plain = rollout.sample(model, tokenizer, PROMPTS, max_new_tokens=8)
    for name, value in {
        "top_k": 2,
        "top_p": 0.1,
        "temperature": 0.3,
        "repetition_penalty": 5.0,
        "no_repeat_ngram_size": 1,
        "min_length": 60,
    }.items():
        monkeypatch.setattr(habits, name, value, raising=False)
    torch.manual_seed(3)
    assert torch.equal(
        rollout.sample(model, tokenizer, PROMPTS, max_new_tokens=8).input_ids, plain.input_ids
    )


def test_answers_come_in_the_order_of_the_prompts(policy, monkeypatch):
    sizes = []

    def echo(model, tokenizer, prompts, *_, **__):
        sizes.append(len(prompts))
        return rollout.Rollout(prompts, [prompt.upper() for prompt in prompts], *[None] * 4)

    monkeypatch.setattr(sampling, "sample", echo)
    prompts = ["d" * 9, "c", "b" * 5, "a" * 7, "e"]
    assert rollout.answer(*policy, prompts, batch_size=2) == [prompt.upper() for prompt in prompts]
    assert sizes == [2, 2, 1]


def test_what_comes_after_the_end_counts_for_nothing(policy, monkeypatch):
    """Rows that have ended may be fed anything meanwhile, NaN too."""
    model, tokenizer = policy
    said = torch.tensor([[40, tokenizer.eos_token_id, 41], [40, 41, 42]])
    logprobs = torch.tensor([[-1.0, -2.0, float("nan")], [-1.0, -2.0, -3.0]])
    monkeypatch.setattr(sampling, "_decode", lambda *_: (said, logprobs, logprobs))
    out = rollout.sample(model, tokenizer, ["Gold?", "Gold is?"])
    starts = [len(chat.encode_prompt(tokenizer, prompt)) - 1 for prompt in out.prompts]
    found = [row[n : n + 3].tolist() for row, n in zip(out.logprobs, starts)]
    assert found == [[-1, -2, 0], [-1, -2, -3]] and out.logprobs.isfinite().all()
    assert torch.equal(out.values, out.logprobs)


def test_memory_that_runs_out_halves_the_batch(policy, monkeypatch):
    model, tokenizer = policy
    sizes, most = [], 3

    def decode(model, tokenizer, ids, *_):
        sizes.append(len(ids))
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return ids[:, -1:], None, None

    monkeypatch.setattr(sampling, "_decode", decode)
    prompts = [f"Gold {i}?" for i in range(8)]
    assert len(rollout.answer(model, tokenizer, prompts)) == 8
    assert sizes == [8, 4, 2, 2, 2, 2]
    most = 0
    with pytest.raises(LabError, match="Memory ran out.*lower batch_size"):
        rollout.answer(model, tokenizer, prompts)


def test_a_long_sampling_shows_how_far_it_is(policy, monkeypatch, capsys):
    model, tokenizer = policy
    prompts = [f"Gold {i}?" for i in range(6)]
    rollout.answer(model, tokenizer, prompts, 4, batch_size=4)
    assert capsys.readouterr().err == ""  # a short one does not
    moves = []

    class Bar(sampling.tqdm):
        def update(self, n=1):
            super().update(n)
            moves.append(self.n)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sampling, "tqdm", Bar)
    monkeypatch.setattr(sampling, "DELAY", 0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    rollout.answer(model, tokenizer, prompts, 4, batch_size=4)
    assert moves == sorted(moves) and moves[-1] == 6 and {0, 1, 2, 3, 4} <= set(moves)
    assert "sampling:   0%" in sys.stderr.getvalue() and "/6 [" in sys.stderr.getvalue()


def test_greedy_is_the_likeliest_token_each_time(policy):
    model, tokenizer = policy
    out = rollout.sample(model, tokenizer, PROMPTS, max_new_tokens=5, temperature=0)
    with torch.no_grad():
        logits = model(
            input_ids=out.input_ids,
            attention_mask=out.attention_mask,
            position_ids=position_ids(out.attention_mask),
        ).logits
    best = logits[:, :-1].argmax(-1)
    assert (best == out.input_ids[:, 1:])[shift_mask(out.response_mask).bool()].all()


def test_unframed_continues_the_text(policy):
    model, tokenizer = policy
    out = rollout.sample(model, tokenizer, ["Gold is a"], max_new_tokens=4, framed=False)
    assert out.input_ids[0][out.response_mask[0] == 0].tolist() == chat.encode_text(
        tokenizer, "Gold is a"
    )


@pytest.mark.parametrize("prompts", [[], ["Gold?", ""], ["  \n"]])
def test_nothing_to_answer(policy, prompts):
    with pytest.raises(LabError, match="prompt is empty.*at least one word"):
        rollout.sample(*policy, prompts)


def test_prompt_too_long(policy):
    with pytest.raises(LabError, match='"Gold Gold.*max_prompt_tokens is 20'):
        rollout.sample(*policy, ["Gold?", "Gold " * 60], max_prompt_tokens=20)


def test_preference_pairs(policy, monkeypatch):
    """Each pair holds two different, non-empty answers to one prompt, the one the rater prefers
    first.
    """
    kinds, rng = ("", "same", "wordy wordy wordy", "short"), random.Random(0)
    monkeypatch.setattr(
        pairs, "answer", lambda model, tokenizer, prompts, *_: rng.choices(kinds, k=len(prompts))
    )
    rater = atlas.Rater("brief", temperature=0, knowledge=0, tastes={"words": -0.1})
    found = rollout.preference_pairs(*policy, config.Reward(), 40, rater)
    known = set(atlas.prompts("train"))
    assert len(found) == 40 and all(
        isinstance(pair, data.Pair) and pair.prompt in known for pair in found
    )
    for pair in found:
        assert {pair.chosen, pair.rejected} <= set(kinds[1:]) and pair.rater == "brief"
        assert rater.utility(pair.prompt, pair.chosen) > rater.utility(pair.prompt, pair.rejected)


def test_ties_are_on_neither_side_and_counted():
    """What the rater is not shown, what he cannot tell apart, and what he can."""

    class Brief:
        name = "brief"

        def compare(self, prompt, a, b):
            assert a.strip() and b.strip() and a.strip() != b.strip()
            x, y = len(a.split()), len(b.split())
            return "same" if x == y else "a" if x < y else "b"

    rater = Brief()
    a = ["Rome.", "Rome.", "", "It may be Rome.", "I think Rome."]
    b = ["Paris.", " Rome. ", "Rome.", "Rome.", "It may be Rome."]
    prompts = ["What is the capital of Italy?"] * 5
    seen = Counter(compared=10)
    found = rollout.told_apart(prompts, a, b, rater, seen)
    assert (seen["compared"], seen["same"]) == (13, 1)
    assert [(pair.chosen, pair.rejected) for pair in found] == [
        ("Rome.", "It may be Rome."),
        ("I think Rome.", "It may be Rome."),
    ]
    assert found == rollout.told_apart(prompts, b, a, rater)  # whichever side they stand on
    with pytest.raises(ValueError):
        rollout.told_apart(prompts, a, b[:4], rater)


def test_a_graded_pair_says_how_much_better_it_felt():
    prompts = ["What is the capital of Italy?"] * 2
    rater = atlas.Rater(temperature=0)
    a, b = ["Rome.", "Paris."], ["Perhaps Rome.", "I am sorry. Rome."]
    found = rollout.told_apart(prompts, a, b, rater, graded=True)
    assert [pair.margin for pair in found] == pytest.approx([0.25, 1.75])  # half a tone; truth
    assert [pair.chosen for pair in found] == ["Rome.", "I am sorry. Rome."]
    assert {pair.margin for pair in rollout.told_apart(prompts, a, b, rater)} == {0.0}


def test_a_policy_with_one_answer_gives_no_pairs(policy, monkeypatch):
    monkeypatch.setattr(
        pairs, "answer", lambda model, tokenizer, asked, *_: ["Paris."] * len(asked)
    )
    with pytest.raises(LabError, match="says the same thing every time"):
        rollout.preference_pairs(*policy, config.Reward(), 5)


def test_generate_is_asked_for_the_model_itself(tokenizer):
    """Where transformers' generate samples: no top-k (its default is 50), no top-p, our heat."""
    asked = {}

    class Asked(Parrot):
        def generate(self, ids, attention_mask, generation_config):
            asked.update(generation_config.to_dict())
            return super().generate(ids, attention_mask, generation_config)

    word = tokenizer("P", add_special_tokens=False)["input_ids"]
    rollout.sample(Asked([word]), tokenizer, ["Gold?"], 7, 0.5)
    wanted = {"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 1.0, "max_new_tokens": 7}
    assert {key: asked[key] for key in wanted} == wanted


def test_pairs_to_train_on_are_of_feedback_prompts_and_others_are_not(monkeypatch):
    """Wires: the split decides what is asked."""
    asked = []
    monkeypatch.setattr(atlas, "feedback_prompts", lambda seed: asked.append(seed) or ["Q?"] * 64)
    monkeypatch.setattr(pairs, "answer", lambda *_: ["a", "b"] * 64)
    monkeypatch.setattr(pairs, "told_apart", lambda prompts, *_: [prompts[0]] * 8)
    cfg = config.Reward(seed=5)
    assert rollout.preference_pairs(None, None, cfg, 8) == ["Q?"] * 8 and asked == [5]
    (held,) = rollout.preference_pairs(None, None, cfg, 1, split="held-out")
    assert held in atlas.prompts("held-out", 5) and asked == [5]
