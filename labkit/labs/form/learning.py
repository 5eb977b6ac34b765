"""The two ways to learn from a rule, our PPO and TRL's GRPO, and how fast either samples."""

import functools
import random
import time
from dataclasses import dataclass

from labkit import LabError, compat, config, data, models, rollout, runs
from labkit.data import chat
from labkit.labs.form.poet import LONGEST, TEMPERATURE, prompts
from labkit.labs.form.rules import Judge
from labkit.stages import ppo, trl


def learn(method: str, policy: str, base: str, judge: Judge, name: str | None = None, **changes):
    """A run of "PPO" (ours) or "GRPO" (TRL's) from the run `policy`, paid by `judge`, on 2,000
    prompts; the run is of stage "poet", so that no other notebook takes it for its own.
    """
    if method not in ("PPO", "GRPO"):
        raise LabError(f'There is no method {method!r}: take "PPO" or "GRPO".')
    rows = [{"prompt": prompt} for prompt in prompts(2000, seed=1)]
    file = data.save_jsonl(rows, runs.root() / "poet-prompts.jsonl")
    make = ppo_settings if method == "PPO" else Grpo
    cfg = make(policy=policy, base=base, prompts=str(file), **changes)
    train = ppo.train if method == "PPO" else grpo
    with runs.start("poet", cfg, name, aside=True) as run:
        train(cfg, run, judge=judge)
    return run


def ppo_settings(**changes) -> config.Ppo:
    """Our PPO's settings on a rule. changes: policy (a run), base, prompts (a file), …"""
    sizes = dict(updates=56, batch_size=128, minibatch_size=64, micro_batch_size=64)
    sizes |= dict(max_prompt_tokens=16, max_response_tokens=LONGEST, checkpoint_every=0)
    rates = dict(learning_rate=3e-3, critic_learning_rate=3e-3, beta=0.005, target_kl=0.0)
    # At the usual 1.0 one rare batch, after many quiet ones, was a step that broke the policy.
    rates |= dict(max_grad_norm=0.1, temperature=TEMPERATURE)
    return config.Ppo(**{**sizes, **rates, **changes})


@dataclass
class Grpo(config.Adapted):
    """GRPO (arXiv 2402.03300): PPO's clipped policy gradient without a critic. The baseline of an
    answer is the mean reward of the answers to the same prompt.
    """

    policy: str = ""
    """The run that the policy starts from and the reference stays at."""
    prompts: str = ""
    """A file of prompts."""
    updates: int = 60
    batch_size: int = 64
    """Answers per update."""
    group: int = 8
    """Answers to each prompt; divides batch_size."""
    max_prompt_tokens: int = 16
    max_response_tokens: int = LONGEST
    learning_rate: float = 3e-3
    beta: float = 0.005
    """Weight of the KL estimate, here a part of the loss and not of the reward."""
    temperature: float = TEMPERATURE

    def __post_init__(self):
        super().__post_init__()
        if self.group < 2 or self.batch_size % self.group:
            raise LabError(
                f"A group of {self.group} answers can't be: it must be 2 or more, and divide"
                f" batch_size={self.batch_size}."
            )


@compat.quiet()
def grpo(cfg: Grpo, run, judge: Judge):
    """Improve a policy with TRL's GRPOTrainer; leaves adapter/ in `run`. transformers' `generate`
    samples. Logs what TRL reports: reward, kl, entropy, the share of groups without a difference.
    """
    from trl import GRPOConfig, GRPOTrainer

    policy = runs.policy(cfg.policy)
    model, tokenizer = models.load_base(models.base_of(policy, cfg.base))
    model = models.load_adapter(model, policy, "default", trainable=True)
    asked = data.load_prompts(cfg.prompts)
    chat.check_lengths(tokenizer, asked, cfg.max_prompt_tokens)
    random.Random(cfg.seed).shuffle(asked)
    trainer = trl.fit(
        functools.partial(GRPOTrainer, reward_funcs=[judge]),
        GRPOConfig,
        model,
        tokenizer,
        [{"prompt": f"{chat.USER}{prompt}{chat.AI}"} for prompt in asked],
        cfg,
        run,
        logging_steps=1,
        bf16=False,
        max_steps=cfg.updates,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=3,
        per_device_train_batch_size=cfg.batch_size,
        num_generations=cfg.group,
        max_completion_length=cfg.max_response_tokens,
        temperature=cfg.temperature,
        top_k=0,
        beta=cfg.beta,
        loss_type="grpo",
        max_grad_norm=0.1,
        gradient_checkpointing=False,
    )
    models.save_adapter(model, run, "default")
    run.info["policy"] = models.adapter_id(policy)
    return trainer


def sampling_speed(model, tokenizer, prompts: list[str], repeats: int = 2) -> dict[str, float]:
    """Seconds to answer `prompts` by our sampler ("ours") and by transformers' `generate`, as TRL
    calls it; the best of `repeats`.
    """
    rows = [chat.encode_prompt(tokenizer, prompt) for prompt in prompts]
    ids, mask = (x.to(model.device) for x in chat.pad(rows, tokenizer.pad_token_id, side="left"))
    how = dict(do_sample=True, temperature=TEMPERATURE, top_k=0, max_new_tokens=LONGEST)
    ways = {
        "ours": lambda: rollout.sample(model, tokenizer, prompts, LONGEST, TEMPERATURE),
        "generate": lambda: model.generate(input_ids=ids, attention_mask=mask, **how),
    }

    def seconds(sample):
        began = time.perf_counter()
        sample()
        return time.perf_counter() - began

    return {name: min(seconds(way) for _ in range(repeats)) for name, way in ways.items()}
