"""What guards a PPO run: memory that runs out, alarms, a KL that runs away, checkpoints, and how to
go on after a stop.
"""

import contextlib
import sys

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from labkit import LabError, models, ranks, runs
from labkit.maths.logprobs import masked_sum
from labkit.stages import checkpoint
from labkit.stages.checkpoint import warn


class MicroBatch:
    """How many responses go through a pass at once: what cfg says and the memory of `model`'s GPU
    holds; halved when memory runs out all the same. `saved`: bytes that autograd keeps.
    """

    def __init__(self, cfg, model):
        most = min(cfg.micro_batch_size or cfg.minibatch_size, cfg.minibatch_size)
        width = cfg.max_prompt_tokens + cfg.max_response_tokens
        checkpointed = bool(cfg.gradient_checkpointing)
        each = models.row_bytes(model, width, cfg.max_response_tokens, checkpointed)
        if cfg.critic == "adapter":  # a pass of its own, without logits
            each += models.row_bytes(model, width, 0, checkpointed)
        self.size = models.fitting_rows(most, each)
        self.saved, self.counting = {}, True

    def fit(self, work):
        """work(size), again with half the size where memory ran out. `work` must leave nothing half
        done.
        """
        while True:
            try:
                return work(self.size)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
            if self.size == 1:
                raise LabError(
                    "Memory ran out with a single response in a pass. Lower max_response_tokens or"
                    " lora_r, choose a smaller base, or close what else uses the memory."
                )
            self.size //= 2
            clear_device_cache()
            warn(
                f"memory ran out: going on with {self.size} responses a pass. Results stay the"
                " same, it takes longer."
            )

    def counted(self, model):
        """Counts what autograd keeps inside the block, in the run's first minibatch:
        saved["activations"].
        """
        return models.saved_bytes(self.saved, model) if self.counting else contextlib.nullcontext()


