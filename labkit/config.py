"""One dataclass per stage, and the three profiles that set their sizes.

A profile changes sizes and model ids, never code: `tiny()` makes its own base on a CPU in minutes,
`small()` and `gpu()` take theirs from the Hub. Every field is also an option of `python -m labkit
train STAGE` (`learning_rate` → `--learning-rate`).
"""

import contextlib
import math
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from labkit import LabError

SEEDS = 2**32  # how many numpy has: 0 to one less
STAGES = ("pretrain", "sft", "reward", "ppo", "dpo", "kto", "ai_feedback")
_TYPES = {str: (str, "text"), int: (int, "a whole number"), float: ((int, float), "a number")}


def weights_of(combine: str) -> list[float]:
    """Ppo.combine's weights as numbers; ValueError where it holds other text."""
    return [float(part) for part in combine.split(",")]


def _weighs(combine: str) -> bool:
    """Whether these are weights that can be used."""
    try:
        weights = weights_of(combine)
    except ValueError:
        return False
    return all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0


def parts_of(combine: str) -> int:
    """How many reward runs a combination is for."""
    return 2 if combine == "piecewise" else len(combine.split(","))


# What settings of these names must be beside their type, whichever stage has them; the rule sees
# the value and all the settings.
_RULES = (
    (
        "hidden_size intermediate_size layers steps learning_rate muon_learning_rate batch_size"
        " epochs lora_r lora_alpha max_prompt_tokens updates critic_learning_rate clip value_clip"
        " temperature kl_horizon max_kl max_grad_norm desirable_weight undesirable_weight",
        "above 0",
        lambda v, s: v > 0,
    ),
    (
        "warmup examples labels beta micro_batch_size critic_warmup target_kl missing_eos_penalty"
        " ptx checkpoint_every",
        "0 or more",
        lambda v, s: v >= 0,
    ),
    ("max_response_tokens", "2 or more", lambda v, s: v >= 2),
    ("seed", f"between 0 and {SEEDS - 1}", lambda v, s: 0 <= v < SEEDS),
    # Far beyond any model and any machine, and far below what ends a process or fills a disk.
    (
        "hidden_size intermediate_size context vocab_size lora_r batch_size minibatch_size"
        " micro_batch_size max_prompt_tokens max_response_tokens",
        "at most 1,000,000",
        lambda v, s: v <= 1_000_000,
    ),
    ("layers", "at most 1,000", lambda v, s: v <= 1_000),
    ("examples labels", "at most 10,000,000", lambda v, s: v <= 10**7),
    ("validation_fraction", "between 0 and 1", lambda v, s: 0 < v < 1),
    ("clamp", "between 0.5 and 1", lambda v, s: 0.5 <= v <= 1),
    ("question", "a question", lambda v, s: bool(v.strip())),
    ("gae_lambda", "between 0 and 1", lambda v, s: 0 <= v <= 1),
    ("gamma", "above 0 and at most 1", lambda v, s: 0 < v <= 1),
    (
        "normalize_rewards compile rounded gradient_checkpointing",
        "0 or 1",
        lambda v, s: v in (0, 1),
    ),
    ("optimizer", '"muon" or "adamw"', lambda v, s: v in ("muon", "adamw")),
    ("engine", '"" or "vllm"', lambda v, s: v in ("", "vllm")),
    ("reads", '"last" or "mean"', lambda v, s: v in ("last", "mean")),
    ("critic", '"adapter" or "head"', lambda v, s: v in ("adapter", "head")),
    (
        "combine",
        '"lowest", "piecewise" or a weight for each reward run, such as "0.3,0.7", none below 0 and'
        " not all 0",
        lambda v, s: v in ("lowest", "piecewise") or _weighs(v),
    ),
    (
        "combine",
        'a weight for each run of reward="{reward}", or "lowest"; "piecewise" is for two, safety'
        " first",
        lambda v, s: v == "lowest" or parts_of(v) == len(s.reward.split(",")),
    ),
    ("vocab_size", "at least 300: 256 bytes and special tokens", lambda v, s: v >= 300),
    (
        "heads",
        "a divisor of hidden_size={hidden_size}",
        lambda v, s: v > 0 and s.hidden_size % v == 0,
    ),
    ("sequence_length", "between 8 and context={context}", lambda v, s: 8 <= v <= s.context),
    (
        "minibatch_size",
        "between 1 and batch_size={batch_size}",
        lambda v, s: 1 <= v <= s.batch_size,
    ),
)


