"""Measurements that take minutes: python -m labkit bench series | pretrain | rollout | feedback
(ppo: bench_ppo.py, gpu: bench_gpu.py).
 Each figure is taken on this machine and set beside what bounds it (the matrix-product rate) or
beside a peer in the same process.
"""

import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from labkit import LabError, runs

STEPS = 120  # of the peer; the whole comparison then takes some three minutes on two cores
RATES = (1e-3, 3e-3, 1e-2)  # learning rates that plain AdamW is given; its best one counts
SHARES = (
    0.5,
    0.75,
    1.0,
)  # of the peer's steps: how long ours may take; the first that reaches the peer's loss counts
BATCHES = (16, 64, 256)  # prompts that are answered at once


# --- notebooks -----------------------------------------------------------------------------------


def series(notebooks=(), profile: str = "tiny") -> dict:
    """Execute notebooks one after the other in one empty runs folder, so that a later one finds
    what an earlier one trained.

    Returns {"notebooks": {name: {"seconds", "peak_rss_bytes"}}, "total_seconds", …}. The peak is of
    the resident memory of nbconvert, the kernel and their children together, seen 20 times a
    second; pages they share count twice. The notebooks' files are not touched. Raises LabError when
    there is no notebook or one fails.
    """
    folder = Path(__file__).parent.parent / "notebooks"
    files = [Path(file) for file in notebooks] or sorted(folder.glob("*.ipynb"))
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise LabError(
            f"There is no notebook {missing[0]!r}."
            if missing
            else (
                f"There are no notebooks in {folder}. Run this in a checkout of the project, or"
                " name notebooks."
            )
        )
    found = {}
    with tempfile.TemporaryDirectory(prefix="labkit-bench-") as scratch:
        environment = {
            **os.environ,
            "LABKIT_RUNS": str(Path(scratch, "runs")),
            "LABKIT_PROFILE": profile,
        }
        for file in files:
            found[file.stem] = execute(file, scratch, environment)
            print(
                f"{file.stem} · {found[file.stem]['seconds']:.1f} s ·"
                f" {found[file.stem]['peak_rss_bytes'] / 1e6:.0f} MB",
                file=sys.stderr,
            )
    return {
        "notebooks": found,
        "total_seconds": round(sum(one["seconds"] for one in found.values()), 2),
        "profile": profile,
        "device": runs.device().type,
        "cores": (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "versions": runs.versions(),
    }


def execute(notebook: Path, scratch: str, environment: dict) -> dict:
    """Execute one notebook into `scratch`: {"seconds", "peak_rss_bytes"}."""
    import psutil

    log, peak, started = Path(scratch, "log.txt"), 0, time.perf_counter()
    with log.open("w") as stderr:
        process = psutil.Popen(
            [
                sys.executable,
                "-m",
                "jupyter",
                "nbconvert",
                "--to",
                "notebook",
                "--execute",
                "--output-dir",
                scratch,
                "--ExecutePreprocessor.kernel_name=python3",
                "--ExecutePreprocessor.timeout=900",
                "--ExecutePreprocessor.store_widget_state=False",  # a panel without a kernel is dead, and large
                str(notebook.resolve()),
            ],
            env=environment,
            stdout=stderr,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
        )
    try:
        while process.poll() is None:
            peak = max(peak, resident(process))
            time.sleep(0.05)
    finally:
        stop(process)
    if process.returncode:
        plain = re.sub(
            "\x1b\\[[0-9;]*m", "", log.read_text("utf8", "replace")
        )  # IPython colours what it says
        said = [line.strip() for line in plain.split("\n") if line.strip()]
        raise LabError(
            f"{notebook} failed: {said[-1] if said else 'no message'}. Open it and run it cell by"
            " cell."
        )
    return {"seconds": round(time.perf_counter() - started, 2), "peak_rss_bytes": peak}


def resident(process) -> int:
    """Resident bytes of a process and all under it."""
    import psutil

    total = 0
    for one in [process, *tree(process)]:
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue  # it ended between the list and the question
    return total


def tree(process) -> list:
    """Everything under a process; nothing where it ended already."""
    import psutil

    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def stop(process):
    """Leave no kernel behind when the measurement is interrupted."""
    import psutil

    for one in [*tree(process), process] if process.poll() is None else []:
        try:
            one.terminate()
        except psutil.Error:
            continue
    process.wait()


# --- ratings -------------------------------------------------------------------------------------


def feedback(before: int = 10_000, adds: int = 500) -> dict:
    """What the store costs a click: seconds of `add`, `undo` and `len` with `before` ratings in it,
    and of opening and reading it all; and a click in a rating panel, until the next item stands
    there (without the way to the browser and back).

    Measured on the disk of the runs folder, in a folder that is deleted afterwards. The slowest add
    counts most: it may hold a checkpoint of the write-ahead log.
    """
    from labkit.feedback import Feedback, Store, panels

    one = Feedback(
        "台灣最高的山？",
        ("玉山。" * 100, "泰山。" * 100),
        "pair",
        0,
        shown=(1, 0),
        tags=("wordy",),
        sources=("a", "b"),
    )

    def seconds(function, times: int = 1) -> list[float]:
        found = []
        for _ in range(times):
            started = time.perf_counter()
            function()
            found.append(time.perf_counter() - started)
        return sorted(found)

    runs.root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=runs.root()) as folder:
        with contextlib.closing(Store(Path(folder, "feedback.sqlite"))) as store:
            store.extend([one] * before)
        opening = seconds(lambda: Store(store.path).close())[0]
        with contextlib.closing(Store(store.path)) as store:
            added = seconds(lambda: store.add(one), adds)
            panel = panels.rate(
                [(one.prompt, one.responses)] * 100, store=store, rater="bench", fastest=0
            )
            clicked = seconds(panel.verdicts["same"].click, 100)
            return {
                "ratings_before": before,
                "adds": adds,
                "add_seconds_median": median(added),
                "add_seconds_p99": added[int(0.99 * (adds - 1))],
                "add_seconds_max": added[-1],
                "click_seconds_median": median(clicked),
                "click_seconds_max": clicked[-1],
                "undo_seconds_median": median(seconds(store.undo, 20)),
                "len_seconds_median": median(seconds(store.__len__, 20)),
                "all_seconds": seconds(store.all)[0],
                "open_seconds": opening,
                "store_bytes": store.path.stat().st_size,
            }


