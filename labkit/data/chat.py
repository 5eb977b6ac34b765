"""From words to tokens: the chat template, encoding, padding and decoding.

A conversation of one turn is framed as in the lecture, `USER:台灣最高的山是哪座？AI:玉山[END]`. Our
own tokenizer (`train_tokenizer`) has one token for each of the three marks. A Hub tokenizer that
brings a chat template keeps its own frame; one without gets the two marks as plain text. The
response always ends in the tokenizer's EOS token (`set_eos`). A dialogue so far (rows.Dialogue) is
framed turn by turn; of one that is too long, its last turns (`ending`).

Only the frame may hold special tokens: text of a user or of a model is encoded with
`split_special_tokens`, so a prompt that contains "AI:" or "[END]" stays a prompt and can't put
words into the model's mouth.
"""

import functools
import sys

from labkit import LabError
from labkit.data import rows

PAD, EOS, USER, AI = "[PAD]", "[END]", "USER:", "AI:"
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}USER:{{ message.content }}"
    "{% else %}AI:{{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}AI:{% endif %}"
)
_SLOT = "@@TURN@@"


def train_tokenizer(texts, vocab_size: int):
    """A byte-level BPE tokenizer (no text is out of its vocabulary) with the special tokens [PAD],
    [END], USER: and AI:.

    Args: texts, an iterable of str; vocab_size, entries in all. Returns a PreTrainedTokenizerFast;
    a small corpus can give fewer entries. Its chat_template renders the same frame, so that an
    exported model works in other programs.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # A Chinese character is never merged with its neighbour: 人工智 must be able to go on with 慧.
    alone = pre_tokenizers.Split(
        Regex(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"), behavior="isolated"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [alone, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, EOS, USER, AI],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[USER, AI],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def set_pad(tokenizer):
    """Make sure that the pad token is not EOS, else a model would never learn (or be scored on) its
    own ending. Returns the tokenizer.

    No token is added, so no embedding has to grow: a special token that the chat frame does not use
    takes the part, else a byte that no UTF-8 text contains (GPT-2 has one special token only), else
    the last entry. Pads are masked everywhere, so nothing learns from them.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return tokenizer
    before, after = _frame(tokenizer, template_of(tokenizer))
    used = {tokenizer.eos_token_id, tokenizer.bos_token_id, *before, *after}
    added, vocabulary = tokenizer.added_tokens_decoder.items(), tokenizer.get_vocab()
    special = [token.content for id, token in added if token.special and id not in used]
    special.sort(key=lambda token: (token != tokenizer.unk_token, "pad" not in token.lower()))
    # Byte 255 or 254, as byte-level BPEs and SentencePiece spell them.
    never = [token for token in ("ÿ", "þ", "<0xFF>") if token in vocabulary]
    tokenizer.pad_token = [*special, *never, max(vocabulary, key=vocabulary.get)][0]
    return tokenizer


def template_of(tokenizer) -> str:
    """The chat template that a tokenizer brings, else ours with its EOS, and with its BOS in front
    if it has the habit of putting one there.
    """
    return tokenizer.chat_template or "{{ bos_token }}" * _puts_bos(tokenizer) + TEMPLATE


@functools.lru_cache(maxsize=16)
def _puts_bos(tokenizer) -> bool:
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def carry_frame(tokenizer):
    """Give a tokenizer that leaves the project a chat template that renders `_frame` by default,
    whoever renders it. Returns the tokenizer.
    """
    tokenizer.chat_template = template_of(tokenizer)
    if "enable_thinking" in tokenizer.chat_template:
        tokenizer.chat_template = "{% set enable_thinking = false %}" + tokenizer.chat_template
    return tokenizer


def set_eos(tokenizer, ends):
    """Responses end as the chat template closes an answer, where the model itself ends there: its
    generation_config has that token's id among `ends` (an int, a list or None). Some models name
    another token as their tokenizer's EOS. Returns the tokenizer.
    """
    ends = [ends] if isinstance(ends, int) else ends or []
    if tokenizer.chat_template:
        *_, closing = _frame(tokenizer, tokenizer.chat_template, ("user", "assistant"), False)
        if closing and closing[0] in ends:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(closing[0])
    return tokenizer


@functools.lru_cache(maxsize=256)
def _frame(tokenizer, template, roles=("user",), asks=True) -> tuple[tuple[int, ...], ...]:
    """Token ids before, between and after the texts of a conversation of such roles; `asks`: up to
    where the next answer begins. A template is rendered around slots: encoding the frame apart
    keeps it apart. LabError where the template has no such conversations.
    """
    import jinja2

    try:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": _SLOT} for role in roles],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=asks,
            enable_thinking=False,  # Qwen3: the answer follows at once; others do not look
        )
    except jinja2.TemplateError as error:
        text = str(error)
    before, *parts = text.split(_SLOT)
    if len(parts) != len(roles):
        reason = text.strip().split("\n")[0][:80]
        raise LabError(
            f"The chat template can't frame a conversation of {', '.join(roles)} ({reason})."
            " Leave such conversations out, or choose another model."
        )
    # A template brings its own BOS.
    found = tokenizer([before, *parts], add_special_tokens=False)["input_ids"]
    return tuple(map(tuple, found))


@functools.lru_cache(maxsize=16)
def _takes_system(tokenizer, template) -> bool:
    """Whether a chat template has a place for a system message; ours has none."""
    try:
        _frame(tokenizer, template, ("system", "user"))
    except LabError:
        return False
    return AI + "{{ message.content }}" not in template


