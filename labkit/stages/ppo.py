"""Stage 3b, reinforcement learning (增強式學習): PPO raises the reward model's score, held near the
reference by a KL penalty.

    objective = E[score(x, y)] − β · KL(π ‖ π_ref) + γ · E[log π(text)]

(arXiv 2203.02155, eq. 2; γ is cfg.ptx, 0 by default.) An update samples, measures, spreads the reward over the tokens
(credit), and improves; `train` is that loop. What guards it (alarms, memory, checkpoints) stands in ppo_guard.py.

One 4-bit base carries the players' LoRA adapters: policy (trained), reference (the SFT policy, frozen), reward
(frozen). The critic is a head on the policy's hidden states that starts at zero and whose loss never touches the
policy, or (critic="adapter") has an adapter of its own, which starts as the reward model's. On the tiny base the head
reached the same reward about twice as fast: no forward pass of its own, half the weights to train.

What write-ups of PPO for language models warn of is answered where it happens: sampling without top-k and truncation
at the first EOS in rollout/sampling.py; shifts, masks, whitening and KL estimators in maths/logprobs.py; clips, GAE and
token rewards in maths/losses.py; the reward head's start and normalisation in models and reward.py; the rest here. Left
out: several processes, so no seed per rank and nothing to agree on across ranks; early stop on approx_kl, since the
clip and the few epochs bound an update already.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from labkit import LabError, atlas, models, rollout, runs
from labkit.data import chat
from labkit.maths.logprobs import (
    last_places,
    masked_mean,
    masked_sum,
    masked_var,
    masked_whiten,
    predicts,
    scattered,
    scattered_logprobs,
    shift_mask,
)
from labkit.maths.losses import gae, ppo_policy_loss, ppo_value_loss, sft_loss, shaped_rewards
from labkit.stages.ppo_guard import Guard, MicroBatch

WATCHED = 12  # times in a run, about, that the watched prompt is answered: a row alone takes as many steps as a batch


# --- who plays ---


@dataclass
class Players:
    """The roles, as forward passes (models.dense) of adapters on one base. `judge` replaces the reward models."""

    model: torch.nn.Module
    tokenizer: object
    policy: object
    reference: object
    rewards: list[tuple]  # (forward pass, head) of each reward model; the lowest score counts
    critic: object | None  # None: the value head reads the policy's hidden states
    value_head: models.Head
    judge: Callable | None = None
    passes: MicroBatch = None

    def sample(self, prompts: list[str], cfg) -> rollout.Rollout:
        """One response of the policy to each prompt, with the head's values on the way if that is the critic."""
        models.use(self.model, "policy")
        head = self.value_head if self.critic is None else None
        n, temperature = cfg.max_response_tokens, cfg.temperature
        return rollout.sample(self.model, self.tokenizer, prompts, n, temperature, value_head=head)

    def trained(self) -> tuple[list, list]:
        """(the policy's parameters, the critic's)."""
        policy, critic = (
            models.adapter_parameters(self.model, name) for name in ("policy", "critic")
        )
        return policy, [*critic, self.value_head.weight]

    def refresh(self):
        """After a step: the forward passes see the adapters as they are now."""
        for one in filter(None, (self.policy, self.critic)):
            one.refresh()