# --- sampling ------------------------------------------------------------------------------------


def rollout(model, tokenizer, prompts, batches=BATCHES, tokens: int = 48, repeats: int = 5) -> dict:
    """Sampling with rollout.sample against transformers' `generate` on one model (4-bit base,
    active adapter), turn and turn about.

    Per batch size, of medians over `repeats`: ratio_tokens_per_second (ours / generate), both
    figures, and fraction_of_bound of ours. Every row gets exactly `tokens` new tokens, so that both
    do the same work: the tokenizer is told that its end token is one that the model can't say.
    natural: the same with the real end token, where a batch takes as long as its longest row; only
    tokens up to the end count. The seconds of rollout.sample hold all it does (merging the weights,
    log-probabilities, text); those of `generate` its call alone.

    The bound on a CPU is arithmetic: 2 · parameters that multiply (embedding look-ups not counted)
    · tokens per second over the matrix rate. On CUDA it is traffic: the bytes of the weights (in
    the dtype it computes in) and of the KV cache that a step reads, · steps per second, over the
    measured bandwidth of a copy.
    """
    import copy

    import torch

    from labkit import models
    from labkit import rollout as engine
    from labkit.data import chat

    if repeats < 1:
        raise LabError(f"--repeats is {repeats}, but it must be 1 or more.")

    endless = copy.copy(tokenizer)
    endless.__class__ = type(
        "Endless", (type(tokenizer),), {"eos_token_id": model.config.vocab_size}
    )

    def ours(tok, asked):
        return int(engine.sample(model, tok, asked, tokens).response_mask.sum())

    def theirs(tok, asked):
        ids, mask = (
            x.to(model.device)
            for x in chat.pad(
                [chat.encode_prompt(tok, one) for one in asked], tok.pad_token_id, "left"
            )
        )
        return lambda: generated(model, tok, ids, mask, tokens)

    cuda, before, report = model.device.type == "cuda", matmul_rate(), {}
    traffic = copy_rate() if cuda else None
    for batch in batches:
        asked = [prompts[i % len(prompts)] for i in range(batch)]
        row = {}
        for kind, tok in (("", endless), ("natural", tokenizer)):
            sides = {
                "ours": lambda tok=tok, asked=asked: ours(tok, asked),
                "generate": theirs(tok, asked),
            }
            speeds = {side: [] for side in sides}
            for repeat in range(-1, repeats):  # the first one allocates: not counted
                for side, sample in sides.items():
                    torch.manual_seed(repeat + 1)
                    started = clock()
                    count = sample()
                    if repeat >= 0:
                        speeds[side].append(count / (clock() - started))
            ratios = [a / b for a, b in zip(speeds["ours"], speeds["generate"])]
            middle = {side: median(found) for side, found in speeds.items()}
            found = {
                "ratio_tokens_per_second": middle["ours"] / middle["generate"],
                "tokens_per_second": middle,
                "runs": speeds | {"ratio": ratios},
            }
            row |= {kind: found} if kind else found
            print(
                f"batch {batch}{' ' + kind if kind else ''}: ours {middle['ours']:.0f}, generate"
                f" {middle['generate']:.0f} tokens/s",
                file=sys.stderr,
            )
        speed = row["tokens_per_second"]["ours"]
        if cuda:
            width = max(len(chat.encode_prompt(tokenizer, one)) for one in asked) + tokens / 2
            row["fraction_of_bound"] = (
                speed
                / batch
                * (
                    multiplied(model) * models.compute_dtype().itemsize
                    + models.kv_bytes(model, batch, width)
                )
                / traffic
            )
        else:
            row["fraction_of_bound"] = 2 * multiplied(model) * speed / before
        report[str(batch)] = row
    return {
        "batches": report,
        "new_tokens": tokens,
        "repeats": repeats,
        "parameters": multiplied(model),
        "matmul_flop_per_second": [before, matmul_rate()],
        **({"copy_bytes_per_second": traffic} if cuda else {}),
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "versions": runs.versions(),
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
    ended = (
        model.generate(ids, attention_mask=attention_mask, generation_config=how)[:, ids.shape[1] :]
        == tokenizer.eos_token_id
    )
    return int((ended.cumsum(1) - ended.long() == 0).sum())


def multiplied(model) -> int:
    """Parameters that a token is multiplied with: all but adapters, and but the input embedding
    where lm_head has weights of its own.
    """
    from labkit import models

    base = model.get_base_model() if hasattr(model, "peft_config") else model
    tied = base.get_output_embeddings().weight is base.get_input_embeddings().weight
    return models.describe(model)["parameters"] - (
        0 if tied else base.get_input_embeddings().weight.numel()
    )


def copy_rate(size: int = 1 << 30, repeats: int = 7) -> float:
    """Bytes per second that a copy on the device reads and writes: the median over `repeats` copies
    of `size` bytes.
    """
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=runs.device())
    target = torch.empty_like(source)
    seconds = []
    for _ in range(repeats + 1):
        started = clock()
        target.copy_(source)
        seconds.append(clock() - started)
    return 2 * size / median(seconds[1:])


