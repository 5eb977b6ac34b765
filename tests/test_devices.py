"""Every step of the loop on a GPU's terms: on a pretend CUDA device that is strict about mixing
devices, and with the base in half precision.
"""

import shutil

import fakecuda
import pytest
import torch

from labkit import LabError, config, data, evals, models, rollout, runs
from labkit.data import chat
from labkit.maths.logprobs import predicts
from labkit.rollout import judging
from labkit.stages import module, reward

CFG = config.Sft(lora_r=4, lora_alpha=8)
PROMPTS = ["Gold?", "What is the capital of Japan?", "台灣最高的山是哪座？"]


def shake(model, name):
    for parameter in models.adapter_parameters(model, name):
        parameter.data.normal_(0, 0.1)


@pytest.fixture(scope="module")
def sft_run(tiny_base):
    with runs.start("sft", CFG, "devices-sft") as run:
        model = models.add_lora(models.load_base("tiny-base")[0], CFG)
        shake(model, "default")
        models.save_adapter(model, run, "default")
    return run


@pytest.fixture(scope="module")
def reward_run(sft_run):
    with runs.start("reward", config.Reward(), "devices-reward") as run:
        model = models.load_adapter(models.load_base("tiny-base")[0], sft_run, "reward")
        models.save_adapter(model, run, "reward", models.Head(64))
    return run


@pytest.fixture
def gpu(monkeypatch):
    with fakecuda.installed(monkeypatch):
        yield


def is_cuda(*tensors):
    return all(tensor.device.type == "cuda" for tensor in tensors)


# --- the pretend device itself -------------------------------------------------------------------


def test_the_device_is_strict(gpu):
    here, there = torch.arange(3.0), torch.arange(3.0).to("cuda")
    assert is_cuda(there, there + 1, torch.zeros(2, device="cuda")) and not is_cuda(there.cpu())
    assert (there * 2).tolist() == [0, 2, 4]
    for wrong in (lambda: here + there, lambda: here[there.long()], lambda: there.numpy()):
        with pytest.raises((RuntimeError, TypeError)):
            wrong()
    assert there[torch.tensor([1])].tolist() == [1]  # a CUDA tensor may be indexed from the CPU


