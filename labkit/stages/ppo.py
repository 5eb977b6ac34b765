"""Stage 3b, reinforcement learning (增強式學習): PPO raises the reward model's score, held near the
reference by a KL penalty.

    objective = E[score(x, y)] − β · KL(π ‖ π_ref) + γ · E[log π(text)]      (arXiv 2203.02155, eq. 2; γ is cfg.ptx, 0 by default)
 One 4-bit base carries the LoRA adapters: policy (trained), reference (the SFT policy, frozen) and
reward (frozen). The critic is a head on the policy's hidden states, which starts at zero and whose
loss never touches the policy, or (critic="adapter") has an adapter of its own, which starts as the
reward model's. On the tiny base the head reached the same reward about twice as fast: no forward
pass of its own, half the weights to train. An update is: sample, score, spread the reward over the
tokens, improve.
 What write-ups of PPO for language models warn of is answered where it happens: sampling without
top-k and truncation at the first EOS in rollout.py; shifts, masks, whitening and KL estimators in
logprobs.py; clips, GAE and token rewards in losses.py; the reward head's start and normalisation in
models.py and reward.py; the rest here. Left out: several processes, so no seed per rank and nothing
to agree on across ranks; early stop on approx_kl, since the clip and the few epochs bound an update
already.
"""

import contextlib
import random
import sys

import torch

from labkit import LabError, atlas, models, runs
from labkit.atlas.symptoms import rates
from labkit.data import chat
from labkit.evals import judged
from labkit.maths.logprobs import (
    masked_mean,
    masked_sum,
    masked_var,
    masked_whiten,
    predicts,
    scattered_logprobs,
    shift_mask,
    shift_values,
)
from labkit.maths.losses import gae, ppo_policy_loss, ppo_value_loss, sft_loss, shaped_rewards
from labkit.rollout import Rollout, sample
from labkit.stages import checkpoint

WATCHED = 12  # times in a run, about, that the watched prompt is answered: a row alone takes as many steps as a batch


def policy_logprobs(model, batch, temperature: float):
    """(logprobs (b, t-1), hidden (b, t, d)) of the active adapter; batch: (input_ids,
    attention_mask, response_mask), all (b, t).
    """
    ids, attention_mask, response_mask = batch
    logits, hidden = models.logits_at(model, ids, attention_mask, predicts(response_mask))
    return scattered_logprobs(logits, ids, response_mask, temperature), hidden


def critic_values(model, value_head, batch, hidden=None):
    """The critic's value before each token, (b, t-1), aligned with the log-probabilities. hidden
    (b, t, d): the policy's, for a critic that is only a head.
    """
    ids, attention_mask, _ = batch
    if hidden is None:
        with models.using(model, "critic"):
            hidden = models.hidden_states(model, ids, attention_mask)
    else:
        hidden = hidden.detach()  # the critic's loss must not move the policy
    return shift_values(value_head(hidden))


class KLController:
    """β, fixed or steered so that the KL approaches its target (arXiv 1909.08593, section 2.2)."""

    def __init__(self, cfg):
        self.beta, self.target, self.horizon = cfg.beta, cfg.target_kl, cfg.kl_horizon

    def update(self, kl: float, responses: int):
        """kl in nats per response; β changes by at most 0.2 · responses / horizon of itself."""
        if self.target:
            error = max(-0.2, min(0.2, kl / self.target - 1))
            self.beta *= 1 + error * responses / self.horizon


