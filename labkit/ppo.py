"""Stage 3b, reinforcement learning (增強式學習): PPO raises the reward model's score, held near the reference by a KL penalty.

    objective = E[score(x, y)] − β · KL(π ‖ π_ref)        (arXiv 2203.02155, eq. 2, without its pre-training term)

One 4-bit base carries four LoRA adapters: policy (trained), reference (the SFT policy, frozen), reward (frozen) and critic (trained,
starts as the reward model's body with a head of zeros; its loss never touches the policy). An update is: sample, score, spread the reward over the tokens, improve.

What write-ups of PPO for language models warn of is answered where it happens: sampling without top-k and truncation at the first EOS in
rollout.py; shifts, masks, whitening and KL estimators in logprobs.py; clips, GAE and token rewards in losses.py; the reward head's start and
normalisation in models.py and reward.py; the rest here. Simplified: one process, so no seed per rank and nothing to agree on across ranks;
no early stop on approx_kl; no pre-training term (PPO-ptx); no phase in which the critic learns alone.
"""

import random
import sys

import torch

from labkit import LabError, chat, data, models, runs
from labkit.atlas import find
from labkit.evals import judged
from labkit.logprobs import (
    entropy,
    masked_mean,
    masked_sum,
    masked_whiten,
    position_ids,
    response_logprobs,
    shift_mask,
    shift_values,
)
from labkit.losses import gae, ppo_policy_loss, ppo_value_loss, shaped_rewards
from labkit.rollout import Rollout, sample
from labkit.symptoms import rates


def policy_logits(model, rollout: Rollout, rows=slice(None)):
    """Logits (B, T, V) under the active adapter."""
    mask = rollout.attention_mask[rows]
    return model(
        input_ids=rollout.input_ids[rows],
        attention_mask=mask,
        position_ids=position_ids(mask),
        use_cache=False,
    ).logits


def critic_values(model, value_head, rollout: Rollout, rows=slice(None)):
    """The critic's value before each token, (B, T-1), aligned with the log-probabilities."""
    with models.using(model, "critic"):
        return shift_values(
            value_head(models.hidden_states(model, rollout.input_ids[rows], rollout.attention_mask[rows]))
        )


class KLController:
    """β, fixed or steered so that the KL approaches its target (arXiv 1909.08593, section 2.2)."""

    def __init__(self, cfg):
        self.beta, self.target, self.horizon = cfg.beta, cfg.target_kl, cfg.kl_horizon

    def update(self, kl: float, responses: int):
        """kl in nats per response; β changes by at most 0.2 · responses / horizon of itself."""
        if self.target:
            error = max(-0.2, min(0.2, kl / self.target - 1))
            self.beta *= 1 + error * responses / self.horizon


@torch.no_grad()
def measure(model, head, value_head, rollout: Rollout, cfg) -> dict:
    """What the update needs and must not change meanwhile: old log-probs, reference log-probs, values, all (B, T-1), and scores (B,).

    A response that never ended is scored lower by cfg.missing_eos_penalty, or the policy would learn to talk on. The old log-probs come from
    a forward pass like the ones that train, not from the sampling loop, whose cache may round differently.
    """
    parts = []
    for rows in torch.arange(len(rollout.prompts)).split(
        cfg.minibatch_size
    ):  # logits (B, T, V) of a large vocabulary fill a card
        ids, mask = rollout.input_ids[rows], shift_mask(rollout.response_mask[rows])
        logits = policy_logits(model, rollout, rows)
        with models.reference(model):
            ref_logprobs = response_logprobs(policy_logits(model, rollout, rows), ids, cfg.temperature)
        parts.append({
            "mask": mask, "ref_logprobs": ref_logprobs, "logprobs": response_logprobs(logits, ids, cfg.temperature),
            "entropies": shift_values(entropy(logits / cfg.temperature)), "values": critic_values(model, value_head, rollout, rows),
            "score": models.rewards(model, head, ids, rollout.attention_mask[rows])})  # fmt: skip
    old = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    old["entropy"] = masked_mean(old.pop("entropies"), old["mask"])
    old["penalised"] = old["score"] - cfg.missing_eos_penalty * (~rollout.ended).float()
    return old


