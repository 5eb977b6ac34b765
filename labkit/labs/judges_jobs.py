"""Makes notebook 11's record of judges, in jobs of a minute that stand for themselves.

seeds     per seed: pairs of a policy's answers in the careful rater's order, and the policy's card
judges    per seed: judges of several sizes and numbers of seed judgements, and one that scores
rewards   per seed: reward models of the same pairs as the rater, the judge or scores label them
policies  per seed: PPO on the rater's reward model, on the judge's, and on the judge's scores
"""

from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

from labkit import atlas, config, data, evals, models, runs
from labkit import stages as all_stages
from labkit.labs import jobs, judges
from labkit.rollout import judging
from labkit.stages.pairs import load_preferences

BEST = "2000 judgements"
JUDGES = {
    "250 judgements": {"examples": 250},
    "1000 judgements": {"examples": 1000},
    BEST: {"examples": 2000},
    "1 layer": {"examples": 1000, "layers": 1},
    "2 layers": {"examples": 1000, "layers": 2},
}
"""What each judge saw and how much of the base it reads: all layers, where nothing is said."""
SETTINGS = {"labels": 0}
LABELLERS = ("rater", "judge", "scores")
POLICIES = {"RLHF": "rater", "RLAIF": "judge", "direct RLAIF": ""}
"""Whose labels each policy's reward model learned from; "": the judge's scores are the reward."""


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "judges"
    pairs: int = 4000
    """The careful rater's, for training: half are seed judgements, half are labelled again."""
    held_out: int = 250
    """Pairs on other prompts, which every judge and reward model is asked about."""
    scored: int = 3000
    """Answers whose scores the scoring judge learns from."""
    updates: int = 16
    """Of every PPO run."""
    prompts: int = 100
    """Held-out prompts that every policy is measured on."""

    def decides(self) -> tuple:
        return JUDGES, SETTINGS, LABELLERS, POLICIES, atlas.Rater(), judging.QUESTION

    def lines(self) -> list[list[tuple]]:
        seeds = range(self.seeds)
        return [
            [(f"seeds-{s}", begin, (s,)) for s in seeds],
            [(f"judge-{s}-{i}", judge, (s, name)) for s in seeds for i, name in enumerate(JUDGES)]
            + [(f"scorer-{s}", scorer, (s,)) for s in seeds],
            [(f"reward-{s}-{who}", reward, (s, who)) for s in seeds for who in LABELLERS],
            [
                (f"policy-{s}-{i}", policy, (s, name))
                for s in seeds
                for i, name in enumerate(POLICIES)
            ],
        ]


# --- the jobs: (plan, seed, …) → what was found, as JSON -----------------------------------------


def begin(plan: Plan, seed: int) -> dict:
    """The seed's SFT model with its card and answers, its pairs ("pairs", "held", files), and what
    is true of the held-out ones ("told").
    """
    sft = jobs.sft_of(plan.profile, seed)
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(sft)
    wanted = plan.pairs + 8 * plan.held_out
    cfg = config.change(plan.profile.reward, seed=seed, examples=wanted)
    pairs, _ = load_preferences(cfg, model, tokenizer, sft)
    training, held = data.split(pairs, 1 / 5)
    held = held[: plan.held_out]
    files = {
        name: str(data.save_jsonl(part, plan.folder / f"{name}-{seed}.jsonl"))
        for name, part in (("pairs", training[: plan.pairs]), ("held", held))
    }
    prompts = atlas.prompts("held-out", seed, plan.prompts)
    figures, own = evals.card(model, tokenizer, prompts, "policy")
    return {"run": sft.name, **files, "card": figures, "own": own, "told": told(held, seed)}


def told(pairs, seed: int) -> list[dict]:
    """Of each pair: how much better the chosen answer is by the gold judge ("gold"), and what the
    others of the panel say (1 the same, −1 the other way, 0 no difference).
    """
    panel = atlas.panel(seed + 100)
    signs = {"a": 1, "b": -1, "same": 0}
    return [
        {"gold": worth(pair.prompt, pair.chosen) - worth(pair.prompt, pair.rejected)}
        | {
            name: signs[rater.compare(pair.prompt, pair.chosen, pair.rejected)]
            for name, rater in panel.items()
        }
        for pair in pairs
    ]


def worth(prompt: str, answer: str) -> float:
    return atlas.judge(prompt, answer).total


