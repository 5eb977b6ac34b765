"""Stage 1, pre-training: word chain (文字接龍). A small Llama reads text and learns to say which
token comes next.

Simplified against a big laboratory's: documents are packed end to end and attend across their
borders; the data fit in memory; one machine. Not simplified: the tokenizer is trained on the same
text, documents are held out before packing, and the optimiser is Muon, which reached the same loss
in fewer tokens than AdamW when we measured (`python -m labkit bench pretrain`).
"""

import math
import random
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from labkit import LabError, atlas, models, ranks, runs
from labkit.data import chat
from labkit.maths.logprobs import next_tokens
from labkit.stages import check_finite, checkpoint

RATES = "learning_rate and muon_learning_rate"
CHARACTERS = 8  # read of a set for each token that is trained on; English text has 4 to a token
PROBE = "The capital of France is"  # continued now and then while training, to watch text appear


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for weight matrices (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon).

    torch.optim.Muon does the same in bfloat16, matrix by matrix; on a CPU without bfloat16 units
    that takes longer than the rest of the step. This one stays in float32 and treats all matrices
    of one shape as one batch. Updates are scaled by 0.2 √max(rows, columns), which gives them the
    size of AdamW's (arXiv 2502.16982, eq. 4).
    """

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    buffer.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(buffer, group["momentum"]))  # Nesterov
                scale = 0.2 * math.sqrt(max(shape)) * group["lr"]
                for p, update in zip(params, orthogonalise(torch.stack(updates)), strict=True):
                    p.sub_(update, alpha=scale)


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices to `matrices` (N, R, C), roughly: quintic
    Newton-Schulz, singular values end in [0.7, 1.2].
    """
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def optimisers(model, cfg) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks and AdamW for the rest, or AdamW for all."""
    matrices = [
        p
        for name, p in model.named_parameters()
        if p.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    chosen = {id(p) for p in matrices} if cfg.optimizer == "muon" else set()
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adamw = torch.optim.AdamW(rest, lr=cfg.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    return [Muon(matrices, lr=cfg.muon_learning_rate), adamw] if chosen else [adamw]


def schedule(step: int, cfg) -> float:
    """Share of the peak rate at `step`: linear warm-up, flat, then linear to zero over the last
    40 %.
    """
    return min((step + 1) / max(1, cfg.warmup), 1.0, (cfg.steps - step) / (0.4 * cfg.steps))


class Rounded(torch.nn.Module):
    """A matrix as its NF4 copy will be read; the gradient passes straight through the rounding to
    the matrix itself (quantisation-aware training, arXiv 1712.05877; arXiv 1308.3432, 4).
    """

    def forward(self, weight):
        # The difference is 0 and passes the gradient; the sum is rounded to the last bit.
        return models.rounded(weight.detach()) + (weight - weight.detach())


def round_matrices(model):
    """Every pass reads the matrices of the blocks in NF4, as all later stages will: what rounding
    loses is learnt again.
    """
    for layer in model.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            parametrize.register_parametrization(layer, "weight", Rounded())


def unround(model):
    """The matrices themselves again; NF4 rounds them to what was trained."""
    for layer in model.model.layers.modules():
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def pack(tokenizer, documents: list[str], width: int, marks: bool = False) -> torch.Tensor:
    """Documents end to end, each closed by EOS, cut into rows: (rows, width). What does not fill
    the last row is left out.

    marks: USER: and AI: are the chat marks (our own text), not mere letters (anybody else's).
    """
    found = tokenizer(documents, add_special_tokens=False, split_special_tokens=not marks)
    ids = [id for row in found["input_ids"] for id in (*row, tokenizer.eos_token_id)]
    return torch.tensor(ids[: len(ids) // width * width], dtype=torch.long).view(-1, width)


def prepare(cfg, tokenizer=None):
    """(tokenizer, rows (R, T+1), validation (V, T+1), digest of the text) of cfg.corpus; documents
    are held out before packing. A tokenizer that is given is used, else one is trained on the text.

    Raises LabError for a corpus too small to fill a batch.
    """
    tokens = cfg.steps * cfg.batch_size * cfg.sequence_length
    documents = atlas.load_text(cfg.corpus, enough=CHARACTERS * tokens)
    marks, digest = cfg.corpus == "atlas", runs.digest(documents)
    random.Random(cfg.seed).shuffle(documents)
    held_out = max(1, round(len(documents) * cfg.validation_fraction))
    width = cfg.sequence_length + 1
    if len(documents) < 2:
        raise LabError(
            f"The corpus {cfg.corpus!r} is one document, and some must be held out. Give it more"
            " text: at least some 50 kB."
        )
    tokenizer = tokenizer or chat.train_tokenizer(documents[held_out:], cfg.vocab_size)
    rows = pack(tokenizer, documents[held_out:], width, marks)
    validation = pack(tokenizer, documents[:held_out], width, marks)[: 8 * cfg.batch_size]
    if len(rows) < cfg.batch_size or not len(validation):
        raise LabError(
            f"The corpus {cfg.corpus!r} fills {len(rows)} rows of {width} tokens, but a batch takes"
            f" {cfg.batch_size} and at least one row is held out. Give it more text (at least some"
            " 50 kB), or lower batch_size and sequence_length."
        )
    return tokenizer, rows.to(runs.device()), validation.to(runs.device()), digest


def next_token_loss(model, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of every next token; rows (B, T+1).

    The hidden states go through the head here, because transformers' own loss copies the (B, T, V)
    logits twice.
    """
    inputs, targets = next_tokens(rows)
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state  # (B, T, D)
    return F.cross_entropy(model.lm_head(hidden).flatten(0, 1).float(), targets.flatten())


@torch.no_grad()
def validation_loss(model, rows: torch.Tensor, batch_size: int) -> float:
    """Mean next-token loss in nats over the held-out rows."""
    losses = [next_token_loss(model, batch) * len(batch) for batch in rows.split(batch_size)]
    return float(sum(losses) / len(rows))


@torch.no_grad()
def continuation(model, tokenizer, text: str, tokens: int = 24) -> str:
    """How the model goes on, greedily."""
    ids = torch.tensor([chat.encode_text(tokenizer, text)], device=model.device)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
    )
    return text + chat.decode_response(tokenizer, out[0, ids.shape[1] :])


