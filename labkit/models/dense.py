"""One adapter's forward pass over the shared base: through plain weights where they are small,
through peft where not.

`forward(model, adapter)` gives either; both answer the same two questions, `hidden` and
`logits_at`.

Dense: every 4-bit layer dequantised once, the adapter merged into it, layers that read the same
input joined into one product. A small model spends most of a step on the overhead of small calls: a
LoRA layer on a 4-bit base makes eight of them (dequantise, product, two narrow products, scale,
add, …), a dense one makes one. The gradient reaches A and B through W + s·B·A, formed once a
minibatch; it costs a weight gradient of full size, so large models go through peft.
"""

import contextlib
import functools

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from labkit.maths.logprobs import position_ids
from labkit.models import scoring
from labkit.models.adapters import using
from labkit.models.base import SMALL

SHAPES = {"llama", "mistral", "qwen2", "qwen3", "gpt2"}


def supports(model) -> bool:
    """Whether Dense computes what this model's own forward pass does."""
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


def forward(model, adapter: str, checkpointed: bool = False):
    """The forward pass of `adapter` on `model` (a PeftModel, or a bare base where adapter is ""):
    Dense for a small float32 model, else Switched.
    """
    small = sum(p.numel() for p in model.parameters()) < SMALL
    if small and supports(model) and model.dtype == torch.float32:
        return Dense(model, adapter)
    return Switched(model, adapter, checkpointed)


class Switched:
    """The adapter is made the active one of the peft model for each pass; a bare base has none.

    checkpointed: of each layer only the input is kept for the backward pass, which runs it again
    (arXiv 1604.06174), under this adapter: by then another one may be active.
    """

    def __init__(self, model, adapter: str, checkpointed: bool = False):
        self.model, self.adapter, self.layers = model, adapter, []
        if checkpointed:
            from transformers.modeling_layers import GradientCheckpointingLayer as Layer

            self.layers = [module for module in model.modules() if isinstance(module, Layer)]

    @contextlib.contextmanager
    def active(self):
        """The adapter is the active one, and the layers keep their inputs alone where a gradient
        is wanted. For transformers they are in training mode then: they alone, so that nothing in
        them can switch dropout on, and no longer, since they would do without a cache.
        """
        layers = self.layers if torch.is_grad_enabled() else []
        again = lambda: (contextlib.nullcontext(), using(self.model, self.adapter))
        run = functools.partial(checkpoint, use_reentrant=False, context_fn=again)
        for layer in layers:
            layer.gradient_checkpointing = layer.training = True
            layer._gradient_checkpointing_func = run
        try:
            with using(self.model, self.adapter):
                yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False

    def hidden_at(self, ids, attention_mask, places):
        """Last hidden states (N, d) at the N places that are True in `places` (B, T)."""
        with self.active():
            return scoring.hidden_states(self.model, ids, attention_mask)[places]

    def logits_at(self, ids, attention_mask, places):
        """(logits (N, V), hidden (N, d)): lm_head runs at `places` alone."""
        with self.active():
            logits, hidden = scoring.logits_at(self.model, ids, attention_mask, places)
            return logits, hidden[places]

    def refresh(self):
        """Nothing to do: the layers read A and B as they are."""


class Joined:
    """Linear layers that read the same input, as one: x (..., in) → (..., sum of their outs).

    adapter: its name; None takes those that are active, none where adapters are switched off.
    merge=False runs the layers as they are, in 4 bits: slower, and no second copy in memory.
    """

    def __init__(self, *modules, adapter=None, merge=True):
        self.modules, self.merge = modules, merge
        if merge:
            plain = [dequantised(module) for module in modules]
            self.frozen, self.sizes = _cat([w for w, _ in plain]), [len(w) for w, _ in plain]
            biases = [bias for _, bias in plain]
            self.bias = None if biases[0] is None else _cat(biases)
            self.loras = [loras(module, adapter) for module in modules]
            self.trains = any(A.requires_grad for each in self.loras for A, _, _ in each)
            self.refresh()

    @torch.no_grad()
    def refresh(self):
        """Merge the adapter as it is now."""
        self.weight = self.frozen
        if any(self.loras):
            self.weight = torch.cat(
                [
                    (w.float() + sum(s * (B.float() @ A.float()) for A, B, s in each)).to(w.dtype)
                    for w, each in zip(self.frozen.split(self.sizes), self.loras)
                ]
            )
        if not self.trains:  # what never changes again need not be held twice
            self.frozen = self.weight

    def __call__(self, x):
        if not self.merge:
            return torch.cat([module(x) for module in self.modules], -1)
        if self.trains and torch.is_grad_enabled():
            return Merged.apply(
                x, self, *[m for each in self.loras for A, B, _ in each for m in (A, B)]
            )
        return F.linear(x, self.weight, self.bias)


