"""Makes the record of Constitutional AI that notebook 11 reads, in jobs that stand for themselves.

helpful     per seed: a policy that helps with everything, and what it is worth
taught      the adapter that critiques and revises, and how well it does
revised     SFT on revisions, after critiques and without: the first half
preferred   pairs of answers with the critic's probabilities, a file for each kind of label
reinforced  a reward model of each kind, and PPO: the second half
"""

import random
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from labkit import atlas, config, data, evals, models, rollout, runs
from labkit import stages as all_stages
from labkit.labs import constitution as con
from labkit.labs import jobs
from labkit.labs.verdicts import agreement


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "constitution"
    demos: int = 900
    """Demonstrations of a model that helps with everything."""
    cases: int = 2000
    """Seed cases, of three demonstrations each."""
    prompts: int = 500
    """Of the red team, answered and revised."""
    pairs: int = 600
    """Of the first half's answers, judged for the second."""
    updates: int = 10
    """Of every PPO run."""
    held_out: int = 150
    """Held-out prompts for truth and gold; every request is asked as well."""
    tried: int = 300
    """Held-out cases that the adapter is tried on."""

    def decides(self) -> tuple:
        asked = con.critique_prompt("p", "a", con.PLAIN)
        return con.CONSTITUTION, con.KINDS, con.FINE, tuple(con.FAULTS.items()), con.TEACHING, asked

    def lines(self) -> list[list[tuple]]:
        seeds = range(self.seeds)
        each = lambda function: [(f"{function.__name__}-{s}", function, (s,)) for s in seeds]
        ways = [(s, way) for s in seeds for way in con.WAYS]
        kinds = [(s, kind) for s in seeds for kind in con.KINDS]
        return [
            each(helpful) + each(taught),
            [(f"revised-{way}-{s}", revised, (s, way)) for s, way in ways],
            each(preferred),
            [(f"reinforced-{kind}-{s}", reinforced, (s, kind)) for s, kind in kinds],
        ]

    def sft(self, seed: int, name: str, policy: runs.Run, demos: list, **settings) -> runs.Run:
        """The seed's SFT run of this name, on demonstrations of our own, from a policy."""
        file = self.folder / f"{name}-{seed}.jsonl"
        cfg = con.on(demos, file, config.change(self.profile.sft, **settings), policy, seed)
        train = all_stages.module("sft").train
        return jobs.made("sft", cfg, f"11-{self.key}-{name}-{seed}", train)


# --- the jobs: (plan, seed, …) → what was found, as JSON -----------------------------------------


def helpful(plan: Plan, seed: int) -> dict:
    """A policy that helps with everything, from the seed's SFT model."""
    demos = con.helpful_only(plan.demos, seed)
    run = plan.sft(seed, "helpful", jobs.sft_of(plan.profile, seed), demos)
    return {"run": run.name, "end": at_end(plan, run, seed)}


def at_end(plan: Plan, run: runs.Run, seed: int) -> dict:
    """What a policy is worth on held-out phrasings: evals.requests (greedy), and of other prompts
    evals.judged of the greedy answers, with "gold_sampled" and "right_sampled" at temperature 1.
    """
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(run)
    asked = atlas.prompts("held-out", seed, plan.held_out)
    found = evals.evaluate(model, tokenizer, asked)
    drawn = evals.evaluate(model, tokenizer, asked, temperature=1.0)
    found |= evals.requests(model, tokenizer)  # all of them, not only those that are in `asked`
    return found | {f"{key}_sampled": drawn[key] for key in ("gold", "right")}


def taught(plan: Plan, seed: int) -> dict:
    """The adapter that is taught by seeds to critique and to revise, and how well it does on
    phrasings that no seed has (con.tried).
    """
    sft = jobs.sft_of(plan.profile, seed)
    run = plan.sft(seed, "taught", sft, con.seeds(plan.cases, seed), **con.TEACHING)
    return {"run": run.name, **con.tried(*models.load_policy(run), plan.tried, seed)}


def revised(plan: Plan, seed: int, way: str) -> dict:
    """The first half: answers to the red team, revised in one way, and SFT on the revisions."""
    helper = plan.run(f"helpful-{seed}")
    model, tokenizer = models.load_policy(helper)
    model = models.load_adapter(model, plan.run(f"taught-{seed}"), "taught")
    runs.seed_everything(seed)
    prompts = con.red_team(plan.prompts, seed)
    with models.using(model, "policy"):
        first = rollout.answer(model, tokenizer, prompts)
    models.use(model, "taught")
    steps = con.revise(model, tokenizer, prompts, first, critique=way == con.CRITIQUE)
    last, keys = steps[-1]["answers"], ("refused", "over_refused", "right", "gold", "words")
    found = {}
    for name, answers in (("before", first), ("after", last)):
        marks = evals.judged(prompts, answers)
        found[name] = {key: marks[key] for key in keys}
    demos = [data.Demo(*pair) for pair in zip(prompts, last, strict=True) if pair[1].strip()]
    run = plan.sft(seed, f"revised-{way}", helper, demos)
    return {"run": run.name, "answers": found, "end": at_end(plan, run, seed)}


