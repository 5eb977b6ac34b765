"""PPO here beside TRL 1.12's, the last with a PPO: python -m labkit bench ppo --peer FOLDER.
 Both sides train the same SFT policy against the same reward model: same prompts in the same order,
batch, minibatch, epochs, lengths, temperature, β, clips, penalty, warm-up and seed. Ours is NF4 +
LoRA as it ships; the peer gets plain float32 models of the very same weights (the NF4 base
dequantised, adapters merged), and the best of a few settings, found on a seed of its own. Each run
has a process of its own, turn and turn about, because peak memory is a process's. Seconds leave out
imports, loading and what the benchmark itself does; memory leaves out nothing.
 How good a policy is, is measured afterwards in one way for both: every few updates a side saves
its policy, and here each saved policy answers the same held-out prompts and the same 4-bit reward
model scores the answers.
"""

import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median

from labkit import LabError, config, runs
from labkit.bench import clock, matmul_rate, reached

PEER = "1.12.0"
HELD_OUT = 256  # prompts that no side trains on
EVERY = 2  # updates between two saved policies
SHARE = 0.9  # the reward to reach lies this far up from the SFT policy's to that of the side that got less far
ROUNDING = 0.1  # how far, in standard deviations, the two sides' scores of one answer may differ: float32 gives 1e-5, bf16 more


def compare(cfg, peer: str = "", repeats: int = 5, every: int = EVERY, variants=None) -> dict:
    """Ours and the peer, `repeats` seeds each, with the settings cfg (config.Ppo; β is held fixed,
    as the peer can't steer it).

    peer: the folder of TRL 1.12 (see `peer_folder`). variants: settings of the peer to choose from,
    {"lora", "learning_rate"}; the default is full training at our learning rate, a third and a
    tenth of it, and LoRA like ours. every=0 saves no policies: speed and memory only.

    ratio_seconds_to_reward and ratio_samples_per_second are above 1 where ours is faster,
    ratio_peak_memory below 1 where ours is smaller; each is a ratio of medians, with the single
    repeats' under "runs". A run that never gets to the reward counts as endless, and a ratio that
    then does not exist is null, with a sentence under "note". Raises LabError when there is no
    peer, or a side fails (its last line is told).
    """
    import torch

    peer = peer_folder(peer)
    if repeats < 1:
        raise LabError(f"--repeats is {repeats}, but it must be 1 or more.")
    cfg = config.change(cfg, target_kl=0.0, checkpoint_every=0)
    rates = sorted({cfg.learning_rate / 10, cfg.learning_rate / 3, cfg.learning_rate})
    if variants is None:
        variants = [{"lora": False, "learning_rate": rate} for rate in rates] + [
            {"lora": True, "learning_rate": cfg.learning_rate}
        ]
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as scratch:
        bench = Bench(cfg, Path(scratch), every)
        found, trials = {"ours": [], "peer": []}, []
        for variant in variants if len(variants) > 1 else []:
            trial = bench.run(peer, cfg.seed + repeats, variant)
            trials.append(
                {
                    **variant,
                    "rewards": [point["reward"] for point in trial["curve"]],
                    "samples_per_second": trial["samples_per_second"],
                }
            )
        best = (
            variants[max(range(len(trials)), key=lambda i: fmean(trials[i]["rewards"] or [0]))]
            if trials
            else variants[0]
        )
        for seed in range(cfg.seed, cfg.seed + repeats):
            found["ours"].append(bench.run(None, seed, {"learning_rate": cfg.learning_rate}))
            found["peer"].append(bench.run(peer, seed, best))
        speeds = [one["matmul_flop_per_second"] for many in found.values() for one in many]
        if max(speeds) > 1.5 * min(speeds):
            print(
                "The matrix rate changed by more than half meanwhile: something else was at work"
                " here. Measure again when it is done.",
                file=sys.stderr,
            )
        report = figures(found, bench.start)
        report["peer"] |= {**best, "trials": trials}
        return report | {
            "settings": asdict(cfg),
            "seeds": list(range(cfg.seed, cfg.seed + repeats)),
            "held_out": len(bench.held_out),
            "score_difference": max(one["score_difference"] for one in found["peer"]),
            "same_prompts": all(
                a["prompt"] == b["prompt"] for a, b in zip(found["ours"], found["peer"])
            ),
            "device": runs.device().type,
            "threads": torch.get_num_threads(),
            "versions": {**runs.versions(), "peer": f"trl {PEER}"},
        }