class Merged(torch.autograd.Function):
    """y = x (W + s·B·A)ᵀ + bias in one product; the gradient goes to x, A and B, and no gradient of
    W's size is formed.
    """

    @staticmethod
    def forward(ctx, x, joined, *matrices):
        ctx.save_for_backward(x)
        ctx.joined, ctx.weight = joined, joined.weight
        return F.linear(x, joined.weight, joined.bias)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        rows, found = x.flatten(0, -2), []
        for part, each in zip(grad.flatten(0, -2).split(ctx.joined.sizes, -1), ctx.joined.loras):
            for A, B, s in each:
                found += [s * (part @ B).T @ rows, s * (part.T @ (rows @ A.T))]
        return grad @ ctx.weight, None, *found


def loras(module, adapter) -> list[tuple]:
    """[(A (r, in), B (out, r), scale)] of the adapter of that name, or of those that are active."""
    if not hasattr(module, "lora_A") or (adapter is None and module.disable_adapters):
        return []
    names = module.active_adapters if adapter is None else [adapter]
    return [
        (module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])
        for name in names
        if name in module.lora_A
    ]


def _cat(tensors):
    """No copy of one: an output layer may be large."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def dequantised(module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(weight (out, in), bias) of a linear layer's base."""
    from bitsandbytes.functional import dequantize_4bit
    from transformers.pytorch_utils import Conv1D

    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    state = getattr(base.weight, "quant_state", None)
    weight = dequantize_4bit(base.weight.data, state) if state is not None else base.weight.data
    return (weight.T if isinstance(base, Conv1D) else weight), base.bias


