"""Which pair next? A reward that is fitted in milliseconds and knows how sure it is, and a choice
that asks it.

LinearReward is the reward model's little sister: the same loss for a score that is linear in the
policy's hidden states. NextPair asks a rater about the pair that is least certain.
"""

import math
import operator
import random

import torch

from labkit import LabError, models
from labkit.data import chat

UNCERTAINTIES = ("verdict", "information", "variance")


@torch.no_grad()
def features(model, tokenizer, prompts, responses, batch_size: int = 128) -> torch.Tensor:
    """(N, d) of N answers, float64 on the CPU: the mean of the last hidden states over the answer's
    tokens (its end included), under the active adapter, scaled to length 1.

    Raises LabError where prompts and responses are not as many, or none.
    """
    if len(prompts) != len(responses) or not prompts:
        raise LabError(
            f"There are {len(prompts)} prompts and {len(responses)} responses. Give one response"
            " for each prompt."
        )
    rows = [
        chat.encode(tokenizer, prompt, response) for prompt, response in zip(prompts, responses)
    ]
    by_length, found = sorted(range(len(rows)), key=lambda i: len(rows[i][0])), [None] * len(rows)
    for start in range(0, len(rows), batch_size):
        batch = by_length[start : start + batch_size]
        ids, attention_mask = chat.pad([rows[i][0] for i in batch], tokenizer.pad_token_id)
        response_mask, _ = chat.pad([rows[i][1] for i in batch], 0)
        ids, attention_mask, response_mask = (
            x.to(model.device) for x in (ids, attention_mask, response_mask)
        )
        hidden = models.hidden_states(model, ids, attention_mask).double()  # (B, T, d)
        total = (hidden * response_mask.unsqueeze(-1)).sum(
            1
        )  # its length goes, so a sum does for a mean
        for i, row in zip(batch, torch.nn.functional.normalize(total, dim=1).cpu()):
            found[i] = row
    return torch.stack(found)


class LinearReward:
    """score = weight · features, by Bradley-Terry, with how far the ratings have settled it.

    Before any rating, weight ~ N(0, 1 / ridge): features of length 1 then have scores of variance 1
    / ridge. `fit` puts the Gaussian of Laplace's approximation around the most probable weight: its
    covariance is the inverse of the loss's second derivative there (D. MacKay, "The evidence
    framework applied to classification networks", Neural Computation 4, 1992).

    width: d, the number of features. weight: (d,); covariance: (d, d); float64. Raises LabError for
    a ridge that is not above 0.
    """

    def __init__(self, width: int, ridge: float = 1.0):
        if not 0 < ridge < math.inf:
            raise LabError(
                f"ridge is {ridge!r}, but it must be above 0: it is the only hold where no"
                " rating is."
            )
        self.ridge, self.weight = ridge, torch.zeros(width, dtype=torch.float64)
        self.covariance = torch.eye(width, dtype=torch.float64) / ridge

    def fit(self, chosen, rejected, steps: int = 100) -> "LinearReward":
        """Learn from N pairs: features (N, d) of the preferred answers and of the others; returns
        self.

        Minimises ridge / 2 · |weight|² − Σ log σ(weight · (chosen − rejected)), which has one
        minimum, by Newton's method; a step that would make it worse is halved.
        """
        x = self._differences(chosen, rejected)
        if not len(x):
            raise LabError(
                "There is no pair to learn from. Rate some first; until then this is the prior."
            )

        def loss(weight):
            return (
                self.ridge / 2 * weight @ weight - torch.nn.functional.logsigmoid(x @ weight).sum()
            )

        for _ in range(steps):
            p = torch.sigmoid(x @ self.weight)
            gradient = self.ridge * self.weight - x.T @ (1 - p)
            precision = self.ridge * torch.eye(x.size(1), dtype=x.dtype) + (x.T * (p * (1 - p))) @ x
            self.covariance = torch.linalg.inv(precision)
            step, size = self.covariance @ gradient, 1.0
            while size > 1e-9 and loss(self.weight - size * step) > loss(self.weight):
                size /= 2
            self.weight = self.weight - size * step
            if step.norm() <= 1e-9 * (1 + self.weight.norm()):
                break
        return self

    def score(self, features) -> torch.Tensor:
        """(N,) scores of features (N, d)."""
        return _finite(features, len(self.weight)) @ self.weight

    def variance(self, a, b) -> torch.Tensor:
        """(N,) variances of score(a) − score(b), features (N, d) each."""
        x = self._differences(a, b)
        return ((x @ self.covariance) * x).sum(1)

    def probability(self, a, b) -> torch.Tensor:
        """(N,) P(a is preferred to b), over all weights that the ratings allow: σ(mean / √(1 + π
        variance / 8)), MacKay's "moderated output". The less is known, the nearer to ½.
        """
        return torch.sigmoid(
            (self.score(a) - self.score(b)) / (1 + math.pi / 8 * self.variance(a, b)).sqrt()
        )

    def uncertainty(self, a, b, by: str = "verdict") -> torch.Tensor:
        """(N,) how much there is to learn from the rater's verdict on each pair; features (N, d)
        each.

        by: "verdict": entropy of the verdict in bits, most where probability is ½, whether the
        weights are unknown or the rater is of two minds; "information": nats that the verdict is
        expected to tell about the weights, ½ log(1 + p (1 − p) variance) (MacKay,
        "Information-based objective functions for active data selection", Neural Computation 4,
        1992); "variance": of the difference of the scores.
        """
        if by not in UNCERTAINTIES:
            raise LabError(
                f"There is no uncertainty {by!r}. Choose one of {', '.join(UNCERTAINTIES)}."
            )
        if by == "variance":
            return self.variance(a, b)
        if by == "information":
            p = torch.sigmoid(self.score(a) - self.score(b))
            return torch.log1p(p * (1 - p) * self.variance(a, b)) / 2
        p = self.probability(a, b)
        return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)

    def _differences(self, a, b):
        a, b = (_finite(x, len(self.weight)) for x in (a, b))
        if len(a) != len(b):
            raise LabError(
                f"There are {len(a)} answers on one side and {len(b)} on the other. Give pairs."
            )
        return a - b


