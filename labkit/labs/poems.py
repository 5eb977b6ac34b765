"""Hard to write, easy to judge: a character model of Tang quatrains, trained on the spot, and what
clicks make of it.

The lecture's user asks for a 七言絕句 (four lines of seven characters) and gets 五言 (five). The
model here writes both forms, as it read them, and is never told which is which. Somebody clicks on
the poem that pleases. Two ways to obey the clicks: a taste learns from them, and best-of-n picks by
it; or DPO changes the model's weights (the loop stands in notebook 05; `logps` is what it needs).

Simplified: nobody can ask this model for anything, it only writes on; and the taste is one linear
layer on the frozen model's hidden state, where notebook 06 trains an adapter as well. Not
simplified: the losses, and that taste and DPO know nothing but the clicks.
"""

import html
import random
import re
from collections import Counter
from dataclasses import dataclass

import torch

from labkit import LabError, config, data, models, runs
from labkit.charts import look
from labkit.data import chat
from labkit.maths import logprobs, losses
from labkit.stages import pretrain

FEWEST = 10  # clicks from which a taste is learned
TEMPERATURE = 0.8  # at which poems are written, and at which their probability is read


def settings(**changes) -> config.Pretrain:
    """The character model's sizes and rates: half a minute on two CPU cores. corpus: "tang" or a
    text file with a poem a line.
    """
    sizes = dict(vocab_size=1900, layers=2, context=40, sequence_length=33)
    rates = dict(batch_size=32, steps=400, warmup=20)
    return config.Pretrain(**{"corpus": "tang", **sizes, **rates, **changes})


# --- poems ---------------------------------------------------------------------------------------


def load(source: str = "tang") -> list[str]:
    """Poems: "tang" (the quatrains in data/tang) or a text file with one a line. Raises LabError
    where there is none.
    """
    path = runs.data_folder() / "tang/quatrains.txt.gz" if source == "tang" else source
    return [line.strip() for line in data.read_text(path).split("\n") if line.strip()]


def form(poem: str) -> int | None:
    """5 (五言) or 7 (七言): four lines of so many Chinese characters each; None: anything else.
    Marks and line breaks end a line.
    """
    lines = [line for line in re.split(r"[，。！？；、\s]+", poem) if line]
    for n in (5, 7):
        if len(lines) == 4 and all(re.fullmatch(f"[\u3400-\u9fff]{{{n}}}", line) for line in lines):
            return n
    return None


def shares(poems: list[str]) -> dict[str, float]:
    """Which share of the poems has which form."""
    counts = Counter(map(form, poems))
    return {
        name: counts[n] / max(1, len(poems))
        for name, n in (("五言", 5), ("七言", 7), ("neither", None))
    }


# --- the model that writes -----------------------------------------------------------------------


def train(cfg, run):
    """Train a character model on the poems of cfg.corpus; returns (model, tokenizer). Logs loss
    (nats per character).

    Its tokens are the cfg.vocab_size - 2 most frequent characters; a poem with another one, or too
    long for cfg.sequence_length, is left out. Raises LabError where fewer poems are left than fill
    a batch.
    """
    poems = load(cfg.corpus)
    tokenizer = character_tokenizer(poems, cfg.vocab_size)
    known, end = set(tokenizer.get_vocab()), tokenizer.eos_token_id
    kept = [poem for poem in poems if set(poem) <= known and len(poem) < cfg.sequence_length]
    if len(kept) < cfg.batch_size:
        raise LabError(
            f"{cfg.corpus!r} gives {len(kept)} poems of at most {cfg.sequence_length - 1} frequent"
            f" characters, but a batch takes {cfg.batch_size}. Give it more poems, one a line, or"
            " raise vocab_size or sequence_length."
        )
    # One poem a row, [END] before it and [END] after it to the end of the row.
    ids = ([end, *row] for row in tokenizer(kept)["input_ids"])
    rows = torch.tensor([row + [end] * (cfg.sequence_length + 1 - len(row)) for row in ids])
    model = new_model(cfg, tokenizer).to(runs.device()).train()
    for step, loss in enumerate(pretrain.steps(model, rows.to(runs.device()), cfg), 1):
        if step % 5 == 1 or step == cfg.steps:
            run.log(step=step, steps=cfg.steps, loss=loss.item())
    models.save_base(model.eval(), tokenizer, run.path)
    run.finish(
        loss=loss.item(), poems=len(kept), parameters=sum(p.numel() for p in model.parameters())
    )
    return model, tokenizer