def seat(cfg, run, judge=None) -> Players:
    """Load the base once and every role's adapter on it. Writes into run.info whom it took, by name and fingerprint.

    Raises LabError where a resumed run would go on with others than it began with.
    """
    sft = runs.latest("sft", cfg.policy)
    rewards = (
        [] if judge else [runs.latest("reward", name.strip()) for name in cfg.reward.split(",")]
    )
    took = {
        "judge": getattr(judge, "__name__", type(judge).__name__) if judge else "",
        "policy": models.adapter_id(sft),
        "rewards": [models.adapter_id(one) for one in rewards],
    }
    for role, one in took.items():
        before = run.info.get(role, one)
        if role == "judge" and before != one:
            raise LabError(
                f"{run.name} was rewarded by {f'the function {before!r}' if before else 'a reward model'}. Go on with the"
                " same: ppo.train(run.config, run, judge=…)."
            )
        if before != one:
            raise LabError(
                f"{run.name} began with another {role} adapter than there is now. Start a new run."
            )
    run.info |= took
    # The names found now stay the run's: a later SFT or reward run must not slip in when it is resumed.
    run.info["config"] |= {"policy": sft.name, "reward": ",".join(one.name for one in rewards)}
    run.note()

    model, tokenizer = models.load_base(models.base_of(sft, cfg.base))
    models.check_context(model, cfg)
    model = models.load_adapter(model, sft, "reference")
    for i, one in enumerate(rewards):
        model = models.load_adapter(model, one, f"reward{i or ''}")
    if cfg.critic == "adapter":
        model = models.load_adapter(model, (rewards or [sft])[0], "critic", trainable=True)
    model = models.load_adapter(model, sft, "policy", trainable=True).eval()  # no dropout anywhere
    value_head = models.Head(model.config.hidden_size).to(model.device)
    torch.nn.init.zeros_(
        value_head.weight
    )  # at first it expects 0, the mean of the reference's scores
    return Players(
        model,
        tokenizer,
        models.forward(model, "policy"),
        models.forward(model, "reference"),
        [
            (models.forward(model, f"reward{i or ''}"), models.load_head(one))
            for i, one in enumerate(rewards)
        ],
        models.forward(model, "critic") if cfg.critic == "adapter" else None,
        value_head,
        judge,
        MicroBatch(cfg),
    )


# --- measure ---


@dataclass
class Experience:
    """What the update needs and must not change meanwhile, of B responses and T − 1 predicted tokens each.

    logprobs, ref_logprobs, values, mask (B, T-1), aligned as in maths.logprobs: log π and log π_ref of each token, what
    the critic expected before it, and 1 at response tokens. scores (B,): the reward model's, untouched. ended (B,):
    True where the response closed with EOS. sampling_error: max |log π of the sampler − of a training forward|, or None.
    """

    logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    scores: torch.Tensor
    ended: torch.Tensor
    sampling_error: float | None = None


def token_logprobs(forward, batch, temperature: float):
    """(log-probabilities (b, t-1), hidden (N, d) at the N places that predict a response token).

    batch: (input_ids, attention_mask, response_mask), all (b, t).
    """
    ids, attention_mask, response_mask = batch
    logits, hidden = forward.logits_at(ids, attention_mask, predicts(response_mask))
    return scattered_logprobs(logits, ids, response_mask, temperature), hidden


def critic_values(players: Players, batch, hidden=None):
    """The critic's value before each response token (b, t-1). hidden (N, d): the policy's, for a critic that is a head."""
    ids, attention_mask, response_mask = batch
    if players.critic is not None:
        hidden = players.critic.hidden_at(ids, attention_mask, predicts(response_mask))
    else:
        hidden = hidden.detach()  # the critic's loss must not move the policy
    return scattered(players.value_head(hidden), response_mask)


