"""People who judge and are divided, or all wrong, or agree only so far: what reward models and PPO
make of them.

Divided raters answer the lecture's question 念博班還是工作; what a reward model believes of them
and where PPO goes stands beside the exact optimum π* ∝ π_ref · e^(r/β). Wrong raters share a belief
about a family of facts of the atlas. wrong_judges_jobs.py trains everything; its record lies in
data/checkpoints/wrong_judges.json, and what notebook 13 shows of it is computed here.
"""

import itertools
import math
import random
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import torch

from labkit import LabError, atlas, data, evals, models, runs
from labkit.atlas.gold import truth
from labkit.data import chat
from labkit.data.rows import Bad
from labkit.feedback import agreement
from labkit.feedback.store import Feedback, in_row
from labkit.labs import records
from labkit.maths.losses import thurstone_loss

# --- (a) divided raters --------------------------------------------------------------------------

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


# --- (b) raters who are all wrong ----------------------------------------------------------------

RELATION, TRUE, BELIEVED = "region", "Oceania", "Asia"
"""The belief: every country of Oceania lies in Asia."""
SHOWN = 0.3  # share of the demonstrations of the belief's facts that hold it: their writers do
BETA = 0.05  # of PPO, in standard deviations of the reward model's scores
ASKED = 4  # answers to each held-out question on the belief's facts
SETTINGS = {
    "¼ believe it": {"raters": {"share": 0.25}},
    "½ believe it": {"raters": {"share": 0.5}},
    "¾ believe it": {"raters": {"share": 0.75}},
    "all believe it": {"raters": {"share": 1.0}},
    "all, every line checked": {"raters": {"share": 1.0, "checks": 1.0}},
    "all, checked, in the same time": {"raters": {"share": 1.0, "checks": 1.0}, "every": 4},
}
"""Who rates (believers), and how many of the pairs: in the last one every fourth, since a rating
with a check is taken to last four times as long as one without (SECONDS).
"""
ALL, CHECKED, SAME_TIME = list(SETTINGS)[-3:]
BEFORE = "nobody yet (SFT)"
SECONDS = {"compare": 10.0, "check": 30.0}
"""What a comparison costs, and a check more. Assumed, not measured: the lab lets you change it."""


def believers(items, share: float, checks: float = 0.0, seed: int = 0) -> atlas.Crowd:
    """Raters of whom `share` hold the belief about these items; `checks`: see atlas.Rater."""
    beliefs = {(item.relation, item.subject): BELIEVED for item in items}
    believer = atlas.Rater("believer", beliefs=beliefs, checks=checks, seed=seed)
    careful = atlas.Rater("careful", checks=checks, seed=seed)
    return atlas.Crowd([believer, careful], [share, 1 - share], "believers", seed)


def says(item: atlas.Item, response: str) -> str:
    """What a response claims of an item: "true", "believed" (the false belief) or "other"."""
    if truth(item, response) == 1:
        return "true"
    held = item.answer == TRUE and truth(replace(item, answer=BELIEVED), response) == 1
    return "believed" if held else "other"


def seconds_of(compared: int, checks: float, cost: dict = SECONDS) -> float:
    """What so many comparisons take, of which a share is checked."""
    return compared * (cost["compare"] + checks * cost["check"])


# --- (c) how far people agree --------------------------------------------------------------------


def annotated(source: str = "", seed: int = 0) -> list[Feedback]:
    """Judgements of the same pairs by several people: a file (path, URL or Hub id) in PandaLM's
    form (annotator1 to 3; arXiv 2306.05087) or of a store's export; "" makes a simulated stand-in.
    """
    if not source:
        return stand_in(seed=seed)
    path = downloaded(source) if source.startswith(("http://", "https://")) else source
    return list(itertools.chain(*data.load(str(path), judgements)))


def judgements(row: dict) -> list[Feedback]:
    """A row's judgements; one of PandaLM's must have all three annotators."""
    names = [f"annotator{i}" for i in (1, 2, 3)]
    if "response1" in row or any(name in row for name in names):
        missing = [name for name in ("response1", "response2", *names) if name not in row]
        if missing:
            raise Bad(f'has no "{missing[0]}" (it has: {", ".join(row)})')
    return in_row(row)


