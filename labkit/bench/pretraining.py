"""`bench pretrain`: our pre-training beside plain AdamW and the machine's matrix-product rate."""

import random
from dataclasses import asdict

import torch

from labkit import models, runs
from labkit.bench.measure import clock, machine, matmul_rate, reached, say, warn_if_busy
from labkit.config import change
from labkit.stages import pretrain as stage

STEPS = 120  # of the peer; the whole comparison then takes some three minutes on two cores
RATES = (1e-3, 3e-3, 1e-2)  # learning rates that plain AdamW is given; its best one counts
SHARES = (0.5, 0.75, 1.0)  # of the peer's steps; the first that gets ours to its loss counts


def pretrain(cfg, rates=RATES) -> dict:
    """Our pre-training against the machine's matrix-product rate and against a peer, on the text
    cfg.corpus (config.Pretrain).

    The peer is what one writes first: the same transformers Llama, its own loss (`model(input_ids,
    labels=…).loss`) and AdamW with default betas, at the best of `rates`. Text, rows, their order,
    first weights, warm-up, schedule and gradient clipping are the same. The loss to reach is the
    peer's best validation loss after cfg.steps steps; ours gets half of these steps, then three
    quarters, then all, each time with a whole schedule, until it reaches that loss. Taking the
    validation loss is not timed.

    fraction_of_matmul_rate: 6 · parameters · tokens per second (arXiv 2001.08361, 2.1) over the
    fp32 rate of 2048² products, measured before and after. Ratios are peer / ours; null where ours
    never got there.
    """
    tokenizer, rows, validation, _ = stage.prepare(cfg)
    before, peers = matmul_rate(), {}

    def compete(who, steps, loss_of, optimisers):
        torch.manual_seed(cfg.seed)
        model = models.new_base(cfg, tokenizer).to(runs.device()).train()
        some = change(cfg, steps=steps)
        curve = race(model, loss_of, optimisers(model), rows, validation, some)
        end = curve[-1]
        say(f"{who}: validation loss {end['loss']:.3f} after {end['seconds']:.1f} s")
        return curve, sum(p.numel() for p in model.parameters())

    for rate in rates:
        adamw = lambda model, rate=rate: [torch.optim.AdamW(model.parameters(), lr=rate)]
        curve, _ = compete(f"AdamW at {rate:g}", cfg.steps, plain_loss, adamw)
        peers[rate] = curve[-1]
    best = min(rates, key=lambda rate: peers[rate]["loss"])
    theirs, ours = peers[best], lambda model: stage.optimisers(model, cfg)
    for steps in dict.fromkeys(max(1, round(share * cfg.steps)) for share in SHARES):
        curve, parameters = compete(f"ours in {steps} steps", steps, stage.next_token_loss, ours)
        if curve[-1]["loss"] <= theirs["loss"]:
            break
    rates_now = [before, matmul_rate()]
    warn_if_busy(rates_now)
    mine, speed = reached(curve, theirs["loss"], "loss"), curve[-1]["tokens"] / curve[-1]["seconds"]
    return {
        "tokens_per_second": speed,
        "fraction_of_matmul_rate": 6 * parameters * speed / (sum(rates_now) / 2),
        "ratio_seconds_to_loss": theirs["seconds"] / mine["seconds"] if mine else None,
        "ratio_tokens_to_loss": theirs["tokens"] / mine["tokens"] if mine else None,
        "validation_loss": theirs["loss"],
        "ours": {
            "steps": steps,
            "seconds_to_loss": mine and mine["seconds"],
            "tokens_to_loss": mine and mine["tokens"],
            "final_loss": curve[-1]["loss"],
        },
        "peer": {
            "learning_rate": best,
            "seconds_to_loss": theirs["seconds"],
            "tokens_to_loss": theirs["tokens"],
            "tokens_per_second": theirs["tokens"] / theirs["seconds"],
            "final_loss_by_learning_rate": {f"{r:g}": end["loss"] for r, end in peers.items()},
        },
        "settings": asdict(cfg),
        "parameters": parameters,
        "matmul_flop_per_second": rates_now,
        **machine(),
    }


def plain_loss(model, rows):
    """The mean next-token loss as transformers computes it."""
    return model(input_ids=rows, labels=rows).loss


def race(model, loss_of, optimisers, rows, validation, cfg) -> list[dict]:
    """Train for cfg.steps and return the curve: {"seconds", "tokens", "loss"} with the validation
    loss at ten places and at the end.
    """
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(opt, lambda step: stage.schedule(step, cfg))
        for opt in optimisers
    ]
    loss_of(model, rows[: cfg.batch_size]).backward()  # the first pass allocates: not timed
    model.zero_grad()
    order, curve, seconds = random.Random(cfg.seed), [], 0.0
    for step in range(cfg.steps):
        started = clock()
        loss_of(model, rows[order.sample(range(len(rows)), cfg.batch_size)]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for one in (*optimisers, *schedules):
            one.step()
        model.zero_grad()
        seconds += clock() - started
        if (step + 1) % max(1, cfg.steps // 10) == 0 or step == cfg.steps - 1:
            tokens = (step + 1) * cfg.batch_size * cfg.sequence_length
            loss = stage.validation_loss(model, validation, cfg.batch_size)
            curve.append({"seconds": seconds, "tokens": tokens, "loss": loss})
    return curve
