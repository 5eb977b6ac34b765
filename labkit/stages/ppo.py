"""Stage 3b, reinforcement learning (增強式學習): PPO raises the reward model's score, held near the
reference by a KL penalty.

    objective = E[score(x, y)] − β · KL(π ‖ π_ref) + γ · E[log π(text)]

(arXiv 2203.02155, eq. 2; γ is cfg.ptx, 0 by default.) An update samples, measures, spreads the
reward over the tokens (credit) and improves; `train` is that loop. ppo_players.py says who plays,
maths/policy_gradient.py and logprobs.py hold the formulas, ppo_guard.py what a run is guarded by.

What write-ups of PPO for language models warn of is answered where it happens: sampling without
top-k and truncation at the first EOS in rollout/sampling.py; shifts, masks, whitening and KL
estimators in maths/logprobs.py; clips and GAE in maths/policy_gradient.py; the reward head's start
and normalisation in models and reward.py; the rest here. Left out: early stop on approx_kl, since
the clip and the few epochs bound an update already.

Several processes (ranks.py) sample and measure a part of the prompts each. Their rollouts are
joined, so that whitening, reports and alarms see the whole batch, and each goes through its part of
every minibatch.
"""

import random
from dataclasses import dataclass

import torch

from labkit import LabError, atlas, models, ranks, rollout, runs
from labkit.data import chat
from labkit.maths.logprobs import masked_whiten, predicts, scattered, scattered_logprobs, shift_mask
from labkit.maths.losses import sft_loss
from labkit.maths.policy_gradient import gae, ppo_policy_loss, ppo_value_loss, shaped_rewards
from labkit.maths.rewards import whiten
from labkit.stages.ppo_guard import Guard
from labkit.stages.ppo_players import Players, score, seat
from labkit.stages.ppo_report import pooled, report, text_rows, watched

# --- measure ---


@dataclass
class Experience:
    """What the update needs and must not change meanwhile, of B responses and T − 1 predicted
    tokens each.

    logprobs, ref_logprobs, values, mask (B, T-1), aligned as in maths.logprobs: log π and log π_ref
    of each token, what the critic expected before it, and 1 at response tokens. scores (B,): the
    reward model's, untouched. ended (B,): True where the response closed with EOS. sampling_error:
    max |log π of the sampler − of a training forward|, or None.
    """

    logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    scores: torch.Tensor
    ended: torch.Tensor
    sampling_error: float | None = None


def token_logprobs(forward, batch, temperature: float):
    """(log-probabilities (b, t-1), hidden (N, d) at the N places that predict a response token) of
    batch: (input_ids, attention_mask, response_mask), all (b, t).
    """
    ids, attention_mask, response_mask = batch
    logits, hidden = forward.logits_at(ids, attention_mask, predicts(response_mask))
    return scattered_logprobs(logits, ids, response_mask, temperature), hidden


def critic_values(players: Players, batch, hidden=None):
    """The critic's value before each response token (b, t-1). hidden (N, d): the policy's."""
    ids, attention_mask, response_mask = batch
    if players.critic is not None:
        hidden = players.critic.hidden_at(ids, attention_mask, predicts(response_mask))
    else:
        hidden = hidden.detach()  # the critic's loss must not move the policy
    return scattered(players.value_head(hidden), response_mask)


@torch.no_grad()
def measure(players: Players, rollout: rollout.Rollout, cfg) -> Experience:
    """The players' opinions of a rollout.

    The sampler's own log-probs are used where it computes in float32 (they agree with a training
    forward to some 1e-4 and cost nothing); under half precision the two differ by rounding, so a
    forward like the ones that train gives them, and `sampling_error` is the largest difference.
    """
    mask, temperature = shift_mask(rollout.response_mask), cfg.temperature
    exact = rollout.logprobs is not None and players.model.dtype == torch.float32
    again = not exact or (players.critic is None and rollout.values is None)

    def opinions(size):
        logprobs, ref_logprobs, values = mask.new_zeros((3, *mask.shape), dtype=torch.float32)
        for rows, columns, batch in rollout.parts(range(len(mask)), size):
            at = (rows, columns)
            ref_logprobs[at], _ = token_logprobs(players.reference, batch, temperature)
            hidden = None
            if again:
                logprobs[at], hidden = token_logprobs(players.policy, batch, temperature)
            if again or players.critic is not None:
                values[at] = critic_values(players, batch, hidden)
        return logprobs, ref_logprobs, values

    logprobs, ref_logprobs, values = players.passes.fit(opinions)
    error = None
    if exact:
        logprobs = rollout.logprobs
        values = values if again or players.critic is not None else rollout.values
    elif rollout.logprobs is not None:
        error = (rollout.logprobs - logprobs).where(mask.bool(), 0.0).abs().max().item()
    scores = score(players, rollout)
    return Experience(logprobs, ref_logprobs, values, mask, scores, rollout.ended, error)