def peer_folder(name: str = "") -> Path:
    """Where TRL 1.12 lies: `name`, else LABKIT_PEER, else .trl-1.12 in the runs folder. Raises
    LabError, with the way to get it, when it is not there.
    """
    folder = (
        Path(name or os.environ.get("LABKIT_PEER") or runs.root() / ".trl-1.12")
        .expanduser()
        .absolute()
    )
    if not (folder / f"trl-{PEER}.dist-info").is_dir():
        raise LabError(
            f"There is no TRL {PEER} in {folder}. Install it there, beside the one that labkit"
            f" uses: python -m pip install --no-deps --target {str(folder)!r} trl=={PEER} (another"
            " folder: --peer FOLDER)."
        )
    return folder


# --- one comparison ------------------------------------------------------------------------------


class Bench:
    """What all runs of a comparison share: prompts, plain models for the peer, and the judge of
    saved policies.
    """

    def __init__(self, cfg, folder: Path, every: int):
        from labkit import atlas, models, rollout
        from labkit.data import chat

        self.cfg, self.folder, self.every = cfg, folder, every
        sft, reward = runs.latest("sft", cfg.policy), runs.latest("reward", cfg.reward)
        prompts = atlas.load_prompts(cfg.prompts)
        if cfg.prompts == "atlas":
            self.held_out = atlas.prompts("held-out", cfg.seed, HELD_OUT)
        else:
            held = min(HELD_OUT, len(prompts) // 4) or 1
            prompts, self.held_out = prompts[:-held] or prompts, prompts[-held:]
        (folder / "prompts.jsonl").write_text(
            "".join(json.dumps({"prompt": one}) + "\n" for one in prompts), "utf8"
        )
        self.prompts, self.runs = prompts, 0
        self.stages = (sft, reward)
        self.model, self.tokenizer = models.load_base(models.base_of(sft, cfg.base))
        self.model = models.load_adapter(self.model, reward, "reward")
        self.model = models.load_adapter(self.model, sft, "policy").eval()
        self.head = models.load_head(reward)
        self.encode = lambda prompt: chat.encode_prompt(
            self.tokenizer, prompt, cfg.max_prompt_tokens
        )
        answers = rollout.sample(
            self.model, self.tokenizer, self.held_out[:64], cfg.max_response_tokens
        )
        self.answers = {
            "ids": answers.input_ids.tolist(),
            "scores": self.scores(answers).tolist(),
            "prompt_tokens": max(map(len, map(self.encode, self.held_out[:64]))),
        }
        self.start = self.reward(self.model) if every else math.nan

    def scores(self, rollout):
        """The 4-bit reward model's scores (B,)."""
        import torch

        from labkit import models

        with torch.no_grad():
            return models.rewards(self.model, self.head, rollout.input_ids, rollout.attention_mask)

    def reward(self, policy) -> float:
        """A policy's mean reward on the held-out prompts, as it is trained on: less the penalty for
        answers without an end.
        """
        from labkit import rollout

        runs.seed_everything(self.cfg.seed)
        answers = rollout.sample(
            policy,
            self.tokenizer,
            self.held_out,
            self.cfg.max_response_tokens,
            self.cfg.temperature,
        )
        return (
            (self.scores(answers) - self.cfg.missing_eos_penalty * (~answers.ended).float())
            .mean()
            .item()
        )

    def run(self, peer: Path | None, seed: int, variant: dict) -> dict:
        """One run of one side (peer None: ours) in a process of its own: what it reports, and its
        curve of held-out rewards.
        """
        side, self.runs = "peer" if peer else "ours", self.runs + 1
        folder = self.folder / f"{self.runs}-{side}"
        folder.mkdir()
        cfg, order = (
            config.change(self.cfg, seed=seed, prompts=str(self.folder / "prompts.jsonl")),
            list(self.prompts),
        )
        random.Random(seed).shuffle(order)  # as ppo.train does
        order = [order[i % len(order)] for i in range(cfg.updates * cfg.batch_size)]
        job = {
            "config": asdict(cfg),
            "every": self.every,
            "plain": str(self.folder / "plain"),
            "answers": self.answers,
            **variant,
        }
        if peer:
            job["prompt_ids"] = [self.encode(prompt) for prompt in order]
            for one in self.stages:
                if not (self.folder / "plain" / one.stage).exists():
                    plain(one, self.folder / "plain" / one.stage)
        (folder / "job.json").write_text(json.dumps(job), "utf8")
        report = child(f"labkit.bench_{'peer' if peer else 'ppo'}", folder, peer)
        updates = report["updates"]
        curve = [{"update": 0, "seconds": 0.0, "reward": self.start}] if self.every else []
        for file in sorted(folder.glob("*.policy"), key=lambda file: int(file.stem)):
            done = int(file.stem)
            curve.append(
                {
                    "update": done,
                    "seconds": updates[done - 1]["seconds"],
                    "reward": self.reward(self.saved(file, bool(peer))),
                }
            )
            file.unlink()
        report |= {
            "seed": seed,
            "curve": curve,
            "kl": fmean(one["kl"] for one in updates[-3:]),
            "seconds_per_update": median(
                b["seconds"] - a["seconds"] for a, b in zip([{"seconds": 0.0}, *updates], updates)
            ),
            "samples_per_second": len(updates) * cfg.batch_size / updates[-1]["seconds"],
        }
        if peer:
            report["prompt"] = order[-cfg.batch_size]
            if report["score_difference"] > ROUNDING:
                raise LabError(
                    f"The two sides' reward models disagree by {report['score_difference']:.2g}"
                    " standard deviations about one answer, so a comparison would mean nothing."
                    " Train the reward run again on this base."
                )
        print(
            f"{side} {variant} seed {seed}: {report['samples_per_second']:.1f} samples/s, "
            + (f"reward {curve[-1]['reward']:.2f}, " if curve else "")
            + f"KL {report['kl']:.1f}, peak {report['peak_bytes'] / 1e6:.0f} MB",
            file=sys.stderr,
        )
        return report

    def saved(self, file: Path, is_peer: bool):
        """The policy that a side saved, ready to sample from."""
        import torch

        state = torch.load(file, weights_only=True, map_location=runs.device())
        if is_peer:
            from transformers import AutoModelForCausalLM

            from labkit.models import quiet

            with quiet():
                model = (
                    AutoModelForCausalLM.from_pretrained(
                        self.folder / "plain" / "sft", dtype=torch.float32
                    )
                    .to(runs.device())
                    .eval()
                )
            model.load_state_dict(state)
            return model
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.model, state, adapter_name="policy")
        return self.model