@torch.no_grad()
def measure(players: Players, rollout: rollout.Rollout, cfg) -> Experience:
    """The players' opinions of a rollout.

    The sampler's own log-probs are used where it computes in float32 (they agree with a training forward to some 1e-4
    and cost nothing); under half precision the two differ by rounding, so a forward like the ones that train gives
    them, and `sampling_error` is the largest difference.
    """
    mask = shift_mask(rollout.response_mask)
    exact = rollout.logprobs is not None and players.model.dtype == torch.float32
    again = not exact or (players.critic is None and rollout.values is None)

    def opinions(size):
        logprobs, ref_logprobs, values = (
            torch.zeros(mask.shape, device=mask.device) for _ in range(3)
        )
        for rows, columns, batch in rollout.parts(range(len(mask)), size):
            ref_logprobs[rows, columns] = token_logprobs(players.reference, batch, cfg.temperature)[
                0
            ]
            hidden = None
            if again:
                logprobs[rows, columns], hidden = token_logprobs(
                    players.policy, batch, cfg.temperature
                )
            if again or players.critic is not None:
                values[rows, columns] = critic_values(players, batch, hidden)
        return logprobs, ref_logprobs, values

    logprobs, ref_logprobs, values = players.passes.fit(opinions)
    error = None
    if exact:
        logprobs = rollout.logprobs
        values = values if again or players.critic is not None else rollout.values
    elif rollout.logprobs is not None:
        error = masked_sum((rollout.logprobs - logprobs).abs(), mask, dim=1).max().item()
    return Experience(
        logprobs, ref_logprobs, values, mask, score(players, rollout), rollout.ended, error
    )


@torch.no_grad()
def score(players: Players, rollout: rollout.Rollout):
    """Scores (B,): the lowest of the reward models', or what the judge says. Raises LabError for scores that can't be used."""
    device, n = rollout.input_ids.device, len(rollout.prompts)

    def scores(size):
        found = torch.zeros(n, device=device)
        for rows, _, (ids, attention_mask, _) in rollout.parts(range(n), size):
            last = last_places(attention_mask)
            each = [
                head(forward.hidden_at(ids, attention_mask, last))
                for forward, head in players.rewards
            ]
            found[rows] = torch.stack(each).amin(0)
        return found

    if not players.judge:
        found = players.passes.fit(scores)
    else:
        try:
            said = [float(x) for x in players.judge(rollout.prompts, rollout.responses)]
        except Exception as error:
            raise LabError(
                f"Your reward function failed: {type(error).__name__}: {error}. It gets two lists, prompts and"
                " responses, and returns a number for each."
            ) from error
        if len(said) != n:
            raise LabError(
                f"Your reward function gave {len(said)} numbers for {n} responses. It must return one for each."
            )
        found = torch.tensor(said, device=device)
    if not torch.isfinite(found).all():
        at = int((~torch.isfinite(found)).nonzero()[0])
        raise LabError(
            f"The reward of {rollout.responses[at][:60]!r} is {found[at].item()}, not a finite number. Mend the reward"
            f" {'function' if players.judge else 'model: train it again'}."
        )
    return found


# --- credit ---


def credit(experience: Experience, cfg, beta: float):
    """(advantages, whitened; returns), both (B, T-1): the score at the last token, less the penalties, and −β log π/π_ref
    at each token, spread back over the tokens by GAE (maths.losses). Pure: tensors in, tensors out.
    """
    mask = experience.mask
    scores = experience.scores - cfg.length_penalty * mask.sum(1)
    scores = (
        scores - cfg.missing_eos_penalty * (~experience.ended).float()
    )  # or it would learn to talk on
    rewards = shaped_rewards(scores, experience.logprobs, experience.ref_logprobs, mask, beta)
    if cfg.normalize_rewards:
        rewards = masked_whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(rewards, experience.values, mask, cfg.gamma, cfg.gae_lambda)
    return masked_whiten(advantages, mask), returns