def seeds_of(plan: Plan, seed: int) -> tuple[list, list, list]:
    """(seed judgements, pairs to label, held-out pairs)."""
    found = plan.found(f"seeds-{seed}")
    pairs = data.load_pairs(found["pairs"])
    return pairs[: plan.pairs // 2], pairs[plan.pairs // 2 :], data.load_pairs(found["held"])


def columns(pairs) -> tuple[list, list, list]:
    """(prompts, chosen answers, rejected answers)."""
    return tuple([getattr(p, key) for p in pairs] for key in ("prompt", "chosen", "rejected"))


def judge(plan: Plan, seed: int, name: str) -> dict:
    """A judge: its verdicts on the held-out pairs, P(chosen is better) with it first and with it
    second ("orders").
    """
    settings = dict(JUDGES[name])
    judgements, _, held = seeds_of(plan, seed)
    layers, examples = settings.pop("layers", 0), settings["examples"]
    half = len(judgements) / max(one["examples"] for one in JUDGES.values())
    part = judgements[: round(examples * half)]  # a smaller plan has smaller judges
    file = str(data.save_jsonl(part, plan.folder / f"judge-{seed}-{examples}.jsonl"))
    base = models.base_of(plan.run(f"seeds-{seed}"))
    base = shallow(plan, base, layers).name if layers else base
    own = SETTINGS | {"base": base, "data": file, "examples": 0, "seed": seed}
    cfg = config.change(plan.profile.ai_feedback, **own)
    number = list(JUDGES).index(name)
    train = all_stages.module("ai_feedback").train
    run = jobs.made("ai_feedback", cfg, f"{plan.key}-judge-{number}-{seed}", train)
    found = judges.trained(run)
    orders, neither = found.orders(*columns(held))
    count = models.describe(found.model)
    return {
        "run": run.name,
        "judgements": len(part),
        "parameters": count["parameters"],
        "orders": [[round(p, 3) for p in both] for both in orders.tolist()],
        "neither": neither,
        "trained": run.info["seconds"],
    }


def shallow(plan: Plan, base: str, layers: int) -> runs.Run:
    """The first `layers` blocks of a base as a base of its own: a smaller model of the same make.
    It read nothing since it was cut, and is never taken for the newest base.
    """

    def cut(cfg, run):
        model, tokenizer = models.load_base(base, quantize=False)
        model.model.layers = model.model.layers[:layers]
        model.config.num_hidden_layers = layers
        models.save_base(model, tokenizer, run.path)
        run.finish(tokens=0)

    cfg = config.change(plan.profile.pretrain, layers=layers)
    return jobs.made("pretrain", cfg, f"{plan.key}-base-{layers}", cut)


def scorer(plan: Plan, seed: int) -> dict:
    """A judge that learned scores: its expected scores of the held-out pairs' answers ("scores",
    chosen and rejected), beside the rater's own ("rater").
    """
    judgements, more, held = seeds_of(plan, seed)
    prompts, answers = single(judgements + more)
    prompts, answers = prompts[: plan.scored], answers[: plan.scored]
    demos = judging.score_demos(prompts, answers, judges.scores_of(prompts, answers, seed))
    file = str(data.save_jsonl(demos, plan.folder / f"scores-{seed}.jsonl"))
    base, p = models.base_of(plan.run(f"seeds-{seed}")), plan.profile.ai_feedback
    own = {"base": base, "data": file, "examples": 0, "seed": seed, "batch_size": p.batch_size}
    own |= {"max_prompt_tokens": p.max_prompt_tokens + p.max_response_tokens + judging.FRAME}
    own |= {"max_response_tokens": 8, "learning_rate": p.learning_rate}
    cfg = config.change(plan.profile.sft, **own)
    train = all_stages.module("sft").train
    run = jobs.made("sft", cfg, f"{plan.key}-scorer-{seed}", train)
    judge, (prompts, *sides) = score_judge(run), columns(held)
    said = [[round(x, 2) for x in judge.scores(prompts, side).tolist()] for side in sides]
    rater = [judges.scores_of(prompts, side, seed + 50) for side in sides]
    gold = [[worth(*one) for one in zip(prompts, side)] for side in sides]
    return {"run": run.name, "scores": said, "rater": rater, "gold": gold}


def single(pairs) -> tuple[list[str], list[str]]:
    """(prompts, answers) of pairs, each pair's two answers side by side."""
    both = [(p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)]
    return [prompt for prompt, _ in both], [text for _, text in both]


def score_judge(run) -> judging.Judge:
    """The judge of a run that learned to score."""
    model, tokenizer = models.load_policy(run)
    return judging.Judge(model, tokenizer, "policy")


def reward(plan: Plan, seed: int, who: str) -> dict:
    """A reward model of the pairs as the rater compared them, as the best judge labels them, or as
    the rater's scores order them (half as many pairs: a pair takes two scores, so that the labels
    are as many); and its agreement on the held-out pairs.
    """
    _, pairs, held = seeds_of(plan, seed)
    right = None
    if who == "judge":
        found = judges.trained(plan.run(f"judge-{seed}-{list(JUDGES).index(BEST)}"))
        chosen = {(p.prompt, p.chosen) for p in pairs}
        pairs = found.labels(*columns(pairs))
        right = fmean((p.prompt, p.chosen) in chosen for p in pairs)
    elif who == "scores":
        pairs = judges.by_scores(pairs[: len(pairs) // 2], seed)
    file = str(data.save_jsonl(pairs, plan.folder / f"labels-{who}-{seed}.jsonl"))
    own = {"policy": plan.run(f"seeds-{seed}").name, "data": file, "examples": 0, "seed": seed}
    own |= {"validation_fraction": 0.02, "epochs": 2.0, "batch_size": 32}
    cfg = config.change(plan.profile.reward, **own)
    train = all_stages.module("reward").train
    run = jobs.made("reward", cfg, f"{plan.key}-reward-{who}-{seed}", train)
    model, tokenizer = models.load_base(models.base_of(run))
    model, head = models.load_adapter(model, run, "reward"), models.load_head(run)
    agreed = evals.agreement(model, head, tokenizer, held)
    return {"run": run.name, "pairs": len(pairs), "labels_right": right, **agreed}


def policy(plan: Plan, seed: int, name: str) -> dict:
    """A PPO run and its card on held-out prompts."""
    begun = plan.found(f"seeds-{seed}")
    sft, who = plan.run(f"seeds-{seed}"), POLICIES[name]
    own = {"policy": sft.name, "seed": seed, "updates": plan.updates, "checkpoint_every": 0}
    more = {"probe": evals.probe}
    if who:
        own["reward"] = plan.run(f"reward-{seed}-{who}").name
    else:
        more["judge"] = direct(score_judge(plan.run(f"scorer-{seed}")), begun["own"], plan, seed)
    cfg = config.change(plan.profile.ppo, **own)
    train = partial(all_stages.module("ppo").train, **more)
    number = list(POLICIES).index(name)
    run = jobs.made("ppo", cfg, f"{plan.key}-ppo-{number}-{seed}", train)
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(sft)
    model = models.load_adapter(model, run, "new")
    prompts = atlas.prompts("held-out", seed, plan.prompts)
    figures, _ = evals.card(model, tokenizer, prompts, "new", "policy", begun["own"])
    curve = {key: [line.get(key) for line in run.metrics()] for key in ("score", "gold", "kl")}
    return {"run": run.name, "card": figures, "curve": curve}


def direct(judge, own: dict, plan: Plan, seed: int):
    """The judge's score as PPO's reward, in standard deviations of the SFT policy's answers."""
    said = judge.scores(atlas.prompts("held-out", seed, plan.prompts), own["sampled"]).tolist()
    mean, spread = fmean(said), stdev(said)

    def judged(prompts, responses):
        return [(score - mean) / spread for score in judge.scores(prompts, responses).tolist()]

    return judged


# --- the record ----------------------------------------------------------------------------------


def measure(plan: Plan, workers: int = 0) -> dict:
    """Notebook 11's record; see jobs.measure for how it goes on after a stop."""
    jobs.measure(plan, workers)
    return record(plan)


def record(plan: Plan) -> dict:
    """What the jobs found, without the names of runs and files."""
    kept = lambda job, *keys: {key: plan.found(job)[key] for key in keys}
    rows = []
    for s in range(plan.seeds):
        row = {"seed": s, **kept(f"seeds-{s}", "card", "told")}
        keys = ("judgements", "parameters", "orders", "neither", "trained")
        row["judges"] = {name: kept(f"judge-{s}-{i}", *keys) for i, name in enumerate(JUDGES)}
        row["scores"] = kept(f"scorer-{s}", "scores", "rater", "gold")
        keys = ("pairs", "labels_right", "rater", "rater_n", "gold", "gold_n", "longer")
        row["rewards"] = {who: kept(f"reward-{s}-{who}", *keys) for who in LABELLERS}
        row["policies"] = {
            name: kept(f"policy-{s}-{i}", "card", "curve") for i, name in enumerate(POLICIES)
        }
        rows.append(row)
    return jobs.rounded({"seeds": rows, "seconds": plan.seconds()})