def improve(
    model, value_head, optimizer, rollout: Rollout, old: dict, advantages, returns, cfg
) -> list[dict]:
    """cfg.epochs passes over the rollout in minibatches; returns each step's metrics. advantages, returns (B, T-1)."""
    steps = []
    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(rollout.prompts)).split(cfg.minibatch_size):
            mask = old["mask"][rows]
            new = response_logprobs(
                policy_logits(model, rollout, rows), rollout.input_ids[rows], cfg.temperature
            )
            policy_loss, metrics = ppo_policy_loss(
                new, old["logprobs"][rows], advantages[rows], mask, cfg.clip
            )
            values = critic_values(model, value_head, rollout, rows)
            value_loss, value_metrics = ppo_value_loss(
                values, old["values"][rows], returns[rows], mask, cfg.value_clip
            )
            (policy_loss + value_loss).backward()  # two disjoint sets of weights: one backward serves both
            norms = [
                torch.nn.utils.clip_grad_norm_(group["params"], cfg.max_grad_norm)
                for group in optimizer.param_groups
            ]
            if not torch.isfinite(
                policy_loss + value_loss + sum(norms)
            ):  # a finite loss can have a gradient that is not
                raise LabError(
                    "PPO's loss or its gradient is no longer a number. Most often the learning rate is too high: halve learning_rate "
                    "and critic_learning_rate, or raise beta. The earlier runs are untouched."
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps.append(
                {
                    key: float(value.detach())
                    for key, value in {
                        "policy_loss": policy_loss,
                        "value_loss": value_loss,
                        **metrics,
                        **value_metrics,
                    }.items()
                }
            )
    return steps


def alarm(first_ratio_error: float, kls):
    """Say on stderr what can't be right. kls (B,): each response's log π − log π_ref, summed."""
    if first_ratio_error > 0.01:
        print(f"Careful: before the first step of an update the ratio to the old policy was off by {first_ratio_error:.2g} in log, and should be 1: two "
              "forward passes of one policy disagree. Look for dropout, padding or low precision.", file=sys.stderr)  # fmt: skip
    if (
        kls.sum() < -3 * kls.norm()
    ):  # three standard errors below 0; a single batch near 0 may well come out negative
        print(f"Careful: KL to the reference is {kls.mean().item():.3g}, and a KL can't be negative: the responses were not sampled from the policy "
              "whose log-probabilities these are. Look for top-k, a minimum length or another temperature.", file=sys.stderr)  # fmt: skip


def train(cfg, run):
    """Improve the SFT policy with PPO (config.Ppo); leaves the policy's adapter/ in `run`.

    Logs per update: score (proxy reward, in standard deviations of the SFT policy's), gold (the judge's mean, atlas prompts only), kl (nats
    per response), length (tokens), entropy, clip_fraction, eos_rate, approx_kl, ratio_mean, ratio_var, symptom rates, beta, and
    first_ratio_error: max |log-ratio| on the update's first minibatch, 0 if sampling and training see the same policy.
    """
    sft_run, reward_run = runs.latest("sft", cfg.policy), runs.latest("reward", cfg.reward)
    model, tokenizer = models.load_base(models.base_of(sft_run, cfg.base))
    models.check_context(model, cfg)
    prompts = data.load_prompts(cfg.prompts)
    random.Random(cfg.seed).shuffle(prompts)
    run.info |= {"data_hash": runs.digest(prompts), "policy": models.adapter_id(sft_run)}
    chat.check_lengths(tokenizer, prompts, cfg.max_prompt_tokens)
    model = models.load_adapter(model, sft_run, "reference")
    model = models.load_adapter(model, reward_run, "reward")
    model = models.load_adapter(model, reward_run, "critic", trainable=True)
    model = models.load_adapter(model, sft_run, "policy", trainable=True)
    head = models.load_head(reward_run)
    value_head = models.Head(model.config.hidden_size).to(model.device)
    torch.nn.init.zeros_(
        value_head.weight
    )  # at first the critic expects 0, the mean of the reference policy's scores
    model.eval()  # no dropout anywhere: sampling and training see the same policy
    # eps 1e-5 and a warm-up: Adam's first steps are otherwise far larger than the original implementation's.
    optimizer = torch.optim.Adam([
        {"params": models.adapter_parameters(model, "policy"), "lr": cfg.learning_rate},
        {"params": [*models.adapter_parameters(model, "critic"), value_head.weight], "lr": cfg.critic_learning_rate}], eps=1e-5)  # fmt: skip
    warm_up = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: min(1.0, (update + 1) / max(1, cfg.warmup))
    )
    controller = KLController(cfg)
    history = []

    for update in range(cfg.updates):
        # Sample, score, spread the reward over the tokens, improve.
        chosen = [
            prompts[i % len(prompts)] for i in range(update * cfg.batch_size, (update + 1) * cfg.batch_size)
        ]
        models.use(model, "policy")
        rollout = sample(model, tokenizer, chosen, cfg.max_response_tokens, cfg.temperature)
        old = measure(model, head, value_head, rollout, cfg)
        token_rewards = shaped_rewards(
            old["penalised"], old["logprobs"], old["ref_logprobs"], old["mask"], controller.beta
        )
        advantages, returns = gae(token_rewards, old["values"], old["mask"], cfg.gamma, cfg.gae_lambda)
        steps = improve(
            model, value_head, optimizer, rollout, old, masked_whiten(advantages, old["mask"]), returns, cfg
        )
        warm_up.step()

        kls = masked_sum(
            old["logprobs"] - old["ref_logprobs"], old["mask"], dim=1
        )  # (B,); to the reference, not to the old policy
        kl = kls.mean().item()
        alarm(steps[0]["max_abs_logratio"], kls)
        mean = {key: sum(step[key] for step in steps) / len(steps) for key in steps[0]}
        entry = {"step": update + 1, "steps": cfg.updates, "score": old["score"].mean().item(), "kl": kl, "beta": controller.beta,
                 "length": rollout.lengths.float().mean().item(), "entropy": old["entropy"].item(), "eos_rate": rollout.ended.float().mean().item(),
                 **mean, "first_ratio_error": steps[0]["max_abs_logratio"], **rates(rollout.responses)}  # fmt: skip
        if all(find(prompt) for prompt in chosen):
            entry["gold"] = judged(chosen, rollout.responses)["gold"]
        entry |= {"prompt": chosen[0], "response": rollout.responses[0]}
        run.log(**entry)
        history.append(entry)
        controller.update(kl, cfg.batch_size)

    models.save_adapter(model, run, "policy")
    last = history[-3:]
    run.finish(updates=len(history), score_first=history[0]["score"], score=sum(e["score"] for e in last) / len(last),
               kl=sum(e["kl"] for e in last) / len(last), kl_max=max(e["kl"] for e in history), beta=controller.beta,
               first_ratio_error=max(e["first_ratio_error"] for e in history))  # fmt: skip