class MicroBatch:
    """How many responses go through a forward and backward pass at once; halved when memory runs
    out.
    """

    def __init__(self, cfg):
        self.size = min(cfg.micro_batch_size or cfg.minibatch_size, cfg.minibatch_size)
        self.saved = {}  # bytes that autograd kept in the largest of the first passes: {"activations": …}

    def fit(self, work):
        """work(size), again with half the size where memory ran out. `work` must leave nothing half
        done.
        """
        while True:
            try:
                return work(self.size)
            except RuntimeError as error:
                if not isinstance(
                    error, torch.OutOfMemoryError
                ) and "can't allocate memory" not in str(error):
                    raise
            if self.size == 1:
                raise LabError(
                    "Memory ran out with a single response in a pass. Lower max_response_tokens or"
                    " lora_r, choose a smaller base, or close what else uses the memory."
                )
            self.size //= 2
            torch.cuda.empty_cache()  # does nothing on a CPU
            print(
                f"Memory ran out: going on with {self.size} responses a pass. Results stay the"
                " same, it takes longer.",
                file=sys.stderr,
            )


def score(model, heads: dict, rollout: Rollout, size: int, judge=None):
    """Scores (B,): the lowest of the reward adapters' (`heads`: {adapter: head}), or what
    `judge`(prompts, responses) says. Raises LabError for scores that can't be used.
    """
    if judge:
        try:
            found = torch.as_tensor(
                [float(x) for x in judge(rollout.prompts, rollout.responses)],
                device=rollout.input_ids.device,
            )
        except Exception as error:
            raise LabError(
                f"Your reward function failed: {type(error).__name__}: {error}. It gets two lists,"
                " prompts and responses, and returns a number for each."
            ) from error
        if found.shape != (len(rollout.prompts),):
            raise LabError(
                f"Your reward function gave {len(found)} numbers for {len(rollout.prompts)}"
                " responses. It must return one for each."
            )
    else:
        found = torch.zeros(len(rollout.prompts), device=rollout.input_ids.device)
        for rows, _, (ids, attention_mask, _) in rollout.parts(torch.arange(len(found)), size):
            each = [
                models.rewards(model, head, ids, attention_mask, adapter)
                for adapter, head in heads.items()
            ]
            found[rows] = torch.stack(each).amin(0)
    if not torch.isfinite(found).all():
        at = int((~torch.isfinite(found)).nonzero()[0])
        raise LabError(
            f"The reward of {rollout.responses[at][:60]!r} is {found[at].item()}, not a finite"
            f" number. Mend the reward {'function' if judge else 'model: train it again'}."
        )
    return found


@torch.no_grad()
def measure(model, heads, value_head, rollout: Rollout, cfg, size: int = 0, judge=None) -> dict:
    """What the update needs and must not change meanwhile: old log-probs, reference log-probs,
    values, all (B, T-1), and scores (B,).

    A response that never ended is scored lower by cfg.missing_eos_penalty, or the policy would
    learn to talk on. The sampler's own log-probs are used where it computes in float32 (they agree
    with a training forward to some 1e-4 and cost nothing); under half precision the two differ by
    rounding, so a forward like the ones that train gives them, and `sampling_error` is the largest
    difference.
    """
    mask, size = shift_mask(rollout.response_mask), size or cfg.minibatch_size
    exact = rollout.logprobs is not None and models.compute_dtype() == torch.float32
    known = exact and (cfg.critic == "adapter" or rollout.values is not None)
    old = {
        key: torch.zeros(mask.shape, device=mask.device)
        for key in ("logprobs", "ref_logprobs", "values")
    }
    if exact:
        old["logprobs"] = rollout.logprobs
        if cfg.critic == "head" and known:
            old["values"] = rollout.values
    for rows, columns, batch in rollout.parts(torch.arange(len(mask)), size):
        with models.reference(model):
            old["ref_logprobs"][rows, columns] = policy_logprobs(model, batch, cfg.temperature)[0]
        if cfg.critic == "adapter":
            old["values"][rows, columns] = critic_values(model, value_head, batch)
        if not known:
            logprobs, hidden = policy_logprobs(model, batch, cfg.temperature)
            old["logprobs"][rows, columns] = logprobs
            if cfg.critic == "head":
                old["values"][rows, columns] = critic_values(model, value_head, batch, hidden)
    old["mask"], old["score"] = mask, score(model, heads, rollout, size, judge)
    if rollout.logprobs is not None and not exact:
        old["sampling_error"] = (
            (rollout.logprobs - old["logprobs"]).where(mask.bool(), 0.0).abs().max().item()
        )
    old["penalised"] = (
        old["score"]
        - cfg.missing_eos_penalty * (~rollout.ended).float()
        - cfg.length_penalty * rollout.lengths
    )
    return old