# --- credit ---


def credit(experience: Experience, cfg, beta: float):
    """(advantages, whitened; returns), both (B, T-1): the score at the last token, less the
    penalties, and −β log π/π_ref at each token, spread back over the tokens by GAE.
    Pure: tensors in, tensors out.
    """
    mask, scores = experience.mask, experience.scores
    scores = whiten(scores) if cfg.combine == "piecewise" else scores
    scores = scores - cfg.length_penalty * mask.sum(1)
    scores = scores - cfg.missing_eos_penalty * (~experience.ended).float()  # or it talks on
    rewards = shaped_rewards(scores, experience.logprobs, experience.ref_logprobs, mask, beta)
    if cfg.normalize_rewards:
        rewards = masked_whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(rewards, experience.values, mask, cfg.gamma, cfg.gae_lambda)
    return masked_whiten(advantages, mask), returns


class KLController:
    """β (`value`), fixed or steered so that the KL approaches its target (arXiv 1909.08593, section
    2.2).
    """

    def __init__(self, cfg):
        self.value, self.target, self.horizon = cfg.beta, cfg.target_kl, cfg.kl_horizon

    def update(self, kl: float, responses: int):
        """kl in nats per response; β changes by at most 0.2 · responses / horizon of itself."""
        if self.target:
            error = max(-0.2, min(0.2, kl / self.target - 1))
            self.value *= 1 + error * responses / self.horizon


# --- improve ---


def improve(
    players, optimizer, rollout, experience, advantages, returns, cfg, text=None
) -> list[dict]:
    """cfg.epochs passes over the rollout in minibatches; returns each step's metrics. advantages,
    returns (B, T-1).

    text: a function that gives n rows of pre-training text, (input_ids, attention_mask) (n, t), for
    PPO-ptx.
    """
    old, steps = experience, []

    def minibatch(rows, size, extra):
        """Backward over this process's part of `rows`, in parts of at most `size` responses of like
        length, each weighted by its share of the minibatch's tokens: the gradients of all parts add
        up to the whole minibatch's. Returns each part's (share, metrics), and ptx's share of loss.
        """
        optimizer.zero_grad(set_to_none=True)  # also what a pass left that ran out of memory
        total, found = old.mask[rows].sum(), []
        for part, columns, batch in rollout.parts(ranks.own(rows), size):
            at = (part, columns)
            mask = old.mask[at]
            with players.passes.counted(players.model):
                new, hidden = token_logprobs(players.policy, batch, cfg.temperature)
                values = critic_values(players, batch, hidden)
            policy_loss, of_policy = ppo_policy_loss(
                new, old.logprobs[at], advantages[at], mask, cfg.clip
            )
            value_loss, of_critic = ppo_value_loss(
                values, old.values[at], returns[at], mask, cfg.value_clip
            )
            share = mask.sum() / total
            # Two disjoint sets of weights: one backward serves both.
            ((policy_loss + value_loss) * share).backward()
            losses = {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach()}
            found.append((share, losses | of_policy | of_critic))
        if extra is None:
            return found, None
        ids, attention_mask, share = extra
        new, _ = token_logprobs(players.policy, (ids, attention_mask, attention_mask), 1.0)
        loss, _ = sft_loss(new, shift_mask(attention_mask))
        (cfg.ptx * share * loss).backward()
        return found, share * loss.detach()

    for _ in range(cfg.epochs):
        for rows in ranks.first(torch.randperm, len(old.scores)).split(cfg.minibatch_size):
            extra = text_part(text, len(rows)) if text else None
            found, ptx_loss = players.passes.fit(
                lambda size, rows=rows, extra=extra: minibatch(rows, size, extra)
            )
            metrics = pooled(ranks.gathered(found))
            if text:
                metrics["ptx_loss"] = ranks.total(ptx_loss)
            ranks.add_gradients(p for group in optimizer.param_groups for p in group["params"])
            norms = [
                torch.nn.utils.clip_grad_norm_(group["params"], cfg.max_grad_norm)
                for group in optimizer.param_groups
            ]
            if not torch.isfinite(metrics["policy_loss"] + metrics["value_loss"] + sum(norms)):
                raise LabError(  # a finite loss can have a gradient that is not
                    "PPO's loss or its gradient is no longer a number. Most often the learning rate"
                    " is too high: halve learning_rate and critic_learning_rate, or raise beta."
                )
            optimizer.step()
            players.refresh()
            steps.append({key: float(value) for key, value in metrics.items()})
    optimizer.zero_grad(set_to_none=True)
    return steps


