"""`bench gpu`: all that is to be checked and timed on a CUDA card, in one command.

    python -m labkit bench gpu --json > gpu.json

A part that fails says so in its place in the report, and the others still run: time on a card is
scarce.
"""

import math
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

from labkit import LabError, atlas, bench, config, models, rollout, runs
from labkit.bench import ppo as bench_ppo
from labkit.bench.measure import machine, say
from labkit.data import chat
from labkit.maths.logprobs import position_ids, response_logprobs, shift_mask

BASE = "HuggingFaceTB/SmolLM2-135M"
LIMIT = 1e-4  # float32: a sampled token's log-probability against the model's own forward
SIZES = {
    "batch_size": 128,
    "minibatch_size": 32,
    "updates": 4,
    "max_prompt_tokens": 64,
    "max_response_tokens": 128,
}


def gpu(
    base: str = BASE,
    peer: str = "",
    device: str = "cuda",
    sizes: dict = SIZES,
    batches=bench.BATCHES,
    repeats: int = 5,
    pretrain_steps: int = bench.STEPS,
) -> dict:
    """Correctness, sampling, PPO and pre-training on this card; peer is a folder with TRL 1.12, and
    without one PPO is timed alone. sizes: settings of PPO.

    Works in a runs folder of its own, with an untrained SFT and reward adapter on `base`: the
    arithmetic of trained ones, scores without meaning, so no seconds to a reward. device="cpu"
    tries the same code without a card. Raises LabError where `device` is not what labkit uses.

    Returns {"correctness": {"float32_difference", "nf4_difference": max |log-probability of the
    sampler − of the model's forward|, "first_ratio_error", "finite", "holds"}, "rollout":
    bench.rollout's report, "ppo": bench_ppo's, or of ours alone samples_per_second,
    seconds_per_update, peak_bytes, both with memory_by_part, "pretrain": bench.pretrain's, "card",
    "versions", …}; a part that failed is {"error": why}.
    """
    if runs.device().type != device:
        raise LabError(
            "There is no CUDA card here (torch.cuda.is_available() is false), and this measures"
            " one. On a CPU use: python -m labkit bench rollout, and bench ppo."
        )
    peer = str(bench_ppo.peer_folder(peer)) if peer else ""
    report = {"base": models.resolve_base(base), "card": card(), **machine()}

    def part(name: str, work, *args):
        try:
            report[name] = work(*args)
        except Exception as error:  # whatever it is: the other parts are still to be had
            report[name] = {"error": f"{type(error).__name__}: {error}"}
        say(f"{name}: {'failed, ' + report[name]['error'] if 'error' in report[name] else 'done'}")

    with tempfile.TemporaryDirectory(prefix="labkit-gpu-") as scratch:
        with patch.dict(os.environ, LABKIT_RUNS=f"{scratch}/runs"):
            cfg = config.change(config.small().ppo, base=report["base"], **sizes)
            model, tokenizer, prompts = untrained(cfg)
            cfg = config.change(cfg, prompts=bench_ppo.write_prompts(prompts, Path(scratch)))
            tokens = cfg.max_response_tokens
            part("ppo", reinforced, cfg, peer, repeats, Path(scratch))
            part("correctness", correct, cfg.base, prompts[:16], tokens, report["ppo"])
            part("rollout", bench.rollout, model, tokenizer, prompts, batches, tokens, repeats)
            if pretrain_steps:
                small = config.change(config.tiny().pretrain, steps=pretrain_steps)
                part("pretrain", bench.pretrain, small)
    return report


