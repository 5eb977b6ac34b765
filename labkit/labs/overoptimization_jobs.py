"""Makes notebook 08's record of over-optimisation, in jobs of a minute that stand for themselves.

answers   per seed: an SFT model, pairs of its answers, what it is worth itself
judges    per seed: reward models of one careful rater (the ensemble), and one of each symptom's
policies  per seed: best-of-n, and a PPO run for every setting
"""

import math
import random
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from labkit import atlas, config, data, evals, models, rollout, runs
from labkit import stages as all_stages
from labkit.atlas.symptoms import symptoms
from labkit.data import chat
from labkit.labs import jobs
from labkit.labs.overoptimization import RATERS, SETTINGS, SINGLE, expected_best
from labkit.stages.reward import score


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "overoptimization"
    updates: int = 20
    """Of every PPO run."""
    haste: float = 2.0
    """Learning rate of the PPO runs, in the profile's own: they shall get far in few updates."""
    pairs: int = 4500
    """The careful rater's, of which a tenth is held out."""
    members: int = 4
    """Reward models of the careful rater; the first is the single one."""
    symptom_pairs: int = 4500
    """The first so many of these pairs, judged again by each symptom's rater."""
    prompts: int = 48
    """Held-out prompts for best-of-n."""
    answers: int = 64
    """Samples for each of them."""
    held_out: int = 200
    """Held-out prompts that every policy is measured on when it has ended."""

    def decides(self) -> tuple:
        return SETTINGS, raters(0)

    def lines(self) -> list[list[tuple]]:
        seeds = range(self.seeds)
        every = [("careful", member) for member in range(self.members)]
        every += [(symptom, 0) for symptom in RATERS.values()]
        settings = list(enumerate(SETTINGS))
        return [
            [(f"answers-{seed}", answers, (seed,)) for seed in seeds],
            [(f"judge-{r}-{s}-{m}", judge, (s, r, m)) for s in seeds for r, m in every],
            [(f"best-{seed}", best_of_n, (seed,)) for seed in seeds]
            + [(f"ppo-{i}-{s}", policy, (s, setting)) for s in seeds for i, setting in settings],
        ]


def raters(seed: int) -> dict[str, atlas.Rater]:
    """The careful rater, and by symptom the one who breeds it."""
    return {"careful": atlas.Rater(seed=seed), **atlas.symptom_raters(seed)}


# --- the jobs: (plan, seed, …) → what was found, as JSON -----------------------------------------


def answers(plan: Plan, seed: int) -> dict:
    """The seed's SFT model, pairs of its answers in the careful rater's order ("pairs", a file),
    its gold on the prompts that PPO will ask ("start"), and its figures on held-out ones ("end").
    """
    sft = jobs.sft_of(plan.profile, seed)
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(sft)
    cfg = config.change(plan.profile.reward, seed=seed)
    pairs = rollout.preference_pairs(model, tokenizer, cfg, plan.pairs, raters(seed)["careful"])
    file = data.save_jsonl(pairs, plan.folder / f"pairs-careful-{seed}.jsonl")
    asked = atlas.load_prompts(plan.profile.ppo.prompts)
    random.Random(seed).shuffle(asked)  # as ppo.train does
    asked = asked[: plan.updates * plan.profile.ppo.batch_size]
    start = evals.judged(asked, rollout.answer(model, tokenizer, asked))["gold"]
    end = at_end(plan, model, tokenizer, seed)
    return {"run": sft.name, "pairs": str(file), "start": start, "end": end}