class Checked:
    """Settings that refuse a value that cannot be, with a LabError that says what it must be."""

    def __post_init__(self):
        for f in fields(self):
            kind, must = _TYPES[f.type]
            value = getattr(self, f.name)
            self._must(f.name, must, isinstance(value, kind) and not isinstance(value, bool))
            whole = f.type is not str or not any("\ud800" <= c <= "\udfff" for c in value)
            self._must(f.name, "text without half a character (a lone surrogate)", whole)
        for names, must, holds in _RULES:
            for name in names.split():
                if hasattr(self, name):
                    self._must(name, must, holds(getattr(self, name), self))
        for f in fields(self):
            value = getattr(self, f.name)
            self._must(f.name, "finite", f.type is not float or abs(value) < math.inf)

    def _must(self, name, must, holds):
        if not holds:
            raise LabError(
                f"{type(self).__name__}.{name} is {getattr(self, name)!r}, but it must be"
                f" {must.format(**vars(self))}."
            )


@dataclass
class Pretrain(Checked):
    """Stage 1, 自督導式學習: a small Llama learns to continue text, from scratch."""

    corpus: str = "atlas"
    """What to read: "atlas" (the bundled text), a text file, or a folder or Hub id with "text",
    such as roneneldan/TinyStories, of which only as much is fetched as training reads.
    """
    start_from: str = ""
    """A pretrain run (or folder) whose weights and tokenizer to go on from, on the same text or
    another; "" starts with random weights.
    """
    vocab_size: int = 4096
    """Entries of the byte-level BPE tokenizer, trained on the corpus; enough for most names to be
    one token.
    """
    hidden_size: int = 160
    """Width of the residual stream."""
    intermediate_size: int = 448
    """Width of the SwiGLU layer."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads; divides hidden_size."""
    context: int = 256
    """Longest sequence the model is built for, in tokens."""
    sequence_length: int = 128
    """Tokens per training row."""
    batch_size: int = 16
    """Rows per step."""
    steps: int = 500
    """Optimiser steps; one step reads batch_size · sequence_length tokens."""
    optimizer: str = "muon"
    """"muon" (orthogonalised momentum for the matrices, AdamW for the rest) or "adamw"."""
    learning_rate: float = 0.004
    """Peak rate of AdamW (embeddings and norms; everything when optimizer="adamw")."""
    muon_learning_rate: float = 0.02
    """Peak rate of Muon."""
    warmup: int = 60
    """Steps of linear warm-up; the rate then falls linearly to zero over the last 40 %."""
    compile: int = 0
    """1: the loss goes through torch.compile first: a minute to start and a C++ compiler, for a
    sixth more tokens a second in a long run.
    """
    rounded: int = 0
    """1: every pass reads the matrices rounded to NF4, as the later stages will: what 4 bits lose
    is learnt again.
    """
    validation_fraction: float = 0.02
    """Share of the documents held out (split before packing)."""
    report_to: str = "none"
    """Where else the metrics go, as TRL's trainers have it: "tensorboard", "wandb", "trackio" or
    another of transformers' integrations; several with commas between.
    """
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        import psutil

        matrices = self.layers * (4 * self.hidden_size + 3 * self.intermediate_size)
        size = self.hidden_size * (self.vocab_size + matrices)
        # Weights, gradients and two moments of the optimiser, in float32.
        needed, there = 16 * size / 1e9, psutil.virtual_memory().total / 1e9
        if needed > there:
            raise LabError(
                f"A base of {size:,} parameters takes {needed:,.0f} GB to train, and this machine"
                f" has {there:,.0f} GB. Lower hidden_size, intermediate_size, layers or vocab_size."
            )