def card() -> dict | None:
    """The card's name, memory in bytes, compute capability and CUDA version; None without one."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    capability = f"{found.major}.{found.minor}"
    sizes = {"bytes": found.total_memory, "capability": capability, "cuda": torch.version.cuda}
    return {"name": found.name, **sizes}


def untrained(cfg):
    """Leave an SFT run and a reward run with fresh adapters on cfg.base; returns (the SFT policy,
    its tokenizer, prompts for two batches, of about cfg.max_prompt_tokens each).
    """
    for stage, kind, name in (("reward", config.Reward, "reward"), ("sft", config.Sft, "policy")):
        with runs.start(stage, kind(base=cfg.base)) as run:
            model, tokenizer = models.load_base(cfg.base)
            model = shaken(models.add_lora(model, run.config, name)).eval()
            prompts, head = long_prompts(tokenizer, 2 * cfg.batch_size, cfg.max_prompt_tokens), None
            if stage == "reward":
                head = models.Head(model.config.hidden_size).to(model.device)
                rows = [chat.encode_prompt(tokenizer, one) for one in prompts[:64]]
                ids, mask = (x.to(model.device) for x in chat.pad(rows, tokenizer.pad_token_id))
                with torch.no_grad():
                    head.normalise(models.rewards(model, head, ids, mask))
            models.save_adapter(model, run, name, head)
    rollout.sample(model, tokenizer, prompts[:2], 4)  # the first call compiles and loads kernels
    return model, tokenizer, prompts


def shaken(model):
    """Adapters as if trained a little: a fresh one's B is zero, which would hide a merge that goes
    wrong.
    """
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            weight.data.normal_(std=0.01)
    return model


def long_prompts(tokenizer, n: int, tokens: int) -> list[str]:
    """n prompts of at most `tokens` tokens with their frame, and nearly as many: questions of the
    atlas one after another.
    """
    found, text = [], ""
    for question in atlas.prompts("train", 0):
        longer = f"{text} {question}".strip()
        if len(chat.encode_prompt(tokenizer, longer)) <= tokens:
            text = longer
        elif text:
            found, text = [*found, text], ""
    if not found:
        raise LabError(
            f"No question fits into {tokens} tokens of this tokenizer. Allow longer prompts."
        )
    return [found[i % len(found)] for i in range(n)]


def reinforced(cfg, peer: str, repeats: int, scratch: Path) -> dict:
    """PPO against the peer, or alone."""
    if peer:
        report = bench_ppo.compare(cfg, peer, repeats, every=0)
        ours = report["ours"]["repeats"][-1]
        return report | {key: ours[key] for key in ("updates", "memory_by_part")}
    cfg = config.change(cfg, target_kl=0.0, checkpoint_every=0)
    ours = bench_ppo.Bench(cfg, scratch, 0).run(None, cfg.seed, {})
    keys = ("samples_per_second", "seconds_per_update", "peak_bytes", "updates", "memory_by_part")
    return {key: ours[key] for key in keys}


def correct(base: str, prompts: list[str], tokens: int, ppo: dict) -> dict:
    """The sampler's log-probabilities beside the model's own forward, and whether PPO's first
    updates were sound.
    """
    found = {}
    for kind, quantize in (("float32", False), ("nf4", True)):
        model, tokenizer = models.load_base(base, quantize)
        model = shaken(models.add_lora(model, config.Sft(), "policy")).eval()
        torch.manual_seed(0)
        sampled, largest = rollout.sample(model, tokenizer, prompts, tokens), None
        if sampled.logprobs is not None:
            ids, mask = sampled.input_ids, sampled.attention_mask
            with torch.no_grad():
                logits = model(ids, attention_mask=mask, position_ids=position_ids(mask)).logits
            far = (sampled.logprobs - response_logprobs(logits, ids)).abs()
            largest = far[shift_mask(sampled.response_mask).bool()].max().item()
        found[f"{kind}_difference"] = largest
    updates = ppo.get("updates", [])
    found["first_ratio_error"] = max((one["first_ratio_error"] for one in updates), default=None)
    found["finite"] = bool(updates) and all(
        math.isfinite(x) for one in updates for x in one.values()
    )
    within = found["float32_difference"] is None or found["float32_difference"] <= LIMIT
    return found | {"holds": within and found["finite"]}
