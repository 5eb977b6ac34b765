"""Stage 3 from thumbs: Kahneman-Tversky optimisation (arXiv 2402.01306). One answer, up or down; no
pairs.

    r = log π(y|x)/π_ref(y|x)        z₀ = the mean of r over prompts with another prompt's answer
    loss = λ_D (1 − σ(β (r − z₀)))   for a thumb up                                       (eq. 7)
           λ_U (1 − σ(β (z₀ − r)))   for a thumb down

z₀, never below 0, is the reference point: what is liked should gain on what the policy says anyway.
The reference π_ref is the SFT policy, frozen: TRL keeps it as the adapter "ref", its own copy of
the adapter "default" it is given; without an adapter at the start it would take the bare base.
"""

import random
import sys

import torch

from labkit import LabError, compat, data, models, ranks, rollout, runs
from labkit.data import chat
from labkit.maths import losses
from labkit.maths.logprobs import like_length, masked_sum, predicts, scattered_logprobs, shift_mask
from labkit.stages import pairs as preferences
from labkit.stages import trl

HELD_OUT = 0.1
BALANCED = (1.0, 1.5)  # where λ_D n_D / (λ_U n_U) should be (eq. 8)


def log_pi(passes, ids, attention_mask, completion_mask):
    """log π(answer | prompt) under one adapter's `passes` (models.forward), summed over the answer:
    (B,). All three (B, T), pads at the end.
    """
    sums = torch.zeros(len(ids), device=ids.device)
    for rows, width in like_length(attention_mask, models.LIKE_LENGTH):
        part, mask, said = (x[rows, :width] for x in (ids, attention_mask, completion_mask))
        logits, _ = passes.logits_at(part, mask, predicts(said))
        found = scattered_logprobs(logits.float(), part, said)
        sums = sums.index_add(0, rows, masked_sum(found, shift_mask(said), dim=1))
    return sums


def fast_trainer():
    """TRL's KTOTrainer with `log_pi` and `losses.kto_loss` in place of its own four passes over the
    peft model: the same loss, more than twice as fast for a small model.
    """
    from trl import KTOTrainer

    class Trainer(compat.takes_ids(KTOTrainer)):
        passes = None

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            # Made at the first call: before, the trainer may still move the weights.
            names = ("default", "ref")
            self.passes = self.passes or [models.forward(self.model, name) for name in names]
            policy, reference = self.passes
            policy.refresh()  # each call comes after a step
            keys, up = ("input_ids", "attention_mask", "completion_mask"), inputs["label"]
            answer, other = ([inputs[kind + key] for key in keys] for kind in ("", "KL_"))
            with torch.no_grad():
                z = (log_pi(policy, *other) - log_pi(reference, *other)).mean()
                z = ranks.total(z) / ranks.world()
                theirs = log_pi(reference, *answer)
            ours = compat.through(model, self.model, lambda: log_pi(policy, *answer))
            weights = self.desirable_weight, self.undesirable_weight
            loss, seen = losses.kto_loss(ours, theirs, up, self.beta, z, *weights)
            found = self._metrics["train" if model.training else "eval"]
            counts = torch.stack([up.sum(), (~up).sum()])
            rewards = torch.stack([seen["desirable_reward"], seen["undesirable_reward"]])
            rewards = ranks.total(rewards * counts) / ranks.total(counts)
            chosen, rejected = rewards.tolist()  # NaN where a batch has no such answer
            means = {"chosen": chosen, "rejected": rejected, "margins": chosen - rejected}
            found["kl"].append(seen["kl"].item())
            for name, value in means.items():
                if value == value:
                    found[f"rewards/{name}"].append(value)
            return (loss, None) if return_outputs else loss

    return Trainer


