"""Stage 3a, the reward model, a "virtual human": it learns which of two answers a rater prefers.

    loss = − log σ(score(prompt, chosen) − score(prompt, rejected))        (Bradley-Terry)

Eq. 1 of arXiv 2203.02155; pairs may come with a margin or as a soft label (bradley_terry_loss). It
starts from the SFT adapter; `reads` says where its score is read. Only differences of scores mean
something, so at the end they are shifted and scaled to mean 0, variance 1 on the SFT policy's
answers.
"""

import statistics

import torch

from labkit import data, models, ranks, rollout, runs
from labkit.data import chat
from labkit.maths.losses import bradley_terry_loss
from labkit.stages import pairs as preferences
from labkit.stages import trl

NORMALISE_ON = 256  # pairs or prompts; 512 answers give the spread of the scores to about 3 %


def train(cfg, run):
    """Train adapter "reward" and head on the pairs cfg.data (config.Reward).

    Leaves both in `run`, with the held-out accuracy, "hits" (a 1 for each held-out pair that it
    ranks as the rater does, a 0 for each other) and "normalised_on" (which answers' standard
    deviation a score is measured in).
    """
    from trl import RewardConfig

    policy = runs.policy(cfg.policy, models.base_id(cfg.base))
    model, tokenizer = models.load_base(models.base_of(policy, cfg.base))
    models.check_context(model, cfg)
    model = models.load_adapter(model, policy, "reward", trainable=True)
    # Until it is trained, "reward" still is the SFT policy: it can answer.
    models.note_start(run, model, policy)
    pairs, counted = preferences.load_preferences(cfg, model, tokenizer, policy, run)
    run.note_data(pairs)
    training, held_out, dropped = preferences.split_pairs(
        tokenizer, pairs, cfg, cfg.validation_fraction
    )
    if cfg.data == "atlas":  # the pairs are the SFT policy's own answers
        if ranks.main():
            data.save_jsonl(pairs, run.path / preferences.PAIRS)
        normalised_on = "the pairs, which the SFT policy answered"
        references = sequences(training[:NORMALISE_ON])
    else:  # somebody else's answers: their spread is not that of what PPO will be scored on
        normalised_on = "the SFT policy's answers to the pairs' prompts"
        references = ranks.first(sampled, model, tokenizer, training[:NORMALISE_ON], cfg)

    head = models.Head(model.config.hidden_size, cfg.reads).to(model.device)
    trl.train(
        pair_trainer(),
        RewardConfig,
        models.RewardModel(model, head, models.forward(model, "reward")),
        tokenizer,
        whole(training),
        cfg,
        run,
        disable_dropout=False,
    )
    head.normalise(score(model, head, tokenizer, references))
    models.save_adapter(model, run, "reward", head)
    evaluation = {"pairs": len(training), "dropped": dropped, "held_out": len(held_out), **counted}
    if held_out:
        chosen, rejected = score(model, head, tokenizer, sequences(held_out)).chunk(2)
        hits = (chosen > rejected).tolist()
        run.info["hits"] = "".join("01"[hit] for hit in hits)
        evaluation["accuracy"] = statistics.fmean(hits)
        evaluation["margin"] = (chosen - rejected).mean().item()
    run.finish(**evaluation, normalised_on=normalised_on)


def pair_trainer():
    """TRL's RewardTrainer, whose loss also takes soft labels (maths.losses.bradley_terry_loss)."""
    from trl import RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    class Collator(DataCollatorForPreference):
        def torch_call(self, examples):
            sure = torch.tensor([row["confidence"] for row in examples])
            return super().torch_call(examples) | {"confidence": sure}

    class Trainer(RewardTrainer):
        def __init__(self, processing_class, **more):
            collator = Collator(processing_class.pad_token_id)
            super().__init__(processing_class=processing_class, data_collator=collator, **more)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            margin, confidence = inputs.pop("margin"), inputs.pop("confidence")
            _, outputs = super().compute_loss(model, inputs, return_outputs=True)  # its metrics
            scores = outputs.logits.squeeze(-1).chunk(2)
            loss, _ = bradley_terry_loss(*scores, margin, confidence)
            return (loss, outputs) if return_outputs else loss

    return Trainer


def whole(rows) -> list[dict]:
    """RewardTrainer's rows: the prompt is part of both sequences, since a score is for prompt +
    response.
    """
    kept = ("length", "margin", "confidence")
    return [
        {
            "chosen_ids": row["prompt_ids"] + row["chosen_ids"],
            "rejected_ids": row["prompt_ids"] + row["rejected_ids"],
            **{name: row[name] for name in kept},
        }
        for row in rows
    ]


def sequences(rows) -> list[list[int]]:
    """Prompt + response of pair rows: all that were chosen, then all that were rejected."""
    return [
        row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids") for row in rows
    ]


def sampled(model, tokenizer, rows, cfg) -> list[list[int]]:
    """Prompt + answer of the active policy, one for the prompt of each pair row."""
    answers = rollout.answer(
        model, tokenizer, [row["prompt"] for row in rows], cfg.max_response_tokens
    )
    return [
        row["prompt_ids"] + chat.encode_response(tokenizer, text, cfg.max_response_tokens)
        for row, text in zip(rows, answers, strict=True)
    ]


@torch.no_grad()
def score(
    model, head, tokenizer, rows, batch_size: int = 64, adapter: str = "reward"
) -> torch.Tensor:
    """Scores (N,) of N sequences of ids under `adapter`, on the CPU."""
    passes, scores = models.forward(model, adapter), torch.empty(len(rows))
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))

    def read(part):
        ids, mask = chat.pad([rows[i] for i in part], tokenizer.pad_token_id)
        ids, mask = ids.to(model.device), mask.to(model.device)
        return head.read(passes.hidden_at(ids, mask, head.places(mask)), mask).tolist()

    scores[by_length] = torch.tensor(models.in_batches(read, by_length, batch_size))
    return scores
