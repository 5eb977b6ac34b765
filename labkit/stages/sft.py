"""Stage 2, supervised fine-tuning (督導式學習): the base learns to answer, from demonstrations.

Step 1 of arXiv 2203.02155. The loss is the base's own, cross-entropy of the next token, but only
on the answer: learning to ask the question is not the aim.

    loss = − mean over response tokens of log π(token | prompt, tokens before)
"""

import torch
import torch.nn.functional as F

from labkit import atlas, data, models, runs
from labkit.data import chat
from labkit.maths.logprobs import like_length, predicts
from labkit.stages import trl

HELD_OUT = 0.05


def rows(tokenizer, demos, cfg) -> list[dict]:
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


def fast_trainer():
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
            losses, right = response_loss(self.passes, *(inputs[name] for name in names))
            found = self._metrics["train" if model.training else "eval"]
            found["mean_token_accuracy"].append(right.float().mean().item())
            loss = losses.sum() / (
                len(losses) if num_items_in_batch is None else num_items_in_batch
            )
            return (loss, None) if return_outputs else loss

    return Trainer


def train(cfg, run):
    """Train a LoRA adapter on the demonstrations cfg.data (config.Sft); leaves adapter/ and the
    held-out loss in `run`.
    """
    from trl import SFTConfig

    policy = runs.policy(cfg.policy) if cfg.policy else None
    model, tokenizer = models.load_base(models.base_of(policy, cfg.base) if policy else cfg.base)
    models.check_context(model, cfg)
    demos = atlas.load_demos(cfg.data, cfg.examples)
    run.info["data_hash"] = runs.digest(map(str, demos))
    training, held_out = data.split(demos, HELD_OUT, cfg.seed)
    if policy:
        run.info["policy"] = models.adapter_id(policy)
        model = models.load_adapter(model, policy, "default", trainable=True)
    else:
        model = models.add_lora(model, cfg)
    trainer = trl.train(
        fast_trainer(), SFTConfig, model, tokenizer, rows(tokenizer, training, cfg), cfg, run
    )
    models.save_adapter(model, run, "default")
    measured = trl.evaluate(trainer, rows(tokenizer, held_out, cfg))
    run.finish(
        demonstrations=len(training),
        **{key: measured[key] for key in ("loss", "mean_token_accuracy") if key in measured},
    )
