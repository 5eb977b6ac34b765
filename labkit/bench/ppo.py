"""`bench ppo`: PPO here beside TRL 1.12's, the last with a PPO.

Both sides train the same SFT policy against the same reward model: same prompts in the same order,
batch, minibatch, epochs, lengths, temperature, β, clips, penalty, warm-up and seed. Ours is NF4 +
LoRA as it ships; the peer gets plain float32 models of the very same weights (the NF4 base
dequantised, adapters merged), and the best of a few settings, found on a seed of its own. Each run
has a process of its own (ours.py, peer.py), turn and turn about, because peak memory is a
process's. Seconds leave out imports, loading and what the benchmark itself does; memory leaves out
nothing.

How good a policy is, is measured afterwards in one way for both: every few updates a side saves
its policy, and here each saved policy answers the same held-out prompts and the same 4-bit reward
model scores the answers.
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median

import torch

from labkit import LabError, atlas, config, models, rollout, runs, stages
from labkit.bench.measure import machine, reached, say, warn_if_busy
from labkit.config import expanded
from labkit.data import chat

PEER = "1.12.0"
HELD_OUT = 256  # prompts that no side trains on
EVERY = 2  # updates between two saved policies
SHARE = 0.9  # how far the reward to reach lies between the SFT policy's and the lesser side's last
ROUNDING = 0.1  # standard deviations that the sides' scores of one answer may differ: bf16 needs it
RATIOS = {  # name: (a run's figure, whose is above, whose is below)
    "ratio_seconds_to_reward": ("seconds_to_reward", "peer", "ours"),
    "ratio_samples_per_second": ("samples_per_second", "ours", "peer"),
    "ratio_peak_memory": ("peak_bytes", "ours", "peer"),
    "ratio_peak_memory_above_imports": ("bytes_above_imports", "ours", "peer"),
}


def compare(cfg, peer: str = "", repeats: int = 5, every: int = EVERY) -> dict:
    """Ours and the peer, `repeats` seeds each, with the settings cfg (config.Ppo; β is held fixed,
    as the peer can't steer it).

    peer: the folder of TRL 1.12 (see `peer_folder`). It trains in full at our learning rate, at a
    third or a tenth of it, or with LoRA like ours: whatever earns most. every=0 saves no policies:
    speed and memory only, the peer in full at our learning rate.

    ratio_seconds_to_reward and ratio_samples_per_second are above 1 where ours is faster,
    ratio_peak_memory below 1 where ours is smaller; each is a ratio of medians, with the single
    repeats' under "runs". A run that never gets to the reward counts as endless, and a ratio that
    then does not exist is null, with a sentence under "note". Raises LabError when there is no
    peer, or a side fails (its last line is told).
    """
    peer = peer_folder(peer)
    if repeats < 1:
        raise LabError(f"--repeats is {repeats}, but it must be 1 or more.")
    cfg = config.change(cfg, target_kl=0.0, checkpoint_every=0, reward=last_token_reward(cfg).name)
    mine = {"lora": True, "learning_rate": cfg.learning_rate}
    best, trials = mine | {"lora": False}, []
    seeds = list(range(cfg.seed, cfg.seed + repeats))
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as scratch:
        bench = Bench(cfg, Path(scratch), every)
        if every:
            slower = [best | {"learning_rate": cfg.learning_rate / n} for n in (3, 10)]
            for variant in (best, *slower, mine):
                curve = bench.run(peer, seeds[-1] + 1, variant)["curve"]
                trials.append(variant | {"rewards": [point["reward"] for point in curve]})
            top = max(trials, key=lambda trial: fmean(trial["rewards"]))
            best = {key: top[key] for key in best}
        pairs = [(bench.run(None, seed, mine), bench.run(peer, seed, best)) for seed in seeds]
    ours, theirs = (list(side) for side in zip(*pairs))
    warn_if_busy([one["matmul_flop_per_second"] for one in ours + theirs])
    report = figures({"ours": ours, "peer": theirs}, bench.start)
    report["peer"] |= {**best, "trials": trials}
    return report | {
        "settings": asdict(cfg),
        "seeds": seeds,
        "held_out": len(bench.held_out),
        "score_difference": max(one["score_difference"] for one in theirs),
        "same_prompts": all(a["prompt"] == b["prompt"] for a, b in pairs),
        **machine(),
        "versions": {**runs.versions(), "peer": f"trl {PEER}"},
    }


def peer_folder(name: str = "") -> Path:
    """Where TRL 1.12 lies: `name`, else LABKIT_PEER, else .trl-1.12 in the runs folder. Raises
    LabError, with the way to get it, when it is not there.
    """
    name = name or os.environ.get("LABKIT_PEER") or runs.root() / ".trl-1.12"
    folder = expanded(name).absolute()
    if not (folder / f"trl-{PEER}.dist-info").is_dir():
        raise LabError(
            f"There is no TRL {PEER} in {folder}. Install it there, beside the one that labkit"
            f" uses: python -m pip install --no-deps --target {str(folder)!r} trl=={PEER} (another"
            " folder: --peer FOLDER)."
        )
    return folder


def last_token_reward(cfg) -> runs.Run:
    """The reward run of cfg; where it reads the mean over all tokens, which the peer's reward model
    cannot, one trained here on the same pairs that reads the last token.
    """
    run = runs.latest("reward", cfg.reward)
    if run.config.reads == "last":
        return run
    say(f"{run.name} reads the mean of all tokens; training one that reads the last, as the peer's")
    return stages.train("reward", config.change(run.config, reads="last"), aside=True)


class Bench:
    """What all runs of a comparison share: prompts, plain models for the peer, and the judge of
    saved policies.
    """

    def __init__(self, cfg, folder: Path, every: int):
        self.cfg, self.folder, self.every, self.runs = cfg, folder, every, 0
        prompts = atlas.load_prompts(cfg.prompts)
        if cfg.prompts == "atlas":
            self.held_out = atlas.prompts("held-out", cfg.seed, HELD_OUT)
        else:
            held = min(HELD_OUT, len(prompts) // 4) or 1
            prompts, self.held_out = prompts[:-held] or prompts, prompts[-held:]
        self.prompts, self.file = prompts, write_prompts(prompts, folder)
        sft, reward = runs.latest("sft", cfg.policy), runs.latest("reward", cfg.reward)
        self.stages = (sft, reward)
        model, self.tokenizer = models.load_base(models.base_of(sft, cfg.base))
        model = models.load_adapter(model, reward, "reward")
        self.model = models.load_adapter(model, sft, "policy").eval()
        self.head = models.load_head(reward)
        some = self.held_out[:64]
        answers = rollout.sample(self.model, self.tokenizer, some, cfg.max_response_tokens)
        self.answers = {"ids": answers.input_ids.tolist(), "scores": self.scores(answers).tolist()}
        self.start = self.reward(self.model) if every else math.nan

    def encode(self, prompt: str) -> list[int]:
        return chat.encode_prompt(self.tokenizer, prompt, self.cfg.max_prompt_tokens)

    @torch.no_grad()
    def scores(self, answers):
        """The 4-bit reward model's scores (B,)."""
        return models.rewards(self.model, self.head, answers.input_ids, answers.attention_mask)

    def reward(self, policy) -> float:
        """A policy's mean reward on the held-out prompts, as it is trained on: less the penalty for
        answers without an end.
        """
        cfg = self.cfg
        runs.seed_everything(cfg.seed)
        how = (cfg.max_response_tokens, cfg.temperature)
        answers = rollout.sample(policy, self.tokenizer, self.held_out, *how)
        penalty = cfg.missing_eos_penalty * (~answers.ended).float()
        return (self.scores(answers) - penalty).mean().item()

    def run(self, peer: Path | None, seed: int, variant: dict) -> dict:
        """One run of one side (peer None: ours) in a process of its own: what it reports, and its
        curve of held-out rewards.
        """
        side, self.runs = "peer" if peer else "ours", self.runs + 1
        folder, plain = self.folder / f"{self.runs}-{side}", self.folder / "plain"
        folder.mkdir()
        cfg = config.change(self.cfg, seed=seed, prompts=self.file)
        order = list(self.prompts)
        random.Random(seed).shuffle(order)  # as ppo.train does
        order = [order[i % len(order)] for i in range(cfg.updates * cfg.batch_size)]
        job = {"config": asdict(cfg), "every": self.every, "plain": str(plain), **variant}
        if peer:
            job |= {"answers": self.answers, "prompt_ids": [self.encode(one) for one in order]}
            for one in self.stages:
                if not (plain / one.stage).exists():
                    write_plain(one, plain / one.stage)
        (folder / "job.json").write_text(json.dumps(job), "utf8")
        report = child(f"labkit.bench.{side}", folder, peer)
        if report.get("score_difference", 0) > ROUNDING:
            raise LabError(
                f"The two sides' reward models disagree by {report['score_difference']:.2g}"
                " standard deviations about one answer, so a comparison would mean nothing."
                " Train the reward run again on this base."
            )
        ends = [0.0, *(one["seconds"] for one in report["updates"])]
        curve = [{"update": 0, "seconds": 0.0, "reward": self.start}] if self.every else []
        for file in sorted(folder.glob("*.policy"), key=lambda file: int(file.stem)):
            done, policy = int(file.stem), self.saved(file, bool(peer))
            curve.append({"update": done, "seconds": ends[done], "reward": self.reward(policy)})
            file.unlink()
        report = {"prompt": order[-cfg.batch_size]} | report  # ours says which it was itself
        report |= {
            "seed": seed,
            "curve": curve,
            "kl": fmean(one["kl"] for one in report["updates"][-3:]),
            "seconds_per_update": median(b - a for a, b in zip(ends, ends[1:])),
            "samples_per_second": len(order) / ends[-1],
            "bytes_above_imports": report["peak_bytes"] - report["imported_bytes"],
        }
        earned = f"reward {curve[-1]['reward']:.2f}, " if curve else ""
        say(
            f"{side} {variant} seed {seed}: {report['samples_per_second']:.1f} samples/s, {earned}"
            f"KL {report['kl']:.1f}, peak {report['peak_bytes'] / 1e6:.0f} MB"
        )
        return report

    def saved(self, file: Path, is_peer: bool):
        """The policy that a side saved, ready to sample from."""
        state = torch.load(file, weights_only=True, map_location=runs.device())
        if is_peer:
            plain, _ = models.load_base(str(self.folder / "plain" / "sft"), quantize=False)
            plain.load_state_dict(state)
            return plain
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.model, state, adapter_name="policy")
        return self.model