def test_a_capture_forbids_waiting_and_can_be_replayed(gpu):
    x, graph = torch.ones(2, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * 3
        with pytest.raises(RuntimeError, match="capturing"):
            y.sum().item()
    x.fill_(5)
    graph.replay()
    assert y.tolist() == [15, 15]


def test_a_softmax_over_a_vocabulary_is_float32s(gpu):
    logits = torch.randn(2, 400, device="cuda")
    for f in (torch.softmax, torch.log_softmax, torch.logsumexp):
        assert is_cuda(f(logits, -1), f(logits.half()[:, :99], -1))  # attention may
        for dtype in (torch.float16, torch.bfloat16):
            with pytest.raises(RuntimeError, match="over a vocabulary"):
                f(logits.to(dtype), -1)


# --- labkit on it --------------------------------------------------------------------------------


def test_a_small_base_is_float32_and_all_of_it_is_there(gpu, sft_run, reward_run):
    model, _ = models.load_base("tiny-base")
    assert model.dtype is torch.float32
    model = models.load_adapter(model, sft_run, "policy", trainable=True)
    model = models.load_adapter(model, reward_run, "reward")
    model = models.add_lora(model, CFG, "other")
    assert is_cuda(*model.parameters(), *model.buffers(), *models.load_head(reward_run).buffers())
    models.use(model, "policy")
    with models.using(model, "reward"):
        assert model.active_adapter == "reward"


@pytest.mark.parametrize("engine", ["decoder", "generate"])
def test_sample(gpu, sft_run, monkeypatch, engine):
    model, tokenizer = models.load_base("tiny-base")
    model = models.load_adapter(model, sft_run, "policy").eval()
    if engine == "generate":
        monkeypatch.setattr(models.dense, "SHAPES", set())
    head = models.Head(64).to(runs.device())
    out = rollout.sample(model, tokenizer, PROMPTS, 6, value_head=head)
    made = [out.input_ids, out.attention_mask, out.response_mask, out.ended]
    if engine == "decoder":
        made += [out.logprobs, out.values]
        assert fakecuda.graphs and fakecuda.graphs[0].replays > 0
    assert is_cuda(*made)
    assert all(isinstance(text, str) for text in out.responses)


def test_the_captured_step_says_what_the_cpu_says(sft_run, monkeypatch):
    def said():
        model, tokenizer = models.load_base("tiny-base", quantize=False)
        model = models.load_adapter(model, sft_run, "policy").eval()
        return rollout.sample(model, tokenizer, PROMPTS, 8, 0.0).responses

    here = said()
    with fakecuda.installed(monkeypatch):
        assert said() == here


def test_parts_take_rows_from_either_device(gpu, sft_run):
    """The rows of a minibatch are drawn on the CPU."""
    model, tokenizer = models.load_base("tiny-base")
    out = rollout.sample(model, tokenizer, PROMPTS, 4)
    kept = torch.zeros(len(PROMPTS), device="cuda")
    for rows in (torch.arange(3), torch.arange(3, device="cuda")):
        for part, columns, batch in out.parts(rows, 2):
            assert is_cuda(part, *batch)
            kept[part] += out.logprobs[part, columns].sum(1)
    assert torch.isfinite(kept).all()


def test_rewards_and_logits(gpu, reward_run):
    model, tokenizer = models.load_base("tiny-base")
    model = models.load_adapter(model, reward_run, "reward")
    ids, mask = chat.pad([[2, 30, 40, 3], [2, 30]], tokenizer.pad_token_id, side="left")
    ids, mask = ids.to(model.device), mask.to(model.device)
    scores = models.rewards(model, models.load_head(reward_run), ids, mask)
    logits, hidden = models.logits_at(model, ids, mask, predicts(mask))
    assert is_cuda(scores, logits, hidden)
    assert torch.isfinite(scores).all() and torch.isfinite(logits).all()


def measured(model, tokenizer, reward_run):
    """Every measurement that runs the model, of a policy that also carries "reward"."""
    model, head = models.load_adapter(model, reward_run, "reward"), models.load_head(reward_run)
    pairs = [data.Pair("What is the capital of France?", "Paris.", "I think it is Paris.")] * 3
    models.use(model, "policy")
    found = [evals.perplexity(model, tokenizer, [data.Demo("Gold?", "metal")] * 3, 2)]
    found += evals.scores(model, head, tokenizer, PROMPTS, ["a", "b", "c"], batch_size=2)
    found.append(evals.agreement(model, head, tokenizer, pairs)["rater"])
    asked = [chat.encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    found += judging.Judge(model, tokenizer, "policy").next_token(asked, [30, 40]).sum(0).tolist()
    return torch.tensor(found)


def test_measurements(gpu, sft_run, reward_run):
    model, tokenizer = models.load_base("tiny-base")
    model = models.load_adapter(model, sft_run, "policy").eval()
    assert torch.isfinite(measured(model, tokenizer, reward_run)).all()


def test_measurements_go_on_with_fewer_rows_where_memory_runs_out(sft_run, reward_run):
    """The same figures, two rows at a time; where not even one fits, a sentence."""
    model, tokenizer = models.load_base("tiny-base")
    model = models.load_adapter(model, sft_run, "policy")
    model = models.load_adapter(model, sft_run, "reference").eval()
    model, head = models.load_adapter(model, reward_run, "reward"), models.load_head(reward_run)
    rows = [chat.encode(tokenizer, prompt, "yes")[0] for prompt in PROMPTS]
    judge = judging.Judge(model, tokenizer, "policy")
    measures = {
        "perplexity": lambda: evals.perplexity(
            model, tokenizer, [data.Demo(p, "yes") for p in PROMPTS]
        ),
        "scores": lambda: evals.scores(model, head, tokenizer, PROMPTS, ["a", "b", "c"]),
        "kl": lambda: evals.kl(model, tokenizer, PROMPTS, "policy", "reference"),
        "judge": lambda: judge.next_token(rows, [30, 40]),
        "reward": lambda: reward.score(model, head, tokenizer, rows),
        "answer": lambda: rollout.answer(model, tokenizer, PROMPTS, 6, 0.0),
    }
    whole, most = {name: measure() for name, measure in measures.items()}, 2

    def full(module, args):
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    model.get_input_embeddings().register_forward_pre_hook(full)
    for name, measure in measures.items():
        most = 2
        found = measure()
        if name == "answer":
            assert found == whole[name]
        elif name != "kl":  # of answers that are drawn
            torch.testing.assert_close(found, whole[name], rtol=1e-3, atol=1e-4)
        most = 0
        with pytest.raises(LabError, match="Memory ran out.*smaller base"):
            measure()


POLICY = {"policy": "devices-sft", "batch_size": 8}
PPO = POLICY | {"reward": "devices-reward", "updates": 2, "epochs": 1, "warmup": 0}
PPO |= {"batch_size": 4, "minibatch_size": 2, "gradient_checkpointing": 1}
STAGES = {
    "sft": {"batch_size": 8},
    "reward": POLICY,
    "reward mean": POLICY | {"reads": "mean", "batch_size": 16},  # in two parts
    "dpo": POLICY,
    "kto": POLICY,
    "ai_feedback": POLICY | {"labels": 0},
    "ppo": PPO | {"ptx": 0.5, "checkpoint_every": 1},
    "ppo critic": PPO | {"critic": "adapter", "micro_batch_size": 1},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Twenty demonstrations, pairs, thumbs, prompts and lines of text of the learner's own."""
    folder = tmp_path_factory.mktemp("data")
    asked = [f"Is it {i}?" for i in range(20)]
    pairs = [data.Pair(prompt, "yes", "I think so") for prompt in asked]
    data.save_jsonl([data.Demo(prompt, "yes") for prompt in asked], folder / "sft.jsonl")
    for stage in ("reward", "dpo", "ai_feedback"):
        data.save_jsonl(pairs, folder / f"{stage}.jsonl")
    thumbs = [data.Rating(prompt, "yes", i % 2 == 0) for i, prompt in enumerate(asked)]
    data.save_jsonl(thumbs, folder / "kto.jsonl")
    (folder / "prompts.txt").write_text("\n".join(asked), "utf8")
    (folder / "text.txt").write_text("\n\n".join(f"{one} Yes." for one in asked * 4), "utf8")
    return folder


def train(stage, files):
    settings, stage = STAGES[stage], stage.split()[0]
    if stage == "ppo":
        mine = {"prompts": str(files / "prompts.txt"), "ptx_text": str(files / "text.txt")}
    else:
        mine = {"data": str(files / f"{stage}.jsonl")}
    cfg = config.KINDS[stage](
        base="tiny-base", lora_r=4, max_prompt_tokens=60, max_response_tokens=12, **settings | mine
    )
    with runs.start(stage, cfg) as run:
        module(stage).train(cfg, run)
    return run


def check(run):
    figures = [value for value in run.evaluation.values() if isinstance(value, float)]
    assert run.metrics() and torch.isfinite(torch.tensor(figures)).all()


@pytest.mark.filterwarnings("ignore:'pin_memory'", "ignore:.*CUDA is not available")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_train(gpu, files, sft_run, reward_run, stage, dtype, monkeypatch):
    """As a small base does, and as a large one on a card with bf16 or without."""
    monkeypatch.setattr(models.base, "compute_dtype", lambda *_: dtype)
    check(train(stage, files))


def test_pretrain(gpu, files):
    sizes = dict(
        vocab_size=300, hidden_size=32, intermediate_size=64, layers=1, heads=2, context=32
    )
    steps = dict(sequence_length=8, batch_size=4, steps=3, rounded=0)
    cfg = config.Pretrain(corpus=str(files / "text.txt"), **sizes, **steps)
    with runs.start("pretrain", cfg) as run:
        module("pretrain").train(cfg, run)
    check(run)
    shutil.rmtree(run.path)  # no base for what comes after


def test_a_base_in_half_precision_is_asked_for_its_loss(gpu, tiny_base, monkeypatch):
    monkeypatch.setattr(models.base, "compute_dtype", lambda *_: torch.bfloat16)
    rows = torch.randint(4, 300, (2, 9)).to(runs.device())
    loss = module("pretrain").next_token_loss(models.load_base("tiny-base")[0], rows)
    assert loss.dtype is torch.float32 and torch.isfinite(loss)


# --- half precision, on the CPU ------------------------------------------------------------------


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=str)
def half(request, monkeypatch):
    """Bases compute in half precision, as large ones do on a GPU. The tests' base stays small
    enough for float16; the shipped one would not.
    """
    monkeypatch.setattr(models.base, "compute_dtype", lambda *_: request.param)
    return request.param


@torch.no_grad()
def test_half_precision_samples_and_measures(half, sft_run, reward_run):
    model, tokenizer = models.load_base("tiny-base")
    assert model.dtype is half
    model = models.load_adapter(model, sft_run, "policy").eval()
    head = models.Head(64)
    out = rollout.sample(model, tokenizer, PROMPTS, 6, value_head=head)
    logits, _ = models.logits_at(
        model, out.input_ids, out.attention_mask, predicts(out.response_mask)
    )
    for found in (out.logprobs, out.values, logits, measured(model, tokenizer, reward_run)):
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("stage", STAGES)
def test_half_precision_trains(half, files, sft_run, reward_run, stage):
    check(train(stage, files))
