"""Fast sampling: the active adapter merged into plain weights once, then one small step per token
over a static KV cache.

    decoder = Decoder(model)                                  # merges; None of the model's own weights change
    for tokens, logprobs, hidden, rows in decoder.decode(ids, attention_mask, n, 1.0, eos): ...
 What a step of `generate` spends on bookkeeping, on dequantising the base and on adapters as extra
products is gone; what is left is arithmetic. Rows that have ended are dropped from the batch. On
CUDA a step is a captured graph. It knows the Llama, Qwen and GPT-2 shapes (`supports`); sliding
windows, mixtures of experts and the rest are left to transformers' `generate`.
"""

import functools

import torch
import torch.nn.functional as F

SHAPES = {"llama", "mistral", "qwen2", "qwen3", "gpt2"}
DROP = 0.125  # rows are dropped when this share of the batch has ended: copying the cache costs more than a few idle rows


def supports(model) -> bool:
    """Whether the decoder computes what this model's own forward pass does."""
    cfg = getattr(model, "config", None)
    odd = ("scale_attn_by_inverse_layer_idx", "add_cross_attention")
    windows = set(getattr(cfg, "layer_types", None) or ()) - {"full_attention"}
    if getattr(cfg, "model_type", "") == "mistral" and cfg.sliding_window:
        windows = {"sliding_attention"}
    return (
        getattr(cfg, "model_type", "") in SHAPES
        and not windows
        and not any(getattr(cfg, key, False) for key in odd)
    )