class Dense:
    """A model of one of the SHAPES laid out for plain arithmetic, with `adapter` merged (see
    Joined).

    blocks: per layer (norm_1, qkv, (q_norm, k_norm) or (), out, norm_2, mlp); `run` puts them in a
    row, and is told how to attend: here over whole rows, in rollout.decoder over a cache.
    """

    def __init__(self, model, adapter=None, merge=True):
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        cfg, body = base.config, base.base_model
        self.device, self.heads = model.device, cfg.num_attention_heads
        self.kv_heads = getattr(cfg, "num_key_value_heads", None) or self.heads
        self.size = getattr(cfg, "head_dim", None) or cfg.hidden_size // self.heads
        self.joined = []

        def join(*modules):
            self.joined.append(Joined(*modules, adapter=adapter, merge=merge))
            return self.joined[-1]

        if cfg.model_type == "gpt2":
            self.embed, self.places, self.rotary, self.norm = body.wte, body.wpe, None, body.ln_f
            self.blocks = [
                (
                    h.ln_1,
                    join(h.attn.c_attn),
                    (),
                    join(h.attn.c_proj),
                    h.ln_2,
                    _plain_mlp(join(h.mlp.c_fc), h.mlp.act, join(h.mlp.c_proj)),
                )
                for h in body.h
            ]
        else:
            self.embed, self.places, self.rotary = body.embed_tokens, None, body.rotary_emb
            self.norm, self.blocks = _rms(body.norm), []
            for layer in body.layers:
                a, m = layer.self_attn, layer.mlp
                norms = (_rms(a.q_norm), _rms(a.k_norm)) if hasattr(a, "q_norm") else ()
                mlp = _gated_mlp(join(m.gate_proj, m.up_proj), m.act_fn, join(m.down_proj))
                self.blocks.append(
                    (
                        _rms(layer.input_layernorm),
                        join(a.q_proj, a.k_proj, a.v_proj),
                        norms,
                        join(a.o_proj),
                        _rms(layer.post_attention_layernorm),
                        mlp,
                    )
                )
        self.lm_head = join(base.get_output_embeddings())
        self.dtype = self.embed.weight.dtype

    def turns(self, positions):
        """(cos, sin) of the rotary embedding at positions (B, L): (B, L, 1, size); None for learned
        places.
        """
        if not self.rotary:
            return None
        cos, sin = self.rotary(torch.zeros(1, dtype=self.dtype, device=self.device), positions)
        return cos[:, :, None], sin[:, :, None]

    def run(self, tokens, positions, turns, attend, places=None):
        """Last hidden states (B, L, d) of tokens at positions (both (B, L)); (N, d) where `places`
        (B, L) are given.

        attend(layer, q, k, v), each (B, L, heads, size) → (B, L, heads · size).
        """
        q_heads, k_heads = self.heads, self.kv_heads
        x = self.embed(tokens)
        if not self.rotary:
            x = x + self.places(positions)
        for layer, (norm_1, qkv, norms, out, norm_2, mlp) in enumerate(self.blocks):
            heads = qkv(norm_1(x)).view(*tokens.shape, q_heads + 2 * k_heads, self.size)
            qk, v = heads[:, :, : q_heads + k_heads], heads[:, :, q_heads + k_heads :]
            if norms:
                parts = zip(norms, (qk[:, :, :q_heads], qk[:, :, q_heads:]))
                qk = torch.cat([norm(part) for norm, part in parts], 2)
            if turns:
                cos, sin = turns
                left, right = qk.chunk(2, -1)
                qk = qk * cos + torch.cat([-right, left], -1) * sin
            seen = attend(layer, qk[:, :, :q_heads], qk[:, :, q_heads:], v)
            if places is not None and layer == len(self.blocks) - 1:
                x, seen = x[places], seen[places]  # from here on no token looks at another one
            x = x + out(seen)
            x = x + mlp(norm_2(x))
        return self.norm(x)

    def for_groups(self, readable):
        """What queries may read, (B, 1, L, T), as `attention` takes it: (B, 1, groups · L, T)."""
        return readable.repeat(1, 1, self.heads // self.kv_heads, 1)

    def hidden_at(self, ids, attention_mask, places):
        """Last hidden states (N, d) at the N places that are True in `places` (B, T)."""
        # Where no row is padded on the left, order alone masks.
        ordered = self.heads == self.kv_heads and bool(attention_mask[:, 0].all())
        readable = None
        if not ordered:
            columns = torch.arange(ids.shape[1], device=ids.device)
            readable = (columns[:, None] >= columns) & attention_mask[:, None, None].bool()
            # A pad reads itself, or its softmax over nothing would be NaN; nobody reads a pad.
            readable = readable | torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
            readable = self.for_groups(readable)

        def attend(layer, q, k, v):
            return attention(q, k, v, readable)

        positions = position_ids(attention_mask)
        return self.run(ids, positions, self.turns(positions), attend, places)

    def logits_at(self, ids, attention_mask, places):
        """(logits (N, V), hidden (N, d)): lm_head runs at `places` alone."""
        hidden = self.hidden_at(ids, attention_mask, places)
        return self.lm_head(hidden), hidden

    def refresh(self):
        """Merge the adapter as it is now: before the first pass after a step."""
        for one in self.joined:
            one.refresh()


def attention(q, k, v, readable=None):
    """q (B, L, heads, size) over k, v (B, T, kv_heads, size) → (B, L, heads · size). readable: a
    mask (B, 1, groups · L, T), True where read; None: order alone masks, for equal heads.

    The `groups` of query heads that share a key head stand one after another in the length axis:
    with a mask, `enable_gqa` leaves CUDA only the slow path that forms every score.
    """
    q = q.unflatten(2, (k.shape[2], -1)).permute(0, 2, 3, 1, 4)  # (B, kv_heads, groups, L, size)
    seen = F.scaled_dot_product_attention(
        q.flatten(2, 3),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=readable,
        is_causal=readable is None,
    )
    return seen.unflatten(2, q.shape[2:4]).permute(0, 3, 1, 2, 4).flatten(2)


def _rms(module):
    eps = getattr(module, "variance_epsilon", 1e-6)
    return lambda x: F.rms_norm(x, module.weight.shape, module.weight, eps)


def _gated_mlp(gate_up, act, down):
    def mlp(x):
        gate, up = gate_up(x).chunk(2, -1)
        return down(act(gate) * up)

    return mlp


def _plain_mlp(up, act, down):
    return lambda x: down(act(up(x)))
