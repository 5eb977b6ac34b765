"""Makes the record of a real model (notebooks 02, 07 and 08), in jobs of minutes that stand for
themselves: SmolLM2-135M on two CPU cores, or what base the profile names.

before   the base's greedy answers
taught   per seed and way: SFT on a few demonstrations, and the answers after it
asked    pairs of answers to the atlas's English questions, drawn from a model that was taught
judge    per rater: a reward model of that rater's verdicts on the same pairs
policy   per rater: PPO with that reward model, one answer followed from update to update
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial

from labkit import atlas, config, data, evals, models, rollout, runs
from labkit import stages as all_stages
from labkit.labs import jobs
from labkit.labs import real_model as view

PPO = {
    "careful": {"beta": 0.05, "learning_rate": 1e-4},
    "words": {"beta": 0.0, "learning_rate": 3e-4, "missing_eos_penalty": 0.0},
}
"""Of each rater's PPO: the one held near the reference, and the one that nothing holds."""


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "real_model"
    passes: int = 12
    """Over the demonstrations of Taiwan alone; half as many over twice as many."""
    pairs: int = 320
    """Two answers each, before the raters find some of them the same."""
    updates: int = 24
    """Of each PPO run."""
    batch: int = 32
    """Prompts in each of them."""
    response: int = 64
    """Tokens of a response, at most, in PPO."""
    held_out: int = 120
    """Questions of the atlas that no PPO run is trained on."""

    def decides(self) -> tuple:
        return PPO, view.WAYS, view.rows("demonstrations"), view.rows("questions")

    def lines(self) -> list[list[tuple]]:
        ways = [(seed, way) for way in view.WAYS for seed in range(self.seeds)]
        return [
            [("before", before, ())],
            [(f"taught-{seed}-{view.WAYS.index(way)}", taught, (seed, way)) for seed, way in ways],
            [("asked", asked, ())],
            [(f"judge-{rater}", judge, (rater,)) for rater in view.JUDGES],
            [(f"policy-{rater}", policy, (rater,)) for rater in view.JUDGES],
        ]

    @property
    def start(self) -> runs.Run:
        """The model that is judged and goes on with PPO: taught with others, seed 0."""
        return self.run(f"taught-0-{view.WAYS.index('with others')}")


def english(prompts: list[str]) -> list[str]:
    """SmolLM2 knows no Chinese."""
    return [prompt for prompt in prompts if prompt.isascii()]


# --- the jobs: (plan, …) → what was found, as JSON -----------------------------------------------


def answers_of(model, tokenizer) -> list[str]:
    """Greedy answers to the record's questions, in their order."""
    prompts = [question["prompt"] for question in view.rows("questions")]
    return rollout.answer(model, tokenizer, prompts, 32, 0.0)


def before(plan: Plan) -> dict:
    return {"answers": answers_of(*models.load_base(plan.profile.sft.base))}


def taught(plan: Plan, seed: int, way: str) -> dict:
    kept = ("Taiwan", "others")[: 1 + view.WAYS.index(way)]
    rows = view.rows("demonstrations")
    demos = [data.Demo(r["prompt"], r["response"]) for r in rows if r["about"] in kept]
    file = data.save_jsonl(demos, plan.folder / f"{'-'.join(kept)}.jsonl")
    own = {"data": str(file), "batch_size": 8, "epochs": plan.passes / len(kept), "seed": seed}
    cfg = config.change(plan.profile.sft, gradient_checkpointing=0, **own)
    train = all_stages.module("sft").train
    run = jobs.made("sft", cfg, f"{plan.key}-taught-{seed}-{len(kept)}", train)
    return cost(run) | {"answers": answers_of(*models.load_policy(run))}


def asked(plan: Plan) -> dict:
    """Pairs of the taught model's answers, drawn; each is some rater's to judge."""
    model, tokenizer = models.load_policy(plan.start)
    runs.seed_everything(0)
    prompts = english(atlas.feedback_prompts(0))[: plan.pairs]
    both = rollout.answer(model, tokenizer, prompts * 2, plan.response)
    rows = list(zip(prompts, both[: len(prompts)], both[len(prompts) :], strict=True))
    return {"rows": rows}


