"""One tiny world for the tests: offline, small, and with a runs folder of its own."""

import os
import tempfile

# Before any labkit or Hugging Face import: these are read once.
os.environ.update(
    HF_HUB_OFFLINE="1",
    LABKIT_PROFILE="tiny",
    LABKIT_RUNS=tempfile.mkdtemp(prefix="labkit-runs-"),
    TOKENIZERS_PARALLELISM="false",
    GOMP_SPINCOUNT="10000",
)  # two threads that spin are slow where others compute as well

import pytest

SENTENCES = [
    "台灣最高的山是玉山。",
    "The capital of France is Paris.",
    "The capital of Japan is Tokyo.",
    "Gold is a metal.",
    "What is the capital of Italy? Rome.",
    "誰來告訴我呀？",
    "I think it may be Paris.",
    "Apples are red, green or yellow.",
]


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture
def empty_runs(tmp_path, monkeypatch):
    """LABKIT_RUNS is an empty folder for this test."""
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def tiny_base():
    """A pretrain run named "tiny-base" with random weights: two layers, a tokenizer of 400
    entries.
    """
    import torch

    from labkit import config, models, runs
    from labkit.data import chat

    cfg = config.Pretrain(
        vocab_size=400, hidden_size=64, intermediate_size=128, layers=2, heads=2, context=160
    )
    with runs.start("pretrain", cfg, "tiny-base") as run:
        torch.manual_seed(0)
        tokenizer = chat.train_tokenizer(SENTENCES * 4, cfg.vocab_size)
        model = models.new_base(cfg, tokenizer)
        model.model.embed_tokens.weight.data *= (
            10  # tied and frozen: without weight, no adapter could make a sharp prediction
        )
        models.save_base(model, tokenizer, run.path)
        run.finish(
            tokens=10**12
        )  # of two bases the one that read more is taken: not the shipped one
    return run


@pytest.fixture(scope="session")
def tokenizer(tiny_base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base.path)


@pytest.fixture(scope="session")
def ppo_cfg(tiny_base, tmp_path_factory):
    """Settings of a PPO of two updates on the runs "rl-sft" and "rl-reward", which are random."""
    from ppo_scene import PROMPTS, random_run

    from labkit import config, data

    random_run("sft", "rl-sft", 1)
    random_run("reward", "rl-reward", 2)
    folder = tmp_path_factory.mktemp("rl")
    prompts = data.save_jsonl([{"prompt": prompt} for prompt in PROMPTS], folder / "prompts.jsonl")
    return config.Ppo(
        policy="rl-sft",
        reward="rl-reward",
        prompts=str(prompts),
        updates=2,
        batch_size=8,
        minibatch_size=4,
        epochs=2,
        max_prompt_tokens=80,
        max_response_tokens=8,
        learning_rate=5e-3,
        critic_learning_rate=5e-3,
        temperature=2.0,
        critic="adapter",
        beta=0.05,
        target_kl=0.0,
        warmup=0,
        checkpoint_every=0,
        seed=3,
    )


@pytest.fixture
def scene(ppo_cfg):
    """(players, a rollout of four responses, the experience of it)."""
    import torch
    from ppo_scene import PROMPTS, players_of

    from labkit.stages import ppo

    torch.manual_seed(0)
    players = players_of(ppo_cfg)
    batch = players.sample(PROMPTS[:4], ppo_cfg)
    return players, batch, ppo.measure(players, batch, ppo_cfg)
