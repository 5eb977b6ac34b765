"""Makes the record of self-rewarding that notebook 11 reads, in jobs that stand for themselves.

start   per seed: the SFT model's figures, and pairs of its answers to held-out prompts
model   M1 (SFT on demonstrations and seed judgements), then M2 … each by DPO on the verdicts of the
        one before: what it is worth, and its own verdicts on pairs of its own answers
"""

from dataclasses import dataclass
from statistics import fmean

from labkit import atlas, config, data, evals, models, rollout, runs
from labkit import stages as all_stages
from labkit.atlas.symptoms import symptoms
from labkit.labs import jobs
from labkit.labs.self_rewarding import COIN, OWN
from labkit.labs.verdicts import decided, difference, orders_of, tossed, trial
from labkit.rollout import judging
from labkit.stages import pairs as preferences

ROOM = 208  # tokens for a prompt that holds a question, two answers and what is asked
BATCH = 8  # of SFT: so small a model learns more from many steps


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "self-rewarding"
    rounds: int = 3
    """Of DPO: M1 becomes M2 …"""
    demos: int = 600
    """Demonstrations that M1 learns from."""
    judgements: int = 800
    """A careful rater's, that M1 learns from as demonstrations of judging, each in both orders."""
    pairs: int = 320
    """Of a model's own answers, judged by itself, for each round."""
    held_out: int = 100
    """Held-out prompts that every model is measured on."""
    judged: int = 240
    """Held-out pairs of the SFT model's answers that every model judges."""
    controls: int = 1
    """Seeds that also go the way of a coin's verdicts."""

    def decides(self) -> tuple:
        return atlas.Rater(), judging.pair_prompt("p", "a", "b")

    def lines(self) -> list[list[tuple]]:
        seeds = range(self.seeds)
        return [
            [(f"start-{s}", start, (s,)) for s in seeds],
            [(f"model-1-{s}", model, (s, OWN, 1)) for s in seeds],
            *(
                [
                    (f"model-{t}-{arm}-{s}", model, (s, arm, t))
                    for s in seeds
                    for arm in self.arms(s)
                ]
                for t in range(2, self.rounds + 2)
            ),
        ]

    def arms(self, seed: int) -> tuple:
        """Whose verdicts are followed: the model's own, and a coin's, the control."""
        return (OWN, COIN) if seed < self.controls else (OWN,)

    def model(self, seed: int, arm: str, t: int) -> dict:
        """What the job of M_t found; both arms have the same M1."""
        return self.found(f"model-1-{seed}" if t == 1 else f"model-{t}-{arm}-{seed}")


# --- the jobs: (plan, seed, …) → what was found, as JSON -----------------------------------------


def start(plan: Plan, seed: int) -> dict:
    """The seed's SFT model: its figures and answers, and a file of pairs of its answers to held-out
    prompts that gold tells apart.
    """
    sft = jobs.sft_of(plan.profile, seed)
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(sft)
    asked = atlas.prompts("held-out", seed, plan.held_out)
    figures, answers = evals.card(model, tokenizer, asked, "policy")
    prompts = atlas.prompts("held-out", seed + 1, 3 * plan.judged)
    pairs = [pair for pair in own_pairs(model, tokenizer, prompts) if difference(pair)]
    file = data.save_jsonl(pairs[: plan.judged], plan.folder / f"fixed-{seed}.jsonl")
    return {"run": sft.name, "pairs": str(file), "figures": figures, "answers": answers}


def own_pairs(model, tokenizer, prompts: list[str]) -> list[data.Pair]:
    """Two answers of the active adapter to each prompt, in no order, where they differ."""
    a, b = (rollout.answer(model, tokenizer, prompts) for _ in range(2))
    each = zip(prompts, a, b, strict=True)
    return [data.Pair(*one) for one in each if judging.differ(*one[1:])]


