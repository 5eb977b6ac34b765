"""Sampling: prompts in, responses out.

The engine is labkit.rollout.decoder, or transformers' `generate` for models that it does not know.
Both sample from the model itself: no top-k, no top-p, no minimum length and no n-gram rule. Each of
those would sample from another distribution than the one whose log-probabilities are taken, and
show up as negative KL.
"""

import sys
from dataclasses import dataclass

import torch
from tqdm import tqdm

from labkit import LabError, models
from labkit.data import chat
from labkit.maths.logprobs import shift_mask
from labkit.rollout import decoder

DELAY = 10  # seconds after which a long sampling shows how far it is
_said = set()  # model types for which it was said that `generate` samples


@dataclass
class Rollout:
    """A batch of B prompts with one response each; T is the longest prompt plus the longest
    response.

    input_ids (B, T): prompt, response, then pads (the sampler pads on the left; here rows start at
    column 0, so that causal order alone keeps pads out). attention_mask (B, T): 1 = real token.
    response_mask (B, T): 1 = response token, the EOS included. ended (B,): True where
    the response closed with EOS. logprobs (B, T-1): the sampled tokens' log-probabilities, aligned
    as logprobs.response_logprobs, 0 outside the response; None where `generate` sampled. values (B,
    T-1): what a value head read beside them, or None.
    """

    prompts: list[str]
    responses: list[str]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    response_mask: torch.Tensor
    ended: torch.Tensor
    logprobs: torch.Tensor | None = None
    values: torch.Tensor | None = None

    @property
    def lengths(self) -> torch.Tensor:
        """Response tokens, the EOS included: (B,)."""
        return self.response_mask.sum(1)

    def parts(self, rows, size: int):
        """`rows` (n,) in parts of at most `size`, of like length: yields (rows, columns,
        (input_ids, attention_mask, response_mask)), without the columns that are padding in all of
        them. `columns` are those of tensors (B, T-1), such as log-probabilities.
        """
        length = self.attention_mask.sum(1)
        rows = torch.as_tensor(rows, device=length.device)
        for part in rows[length[rows].argsort(stable=True)].split(size):
            width = int(length[part].max())
            tensors = (self.input_ids, self.attention_mask, self.response_mask)
            yield part, slice(0, width - 1), tuple(tensor[part, :width] for tensor in tensors)


@torch.no_grad()
def sample(
    model,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int = 48,
    temperature: float = 1.0,
    max_prompt_tokens: int | None = None,
    framed: bool = True,
    value_head=None,
    tick=None,
    engine=None,
) -> Rollout:
    """One response per prompt from the active adapter; framed=False leaves the chat template out
    and lets a base model continue the text. temperature 0 is greedy. A response stops at its first
    EOS or at max_new_tokens.

    value_head: a function of hidden states (b, d) → (b,), asked at every token on the way
    (models.Head). tick: a function that hears after each token which share is done. engine: another
    sampler in place of ours (vllm_engine.Engine). LabError for no prompts, an empty prompt or
    one that is longer than max_prompt_tokens, and where memory runs out.
    """
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise LabError(
            "There is nothing to answer: a prompt is empty. Give every prompt at least one word."
        )
    if framed:
        rows = chat.check_lengths(tokenizer, prompts, max_prompt_tokens)
    else:
        rows = [chat.encode_text(tokenizer, prompt) for prompt in prompts]
    ids, attention_mask = chat.pad(rows, tokenizer.pad_token_id, side="left")
    ids, attention_mask = ids.to(model.device), attention_mask.to(model.device)
    engine = engine or (_decode if models.supports(model) else _generate)
    with models.enough_memory(
        f"It was sampling {len(prompts)} answers of up to {max_new_tokens} tokens at once: lower"
        " batch_size or max_response_tokens, or choose a smaller base."
    ):
        response, logprobs, values = engine(
            model, tokenizer, ids, attention_mask, max_new_tokens, temperature, value_head, tick
        )
    is_eos = response == tokenizer.eos_token_id
    mask = is_eos.cumsum(1) - is_eos.long() == 0  # up to and with the first EOS

    tokens = torch.cat([ids, response.where(mask, tokenizer.pad_token_id)], 1)
    real = torch.cat([attention_mask, mask.long()], 1)
    order = real.argsort(dim=1, descending=True, stable=True)[:, : int(real.sum(1).max())]

    def aligned(found):
        """(B, response) → (B, T), 0 at the prompt; rows begin at column 0."""
        return torch.cat([found.new_zeros(ids.shape), found], 1).gather(1, order)

    def beside(found):
        """(B, response) → (B, T-1), aligned with the predictions; 0 outside the response."""
        if found is not None:
            return shift_mask(aligned(found.where(mask, 0.0)))

    texts = [
        chat.decode_response(tokenizer, row[kept])
        for row, kept in zip(response.cpu(), mask.cpu(), strict=True)
    ]
    return Rollout(
        prompts,
        texts,
        tokens.gather(1, order),
        real.gather(1, order),
        aligned(mask.long()),
        is_eos.any(1),
        beside(logprobs),
        beside(values),
    )


