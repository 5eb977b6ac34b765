"""A reward model that says by how much people differ, and not only what they think on average."""

import torch

from labkit import models, runs
from labkit.data import chat
from labkit.labs.wrong_judges.divided import RUNGS
from labkit.maths.losses import thurstone_loss


class Distribution:
    """A reward model with two heads on the adapter "reward": what an answer is worth on average,
    and by how much people differ about it (the loss: losses.thurstone_loss).
    """

    def __init__(self, policy, seed: int = 0, reads: str = "mean"):
        """policy: the run that it starts from."""
        runs.seed_everything(seed)
        model, self.tokenizer = models.load_base(models.base_of(policy, ""))
        self.model = models.load_adapter(model, policy, "reward", trainable=True)
        self.passes = models.forward(self.model, "reward")
        self.heads = [models.Head(model.config.hidden_size, reads) for _ in range(2)]
        for head in self.heads:
            head.to(self.model.device)
            torch.nn.init.zeros_(head.weight)  # all alike at the start, and of spread 1

    def read(self, texts) -> tuple[torch.Tensor, torch.Tensor]:
        """(means, variances), both (N,), of N (prompt, answer). RUNGS, about which people are known
        to agree, have variance 1: that is the unit.
        """
        rows = [chat.encode(self.tokenizer, *text)[0] for text in texts]
        ids, mask = (x.to(self.model.device) for x in chat.pad(rows, self.tokenizer.pad_token_id))
        hidden = self.passes.hidden_at(ids, mask, self.heads[0].places(mask))
        mean, spread = (head.read(hidden, mask) for head in self.heads)
        rung = torch.tensor([answer in RUNGS for _, answer in texts], device=mean.device)
        return mean, (2 * spread).exp().where(~rung, 1.0)

    def fit(self, pairs, steps: int, learning_rate: float = 3e-3) -> list[float]:
        """Gradient steps on all pairs at once (few texts, compared often): the losses."""
        texts = list(dict.fromkeys((p.prompt, t) for p in pairs for t in (p.chosen, p.rejected)))
        place = {text: i for i, text in enumerate(texts)}
        chosen = torch.tensor([place[p.prompt, p.chosen] for p in pairs])
        rejected = torch.tensor([place[p.prompt, p.rejected] for p in pairs])
        weights = models.adapter_parameters(self.model, "reward")
        weights += [head.weight for head in self.heads]
        optimizer, losses = torch.optim.Adam(weights, learning_rate), []
        for _ in range(steps):
            mean, variance = self.read(texts)
            loss, _ = thurstone_loss(
                mean[chosen], mean[rejected], variance[chosen], variance[rejected]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.passes.refresh()
            losses.append(loss.item())
        return losses

    @torch.no_grad()
    def worth(self, texts) -> list[tuple[float, float]]:
        """(mean, standard deviation) of each (prompt, answer)."""
        mean, variance = self.read(texts)
        return list(zip(mean.tolist(), variance.sqrt().tolist(), strict=True))
