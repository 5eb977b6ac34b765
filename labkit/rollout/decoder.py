"""Fast sampling: the active adapter merged into plain weights once, then one small step per token
over a static KV cache.

    decoder = Decoder(model)                    # merges; the model's own weights do not change
    for tokens, logprobs, hidden, rows in decoder.decode(ids, attention_mask, n, 1.0, eos): ...

What a step of `generate` spends on bookkeeping, on dequantising the base and on adapters as extra
products is gone; what is left is arithmetic. Rows that have ended are dropped from the batch. On
CUDA a step is a captured graph. It knows the Llama, Qwen and GPT-2 shapes (`supports`); sliding
windows, mixtures of experts and the rest are left to transformers' `generate`.
"""

import torch

from labkit.models.dense import Dense, attention

# Rows are dropped when this share has ended: copying the cache costs more than a few idle rows.
DROP = 0.125


class Decoder(Dense):
    """A model laid out for sampling, as its active adapter is now.

    merge: hold the weights dequantised and merged (a copy in the compute dtype; None: where the
    GPU's free memory has room for it twice; always on a CPU); False runs the model's own 4-bit
    layers, slower.
    """

    @torch.no_grad()
    def __init__(self, model, merge: bool | None = None):
        if merge is None:
            size = 2 * sum(
                p.numel() for p in model.parameters()
            )  # bytes in half precision; NF4 counts for less
            merge = model.device.type != "cuda" or 2 * size < torch.cuda.mem_get_info()[0]
        super().__init__(model, merge=merge)

    def _begin(self, attention_mask, width: int):
        """Static buffers for B rows of `width` columns; the prompts stand in the first ones."""
        batch, prompt = attention_mask.shape
        shape = (2, len(self.blocks), batch, width, self.kv_heads, self.size)
        self.cache = torch.zeros(shape, dtype=self.dtype, device=self.device)
        # Which columns may be read.
        self.open = torch.zeros(batch, 1, 1, width, dtype=torch.bool, device=self.device)
        self.open[:, 0, 0, :prompt] = attention_mask.bool()
        every = self.turns(torch.arange(width, device=self.device)[None])
        self.every = every and tuple(table[0] for table in every)  # (T, 1, size)

    def _forward(self, tokens, positions, columns, readable):
        """tokens, positions (B, L) at cache `columns` (L,), which may read `readable`
        (B, 1, L, ≤ T) → last hidden states (B, L, d).
        """
        width, readable = readable.shape[-1], self.for_groups(readable)

        def attend(layer, q, k, v):
            keys, values = self.cache[0, layer], self.cache[1, layer]
            keys.index_copy_(1, columns, k)
            values.index_copy_(1, columns, v)
            return attention(q, keys[:, :width], values[:, :width], readable)

        turns = self.every and tuple(table[positions] for table in self.every)
        return self.run(tokens, positions, turns, attend)

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