# --- pre-training --------------------------------------------------------------------------------


def pretrain(cfg, rates=RATES) -> dict:
    """Our pre-training against the machine's matrix-product rate and against a peer, on the text
    cfg.corpus (config.Pretrain).

    The peer is what one writes first: the same transformers Llama, its own loss (`model(input_ids,
    labels=…).loss`) and AdamW with default betas, at the best of `rates`. Text, rows, their order,
    first weights, warm-up, schedule and gradient clipping are the same. The loss to reach is the
    peer's best validation loss after cfg.steps steps; ours gets half of these steps, then three
    quarters, then all, each time with a whole schedule, until it reaches that loss. Taking the
    validation loss is not timed.

    fraction_of_matmul_rate: 6 · parameters · tokens per second (arXiv 2001.08361, 2.1) over the
    fp32 rate of 2048² products, measured before and after. Ratios are peer / ours; null where ours
    never got there.
    """
    import torch

    from labkit import models
    from labkit.stages import pretrain as stage

    tokenizer, rows, validation, _ = stage.prepare(cfg)
    device, before = runs.device(), matmul_rate()

    def new_model():
        torch.manual_seed(cfg.seed)
        return models.new_base(cfg, tokenizer).to(device).train()

    peers = {}
    for rate in rates:
        model = new_model()
        peers[rate] = race(
            model,
            plain_loss,
            [torch.optim.AdamW(model.parameters(), lr=rate)],
            rows,
            validation,
            cfg,
            cfg.steps,
        )
        print(
            f"AdamW at {rate:g}: validation loss {peers[rate][-1]['loss']:.3f} after"
            f" {peers[rate][-1]['seconds']:.1f} s",
            file=sys.stderr,
        )
    best = min(rates, key=lambda rate: peers[rate][-1]["loss"])
    target = peers[best][-1]["loss"]

    for steps in dict.fromkeys(max(1, round(share * cfg.steps)) for share in SHARES):
        model = new_model()
        ours = race(
            model, stage.next_token_loss, stage.optimisers(model, cfg), rows, validation, cfg, steps
        )
        print(
            f"ours in {steps} steps: validation loss {ours[-1]['loss']:.3f} after"
            f" {ours[-1]['seconds']:.1f} s",
            file=sys.stderr,
        )
        if ours[-1]["loss"] <= target:
            break
    after = matmul_rate()
    if max(before, after) > 1.5 * min(before, after):
        print(
            "The matrix rate changed by more than half meanwhile: something else was at work here."
            " Measure again when it is done.",
            file=sys.stderr,
        )
    parameters = sum(p.numel() for p in model.parameters())
    speed = ours[-1]["tokens"] / ours[-1]["seconds"]
    mine, theirs = reached(ours, target), peers[best][-1]
    return {
        "tokens_per_second": speed,
        "fraction_of_matmul_rate": 6 * parameters * speed / ((before + after) / 2),
        "ratio_seconds_to_loss": theirs["seconds"] / mine["seconds"] if mine else None,
        "ratio_tokens_to_loss": theirs["tokens"] / mine["tokens"] if mine else None,
        "validation_loss": target,
        "ours": {
            "optimizer": cfg.optimizer,
            "learning_rate": cfg.learning_rate,
            "muon_learning_rate": cfg.muon_learning_rate,
            "steps": steps,
            "seconds_to_loss": mine and mine["seconds"],
            "tokens_to_loss": mine and mine["tokens"],
            "final_loss": ours[-1]["loss"],
        },
        "peer": {
            "optimizer": "adamw",
            "learning_rate": best,
            "steps": cfg.steps,
            "seconds_to_loss": theirs["seconds"],
            "tokens_to_loss": theirs["tokens"],
            "tokens_per_second": theirs["tokens"] / theirs["seconds"],
            "final_loss_by_learning_rate": {
                f"{rate:g}": curve[-1]["loss"] for rate, curve in peers.items()
            },
        },
        "parameters": parameters,
        "matmul_flop_per_second": [before, after],
        "device": device.type,
        "threads": torch.get_num_threads(),
        "versions": runs.versions(),
    }


