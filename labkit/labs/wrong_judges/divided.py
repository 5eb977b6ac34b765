"""Raters who are divided about the lecture's question 念博班還是工作, what Bradley-Terry or
Thurstone believes of them, and the exact optimum π* ∝ π_ref · e^(r/β) that stands beside PPO.
"""

import itertools
import math
import random
from dataclasses import dataclass, field

import torch

from labkit import LabError, atlas, data, evals

SLIDE = (
    "我是一個電資學院的碩二學生，我在考慮應該要念博班還是工作？一般狀況下你覺得哪一個選擇比較好，"
    "請給我一個明確的答案，不可以模稜兩可說兩個都好"
)
DIVIDED = ("我在考慮應該要念博班還是工作？", "應該要念博班還是工作？", "念博班好，還是工作好？")
UNANIMOUS = ("作業要自己寫還是抄同學的？", "應該自己寫作業還是抄？", "自己寫好，還是抄好？")
HELD_OUT = ("請問我該念博班還是工作？", "請問我該自己寫還是抄同學的？")
KINDS = ("divided", "unanimous")
PHD, JOB, BOTH, ASK = "讀博班。", "工作。", "兩個都好。", "誰來告訴我呀？"
OWN, COPY = "自己寫。", "抄同學的。"
OPINIONS = {"PhD": PHD, "job": JOB, "both": BOTH, "who can tell me": ASK}
"""The answers to the divided question, short, of characters that the base has mostly read: others
take it long to learn. Nobody prefers the last two: the slide's student forbids the one, and the
other is no answer. They are the rungs by which a spread can be measured at all.
"""
RUNGS = {BOTH: -0.5, ASK: -1.5}
EVERYBODY = {OWN: 1.0, COPY: -1.0} | RUNGS
TASTES = {"PhD": {PHD: 1.0, JOB: -1.0} | RUNGS, "job": {PHD: -1.0, JOB: 1.0} | RUNGS}
"""What an answer is worth to either group; they differ in two answers."""
SPLITS = {"50:50": 0.5, "70:30": 0.7, "PhD people": 1.0, "job people": 0.0}
"""Share of the raters who prefer the PhD; the last two are the groups, each by itself."""
RUNS = [("70:30", beta) for beta in (2.0, 1.0, 0.5, 0.2)] + [("50:50", 0.2)]
"""PPO runs: whose reward model, and β in the Bradley-Terry model's own unit (log odds)."""


@dataclass
class Taste:
    """A rater of a question that has no right answer: P(a over b) = σ((u(a) − u(b)) /
    temperature).
    """

    name: str
    likes: dict[str, float]
    temperature: float = 0.5
    seed: int = 0
    _rng: random.Random = field(init=False, repr=False)

    def __post_init__(self):
        self._rng = random.Random(f"{self.name}{self.seed}")

    def prefers(self, a: str, b: str) -> float:
        """The probability that he prefers a to b."""
        return 1 / (1 + math.exp((self.likes[b] - self.likes[a]) / self.temperature))

    def compare(self, prompt: str, a: str, b: str) -> str:
        return "a" if self._rng.random() < self.prefers(a, b) else "b"


def split(share: float, seed: int = 0) -> atlas.Crowd:
    """Raters of whom `share` prefer the PhD and the others the job; of one mind about homework."""
    people = [Taste(name, likes | EVERYBODY, seed=seed) for name, likes in TASTES.items()]
    return atlas.Crowd(people, [share, 1 - share], "split", seed)


def opinion_pairs(share: float, n: int, seed: int = 0, kinds=KINDS) -> list[data.Pair]:
    """`n` pairs of answers to the questions of these kinds, every two answers as often as others,
    each judged by one of the raters of split(share).
    """
    crowd, rng, found = split(share, seed), random.Random(f"opinions{seed}"), []
    both = dict(zip(KINDS, ((DIVIDED, TASTES["PhD"]), (UNANIMOUS, EVERYBODY))))
    for i in range(n):
        asked, answers = both[kinds[i % len(kinds)]]
        prompt, (a, b) = rng.choice(asked), rng.sample(list(answers), 2)
        chosen, rejected = (a, b) if crowd.compare(prompt, a, b) == "a" else (b, a)
        found.append(data.Pair(prompt, chosen, rejected, rater=crowd.name))
    return found


def preferred(share: float) -> dict[tuple[str, str], float]:
    """{(a, b): the share of the split raters who prefer a}, of every two of OPINIONS: what
    infinitely many comparisons would say.
    """
    crowd = split(share)
    return {
        (a, b): sum(w * one.prefers(a, b) for w, one in zip(crowd.shares, crowd.raters))
        for a, b in itertools.combinations(OPINIONS.values(), 2)
    }


def fit_table(shares: dict, spread: bool) -> dict[str, tuple[float, float]]:
    """{answer: (mean, standard deviation)} that explain best who prefers what, fitted to the shares
    themselves (no sampling): by Bradley-Terry (spread=False; no deviations) or by Thurstone, whose
    unit is the spread of RUNGS: 1, as of answers that nobody is divided about. Means are counted
    from the mean answer.
    """
    names = list(dict.fromkeys(itertools.chain(*shares)))
    at = torch.tensor([[names.index(a), names.index(b)] for a, b in shares])
    wanted = torch.tensor(list(shares.values()), dtype=torch.float64)
    worth = torch.zeros(2, len(names), dtype=torch.float64, requires_grad=True)
    free = torch.tensor([name not in RUNGS for name in names]).double()
    optimizer = torch.optim.LBFGS([worth], max_iter=500, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        (a, b), (va, vb) = worth[0][at].T, (2 * free * worth[1])[at].exp().T
        z = (a - b) / (va + vb).sqrt()
        says = torch.special.log_ndtr if spread else torch.nn.functional.logsigmoid
        found = -(wanted * says(z if spread else a - b)).sum()
        found = found - ((1 - wanted) * says(-z if spread else b - a)).sum()
        found = found + 1e-6 * worth.square().sum()  # only differences count: this picks a zero
        found.backward()
        return found

    optimizer.step(loss)
    mean, sd = worth.detach()[0], (free * worth.detach()[1]).exp() * spread
    return dict(zip(names, zip((mean - mean.mean()).tolist(), sd.tolist())))


def optimum(reference, rewards, beta: float) -> list[float]:
    """π* ∝ π_ref · e^(r/β) over a few answers: the policy that maximises E[r] − β KL(π ‖ π_ref)
    (arXiv 2305.18290, eq. 4). Weighed in logarithms, so that a small β is no overflow.
    """
    if beta <= 0:
        raise LabError(f"β is {beta:g}, but the optimum is a distribution only for a β above 0.")
    logits = torch.as_tensor(reference).double().log() + torch.as_tensor(rewards).double() / beta
    return logits.softmax(-1).tolist()


@torch.no_grad()
def shares(model, tokenizer, prompts, answers) -> torch.Tensor:
    """π(answer | prompt) of the active adapter, exactly: (prompts, answers)."""
    asked = [(prompt, answer) for prompt in prompts for answer in answers]
    logprobs, _ = evals.answer_logprobs(model, tokenizer, asked)
    return logprobs.sum(1).exp().view(len(prompts), len(answers)).cpu()