def plain(run, folder: Path):
    """An adapter run as a plain float32 model with the weights that the 4-bit one computes with:
    NF4 base dequantised, adapter merged.

    models.export merges into the unquantised base instead; its scores differ by NF4's rounding.
    """
    from labkit import models

    model, tokenizer = models.load_base(models.base_of(run))
    model = models.load_adapter(model.dequantize().float(), run, "default").merge_and_unload()
    if run.stage == "reward":
        model = models.sequence_classifier(model, models.load_head(run))
    models.save_base(model.cpu(), tokenizer, folder)


def child(module: str, folder: Path, first: Path | None = None) -> dict:
    """Run `python -m module job.json` in `folder`, with `first` in front of the module path; its
    report. LabError with its last line when it fails.
    """
    paths = [
        *([str(first)] if first else []),
        str(Path(__file__).parent.parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-m", module, "job.json"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if done.returncode or not (folder / "report.json").exists():
        said = [line.strip() for line in done.stderr.split("\n") if line.strip()]
        who = f"TRL {PEER}" if first else "Our PPO"
        raise LabError(
            f"{who} failed in the benchmark:"
            f" {said[-1] if said else f'exit code {done.returncode}, no message'}"
        )
    return json.loads((folder / "report.json").read_text("utf8"))


# --- figures -------------------------------------------------------------------------------------


def figures(found: dict, start: float) -> dict:
    """The report of a comparison: found {"ours", "peer"}: a list each of `Bench.run`'s reports, one
    a repeat; start: the SFT policy's reward.
    """
    sides = {
        side: (
            {
                key: median(one[key] for one in many)
                for key in (
                    "samples_per_second",
                    "seconds_per_update",
                    "peak_bytes",
                    "imported_bytes",
                    "loaded_bytes",
                    "kl",
                )
            }
            | {"repeats": many}
        )
        for side, many in found.items()
    }
    single = {
        "ratio_samples_per_second": quotients(
            *([one["samples_per_second"] for one in found[side]] for side in ("ours", "peer"))
        ),
        "ratio_peak_memory": quotients(
            *([one["peak_bytes"] for one in found[side]] for side in ("ours", "peer"))
        ),
        "ratio_seconds_to_reward": [],
    }
    report, note = (
        {"ratio_seconds_to_reward": None},
        "No policies were saved, so there are no seconds to a reward.",
    )
    if all(one["curve"] for many in found.values() for one in many):
        final = {
            side: fmean(one["curve"][-1]["reward"] for one in many) for side, many in found.items()
        }
        target = start + SHARE * (min(final.values()) - start)
        seconds = {
            side: [to_reward(one["curve"], target) for one in many] for side, many in found.items()
        }
        for side in sides:
            sides[side] |= {
                "seconds_to_reward": finite(median(seconds[side])),
                "final_reward": final[side],
            }
        single["ratio_seconds_to_reward"] = quotients(seconds["peer"], seconds["ours"])
        report = {
            "ratio_seconds_to_reward": quotients(
                [median(seconds["peer"])], [median(seconds["ours"])]
            )[0],
            "reward": target,
            "start_reward": start,
        }
        never = [side for side in seconds if math.isinf(median(seconds[side]))]
        note = (
            f"{' and '.join(never)} did not reach the reward {target:.2f} in half of the runs."
            if never
            else ""
        )
        if target <= start:
            report["ratio_seconds_to_reward"], note = (
                None,
                "One side did not get above the SFT policy's reward, so there is nothing to reach.",
            )
    growth = [
        sides[side]["peak_bytes"] - sides[side]["imported_bytes"] for side in ("ours", "peer")
    ]
    report |= {
        "ratio_samples_per_second": (
            sides["ours"]["samples_per_second"] / sides["peer"]["samples_per_second"]
        ),
        "ratio_peak_memory": sides["ours"]["peak_bytes"] / sides["peer"]["peak_bytes"],
        "ratio_peak_memory_above_imports": quotients(growth[:1], growth[1:])[0],
        "runs": single,
        **sides,
    }
    return report | ({"note": note} if note else {})


def to_reward(curve: list[dict], target: float) -> float:
    """Seconds at which a curve first comes up to `target`, on the straight line between two
    measurements; infinite if never.
    """
    falling = [
        {"seconds": point["seconds"], "tokens": 0, "loss": -point["reward"]} for point in curve
    ]
    return (reached(falling, -target) or {"seconds": math.inf})["seconds"]


def quotients(above: list, below: list) -> list:
    """above / below, one by one; None where there is no finite one."""
    return [
        finite(a / b) if b and math.isfinite(b) else None for a, b in zip(above, below, strict=True)
    ]


def finite(value: float) -> float | None:
    """The value; None in place of an infinite one."""
    return value if math.isfinite(value) else None


# --- inside a run's process ----------------------------------------------------------------------


def memory() -> tuple[int, int]:
    """(now, peak) bytes: on CUDA what torch allocated, else the process's resident memory.

    Linux's own peak counts from this program's start; ru_maxrss, where there is no /proc, would
    also carry over the parent's.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text("utf8")
        return tuple(
            1024 * int(re.search(rf"{key}:\s+(\d+)", status)[1]) for key in ("VmRSS", "VmHWM")
        )
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
        return peak, peak


class Watch:
    """A run's stop-watch: it stands still while a policy is saved."""

    def __init__(self, path: str):
        """Read the job, when everything is imported."""
        self.folder, self.seconds = Path(path).absolute().parent, 0.0
        self.job = json.loads(Path(path).read_text("utf8"))
        self.report = {"imported_bytes": memory()[0], "updates": []}

    def begin(self):
        """The models are loaded (called again when another one is)."""
        self.report["loaded_bytes"], self.at = memory()[0], clock()

    def update(self, save, **metrics):
        """An update is done; save(file) writes the policy, where it is time."""
        self.seconds += clock() - self.at
        self.report["updates"].append({"seconds": self.seconds, **metrics})
        done, every = len(self.report["updates"]), self.job["every"]
        if every and (done % every == 0 or done == self.job["config"]["updates"]):
            save(self.folder / f"{done}.policy")
        self.at = clock()

    def end(self, **more):
        """Write the report, with the matrix rate that is to be had now."""
        self.report["peak_bytes"] = memory()[1]
        self.report["matmul_flop_per_second"] = matmul_rate()
        (self.folder / "report.json").write_text(json.dumps(self.report | more), "utf8")


def main(path: str):
    """Ours: ppo.train as it ships. To know when training starts, what is saved and where the time
    goes, some functions are wrapped here.
    """
    import bitsandbytes  # noqa: F401
    import peft
    import torch

    from labkit import models
    from labkit.stages import ppo

    watch, held, parts = (
        Watch(path),
        {},
        dict.fromkeys(("rollout", "scoring", "update", "watched_prompt"), 0.0),
    )
    load = models.load_adapter

    def load_adapter(*args, **kwargs):
        held["model"] = load(*args, **kwargs)
        watch.begin()
        return held["model"]

    def timed(part, function):
        def wrapped(*args, **kwargs):
            started = clock()
            result = function(*args, **kwargs)
            parts[part(*args)] += clock() - started
            return result

        return wrapped

    def save(file):
        torch.save(
            peft.get_peft_model_state_dict(
                held["model"], adapter_name="policy", save_embedding_layers=False
            ),
            file,
        )

    cfg = config.Ppo(**watch.job["config"])
    models.load_adapter = load_adapter
    ppo.sample = timed(
        lambda model, tokenizer, prompts, *_: (
            "rollout" if len(prompts) == cfg.batch_size else "watched_prompt"
        ),
        ppo.sample,
    )
    ppo.measure = timed(lambda *_: "scoring", ppo.measure)
    ppo.improve = timed(lambda *_: "update", ppo.improve)
    run = runs.Run(watch.folder / "run", "ppo", "bench", {"config": asdict(cfg)})
    run.path.mkdir()
    run.listeners.append(
        lambda entry: watch.update(
            save, **{key: value for key, value in entry.items() if isinstance(value, (int, float))}
        )
    )
    runs.seed_everything(cfg.seed)
    ppo.train(cfg, run)
    watch.end(
        prompt=run.metrics()[-1]["prompt"],
        memory_by_part=run.evaluation["memory"],
        share_of_time={part: seconds / watch.seconds for part, seconds in parts.items()},
    )


if __name__ == "__main__":
    main(sys.argv[1])
