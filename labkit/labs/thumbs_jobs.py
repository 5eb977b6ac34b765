"""Makes notebook 10's record of thumbs against pairs, in jobs of a minute for themselves.

answers   per seed: an SFT model, thumbs for its answers, pairs of its answers, what it is worth
policies  per seed: KTO or DPO for every setting, on few labels; both on many, with a whole card
"""

import random
from dataclasses import asdict, dataclass, replace

from labkit import atlas, config, data, evals, models, rollout, runs
from labkit import stages as all_stages
from labkit.data import Pair, Rating
from labkit.labs import jobs
from labkit.labs.thumbs import DPO_MANY, KTO_MANY, SETTINGS
from labkit.stages import pairs as preferences


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "thumbs"
    labels: int = 640
    """Labels of every run of SETTINGS: thumbs for KTO, pairs for DPO."""
    many: int = 2000
    """Labels of the two runs that get a card."""
    held_out: int = 200
    """Held-out prompts that every policy is measured on."""

    def decides(self) -> tuple:
        return SETTINGS, atlas.Rater()

    def lines(self) -> list[list[tuple]]:
        seeds = range(self.seeds)
        both = {"kto": KTO_MANY, "dpo": DPO_MANY}
        settings = list(enumerate(SETTINGS))
        return [
            [(f"answers-{seed}", answers, (seed,)) for seed in seeds],
            [(f"many-{stage}-{s}", many, (s, stage)) for s in seeds for stage in both]
            + [(f"few-{i}-{s}", few, (s, setting)) for s in seeds for i, setting in settings],
        ]

    def prompts(self, seed: int) -> list[str]:
        return atlas.prompts("held-out", seed, self.held_out)


# --- the jobs: (plan, seed, …) → what was found, as JSON -----------------------------------------


def answers(plan: Plan, seed: int) -> dict:
    """The seed's SFT model, its card ("sft") and its answers ("own"), and files of labels for
    answers of it, by the careful rater: "thumbs" and "pairs", plan.many of each. The pairs are
    those that the reward model of this SFT model learned from, where there is one.
    """
    sft = jobs.sft_of(plan.profile, seed)
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(sft)
    kto, dpo = (
        config.change(cfg, seed=seed, examples=plan.many)
        for cfg in (plan.profile.kto, plan.profile.dpo)
    )
    thumbs = rollout.thumbs(model, tokenizer, kto, plan.many)
    pairs, counted = preferences.load_preferences(dpo, model, tokenizer, sft)
    files = {
        name: str(data.save_jsonl(labels, plan.folder / f"{name}-{seed}.jsonl"))
        for name, labels in (("thumbs", thumbs), ("pairs", pairs))
    }
    figures, own = evals.card(model, tokenizer, plan.prompts(seed), "policy")
    up = sum(thumb.label for thumb in thumbs) / len(thumbs)
    return {"run": sft.name, **files, "up": up, "counted": counted, "sft": figures, "own": own}


def many(plan: Plan, seed: int, stage: str) -> dict:
    """KTO or DPO on many labels: its card (evals.card)."""
    began = plan.found(f"answers-{seed}")
    sft, file = runs.load(began["run"]), began["thumbs" if stage == "kto" else "pairs"]
    own = {"policy": sft.name, "examples": plan.many, "seed": seed}
    cfg = config.change(getattr(plan.profile, stage), **own)
    run = same_run(stage, cfg, sft) or made(plan, stage, cfg, f"many-{stage}-{seed}", file)
    model, tokenizer = models.load_policy(sft)
    model = models.load_adapter(model, run, "new")
    runs.seed_everything(seed)
    asked = plan.prompts(seed)
    figures, _ = evals.card(model, tokenizer, asked, "new", "policy", began["own"])
    return {"run": run.name, "labels": labels_of(run), **figures}


def few(plan: Plan, seed: int, setting: str) -> dict:
    """A run of SETTINGS: its greedy answers' figures, under the names of evals.card, and how many
    labels it had ("labels"; of thumbs also "up" and "down").
    """
    how, began = SETTINGS[setting], plan.found(f"answers-{seed}")
    labels = labels_for(how, began, plan.labels, random.Random(f"{setting}{seed}"))
    stage, number = how["stage"], list(SETTINGS).index(setting)
    name = f"few-{number}-{seed}"
    file = data.save_jsonl(labels, plan.folder / f"{name}.jsonl")
    own = {"policy": began["run"], "examples": 0, "seed": seed}
    if stage == "kto":  # an epoch has eight steps, as on many labels
        own |= {"batch_size": 2 * max(1, round(len(labels) / 16))}
        own |= {"desirable_weight": how.get("weight", 1.0)}
    run = made(plan, stage, config.change(getattr(plan.profile, stage), **own), name, str(file))
    model, tokenizer = models.load_policy(runs.load(began["run"]))
    model = models.load_adapter(model, run, "new")
    asked = plan.prompts(seed)
    runs.seed_everything(seed)
    with models.using(model, "new"):
        greedy = rollout.answer(model, tokenizer, asked, temperature=0)
    seen = evals.judged(asked, greedy)
    found = {"run": run.name, "labels": labels_of(run)}
    if stage == "kto":
        up = run.evaluation["up"]
        found |= {"up": up, "down": run.evaluation["thumbs"] - up}
    return found | {
        "right": seen["right"],
        "right_n": seen["right_n"],
        "gold_greedy": seen["gold"],
        "words_greedy": seen["words"],
        "wins_greedy": evals.win_rate(asked, greedy, began["own"]["greedy"]),
        "wins_n": len(asked),
        "kl": evals.kl(model, tokenizer, asked, "new", "policy"),
    }