def improve(
    model,
    value_head,
    optimizer,
    rollout: Rollout,
    old: dict,
    advantages,
    returns,
    cfg,
    micro=None,
    text=None,
    policy_learns=True,
) -> list[dict]:
    """cfg.epochs passes over the rollout in minibatches; returns each step's metrics. advantages,
    returns (B, T-1).

    A minibatch goes through in micro-batches of like length, each weighted by its share of the
    tokens: the gradient is the whole minibatch's. text: a function that gives rows of pre-training
    text, (input_ids, attention_mask) (b, t), for PPO-ptx.
    """
    micro, steps = micro or MicroBatch(cfg), []
    known = bool(
        micro.saved
    )  # what autograd keeps is counted once, over the parts of the first minibatch

    def gradients(rows, size):
        """Backward over one minibatch; returns its metrics."""
        optimizer.zero_grad(set_to_none=True)
        total, metrics = old["mask"][rows].sum(), {}
        for part, columns, batch in rollout.parts(rows, size):
            mask = old["mask"][part, columns]
            with contextlib.nullcontext() if steps or known else models.saved_bytes(micro.saved):
                new, hidden = policy_logprobs(model, batch, cfg.temperature)
                values = critic_values(
                    model, value_head, batch, hidden if cfg.critic == "head" else None
                )
            policy_loss, policy_metrics = ppo_policy_loss(
                new, old["logprobs"][part, columns], advantages[part, columns], mask, cfg.clip
            )
            value_loss, value_metrics = ppo_value_loss(
                values, old["values"][part, columns], returns[part, columns], mask, cfg.value_clip
            )
            share = mask.sum() / total
            (
                (policy_loss * policy_learns + value_loss) * share
            ).backward()  # two disjoint sets of weights: one backward serves both
            for key, value in {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                **policy_metrics,
                **value_metrics,
            }.items():
                value = value.detach()
                if key == "max_abs_logratio":
                    metrics[key] = torch.maximum(metrics.get(key, value), value)
                else:
                    metrics[key] = metrics.get(key, 0.0) + share * value
        if text and policy_learns:
            ids, attention_mask = text(len(rows))
            logits, _ = models.logits_at(model, ids, attention_mask, predicts(attention_mask))
            loss, _ = sft_loss(
                scattered_logprobs(logits, ids, attention_mask), shift_mask(attention_mask)
            )
            (cfg.ptx * loss).backward()
            metrics["ptx_loss"] = loss.detach()
        return metrics

    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(rollout.prompts)).split(cfg.minibatch_size):
            metrics = micro.fit(lambda size, rows=rows: gradients(rows, size))
            norms = [
                torch.nn.utils.clip_grad_norm_(group["params"], cfg.max_grad_norm)
                for group in optimizer.param_groups
            ]
            if not torch.isfinite(
                metrics["policy_loss"] + metrics["value_loss"] + sum(norms)
            ):  # a finite loss can have a gradient that is not
                raise LabError(
                    "PPO's loss or its gradient is no longer a number. Most often the learning rate"
                    " is too high: halve learning_rate and critic_learning_rate, or raise beta."
                )
            optimizer.step()
            steps.append({key: float(value) for key, value in metrics.items()})
    optimizer.zero_grad(set_to_none=True)
    return steps


