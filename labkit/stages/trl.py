"""What the stages on TRL's trainers (sft, reward, dpo) share: one set of training arguments."""

import logging

from labkit import models, runs

LARGE = 20_000_000  # parameters from which memory, not the number of steps, sets the speed
logging.getLogger("bitsandbytes").setLevel(
    logging.ERROR
)  # trl imports it: no advice about kernels not installed


@models.quiet()
def train(trainer_class, config_class, model, tokenizer, rows, cfg, run, **options):
    """Train `model` on `rows` (dicts of token-id lists with a "length") and return TRL's trainer.

    AdamW, linear warm-up over a tenth of the steps, then a cosine to zero. For a large model, rows
    of like length share a batch, which saves padding; a small one reached a lower held-out loss
    with mixed batches: length goes with style. What TRL reports goes to run.log; nothing is printed
    and no checkpoint is written. `options` go into `config_class` as they are.
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
        key.removeprefix("eval_"): value
        for key, value in trainer.evaluate(Dataset.from_list(rows)).items()
    }