def labels_for(how: dict, began: dict, n: int, dice: random.Random) -> list:
    """The labels that a setting learns from, of the n first ones: thumbs or pairs."""
    swap = chosen_by(dice, how.get("flipped", 0), n)
    if how["stage"] == "dpo":
        pairs = data.load_pairs(began["pairs"], n)
        return [turned(pair) if i in swap else pair for i, pair in enumerate(pairs)]
    if "pairs" in how:
        return broken_up(data.load_pairs(began["pairs"], n))
    thumbs = data.load_ratings(began["thumbs"], n)
    thumbs = [Rating(t.prompt, t.response, t.label ^ (i in swap)) for i, t in enumerate(thumbs)]
    return few_up(thumbs, how["downs"]) if "downs" in how else thumbs


def chosen_by(dice: random.Random, share: float, n: int) -> set[int]:
    """A share of the numbers below n, by chance."""
    return set(dice.sample(range(n), round(share * n)))


def turned(pair: Pair) -> Pair:
    """The pair with the opposite verdict."""
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen)


def broken_up(pairs: list[Pair]) -> list[Rating]:
    """Each pair as two thumbs."""
    sides = (((pair.chosen, True), (pair.rejected, False)) for pair in pairs)
    return [Rating(p.prompt, *one) for p, both in zip(pairs, sides, strict=True) for one in both]


def few_up(thumbs: list[Rating], downs: int) -> list[Rating]:
    """Thumbs with `downs` down for each one up: the first of each side, as many as there can be."""
    up, down = ([t for t in thumbs if t.label == side] for side in (True, False))
    n = min(len(up), len(down) // downs)
    return up[:n] + down[: n * downs]


def made(plan: Plan, stage: str, cfg, name: str, file: str) -> runs.Run:
    """The run of this name; where there is none yet, the stage makes it of the labels in `file`."""
    train = all_stages.module(stage).train
    return jobs.made(stage, config.change(cfg, data=file), f"10-{plan.key}-{name}", train)


def same_run(stage: str, cfg, sft: runs.Run) -> runs.Run | None:
    """A run of these settings on the answers of this SFT model, if there is one."""
    free = {"base": "", "policy": ""}
    for run in filter(None, (*runs.listing()[::-1], runs.shipped(stage))):
        if run.stage == stage and run.info.get("policy") == models.adapter_id(sft):
            if asdict(run.config) | free == asdict(cfg) | free:
                return run
    return None


def labels_of(run: runs.Run) -> int:
    """Labels that a run learned from, those held out among them."""
    found = run.evaluation
    return found.get("thumbs", 0) + found.get("pairs", 0) + found["held_out"]


# --- the record ----------------------------------------------------------------------------------


def measure(plan: Plan, workers: int = 0) -> dict:
    """Do all jobs (jobs.measure) and return the record."""
    return record(jobs.measure(plan, workers))


def record(plan: Plan) -> dict:
    """What the jobs found, for the notebook: {"profile", "labels", "many", "settings", "seconds":
    {kind of job: total}, "seeds": [{"seed", "up": share of the thumbs, "counted": of the pairs,
    "sft": card, "many": {KTO_MANY: card, DPO_MANY: card}, "runs": {setting: figures}}],
    "versions"}, numbers to four digits.
    """
    found = []
    for seed in range(plan.seeds):
        began = plan.found(f"answers-{seed}")
        row = {"seed": seed, **{key: began[key] for key in ("up", "counted", "sft")}}
        both = {KTO_MANY: "kto", DPO_MANY: "dpo"}
        row["many"] = {name: plan.found(f"many-{stage}-{seed}") for name, stage in both.items()}
        row["runs"] = {name: plan.found(f"few-{i}-{seed}") for i, name in enumerate(SETTINGS)}
        for one in (*row["many"].values(), *row["runs"].values()):
            one.pop("run")
        found.append(row)
    made = {"profile": plan.profile.name, "labels": plan.labels, "many": plan.many}
    made |= {"settings": SETTINGS, "seconds": plan.seconds(), "seeds": found}
    return jobs.rounded(made | {"versions": runs.versions()})