def judge(plan: Plan, seed: int, rater: str, member: int = 0) -> dict:
    """A reward model of `rater` ("careful", or a symptom), in one pass. Members of one ensemble see
    the same pairs in another order, with another head, and start from another seed's SFT model.
    """
    file = plan.found(f"answers-{seed}")["pairs"]
    if rater != "careful":
        pairs = relabelled(data.load_pairs(file)[: plan.symptom_pairs], raters(seed)[rater])
        file = str(data.save_jsonl(pairs, plan.folder / f"pairs-{rater}-{seed}.jsonl"))
    begin = plan.run(f"answers-{(seed + member) % plan.seeds}")
    own = {"policy": begin.name, "data": file, "examples": 0, "validation_fraction": 0.1}
    own |= {"epochs": 1.0, "batch_size": 32, "seed": 1000 * member + seed}
    cfg = config.change(plan.profile.reward, **own)
    train = all_stages.module("reward").train
    run = jobs.made("reward", cfg, f"{plan.key}-{rater}-{seed}-{member}", train)
    hits = [int(hit) for hit in run.info["hits"]]
    return {"run": run.name, "evaluation": run.evaluation, "hits": hits}


def relabelled(pairs: list, rater) -> list:
    """The same answers, judged by another rater; what is the same to that one is left out."""
    found = []
    for pair in pairs:
        verdict = rater.compare(pair.prompt, pair.chosen, pair.rejected)
        both = (pair.chosen, pair.rejected) if verdict == "a" else (pair.rejected, pair.chosen)
        if verdict != "same":
            found.append(data.Pair(pair.prompt, *both, rater=rater.name))
    return found


def policy(plan: Plan, seed: int, setting: str) -> dict:
    """A PPO run: its figures per update ("curve"), and on held-out prompts when it has ended."""
    changes = dict(SETTINGS[setting])
    rater = changes.pop("reward", "careful")
    several = range(plan.members) if rater == "all" else [0]
    rater = "careful" if rater == "all" else rater
    names = [plan.run(f"judge-{rater}-{seed}-{member}").name for member in several]
    own = {"policy": plan.run(f"answers-{seed}").name, "reward": ",".join(names), "seed": seed}
    own |= {"updates": plan.updates, "target_kl": 0.0, "checkpoint_every": 0}
    own |= {"learning_rate": plan.haste * plan.profile.ppo.learning_rate}
    cfg = config.change(plan.profile.ppo, **own | changes)
    number = list(SETTINGS).index(setting)
    train = partial(all_stages.module("ppo").train, probe=evals.probe)
    run = jobs.made("ppo", cfg, f"{plan.key}-ppo-{number}-{seed}", train)
    keys = ("kl", "score", "gold", "length", "eos_rate", "entropy", *symptoms(""))
    curve = {key: [line.get(key) for line in run.metrics()] for key in keys}
    return {"run": run.name, "curve": curve, "end": at_end(plan, *models.load_policy(run), seed)}


def at_end(plan: Plan, model, tokenizer, seed: int) -> dict:
    """What a policy is worth on held-out prompts, sampled at temperature 1 (evals.judged), and what
    it does with requests (evals.requests).
    """
    runs.seed_everything(seed)
    asked = atlas.prompts("held-out", seed, plan.held_out)
    sampled = evals.judged(asked, rollout.answer(model, tokenizer, asked))
    return sampled | evals.requests(model, tokenizer)