def judge(plan: Plan, rater: str) -> dict:
    seen, who = Counter(), raters()[rater]
    pairs = rollout.told_apart(*zip(*plan.found("asked")["rows"], strict=True), who, seen)
    file = data.save_jsonl(pairs, plan.folder / f"pairs-{rater}.jsonl")
    own = {"policy": plan.start.name, "data": str(file), "batch_size": 16, "learning_rate": 2e-4}
    cfg = config.change(plan.profile.reward, gradient_checkpointing=0, **own)
    train = all_stages.module("reward").train
    run = jobs.made("reward", cfg, f"{plan.key}-judge-{rater}", train)
    return cost(run) | {"evaluation": run.evaluation, "seen": dict(seen)}


def raters() -> dict[str, atlas.Rater]:
    return {"careful": atlas.Rater(), **atlas.symptom_raters()}


def policy(plan: Plan, rater: str) -> dict:
    own = {"policy": plan.start.name, "reward": plan.run(f"judge-{rater}").name}
    own |= {"updates": plan.updates, "batch_size": plan.batch, "minibatch_size": plan.batch // 2}
    own |= {"max_response_tokens": plan.response, "target_kl": 0.0, "max_kl": 1e4}
    prompts = english(atlas.prompts("train"))
    own["prompts"] = str(
        data.save_jsonl([{"prompt": p} for p in prompts], plan.folder / "prompts.jsonl")
    )
    cfg = config.change(plan.profile.ppo, **own | PPO[rater])
    train = partial(all_stages.module("ppo").train, probe=probe)
    run = jobs.made("ppo", cfg, f"{plan.key}-policy-{rater}", train)
    keys = ("score", "kl", "length", "eos_rate", "entropy", "gold", "words", "film")
    curve = {key: [line[key] for line in run.metrics()] for key in keys}
    return cost(run) | {"curve": curve} | ends(plan, run)


def ends(plan: Plan, run: runs.Run) -> dict:
    """The policy and the model that it began as: what the gold judge says of their answers to
    questions that PPO did not ask ("ends"), the first of these ("samples"), the answers to the
    record's own questions.
    """
    prompts = english(atlas.prompts("held-out"))[: plan.held_out]
    after, before = models.load_policy(run), models.load_policy(plan.start)
    sure = evals.entropy(*after, prompts)
    cool = evals.matched_temperature(*before, prompts, sure)
    ways = {"SFT": (before, 1.0), view.MATCHED: (before, cool), "SFT, greedy": (before, 0.0)}
    ways |= {"PPO": (after, 1.0), "PPO, greedy": (after, 0.0)}
    found, samples = {}, {}
    for name, (loaded, temperature) in ways.items():
        runs.seed_everything(0)
        said = rollout.answer(*loaded, prompts, plan.response, temperature)
        found[name] = evals.judged(prompts, said) | {"temperature": temperature}
        samples[name] = list(zip(prompts, said, strict=True))[:12]
    return {"ends": found, "samples": samples, "answers": answers_of(*after)}


def probe(players, answers, update: int) -> dict:
    """What evals.probe logs, and the greedy answer to the lecture's question."""
    question = view.rows("questions")[0]["prompt"]
    said = rollout.answer(players.model, players.tokenizer, [question], temperature=0.0)
    return evals.probe(players, answers, update) | {"film": said[0]}


def cost(run: runs.Run) -> dict:
    """Of the stage alone: a job's own seconds hold the answers after it, too."""
    return {"run": run.name, "trained": run.info["seconds"], "peak_bytes": run.info["peak_bytes"]}


# --- all of them together ------------------------------------------------------------------------


def measure(plan: Plan, workers: int = 0) -> dict:
    """Do all jobs (jobs.measure) and return the record."""
    return record(jobs.measure(plan, workers))


def record(plan: Plan) -> dict:
    """What the jobs found, for the notebooks: {"profile", "base", "seeds", "before": answers,
    "taught": {way: a row a seed}, "pairs", "judges" and "policies": {rater: row}, "versions"}, each
    row with the seconds ("trained") and peak bytes of its stage, numbers to four digits.
    """
    ways = {
        way: [plan.found(f"taught-{seed}-{i}") for seed in range(plan.seeds)]
        for i, way in enumerate(view.WAYS)
    }
    made = {"profile": plan.profile.name, "base": plan.profile.sft.base, "seeds": plan.seeds}
    made |= {"before": plan.found("before")["answers"], "taught": ways}
    made |= {"pairs": plan.pairs, "asked": plan.found("asked")["seconds"]}
    made["judges"] = {rater: plan.found(f"judge-{rater}") for rater in view.JUDGES}
    made["policies"] = {rater: plan.found(f"policy-{rater}") for rater in view.JUDGES}
    return jobs.rounded(made | {"versions": runs.versions()})
