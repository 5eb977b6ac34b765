"""Every stage in a size that a test can stop and go on with many times over."""

import math
import os
import signal
import threading

from labkit import config, data, runs, stages
from labkit.stages import checkpoint, trl

STAGES = ("pretrain", "sft", "reward", "dpo", "kto", "ai_feedback", "ppo")
WORDS = "Gold Japan Paris Rome Tokyo apples water iron Peru Cuba".split()


def settings(folder, ppo_cfg) -> dict:
    """{stage: its settings}; files go into `folder`. Two epochs and more, so that a run stops in
    the second one, too.
    """
    asked = [f"What is {word}{'?' * (1 + i % 3)}" for i, word in enumerate(WORDS * 4)]
    said = [f"It is {'the ' * (i % 4)}{word}." for i, word in enumerate(WORDS * 4)]
    pairs = [{"prompt": p, "chosen": r, "rejected": r[3:]} for p, r in zip(asked, said)]
    rows = {
        "sft": [{"prompt": p, "response": r} for p, r in zip(asked, said)],
        "reward": pairs,
        "dpo": pairs,
        "ai_feedback": pairs,
        "kto": [
            {"prompt": p, "response": r, "label": i % 2 == 0}
            for i, (p, r) in enumerate(zip(asked, said))
        ],
    }
    sizes = dict(base="tiny-base", examples=0, lora_r=4, batch_size=4)
    lengths = dict(max_prompt_tokens=80, max_response_tokens=16)
    found = {}
    for stage, some in rows.items():
        file = data.save_jsonl(some, folder / f"{stage}.jsonl")
        named = {} if stage == "sft" else {"policy": "rl-sft"}
        if stage == "ai_feedback":
            named |= {"labels": 4, "max_prompt_tokens": 40, "learning_rate": 1e-2}
        more = {**sizes, **lengths, **named, "data": str(file), "epochs": 2.5}
        found[stage] = config.change(config.KINDS[stage](), **more)
    book = folder / "book.txt"
    book.write_text("\n\n".join(f"The fox ate {day} cakes and slept." for day in range(90)), "utf8")
    found["pretrain"] = config.Pretrain(
        corpus=str(book),
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        layers=1,
        heads=2,
        context=64,
        sequence_length=16,
        batch_size=16,
        steps=25,
        warmup=2,
    )
    found["ppo"] = config.change(ppo_cfg, updates=3, checkpoint_every=1, critic="head")
    return found


def trained(stage, cfg, name, kill_after=math.inf, at=None, large=None):
    """Begin or go on with the run `name`, in this process, with a checkpoint wherever there can be
    one; whether it went on. It kills itself after so many seconds, or when line `at` is logged.
    """
    checkpoint.EVERY = checkpoint.SHARE = 0
    trl.LARGE = trl.LARGE if large is None else large
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    if kill_after < math.inf:
        threading.Timer(kill_after, die).start()
    goes_on = runs.checkpoints(runs.root() / (runs.PARTIAL + name))
    with runs.resume(name) if goes_on else runs.start(stage, cfg, name) as run:
        run.listeners.append(lambda line: line["step"] == at and die())
        stages.module(stage).train(run.config, run)
    return bool(goes_on)


def outcome(name) -> dict:
    """All that a run says and weighs, but for what hangs on the clock and on its name."""
    run = runs.load(name)
    timed = ("seconds", "tokens_per_second", "runtime", "_per_second", "memory")
    plain = lambda line: {k: v for k, v in line.items() if not any(part in k for part in timed)}
    sums = run.info["files"]
    weights = {file: sum for file, sum in sums.items() if file.endswith(".safetensors")}
    assert weights
    return {
        "metrics": [plain(line) for line in run.metrics()],
        "evaluation": plain(run.evaluation),
        "weights": weights,
        "data": run.info.get("data_hash"),
        "pairs": sums.get("pairs.jsonl"),
    }