@dataclass
class Adapted(Checked):
    """What every stage after pre-training shares: LoRA adapters on one 4-bit base."""

    base: str = ""
    """The pre-trained base: a run name, a folder in Hugging Face layout or a Hub id; "" takes the
    newest pretrain run, else the shipped one.
    """
    lora_r: int = 16
    """Rank of the LoRA matrices (arXiv 2106.09685)."""
    lora_alpha: int = 32
    """LoRA scale: the update is multiplied by lora_alpha / lora_r."""
    max_prompt_tokens: int = 96
    """A longer prompt is an error that says which; in collections of pairs it is left out and
    counted. Of a longer dialogue only the last turns are read.
    """
    max_response_tokens: int = 48
    """Longest response, its end token included."""
    report_to: str = "none"
    """Where else the metrics go, as TRL's trainers have it: "tensorboard", "wandb", "trackio" or
    another of transformers' integrations; several with commas between.
    """
    gradient_checkpointing: int = 0
    """1: of each layer only the input is kept for the backward pass, which runs the layer again:
    far less memory, for a third more time (arXiv 1604.06174). Small bases, which run through plain
    weights (models.Dense), need it not and heed it not.
    """
    seed: int = 0


@dataclass
class Sft(Adapted):
    """Stage 2, 督導式學習: learn from demonstrations, with the loss on the answer alone."""

    policy: str = ""
    """A run whose policy to go on from (sft, ppo, dpo or kto), on demonstrations of another kind;
    "" starts with a fresh adapter.
    """
    data: str = "atlas"
    """Demonstrations: "atlas", a JSONL file of {"prompt", "response"}, or a folder or Hub id such
    as HuggingFaceH4/ultrafeedback_binarized (ID:SPLIT or ID:SUBSET/SPLIT names a part of it).
    """
    examples: int = 4000
    """How many demonstrations to take (0: all)."""
    epochs: float = 1.0
    batch_size: int = 32
    learning_rate: float = 1e-3


@dataclass
class Reward(Adapted):
    """Stage 3a: a reward model, the "virtual human", learns which of two answers a rater
    prefers.
    """

    policy: str = ""
    """The run whose policy the reward model starts from and whose answers are rated; "" takes the
    latest SFT run.
    """
    data: str = "atlas"
    """Preferences: "atlas" (the SFT policy's own answers, judged by a simulated rater), a JSONL
    file of {"prompt", "chosen", "rejected"}, or a folder or Hub id such as
    Anthropic/hh-rlhf:helpful-base/train.
    """
    examples: int = 3000
    """How many pairs to take (0: all; for "atlas": how many to make)."""
    validation_fraction: float = 0.2
    """Share of the prompts whose pairs are held out."""
    reads: str = "last"
    """Where the score is read: at the "last" token, as large reward models do, or from the "mean"
    over all tokens, which the tiny base learns in fewer steps (models.Head).
    """
    epochs: float = 2.0
    """Large reward models over-fit from the second pass (arXiv 2203.02155, C.2); the small one
    gained from more than one.
    """
    batch_size: int = 32
    learning_rate: float = 2e-3