def model(plan: Plan, seed: int, arm: str, t: int) -> dict:
    """M_t: made, measured (evals.card beside the SFT model, and win rates against the model
    before), tried as a judge on the "fixed" pairs and on its "own"; and a file of its own pairs as
    it judges them ("pairs"; the control's: as a coin does), with the "gap" that they hold.
    """
    run, sft = made(plan, seed, arm, t), plan.found(f"start-{seed}")
    runs.seed_everything(seed)
    policy, tokenizer = models.load_policy(run)
    policy = models.load_adapter(policy, runs.load(sft["run"]), "sft")
    models.use(policy, "policy")
    asked = atlas.prompts("held-out", seed, plan.held_out)
    figures, answers = evals.card(policy, tokenizer, asked, "policy", "sft", sft["answers"])
    if t > 1:
        before = plan.model(seed, arm, t - 1)["answers"]
        for way, ours in answers.items():
            figures[f"wins_before_{way}"] = evals.win_rate(asked, ours, before[way])
    many = plan.pairs * 7 // 4  # some are answered the same way twice
    prompts = atlas.feedback_prompts(seed)[(t - 1) * many : t * many]
    own = own_pairs(policy, tokenizer, prompts)[: plan.pairs]
    judge = judging.Judge(policy, tokenizer, "policy")  # the very adapter that answers
    fixed = data.load_pairs(sft["pairs"])
    verdicts = orders_of(judge, own)
    labels = decided(own, verdicts[0], rater=f"M{t}")
    file = data.save_jsonl(labels, plan.folder / f"pairs-{t}-{arm}-{seed}.jsonl")
    found = {"run": run.name, "pairs": str(file), "figures": figures, "answers": answers}
    found |= {"fixed": trial(fixed, *orders_of(judge, fixed)), "own": trial(own, *verdicts)}
    return found | {"gap": gap(labels)}


def made(plan: Plan, seed: int, arm: str, t: int) -> runs.Run:
    """The run of M_t: SFT on the mixture, or DPO from the model before on that one's own pairs, as
    it judged them or (the control) as a coin does.
    """
    name = f"11-{plan.key}-{arm}-{t}-{seed}"
    if t == 1:
        own = {"policy": plan.found(f"start-{seed}")["run"], "data": mixture(plan, seed)}
        own |= {"max_prompt_tokens": ROOM, "batch_size": BATCH}
        stage, settings = "sft", plan.profile.sft
    else:
        before = plan.model(seed, arm, t - 1)
        if arm == COIN:
            pairs = tossed(data.load_pairs(before["pairs"]), seed)
            file = data.save_jsonl(pairs, plan.folder / f"coin-{t}-{seed}.jsonl")
            before = before | {"pairs": str(file)}
        own = {"policy": before["run"], "data": before["pairs"], "batch_size": 2 * BATCH}
        stage, settings = "dpo", plan.profile.dpo
    cfg = config.change(settings, **own, examples=0, seed=seed)
    return jobs.made(stage, cfg, name, all_stages.module(stage).train)


def mixture(plan: Plan, seed: int) -> str:
    """A file of demonstrations: the atlas's answers, and seed judgements of the careful rater on
    the SFT model's own (those of a reward run of the same model, where there is one).
    """
    sft = plan.run(f"start-{seed}")
    cfg = config.change(plan.profile.reward, examples=plan.judgements, seed=seed, data="atlas")
    pairs, _ = preferences.load_preferences(cfg, *models.load_policy(sft), sft)
    demos = atlas.demos(seed + 1000, plan.demos) + judging.pair_demos(pairs)
    return str(data.save_jsonl(demos, plan.folder / f"mixture-{seed}.jsonl"))


def gap(labels: list) -> dict:
    """How far the chosen answers are from the rejected ones: in "gold", in "words", and how sure
    the judge was of them ("sure": the mean confidence); "chosen gold" and "pairs".
    """
    words = lambda text: symptoms(text)["words"]
    return {
        "gold": fmean(map(difference, labels)),
        "words": fmean(words(one.chosen) - words(one.rejected) for one in labels),
        "sure": fmean(one.confidence for one in labels),
        "chosen gold": fmean(atlas.judge(one.prompt, one.chosen).total for one in labels),
        "pairs": len(labels),
    }


# --- the record ----------------------------------------------------------------------------------


def measure(plan: Plan, workers: int = 0) -> dict:
    """Do all jobs (jobs.measure) and return the record."""
    return record(jobs.measure(plan, workers))


def record(plan: Plan) -> dict:
    """What the jobs found, for the notebook: {"profile", sizes, "seconds": {kind of job: total},
    "seeds": [{"seed", "sft": figures, arm: [{"figures", "fixed", "own", "gap"} of M1, M2 …]}],
    "versions"}, numbers to four digits.
    """
    keys, rows = ("figures", "fixed", "own", "gap"), []
    for seed in range(plan.seeds):
        row = {"seed": seed, "sft": plan.found(f"start-{seed}")["figures"]}
        for arm in plan.arms(seed):
            each = [plan.model(seed, arm, t) for t in range(1, plan.rounds + 2)]
            row[arm] = [{key: one[key] for key in keys} for one in each]
        rows.append(row)
    sizes = ("rounds", "demos", "judgements", "pairs", "held_out", "judged", "controls")
    made = {"profile": plan.profile.name} | {size: getattr(plan, size) for size in sizes}
    made |= {"seconds": plan.seconds(), "seeds": rows, "versions": runs.versions()}
    return jobs.rounded(made)
