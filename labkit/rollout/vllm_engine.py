"""Sampling by vLLM (arXiv 2309.06180), where it is installed: config.Ppo.engine = "vllm".

vLLM holds a second copy of the base, also in NF4, and reads the policy's adapter from a folder at
every rollout. It rounds otherwise than the model that learns: its log-probabilities are not used,
and PPO takes those of the tokens from the model itself. Tried against a stand-in, not on a card.
"""

import tempfile

import torch
from torch.nn.utils.rnn import pad_sequence

from labkit import LabError, ranks


class Engine:
    """Samples for rollout.sample in place of the decoder.

    base: a folder or Hub id; share: of the card's memory, for vLLM's base and cache. LabError where
    vLLM is not installed, or several processes train.
    """

    def __init__(self, model, base: str, share: float = 0.3):
        try:
            import vllm
            from vllm.lora.request import LoRARequest
        except ImportError:
            raise LabError(
                'engine is "vllm", which is not installed here: python -m pip install vllm (Linux,'
                ' CUDA), or leave engine at "".'
            ) from None
        if ranks.world() > 1:
            raise LabError('engine="vllm" is for one process: leave it at "" under torchrun.')
        self.vllm, self.request, self.asked = vllm, LoRARequest, 0
        self.llm = vllm.LLM(
            model=base,
            skip_tokenizer_init=True,
            enable_lora=True,
            max_loras=1,
            max_lora_rank=max(one.r for one in model.peft_config.values()),
            gpu_memory_utilization=share,
            quantization="bitsandbytes",  # as models.load_base does
            trust_remote_code=False,
        )

    def __call__(self, model, tokenizer, ids, attention_mask, n: int, temperature: float, *_):
        """(response (B, t), None, None) of the adapter "policy"; see sampling._decode."""
        end, self.asked = tokenizer.eos_token_id, self.asked + 1
        rows = [row[real].tolist() for row, real in zip(ids.cpu(), attention_mask.cpu().bool())]
        # A seed for each row, of torch's own chance: equal prompts get unequal answers, and a
        # resumed run the same ones.
        how = {"max_tokens": n, "temperature": temperature, "stop_token_ids": [end]}
        how |= {"top_p": 1.0, "top_k": -1, "detokenize": False}
        seeds = torch.randint(2**31, (len(rows),)).tolist()
        with tempfile.TemporaryDirectory(prefix="labkit-policy-") as folder:
            model.save_pretrained(folder, selected_adapters=["policy"], save_embedding_layers=False)
            outputs = self.llm.generate(
                [{"prompt_token_ids": row} for row in rows],
                [self.vllm.SamplingParams(seed=seed, **how) for seed in seeds],
                # A name and a number that vLLM has not seen: it keeps those that it knows.
                lora_request=self.request(f"policy-{self.asked}", self.asked, f"{folder}/policy"),
                use_tqdm=False,
            )
        said = [list(output.outputs[0].token_ids) for output in outputs]
        stopped = [output.outputs[0].finish_reason == "stop" for output in outputs]
        for row, stop in zip(said, stopped, strict=True):
            if stop and row[-1:] != [end]:
                row.append(end)
        response = [torch.tensor(row, dtype=torch.long, device=ids.device) for row in said]
        return pad_sequence(response, True, tokenizer.pad_token_id), None, None
