"""Hidden states, logits and rewards of the active adapter, and the heads that read them."""

import torch
from torch import nn

from labkit import LabError, compat, runs
from labkit.maths.logprobs import last_places, like_length, position_ids
from labkit.models.adapters import using
from labkit.models.base import HEAD, readable

LIKE_LENGTH = 16  # sequences a pass of RewardModel, the shortest first


class Head(nn.Module):
    """hidden (B, d) → score (B,), normalised: (weight · hidden − mean) / std. weight is (1, d),
    mean and std are () tensors.

    reads: where a reward model's head reads a sequence: "last", at its last token (arXiv
    2203.02155), or "mean", the mean over its tokens. On the tiny base "mean" agreed with the rater
    in .77 of held-out pairs after 188 steps and "last" in .69 (one seed). The likely cause: it read
    documents packed end to end, where nothing before an [END], the last token, matters after it.
    """

    def __init__(self, width: int, reads: str = "last"):
        super().__init__()
        self.reads = reads
        # std 1/√(d+1), bias none (arXiv 2009.01325; "The N implementation details of RLHF with
        # PPO").
        self.weight = nn.Parameter(torch.randn(1, width) / (width + 1) ** 0.5)
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def forward(self, hidden):
        return ((hidden.float() @ self.weight.float().T).squeeze(-1) - self.mean) / self.std

    def places(self, attention_mask):
        """What is to be read of sequences (B, T): (B, T), True there."""
        return attention_mask.bool() if self.reads == "mean" else last_places(attention_mask)

    def read(self, hidden, attention_mask):
        """Scores (B,) from the hidden states (N, d) at `places(attention_mask)`."""
        if self.reads == "mean":
            count = attention_mask.sum(1)
            rows = torch.arange(len(count), device=hidden.device).repeat_interleave(count)
            total = hidden.new_zeros(len(count), hidden.shape[1], dtype=torch.float32)
            hidden = total.index_add(0, rows, hidden.float()) / count[:, None]
        return self(hidden)

    @torch.no_grad()
    def normalise(self, scores):
        """Give `scores`, (N,) as this head makes them now, mean 0 and variance 1."""
        self.mean += self.std * scores.mean()
        self.std *= scores.std(correction=0).clamp(min=1e-6)


def load_head(run) -> Head:
    """The head of a reward run, frozen, on the training device."""
    from safetensors.torch import load_file

    run.verify(HEAD)
    if not (run.path / HEAD).exists():
        raise LabError(
            f"The run {run.name!r} ({run.stage}) has no reward head. "
            "Name a reward run, or train one: python -m labkit train reward"
        )
    advice = "Bring back a good copy, or delete the run and train the stage again."
    with readable(f"The reward head {run.path / HEAD}", advice):
        state = load_file(run.path / HEAD)
        head = Head(state["weight"].shape[1], run.info["config"].get("reads", "last"))
        head.load_state_dict(state)
    return head.requires_grad_(False).to(runs.device())


def hidden_states(model, ids, attention_mask):
    """Last hidden states (B, T, d) under the active adapter; lm_head is not run."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    return base.base_model(
        input_ids=ids,
        attention_mask=attention_mask,
        position_ids=position_ids(attention_mask),
        use_cache=False,
    ).last_hidden_state


def logits_at(model, ids, attention_mask, places):
    """(logits (N, V), hidden (B, T, d)) under the active adapter: lm_head runs only where `places`
    (B, T) is True.

    At a rollout's shapes most positions are prompt or padding, and the vocabulary is most of the
    memory.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    # These models do something to their logits after lm_head: theirs are taken as they come.
    special = ("final_logit_softcapping", "logits_scaling", "logit_scale")
    if any(getattr(model.config, key, None) for key in special):
        out = model(
            input_ids=ids,
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask),
            use_cache=False,
            output_hidden_states=True,
        )
        return out.logits[places], out.hidden_states[-1]
    hidden = hidden_states(model, ids, attention_mask)
    return base.get_output_embeddings()(hidden[places]), hidden


def rewards(model, head, ids, attention_mask, adapter: str = "reward"):
    """Scores (B,) of prompt + response, ids (B, T): what the head reads of each row under the
    adapter "reward".
    """
    with using(model, adapter):
        hidden = hidden_states(model, ids, attention_mask)
    return head.read(hidden[head.places(attention_mask)], attention_mask)


class RewardModel(nn.Module):
    """Adapter and head in the shape that TRL's RewardTrainer trains: logits (B, 1). No second base
    is loaded for it. passes: models.forward(model, "reward"), how the adapter is run.
    """

    def __init__(self, model, head, passes):
        super().__init__()
        self.model, self.head, self.passes = model, head, passes
        model.config.num_labels = 1
        compat.trainable_by_trl(self, model)

    def forward(self, input_ids, attention_mask, use_cache=False):
        from transformers.modeling_outputs import SequenceClassifierOutput

        self.passes.refresh()  # each call comes after a step
        order, scores = [], []
        for rows, width in like_length(attention_mask, LIKE_LENGTH):
            ids, mask = input_ids[rows, :width], attention_mask[rows, :width]
            hidden = self.passes.hidden_at(ids, mask, self.head.places(mask))
            order.append(rows)
            scores.append(self.head.read(hidden, mask))
        scores = torch.cat(scores)[torch.cat(order).argsort()]
        return SequenceClassifierOutput(logits=scores.unsqueeze(-1))