def text_part(text, n: int):
    """This process's part of n rows of `text`: (input_ids, attention_mask, its share of their
    tokens).
    """
    ids, attention_mask = text(n // ranks.world())
    tokens = shift_mask(attention_mask).sum()
    return ids, attention_mask, tokens / ranks.total(tokens)


def warm_up(optimizer, cfg, update: int):
    """The update's learning rates: a line up over cfg.warmup updates; the policy's is 0 in the
    first cfg.critic_warmup.
    """
    up = min(1.0, (update + 1) / max(1, cfg.warmup))
    policy, critic = optimizer.param_groups
    policy["lr"] = cfg.learning_rate * up * (update >= cfg.critic_warmup)
    critic["lr"] = cfg.critic_learning_rate * up


# --- the loop ---


def train(cfg, run, judge=None, probe=None):
    """Improve the SFT policy with PPO (config.Ppo); leaves the policy's adapter/ in `run`. A run of
    runs.resume goes on exactly where its checkpoint was.

    judge: a function of (prompts, responses) → one number each, in place of the reward model.
    probe: a function of (players, rollout, update) → a dict of figures to log with that update,
    such as evals.probe's gold mark; the policy is the active adapter. What is logged: see `report`.

    Interrupted once, it ends whole after the update at work and can go on with runs.resume. Raises
    LabError, with the last checkpoint kept, for a loss or a reward that is no number and for a KL
    above cfg.max_kl.
    """
    for name in ("batch_size", "minibatch_size"):
        ranks.share(getattr(cfg, name), name)
    players = seat(cfg, run, judge)
    fits = chat.fits(players.tokenizer, cfg.max_prompt_tokens)
    prompts = atlas.load_prompts(cfg.prompts, 0, fits, cfg.updates * cfg.batch_size)
    prompts[:] = chat.endings(players.tokenizer, prompts, cfg.max_prompt_tokens)
    random.Random(cfg.seed).shuffle(prompts)
    watch = cfg.watch or prompts[0]
    run.note_data(prompts)
    chat.check_lengths(players.tokenizer, [*prompts, watch], cfg.max_prompt_tokens)
    text = text_rows(players, cfg) if cfg.ptx else None
    policy, critic = players.trained()
    # eps 1e-5 and a warm-up: Adam's first steps are otherwise far larger than the original
    # implementation's.
    optimizer = torch.optim.Adam([{"params": policy}, {"params": critic}], eps=1e-5)
    beta = KLController(cfg)
    guard = Guard(cfg, run, players, optimizer, beta)

    with guard, runs.interruptible() as stop:
        for update in range(guard.resume(), cfg.updates):
            warm_up(optimizer, cfg, update)
            ranks.reseed(cfg.seed, update)
            rollout = players.sample(ranks.own(batch_of(prompts, update, cfg)), cfg)
            experience = ranks.joined(measure(players, rollout, cfg))
            rollout = ranks.joined(rollout)
            advantages, returns = credit(experience, cfg, beta.value)
            steps = improve(players, optimizer, rollout, experience, advantages, returns, cfg, text)
            seen = (update, rollout, experience, returns, steps, beta.value, cfg)
            entry = ranks.first(figures, seen, players, watch, probe)
            run.log(**entry, prompt=rollout.prompts[0], response=rollout.responses[0])
            beta.update(entry["kl"], cfg.batch_size)
            guard.check(entry, experience, rollout)
            stopping = guard.agree(stop.is_set())
            if guard.due(update) or stopping:
                guard.save(update + 1)
            if stopping:
                break

    models.save_adapter(players.model, run, "policy")
    guard.finish()


def figures(seen: tuple, players, watch: str, probe) -> dict:
    """What an update is logged as: the report on what was `seen`, the watched answer, the probe."""
    update, rollout, *_, cfg = seen
    entry = report(*seen) | watched(players, watch, update, cfg)
    return entry | (probe(players, rollout, update + 1) if probe else {})


def batch_of(prompts: list[str], update: int, cfg) -> list[str]:
    """The update's prompts: the next cfg.batch_size, from the start again after the last."""
    first = update * cfg.batch_size
    return [prompts[i % len(prompts)] for i in range(first, first + cfg.batch_size)]