class KLController:
    """β (`value`), fixed or steered so that the KL approaches its target (arXiv 1909.08593, section 2.2)."""

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
    """cfg.epochs passes over the rollout in minibatches; returns each step's metrics. advantages, returns (B, T-1).

    text: a function that gives n rows of pre-training text, (input_ids, attention_mask) (n, t), for PPO-ptx.
    """
    old, steps = experience, []

    def minibatch(rows, size):
        """Backward over `rows`, in parts of at most `size` responses of like length, each weighted by its share of the
        tokens: the gradient is the whole minibatch's, and so are the metrics.
        """
        optimizer.zero_grad(
            set_to_none=True
        )  # also what a pass left that memory did not suffice for
        total, found = old.mask[rows].sum(), []
        for part, columns, batch in rollout.parts(rows, size):
            at = (part, columns)
            mask = old.mask[at]
            with players.passes.counted():
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
        metrics = pooled(found)
        if text:
            ids, attention_mask = text(len(rows))
            new, _ = token_logprobs(players.policy, (ids, attention_mask, attention_mask), 1.0)
            loss, _ = sft_loss(new, shift_mask(attention_mask))
            (cfg.ptx * loss).backward()
            metrics["ptx_loss"] = loss.detach()
        return metrics

    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(old.scores)).split(cfg.minibatch_size):
            metrics = players.passes.fit(lambda size, rows=rows: minibatch(rows, size))
            norms = [
                torch.nn.utils.clip_grad_norm_(group["params"], cfg.max_grad_norm)
                for group in optimizer.param_groups
            ]
            if not torch.isfinite(metrics["policy_loss"] + metrics["value_loss"] + sum(norms)):
                raise LabError(  # a finite loss can have a gradient that is not
                    "PPO's loss or its gradient is no longer a number. Most often the learning rate is too high: halve"
                    " learning_rate and critic_learning_rate, or raise beta."
                )
            optimizer.step()
            players.refresh()
            steps.append({key: float(value) for key, value in metrics.items()})
    optimizer.zero_grad(set_to_none=True)
    return steps


def pooled(parts: list[tuple]) -> dict:
    """The metrics of a minibatch from (share of its tokens, metrics) of its parts: means by share, the largest
    max_abs_logratio, and ratio_var with the variance between the parts' means.
    """
    metrics = {key: sum(share * one[key] for share, one in parts) for key in parts[0][1]}
    metrics["max_abs_logratio"] = torch.stack([one["max_abs_logratio"] for _, one in parts]).max()
    between = [share * (one["ratio_mean"] - metrics["ratio_mean"]) ** 2 for share, one in parts]
    metrics["ratio_var"] = metrics["ratio_var"] + sum(between)
    return metrics


def warm_up(optimizer, cfg, update: int):
    """The update's learning rates: a line up over cfg.warmup updates; the policy's is 0 in the first cfg.critic_warmup."""
    up = min(1.0, (update + 1) / max(1, cfg.warmup))
    policy, critic = optimizer.param_groups
    policy["lr"] = cfg.learning_rate * up * (update >= cfg.critic_warmup)
    critic["lr"] = cfg.critic_learning_rate * up


# --- the loop ---


def train(cfg, run, judge=None, probe=None):
    """Improve the SFT policy with PPO (config.Ppo); leaves the policy's adapter/ in `run`. A run of runs.resume goes on
    exactly where its checkpoint was.

    judge: a function of (prompts, responses) → one number each, in place of the reward model.
    probe: a function of (players, rollout, update) → a dict of figures to log with that update, such as evals.probe's
    gold mark; the policy is the active adapter. What is logged: see `report`.

    Interrupted once, it ends whole after the update at work and can go on with runs.resume. Raises LabError, with the
    last checkpoint kept, for a loss or a reward that is no number and for a KL above cfg.max_kl.
    """
    prompts = atlas.load_prompts(cfg.prompts)
    random.Random(cfg.seed).shuffle(prompts)
    watch = cfg.watch or prompts[0]
    players = seat(cfg, run, judge)
    run.info["data_hash"] = runs.digest(prompts)
    chat.check_lengths(players.tokenizer, [*prompts, watch], cfg.max_prompt_tokens)
    text = text_rows(players, cfg) if cfg.ptx else None
    policy, critic = players.trained()
    # eps 1e-5 and a warm-up: Adam's first steps are otherwise far larger than the original implementation's.
    optimizer = torch.optim.Adam([{"params": policy}, {"params": critic}], eps=1e-5)
    beta = KLController(cfg)
    guard = Guard(cfg, run, players, optimizer, beta)

    with guard, runs.interruptible() as stop:
        for update in range(guard.resume(), cfg.updates):
            warm_up(optimizer, cfg, update)
            rollout = players.sample(batch_of(prompts, update, cfg), cfg)
            experience = measure(players, rollout, cfg)
            advantages, returns = credit(experience, cfg, beta.value)
            steps = improve(players, optimizer, rollout, experience, advantages, returns, cfg, text)
            entry = report(update, rollout, experience, returns, steps, beta.value, cfg)
            entry |= watched(players, watch, update, cfg)
            entry |= probe(players, rollout, update + 1) if probe else {}
            run.log(**entry, prompt=rollout.prompts[0], response=rollout.responses[0])
            beta.update(entry["kl"], cfg.batch_size)
            guard.check(entry, experience, rollout)
            if guard.due(update) or stop.is_set():
                guard.save(update + 1)
            if stop.is_set():
                break

    models.save_adapter(players.model, run, "policy")
    guard.finish()