def _decode(model, tokenizer, ids, attention_mask, n: int, temperature: float, value_head, tick):
    """(response (B, t), log-probabilities (B, t), values (B, t) or None), t ≤ n: with our own
    decoder.
    """
    response = torch.full((len(ids), n), tokenizer.pad_token_id, device=ids.device)
    logprobs, values = torch.zeros(2, len(ids), n, device=ids.device)
    engine, t = decoder.Decoder(model), 0
    for tokens, logps, hidden, rows in engine.decode(
        ids, attention_mask, n, temperature, tokenizer.eos_token_id
    ):
        response[rows, t], logprobs[rows, t] = tokens, logps
        if value_head is not None:
            values[rows, t] = value_head(hidden)
        t += 1
        if tick:
            tick(t / n)
    return response[:, :t], logprobs[:, :t], values[:, :t] if value_head is not None else None


def _generate(model, tokenizer, ids, attention_mask, n: int, temperature: float, *_):
    """The same for models of other shapes, with transformers' `generate`; no log-probabilities, no
    values, no ticks.
    """
    from transformers import GenerationConfig

    shape = getattr(getattr(model, "config", None), "model_type", "unknown")
    if shape not in _said:
        _said.add(shape)
        print(
            f"labkit's fast sampling does not know models of type {shape!r}: transformers' generate"
            " samples instead, several times slower.",
            file=sys.stderr,
        )
    how = {"do_sample": False}
    if temperature:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    config = GenerationConfig(
        max_new_tokens=n,
        min_length=0,
        no_repeat_ngram_size=0,
        repetition_penalty=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **how,
    )
    full = model.generate(ids, attention_mask=attention_mask, generation_config=config)
    return full[:, ids.shape[1] :], None, None


def answer(
    model,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int = 48,
    temperature: float = 1.0,
    batch_size: int = 128,
    framed: bool = True,
) -> list[str]:
    """Responses as text, in the order of the prompts. Prompts of like length share a batch, which
    saves padding; where memory runs out, fewer do. After some seconds a line on standard error
    shows how many are done, and how long the rest will take.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers, done = [""] * len(prompts), 0
    pause = 1 if sys.stderr.isatty() else 10
    look = {"delay": DELAY, "leave": False, "mininterval": pause, "unit": " answers"}

    def said(part):
        nonlocal done
        tick = lambda share: bar.update(done + round(share * len(part)) - bar.n)
        tick(0)  # back, after a batch that memory was too small for
        asked, how = [prompts[i] for i in part], (max_new_tokens, temperature)
        texts = sample(model, tokenizer, asked, *how, framed=framed, tick=tick).responses
        tick(1)
        done += len(part)
        return texts

    with tqdm(total=len(prompts), desc="sampling", **look) as bar:
        for i, text in zip(order, models.in_batches(said, order, batch_size), strict=True):
            answers[i] = text
    return answers