@dataclass
class Ppo(Adapted):
    """Stage 3b, 增強式學習: PPO raises the reward model's score, held near the reference by a KL
    penalty.
    """

    policy: str = ""
    """The run that the policy starts from and the reference stays at; "" takes the latest SFT
    run.
    """
    reward: str = ""
    """The reward run; "" takes the latest. Several, with commas between: see combine."""
    combine: str = "lowest"
    """How several reward runs' scores become one: the "lowest" counts (arXiv 2310.02743);
    "piecewise" asks the first, of safety, about harmful requests of the atlas and answers that it
    finds unsafe, else the second, and whitens (arXiv 2307.09288, 3.2.3); "0.3,0.7" weighs them.
    """
    prompts: str = "atlas"
    """Prompts to answer: "atlas", a text file with one prompt a line, a JSONL file with "prompt",
    or a folder or Hub id.
    """
    engine: str = ""
    """What samples: "" is our decoder; "vllm", where it is installed, takes a third of the card for
    a copy of the base of its own.
    """
    updates: int = 24
    """Rollout-and-update rounds."""
    batch_size: int = 64
    """Prompts per rollout."""
    minibatch_size: int = 32
    """Responses per optimiser step."""
    micro_batch_size: int = 8
    """Responses of like length per forward and backward pass, whose gradients add up to the
    minibatch's (0: as many as minibatch_size). Fewer leave less padding and take less memory. On a
    GPU never more than its free memory holds; halved when memory runs out all the same.
    """
    epochs: int = 2
    """Passes over each rollout."""
    learning_rate: float = 1.5e-3
    critic: str = "head"
    """"head": the critic is a head on the policy's hidden states, without gradient to them and
    without a forward pass of its own; "adapter": it has a LoRA adapter of its own, which starts as
    the reward model's: it predicts better, and an update takes twice as long.
    """
    critic_learning_rate: float = 5e-3
    critic_warmup: int = 0
    """First updates in which only the critic learns."""
    warmup: int = 3
    """Updates of linear learning-rate warm-up."""
    beta: float = 0.2
    """Weight of the KL penalty; with target_kl it is only where the controller starts."""
    target_kl: float = 2.0
    """KL to the reference in nats per response that the adaptive controller aims at (arXiv
    1909.08593, 2.2); 0 keeps beta fixed.
    """
    kl_horizon: float = 10_000
    """Responses over which the adaptive controller acts."""
    clip: float = 0.2
    """PPO clip range of the ratio (arXiv 1707.06347, eq. 7)."""
    value_clip: float = 0.2
    """Clip range of the critic around its rollout values."""
    gamma: float = 1.0
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation (arXiv 1506.02438, eq. 16)."""
    temperature: float = 1.0
    """Sampling temperature; policy and reference logits are divided by it in rollout and update
    alike.
    """
    missing_eos_penalty: float = 1.0
    """Subtracted from the score of a response that never ended, in standard deviations of the
    reference policy's scores.
    """
    length_penalty: float = 0.0
    """Subtracted from the score for each token of the response, in standard deviations."""
    normalize_rewards: int = 0
    """1: scale the token rewards to variance 1 in each rollout, without moving their mean."""
    ptx: float = 0.0
    """Weight of the pre-training loss beside the policy's (PPO-ptx; arXiv 2203.02155, eq. 2)."""
    ptx_text: str = "atlas"
    """Text for it: "atlas", a text file, a folder or a Hub id."""
    max_kl: float = 100.0
    """A KL to the reference above this, in nats per response, stops the run: it has run away."""
    max_grad_norm: float = 1.0
    watch: str = ""
    """A prompt answered greedily now and then, to see the policy change; "" takes the first one."""
    checkpoint_every: int = 5
    """Updates between two checkpoints, from which a run that stopped goes on exactly (0: none)."""


@dataclass
class Dpo(Adapted):
    """Stage 3, without reward model and without sampling: a classification loss on the pairs (arXiv
    2305.18290).
    """

    policy: str = ""
    """The run that the policy starts from and the reference stays at; "" takes the latest SFT
    run.
    """
    data: str = "atlas"
    """Preferences, as for the reward stage."""
    examples: int = 2000
    """How many pairs to take (0: all; for "atlas": how many to make)."""
    epochs: float = 1.0
    batch_size: int = 32
    learning_rate: float = 7e-4
    beta: float = 0.1
    """Strength of the implicit KL constraint (eq. 7)."""