def plain_loss(model, rows):
    """The mean next-token loss as transformers computes it."""
    return model(input_ids=rows, labels=rows).loss


def race(model, loss_of, optimisers, rows, validation, cfg, steps: int) -> list[dict]:
    """Train for `steps` and return the curve: {"seconds", "tokens", "loss"} with the validation
    loss at ten places and at the end.
    """
    import torch

    from labkit.config import change
    from labkit.stages.pretrain import schedule, validation_loss

    cfg = change(cfg, steps=steps)
    peaks = [[group["lr"] for group in opt.param_groups] for opt in optimisers]
    loss_of(model, rows[: cfg.batch_size]).backward()  # the first pass allocates: not timed
    model.zero_grad()
    order, curve, seconds = random.Random(cfg.seed), [], 0.0
    for step in range(steps):
        started = clock()
        loss_of(model, rows[order.sample(range(len(rows)), cfg.batch_size)]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, peak in zip(optimisers, peaks, strict=True):
            for group, lr in zip(opt.param_groups, peak, strict=True):
                group["lr"] = lr * schedule(step, cfg)
            opt.step()
            opt.zero_grad(set_to_none=True)
        seconds += clock() - started
        if (step + 1) % max(1, steps // 10) == 0 or step == steps - 1:
            tokens = (step + 1) * cfg.batch_size * cfg.sequence_length
            curve.append(
                {
                    "seconds": seconds,
                    "tokens": tokens,
                    "loss": validation_loss(model, validation, cfg.batch_size),
                }
            )
    return curve


def reached(curve: list[dict], target: float) -> dict | None:
    """Seconds and tokens at which a curve first comes down to `target`, on the straight line
    between two measurements; None if never.
    """
    for i, point in enumerate(curve):
        if point["loss"] <= target:
            last = curve[i - 1] if i else point
            share = (
                (last["loss"] - target) / (last["loss"] - point["loss"])
                if last["loss"] > point["loss"]
                else 1.0
            )
            return {
                key: last[key] + share * (point[key] - last[key]) for key in ("seconds", "tokens")
            }
    return None


def matmul_rate(size: int = 2048, repeats: int = 7) -> float:
    """The fp32 matrix-product rate of this machine in FLOP/s: the median over `repeats` products of
    two size² matrices.
    """
    import torch

    a, b = torch.randn(2, size, size, device=runs.device())
    a @ b
    seconds = []
    for _ in range(repeats):
        started = clock()
        a @ b
        seconds.append(clock() - started)
    return 2 * size**3 / median(seconds)


def clock() -> float:
    """Seconds, when all that was asked of the GPU is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
