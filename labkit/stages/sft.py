"""Stage 2, supervised fine-tuning (督導式學習): the base learns to answer, from demonstrations.

Step 1 of arXiv 2203.02155. The loss is the base's own, cross-entropy of the next token, but only
on the answer: learning to ask the question is not the aim.

    loss = − mean over response tokens of log π(token | prompt, tokens before)
"""

from dataclasses import replace

from labkit import atlas, data, models, runs
from labkit.data import chat
from labkit.stages import trl

HELD_OUT = 0.05


def train(cfg, run):
    """Train a LoRA adapter on the demonstrations cfg.data (config.Sft); leaves adapter/ and the
    held-out loss in `run`.
    """
    from trl import SFTConfig

    policy = runs.policy(cfg.policy) if cfg.policy else None
    model, tokenizer = models.load_base(models.base_of(policy, cfg.base) if policy else cfg.base)
    models.check_context(model, cfg)
    fits = chat.fits(tokenizer, cfg.max_prompt_tokens)
    demos = atlas.load_demos(cfg.data, cfg.examples, fits)
    run.note_data(demos)
    asked = chat.endings(tokenizer, [demo.prompt for demo in demos], cfg.max_prompt_tokens)
    demos = [replace(demo, prompt=prompt) for demo, prompt in zip(demos, asked)]
    models.note_start(run, model, policy)
    training, held_out = data.split(demos, HELD_OUT, cfg.seed)
    if policy:
        model = models.load_adapter(model, policy, "default", trainable=True)
    else:
        model = models.add_lora(model, cfg)
    trainer = trl.train(
        trl.demo_trainer(),
        SFTConfig,
        model,
        tokenizer,
        trl.demo_rows(tokenizer, training, cfg),
        cfg,
        run,
    )
    models.save_adapter(model, run, "default")
    measured = trl.evaluate(trainer, trl.demo_rows(tokenizer, held_out, cfg))
    run.finish(
        demonstrations=len(training),
        **{key: measured[key] for key in ("loss", "mean_token_accuracy") if key in measured},
    )
