"""AI feedback (RLAIF, arXiv 2309.00267): a model learns to judge, then labels in a rater's place.

    loss = − log P("A" or "B", whichever the rater chose | prompt, both answers, the question)

Seed judgements make an adapter on the base a judge (rollout/judging.py). Then the policy answers
prompts twice, and the judge's probability of either answer, both orders averaged, is a soft label.
The reward stage and DPO learn from pairs.jsonl as they do from a rater's pairs.
"""

from dataclasses import replace

from labkit import LabError, data, models, ranks, rollout, runs
from labkit.rollout import judging
from labkit.stages import pairs as preferences
from labkit.stages import trl

HELD_OUT = 0.1


def train(cfg, run):
    """Train a judge on the seed judgements cfg.data (config.AiFeedback) and let it label.

    Leaves the judge in adapter/, its labels in pairs.jsonl, and how it judges held-out seed
    judgements (judging.examined).
    """
    from trl import SFTConfig

    # Without a policy there is a judge of somebody else's answers, on any base.
    asks = cfg.labels or cfg.data == "atlas"
    policy = runs.policy(cfg.policy, models.base_id(cfg.base)) if asks else None
    model, tokenizer = models.load_base(models.base_of(policy, cfg.base) if policy else cfg.base)
    models.check_context(model, cfg)
    if policy:
        model = models.load_adapter(model, policy, "policy")
    models.note_start(run, model, policy)
    pairs, _ = preferences.load_preferences(cfg, model, tokenizer, policy, run)
    run.note_data(pairs)
    room = judging.room(model, cfg)
    training, held_out = data.split(fitting(tokenizer, pairs, cfg, room), HELD_OUT)

    model = models.add_lora(model, cfg)
    demos = judging.pair_demos(training, cfg.question)
    rows = trl.demo_rows(tokenizer, demos, replace(cfg, max_prompt_tokens=room))
    trl.train(trl.demo_trainer(), SFTConfig, model, tokenizer, rows, cfg, run)
    models.save_adapter(model, run, "default")
    judge = judging.Judge(model, tokenizer, "default", cfg.question)
    found = judging.examined(judge, held_out)
    labelled = []
    if cfg.labels:
        models.use(model, "policy")
        asked = None if cfg.data == "atlas" else sorted({pair.prompt for pair in pairs})
        label = lambda *shown: judge.labels(*shown, clamp=cfg.clamp)
        labelling = lambda: rollout.preference_pairs(
            model, tokenizer, cfg, cfg.labels, label=label, prompts=asked
        )
        labelled = ranks.first(labelling)
        if ranks.main():
            data.save_jsonl(labelled, run.path / preferences.PAIRS)
    dropped = len(pairs) - len(training) - len(held_out)
    run.finish(judgements=len(training), dropped=dropped, **found, labels=len(labelled))


def fitting(tokenizer, pairs, cfg, room: int) -> list:
    """The pairs whose prompt and answers together are short enough to be judged; LabError where
    there are none.
    """
    found = [pair for pair in pairs if judging.fits(tokenizer, pair, cfg.question, room)]
    if not found:
        raise LabError(
            f"None of the {len(pairs)} pairs can be judged: with both answers and the question they"
            f" have more than {room} tokens. Give shorter ones, or take a base that reads more."
        )
    return found
