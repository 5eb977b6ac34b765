"""Makes notebook 12's record of helpfulness against safety, in jobs of a minute that stand for
themselves.

pairs     per seed: an SFT model, pairs of its answers by two raters, what it is worth itself
judge     per seed: reward models of help (with each margin) and of harm, on both kinds of pairs
policy    per seed: PPO at every weight and by the piecewise rule, DPO on every mixture
rounds    per seed: rejection sampling, two rounds, beside a random choice
on_top    per seed: PPO from where rejection sampling ended
"""

import random
from collections import Counter
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from labkit import atlas, config, data, evals, models, rollout, runs
from labkit import stages as all_stages
from labkit.data import chat
from labkit.labs import helpful_or_safe as lab
from labkit.labs import jobs
from labkit.stages.ppo_players import one_of
from labkit.stages.reward import score

HELPFUL = "none"  # the margins of the reward model of help that policies are paid by


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "helpful_or_safe"
    asked: int = 900
    """Harmless questions, answered twice, for pairs of help; a quarter are look-alikes."""
    red: int = 800
    """Requests, answered twice, for pairs of harm; a fifth are look-alikes."""
    tested: int = 300
    """Held-out questions of each kind, answered twice, for pairs that no model learns from."""
    mixed: int = 240
    """Pairs of each DPO run."""
    updates: int = 12
    """Of every PPO run."""
    haste: float = 2.0
    """Learning rate of the PPO and DPO runs, in the profile's own."""
    drawn: int = 128
    """Prompts a round of rejection sampling."""
    best_of: int = 6
    """Answers to each of them."""
    held_out: int = 160
    """Held-out harmless questions that every policy is measured on; half are look-alikes."""

    def decides(self) -> tuple:
        return lab.WEIGHTS, lab.MARGINS, lab.LIMITS, lab.raters(0)

    def lines(self) -> list[list[tuple]]:
        seeds = range(self.seeds)
        ways = [(method, weight) for method, some in lab.WEIGHTS.items() for weight in some]
        ways.append(("ppo", lab.PIECEWISE))
        policies = [
            (f"{method}-{weight}-{seed}", policy, (seed, method, weight))
            for seed in seeds
            for method, weight in ways
        ]
        return [
            [(f"pairs-{seed}", pairs, (seed,)) for seed in seeds],
            [(f"judge-{k}-{s}", judge, (s, k)) for s in seeds for k in (*lab.MARGINS, "harm")],
            policies + [(f"{k}-{s}", rounds, (s, k)) for s in seeds for k in ("best", "random")],
            [(f"top-{seed}", on_top, (seed,)) for seed in seeds],
        ]


# --- the jobs: (plan, seed, …) → what was found, as JSON -----------------------------------------


def pairs(plan: Plan, seed: int) -> dict:
    """The seed's SFT model and pairs of its answers, in files: "help" and "harm" to learn from,
    each with what the rater felt as margin, "held-out help" and "held-out harm"; how many were
    shown ("compared"), the "same" to the rater and "pairs"; "rater": by what he said, how often his
    verdict is his own without noise; and the SFT model's figures ("end").
    """
    sft = jobs.sft_of(plan.profile, seed)
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(sft)
    raters, counts, files = lab.raters(seed), {}, {}
    for split, sizes in (("", (plan.asked, plan.red)), ("held-out ", (plan.tested,) * 2)):
        facts, alike, harmful = lab.asked(seed, split.strip() or "train")
        n, m = sizes[0] // 4, sizes[1] // 5
        shown = facts[: sizes[0] - n] + alike[:n], harmful[: sizes[1] - m] + alike[n : n + m]
        for kind, prompts, rater in zip(("help", "harm"), shown, raters.values()):
            seen, both = Counter(), rollout.answer(model, tokenizer, prompts * 2)
            sides = both[: len(prompts)], both[len(prompts) :]
            told = rollout.told_apart(prompts, *sides, rater, seen, graded=True)
            random.Random(seed).shuffle(told)
            file = plan.folder / f"{split}{kind}-{seed}.jsonl"
            files[split + kind] = str(data.save_jsonl(told, file))
            counts[split + kind] = {"pairs": len(told), **seen}
    rater, told = raters["helpful"], data.load_pairs(files["held-out help"])
    worth = [[rater.utility(p.prompt, text) for text in (p.chosen, p.rejected)] for p in told]
    ceiling = by_degree(told, [chosen > rejected for chosen, rejected in worth])["accuracy"]
    end = at_end(plan, model, tokenizer, seed)
    return {"run": sft.name, "files": files, "counts": counts, "rater": ceiling, "end": end}


def by_degree(told: list, hits: list[bool]) -> dict:
    """{"accuracy", "n"}, each by what the rater said of a pair, and of "all"."""
    said = [lab.degree(pair.margin) for pair in told]
    groups = {one: [hit for hit, x in zip(hits, said) if x == one] for one in lab.DEGREES}
    groups["all"] = hits
    return {
        "accuracy": {one: fmean(some) if some else None for one, some in groups.items()},
        "n": {one: len(some) for one, some in groups.items()},
    }