def _finite(features, width):
    """Features as float64 (N, width), or LabError."""
    features = torch.as_tensor(features, dtype=torch.float64)
    if features.ndim != 2 or features.size(1) != width:
        raise LabError(
            f"Features have the shape {tuple(features.shape)}, but it must be (N, {width})."
        )
    if not features.isfinite().all():
        row = int((~features.isfinite()).any(1).nonzero()[0])
        raise LabError(
            f"Features of answer {row} hold NaN or infinity. Check the model that they come from."
        )
    return features


class NextPair:
    """Which pair next? For panels.rate(items=NextPair(…)): each call returns the item whose verdict
    is least certain given this rater's ratings in the store so far, and None when all are rated.

    items: panels.Items or tuples (prompt, (a, b)); one that is there twice is asked once. a, b:
    features (N, d) of their first and second responses. store: the feedback.Store into which the
    panel puts its ratings; rater: whose count. A draw and a skip teach nothing, but are not asked
    again. by: one of UNCERTAINTIES, or "uniform": in an order that `seed` shuffles, which also
    decides between pairs that are equally uncertain (as they are before the first rating). Active
    learning from comparisons: arXiv 2402.08114. It need not pay: arXiv 2203.07472 found no gain.
    """

    def __init__(self, items, a, b, store, rater="me", by="verdict", seed=0, ridge=1.0):
        if by not in (*UNCERTAINTIES, "uniform"):
            raise LabError(
                f"There is no choice {by!r}. Take uniform or one of {', '.join(UNCERTAINTIES)}."
            )
        self.items, self.store, self.rater, self.by, self.ridge = (
            list(items),
            store,
            rater,
            by,
            ridge,
        )
        try:
            texts = [(i.prompt, i.responses) if hasattr(i, "prompt") else i[:2] for i in self.items]
            keys = [(prompt, (first, second)) for prompt, (first, second) in texts]
        except (TypeError, ValueError):
            raise LabError(
                "An item is not (prompt, (response, response)). Give pairs to choose from."
            ) from None
        self._index = {key: number for number, key in enumerate(keys)}
        if not len(keys) == len(a) == len(b) or not keys:
            raise LabError(
                f"There are {len(keys)} items with {len(a)} and {len(b)} rows of features. Give at"
                " least one item, and for each of its two responses a row."
            )
        numbers = list(self._index.values())
        self._order = random.Random(seed).sample(numbers, len(numbers))
        self._a, self._b = (_finite(x, torch.as_tensor(a).size(-1)) for x in (a, b))

    def __call__(self):
        judged = {}  # number of the item: by how much its first response is better
        for one in self.store.all(self.rater):
            if (key := (one.prompt, one.responses)) in self._index:
                judged[self._index[key]] = operator.sub(*(one.worth() or (0, 0)))
        left = [i for i in self._order if i not in judged]
        if not left:
            return None
        if self.by != "uniform":
            doubt = self.model(judged).uncertainty(self._a[left], self._b[left], self.by)
            left = [left[int(doubt.argmax())]]
        return self.items[left[0]]

    def model(self, judged: dict) -> LinearReward:
        """The reward that the judged items teach; {number of the item: above 0 where its first
        response is better, below where its second, 0 for neither}.
        """
        model = LinearReward(self._a.size(1), self.ridge)
        first, second = [i for i in judged if judged[i] > 0], [i for i in judged if judged[i] < 0]
        if first or second:
            won = torch.cat([self._a[first], self._b[second]])
            model.fit(won, torch.cat([self._b[first], self._a[second]]))
        return model