@torch.no_grad()
def settle_unseen(model, rows: torch.Tensor):
    """Give tokens that the text never held (the chat marks, the pad) embeddings like the others':
    their mean plus noise of their spread.

    Being never right, they were all pushed the same way at every step: USER: and AI: would enter
    fine-tuning as one and the same vector.
    """
    embedding = model.get_input_embeddings().weight  # (V, D), tied with the output
    unseen = torch.ones(len(embedding), dtype=torch.bool, device=embedding.device)
    unseen[rows.unique()] = False
    seen = embedding[~unseen]
    embedding[unseen] = seen.mean(0) + seen.std(0) * torch.randn_like(embedding[unseen])


def steps(model, rows: torch.Tensor, cfg, keeper=None):
    """Train `model` on rows (R, T+1) for cfg.steps steps of cfg.batch_size rows, R at least as
    many; yields the loss of each, a scalar. LabError at the first loss or gradient that is no
    number.

    keeper: a checkpoint.Keeper; its run goes on exactly where its checkpoint was.
    """
    loss_of = torch.compile(next_token_loss) if cfg.compile else next_token_loss
    opts = optimisers(model, cfg)
    peaks = [[group["lr"] for group in opt.param_groups] for opt in opts]
    epoch_began = torch.get_rng_state()
    keeper = keeper or checkpoint.Keeper()
    keeper.put(dict(model.named_parameters()) | {"epoch_began": epoch_began}, *opts)
    done, epoch, order = keeper.facts.get("step", 0), len(rows) // cfg.batch_size, None
    for step in range(done, cfg.steps):
        if step % epoch == 0:
            epoch_began.copy_(torch.get_rng_state())
        if step % epoch == 0 or order is None:  # a new epoch, in a new order
            torch.set_rng_state(epoch_began)
            shuffled = ranks.first(torch.randperm, len(rows)).to(rows.device)
            order = shuffled.split(cfg.batch_size)
        batch = order[step % epoch]
        loss = loss_of(model, rows[ranks.own(batch)]) / ranks.world()
        loss.backward()
        ranks.add_gradients(model.parameters())
        loss = ranks.total(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        check_finite(step + 1, (loss + norm).item(), RATES)
        for opt, peak in zip(opts, peaks, strict=True):
            for group, lr in zip(opt.param_groups, peak, strict=True):
                group["lr"] = lr * schedule(step, cfg)
            opt.step()
            opt.zero_grad(set_to_none=True)
        yield loss
        if keeper.due() or step == cfg.steps - 1:
            keeper.save(step=step + 1)


def go_on_with_log(start_from: str, run) -> int:
    """How many tokens the weights of `start_from` have read (0 where no log says so); its log
    becomes the beginning of `run`'s, so that a curve begins where the weights do.
    """
    log = Path(models.resolve_base(start_from)) / "metrics.jsonl"
    if not log.exists():
        return 0
    if ranks.main():
        shutil.copy(log, run.path / log.name)
    return max((line.get("tokens", 0) for line in run.metrics()), default=0)


def train(cfg, run):
    """Train tokenizer and base on cfg.corpus; the run folder then is a Hugging Face model folder.
    Returns (model, tokenizer).

    Logs loss, validation_loss (nats per token), tokens (those that cfg.start_from read come first),
    tokens_per_second and a sample.
    A run of runs.resume goes on exactly where its checkpoint was. Raises LabError for a corpus too
    small to fill a batch.
    """
    model, tokenizer = None, None
    ranks.share(cfg.batch_size, "batch_size")
    if cfg.start_from:
        model, tokenizer = models.load_base(cfg.start_from, quantize=False)
        run.info["start_from"] = model.base_info["fingerprint"]
    tokenizer, rows, validation, run.info["data_hash"] = prepare(cfg, tokenizer)
    keeper = checkpoint.of(run)
    if cfg.start_from and not keeper.facts:
        run.info["read"] = go_on_with_log(cfg.start_from, run)
        run.note()
    read, done = run.info.get("read", 0), keeper.facts.get("step", 0)
    model = model or models.new_base(cfg, tokenizer)
    model.to(runs.device()).requires_grad_(True).train()
    if cfg.rounded:
        round_matrices(model)
    for step, loss in enumerate(steps(model, rows, cfg, keeper), done):
        if step % 10 == 0 or step == cfg.steps - 1:
            new = (step + 1) * cfg.batch_size * rows.shape[1]
            entry = {
                "step": step + 1,
                "steps": cfg.steps,
                "loss": loss.item(),
                "tokens": read + new,
                "tokens_per_second": new / keeper.seconds(),
            }
            if step % max(10, cfg.steps // 10 // 10 * 10) == 0 or step == cfg.steps - 1:
                entry |= {
                    "validation_loss": validation_loss(model, validation, cfg.batch_size),
                    "sample": continuation(model, tokenizer, PROBE),
                }
            run.log(**entry)

    model.eval()
    unround(model)
    settle_unseen(model, rows)
    if ranks.main():
        models.save_base(model, tokenizer, run.path)
    final = validation_loss(model, validation, cfg.batch_size)
    perplexity = torch.tensor(final, dtype=torch.float64).exp().item()
    check_finite(cfg.steps, perplexity, RATES)
    run.finish(
        validation_loss=final,
        perplexity=perplexity,
        tokens=read + cfg.steps * cfg.batch_size * rows.shape[1],
        seconds=keeper.seconds(),
        parameters=sum(p.numel() for p in model.parameters()),
        corpus_rows=len(rows),
    )
    return model, tokenizer