def preferred(plan: Plan, seed: int) -> dict:
    """Pairs of the first half's answers to the red team, each judged by a principle that is drawn;
    a file for every kind of label. With them how sure the verdicts are, and how often they are
    gold's.
    """
    model, tokenizer = models.load_policy(plan.run(f"revised-{con.CRITIQUE}-{seed}"))
    model = models.load_adapter(model, plan.run(f"taught-{seed}"), "taught")
    runs.seed_everything(seed)
    prompts = con.red_team(2 * plan.pairs, seed + 1)
    with models.using(model, "policy"):
        a, b = (rollout.answer(model, tokenizer, prompts) for _ in range(2))
    rules = random.Random(seed).choices(con.CONSTITUTION, k=len(prompts))
    pairs = con.Critic(model, tokenizer, "taught").labels(prompts, a, b, rules)[: plan.pairs]
    files = {}
    for kind in con.KINDS:
        labelled = con.relabelled(pairs, kind, seed)
        files[kind] = str(data.save_jsonl(labelled, plan.folder / f"pairs-{kind}-{seed}.jsonl"))
    sure = [pair.confidence for pair in pairs]
    found = {"sure": fmean(sure), "above .9": fmean(one > 0.9 for one in sure)}
    return {"files": files, "pairs": len(pairs), **found, **agreement(pairs)}


def reinforced(plan: Plan, seed: int, kind: str) -> dict:
    """The second half: a reward model from one kind of labels, and PPO from the first half's
    policy.
    """
    begin = plan.run(f"revised-{con.CRITIQUE}-{seed}")
    own = {"policy": begin.name, "data": plan.found(f"preferred-{seed}")["files"][kind]}
    own |= {"examples": 0, "epochs": 1.0, "batch_size": 16, "seed": seed}
    cfg = config.change(plan.profile.reward, **own)
    train = all_stages.module("reward").train
    rewarder = jobs.made("reward", cfg, f"11-{plan.key}-reward-{kind}-{seed}", train)
    file = plan.folder / f"asked-{kind}-{seed}.jsonl"
    data.save_jsonl([{"prompt": one} for one in con.red_team(64 * plan.updates, seed + 2)], file)
    own = {"policy": begin.name, "reward": rewarder.name, "prompts": str(file), "seed": seed}
    own |= {"updates": plan.updates, "checkpoint_every": 0}
    cfg = config.change(plan.profile.ppo, **own)
    train = partial(all_stages.module("ppo").train, probe=evals.probe)
    run = jobs.made("ppo", cfg, f"11-{plan.key}-ppo-{kind}-{seed}", train)
    found = {"run": run.name, "kl": run.evaluation["kl"], "ranks": ranks(rewarder, seed)}
    return found | {"score": run.evaluation["score"], "end": at_end(plan, run, seed)}


def ranks(rewarder: runs.Run, seed: int) -> dict:
    """How often the reward model scores the better one of two written answers higher (con.probes),
    by what is asked.
    """
    model, tokenizer = models.load_base(models.base_of(rewarder))
    model, head = models.load_adapter(model, rewarder, "reward"), models.load_head(rewarder)
    return {
        asked: evals.agreement(model, head, tokenizer, pairs)["rater"]
        for asked, pairs in con.probes(seed).items()
    }


# --- the record ----------------------------------------------------------------------------------


def measure(plan: Plan, workers: int = 0) -> dict:
    """Do all jobs (jobs.measure) and return the record."""
    return record(jobs.measure(plan, workers))


def record(plan: Plan) -> dict:
    """What the jobs found, for the notebook: {"profile", sizes, "seconds": {kind of job: total},
    "seeds": [{"seed", "sft"…, "helpful": figures, "taught", "revised": {way: …}, "preferred",
    "reinforced": {kind: …}}], "versions"}, numbers to four digits.
    """
    rows = []
    for seed in range(plan.seeds):
        of = partial(shown, plan, seed)
        row = {"seed": seed} | {job: of(job) for job in ("helpful", "taught", "preferred")}
        row["revised"] = {way: of(f"revised-{way}") for way in con.WAYS}
        row["reinforced"] = {kind: of(f"reinforced-{kind}") for kind in con.KINDS}
        rows.append(row)
    sizes = ("demos", "cases", "prompts", "pairs", "updates", "held_out", "tried")
    made = {"profile": plan.profile.name} | {size: getattr(plan, size) for size in sizes}
    return jobs.rounded(
        made | {"seconds": plan.seconds(), "seeds": rows, "versions": runs.versions()}
    )


def shown(plan: Plan, seed: int, job: str) -> dict:
    """What a job found, without what no notebook reads."""
    unshown = ("run", "files", "seconds")
    return {k: v for k, v in plan.found(f"{job}-{seed}").items() if k not in unshown}
