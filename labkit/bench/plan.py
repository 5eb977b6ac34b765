"""`plan`: what PPO with a base of some size would take on some cards, before one is rented.

Memory is counted from the sizes of the layers (exact for base, adapters, optimiser and KV cache; an
estimate, measured to within a fifth on small models, for what autograd keeps). Seconds are a
roofline: the arithmetic and the bytes that an update needs, over a share of what the card's maker
promises. That share is assumed; where a bench of the card is there, it says what it is.
"""

import math

import torch

from labkit import LabError, models

QWEN3 = {  # layers, hidden, heads, key heads, MLP, embeddings tied; heads of 128, 151,936 tokens
    "0.6b": (28, 1024, 16, 8, 3072, True),
    "1.7b": (28, 2048, 16, 8, 6144, True),
    "4b": (36, 2560, 32, 8, 9728, True),
    "8b": (36, 4096, 32, 8, 12288, False),
    "14b": (40, 5120, 40, 8, 17408, False),
    "32b": (64, 5120, 64, 8, 25600, False),
}
"""Qwen3's sizes, from the configurations that its makers published (Apache-2.0)."""

CARDS = {  # GB, bf16 (T4: fp16) operations and bytes a second, from the makers' data sheets
    "t4": (16, 65e12, 0.30e12),
    "4090": (24, 165e12, 1.0e12),
    "a100": (80, 312e12, 2.0e12),
    "h100": (80, 989e12, 3.35e12),
    "h200": (141, 989e12, 4.8e12),
}
ROOM = 0.9
"""Of a card's memory: torch and CUDA take the rest."""
SHARE = 0.3
"""Of the promised operations and bytes, what is taken to come out. Assumed: nothing here has been
timed on a card."""


def sized(name: str):
    """A model of the sizes of `name` without its weights (on torch's meta device): one of QWEN3, a
    run's base, a folder or a Hub id. LabError where there is no such configuration.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config

    if name.lower() in QWEN3:
        layers, hidden, heads, keys, mlp, tied = QWEN3[name.lower()]
        cfg = Qwen3Config(
            vocab_size=151_936,
            num_hidden_layers=layers,
            hidden_size=hidden,
            num_attention_heads=heads,
            num_key_value_heads=keys,
            intermediate_size=mlp,
            head_dim=128,
            tie_word_embeddings=tied,
        )
    else:
        try:
            cfg = AutoConfig.from_pretrained(models.resolve_base(name), **models.NO_CODE)
        except (OSError, ValueError) as error:
            raise LabError(
                f"There is no model {name!r} to plan for. Name one of {', '.join(QWEN3)}, a folder,"
                " or a Hub id that can be reached."
            ) from error
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(cfg, dtype=torch.bfloat16)


def linears(model) -> list[torch.nn.Linear]:
    """The layers that are held in 4 bits and get an adapter: all but lm_head."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    ]


def four_bits(weights: int) -> int:
    """Bytes of a layer: two weights each; a scale of one for 64 of them, and of four for 256 scales
    (double quantisation, arXiv 2305.14314, section 3).
    """
    scales = math.ceil(weights / 64)
    return math.ceil(weights / 2) + scales + 4 * math.ceil(scales / 256)


