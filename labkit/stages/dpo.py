"""Stage 3 without reward model and without sampling: direct preference optimisation (arXiv
2305.18290).

    loss = − log σ(β · [log π(chosen)/π_ref(chosen) − log π(rejected)/π_ref(rejected)])   (eq. 7)

β · log π/π_ref is the implicit reward. The reference π_ref is the SFT policy, frozen. TRL keeps it
as the adapter "ref", its own copy of the adapter "default" it is given, on the same 4-bit base;
without an adapter at the start it would take the bare base instead.
"""

from labkit import compat, models, runs
from labkit.stages import pairs as preferences
from labkit.stages import trl

HELD_OUT = 0.1


def train(cfg, run):
    """Train the SFT adapter further on the pairs cfg.data (config.Dpo); leaves adapter/ and the
    held-out accuracy in `run`.
    """
    from trl import DPOConfig, DPOTrainer

    policy = runs.policy(cfg.policy, models.base_id(cfg.base))
    model, tokenizer = models.load_base(models.base_of(policy, cfg.base))
    models.check_context(model, cfg)
    model = models.load_adapter(model, policy, "default", trainable=True)
    models.note_start(run, model, policy)
    pairs, counted = preferences.load_preferences(cfg, model, tokenizer, policy, run)
    run.note_data(pairs)
    training, held_out, dropped = preferences.split_pairs(tokenizer, pairs, cfg, HELD_OUT)

    trainer = trl.train(
        compat.takes_ids(DPOTrainer),
        DPOConfig,
        model,
        tokenizer,
        training,
        cfg,
        run,
        beta=cfg.beta,
        disable_dropout=False,
    )
    models.save_adapter(model, run, "default")
    measured = trl.evaluate(trainer, held_out)
    names = {"accuracy": "rewards/accuracies", "margin": "rewards/margins", "loss": "loss"}
    run.finish(
        pairs=len(training),
        dropped=dropped,
        held_out=len(held_out),
        **counted,
        **{name: measured[key] for name, key in names.items() if key in measured},
    )