def alarm(first_ratio_error: float, kls):
    """Say on stderr what can't be right. kls (B,): each response's log π − log π_ref, summed."""
    if first_ratio_error > 0.01:
        print(
            "Careful: before the first step of an update the ratio to the old policy was off by"
            f" {first_ratio_error:.2g} in log, and should be 1: two forward passes of one policy"
            " disagree. Look for dropout, padding or low precision.",
            file=sys.stderr,
        )
    if (
        kls.sum() < -3 * kls.norm()
    ):  # three standard errors below 0; a single batch near 0 may well come out negative
        print(
            f"Careful: KL to the reference is {kls.mean().item():.3g}, and a KL can't be negative:"
            " the responses were not sampled from the policy whose log-probabilities these are."
            " Look for top-k, a minimum length or another temperature.",
            file=sys.stderr,
        )


def notice(scores, rollout: Rollout, said: set):
    """Say on stderr, once a run (`said`), what leaves nothing to learn from in a rollout. scores
    (B,).
    """
    found = {
        "every response of a rollout got the same reward, so only the KL penalty moves the policy. Look at the reward.": (
            len(scores) > 1 and not (scores != scores[0]).any()
        ),
        "every response of a rollout was empty. Start from an SFT run that answers, or raise beta.": (
            (rollout.lengths == 1).all() and rollout.ended.all()
        ),
        "no response of a rollout ended by itself, all were cut. Raise max_response_tokens, or start from an SFT run that ends its answers.": (
            not rollout.ended.any()
        ),
    }
    for sentence, holds in found.items():
        if holds and sentence not in said:
            said.add(sentence)
            print(f"Careful: {sentence}", file=sys.stderr)


def text_rows(tokenizer, cfg, device):
    """A function n → (input_ids, attention_mask) (n, t): documents of cfg.ptx_text, cut to the
    width of a rollout.
    """
    documents, width = (
        atlas.load_text(cfg.ptx_text),
        cfg.max_prompt_tokens + cfg.max_response_tokens,
    )
    rows = [
        row
        for row in (chat.encode_text(tokenizer, text)[:width] for text in documents)
        if len(row) > 1
    ]
    if not rows:
        raise LabError(
            f"ptx_text {cfg.ptx_text!r} holds no text of two tokens or more. Name a longer text."
        )

    def draw(n: int):
        chosen = [rows[int(i)] for i in torch.randint(len(rows), (n,))]
        return tuple(x.to(device) for x in chat.pad(chosen, tokenizer.pad_token_id))

    return draw