def best_of_n(plan: Plan, seed: int) -> dict:
    """Best-of-n of the SFT policy's answers by several rules: {"rows": [{"n", "kl", rule: {"score",
    "gold", "words"}}]}, n = 1 … plan.answers and KL = log n − (n − 1) / n.

    Rules: SINGLE (the first reward model), "mean" and "lowest" of all of them, and "random", which
    chooses by dice: the control. Their "score" is SINGLE's.
    """
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(plan.run(f"answers-{seed}"))
    prompts = [
        p for p in atlas.prompts("held-out", seed, plan.prompts) for _ in range(plan.answers)
    ]
    said = rollout.answer(model, tokenizer, prompts)
    rows = [chat.encode(tokenizer, *pair)[0] for pair in zip(prompts, said, strict=True)]
    each = []
    for member in range(plan.members):
        run = plan.run(f"judge-careful-{seed}-{member}")
        model, name = models.load_adapter(model, run, f"reward{member}"), f"reward{member}"
        each.append(score(model, models.load_head(run), tokenizer, rows, adapter=name).tolist())
    dice = random.Random(seed)
    rules = {
        SINGLE: each[0],
        "mean": [fmean(scores) for scores in zip(*each)],
        "lowest": [min(scores) for scores in zip(*each)],
        "random": [dice.random() for _ in said],
    }
    values = {
        "score": each[0],
        "gold": [atlas.judge(*pair).total for pair in zip(prompts, said, strict=True)],
        "words": [symptoms(text)["words"] for text in said],
    }
    groups = [slice(i, i + plan.answers) for i in range(0, len(said), plan.answers)]

    def best(rule, key, n):
        return fmean(expected_best(rules[rule][g], values[key][g], n) for g in groups)

    found = []
    for n in sizes(plan.answers):
        row = {"n": n, "kl": math.log(n) - (n - 1) / n}
        row |= {rule: {key: best(rule, key, n) for key in values} for rule in rules}
        found.append(row)
    return {"rows": found}


def sizes(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 … up to `most`."""
    found = {n for i in range(most.bit_length()) for n in (2**i, 3 * 2 ** (i - 1)) if n <= most}
    return sorted(int(n) for n in found if n == int(n))


# --- the record ----------------------------------------------------------------------------------


def measure(plan: Plan, workers: int = 0) -> dict:
    """Do all jobs (jobs.measure) and return the record."""
    return record(jobs.measure(plan, workers))


def record(plan: Plan) -> dict:
    """What the jobs found, for the notebook: {"profile", "updates", "batch_size", "members",
    "settings", "seconds": {kind of job: total}, "seeds": [{"seed", "start", "sft": figures,
    "pairs", "judges": {rater: [accuracy of each]}, "wrong": {"one", "all", "chance"}, "best_of_n":
    rows, "runs": {setting: {"curve": {metric: [a number per update]}, "end": figures}}}],
    "versions"}, numbers to four digits.
    """
    found = []
    for seed in range(plan.seeds):
        began = plan.found(f"answers-{seed}")
        judges = {
            rater: [plan.found(f"judge-{rater}-{seed}-{m}") for m in range(many)]
            for rater, many in (("careful", plan.members), *((s, 1) for s in RATERS.values()))
        }
        row = {"seed": seed, "start": began["start"], "sft": began["end"]}
        row["pairs"] = judges["careful"][0]["evaluation"]["pairs"]
        row["judges"] = {
            rater: [one["evaluation"]["accuracy"] for one in each] for rater, each in judges.items()
        }
        row["wrong"] = wrong([one["hits"] for one in judges["careful"]])
        row["best_of_n"] = plan.found(f"best-{seed}")["rows"]
        parts = {setting: plan.found(f"ppo-{i}-{seed}") for i, setting in enumerate(SETTINGS)}
        row["runs"] = {s: {key: one[key] for key in ("curve", "end")} for s, one in parts.items()}
        found.append(row)
    profile, seconds = plan.profile, plan.seconds()
    made = {"profile": profile.name, "updates": plan.updates, "members": plan.members}
    made |= {"batch_size": profile.ppo.batch_size, "settings": SETTINGS, "seconds": seconds}
    return jobs.rounded(made | {"seeds": found, "versions": runs.versions()})


def wrong(hits: list[list[int]]) -> dict:
    """How alike the members of an ensemble err on the same held-out pairs: the mean share that one
    ranks wrongly ("one"), the share that all do ("all"), and what that would be if each erred by
    itself ("chance").
    """
    errors = [1 - fmean(one) for one in hits]
    all_of_them = fmean(not any(same) for same in zip(*hits, strict=True))
    return {"one": fmean(errors), "all": all_of_them, "chance": math.prod(errors)}
