"""Makes notebook 08b's record of verifiable rewards, in jobs that stand for themselves.

base      once: the poet's base, where none came with the project
poet      per seed: its SFT, what it writes at three temperatures, best-of-n by the rule
learner   per seed: PPO and GRPO on the full rule, PPO on the weak ones
"""

from dataclasses import dataclass
from statistics import fmean, median

from labkit import models, rollout, runs
from labkit.labs import form, jobs
from labkit.labs.overoptimization import expected_best

WAYS = {
    "PPO": {"rule": "a given rhyme", "updates": 56},
    "GRPO": {"rule": "a given rhyme", "updates": 56},
    "PPO, any rhyme": {"rule": "any rhyme", "updates": 14},
    "PPO, same character allowed": {"rule": "same allowed", "updates": 30},
    "PPO, characters counted": {
        "rule": "counted",
        "updates": 32,
        "batch_size": 64,
        "minibatch_size": 32,
        "max_grad_norm": 1.0,
        "learning_rate": 3e-3,
        "beta": 0.0,
        "max_kl": 10_000.0,
        "missing_eos_penalty": 0.0,
    },
}
"""What each learner is paid by, and what it changes."""
TEMPERATURES = (1.0, 0.5, 0.0)
BEST_OF = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "form"
    most: int = 60
    """Updates that a run may have."""
    questions: int = 200
    """Prompts that every policy answers at the end."""

    def decides(self) -> tuple:
        return WAYS, form.settings(), form.Grpo(), form.ppo_settings()

    def lines(self) -> list[list[tuple]]:
        seeds = range(self.seeds)
        return [
            [("base", base, ())],
            [(f"poet-{seed}", poet, (seed,)) for seed in seeds],
            [(f"way-{i}-{s}", learner, (s, way)) for s in seeds for i, way in enumerate(WAYS)],
        ]


def base(plan: Plan) -> dict:
    """The folder of the base that came with the project, else of a new one."""
    if runs.shipped("poet"):
        return {"folder": form.base(), **runs.shipped("poet").evaluation}
    run = jobs.made("poet", form.settings(), f"08b-{plan.key}-base", form.train_base)
    return {"folder": str(run.path), **run.evaluation}


def poet(plan: Plan, seed: int) -> dict:
    """A seed's SFT, `figures` of its poems by temperature, and best-of-n by the full rule: the
    share well-formed, and of a random choice.
    """
    where = plan.found("base")["folder"]
    run = form.fine_tune(where, seed, f"08b-{plan.key}-poet-{seed}")
    model, tokenizer = models.load_policy(run)
    at = {t: measured(plan, model, tokenizer, seed, t)[0] for t in TEMPERATURES}
    asked = form.prompts(plan.questions // 4, 50 + seed)
    said = rollout.answer(
        model, tokenizer, [p for p in asked for _ in range(16)], form.LONGEST, form.TEMPERATURE
    )
    marks = [[form.any_rhyme(poem) for poem in said[i : i + 16]] for i in range(0, len(said), 16)]
    whole = [[float(mark == 1.0) for mark in each] for each in marks]
    best = [
        {
            "n": n,
            "by the rule": fmean(expected_best(*both, n) for both in zip(marks, whole)),
            "by dice": fmean(map(fmean, whole)),
        }
        for n in BEST_OF
    ]
    return {"run": run.name, "temperatures": at, "best_of_n": best}


def measured(plan: Plan, model, tokenizer, seed: int, temperature: float) -> tuple[dict, list]:
    """(`form.figures` of a policy's poems and the share of different ones, the poems)."""
    runs.seed_everything(seed)
    asked = form.prompts(plan.questions, 90 + seed)
    said = rollout.answer(model, tokenizer, asked, form.LONGEST, temperature)
    return form.figures(asked, said) | {"different": len(set(said)) / len(said)}, said


def learner(plan: Plan, seed: int, way: str) -> dict:
    """A way of learning: its figures and seconds after every update ("curve"), at the end, how
    surprised the SFT poet is by its poems, and eight of these.
    """
    sft, where = plan.run(f"poet-{seed}"), plan.found("base")["folder"]
    own = dict(WAYS[way], seed=seed)
    judge = form.Judge(form.RULES[own.pop("rule")])
    run = form.learn(
        way.split(",")[0],
        sft.name,
        where,
        judge,
        f"08b-{plan.key}-{list(WAYS).index(way)}-{seed}",
        **own | {"updates": min(own["updates"], plan.most)},
    )
    model, tokenizer = models.load_policy(run)
    end, said = measured(plan, model, tokenizer, seed, form.TEMPERATURE)
    greedy, _ = measured(plan, model, tokenizer, seed, 0.0)
    both = form.prompts(plan.questions, 90 + seed), said
    here = form.logps(model, tokenizer, *both)
    model = models.load_adapter(model, sft, "reference")
    there = form.logps(model, tokenizer, *both)
    tokens = sum(len(poem) + 1 for poem in said)
    end |= {"kl": float((here - there).mean()), "surprise": float(-there.sum()) / tokens}
    curve = {key: [row[key] for row in judge.rows] for key in judge.rows[0]}
    found = {"run": run.name, "curve": curve, "end": end, "greedy": greedy, "poems": said[:8]}
    return found | {"per update": per_update(judge.rows)}


def per_update(rows: list[dict]) -> float:
    """Median seconds from one update to the next."""
    times = [row["seconds"] for row in rows]
    return median(b - a for a, b in zip(times, times[1:]))


# --- the record ----------------------------------------------------------------------------------


def measure(plan: Plan, workers: int = 0) -> dict:
    """Do all jobs that have not ended yet, and return the record that notebook 08b reads."""
    jobs.measure(plan, workers)
    found = []
    for seed in range(plan.seeds):
        start = plan.found(f"poet-{seed}")
        row = {"seed": seed, "poet": {key: start[key] for key in ("temperatures", "best_of_n")}}
        parts = {way: plan.found(f"way-{i}-{seed}") for i, way in enumerate(WAYS)}
        keys = ("curve", "end", "greedy", "poems", "per update")
        row["ways"] = {way: {key: one[key] for key in keys} for way, one in parts.items()}
        found.append(row)
    base_of = {key: plan.found("base")[key] for key in ("poems", "parameters", "loss")}
    made = {"ways": WAYS, "base": base_of, "questions": plan.questions}
    made |= {"seeds": found, "seconds": plan.seconds(), "versions": runs.versions()}
    return jobs.rounded(made)