def train(cfg, run, judge=None, probe=None):
    """Improve the SFT policy with PPO (config.Ppo); leaves the policy's adapter/ in `run`. A run of
    runs.resume goes on exactly where its checkpoint was.

    judge: a function of (prompts, responses) → one number each, in place of the reward model.
    probe: a function of (model, tokenizer, update) → a dict of figures to log with that update,
    asked while the policy is the active adapter. Logs per update: score (proxy reward, in standard
    deviations of the SFT policy's), gold (the judge's mean, atlas prompts only), kl (nats per
    response, to the reference), length (tokens), entropy (nats per token, from the sampled tokens),
    clip_fraction, eos_rate, approx_kl, ratio_mean, ratio_var, symptom rates, beta,
    first_ratio_error: max |log-ratio| on the update's first minibatch, 0 if sampling and training
    see the same policy (and sampling_error under half precision); explained_variance of the critic;
    prompt and response (one sampled), watch_prompt and watch_response (one prompt, greedy).

    Interrupted once, it ends whole after the update at work and can go on with runs.resume. Raises
    LabError, with the last checkpoint kept, for a loss or a reward that is no number and for a KL
    above cfg.max_kl.
    """
    sft_run = runs.latest("sft", cfg.policy)
    model, tokenizer = models.load_base(models.base_of(sft_run, cfg.base))
    models.check_context(model, cfg)
    prompts = atlas.load_prompts(cfg.prompts)
    random.Random(cfg.seed).shuffle(prompts)
    watch = cfg.watch or prompts[0]
    run.info |= {"data_hash": runs.digest(prompts), "policy": models.adapter_id(sft_run)}
    chat.check_lengths(tokenizer, [*prompts, watch], cfg.max_prompt_tokens)
    text = text_rows(tokenizer, cfg, model.device) if cfg.ptx else None

    reward_runs = (
        [] if judge else [runs.latest("reward", name.strip()) for name in cfg.reward.split(",")]
    )
    model, heads = models.load_adapter(model, sft_run, "reference"), {}
    for i, reward_run in enumerate(reward_runs):
        name = f"reward{i or ''}"
        model, heads[name] = (
            models.load_adapter(model, reward_run, name),
            models.load_head(reward_run),
        )
    if cfg.critic == "adapter":
        model = models.load_adapter(
            model, reward_runs[0] if reward_runs else sft_run, "critic", trainable=True
        )
    model = models.load_adapter(model, sft_run, "policy", trainable=True)
    value_head = models.Head(model.config.hidden_size).to(model.device)
    torch.nn.init.zeros_(
        value_head.weight
    )  # at first the critic expects 0, the mean of the reference policy's scores
    model.eval()  # no dropout anywhere: sampling and training see the same policy

    policy, critic = (models.adapter_parameters(model, name) for name in ("policy", "critic"))
    # eps 1e-5 and a warm-up: Adam's first steps are otherwise far larger than the original
    # implementation's.
    optimizer = torch.optim.Adam(
        [
            {"params": policy, "lr": cfg.learning_rate},
            {"params": [*critic, value_head.weight], "lr": cfg.critic_learning_rate},
        ],
        eps=1e-5,
    )
    controller, micro = KLController(cfg), MicroBatch(cfg)
    state = {str(i): weight for i, weight in enumerate([*policy, *critic, value_head.weight])}
    done, said = go_on(run, state, optimizer, controller, micro), set()

    with runs.interruptible() as stop:
        for update in range(done, cfg.updates):
            for group, rate in zip(
                optimizer.param_groups, (cfg.learning_rate, cfg.critic_learning_rate), strict=True
            ):
                group["lr"] = rate * min(1.0, (update + 1) / max(1, cfg.warmup))
            # Sample, score, spread the reward over the tokens, improve.
            chosen = [
                prompts[i % len(prompts)]
                for i in range(update * cfg.batch_size, (update + 1) * cfg.batch_size)
            ]
            models.use(model, "policy")
            rollout = sample(
                model,
                tokenizer,
                chosen,
                cfg.max_response_tokens,
                cfg.temperature,
                value_head=value_head if cfg.critic == "head" else None,
            )
            try:
                old = micro.fit(
                    lambda size, rollout=rollout: measure(
                        model, heads, value_head, rollout, cfg, size, judge
                    )
                )
                token_rewards = shaped_rewards(
                    old["penalised"],
                    old["logprobs"],
                    old["ref_logprobs"],
                    old["mask"],
                    controller.beta,
                )
                if cfg.normalize_rewards:
                    token_rewards = masked_whiten(token_rewards, old["mask"], shift_mean=False)
                advantages, returns = gae(
                    token_rewards, old["values"], old["mask"], cfg.gamma, cfg.gae_lambda
                )
                steps = improve(
                    model,
                    value_head,
                    optimizer,
                    rollout,
                    old,
                    masked_whiten(advantages, old["mask"]),
                    returns,
                    cfg,
                    micro,
                    text,
                    policy_learns=update >= cfg.critic_warmup,
                )
            except LabError as error:
                raise LabError(f"{error} {kept(run)}") from error

            kls = masked_sum(
                old["logprobs"] - old["ref_logprobs"], old["mask"], dim=1
            )  # (B,); to the reference, not to the old policy
            kl = kls.mean().item()
            alarm(steps[0]["max_abs_logratio"], kls)
            notice(old["score"], rollout, said)
            mean = {key: sum(step[key] for step in steps) / len(steps) for key in steps[0]}
            unexplained = masked_var(returns - old["values"], old["mask"]) / masked_var(
                returns, old["mask"]
            ).clamp(min=1e-8)
            entry = {
                "step": update + 1,
                "steps": cfg.updates,
                "score": old["score"].mean().item(),
                "kl": kl,
                "beta": controller.beta,
                "length": rollout.lengths.float().mean().item(),
                "entropy": -masked_mean(old["logprobs"], old["mask"]).item(),
                "eos_rate": rollout.ended.float().mean().item(),
                **mean,
                "first_ratio_error": steps[0]["max_abs_logratio"],
                **({"sampling_error": old["sampling_error"]} if "sampling_error" in old else {}),
                "explained_variance": 1 - unexplained.item(),
                **rates(rollout.responses),
            }
            if all(atlas.find(prompt) for prompt in chosen):
                entry["gold"] = judged(chosen, rollout.responses)["gold"]
            if update % max(1, cfg.updates // WATCHED) == 0 or update + 1 == cfg.updates:
                greedy = sample(model, tokenizer, [watch], cfg.max_response_tokens, 0.0)
                entry |= {"watch_prompt": watch, "watch_response": greedy.responses[0]}
            if probe:
                entry |= probe(model, tokenizer, update + 1)
            run.log(**entry, prompt=chosen[0], response=rollout.responses[0])
            controller.update(kl, cfg.batch_size)
            if kl > cfg.max_kl:
                raise LabError(
                    f"The KL to the reference ran away: {kl:.3g} nats per response in update"
                    f" {update + 1}, and max_kl is {cfg.max_kl:g}. Nothing holds the policy: raise"
                    f" beta, set target_kl, or lower learning_rate. {kept(run)}"
                )
            if stop.is_set() or (cfg.checkpoint_every and not (update + 1) % cfg.checkpoint_every):
                save(run, update + 1, state, optimizer, controller, micro)
            if stop.is_set():
                break

    models.save_adapter(model, run, "policy")
    history = run.metrics()
    if len(history) == cfg.updates:
        (run.path / runs.CHECKPOINT).unlink(missing_ok=True)
    else:
        print(
            f"Stopped after update {len(history)} of {cfg.updates}. {run.name} is whole and can be"
            f" used; to go on: runs.resume({run.name!r})",
            file=sys.stderr,
        )
    last = history[-3:]
    run.finish(
        updates=len(history),
        score_first=history[0]["score"],
        score=sum(e["score"] for e in last) / len(last),
        kl=sum(e["kl"] for e in last) / len(last),
        kl_max=max(e["kl"] for e in history),
        beta=controller.beta,
        first_ratio_error=max(e["first_ratio_error"] for e in history),
        memory={
            **models.memory(model, optimizer),
            **micro.saved,
            "kv_cache": models.kv_bytes(
                model, cfg.batch_size, cfg.max_prompt_tokens + cfg.max_response_tokens
            ),
        },
    )


def save(run, update: int, state: dict, optimizer, controller, micro):
    """A checkpoint after `update`; a disk that is full costs this one, not the run."""
    try:
        checkpoint.save(
            run.path, state, optimizer, update=update, beta=controller.beta, micro=micro.size
        )
    except OSError as error:
        print(
            f"Careful: the checkpoint of update {update} could not be written ({error}); the one"
            " before stays, training goes on.",
            file=sys.stderr,
        )


def go_on(run, state: dict, optimizer, controller, micro) -> int:
    """Put the run's checkpoint back, if it has one, and drop what was logged after it; returns how
    many updates are done.
    """
    if not (run.path / runs.CHECKPOINT).exists():
        return 0
    facts = checkpoint.load(run.path, state, optimizer)
    controller.beta, micro.size = facts["beta"], min(facts["micro"], micro.size)
    run.rewind(facts["update"])
    return facts["update"]


def kept(run) -> str:
    """What an interrupted run leaves, and how to go on."""
    if (run.path / runs.CHECKPOINT).exists():
        return (
            "The last good checkpoint is kept. Go on from it with other settings:"
            f" runs.resume({run.name!r}, learning_rate=…) in a notebook, or python -m labkit train"
            f" ppo --resume {run.name} --learning-rate …"
        )
    return "There is no checkpoint yet; the earlier runs are untouched."
