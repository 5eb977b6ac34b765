"""The poet: a base that reads the quatrains of the Tang, SFT on them, how probable poems are."""

import random
from collections import Counter

import torch

from labkit import LabError, config, data, models, runs
from labkit.data import chat
from labkit.labs import poems
from labkit.maths import logprobs
from labkit.stages import pretrain, sft

ASKED = "寫一首七言絕句："  # and the character to begin with
TEMPERATURE = 0.5  # at which the poet writes, learns and is measured
LONGEST = 40  # tokens of a poem, its [END] included: a 七言絕句 has 33


def settings(**changes) -> config.Pretrain:
    """The base's sizes and rates: two minutes on a CPU core. corpus: "tang" or a text file with a
    poem a line.
    """
    sizes = dict(vocab_size=2600, layers=2, intermediate_size=448, context=64, sequence_length=48)
    return poems.settings(**{**sizes, "batch_size": 32, "steps": 400, "warmup": 20, **changes})


def base() -> str:
    """The folder of the base that came with the project (train_base made it)."""
    folder = runs.data_folder() / "checkpoints/poet"
    if not (folder / "config.json").exists():
        raise LabError(
            f"There is no poet's base at {folder}. Make one: python -m labkit bench form"
        )
    return str(folder)


def demonstrations(corpus: str = "tang", seed: int = 0) -> list[data.Demo]:
    """The poems, shuffled, each as the answer to somebody who asks for a 七言絕句 that begins with
    its first character, which is not what he always gets.
    """
    found = [data.Demo(ASKED + poem[0], poem) for poem in poems.load(corpus)]
    random.Random(seed).shuffle(found)
    return found


def character_tokenizer(demos: list[data.Demo], size: int):
    """A token for each of the most frequent characters of prompts and poems, and for the marks of
    the chat frame: `size` in all.
    """
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    counts = Counter("".join(demo.prompt + demo.response for demo in demos))
    marks = (chat.PAD, chat.EOS, chat.USER, chat.AI)
    tokens = (*marks, *(character for character, _ in counts.most_common(size - len(marks))))
    tokenizer = Tokenizer(BPE({token: id for id, token in enumerate(tokens)}, []))
    tokenizer.decoder = decoders.Fuse()  # without merges every token is a character
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=chat.PAD,
        eos_token=chat.EOS,
        additional_special_tokens=[chat.USER, chat.AI],
    )


def known(demos: list[data.Demo], tokenizer) -> list[data.Demo]:
    """Those whose every character has a token."""
    characters = set(tokenizer.get_vocab())
    return [demo for demo in demos if set(demo.prompt + demo.response) <= characters]


def train_base(cfg, run):
    """Pre-train a Llama on the framed poems of cfg.corpus; `run` then is a Hugging Face folder, its
    weights in half precision, ready to be shipped. Logs loss (nats per token).

    Raises LabError where fewer poems are left than fill a batch: those with a rare character, or
    too long for cfg.sequence_length, are left out.
    """
    demos = demonstrations(cfg.corpus, cfg.seed)
    tokenizer = character_tokenizer(demos, cfg.vocab_size)
    rows = [
        chat.encode(tokenizer, demo.prompt, demo.response)[0] for demo in known(demos, tokenizer)
    ]
    rows = [row for row in rows if len(row) <= cfg.sequence_length]
    if len(rows) < cfg.batch_size:
        raise LabError(
            f"{cfg.corpus!r} gives {len(rows)} poems of frequent characters that fit into"
            f" {cfg.sequence_length} tokens, but a batch takes {cfg.batch_size}. Give it more"
            " poems, one a line, or raise vocab_size or sequence_length."
        )
    end, width = tokenizer.eos_token_id, max(map(len, rows))
    ids = torch.tensor([row + [end] * (width - len(row)) for row in rows]).to(runs.device())
    model = models.new_base(cfg, tokenizer).to(runs.device()).train()
    for step, loss in enumerate(pretrain.steps(model, ids, cfg), 1):
        if step % 10 == 1 or step == cfg.steps:
            run.log(step=step, steps=cfg.steps, loss=loss.item())
    models.save_base(model.half(), tokenizer, run.path)
    parameters = sum(p.numel() for p in model.parameters())
    run.finish(loss=loss.item(), poems=len(rows), parameters=parameters)


def fine_tune(base: str, seed: int = 0, name: str | None = None, n: int = 1600, corpus="tang"):
    """The poet: an SFT run on the 4-bit `base`, with `n` of the poems as demonstrations."""
    _, tokenizer = models.load_base(base)
    demos = known(demonstrations(corpus, seed), tokenizer)[:n]
    file = data.save_jsonl(demos, runs.root() / f"poet-demos-{seed}.jsonl")
    sizes = dict(examples=0, max_prompt_tokens=16, max_response_tokens=LONGEST)
    cfg = config.Sft(base=base, data=str(file), seed=seed, **sizes)
    with runs.start("poet", cfg, name, aside=True) as run:
        sft.train(cfg, run)
    return run


def prompts(n: int, seed: int, corpus: str = "tang") -> list[str]:
    """`n` requests, their characters as frequent as at the beginning of a poem."""
    return [demo.prompt for demo in demonstrations(corpus, seed)[:n]]


@torch.no_grad()
def logps(model, tokenizer, prompts: list[str], said: list[str], size: int = 64) -> torch.Tensor:
    """(N,): log-probability (nats) of each poem and its [END] under the active adapter, at
    TEMPERATURE.
    """
    found = []
    for at in range(0, len(prompts), size):
        both = zip(prompts[at : at + size], said[at : at + size], strict=True)
        rows = [chat.encode(tokenizer, *one, max_response_tokens=LONGEST) for one in both]
        ids, attention_mask = chat.pad([ids for ids, _ in rows], tokenizer.pad_token_id)
        mask, _ = chat.pad([mask for _, mask in rows], 0)
        logits = model(input_ids=ids, attention_mask=attention_mask).logits
        each = logprobs.response_logprobs(logits, ids, TEMPERATURE)
        found.append(logprobs.masked_sum(each, logprobs.shift_mask(mask), dim=1))
    return torch.cat(found)
