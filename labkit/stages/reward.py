"""Stage 3a, the reward model, a "virtual human": it learns which of two answers a rater prefers.

    loss = − log σ(score(prompt, chosen) − score(prompt, rejected))        (Bradley-Terry)
 Eq. 1 of arXiv 2203.02155. It starts from the SFT adapter and reads its score at the last token.
Only differences of scores mean something, so at the end they are shifted and scaled to mean 0,
variance 1 on the SFT policy's answers.
"""

import torch

from labkit import data, models, runs
from labkit.data import chat
from labkit.stages import pairs as preferences
from labkit.stages import trl

NORMALISE_ON = 256  # pairs; 512 answers give the spread of the scores to about 3 %


def train(cfg, run):
    """Train adapter "reward" and head on the pairs cfg.data (config.Reward); leaves both and the
    held-out accuracy in `run`.
    """
    from trl import RewardConfig, RewardTrainer

    policy = runs.latest("sft", cfg.policy)
    model, tokenizer = models.load_base(models.base_of(policy, cfg.base))
    models.check_context(model, cfg)
    model = models.load_adapter(
        model, policy, "reward", trainable=True
    )  # still the SFT policy: it can answer
    pairs = preferences.load_preferences(cfg, model, tokenizer, policy)
    run.info["data_hash"] = runs.digest(map(str, pairs))
    run.info["policy"] = models.adapter_id(policy)
    if cfg.data == "atlas":
        data.save_jsonl(pairs, run.path / preferences.PAIRS)
    training, held_out, dropped = preferences.split_pairs(
        tokenizer, pairs, cfg, cfg.validation_fraction
    )

    head = models.Head(model.config.hidden_size).to(runs.device())
    trl.train(
        RewardTrainer,
        RewardConfig,
        models.RewardModel(model, head),
        tokenizer,
        whole(training),
        cfg,
        run,
        disable_dropout=False,
    )
    head.normalise(torch.cat(score(model, head, tokenizer, training[:NORMALISE_ON])))
    models.save_adapter(model, run, "reward", head)
    evaluation = {"pairs": len(training), "dropped": dropped, "held_out": len(held_out)}
    if held_out:
        chosen, rejected = score(model, head, tokenizer, held_out)
        evaluation["accuracy"] = (chosen > rejected).float().mean().item()
        evaluation["margin"] = (chosen - rejected).mean().item()
    run.finish(**evaluation)


def whole(rows) -> list[dict]:
    """RewardTrainer's rows: the prompt is part of both sequences, since a score is for prompt +
    response.
    """
    return [
        {
            "chosen_ids": row["prompt_ids"] + row["chosen_ids"],
            "rejected_ids": row["prompt_ids"] + row["rejected_ids"],
            "length": row["length"],
        }
        for row in rows
    ]


@torch.no_grad()
def score(model, head, tokenizer, rows, batch_size: int = 64):
    """(chosen (N,), rejected (N,)) scores of pair rows, on the CPU."""
    sequences = [
        row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids") for row in rows
    ]
    scores = torch.empty(len(sequences))
    by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(sequences), batch_size):
        batch = by_length[start : start + batch_size]
        ids, attention_mask = chat.pad([sequences[i] for i in batch], tokenizer.pad_token_id)
        scores[batch] = models.rewards(
            model, head, ids.to(runs.device()), attention_mask.to(runs.device())
        ).cpu()
    return scores.chunk(2)
