"""All that is to be checked and timed on a CUDA card, in one command: python -m labkit bench gpu
--json > gpu.json
 A part that fails says so in its place in the report, and the others still run: time on a card is
scarce.
"""

import json
import math
import os
import sys
import tempfile
from pathlib import Path

from labkit import LabError, bench, config, runs
from labkit.bench import ppo as bench_ppo

BASE = "HuggingFaceTB/SmolLM2-135M"
LIMIT = (
    1e-4  # how far a sampled token's log-probability may be from the training forward's, in float32
)


def gpu(
    base: str = BASE,
    peer: str = "",
    device: str = "cuda",
    samples: int = 128,
    prompt_tokens: int = 64,
    response_tokens: int = 128,
    batches=bench.BATCHES,
    updates: int = 4,
    repeats: int = 5,
    pretrain_steps: int = bench.STEPS,
) -> dict:
    """Correctness, sampling, PPO and pre-training on this card; peer is a folder with TRL 1.12, and
    without one PPO is timed alone.

    Works in a runs folder of its own, with an untrained SFT and reward adapter on `base`: the
    arithmetic of trained ones, scores without meaning, so no seconds to a reward. device="cpu"
    tries the same code without a card. Raises LabError where `device` is not what labkit uses.

    Returns {"correctness": {"float32_difference", "nf4_difference": max |log-probability of the
    sampler − of the training forward|, "first_ratio_error", "finite", "holds"}, "rollout":
    bench.rollout's report, "ppo": bench_ppo's, or of ours alone samples_per_second,
    seconds_per_update, peak_bytes, both with share_of_time and memory_by_part, "pretrain":
    bench.pretrain's, "card", "versions", …}; a part that failed is {"error": why}.
    """
    import torch

    from labkit import models

    if runs.device().type != device:
        raise LabError(
            "There is no CUDA card here (torch.cuda.is_available() is false), and this measures"
            " one. On a CPU use: python -m labkit bench rollout, and bench ppo."
        )
    if peer:
        peer = str(bench_ppo.peer_folder(peer))
    base, before = models.resolve_base(base), os.environ.get("LABKIT_RUNS")
    report = {"base": base, "card": card(), "torch": torch.__version__, "versions": runs.versions()}
    with tempfile.TemporaryDirectory(prefix="labkit-gpu-") as scratch:
        os.environ["LABKIT_RUNS"] = str(Path(scratch, "runs"))
        try:
            model, tokenizer, prompts = untrained(base, 2 * samples, prompt_tokens, response_tokens)
            file = Path(scratch, "prompts.jsonl")
            file.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts), "utf8")
            cfg = config.change(
                config.small().ppo,
                base=base,
                prompts=str(file),
                batch_size=samples,
                minibatch_size=min(32, samples),
                updates=updates,
                max_prompt_tokens=prompt_tokens,
                max_response_tokens=response_tokens,
            )
            part(report, "ppo", lambda: reinforced(cfg, peer, repeats, Path(scratch)))
            part(
                report,
                "correctness",
                lambda: correct(base, prompts[:16], response_tokens, report["ppo"]),
            )
            part(
                report,
                "rollout",
                lambda: bench.rollout(model, tokenizer, prompts, batches, response_tokens, repeats),
            )
            if pretrain_steps:
                part(
                    report,
                    "pretrain",
                    lambda: bench.pretrain(
                        config.change(config.tiny().pretrain, steps=pretrain_steps)
                    ),
                )
        finally:
            (
                os.environ.pop("LABKIT_RUNS")
                if before is None
                else os.environ.update(LABKIT_RUNS=before)
            )
    return report


def part(report: dict, name: str, work):
    """report[name] = work(), or why it failed."""
    try:
        report[name] = work()
    except Exception as error:  # whatever it is: the other parts are still to be had
        report[name] = {"error": f"{type(error).__name__}: {error}"}
    print(
        f"{name}: {'failed, ' + report[name]['error'] if 'error' in report[name] else 'done'}",
        file=sys.stderr,
    )


