"""vLLM in the decoder's place, on a stand-in with vLLM's own names: what it is asked for, and that
PPO learns from what it says.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from ppo_scene import one_update, players_of
from safetensors.torch import load_file

from labkit import LabError, config, ranks
from labkit.rollout.vllm_engine import Engine


@pytest.fixture
def vllm(monkeypatch):
    """Modules with the names that the engine uses; `asked` holds every call, with the adapter's
    weights as its file had them then.
    """
    module, lora = ModuleType("vllm"), ModuleType("vllm.lora.request")
    module.asked = []

    class LLM:
        def __init__(self, **how):
            module.made = how

        def generate(self, prompts, params, lora_request, use_tqdm):
            weights = load_file(f"{lora_request.path}/adapter_model.safetensors")
            module.asked.append(
                SimpleNamespace(prompts=prompts, params=params, request=lora_request)
            )
            module.asked[-1].weights = weights
            return [SimpleNamespace(outputs=[self.said(one)]) for one in params]

        def said(self, params):
            """Five tokens by the seed; a third of the answers stop before."""
            chance = torch.Generator().manual_seed(params["seed"])
            tokens = torch.randint(300, 330, (5,), generator=chance).tolist()
            stops = params["seed"] % 3 == 0
            kept = tokens[:3] if stops else tokens
            return SimpleNamespace(token_ids=kept, finish_reason="stop" if stops else "length")

    module.LLM, module.SamplingParams = LLM, lambda **how: how
    lora.LoRARequest = lambda name, number, path: SimpleNamespace(
        name=name, number=number, path=path
    )
    for name, one in {"vllm": module, "vllm.lora": ModuleType("lora"), lora.__name__: lora}.items():
        monkeypatch.setitem(sys.modules, name, one)
    return module


def test_a_rollout_by_vllm(vllm, ppo_cfg):
    players = players_of(config.change(ppo_cfg, engine="vllm"))
    assert vllm.made["quantization"] == "bitsandbytes" and vllm.made["trust_remote_code"] is False
    torch.manual_seed(0)
    sampled = players.sample(["one", "two", "two", "a longer prompt"] * 3, ppo_cfg)
    (asked,) = vllm.asked
    prompt = lambda i: asked.prompts[i]["prompt_token_ids"]
    assert prompt(1) == prompt(2) != prompt(3) and players.tokenizer.pad_token_id not in prompt(0)
    one = asked.params[0]
    assert (one["max_tokens"], one["temperature"]) == (
        ppo_cfg.max_response_tokens,
        ppo_cfg.temperature,
    )
    assert (one["top_p"], one["top_k"]) == (1.0, -1)
    assert len({params["seed"] for params in asked.params}) == 12  # equal prompts, other answers
    end = players.tokenizer.eos_token_id
    for i, params in enumerate(asked.params):
        stops = params["seed"] % 3 == 0
        tokens = sampled.input_ids[i][sampled.response_mask[i].bool()].tolist()
        assert len(tokens) == (4 if stops else 5) and (tokens[-1] == end) == stops
        assert bool(sampled.ended[i]) == stops
    assert sampled.logprobs is None and sampled.values is None  # PPO asks its own model
    torch.manual_seed(0)
    again = players.sample(["one", "two", "two", "a longer prompt"] * 3, ppo_cfg)
    assert again.responses == sampled.responses


def test_ppo_learns_from_it_and_hands_it_every_update_s_adapter(vllm, ppo_cfg):
    cfg = config.change(ppo_cfg, engine="vllm", warmup=1)
    run = one_update(cfg, updates=2)
    lines = run.metrics()
    assert len(lines) == 2 and all(abs(line["kl"]) < 20 for line in lines)
    assert lines[0]["first_ratio_error"] < 1e-3 and abs(lines[0]["kl"]) < 1e-3
    first, second = [one for one in vllm.asked if len(one.prompts) == cfg.batch_size][-2:]
    assert (
        first.request.number != second.request.number and first.request.name != second.request.name
    )
    assert first.weights.keys() == second.weights.keys()
    assert any((first.weights[k] != second.weights[k]).any() for k in first.weights)
    with pytest.raises(OSError):
        load_file(f"{second.request.path}/adapter_model.safetensors")  # nothing is left behind


def test_where_it_cannot_be(monkeypatch, vllm):
    monkeypatch.setattr(ranks, "world", lambda: 2)
    with pytest.raises(LabError, match="for one process"):
        Engine(None, "")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(LabError, match="not installed here: python -m pip install vllm"):
        Engine(None, "")
    with pytest.raises(LabError, match='engine is .*must be "" or "vllm"'):
        config.change(config.tiny().ppo, engine="tgi")
