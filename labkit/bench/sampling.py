"""`bench rollout`: sampling beside transformers' `generate`."""

import copy
from statistics import median

import torch

from labkit import LabError, models
from labkit import rollout as engine
from labkit.bench.measure import clock, copy_rate, machine, matmul_rate, say
from labkit.data import chat

BATCHES = (16, 64, 256)  # prompts that are answered at once


def rollout(model, tokenizer, prompts, batches=BATCHES, tokens: int = 48, repeats: int = 5) -> dict:
    """Sampling with rollout.sample against transformers' `generate` on one model (4-bit base,
    active adapter), turn and turn about.

    Per batch size, of medians over `repeats`: ratio_tokens_per_second (ours / generate), both
    figures, and fraction_of_bound of ours. Every row gets exactly `tokens` new tokens, so that both
    do the same work: the end token is one that the model has never seen.
    natural: the same with the real end token, where a batch takes as long as its longest row; only
    tokens up to the end count. The seconds of rollout.sample hold all it does (merging the weights,
    log-probabilities, text); those of `generate` its call alone.

    The bound on a CPU is arithmetic: 2 · parameters that multiply (embedding look-ups not counted)
    · tokens per second over the matrix rate. On CUDA it is traffic: the bytes of the weights (in
    the dtype it computes in) and of the KV cache that a step reads, · steps per second, over the
    measured bandwidth of a copy.
    """
    if repeats < 1:
        raise LabError(f"--repeats is {repeats}, but it must be 1 or more.")
    endless = copy.deepcopy(tokenizer)
    endless.add_special_tokens({"eos_token": "<|never|>"})  # its id is after the model's last
    cuda, flops, size = model.device.type == "cuda", matmul_rate(), multiplied(model)
    traffic = copy_rate() if cuda else None
    report = {}
    for batch in batches:
        asked = [prompts[i % len(prompts)] for i in range(batch)]
        row = race(model, endless, asked, tokens, repeats)
        row["natural"] = race(model, tokenizer, asked, tokens, repeats)
        speed = row["tokens_per_second"]["ours"]
        if cuda:
            width = max(len(chat.encode_prompt(tokenizer, one)) for one in asked) + tokens / 2
            weights = size * models.compute_dtype().itemsize
            step = weights + models.kv_bytes(model, batch, width)
            row["fraction_of_bound"] = step * speed / batch / traffic
        else:
            row["fraction_of_bound"] = 2 * size * speed / flops
        report[str(batch)] = row
    return {
        "batches": report,
        "new_tokens": tokens,
        "repeats": repeats,
        "parameters": size,
        "matmul_flop_per_second": [flops, matmul_rate()],
        "copy_bytes_per_second": traffic,
        **machine(),
    }


def race(model, tokenizer, asked: list[str], tokens: int, repeats: int) -> dict:
    """Tokens per second of both sides on one batch, and their ratio."""
    rows = [chat.encode_prompt(tokenizer, one) for one in asked]
    ids, mask = (x.to(model.device) for x in chat.pad(rows, tokenizer.pad_token_id, "left"))
    sides = {
        "ours": lambda: int(engine.sample(model, tokenizer, asked, tokens).response_mask.sum()),
        "generate": lambda: generated(model, tokenizer, ids, mask, tokens),
    }
    speeds = {side: [] for side in sides}
    for repeat in range(1 + repeats):
        for side, sample in sides.items():
            torch.manual_seed(repeat)
            started = clock()
            speeds[side].append(sample() / (clock() - started))
    speeds = {side: found[1:] for side, found in speeds.items()}  # the first one allocates
    middle = {side: median(found) for side, found in speeds.items()}
    say(
        f"batch {len(asked)}: ours {middle['ours']:.0f}, generate {middle['generate']:.0f} tokens/s"
    )
    return {
        "ratio_tokens_per_second": middle["ours"] / middle["generate"],
        "tokens_per_second": middle,
        "runs": speeds | {"ratio": [a / b for a, b in zip(*speeds.values())]},
    }


def generated(model, tokenizer, ids, attention_mask, tokens: int) -> int:
    """Response tokens (up to the end token, it included) that `generate` samples from the model
    itself.
    """
    from transformers import GenerationConfig

    how = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    full = model.generate(ids, attention_mask=attention_mask, generation_config=how)
    ended = full[:, ids.shape[1] :] == tokenizer.eos_token_id
    return int((ended.cumsum(1) - ended.long() == 0).sum())


def multiplied(model) -> int:
    """Parameters that a token is multiplied with: all but adapters, and but the input embedding
    where lm_head has weights of its own.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    embedding = base.get_input_embeddings().weight
    tied = base.get_output_embeddings().weight is embedding
    return models.describe(model)["parameters"] - (0 if tied else embedding.numel())