@dataclass
class Kto(Adapted):
    """Stage 3 from thumbs up and down, without pairs: a human's gains and losses, as prospect
    theory has them (arXiv 2402.01306).
    """

    policy: str = ""
    """The run that the policy starts from and the reference stays at; "" takes the latest SFT
    run.
    """
    data: str = "atlas"
    """Thumbs: "atlas" (the policy's own answers, one a prompt, each with a simulated rater's
    thumb), a JSONL file of {"prompt", "response", "label"}, or a folder or Hub id such as
    trl-lib/kto-mix-14k.
    """
    examples: int = 2000
    """How many thumbs to take (0: all; for "atlas": how many to make)."""
    epochs: float = 2.0
    batch_size: int = 256
    """Large and even: a thumb alone says less than a pair, whose two answers share a prompt; in
    batches of 32 the small model lost facts. Of a few hundred thumbs take an eighth.
    """
    learning_rate: float = 2e-3
    """2 to 10 times DPO's in the paper."""
    beta: float = 0.1
    """How soon gains and losses saturate (eq. 7); small: far from the reference."""
    desirable_weight: float = 1.0
    """λ_D, of the thumbs up. λ_D n_D / (λ_U n_U) should be between 1 and 1.5 (eq. 8)."""
    undesirable_weight: float = 1.0
    """λ_U, of the thumbs down."""

    def __post_init__(self):
        super().__post_init__()
        # A batch may be cut in halves, and a lone thumb has no other prompt's answer beside it.
        self._must("batch_size", "even", self.batch_size % 2 == 0)


@dataclass
class AiFeedback(Adapted):
    """AI feedback: the model learns to judge from seed judgements, then labels pairs of a policy's
    answers in a rater's place (arXiv 2309.00267).
    """

    policy: str = ""
    """The run whose answers are labelled; "" takes the latest SFT run. The judge is an adapter of
    its own on the same base.
    """
    data: str = "atlas"
    """Seed judgements: preferences, as for the reward stage."""
    examples: int = 2000
    """How many seed judgements to take (0: all; for "atlas": how many to make)."""
    labels: int = 2000
    """How many fresh pairs of the policy's answers the judge labels."""
    question: str = "Which answer is better?"
    """What the judge is asked of two answers: a principle makes it judge by that."""
    clamp: float = 1.0
    """Highest confidence of a label; Constitutional AI took 0.6 where the judge reasoned first
    (arXiv 2212.08073, 4.1).
    """
    epochs: float = 1.0
    batch_size: int = 16
    learning_rate: float = 2e-3


KINDS = dict(zip(STAGES, (Pretrain, Sft, Reward, Ppo, Dpo, Kto, AiFeedback), strict=True))
"""The settings' class of each stage."""


@dataclass
class Profile:
    """The stages' settings under one name."""

    name: str
    pretrain: Pretrain = field(default_factory=Pretrain)
    sft: Sft = field(default_factory=Sft)
    reward: Reward = field(default_factory=Reward)
    ppo: Ppo = field(default_factory=Ppo)
    dpo: Dpo = field(default_factory=Dpo)
    kto: Kto = field(default_factory=Kto)
    ai_feedback: AiFeedback = field(default_factory=AiFeedback)

    def adapt(self, **values):
        """Set the same values in the stages after pre-training; returns self."""
        for stage in STAGES[1:]:
            for name, value in values.items():
                setattr(getattr(self, stage), name, value)
        return self


def tiny() -> Profile:
    """The atlas model, 1.9 M parameters: minutes on two CPU cores, nothing to download."""
    profile = Profile("tiny")
    profile.reward.reads = "mean"
    return profile


def small() -> Profile:
    """SmolLM2-135M in 4 bits: a CPU with patience, or any GPU."""
    profile = Profile("small").adapt(
        base="HuggingFaceTB/SmolLM2-135M",
        learning_rate=2e-4,
        max_prompt_tokens=256,
        max_response_tokens=128,
        gradient_checkpointing=1,
    )
    profile.reward.learning_rate, profile.reward.epochs = 1e-4, 1.0
    profile.ppo.learning_rate, profile.ppo.critic_learning_rate = 3e-5, 1e-3
    profile.dpo.learning_rate, profile.kto.learning_rate = 5e-5, 1e-4
    profile.kto.batch_size, profile.kto.epochs = 32, 1.0
    profile.ppo.beta, profile.ppo.target_kl = 0.05, 6.0
    profile.ppo.gradient_checkpointing = 0  # its parts are small enough
    return profile


def gpu() -> Profile:
    """Qwen3-0.6B in 4 bits: one GPU with 12 GB or more."""
    profile = small().adapt(base="Qwen/Qwen3-0.6B-Base")
    profile.name = "gpu"
    # As many as the memory holds.
    profile.ppo.gradient_checkpointing, profile.ppo.micro_batch_size = 1, 0
    return profile