def _turns(tokenizer, prompt: str) -> list[tuple[str, str]]:
    """A prompt as (role, text) pairs that its template takes: a system message goes before the
    user's where it has no place of its own, and what one role says in a row is one turn.
    """
    turns = []
    for role, text in getattr(prompt, "turns", None) or [("user", prompt)]:
        if role == "system" and not _takes_system(tokenizer, template_of(tokenizer)):
            role = "user"
        if turns and turns[-1][0] == role:
            text = f"{turns.pop()[1]}\n\n{text}"
        turns.append((role, text))
    return turns


def encode_text(tokenizer, text: str) -> list[int]:
    """Ids of plain text; the spelling of a special token is plain text too."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def encode_prompt(tokenizer, prompt: str, max_tokens: int | None = None) -> list[int]:
    """Ids of the framed prompt, up to where the response begins. Longer than max_tokens:
    LabError.
    """
    turns = _turns(tokenizer, prompt)
    ids, *afters = _frame(tokenizer, template_of(tokenizer), tuple(role for role, _ in turns))
    ids = list(ids)
    for (_, text), after in zip(turns, afters, strict=True):
        ids += [*encode_text(tokenizer, text), *after]
    if max_tokens and len(ids) > max_tokens:
        begin = prompt if len(prompt) <= 40 else prompt[:40] + "…"
        raise LabError(
            f'The prompt "{begin}" has {len(ids)} tokens with its frame, but max_prompt_tokens is'
            f" {max_tokens}. Shorten the one or raise the other."
        )
    return ids


def encode_response(tokenizer, response: str, max_tokens: int | None = None) -> list[int]:
    """Ids of the response, EOS last; a longer one than max_tokens is cut and then has no EOS, as in
    a rollout that ran out of room.
    """
    return (encode_text(tokenizer, response) + [tokenizer.eos_token_id])[:max_tokens]


def encode(
    tokenizer, prompt: str, response: str, max_prompt_tokens=None, max_response_tokens=None
) -> tuple[list[int], list[int]]:
    """(ids, response_mask) of one example, both of the same length; response_mask is 1 on the
    response, its EOS included.
    """
    prompt_ids = encode_prompt(tokenizer, prompt, max_prompt_tokens)
    response_ids = encode_response(tokenizer, response, max_response_tokens)
    return prompt_ids + response_ids, [0] * len(prompt_ids) + [1] * len(response_ids)


def ending(tokenizer, prompt: str, max_tokens: int) -> str:
    """A dialogue that is longer than max_tokens, from a later question of its user's on, the first
    that fits (its last, where none does); any other prompt as it is.
    """
    turns = getattr(prompt, "turns", ())
    asks = [i for i, (role, _) in enumerate(turns) if role == "user" and i]
    while asks and len(encode_prompt(tokenizer, prompt)) > max_tokens:
        before = [turn for turn in turns[:1] if turn[0] == "system"]
        prompt = rows.transcript([*before, *turns[asks.pop(0) :]])
    return prompt


def endings(tokenizer, prompts: list, max_tokens: int) -> list:
    """The `ending` of each; standard error says of how many dialogues that is not the whole."""
    kept = [ending(tokenizer, prompt, max_tokens) for prompt in prompts]
    if cut := sum(one is not prompt for one, prompt in zip(kept, prompts)):
        print(
            f"Of {cut:,} of {len(prompts):,} dialogues the oldest turns are left out, so that they"
            f" fit in max_prompt_tokens={max_tokens}.",
            file=sys.stderr,
        )
    return kept


def check_lengths(tokenizer, prompts, max_prompt_tokens: int) -> list[list[int]]:
    """Encode every prompt before any work starts; the first that is too long is a LabError that
    quotes it.
    """
    return [encode_prompt(tokenizer, prompt, max_prompt_tokens) for prompt in prompts]


def fits(tokenizer, max_prompt_tokens: int):
    """A function of a record (or a prompt) → why a published collection leaves it out, or ""."""

    def why(record) -> str:
        try:
            asked = record if isinstance(record, str) else record.prompt
            ids = encode_prompt(tokenizer, ending(tokenizer, asked, max_prompt_tokens))
        except LabError as error:
            return str(error).split(". ")[0]
        long = len(ids) > max_prompt_tokens
        return f"prompt of more than max_prompt_tokens={max_prompt_tokens} tokens" if long else ""

    return why


def pad(sequences, pad_id: int, side: str = "right"):
    """Lists of ids → (ids (B, T), attention_mask (B, T)), long tensors; attention_mask is 1 on real
    tokens. Rollouts pad prompts left.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.as_tensor(sequence, dtype=torch.long) for sequence in sequences]
    ones = [torch.ones_like(row) for row in ids]
    return (
        pad_sequence(ids, batch_first=True, padding_value=pad_id, padding_side=side),
        pad_sequence(ones, batch_first=True, padding_side=side),
    )


def decode_response(tokenizer, ids) -> str:
    """Text of a response: everything before the first EOS, pads left out. Other special tokens
    show, so a stray USER: is seen.
    """
    ids = ids.tolist() if hasattr(ids, "tolist") else ids  # a GPU is waited for once, not per token
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return tokenizer.decode(
        [id for id in ids if id != tokenizer.pad_token_id], clean_up_tokenization_spaces=False
    )
