"""Preferences as the reward and DPO stages learn from them: loaded or made, cut to size, split by
prompt.
"""

import sys
from collections import Counter
from dataclasses import replace

from labkit import LabError, data, models, ranks, rollout, runs
from labkit.data import chat

PAIRS = "pairs.jsonl"  # in a reward run: the labelled pairs it learned from
COUNTED = ("compared", "ties")


def load_preferences(cfg, model, tokenizer, policy) -> tuple[list, dict]:
    """Pairs to learn from: the learner's file or Hub id, or for "atlas" the answers of the SFT run
    `policy` (the model's active adapter), judged by a simulated rater. A reward run keeps the pairs
    it was trained on; a stage that wants pairs of the same policy takes those, so that methods are
    compared on the same labels.

    With them {"compared", "ties"}: how many pairs the rater was shown until there were enough, and
    how many he called the same, which are left out; {} where nobody counted.
    """
    if cfg.data != "atlas":
        fits = chat.fits(tokenizer, cfg.max_prompt_tokens)
        return data.load_pairs(cfg.data, cfg.examples, fits), {}
    for run in (*reversed(runs.listing()), runs.shipped("reward")):
        if (
            run
            and run.stage == "reward"
            and run.info.get("policy") == models.adapter_id(policy)
            and (run.path / PAIRS).exists()
        ):
            pairs = data.load_pairs(run.path / PAIRS)
            if len(pairs) >= cfg.examples:
                found = {key: run.evaluation[key] for key in COUNTED if key in run.evaluation}
                return pairs[: cfg.examples], found
    return ranks.first(_made, model, tokenizer, cfg)


def _made(model, tokenizer, cfg) -> tuple[list, dict]:
    seen = Counter()
    pairs = rollout.preference_pairs(model, tokenizer, cfg, cfg.examples, seen=seen)
    return pairs, dict(zip(COUNTED, (seen["compared"], seen["same"])))


def pair_rows(tokenizer, pairs, cfg) -> list[dict]:
    """{"prompt", "prompt_ids", "chosen_ids", "rejected_ids", "length", "margin", "confidence"} per
    pair; a pair whose answers are the same ids, as they may be after truncation, teaches nothing
    and is left out.
    """
    rows = []
    for pair in pairs:
        prompt_ids = chat.encode_prompt(tokenizer, pair.prompt, cfg.max_prompt_tokens)
        chosen_ids = chat.encode_response(tokenizer, pair.chosen, cfg.max_response_tokens)
        rejected_ids = chat.encode_response(tokenizer, pair.rejected, cfg.max_response_tokens)
        if chosen_ids != rejected_ids:
            length = len(prompt_ids) + max(len(chosen_ids), len(rejected_ids))
            rows.append(
                {
                    "prompt": pair.prompt,
                    "prompt_ids": prompt_ids,
                    "chosen_ids": chosen_ids,
                    "rejected_ids": rejected_ids,
                    "length": length,
                    "margin": pair.margin,
                    "confidence": pair.confidence,
                }
            )
    return rows


def split_pairs(tokenizer, pairs, cfg, fraction: float) -> tuple[list[dict], list[dict], int]:
    """(training rows, held-out rows, how many pairs were dropped); no prompt is on both sides, and
    the cut does not hang on cfg.seed, so that models of several seeds answer for the same pairs.

    Dropped are pairs whose prompt is longer than cfg.max_prompt_tokens (collections hold some that
    no small model can read; standard error says how many) and pairs whose answers are identical.
    """
    fitting = with_short_prompts(tokenizer, pairs, cfg, "pairs")
    training, held_out = (pair_rows(tokenizer, part, cfg) for part in data.split(fitting, fraction))
    dropped = len(pairs) - len(training) - len(held_out)
    if not training:
        raise LabError(
            f"None of the {len(fitting)} pairs can be learned from (they have the same answer twice"
            f" once they are cut to max_response_tokens={cfg.max_response_tokens}). Give more pairs"
            " or raise max_response_tokens."
        )
    return training, held_out, dropped


def with_short_prompts(tokenizer, records: list, cfg, kind: str) -> list:
    """The records whose prompt has at most cfg.max_prompt_tokens, dialogues from the turn on that
    fits (chat.ending); standard error says of how many that is not the whole, and how many have
    more. LabError where all have. kind: what to call them.
    """
    prompts = chat.endings(tokenizer, [one.prompt for one in records], cfg.max_prompt_tokens)
    records = [replace(one, prompt=prompt) for one, prompt in zip(records, prompts)]
    fitting = [
        record
        for record in records
        if len(chat.encode_prompt(tokenizer, record.prompt)) <= cfg.max_prompt_tokens
    ]
    if len(fitting) < len(records):
        told = (
            f"{len(records) - len(fitting):,} of {len(records):,} {kind} have a prompt of more than"
            f" max_prompt_tokens={cfg.max_prompt_tokens} tokens"
        )
        if not fitting:
            raise LabError(f"{told}. Raise max_prompt_tokens, or give {kind} with shorter prompts.")
        print(f"{told} and are left out.", file=sys.stderr)
    return fitting