def character_tokenizer(poems: list[str], size: int):
    """A token for each of the most frequent characters, [PAD] and [END]: `size` in all."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    frequent = [character for character, _ in Counter("".join(poems)).most_common(size - 2)]
    vocabulary = {token: id for id, token in enumerate((chat.PAD, chat.EOS, *frequent))}
    tokenizer = Tokenizer(BPE(vocabulary, []))  # without merges every token is a character
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=chat.PAD, eos_token=chat.EOS
    )


def new_model(cfg, tokenizer):
    """A small transformer (OPT's) with an embedding for each position, so that counting to five or
    seven is easily learned; the Llama of the other notebooks, whose positions are relative, took
    longer and was less reliable at it.
    """
    from transformers import OPTConfig, OPTForCausalLM

    end = tokenizer.eos_token_id
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=cfg.hidden_size,
            word_embed_proj_dim=cfg.hidden_size,
            ffn_dim=cfg.intermediate_size,
            num_hidden_layers=cfg.layers,
            num_attention_heads=cfg.heads,
            max_position_embeddings=cfg.context,
            dropout=0.0,
            attention_dropout=0.0,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=end,
            eos_token_id=end,
        )
    )


@torch.no_grad()
def write(model, tokenizer, n: int, seed: int = 0, temperature=TEMPERATURE) -> list[str]:
    """`n` poems; the same seed gives the same ones on the same machine. The model has context
    positions, and the [END] before and after a poem take one each, so that `read` can take in
    whatever is written here. Raises LabError for n < 1.
    """
    if n < 1:
        raise LabError(f"{n} poems can't be written. Ask for 1 or more.")
    start = torch.full((n, 1), tokenizer.eos_token_id, device=model.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        full = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            max_new_tokens=longest(model),
        )
    # Each row without the [END] it began with.
    return [chat.decode_response(tokenizer, row[1:]) for row in full]


def longest(model) -> int:
    """Characters of the longest poem that has a position for each of them and for both [END]s."""
    return model.config.max_position_embeddings - 2


def read(model, tokenizer, poems: list[str]):
    """(ids (N, T), attention_mask (N, T)): a poem a row, [END] before and after it. Raises LabError
    for no poems, and for a poem that is longer than the model can read.
    """
    if not poems:
        raise LabError("There is no poem to read: the list is empty.")
    end, rows = tokenizer.eos_token_id, tokenizer(list(poems))["input_ids"]
    for poem, row in zip(poems, rows):
        if len(row) > longest(model):
            raise LabError(
                f'The poem "{poem[:8]}…" has {len(row)} characters, but this model reads at most'
                f" {longest(model)}. Leave it out, or train with a larger context."
            )
    ids, attention_mask = chat.pad([[end, *row, end] for row in rows], tokenizer.pad_token_id)
    return ids.to(model.device), attention_mask.to(model.device)


def logps(model, tokenizer, poems: list[str], temperature=TEMPERATURE) -> torch.Tensor:
    """(N,): log-probability (nats) of each poem and of the [END] after it, as `write` samples. With
    gradient.
    """
    ids, attention_mask = read(model, tokenizer, poems)
    logits = model(input_ids=ids, attention_mask=attention_mask).logits
    found = logprobs.response_logprobs(logits, ids, temperature)
    return logprobs.masked_sum(found, logprobs.shift_mask(attention_mask), dim=1)


# --- the taste that chooses ----------------------------------------------------------------------


@dataclass
class Reader:
    """A simulated rater who wants one form (5 or 7), and clicks on the wrong poem in a share
    `slips` of the cases.
    """

    wants: int = 7
    slips: float = 0.1
    seed: int = 0

    def __post_init__(self):
        self.name = {5: "wants 五言", 7: "wants 七言"}[self.wants]
        self._rng = random.Random(f"{self.name}{self.seed}")

    def compare(self, prompt: str, a: str, b: str) -> str:
        """ "a", "b" or, where both poems or neither have the form, "same"."""
        pleases = [form(poem) == self.wants for poem in (a, b)]
        if pleases[0] == pleases[1]:
            return "same"
        return "a" if pleases[0] != (self._rng.random() < self.slips) else "b"


@torch.no_grad()
def hidden(model, tokenizer, poems: list[str]) -> torch.Tensor:
    """(N, d): the frozen model's hidden state at the [END] after each poem, where it has read all
    of it. Raises LabError as `read` does.
    """
    ids, attention_mask = read(model, tokenizer, poems)
    states = models.hidden_states(model, ids, attention_mask)
    return states[torch.arange(len(poems)), logprobs.last_index(attention_mask)]


def learn_taste(model, tokenizer, pairs, steps: int = 200):
    """A models.Head that scores poems as the clicks say (Bradley-Terry, notebook 06). pairs:
    rows.Pair, from store.pairs().

    Raises LabError where fewer than FEWEST different pairs are given: "same" and skipped ones are
    none.
    """
    pairs = list({(pair.chosen, pair.rejected) for pair in pairs})
    if len(pairs) < FEWEST:
        raise LabError(
            f"A taste is learned from {FEWEST} different pairs of poems or more, but only"
            f" {len(pairs)} clicks say which of two is better. Rate some more."
        )
    pairs.sort()  # a set has no order
    chosen, rejected = (hidden(model, tokenizer, list(side)) for side in zip(*pairs))
    head = models.Head(chosen.shape[1]).to(chosen.device)
    torch.nn.init.zeros_(head.weight)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(steps):
        loss, _ = losses.bradley_terry_loss(head(chosen), head(rejected))
        # Weights there are many more than clicks: without a pull to zero they would learn each slip
        # by heart.
        loss = loss + 0.3 * head.weight.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return head.requires_grad_(False)


def best_of(n: int, poems: list[str], scores) -> list[str]:
    """The poem with the highest score of each `n` that follow one another; what fills no group is
    left out. LabError for n < 1 or too few.
    """
    if not 1 <= n <= len(poems):
        raise LabError(
            f"Best of {n} can't be picked from {len(poems)} poems. Choose n from 1 to {len(poems)}."
        )
    return [
        poems[max(range(i, i + n), key=lambda k: float(scores[k]))]
        for i in range(0, len(poems) - n + 1, n)
    ]


# --- what came of it -----------------------------------------------------------------------------


@dataclass
class Card:
    """One sitting on one page: an SVG with a sentence beside it (str), as charts have.

    form: "七言" or "五言". before, after, blind: agreement.share's {"value", "low", "high", "n"} of
    the poems in that form and of the blind pairs in which the new model was preferred (None:
    nobody has judged yet); ties: blind pairs that were judged the same. poems: one by each model.
    who: whose clicks. kl: nats a poem.
    """

    form: str
    clicks: int
    who: str
    before: dict
    after: dict
    blind: dict | None
    ties: int
    kl: float
    poems: tuple[str, str]

    def __str__(self):
        return f"{self._moved()}; {self._preferred()}"

    def _moved(self) -> str:
        before, after = (f"{figure['value']:.0%}" for figure in (self.before, self.after))
        return f"{before} → {after} {self.form} after {self.clicks} clicks of {self.who}"

    def _preferred(self) -> str:
        if not self.blind:
            return "not judged blind yet"
        won, n = round(self.blind["value"] * self.blind["n"]), self.blind["n"]
        ties = f", {self.ties} the same" if self.ties else ""
        return f"blind, the new model preferred in {won} of {n}{ties}"

    def _repr_mimebundle_(self, **kwargs):
        return {"image/svg+xml": self.svg(), "text/plain": str(self)}

    def svg(self) -> str:
        """760 × 400, on paper of its own: it reads alike in a light and a dark theme."""
        parts = [
            _words(32, 46, self._moved(), size=21, weight=700),
            _words(32, 72, f"DPO on the weights; KL to the old model {self.kl:.1f} nats a poem"),
        ]
        models_ = (("before", self.before, look.GREY), ("after", self.after, look.COLOURS[0]))
        for y, (name, figure, colour) in zip((98, 138), models_):
            share, low, high = (figure[key] for key in ("value", "low", "high"))
            said = f"{share:.0%} {self.form}  ({low:.0%} to {high:.0%}, n = {figure['n']})"
            parts += [
                _words(32, y + 21, name, colour=colour, weight=700),
                _box(110, y, 360, 30, look.RULE),
                _box(110, y, 360 * share, 30, colour),
                _box(110 + 360 * low, y + 14, 360 * (high - low), 2, look.INK),
                _words(486, y + 21, said),
            ]
        parts.append(_words(32, 206, self._preferred(), weight=700))
        if self.blind:
            low, high, n = (self.blind[key] for key in ("low", "high", "n"))
            won, between = round(self.blind["value"] * n), f"{low:.0%} to {high:.0%}, n = {n}"
            parts.append(_words(728, 206, f"({between} without ties)", anchor="end"))
            squares = [look.COLOURS[0]] * won + [look.RULE] * self.ties
            squares += [look.GREY] * (n - won)
            wide = min(34.8, 696 / len(squares))
            parts += [_box(32 + wide * i, 220, wide - 5, 24, c) for i, c in enumerate(squares)]
        for x, (name, _, colour), poem in zip((32, 392), models_, self.poems):
            parts.append(_words(x, 282, f"{name}, one poem", colour=colour, weight=700))
            lines = [line for line in re.split(r"(?<=[，。！？；])", poem) if line][:4]
            parts += [_words(x, 310 + 24 * i, line, size=18) for i, line in enumerate(lines)]
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 400" width="760"'
            f' style="max-width:100%;height:auto" role="img" aria-label="{look.text(self)}"'
            f' font-family="{html.escape(look.FONT)}">'
            f'<rect x="1" y="1" width="758" height="398" rx="14" fill="{look.PAPER}"'
            f' stroke="{look.AXIS}"/>{"".join(parts)}</svg>'
        )


def _words(x, y, words, size=14, colour=look.INK, weight=400, anchor="start") -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{look.text(words)}</text>'


def _box(x, y, wide, tall, colour) -> str:
    place = f'x="{x:.1f}" y="{y:g}" width="{max(wide, 0):.1f}" height="{tall:g}"'
    return f'<rect {place} rx="{min(4, tall / 2):g}" fill="{colour}"/>'