PROFILES = {"tiny": tiny, "small": small, "gpu": gpu}


CARD = 12
"""GB of a CUDA card on which the profile "gpu" is taken without being asked for."""
MEMORY = {"tiny": 2, "small": 8}
"""GB of memory that the stages of a profile take on a CPU, at most."""


def chosen() -> tuple[str, str]:
    """(profile, why): what LABKIT_PROFILE names, else what this machine is made for."""
    if name := os.environ.get("LABKIT_PROFILE"):
        return name, "LABKIT_PROFILE says so"
    why = lacks("gpu")
    return ("tiny", f"gpu {why}") if why else ("gpu", f"there is a CUDA card of {card():.0f} GB")


def card() -> float:
    """GB of the first CUDA card, 0 where there is none."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    return torch.cuda.get_device_properties(0).total_memory / 1e9


def lacks(name: str) -> str:
    """What this machine lacks for a profile, "" where it will do."""
    if name == "gpu":
        there = f"this one has {card():.0f}" if card() else "there is none"
        return "" if card() >= CARD else f"needs a CUDA card of {CARD} GB, and {there}"
    import psutil

    free = psutil.virtual_memory().available / 1e9
    needed = MEMORY[name]
    return "" if free >= needed else f"needs {needed} GB of memory, and {free:.0f} are free"


def profile(name: str | None = None) -> Profile:
    """The profile called `name`; None takes the `chosen` one."""
    name = name or chosen()[0]
    if name not in PROFILES:
        raise LabError(
            f"There is no profile {name!r}. Set LABKIT_PROFILE (or --profile) to one of:"
            f" {', '.join(PROFILES)}."
        )
    return PROFILES[name]()


def expanded(path) -> Path:
    """A path with its ~ written out. LabError for one that can't be: its user is unknown, it is
    too long, it may not be looked at.
    """
    try:
        if "\0" in str(path):
            raise OSError("it holds a NUL")
        found = Path(path).expanduser()
        found.exists()
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise LabError(
            f"{str(path)[:80]!r} can't be a path here ({reason}). Name another."
        ) from None
    return found


def read(path: str, stage: str) -> dict:
    """The settings of `stage` in a JSON or YAML file, under the names of the options
    (learning_rate or learning-rate). LabError where it holds none.
    """
    import yaml  # JSON is YAML, too

    file = expanded(path)
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is no plain file")
        if file.exists() and file.stat().st_size > 1e6:
            raise ValueError("it is far too long for settings")
        found = yaml.safe_load(file.read_text("utf8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise LabError(
            f"The settings in {path!r} can't be read ({reason}). Name a file of JSON or YAML."
        ) from error
    if not isinstance(found, dict):
        raise LabError(f"{path} must hold settings by their names, such as: updates: 24")
    kinds = {f.name: f.type for f in fields(KINDS[stage])}
    named = {str(name).replace("-", "_"): value for name, value in found.items()}
    for name, value in named.items():
        if kinds.get(name) is float and isinstance(value, str):  # YAML takes 1e-3 for text
            with contextlib.suppress(ValueError):
                named[name] = float(value)
    return named


def refuse_idle(stage: str, named: dict):
    """LabError for a setting that somebody named and that this stage would not heed: whoever goes
    on from a policy goes on with its adapter.
    """
    goes_on = stage in ("reward", "ppo", "dpo", "kto") or (stage == "sft" and named.get("policy"))
    if goes_on and (idle := [name for name in ("lora_r", "lora_alpha") if name in named]):
        raise LabError(
            f"{' and '.join(idle)} would not be heeded: {stage} goes on with the adapter of its"
            " policy, whose size stays. Set it where that adapter is made: train sft."
        )


def change(config, **values):
    """`config` with some fields replaced and checked again; an unknown field is a LabError that
    names the known ones.
    """
    known = {f.name for f in fields(config)}
    for name in values:
        if name not in known:
            raise LabError(
                f"{type(config).__name__} has no setting {name!r}. It has:"
                f" {', '.join(sorted(known))}."
            )
    return replace(config, **values)