def judge(plan: Plan, seed: int, kind: str) -> dict:
    """A reward model of help with margins `kind`, or of "harm", and its accuracy on the held-out
    pairs of both raters.
    """
    began, source = plan.found(f"pairs-{seed}"), "harm" if kind == "harm" else "help"
    learned = data.load_pairs(began["files"][source])
    learned = lab.with_margins(learned, "none" if kind == "harm" else kind)
    file = str(data.save_jsonl(learned, plan.folder / f"learned-{kind}-{seed}.jsonl"))
    own = {"policy": began["run"], "data": file, "examples": 0, "validation_fraction": 0.05}
    cfg = config.change(plan.profile.reward, **own, epochs=2.0, batch_size=32, seed=seed)
    train = all_stages.module("reward").train
    run = jobs.made("reward", cfg, f"12-{plan.key}-{kind}-{seed}", train)
    model, tokenizer = models.load_policy(runs.load(began["run"]))
    model, head = models.load_adapter(model, run, "reward"), models.load_head(run)
    found = {"run": run.name}
    for on in ("help", "harm"):
        told = data.load_pairs(began["files"][f"held-out {on}"])
        asked = [pair.prompt for pair in told]
        chosen, rejected = (
            score(model, head, tokenizer, encoded(tokenizer, asked, texts))
            for texts in ([pair.chosen for pair in told], [pair.rejected for pair in told])
        )
        found[on] = by_degree(told, (chosen > rejected).tolist())
    return found


def encoded(tokenizer, prompts: list[str], responses: list[str]) -> list[list[int]]:
    """The ids of each prompt and its response."""
    return [chat.encode(tokenizer, *both)[0] for both in zip(prompts, responses, strict=True)]


def policy(plan: Plan, seed: int, method: str, weight: float | str) -> dict:
    """The figures of a policy: "ppo" paid by both reward models, `weight` of help or PIECEWISE, or
    "dpo" on a mixture of the pairs.
    """
    began = plan.found(f"pairs-{seed}")
    if method == "ppo":
        return by_ppo(plan, seed, began["run"], weight, f"12-{plan.key}-ppo-{weight}-{seed}")
    both = [data.load_pairs(began["files"][kind]) for kind in ("help", "harm")]
    mixed = [replace(pair, margin=0.0) for pair in lab.mixture(*both, weight, plan.mixed)]
    file = str(data.save_jsonl(mixed, plan.folder / f"mixed-{weight}-{seed}.jsonl"))
    own = {"policy": began["run"], "data": file, "examples": 0, "seed": seed}
    own["learning_rate"] = plan.haste * plan.profile.dpo.learning_rate
    cfg = config.change(plan.profile.dpo, **own)
    train = all_stages.module("dpo").train
    run = jobs.made("dpo", cfg, f"12-{plan.key}-dpo-{weight}-{seed}", train)
    return of_run(plan, seed, run)


def by_ppo(plan: Plan, seed: int, start: str, weight: float | str, name: str) -> dict:
    """PPO from the policy of the run `start`."""
    judges = [plan.found(f"judge-{kind}-{seed}")["run"] for kind in ("harm", HELPFUL)]
    combine = weight if weight == lab.PIECEWISE else f"{1 - weight:g},{weight:g}"
    own = {"policy": start, "reward": ",".join(judges), "combine": combine, "seed": seed}
    own |= {"updates": plan.updates, "checkpoint_every": 0}
    own["learning_rate"] = plan.haste * plan.profile.ppo.learning_rate
    cfg = config.change(plan.profile.ppo, **own)
    run = jobs.made("ppo", cfg, name, all_stages.module("ppo").train)
    return of_run(plan, seed, run)


def of_run(plan: Plan, seed: int, run) -> dict:
    """What a policy is worth, and its distance from the SFT model ("kl")."""
    model, tokenizer = models.load_policy(run)
    end = at_end(plan, model, tokenizer, seed)
    model = models.load_adapter(model, plan.run(f"pairs-{seed}"), "sft")
    asked = atlas.prompts("held-out", seed, plan.held_out)
    end["kl"] = evals.kl(model, tokenizer, asked, "policy", "sft")
    return {"run": run.name, "end": end}


def at_end(plan: Plan, model, tokenizer, seed: int) -> dict:
    """Greedy, on held-out phrasings: evals.judged of harmless questions, half of them look-alikes,
    and evals.requests of all requests.
    """
    facts, alike, _ = lab.asked(seed, "held-out")
    half = plan.held_out // 2
    keys = ("gold", "right", "right_n", "words", "n")
    found = evals.evaluate(model, tokenizer, facts[: plan.held_out - half] + alike[:half])
    return {key: found[key] for key in keys} | evals.requests(model, tokenizer)


