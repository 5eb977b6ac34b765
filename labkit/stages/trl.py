"""What the stages on TRL's trainers (sft, reward, dpo, kto, ai_feedback) share: one set of training
arguments, a clear stop where a gradient is no number or memory runs out, and how demonstrations are
learned from.
"""

import logging

import torch
import torch.nn.functional as F

from labkit import compat, models, ranks, runs
from labkit.data import chat
from labkit.maths.logprobs import like_length, predicts
from labkit.stages import check_finite, checkpoint

LARGE = 20_000_000  # parameters from which memory, not the number of steps, sets the speed
HALVINGS = 16  # from float16's first gradient scale, 2^16, down to 1
logging.getLogger("bitsandbytes").setLevel(
    logging.ERROR
)  # trl imports it: no advice about kernels not installed


def enough_memory():
    return models.enough_memory(
        "Lower batch_size, max_prompt_tokens or max_response_tokens, or choose a smaller base."
    )


def train(trainer_class, config_class, model, tokenizer, rows, cfg, run, **options):
    """`fit` for `rows` that are dicts of token-id lists with a "length".

    AdamW, linear warm-up over a tenth of the steps, then a cosine to zero. For a large model, rows
    of like length share a batch, which saves padding; a small one reached a lower held-out loss
    with mixed batches: length goes with style. `options` go into `config_class` as they are,
    another order of the rows among them. A run of runs.resume goes on where it was.
    """
    large = models.describe(model)["parameters"] > LARGE
    batch = ranks.share(cfg.batch_size, "batch_size")
    most = min(batch, 8) if large else batch
    most = max(2, models.fitting_rows(most, bytes_each(model, cfg, rows)))  # KTO asks for two
    micro = max(n for n in range(1, most + 1) if batch % n == 0)
    order = {"train_sampling_strategy": "group_by_length" if large else "random"}
    return fit(
        trainer_class,
        config_class,
        model,
        tokenizer,
        rows,
        cfg,
        run,
        checkpoint.of(run),
        logging_steps=5,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        bf16=model.dtype == torch.bfloat16,
        fp16=model.dtype == torch.float16,
        num_train_epochs=cfg.epochs,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=batch // micro,
        gradient_checkpointing=bool(cfg.gradient_checkpointing),
        remove_unused_columns=False,
        max_length=None,
        dataloader_pin_memory=runs.device().type == "cuda",
        **order | options,
    )


def bytes_each(model, cfg, rows) -> int:
    """What one of the rows takes in a training pass: two sequences, where it is a pair."""
    width, logits = cfg.max_prompt_tokens + cfg.max_response_tokens, cfg.max_response_tokens
    sequences = 2 if "chosen_ids" in rows[0] else 1
    return sequences * models.row_bytes(model, width, logits, bool(cfg.gradient_checkpointing))


@compat.quiet()
def fit(trainer_class, config_class, model, tokenizer, rows, cfg, run, keeper=None, **arguments):
    """Train `model` on `rows` by the `arguments` of `config_class`; returns TRL's trainer. What it
    reports goes to run.log and nothing is printed. With a `keeper` (checkpoint.Keeper) it goes on
    exactly where the run's checkpoint was; without one there are no checkpoints. Raises LabError at
    the first gradient or loss that is no number, and where memory runs out.
    """
    from datasets import Dataset
    from transformers import PrinterCallback

    arguments = config_class(
        output_dir=str(run.path),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        use_cpu=runs.device().type == "cpu",
        seed=cfg.seed,
        learning_rate=cfg.learning_rate,
        **arguments,
    )
    compat.one_card(arguments)
    with compat.float32_trainables(model):
        trainer = trainer_class(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[stop_when_not_finite(), run.trainer_callback()],
        )
    trainer.remove_callback(PrinterCallback)
    if keeper:
        trainer.add_callback(keeping(trainer, keeper))
    facts = keeper.facts if keeper else {}
    with enough_memory():
        if not facts:
            trainer.train()
        elif not facts["done"]:
            compat.go_on(trainer, facts["step"], facts["epoch"])
        else:  # all steps are taken
            keeper.put(trained(trainer))
            trainer.state.global_step = facts["step"]
    model.eval()
    return trainer


def trained(trainer) -> dict:
    """{name: parameter} of what `trainer` trains."""
    return {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}


