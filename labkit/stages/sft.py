"""Stage 2, supervised fine-tuning (督導式學習): the base learns to answer, from demonstrations.

Step 1 of arXiv 2203.02155. The loss is the base's own, cross-entropy of the next token, but only
on the answer: learning to ask the question is not the aim.

    loss = − mean over response tokens of log π(token | prompt, tokens before)
"""

from labkit import atlas, data, models, runs
from labkit.data import chat
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


def train(cfg, run):
    """Train a LoRA adapter on the demonstrations cfg.data (config.Sft); leaves adapter/ and the
    held-out loss in `run`.
    """
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = models.load_base(cfg.base)
    models.check_context(model, cfg)
    demos = atlas.load_demos(cfg.data, cfg.examples)
    run.info["data_hash"] = runs.digest(map(str, demos))
    training, held_out = data.split(demos, HELD_OUT, cfg.seed)
    model = models.add_lora(model, cfg)
    trainer = trl.train(
        SFTTrainer, SFTConfig, model, tokenizer, rows(tokenizer, training, cfg), cfg, run
    )
    models.save_adapter(model, run, "default")
    measured = trl.evaluate(trainer, rows(tokenizer, held_out, cfg))
    run.finish(
        demonstrations=len(training),
        **{key: measured[key] for key in ("loss", "mean_token_accuracy") if key in measured},
    )