def write_prompts(prompts: list[str], folder: Path) -> str:
    """The prompts as a file that cfg.prompts can name."""
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts), "utf8")
    return str(file)


def write_plain(run, folder: Path):
    """An adapter run as a plain float32 model with the weights that the 4-bit one computes with:
    NF4 base dequantised, adapter merged.

    models.export merges into the unquantised base instead; its scores differ by NF4's rounding.
    """
    model, tokenizer = models.load_base(models.base_of(run))
    model = models.load_adapter(model.dequantize().float(), run, "default").merge_and_unload()
    if run.stage == "reward":
        model = models.sequence_classifier(model, models.load_head(run))
    models.save_base(model.cpu(), tokenizer, folder)


def child(module: str, folder: Path, first: Path | None = None) -> dict:
    """Run `python -m module job.json` in `folder`, with `first` in front of the module path; its
    report. LabError with its last line when it fails.
    """
    here, before = Path(__file__).parents[2], os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(str(path) for path in (first, here, before) if path)
    done = subprocess.run(
        [sys.executable, "-m", module, "job.json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    report = folder / "report.json"
    if done.returncode or not report.exists():
        who, said = f"TRL {PEER}" if first else "Our PPO", done.stderr.strip().split("\n")[-1]
        why = said.strip() or f"exit code {done.returncode}, no message"
        raise LabError(f"{who} failed in the benchmark: {why}")
    return json.loads(report.read_text("utf8"))


def figures(found: dict, start: float) -> dict:
    """The report of a comparison: found {"ours", "peer"}: a list each of `Bench.run`'s reports, one
    a repeat; start: the SFT policy's reward.
    """
    curves = {side: [one["curve"] for one in many] for side, many in found.items()}
    judged, target, final = all(map(all, curves.values())), math.inf, {}
    if judged:
        final = {side: fmean(c[-1]["reward"] for c in many) for side, many in curves.items()}
        target = start + SHARE * (min(final.values()) - start)
    for one in (*found["ours"], *found["peer"]):
        point = reached(one["curve"], target, "reward", rising=True)
        one["seconds_to_reward"] = point["seconds"] if point else math.inf
    keys = [figure for figure, *_ in RATIOS.values()]
    keys += ["seconds_per_update", "imported_bytes", "kl"]
    middle = {
        side: {key: median(one[key] for one in many) for key in keys}
        for side, many in found.items()
    }
    report = {
        name: ratio(middle[a][figure], middle[b][figure]) for name, (figure, a, b) in RATIOS.items()
    }
    report["runs"] = {
        name: [ratio(x[figure], y[figure]) for x, y in zip(found[a], found[b])]
        for name, (figure, a, b) in RATIOS.items()
    }
    report |= {"reward": target, "start_reward": start}
    for side, many in found.items():
        report[side] = {**middle[side], "final_reward": final.get(side), "repeats": many}
    never = [side for side in middle if math.isinf(middle[side]["seconds_to_reward"])]
    if not judged:
        report["note"] = "No policies were saved, so there are no seconds to a reward."
    elif target <= start:
        report["note"] = "One side did not get above the SFT policy's reward: nothing to reach."
    elif never:
        sides = " and ".join(never)
        report["note"] = f"{sides} did not reach the reward {target:.2f} in half of the runs."
    return report


def ratio(above: float, below: float) -> float | None:
    """above / below; None where there is no finite one."""
    return above / below if below and math.isfinite(above) and math.isfinite(below) else None
