"""What the stages on TRL's trainers (sft, reward, dpo) share: one set of training arguments, and preference
pairs as token ids.
"""

import logging
import sys

from labkit import LabError, chat, data, models, runs

PAIRS = "pairs.jsonl"  # in a reward run: the labelled pairs it learned from
LARGE = 20_000_000  # parameters from which memory, not the number of steps, sets the speed
logging.getLogger("bitsandbytes").setLevel(
    logging.ERROR
)  # trl imports it: no advice about kernels not installed


@models.quiet()
def train(trainer_class, config_class, model, tokenizer, rows, cfg, run, **options):
    """Train `model` on `rows` (dicts of token-id lists with a "length") and return TRL's trainer.

    AdamW, linear warm-up over a tenth of the steps, then a cosine to zero. For a large model, rows of like
    length share a batch, which saves padding; a small one reached a lower held-out loss with mixed batches:
    length goes with style. What TRL reports goes to run.log; nothing is printed and no checkpoint is
    written. `options` go into `config_class` as they are.
    """
    from datasets import Dataset
    from transformers import PrinterCallback

    device, large = runs.device().type, models.describe(model)["parameters"] > LARGE
    micro = max(
        n
        for n in range(1, min(cfg.batch_size, 8 if large else cfg.batch_size) + 1)
        if cfg.batch_size % n == 0
    )
    dtype = str(models.compute_dtype()).removeprefix("torch.")
    arguments = config_class(
        output_dir=str(run.path),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=5,
        logging_first_step=True,
        use_cpu=device == "cpu",
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        seed=cfg.seed,
        num_train_epochs=cfg.epochs,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=cfg.batch_size // micro,
        gradient_checkpointing=large,
        train_sampling_strategy="group_by_length" if large else "random",
        remove_unused_columns=False,
        max_length=None,
        dataloader_pin_memory=device == "cuda",
        **options,
    )
    with models.float32_trainables(model):
        trainer = trainer_class(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[run.trainer_callback()],
        )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    return trainer


@models.quiet()
def evaluate(trainer, rows) -> dict:
    """TRL's metrics on held-out `rows`, their "eval_" taken off; {} without rows."""
    from datasets import Dataset

    if not rows:
        return {}
    return {
        key.removeprefix("eval_"): value for key, value in trainer.evaluate(Dataset.from_list(rows)).items()
    }


def load_preferences(cfg, model, tokenizer, policy) -> list:
    """Pairs to learn from: the learner's file or Hub id, or for "atlas" the answers of the SFT run `policy` (the
    model's active adapter), judged by a simulated rater. A reward run keeps the pairs it was trained on; a stage
    that wants pairs of the same policy takes those, so that methods are compared on the same labels."""
    if cfg.data != "atlas":
        return data.load_pairs(cfg.data, cfg.examples)
    for run in (*reversed(runs.listing()), runs.shipped("reward")):
        if (
            run
            and run.stage == "reward"
            and run.info.get("policy") == models.adapter_id(policy)
            and (run.path / PAIRS).exists()
        ):
            pairs = data.load_pairs(run.path / PAIRS)
            if len(pairs) >= cfg.examples:
                return pairs[: cfg.examples]
    from labkit import rollout

    return rollout.preference_pairs(model, tokenizer, cfg, cfg.examples)


def pair_rows(tokenizer, pairs, cfg) -> list[dict]:
    """{"prompt_ids", "chosen_ids", "rejected_ids", "length"} per pair; a pair whose answers are the same
    ids, as they may be after truncation, teaches nothing and is left out."""
    rows = []
    for pair in pairs:
        prompt_ids = chat.encode_prompt(tokenizer, pair.prompt, cfg.max_prompt_tokens)
        chosen_ids = chat.encode_response(tokenizer, pair.chosen, cfg.max_response_tokens)
        rejected_ids = chat.encode_response(tokenizer, pair.rejected, cfg.max_response_tokens)
        if chosen_ids != rejected_ids:
            length = len(prompt_ids) + max(len(chosen_ids), len(rejected_ids))
            rows.append(
                {
                    "prompt_ids": prompt_ids,
                    "chosen_ids": chosen_ids,
                    "rejected_ids": rejected_ids,
                    "length": length,
                }
            )
    return rows


def split_pairs(tokenizer, pairs, cfg, fraction: float) -> tuple[list[dict], list[dict], int]:
    """(training rows, held-out rows, how many pairs were dropped); no prompt is on both sides.

    Dropped are pairs whose prompt is longer than cfg.max_prompt_tokens (collections hold some that no small
    model can read; standard error says how many) and pairs whose answers are identical.
    """
    fitting = [
        pair for pair in pairs if len(chat.encode_prompt(tokenizer, pair.prompt)) <= cfg.max_prompt_tokens
    ]
    if len(fitting) < len(pairs):
        told = (
            f"{len(pairs) - len(fitting):,} of {len(pairs):,} pairs have a prompt of more than "
            f"max_prompt_tokens={cfg.max_prompt_tokens} tokens"
        )
        if not fitting:
            raise LabError(f"{told}. Raise max_prompt_tokens, or give pairs with shorter prompts.")
        print(f"{told} and are left out.", file=sys.stderr)
    training, held_out = (pair_rows(tokenizer, part, cfg) for part in data.split(fitting, fraction, cfg.seed))
    dropped = len(pairs) - len(training) - len(held_out)
    if not training:
        raise LabError(
            f"None of the {len(fitting)} pairs can be learned from (they have the same answer twice once "
            f"they are cut to max_response_tokens={cfg.max_response_tokens}). "
            "Give more pairs or raise max_response_tokens."
        )
    return training, held_out, dropped