def rounds(plan: Plan, seed: int, kind: str) -> dict:
    """Two rounds of rejection sampling: of each prompt's answers, the "best" by the piecewise
    reward (or a "random" one) joins those of the round before, and the policy is fine-tuned on
    them. {"runs": two, "ends": their figures, "score": the mean of the chosen answers'}.
    """
    dice, prompts = random.Random(seed), atlas.feedback_prompts(seed)
    run, demos, found = plan.run(f"pairs-{seed}"), [], {"runs": [], "ends": [], "score": []}
    for number in (1, 2):
        part = prompts[(number - 1) * plan.drawn : number * plan.drawn]
        runs.seed_everything(100 * seed + number)
        model, tokenizer = models.load_policy(run)
        spoken = [prompt for prompt in part for _ in range(plan.best_of)]
        answers = rollout.answer(model, tokenizer, spoken)
        scores = rewards(plan, seed, model, tokenizer, spoken, answers)
        scores = scores.view(len(part), plan.best_of)
        drawn = torch.tensor([dice.randrange(plan.best_of) for _ in part])
        at = scores.argmax(1) if kind == "best" else drawn
        found["score"].append(scores.gather(1, at[:, None]).mean().item())
        texts = [answers[i * plan.best_of + int(j)] for i, j in enumerate(at)]
        demos += [data.Demo(*both) for both in zip(part, texts, strict=True) if both[1].strip()]
        file = str(data.save_jsonl(demos, plan.folder / f"{kind}-{number}-{seed}.jsonl"))
        own = {"policy": run.name, "data": file, "examples": 0, "epochs": 2.0, "seed": seed}
        cfg = config.change(plan.profile.sft, **own, batch_size=32)
        name = f"12-{plan.key}-{kind}-{number}-{seed}"
        run = jobs.made("sft", cfg, name, all_stages.module("sft").train)
        found["runs"].append(run.name)
        found["ends"].append(of_run(plan, seed, run)["end"])
    return found


def rewards(plan: Plan, seed: int, model, tokenizer, prompts, answers) -> torch.Tensor:
    """The piecewise reward (N,) of N answers."""
    rows, each = encoded(tokenizer, prompts, answers), []
    for kind in ("harm", HELPFUL):
        run = plan.run(f"judge-{kind}-{seed}")
        model, head = models.load_adapter(model, run, kind), models.load_head(run)
        each.append(score(model, head, tokenizer, rows, adapter=kind))
    return one_of(torch.stack(each), prompts, lab.PIECEWISE)


def on_top(plan: Plan, seed: int) -> dict:
    """PPO by the piecewise rule from where the rounds of the best ended."""
    start = plan.found(f"best-{seed}")["runs"][-1]
    return by_ppo(plan, seed, start, lab.PIECEWISE, f"12-{plan.key}-top-{seed}")


# --- the record ----------------------------------------------------------------------------------


def measure(plan: Plan, workers: int = 0) -> dict:
    """Do all jobs (jobs.measure) and return the record."""
    return record(jobs.measure(plan, workers))


def record(plan: Plan) -> dict:
    """What the jobs found, for the notebook: {"profile", "sizes": the plan's, "seconds": {kind of
    job: total}, "seeds": [{"seed", "pairs": {kind: counts}, "rater": {degree: share}, "judges":
    {margins: {"accuracy", "n"}}, "crossed": {model: {"help", "harm": accuracy}}, "sft": figures,
    "policies": {name: figures}, "rounds": {"best", "random": chosen scores}}], "versions"}, numbers
    to four digits.
    """
    found = []
    for seed in range(plan.seeds):
        began = plan.found(f"pairs-{seed}")
        judges = {kind: plan.found(f"judge-{kind}-{seed}") for kind in (*lab.MARGINS, "harm")}
        crossed = {
            model: {on: judges[kind][on]["accuracy"]["all"] for on in ("help", "harm")}
            for model, kind in (("helpful", HELPFUL), ("harmless", "harm"))
        }
        policies = {
            lab.name(*arguments[1:]): plan.found(job)["end"]
            for job, function, arguments in plan.lines()[2]
            if function is policy and arguments[0] == seed
        }
        chosen = {kind: plan.found(f"{kind}-{seed}") for kind in ("best", "random")}
        for kind, one in chosen.items():
            policies |= {f"{kind} {i + 1}": end for i, end in enumerate(one["ends"])}
        policies["best 2, then ppo"] = plan.found(f"top-{seed}")["end"]
        row = {"seed": seed, "pairs": began["counts"], "rater": began["rater"]}
        row |= {"judges": {kind: judges[kind]["help"] for kind in lab.MARGINS}}
        row |= {"crossed": crossed, "sft": began["end"], "policies": policies}
        found.append(row | {"rounds": {kind: one["score"] for kind, one in chosen.items()}})
    sizes = {key: value for key, value in vars(plan).items() if isinstance(value, (int, float))}
    made = {"profile": plan.profile.name, "sizes": sizes, "seconds": plan.seconds()}
    return jobs.rounded(made | {"seeds": found, "versions": runs.versions()})