class Guard:
    """Around the loop of ppo.train: `with guard`, an error says what is kept and how to go on."""

    def __init__(self, cfg, run, players, optimizer, beta):
        self.cfg, self.run, self.players, self.optimizer, self.beta = (
            cfg,
            run,
            players,
            optimizer,
            beta,
        )
        policy, critic = players.trained()
        self.weights = {str(i): weight for i, weight in enumerate([*policy, *critic])}
        self.keeper = checkpoint.Keeper(run)
        self.said = set()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, LabError):
            raise LabError(f"{error} {self.kept()}") from error

    def resume(self) -> int:
        """Put the run's checkpoint back, if it has one, and drop what was logged after it; how many
        updates are done.
        """
        self.keeper.put(self.weights, self.optimizer)
        facts = self.keeper.facts
        if not facts:
            return 0
        self.beta.value = facts["beta"]
        self.players.passes.size = min(facts["micro"], self.players.passes.size)
        self.players.refresh()
        return facts["update"]

    def agree(self, stop: bool) -> bool:
        """Whether any process was asked to stop. The smallest parts hold for all from here on."""
        passes = self.players.passes
        passes.size = -ranks.most(-passes.size)
        return bool(ranks.most(stop))

    def due(self, update: int) -> bool:
        """Whether a checkpoint is written after this update."""
        return bool(self.cfg.checkpoint_every) and (update + 1) % self.cfg.checkpoint_every == 0

    def save(self, done: int):
        """A checkpoint after `done` updates."""
        self.keeper.save(update=done, beta=self.beta.value, micro=self.players.passes.size)

    def check(self, entry: dict, experience, rollout):
        """Say what can't be right, once a run what leaves nothing to learn from, and stop a KL that
        ran away.
        """
        self.players.passes.counting = False
        alarm(entry["first_ratio_error"], experience, self.players.model.dtype)
        for sentence in nothing_to_learn(experience.scores, rollout):
            if sentence not in self.said:
                self.said.add(sentence)
                warn(sentence)
        if entry["kl"] > self.cfg.max_kl:
            raise LabError(
                f"The KL to the reference ran away: {entry['kl']:.3g} nats per response in update"
                f" {entry['step']}, and max_kl is {self.cfg.max_kl:g}. Nothing holds the policy:"
                " raise beta, set target_kl, or lower learning_rate."
            )

    def kept(self) -> str:
        """What an interrupted run leaves, and how to go on."""
        if not runs.checkpoints(self.run.path):
            return "There is no checkpoint yet; the earlier runs are untouched."
        return (
            "The last good checkpoint is kept. Go on from it with other settings:"
            f" runs.resume({self.run.name!r}, learning_rate=…) in a notebook, or python -m labkit"
            f" train ppo --resume {self.run.name} --learning-rate …"
        )

    def finish(self):
        """Record what the run came to; one that stopped early keeps its checkpoint."""
        if not ranks.main():
            return
        cfg, run, model = self.cfg, self.run, self.players.model
        history = run.metrics()
        last = history[-3:]
        run.goes_on = len(history) < cfg.updates
        if run.goes_on:
            print(
                f"Stopped after update {len(history)} of {cfg.updates}. {run.name} is whole and can"
                f" be used; to go on: runs.resume({run.name!r})",
                file=sys.stderr,
            )
        width = cfg.max_prompt_tokens + cfg.max_response_tokens
        run.finish(
            updates=len(history),
            score_first=history[0]["score"],
            score=sum(entry["score"] for entry in last) / len(last),
            kl=sum(entry["kl"] for entry in last) / len(last),
            kl_max=max(entry["kl"] for entry in history),
            beta=self.beta.value,
            first_ratio_error=max(entry["first_ratio_error"] for entry in history),
            memory={
                **models.memory(model, self.optimizer),
                **self.players.passes.saved,
                "kv_cache": models.kv_bytes(model, cfg.batch_size // ranks.world(), width),
            },
        )


def alarm(first_ratio_error: float, experience, dtype=torch.float32):
    """Say on stderr what can't be right. The bound of the ratio knows the precision: rounding to
    bfloat16 alone moved SmolLM2's log-ratio by 0.32.
    """
    if first_ratio_error > max(0.01, 64 * torch.finfo(dtype).eps):
        warn(
            "before the first step of an update the ratio to the old policy was off by"
            f" {first_ratio_error:.2g} in log, and should be 1: two forward passes of one policy"
            " disagree. Look for dropout, padding or low precision."
        )
    kls = masked_sum(experience.logprobs - experience.ref_logprobs, experience.mask, dim=1)
    if (
        kls.sum() < -3 * kls.norm()
    ):  # three standard errors below 0; a batch near 0 may well come out negative
        warn(
            f"KL to the reference is {kls.mean().item():.3g}, and a KL can't be negative: the"
            " responses were not sampled from the policy whose log-probabilities these are. Look"
            " for top-k, a minimum length or another temperature."
        )


def nothing_to_learn(scores, rollout) -> list[str]:
    """Sentences on what leaves nothing to learn from in a rollout. scores (B,)."""
    found = {
        "every response of a rollout got the same reward: only the KL penalty acts. Look at it.": (
            len(scores) > 1 and not (scores != scores[0]).any()
        ),
        "every response of a rollout was empty. Start from another SFT run, or raise beta.": (
            (rollout.lengths == 1).all() and rollout.ended.all()
        ),
        "no response in a rollout ended by itself. Raise max_response_tokens, or train SFT more.": (
            not rollout.ended.any()
        ),
    }
    return [sentence for sentence, holds in found.items() if holds]


def refuse_others(run, took: dict):
    """LabError where a resumed run would go on with others than it began with."""
    began = {role: run.info.get(role, one) for role, one in took.items()}
    if began["judge"] != took["judge"]:
        who = f"the function {began['judge']!r}" if began["judge"] else "a reward model"
        raise LabError(
            f"{run.name} was rewarded by {who}. Go on with it: ppo.train(run.config, run, judge=…)."
        )
    for role, one in took.items():
        if began[role] != one:
            raise LabError(
                f"{run.name} began with another {role} adapter than there is now. Start a new run."
            )


def judged(judge, rollout):
    """Scores (B,) by a function of the learner's own; LabError where it fails or miscounts."""
    try:
        said = [float(x) for x in judge(rollout.prompts, rollout.responses)]
    except Exception as error:
        raise LabError(
            f"Your reward function failed: {type(error).__name__}: {error}. It gets two lists,"
            " prompts and responses, and returns a number for each."
        ) from error
    if len(said) != len(rollout.prompts):
        raise LabError(
            f"Your reward function gave {len(said)} numbers for {len(rollout.prompts)} responses."
            " It must return one for each."
        )
    return torch.tensor(said, device=rollout.input_ids.device)


def usable(scores, rollout, judge=None):
    """The scores (B,), if they are numbers; else LabError."""
    if not torch.isfinite(scores).all():
        at = int((~torch.isfinite(scores)).nonzero()[0])
        raise LabError(
            f"The reward of {rollout.responses[at][:60]!r} is {scores[at].item()}, not a finite"
            f" number. Mend the reward {'function' if judge else 'model: train it again'}."
        )
    return scores