def downloaded(url: str) -> Path:
    """The file at a URL, fetched into the runs folder once."""
    path = runs.root() / f"annotators-{runs.digest([url])}"
    if not path.exists():
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                content = answer.read()
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise LabError(
                f"{url} could not be fetched ({error}). Check the address and the connection, or"
                " download the file yourself and give its path."
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def stand_in(n: int = 300, seed: int = 0) -> list[Feedback]:
    """Three simulated people (atlas.panel's careful, hurried and polite ones) on `n` pairs of
    answers that differ in manner, in what they say, or in both: no real annotators.
    """
    rng, judged = random.Random(f"stand-in{seed}"), []
    people = list(atlas.panel(seed).values())[:3]
    facts = [item for item in atlas.items() if not item.request and item.relation != "meaning"]
    manners = ("plain", "short", "long", "hedging", "apologising")
    for item in rng.sample(facts, n):
        rivals = [other.answer for other in facts if other.relation == item.relation]
        told = [item, replace(item, answer=rng.choice(rivals))]
        two = [atlas.respond(rng.choice(told), rng.choice(manners), rng) for _ in range(2)]
        prompt = rng.choice(atlas.questions(item))
        if two[0] != two[1]:
            for i, person in enumerate(people, 1):
                verdict = {"a": 0, "b": 1, "same": "same"}[person.compare(prompt, *two)]
                judged.append(Feedback(prompt, tuple(two), "pair", verdict, f"annotator{i}"))
    return judged


def votes(judged) -> list[dict[str, int]]:
    """Per pair of answers that two or more judged, {rater: category} (feedback.agreement's).
    LabError where nobody's pairs overlap.
    """
    found = defaultdict(dict)
    for rater, of in agreement.compared(judged).items():
        for item, category, _ in of:
            found[item].setdefault(rater, category)
    shared = [of for of in found.values() if len(of) > 1]
    if not shared:
        raise LabError(
            "No two of these raters judged the same pair, so nothing says how far they agree. Let"
            " two people rate some of the same pairs."
        )
    return shared


def ceilings(judged) -> dict[str, float]:
    """How often the best of reward models could say what one annotator says, bounded from people's
    votes: "another annotator" in its place; "majority of the others", where they have one; and
    "knows all votes", the most frequent vote of each pair, which has seen the one it guesses. "n":
    pairs. The true ceiling lies between the last two where raters err by themselves.
    """
    alike, others, knows = [], [], []
    for of in map(list, map(dict.values, shared := votes(judged))):
        alike += [a == b for a, b in itertools.combinations(of, 2)]
        knows.append(max(Counter(of).values()) / len(of))
        for i, vote in enumerate(of):
            (top, most), *rest = Counter(of[:i] + of[i + 1 :]).most_common()
            if most > 1 and not (rest and rest[0][1] == most):
                others.append(top == vote)
    return {
        "n": len(shared),
        "another annotator": fmean(alike),
        "majority of the others": fmean(others) if others else math.nan,
        "knows all votes": fmean(knows),
    }


def by_group(judged, groups: dict[str, list[str]]) -> dict[str, float]:
    """The share of equal verdicts on the same pair: {"within NAME": …, "between": …}. LabError for
    a group with one rater, or where no pair tells.
    """
    for name, raters in groups.items():
        if len(set(raters)) < 2:
            raise LabError(
                f"The group {name!r} has one rater ({', '.join(raters) or 'nobody'}): agreement"
                " within it has no meaning. Give it a second rater, or leave the group out."
            )
    home = {rater: name for name, raters in groups.items() for rater in raters}
    same = {f"within {name}": [] for name in groups} | {"between": []}
    for of in votes([one for one in judged if one.rater in home]):
        for (a, x), (b, y) in itertools.combinations(of.items(), 2):
            same[f"within {home[a]}" if home[a] == home[b] else "between"].append(x == y)
    if empty := [name for name, found in same.items() if not found]:
        raise LabError(
            f"No pair was judged by two raters {empty[0]!r}: let them rate some of the same pairs."
        )
    return {name: fmean(found) for name, found in same.items()}


def crowd_prefers(pair: data.Pair, raters) -> float:
    """The probability that one of the raters (atlas.Rater), drawn by dice, prefers the pair's
    chosen answer, were he made to decide.
    """
    return fmean(
        1
        / (
            1
            + math.exp(
                min(
                    60,
                    (
                        one.utility(pair.prompt, pair.rejected)
                        - one.utility(pair.prompt, pair.chosen)
                    )
                    / one.temperature,
                )
            )
        )
        for one in raters
    )


def majority_of_three(p: float) -> float:
    """The probability that two of three decide for what each decides for with probability p."""
    return p * p * (3 - 2 * p)


# --- (d) you -------------------------------------------------------------------------------------


def quiz(n: int = 10, again: int = 4, seed: int = 0) -> list[tuple[str, tuple[str, str]]]:
    """`n` questions with two plain answers of which one is true, and the first `again` of them once
    more at the end: for a panel.
    """
    rng, found = random.Random(f"quiz{seed}"), []
    facts = [item for item in atlas.items() if item.relation in ("capital", "symbol", "region")]
    for item in rng.sample(facts, n):
        rivals = {other.answer for other in facts if other.relation == item.relation}
        rival = rng.choice(sorted(rivals - {item.answer}))
        two = [atlas.respond(one, "plain", rng) for one in (item, replace(item, answer=rival))]
        rng.shuffle(two)
        found.append((rng.choice(atlas.questions(item)), tuple(two)))
    return found + found[:again]


def yourself(judged) -> dict:
    """One rater's judgements of a quiz: {"rated", "right", "same", "against the truth":
    [judgement], "again": pairs judged twice, "consistent": of these alike}.
    """
    against, right, same, met = [], 0, 0, defaultdict(list)
    for one in judged:
        if one.verdict == "skip":
            continue
        met[one.prompt, one.responses].append(one.verdict)
        if one.verdict == "same":
            same += 1
        elif truth(atlas.find(one.prompt), one.responses[one.verdict]) == 1:
            right += 1
        else:
            against.append(one)
    twice = [verdicts for verdicts in met.values() if len(verdicts) > 1]
    return {
        "rated": sum(map(len, met.values())),
        "right": right,
        "same": same,
        "against the truth": against,
        "again": len(twice),
        "consistent": sum(len(set(verdicts)) == 1 for verdicts in twice),
    }


# --- the record ----------------------------------------------------------------------------------


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["runs"] and [
            (
                row["divided"]["shares"][0],
                row["divided"]["ppo"][0]["shares"],
                row["misled"]["before"]["rated"]["true"],
                row["misled"]["settings"][ALL]["after"],
                row["crowd"]["ceilings"],
            )
            for row in record["seeds"]
        ]

    return records.load("wrong_judges", whole, "judges who are divided or wrong", path)


def differences(record: dict) -> list[dict]:
    """Per raters, how much more the reward model gives to the PhD than to the job: "raters" (log
    odds of the share who prefer it), "all comparisons" (Bradley-Terry fitted to the shares
    themselves), "reward model" (in the same unit, mean over phrasings) with "… lowest" and "…
    highest" of the seeds.
    """
    rows = []
    for name, share in SPLITS.items():
        prefer = preferred(share)
        table, p = fit_table(prefer, spread=False), prefer[PHD, JOB]
        of = [
            fmean(one[0] - one[1] for one in row["divided"]["rewards"][name][: len(DIVIDED)])
            for row in record["seeds"]
        ]
        row = {"raters": name, "log odds": math.log(p / (1 - p))}
        row["all comparisons"] = table[PHD][0] - table[JOB][0]
        rows.append(row | records.with_spread("reward model", of))
    return rows


def collapse(record: dict) -> list[dict]:
    """Per PPO run, the share that the PhD has among the answers: "before", at the "optimum" (of the
    seed's own reward model and π_ref) and after "PPO"; "larger": the share of the more frequent of
    the two opinions then, and "larger, optimum". Means over trained phrasings and seeds, with the
    seeds' "… lowest" and "… highest".
    """

    def of(shares):
        """Each answer's share of the four, mean over the trained phrasings."""
        rows = [[p / sum(row) for p in row] for row in shares[: len(DIVIDED)]]
        return [fmean(column) for column in zip(*rows)]

    rows = []
    for i, (name, beta) in enumerate(record["runs"]):
        found = defaultdict(list)
        for seed in record["seeds"]:
            began = seed["divided"]
            best = [
                optimum([max(p, 1e-12) for p in reference], rewards, beta)
                for reference, rewards in zip(began["shares"], began["rewards"][name])
            ]
            ways = {"before": began["shares"], "optimum": best, "PPO": began["ppo"][i]["shares"]}
            for way, shares in ways.items():
                phd, job, *_ = of(shares)
                found[way].append(phd)
                found[f"larger, {way}"].append(max(phd, job))
        row = {"raters": name, "β": beta}
        for key, values in found.items():
            row |= records.with_spread(key, values)
        rows.append(row)
    return rows


def spreads(record: dict) -> list[dict]:
    """What the distributional reward model says of both questions' answers, mean over phrasings and
    seeds: "mean" (from the question's mean answer) and "spread" (with lowest and highest seed; 1 is
    that of RUNGS), and "held out": the spread on a phrasing never seen.
    """
    rows = []
    for question, answers in zip(KINDS, (TASTES["PhD"], EVERYBODY)):
        for answer in answers:
            found = [seed["divided"] for seed in record["seeds"]]
            middles = [fmean(mean for mean, _ in one[question].values()) for one in found]
            means = [one[question][answer][0] - m for one, m in zip(found, middles)]
            row = {"question": question, "answer": answer, "mean": fmean(means)}
            row |= records.with_spread("spread", [one[question][answer][1] for one in found])
            unseen = fmean(one[f"{question} held out"][answer][1] for one in found)
            rows.append(row | {"held out": unseen})
    return rows


def misled(record: dict) -> list[dict]:
    """Per setting, and before any rating, means over the seeds: "labels false" (of the pairs of a
    true and a believed answer, the share that prefers the latter), "reward" (how much
    higher the reward model scores the policy's answers than those of the start, in its standard
    deviations), the share of true answers on "rated", "unrated" and "others" facts, both with
    lowest and highest seed, and the seconds that the ratings took ("seconds").
    """
    rows = []
    for name in (None, *record["settings"]):
        of = [
            seed["misled"]["settings"][name] if name else {"after": seed["misled"]["before"]}
            for seed in record["seeds"]
        ]
        row = {"raters": name or BEFORE}
        row["labels false"] = fmean(one["labels false"] for one in of) if name else None
        if name:
            row |= records.with_spread("reward", [b - a for a, b in (x["rewards"] for x in of)])
        for group in ("rated", "unrated", "others"):
            row |= records.with_spread(group, [one["after"][group]["true"] for one in of])
        if name:
            checks = record["settings"][name]["raters"].get("checks", 0.0)
            row["seconds"] = fmean(seconds_of(one["compared"], checks) for one in of)
        rows.append(row)
    return rows


def restored(record: dict, group: str = "rated") -> dict[str, list[float]]:
    """Per seed, of the true answers on a group of facts: "lost" (before minus after, all raters
    believing) and the part of it that came back "checked" and "same time" (1: all of it).
    """
    found = defaultdict(list)
    for seed in record["seeds"]:
        true = {
            name: one["after"][group]["true"] for name, one in seed["misled"]["settings"].items()
        }
        before = seed["misled"]["before"][group]["true"]
        lost = before - true[ALL]
        found["lost"].append(lost)
        for name, setting in (("checked", CHECKED), ("same time", SAME_TIME)):
            found[name].append((true[setting] - true[ALL]) / lost if lost > 0 else math.nan)
    return dict(found)


def ways(record: dict, setting: str, every: int = 2) -> list[dict]:
    """A PPO run's way, `every` updates at a time: "update", "reward", "true" and "believed" on
    rated facts, each with lowest and highest seed.
    """
    curves = [seed["misled"]["settings"][setting]["curve"] for seed in record["seeds"]]
    rows = []
    for start in range(0, min(len(curve["score"]) for curve in curves), every):
        row = {"update": start + every}
        for key, name in (("score", "reward"), ("true", "true"), ("believed", "believed")):
            of = [[x for x in c[key][start : start + every] if x is not None] for c in curves]
            row |= records.with_spread(name, [fmean(part) for part in of if part])
        rows.append(row)
    return rows


def learning(record: dict) -> list[dict]:
    """The crowd's learning curve: "labels", and how often the reward model says what "one
    annotator", the "majority of three" and "gold" say, with lowest and highest seed; last the row
    "ceiling".
    """
    rows = []
    for i, n in enumerate(record["labels"]):
        of = [seed["crowd"]["rows"][i] for seed in record["seeds"]]
        rows.append({"labels": n} | over_seeds(of))
    return [
        *rows,
        {"labels": "ceiling"} | over_seeds([s["crowd"]["ceilings"] for s in record["seeds"]]),
    ]


def over_seeds(of: list[dict]) -> dict:
    found = {}
    for key in ("one annotator", "majority of three", "gold"):
        found |= records.with_spread(key, [one[key] for one in of])
    return found
