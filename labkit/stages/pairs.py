"""Preferences as the reward and DPO stages learn from them: loaded or made, cut to size, split by
prompt.
"""

import sys
from collections import Counter
from dataclasses import replace

import torch

from labkit import LabError, data, models, ranks, rollout, runs
from labkit.data import chat

PAIRS = "pairs.jsonl"  # in a reward run: the labelled pairs it learned from
COUNTED = ("compared", "ties")
KEPT = f"{runs.KEPT}-data.jsonl"  # in an unfinished run: the records that it sampled


def load_preferences(cfg, model, tokenizer, policy, run=None) -> tuple[list, dict]:
    """Pairs to learn from: the learner's file or Hub id, or for "atlas" the answers of the SFT run
    `policy` (the model's active adapter), judged by a simulated rater. A reward run keeps the pairs
    it was trained on; a stage that wants pairs of the same policy takes those, so that methods are
    compared on the same labels. `run` keeps them until it is whole: it goes on with no others.

    With them {"compared", "ties"}: how many pairs the rater was shown until there were enough, and
    how many he called the same, which are left out; {} where nobody counted.
    """
    if cfg.data != "atlas":
        fits = chat.fits(tokenizer, cfg.max_prompt_tokens)
        return data.load_pairs(cfg.data, cfg.examples, fits), {}
    run = run or runs.Run(None, "", "")  # of nobody: nothing is kept

    def make():
        pairs, run.info["counted"] = _labelled(cfg, policy) or _made(model, tokenizer, cfg)
        return pairs

    return kept(run, make, data.load_pairs), run.info.get("counted", {})


def kept(run, make, load) -> list:
    """Records that `make` samples, the same ones again when `run` goes on: they lie in its folder
    until it is whole. load: reads them. What is drawn on the way changes no random number outside,
    so that a run is the same whether it made its records or found them.
    """
    return ranks.first(_kept, run, make, load)


def _kept(run, make, load) -> list:
    file = run.path and run.path / KEPT
    if file and file.exists():
        return list(load(file))
    cards = [runs.device()] if runs.device().type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        records = make()
    if file:
        run.note()
        data.save_jsonl(records, file)
    return records


def _labelled(cfg, policy) -> tuple[list, dict] | None:
    """Pairs of this policy that a reward run has kept, with what was counted of them."""
    for run in (*reversed(runs.listing()), runs.shipped("reward")):
        if (
            run
            and run.stage == "reward"
            and run.info.get("policy") == models.adapter_id(policy)
            and (run.path / PAIRS).exists()
        ):
            run.verify(PAIRS)
            pairs = data.load_pairs(run.path / PAIRS)
            if len(pairs) >= cfg.examples:
                counted = {key: run.evaluation[key] for key in COUNTED if key in run.evaluation}
                return pairs[: cfg.examples], counted
    return None


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