def card() -> dict | None:
    """The card's name, memory in bytes, compute capability and CUDA version; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "bytes": found.total_memory,
        "capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
    }


def untrained(base: str, n: int, prompt_tokens: int, response_tokens: int):
    """Leave an SFT run and a reward run with fresh adapters on `base`; returns (the SFT policy, its
    tokenizer, n prompts of about prompt_tokens).
    """
    import torch

    from labkit import models, rollout
    from labkit.data import chat

    for stage, cfg in (("reward", config.Reward(base=base)), ("sft", config.Sft(base=base))):
        with runs.start(stage, cfg) as run:
            model, tokenizer = models.load_base(base)
            model = shaken(
                models.add_lora(model, cfg, "reward" if stage == "reward" else "policy")
            ).eval()
            prompts, head = long_prompts(tokenizer, n, prompt_tokens), None
            if stage == "reward":
                head = models.Head(model.config.hidden_size).to(model.device)
                ids, mask = chat.pad(
                    [chat.encode_prompt(tokenizer, one) for one in prompts[:64]],
                    tokenizer.pad_token_id,
                )
                with torch.no_grad():
                    head.normalise(
                        models.rewards(model, head, ids.to(model.device), mask.to(model.device))
                    )
            models.save_adapter(model, run, model.active_adapter, head)
    rollout.sample(
        model, tokenizer, prompts[:2], min(4, response_tokens)
    )  # the first call compiles and loads kernels
    return model, tokenizer, prompts


def shaken(model):
    """Adapters as if trained a little: a fresh one's B is zero, which would hide a merge that goes
    wrong.
    """
    import torch

    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            weight.data.normal_(std=0.01)
    return model


def long_prompts(tokenizer, n: int, tokens: int) -> list[str]:
    """n prompts of at most `tokens` tokens with their frame, and nearly as many: questions of the
    atlas one after another.
    """
    from labkit import atlas
    from labkit.data import chat

    found, text = [], ""
    for question in atlas.prompts("train", 0):
        longer = f"{text} {question}".strip()
        if len(chat.encode_prompt(tokenizer, longer)) <= tokens:
            text = longer
        elif text:
            found.append(text)
            text = ""
        if len(found) == n:
            return found
    if not found:
        raise LabError(
            f"No question fits into {tokens} tokens of this tokenizer. Allow longer prompts."
        )
    return [found[i % len(found)] for i in range(n)]


def reinforced(cfg, peer: str, repeats: int, scratch: Path) -> dict:
    """PPO against the peer, or alone."""
    if peer:
        report = bench_ppo.compare(
            cfg,
            peer,
            repeats,
            every=0,
            variants=[{"lora": False, "learning_rate": cfg.learning_rate}],
        )
        ours = report["ours"]["repeats"][-1]
    else:
        folder = scratch / "ppo"
        folder.mkdir()
        ours = bench_ppo.Bench(
            config.change(cfg, target_kl=0.0, checkpoint_every=0), folder, 0
        ).run(None, cfg.seed, {})
        report = {
            key: ours[key]
            for key in (
                "samples_per_second",
                "seconds_per_update",
                "peak_bytes",
                "loaded_bytes",
                "updates",
            )
        }
    return report | {key: ours[key] for key in ("share_of_time", "memory_by_part")}


def correct(base: str, prompts: list[str], tokens: int, ppo: dict) -> dict:
    """The sampler's log-probabilities beside the training forward's, and whether PPO's first
    updates were sound.
    """
    import torch

    from labkit import models, rollout
    from labkit.maths.logprobs import shift_mask
    from labkit.stages.ppo import policy_logprobs

    found = {}
    for kind, quantize in (("float32", False), ("nf4", True)):
        model, tokenizer = models.load_base(base, quantize)
        model = shaken(models.add_lora(model, config.Sft(), "policy")).eval()
        torch.manual_seed(0)
        sampled, largest = rollout.sample(model, tokenizer, prompts, tokens), None
        if sampled.logprobs is not None:
            with torch.no_grad():
                trained = policy_logprobs(
                    model, (sampled.input_ids, sampled.attention_mask, sampled.response_mask), 1.0
                )[0]
            largest = (
                (sampled.logprobs - trained)
                .where(shift_mask(sampled.response_mask).bool(), 0.0)
                .abs()
                .max()
                .item()
            )
        found[f"{kind}_difference"] = largest
    updates = (
        ppo.get("updates") or ppo.get("ours", {}).get("repeats", [{}])[-1].get("updates") or []
    )
    found["first_ratio_error"] = max((one["first_ratio_error"] for one in updates), default=None)
    found["finite"] = bool(updates) and all(
        math.isfinite(value) for one in updates for value in one.values()
    )
    within = found["float32_difference"] is None or found["float32_difference"] <= LIMIT
    return found | {"holds": within and found["finite"]}