def memory(model, cfg, gpus: int, room: float) -> tuple[dict[str, float], int]:
    """Bytes on each card, by part, for PPO's settings cfg (config.Ppo), and how many rows go
    through a pass in what is left of `room` bytes; 0 where the card is too small. The KV cache and
    the pass are not there at the same time.
    """
    layers = [layer.weight for layer in linears(model)]
    whole = sum(p.numel() for p in model.parameters()) - sum(map(torch.numel, layers))
    lora = sum(cfg.lora_r * sum(layer.shape) for layer in layers)
    critic = cfg.critic == "adapter"
    rows, width = cfg.batch_size // gpus, cfg.max_prompt_tokens + cfg.max_response_tokens
    held = {
        "base in 4 bits": sum(four_bits(layer.numel()) for layer in layers),
        "embeddings and norms": 2 * whole,
        # Policy, reference, reward models, perhaps the critic: in float32, as peft keeps them.
        "adapters": 4 * lora * (2 + len(cfg.reward.split(",")) + critic),
        "gradients, optimiser": 12 * lora * (1 + critic),
    }
    cache = models.kv_bytes(model, rows, width)
    checkpointed = bool(cfg.gradient_checkpointing)
    each = models.row_bytes(model, width, cfg.max_response_tokens, checkpointed)
    each += critic * models.row_bytes(model, width, 0, checkpointed)
    left = room - sum(held.values())
    most = min(cfg.micro_batch_size or cfg.minibatch_size, cfg.minibatch_size // gpus)
    micro = min(most, int(left // each)) if left > max(each, cache) else 0
    return held | {"KV cache": cache, "one pass": micro * each}, micro


def seconds(model, cfg, gpus: int, speed: float, bandwidth: float) -> dict[str, float]:
    """Seconds of an update, by part. speed: operations a second that come out; bandwidth: bytes.

    A token costs 2 operations a weight forward (arXiv 2001.08361) and 2 backward, for the inputs
    alone, as the base is frozen; a checkpointed pass goes forward twice. A step of sampling reads
    the base, and on average half of the cache, once.
    """
    weights = sum(p.numel() for p in model.parameters())
    rows, width = cfg.batch_size // gpus, cfg.max_prompt_tokens + cfg.max_response_tokens
    forward = 2 * weights * rows * width
    step = max(
        2 * weights * rows / speed,
        (weights / 2 + models.kv_bytes(model, rows, width) / 2) / bandwidth,
    )
    critic = cfg.critic == "adapter"
    scored = 1 + len(cfg.reward.split(",")) + critic  # the reference, reward models, the critic
    passes = (2 + bool(cfg.gradient_checkpointing)) * (1 + critic)
    return {
        "sampling": cfg.max_response_tokens * step,
        "scoring": scored * forward / speed,
        "training": cfg.epochs * passes * forward / speed,
    }


def plan(model: str, cfg, gpus: int = 1, card: str = "h100", price: float = 0.0) -> dict:
    """Memory by part (GB a card), seconds an update, and what cfg.updates of them cost, at `price`
    a card and hour (0: not told); "assumed" and "estimated" name what is not counted. LabError for
    no such model or card.
    """
    if card not in CARDS:
        raise LabError(f"There is no card {card!r} here. Name one of {', '.join(CARDS)}.")
    if gpus < 1 or cfg.batch_size % gpus or cfg.minibatch_size % gpus:
        raise LabError(
            f"gpus is {gpus}, but batch_size {cfg.batch_size} and minibatch_size"
            f" {cfg.minibatch_size} must be multiples of it."
        )
    gigabytes, speed, bandwidth = CARDS[card]
    weights = sized(model)
    parts, micro = memory(weights, cfg, gpus, ROOM * gigabytes * 1e9)
    times = seconds(weights, cfg, gpus, SHARE * speed, SHARE * bandwidth)
    update = sum(times.values())
    hours = cfg.updates * update / 3600
    return {
        "model": model,
        "parameters": sum(p.numel() for p in weights.parameters()),
        "cards": f"{gpus} × {card}, {gigabytes} GB",
        "fits": micro > 0,
        "micro_batch": micro,
        "memory": {name: size / 1e9 for name, size in parts.items()},
        "seconds": times | {"an update": update},
        "samples_per_second": cfg.batch_size / update,
        "hours": hours,
        **({"cost": price * gpus * hours} if price else {}),
        "estimated": "one pass (to within a fifth, measured on small models on a CPU)",
        "assumed": f"all seconds, hours and cost: {SHARE:.0%} of what the card's maker promises",
    }