def dense(module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(weight (out, in), bias) of a linear layer: dequantised, its active adapters added."""
    from bitsandbytes.functional import dequantize_4bit
    from transformers.pytorch_utils import Conv1D

    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    state = getattr(base.weight, "quant_state", None)
    weight = dequantize_4bit(base.weight.data, state) if state is not None else base.weight.data
    weight = weight.T if isinstance(base, Conv1D) else weight
    if base is not module and not module.disable_adapters:
        for name in module.active_adapters:
            if name in module.lora_A:
                delta = module.lora_B[name].weight @ module.lora_A[name].weight
                weight = (weight.float() + module.scaling[name] * delta.float()).to(weight.dtype)
    return weight, base.bias


def linear(*modules, merge: bool):
    """One function for layers that read the same input: (..., in) → (..., sum of their outs)."""
    if not merge:
        return lambda x: (
            torch.cat([module(x) for module in modules], -1) if len(modules) > 1 else modules[0](x)
        )
    weights, biases = zip(*map(dense, modules), strict=True)
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    bias = None if biases[0] is None else torch.cat(biases)
    return functools.partial(F.linear, weight=weight, bias=bias)


def rms(module):
    eps = getattr(module, "variance_epsilon", 1e-6)
    return lambda x: F.rms_norm(x, module.weight.shape, module.weight, eps)


class Decoder:
    """A model laid out for sampling, as its active adapter is now.

    merge: hold the weights dequantised and merged (a copy in the compute dtype; None: where the
    GPU's free memory has room for it twice; always on a CPU); False runs the model's own 4-bit
    layers, slower.
    """

    @torch.no_grad()
    def __init__(self, model, merge: bool | None = None):
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        cfg, self.device = base.config, model.device
        if merge is None:
            size = 2 * sum(
                p.numel() for p in base.parameters()
            )  # bytes in half precision; NF4 counts for less
            merge = self.device.type != "cuda" or 2 * size < torch.cuda.mem_get_info()[0]
        self.merged, self.heads = merge, cfg.num_attention_heads
        self.kv_heads = getattr(cfg, "num_key_value_heads", None) or self.heads
        self.size = getattr(cfg, "head_dim", None) or cfg.hidden_size // self.heads
        join = functools.partial(linear, merge=merge)
        body = base.base_model
        if cfg.model_type == "gpt2":
            self.embed, self.places, self.rotary, self.norm = body.wte, body.wpe, None, body.ln_f
            self.blocks = [
                (
                    h.ln_1,
                    join(h.attn.c_attn),
                    (),
                    join(h.attn.c_proj),
                    h.ln_2,
                    _gpt2_mlp(join(h.mlp.c_fc), h.mlp.act, join(h.mlp.c_proj)),
                )
                for h in body.h
            ]
        else:
            self.embed, self.places, self.rotary, self.norm = (
                body.embed_tokens,
                None,
                body.rotary_emb,
                rms(body.norm),
            )
            self.blocks = []
            for layer in body.layers:
                a, m = layer.self_attn, layer.mlp
                norms = (rms(a.q_norm), rms(a.k_norm)) if hasattr(a, "q_norm") else ()
                self.blocks.append(
                    (
                        rms(layer.input_layernorm),
                        join(a.q_proj, a.k_proj, a.v_proj),
                        norms,
                        join(a.o_proj),
                        rms(layer.post_attention_layernorm),
                        _gated_mlp(join(m.gate_proj, m.up_proj), m.act_fn, join(m.down_proj)),
                    )
                )
        self.lm_head = join(base.get_output_embeddings())
        self.dtype = self.embed.weight.dtype

    def _begin(self, attention_mask, width: int):
        """Static buffers for B rows of `width` columns; the prompts stand in the first ones."""
        batch, prompt = attention_mask.shape
        shape = (2, len(self.blocks), batch, width, self.kv_heads, self.size)
        self.cache = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.open = torch.zeros(
            batch, 1, 1, width, dtype=torch.bool, device=self.device
        )  # which columns may be read
        self.open[:, 0, 0, :prompt] = attention_mask.bool()
        if self.rotary:
            every = torch.arange(width, device=self.device)[None]
            cos, sin = self.rotary(torch.zeros(1, dtype=self.dtype, device=self.device), every)
            self.cos, self.sin = cos[0, :, None], sin[0, :, None]  # (T, 1, size)

    def _forward(self, tokens, positions, columns, readable):
        """tokens, positions (B, L) at cache `columns` (L,), which may read `readable` (B, 1, L, ≤
        T) → last hidden states (B, L, d).
        """
        width, q_heads, k_heads = readable.shape[-1], self.heads, self.kv_heads
        x = self.embed(tokens)
        if self.rotary:
            cos, sin = self.cos[positions], self.sin[positions]  # (B, L, 1, size)
        else:
            x = x + self.places(positions)
        for keys, values, (norm_1, qkv, qk_norms, out, norm_2, mlp) in zip(
            *self.cache, self.blocks, strict=True
        ):
            heads = qkv(norm_1(x)).view(*tokens.shape, q_heads + 2 * k_heads, self.size)
            qk, v = heads[:, :, : q_heads + k_heads], heads[:, :, q_heads + k_heads :]
            if qk_norms:
                qk = torch.cat(
                    [
                        norm(part)
                        for norm, part in zip(
                            qk_norms, (qk[:, :, :q_heads], qk[:, :, q_heads:]), strict=True
                        )
                    ],
                    2,
                )
            if self.rotary:
                left, right = qk.chunk(2, -1)
                qk = qk * cos + torch.cat([-right, left], -1) * sin
            keys.index_copy_(1, columns, qk[:, :, q_heads:])
            values.index_copy_(1, columns, v)
            seen = F.scaled_dot_product_attention(
                qk[:, :, :q_heads].transpose(1, 2),
                keys[:, :width].transpose(1, 2),
                values[:, :width].transpose(1, 2),
                attn_mask=readable,
                enable_gqa=q_heads != k_heads,
            )
            x = x + out(seen.transpose(1, 2).flatten(2))
            x = x + mlp(norm_2(x))
        return self.norm(x)

    @torch.no_grad()
    def decode(self, ids, attention_mask, n: int, temperature: float, eos: int):
        """Sample up to n tokens after left-padded prompts ids (B, P); yields, a token at a time,
        for the b rows still in the batch:

        tokens (b,); logprobs (b,), of the distribution they were drawn from (temperature 0: the
        greedy token's at temperature 1); hidden (b, d), the state that the token was read from (a
        critic's head reads it too); rows (b,), which rows of ids they are. Ends when every row has
        said eos. A row that is still in the batch after its eos talks on: cut there.
        """
        batch, prompt = ids.shape
        rows, width = torch.arange(batch, device=self.device), prompt + n
        self._begin(attention_mask, width)
        columns = torch.arange(prompt, device=self.device)
        causal = columns[:, None] >= columns
        # A pad reads itself, or its softmax over nothing would be NaN; nobody reads a pad.
        readable = self.open[..., :prompt] & causal | torch.eye(
            prompt, dtype=torch.bool, device=self.device
        )
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        hidden = self._forward(ids, positions, columns, readable)[:, -1]
        positions, alive, step = positions[:, -1:], torch.ones_like(rows, dtype=torch.bool), None
        for t in range(n):
            tokens, logprobs = draw(self.lm_head(hidden).float(), temperature)
            yield tokens, logprobs, hidden, rows
            if t == n - 1:
                return
            alive = alive & (tokens != eos)
            if self.device.type != "cuda" or t % 8 == 7:  # counting waits for the GPU
                left = int(alive.sum())
                if not left:
                    return
                if left <= (1 - DROP) * len(rows):
                    keep = alive.nonzero().squeeze(1)
                    self.cache, self.open = self.cache[:, :, keep], self.open[keep]
                    rows, tokens, positions, alive, step = (
                        rows[keep],
                        tokens[keep],
                        positions[keep],
                        alive[keep],
                        None,
                    )
            step = step or self._stepper(len(rows))
            positions = positions + 1
            hidden = step(tokens[:, None], positions, prompt + t)[:, 0]

    def _stepper(self, batch: int):
        """step(tokens (b, 1), positions (b, 1), column) → hidden (b, 1, d); on CUDA a graph,
        captured once per batch size.
        """
        if self.device.type != "cuda":

            def step(tokens, positions, column):
                self.open[..., column] = True
                return self._forward(
                    tokens, positions, torch.tensor([column]), self.open[..., : column + 1]
                )

            return step

        tokens, positions = torch.zeros(2, batch, 1, dtype=torch.long, device=self.device)
        column = torch.zeros(1, dtype=torch.long, device=self.device)

        def static():
            self.open.index_fill_(3, column, True)
            return self._forward(tokens, positions, column, self.open)

        def replay(new_tokens, new_positions, new_column):
            nonlocal graph, hidden
            for old, new in ((tokens, new_tokens), (positions, new_positions)):
                old.copy_(new)
            column.fill_(new_column)
            if graph is None:
                aside = torch.cuda.Stream()
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(
                    aside
                ):  # kernels choose their plans here; writing one column twice changes nothing
                    static()
                torch.cuda.current_stream().wait_stream(aside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    hidden = static()
            graph.replay()
            return hidden.clone()

        graph = hidden = None
        return replay


def draw(logits, temperature: float):
    """(tokens (B,), their log-probabilities (B,)) from logits (B, V): one uniform number a row,
    found in the cumulative sum.

    `torch.multinomial` draws the same distribution and took a quarter of a lean loop's time.
    """
    if not temperature:
        tokens = logits.argmax(-1)
        return tokens, logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)
    probabilities = (logits / temperature).softmax(-1)
    cumulative = probabilities.cumsum(-1)
    place = torch.rand(len(logits), 1, device=logits.device) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, place, right=True).clamp(
        max=logits.shape[-1] - 1
    )  # right: never a token of probability 0
    return tokens.squeeze(-1), probabilities.gather(-1, tokens).squeeze(-1).log()


def _gated_mlp(gate_up, act, down):
    def mlp(x):
        gate, up = gate_up(x).chunk(2, -1)
        return down(act(gate) * up)

    return mlp


def _gpt2_mlp(up, act, down):
    return lambda x: down(act(up(x)))
