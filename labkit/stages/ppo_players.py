"""Who plays in PPO: policy (trained), reference (the SFT policy, frozen), reward models (frozen)
and critic, as LoRA adapters on one 4-bit base.

The critic is a head on the policy's hidden states that starts at zero and whose loss never touches
the policy, or (critic="adapter") has an adapter of its own, which starts as the reward model's. On
the tiny base the head reached the same reward about twice as fast: no forward pass of its own, half
the weights to train.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from labkit import atlas, config, models, rollout, runs
from labkit.maths import rewards as combined
from labkit.stages.ppo_guard import MicroBatch, judged, refuse_others, usable


@dataclass
class Players:
    """The roles, as forward passes (models.dense) of adapters on one base. `judge` replaces the
    reward models.
    """

    model: torch.nn.Module
    tokenizer: object
    policy: object
    reference: object
    rewards: list[tuple]  # (forward pass, head) of each reward model; see `combine`
    critic: object | None  # None: the value head reads the policy's hidden states
    value_head: models.Head
    judge: Callable | None = None
    passes: MicroBatch = None
    combine: str = "lowest"  # config.Ppo.combine
    engine: object | None = None  # samples in place of our decoder (config.Ppo.engine)

    def sample(self, prompts: list[str], cfg) -> rollout.Rollout:
        """One response of the policy to each prompt, with the head's values on the way if that is
        the critic.
        """
        models.use(self.model, "policy")
        head = self.value_head if self.critic is None else None
        how = {"max_new_tokens": cfg.max_response_tokens, "temperature": cfg.temperature}
        how |= {"value_head": head, "engine": self.engine}
        return rollout.sample(self.model, self.tokenizer, prompts, **how)

    def trained(self) -> tuple[list, list]:
        """(the policy's parameters, the critic's)."""
        of = lambda role: models.adapter_parameters(self.model, role)
        return of("policy"), [*of("critic"), self.value_head.weight]

    def refresh(self):
        """After a step: the forward passes see the adapters as they are now."""
        for one in filter(None, (self.policy, self.critic)):
            one.refresh()


def seat(cfg, run, judge=None) -> Players:
    """Load the base once and every role's adapter on it, and note in run.info whom it took.

    Raises LabError where a resumed run would go on with others than it began with.
    """
    sft = runs.policy(cfg.policy, models.base_id(cfg.base))
    base = sft.info.get("base", {}).get("fingerprint", "")
    names = [] if judge else cfg.reward.split(",")
    rewards = [runs.latest("reward", name.strip(), base) for name in names]
    took = {
        "judge": getattr(judge, "__name__", type(judge).__name__) if judge else "",
        "policy": models.adapter_id(sft),
        "rewards": [models.adapter_id(one) for one in rewards],
    }
    refuse_others(run, took)
    # The names found now stay the run's: a later one must not slip in when it is resumed.
    run.info |= took
    run.info["config"] |= {"policy": sft.name, "reward": ",".join(one.name for one in rewards)}
    run.note()

    model, tokenizer = models.load_base(models.base_of(sft, cfg.base))
    models.check_context(model, cfg)
    seats = {"policy": sft, "reference": sft} | {
        f"reward{i or ''}": one for i, one in enumerate(rewards)
    }
    if cfg.critic == "adapter":
        seats["critic"] = (rewards or [sft])[0]
    for role, one in seats.items():
        model = models.load_adapter(model, one, role, trainable=role in ("policy", "critic"))
    model.eval()  # no dropout anywhere: sampling and training see the same policy
    value_head = models.Head(model.config.hidden_size).to(model.device)
    torch.nn.init.zeros_(value_head.weight)  # it expects 0, the mean of the reference's scores
    checkpointed = bool(cfg.gradient_checkpointing)
    forward = {role: models.forward(model, role, checkpointed) for role in seats}
    heads = [models.load_head(one) for one in rewards]
    judges = [forward[role] for role in seats if role.startswith("reward")]
    return Players(
        model=model,
        tokenizer=tokenizer,
        policy=forward["policy"],
        reference=forward["reference"],
        rewards=list(zip(judges, heads)),
        critic=forward.get("critic"),
        value_head=value_head,
        judge=judge,
        passes=MicroBatch(cfg, model),
        combine=cfg.combine,
        engine=engine_of(cfg, model, models.base_of(sft, cfg.base)),
    )


def engine_of(cfg, model, base: str):
    """The sampler that config.Ppo.engine names; None is our own."""
    if not cfg.engine:
        return None
    from labkit.rollout.vllm_engine import Engine

    return Engine(model, models.resolve_base(base))


@torch.no_grad()
def score(players: Players, rollout: rollout.Rollout):
    """Scores (B,): the reward models', made one, or what the judge says; LabError where they can't
    be used.
    """

    def scores(size):
        found = torch.zeros(len(players.rewards), len(rollout.prompts))
        found = found.to(rollout.input_ids.device)
        for rows, _, (ids, attention_mask, _) in rollout.parts(range(found.shape[1]), size):
            for i, (one, head) in enumerate(players.rewards):
                hidden = one.hidden_at(ids, attention_mask, head.places(attention_mask))
                found[i, rows] = head.read(hidden, attention_mask)
        return found

    if players.judge:
        found = judged(players.judge, rollout)
    else:
        found = one_of(players.passes.fit(scores), rollout.prompts, players.combine)
    return usable(found, rollout, players.judge)


def one_of(scores, prompts: list[str], combine: str):
    """scores (R, B) of R reward models for answers to B prompts → (B,), by config.Ppo.combine."""
    if combine == "lowest":
        return combined.lowest(scores)
    if combine != "piecewise":
        return combined.weighted(scores, config.weights_of(combine))
    items = map(atlas.find, prompts)
    tagged = [item is not None and item.harmful for item in items]
    return combined.piecewise(*scores, torch.tensor(tagged, device=scores.device))