def batch_of(prompts: list[str], update: int, cfg) -> list[str]:
    """The update's prompts: the next cfg.batch_size, from the start again after the last."""
    first = update * cfg.batch_size
    return [prompts[i % len(prompts)] for i in range(first, first + cfg.batch_size)]


def text_rows(players: Players, cfg):
    """A function n → (input_ids, attention_mask) (n, t): documents of cfg.ptx_text, cut to the width of a rollout."""
    tokenizer, width = players.tokenizer, cfg.max_prompt_tokens + cfg.max_response_tokens
    rows = [chat.encode_text(tokenizer, text)[:width] for text in atlas.load_text(cfg.ptx_text)]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        raise LabError(
            f"ptx_text {cfg.ptx_text!r} holds no text of two tokens or more. Name a longer text."
        )

    def draw(n: int):
        chosen = [rows[int(i)] for i in torch.randint(len(rows), (n,))]
        return tuple(x.to(players.model.device) for x in chat.pad(chosen, tokenizer.pad_token_id))

    return draw


def report(update: int, rollout, experience: Experience, returns, steps, beta: float, cfg) -> dict:
    """What an update is logged as: score (the reward models', in standard deviations of the SFT policy's), kl (nats per
    response, to the reference; k1), length (tokens), entropy (nats per token, from the sampled tokens), eos_rate, the
    means of the steps' metrics (losses.py), beta; first_ratio_error: max |log-ratio| on the first minibatch, about 0 if
    sampling and training see the same policy (and sampling_error under half precision); explained_variance of the critic.
    """
    old, mask = experience, experience.mask
    unexplained = masked_var(returns - old.values, mask) / masked_var(returns, mask).clamp(min=1e-8)
    entry = {
        "step": update + 1,
        "steps": cfg.updates,
        "score": old.scores.mean().item(),
        "kl": masked_sum(old.logprobs - old.ref_logprobs, mask, dim=1).mean().item(),
        "beta": beta,
        "length": rollout.lengths.float().mean().item(),
        "entropy": -masked_mean(old.logprobs, mask).item(),
        "eos_rate": rollout.ended.float().mean().item(),
        **{key: sum(step[key] for step in steps) / len(steps) for key in steps[0]},
        "first_ratio_error": steps[0]["max_abs_logratio"],
        "explained_variance": 1 - unexplained.item(),
    }
    return entry | ({} if old.sampling_error is None else {"sampling_error": old.sampling_error})


def watched(players: Players, prompt: str, update: int, cfg) -> dict:
    """The watched prompt's greedy answer, about WATCHED times a run."""
    if update % max(1, cfg.updates // WATCHED) and update + 1 != cfg.updates:
        return {}
    models.use(players.model, "policy")
    greedy = rollout.sample(
        players.model, players.tokenizer, [prompt], cfg.max_response_tokens, 0.0
    )
    return {"watch_prompt": prompt, "watch_response": greedy.responses[0]}