def train(cfg, run):
    """Train the SFT adapter further on the thumbs cfg.data (config.Kto); leaves adapter/ and
    the held-out loss, margin (implicit reward β r of liked answers less that of the others) and z₀
    ("kl", in nats) in `run`.
    """
    from trl import KTOConfig

    policy = runs.policy(cfg.policy, models.base_id(cfg.base))
    model, tokenizer = models.load_base(models.base_of(policy, cfg.base))
    models.check_context(model, cfg)
    model = models.load_adapter(model, policy, "default", trainable=True)
    models.note_start(run, model, policy)
    thumbs = load_thumbs(cfg, model, tokenizer, run)
    run.note_data(thumbs)
    training, held_out, dropped = split_thumbs(tokenizer, thumbs, cfg)
    up = check_sides(training, cfg)

    trainer = trl.train(
        fast_trainer(),
        KTOConfig,
        model,
        tokenizer,
        beside_another(training),
        cfg,
        run,
        beta=cfg.beta,
        desirable_weight=cfg.desirable_weight,
        undesirable_weight=cfg.undesirable_weight,
        train_sampling_strategy="sequential",  # each row has its neighbour's answer beside it
        disable_dropout=False,
    )
    models.save_adapter(model, run, "default")
    measured = trl.evaluate(trainer, beside_another(held_out))
    names = {"margin": "rewards/margins", "loss": "loss", "kl": "kl"}
    run.finish(
        thumbs=len(training),
        up=up,
        dropped=dropped,
        held_out=len(held_out),
        **{name: measured[key] for name, key in names.items() if key in measured},
    )


def load_thumbs(cfg, model, tokenizer, run) -> list:
    """Thumbs to learn from: the learner's file or Hub id, or for "atlas" the answers of the model's
    active adapter, each with a simulated rater's thumb; `run` keeps those until it is whole.
    """
    if cfg.data != "atlas":
        fits = chat.fits(tokenizer, cfg.max_prompt_tokens)
        return data.load_ratings(cfg.data, cfg.examples, fits)
    make = lambda: rollout.thumbs(model, tokenizer, cfg, cfg.examples)
    return preferences.kept(run, make, data.load_ratings)


def split_thumbs(tokenizer, thumbs, cfg) -> tuple[list[dict], list[dict], int]:
    """(training rows in random order, held-out rows, how many thumbs were dropped); no prompt is on
    both sides. A row: {"prompt_ids", "completion_ids", "label": up?, "length"}.

    Dropped are thumbs whose prompt is longer than cfg.max_prompt_tokens, and empty answers, whose
    only token would be the end.
    """
    fitting = preferences.with_short_prompts(tokenizer, thumbs, cfg, "thumbs")
    said = [thumb for thumb in fitting if thumb.response.strip()]
    training, held_out = data.split(said, HELD_OUT)
    random.Random(cfg.seed).shuffle(training)
    parts = ([row(tokenizer, thumb, cfg) for thumb in part] for part in (training, held_out))
    return *parts, len(thumbs) - len(said)


def row(tokenizer, thumb, cfg) -> dict:
    """A thumb as token ids, an answer cut to cfg.max_response_tokens."""
    prompt_ids = chat.encode_prompt(tokenizer, thumb.prompt, cfg.max_prompt_tokens)
    completion_ids = chat.encode_response(tokenizer, thumb.response, cfg.max_response_tokens)
    length = len(prompt_ids) + len(completion_ids)
    sides = {"prompt_ids": prompt_ids, "completion_ids": completion_ids}
    return {**sides, "label": thumb.label, "length": length}


def beside_another(rows: list[dict]) -> list[dict]:
    """The rows, each with the answer of the row before it as "KL_completion_ids": the mismatched
    pairs (x, y') that z₀ is estimated on. As in the paper (section 4) the y' of a batch are its own
    answers, one of them taken from the batch before, so that no row can be left alone.
    """
    return [
        one | {"KL_completion_ids": before["completion_ids"]}
        for before, one in zip([*rows[-1:], *rows], rows)
    ]


def check_sides(rows: list[dict], cfg) -> int:
    """How many thumbs are up. LabError where all are alike; where the weights leave the two sides
    unequal (eq. 8), standard error says which one to set.
    """
    up = sum(one["label"] for one in rows)
    down = len(rows) - up
    if not (up and down):
        raise LabError(
            f"All {len(rows):,} thumbs to learn from are {'up' if up else 'down'}, but KTO needs"
            " both: liked answers alone say nothing of what to leave. Give thumbs of the other"
            " side too."
        )
    low, high = BALANCED
    one_up, one_down = cfg.desirable_weight * up, cfg.undesirable_weight * down
    if not low <= one_up / one_down <= high:
        name, unit = ("desirable_weight", one_down / up)
        if one_up > one_down:
            name, unit = ("undesirable_weight", one_up / down / high)
        print(
            f"{up:,} thumbs up and {down:,} down: desirable_weight·up / (undesirable_weight·down)"
            f" is {one_up / one_down:.2g}, but should be between {low:g} and {high:g} (arXiv"
            f" 2402.01306, eq. 8). Set {name} between {unit:.3g} and {unit * high:.3g}.",
            file=sys.stderr,
        )
    return up