def keeping(trainer, keeper):
    """A transformers callback that writes the checkpoints of `keeper`, and puts back the one that a
    run goes on from.

    Written only where a line is logged: there nothing is half counted. TRL's own would hold the
    4-bit base of a reward model, too, and pickles. The order of an epoch's rows may be drawn from
    torch's random numbers, so those of its beginning are kept.
    """
    from transformers import TrainerCallback

    epoch_began = torch.get_rng_state()
    scaler = trainer.accelerator.scaler

    def save(state):
        keeper.save(
            step=state.global_step,
            epoch=state.epoch,
            done=state.global_step >= state.max_steps,
            tokens=trainer._total_train_tokens,
            scaler=scaler and scaler.state_dict(),
        )

    class Keeping(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **_):
            keeper.put(trained(trainer) | {"epoch_began": epoch_began}, optimizer)
            if facts := keeper.facts:
                compat.set_step(lr_scheduler, optimizer, facts["step"])
                trainer._total_train_tokens = facts["tokens"]
                if scaler:
                    scaler.load_state_dict(facts["scaler"])

        def on_epoch_begin(self, args, state, control, **_):
            if state.epoch and state.epoch % 1:  # gone on with on the way
                torch.set_rng_state(epoch_began)
            else:
                epoch_began.copy_(torch.get_rng_state())

        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in (logs or {}) and keeper.due():
                save(state)

        def on_train_end(self, args, state, control, **_):
            save(state)

    return Keeping()


def stop_when_not_finite():
    """A transformers callback that raises LabError at the first loss or gradient that is no number.

    A loss can look fine while every gradient is NaN, so gradients are asked before each step. Under
    float16 a step that overflows now and then is no alarm: its scaler skips the step and halves the
    scale. One that never finds a scale is.
    """
    from transformers import TrainerCallback

    class Finite(TrainerCallback):
        skipped = 0  # steps in a row

        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
            norm = torch.stack(norms).sum().item()
            self.skipped = 0 if norm < float("inf") else self.skipped + 1
            if self.skipped > (HALVINGS if args.fp16 else 0):
                check_finite(state.global_step + 1, norm)

        def on_log(self, args, state, control, logs=None, **_):
            for key in ("loss",) if args.fp16 else ("loss", "grad_norm"):
                check_finite(state.global_step, float((logs or {}).get(key, 0.0)))

        def on_train_end(self, args, state, control, **_):
            if self.skipped and self.skipped == state.global_step:
                check_finite(state.global_step, float("nan"))

    return Finite()


@compat.quiet()
def evaluate(trainer, rows) -> dict:
    """TRL's metrics on held-out `rows`, their "eval_" taken off; {} without rows. LabError for a
    loss that is no number.
    """
    from datasets import Dataset

    if not rows:
        return {}
    with enough_memory():
        found = trainer.evaluate(Dataset.from_list(rows))
    check_finite(trainer.state.global_step, found.get("eval_loss", 0.0))
    return {key.removeprefix("eval_"): value for key, value in found.items()}


# --- demonstrations ------------------------------------------------------------------------------


def demo_rows(tokenizer, demos, cfg) -> list[dict]:
    """{"input_ids", "labels", "length"} per demonstration; labels are −100 (no loss) on the
    prompt.
    """
    found = []
    for demo in demos:
        ids, response_mask = chat.encode(
            tokenizer, demo.prompt, demo.response, cfg.max_prompt_tokens, cfg.max_response_tokens
        )
        labels = [token if response else -100 for token, response in zip(ids, response_mask)]
        found.append({"input_ids": ids, "labels": labels, "length": len(ids)})
    return found


def response_loss(passes, input_ids, attention_mask, labels):
    """(loss of every response token (N,), whether it was the likeliest (N,)) under one adapter's
    `passes` (models.forward). All three (B, T), pads at the end; labels are −100 where nothing is
    to be learned.
    """
    losses, right = [], []
    for rows, width in like_length(attention_mask, models.LIKE_LENGTH):
        ids, mask = input_ids[rows, :width], attention_mask[rows, :width]
        response_mask = (labels[rows, :width] != -100).long()
        logits, _ = passes.logits_at(ids, mask, predicts(response_mask))
        said = ids[response_mask.bool()]  # each is predicted one place before
        losses.append(F.cross_entropy(logits.float(), said, reduction="none"))
        right.append(logits.argmax(-1) == said)
    return torch.cat(losses), torch.cat(right)


def demo_trainer():
    """TRL's SFTTrainer with `response_loss` in place of its own pass over the peft model: the same
    loss, twice as fast for a small model.
    """
    from trl import SFTTrainer

    class Trainer(SFTTrainer):
        passes = None

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            # Made at the first call: before, the trainer may still move the weights.
            self.passes = self.passes or models.forward(self.model, "default")
            self.passes.refresh()  # each call comes after a step
            names = ("input_ids", "attention_mask", "labels")
            read = lambda: response_loss(self.passes, *(inputs[name] for name in names))
            losses, right = compat.through(model, self.model, read)
            found = self._metrics["train" if model.training else "eval"]
            hits, tokens = ranks.total(torch.stack([right.sum(), torch.ones_like(right).sum()]))
            found["mean_token_accuracy"].append((hits / tokens).item())
            if num_items_in_batch is None:
                loss = losses.mean()
            else:  # the tokens of all processes, of which gradients will be the mean
                loss = losses.sum() * ranks.world() / num_items_in_batch
            return (loss, None) if return_outputs else loss

    return Trainer
