"""The whole series without notebooks: every stage, several seeds, one report of what is claimed of
them.

Pre-training is done once; every seed then makes its own SFT model, preference pairs, reward model,
PPO, DPO and KTO policy, a judge, and a PPO policy from the judge's labels (RLAIF), and is measured
on phrasings of the questions that no training set holds.
"""

import json
import math
import re
import shutil
import statistics
from dataclasses import asdict

from safetensors.torch import load_file, save_file

from labkit import atlas, charts, config, evals, models, rollout, runs, stages
from labkit.atlas.symptoms import rates
from labkit.labs import report_page

# The shipped base: 24.8 M tokens. Rates are lower than a short run's: the skill of looking back at
# the question forms late, and formed sooner at these in what we tried.
FULL = {
    "steps": 6000,
    "batch_size": 32,
    "muon_learning_rate": 0.014,
    "learning_rate": 0.0035,
    "warmup": 100,
}
# After it, a third as many steps in which every pass reads NF4-rounded matrices: the later stages
# stand on the rounded base, which without them knows less than the plain one.
ROUNDED = FULL | {"steps": 2000, "muon_learning_rate": 0.008, "learning_rate": 0.002, "warmup": 30}
ROUNDED |= {"rounded": 1}
# The shipped SFT model: nine times the demonstrations of a notebook's, in larger batches; sampled,
# it then errs less often. The shipped reward model: four times the labels.
FULL_SFT = {"examples": 36_000, "batch_size": 64, "learning_rate": 2e-3, "lora_alpha": 16}
FULL_REWARD = {"examples": 12_000, "batch_size": 64, "epochs": 3.0}
CHAINS = {
    "sft": ("sft",),
    "best_of_4": ("sft", "reward"),
    "ppo": ("sft", "reward", "ppo"),
    "dpo": ("sft", "dpo"),
    "kto": ("sft", "kto"),
    "rlaif": ("sft", "ai_feedback", "ai_reward", "rlaif"),
}
"""The parts (`trained`) that each method needs after pre-training."""
LABELS = {
    "sft": {"demonstrations": ("demonstrations",)},
    "reward": {"comparisons": ("pairs", "held_out")},
    "dpo": {"comparisons": ("pairs", "held_out")},
    "kto": {"thumbs": ("thumbs", "held_out")},
    "ai_feedback": {"comparisons": ("judgements",)},
    "ai_reward": {"ai_labels": ("pairs", "held_out")},
}
"""What a part's evaluation counts: {part: {kind of label: its keys}}."""
METHODS = ("ppo", "dpo", "kto", "rlaif")  # what starts from the SFT policy and is compared with it
TRIES = 4  # of best-of-n
PROMPTS = 300  # held-out prompts that the policies are measured on
PAIRS = 2000  # fresh pairs on held-out prompts for the reward model


def full(profile: config.Profile, demos: int = 0, pairs: int = 0) -> config.Profile:
    """`profile` with the settings of the shipped SFT and reward models, where it makes its own
    base. demos, pairs: other numbers of examples than theirs.
    """
    if not profile.sft.base:
        sft = FULL_SFT | ({"examples": demos} if demos else {})
        reward = FULL_REWARD | ({"examples": pairs} if pairs else {})
        profile.sft = config.change(profile.sft, **sft)
        profile.reward = config.change(profile.reward, **reward)
    return profile


def stage(name: str, cfg, **more) -> runs.Run:
    """Train one stage with a progress line; returns the whole run."""
    return stages.train(name, cfg, listen=charts.live, **more)


def pretrained(cfg: config.Pretrain, steps: int = FULL["steps"]) -> runs.Run:
    """The base from raw text: `steps` steps in full precision, then a third as many, rounded."""
    first = stage("pretrain", config.change(cfg, **FULL | {"steps": steps}))
    more = {"steps": max(1, steps // 3), "start_from": first.name}
    return stage("pretrain", config.change(cfg, **ROUNDED | more))


def asks_back(text: str) -> bool:
    """Whether a continuation begins with a question: 誰來告訴我呀？ or the next one of a list."""
    first = re.match(r"\s*([^.?!。？！]*[.?!。？！])", text)
    return bool(first) and (first[1][-1] in "?？" or atlas.find(first[1]) is not None)


def base_habits(base: runs.Run, seed: int = 0) -> dict:
    """What the bare base does with a question: share of continuations that begin with a question
    themselves, and of right answers.
    """
    model, tokenizer = models.load_policy(base)
    prompts = atlas.prompts("held-out", seed, PROMPTS)
    texts = rollout.answer(
        model, tokenizer, prompts, framed=False
    )  # sampled: greedily it often just stops
    found = evals.judged(prompts, texts)
    return {
        "base_asks_back": statistics.fmean(map(asks_back, texts)),
        "base_asks_back_n": len(texts),
        "base_right": found["right"],
        "base_right_n": found["right_n"],
    }


def measure(parts: dict[str, runs.Run], seed: int = 0) -> dict:
    """The figures of one seed's runs (`trained`). See evals.card for those of a policy, best_of for
    those of best-of-n.
    """
    runs.seed_everything(seed)
    prompts = atlas.prompts("held-out", seed, PROMPTS)
    model, tokenizer = models.load_policy(parts["sft"])
    for name in ("reward", *METHODS):
        model = models.load_adapter(model, parts[name], name)
    head = models.load_head(parts["reward"])
    figures, own = evals.card(model, tokenizer, prompts, "policy")
    cards, answers = {"sft": figures | {"n": len(prompts)}}, {"sft": own}
    for name in METHODS:
        cards[name], answers[name] = evals.card(model, tokenizer, prompts, name, "policy", own)
    models.use(model, "policy")
    cards |= best_of(model, head, tokenizer, prompts, own)
    found = {f"{name}_{key}": value for name, one in cards.items() for key, value in one.items()}
    proxy = {
        name: evals.scores(model, head, tokenizer, prompts, answers[name]["sampled"])
        for name in ("sft", "ppo")
    }
    unseen = [prompt for prompt in prompts if not atlas.find(prompt).shown_in_sft]
    unseen_right = evals.evaluate(model, tokenizer, unseen)
    found |= {"sft_right_unseen": unseen_right["right"], "sft_right_unseen_n": len(unseen)}
    pairs = rollout.preference_pairs(
        model, tokenizer, config.change(config.Reward(), seed=seed + 1000), PAIRS, split="held-out"
    )
    found |= {
        f"reward_{key}": value
        for key, value in evals.agreement(model, head, tokenizer, pairs).items()
    }
    held_out = parts["reward"].evaluation
    if "accuracy" in held_out:  # pairs of its own, on phrasings as it was trained on
        found["reward_held_out"] = held_out["accuracy"]
        found["reward_held_out_n"] = held_out["held_out"]
    rise = statistics.fmean(proxy["ppo"]) - statistics.fmean(proxy["sft"])
    return found | {
        "ppo_rise_in_sd": rise / statistics.stdev(proxy["sft"]),
        "ppo_first_ratio_error": parts["ppo"].evaluation["first_ratio_error"],
    }


def best_of(model, head, tokenizer, prompts: list[str], own: dict) -> dict:
    """{"best_of_4": figures, "random_of_4": figures} of the answer that the reward model likes best
    of TRIES by the active adapter, and of a choice among the same ones that looks at nothing: the
    first. Both are compared with `own`, the adapter's answers (evals.card). KL is the bound
    log n − (n − 1)/n (arXiv 2112.09332), and 0.
    """
    tries = [rollout.answer(model, tokenizer, prompts) for _ in range(TRIES)]
    scored = [evals.scores(model, head, tokenizer, prompts, texts) for texts in tries]
    liked = [[marks[i] for marks in scored] for i in range(len(prompts))]  # of each prompt's tries
    best = [tries[marks.index(max(marks))][i] for i, marks in enumerate(liked)]
    found = {}
    for name, texts, nats in (
        ("best_of_4", best, math.log(TRIES) - (TRIES - 1) / TRIES),
        ("random_of_4", tries[0], 0.0),
    ):
        drawn = evals.judged(prompts, texts)
        found[name] = {
            "right_sampled": drawn["right"],
            "right_sampled_n": drawn["right_n"],
            **{key: drawn[key] for key in ("gold", *rates([""]))},
            "wins": evals.win_rate(prompts, texts, own["sampled"]),
            "wins_n": len(prompts),
            "wins_greedy": evals.win_rate(prompts, texts, own["greedy"]),
            "kl": nats,
        }
    found["best_of_4"]["wins_random"] = evals.win_rate(prompts, best, tries[0])
    return found


def run(
    profile: config.Profile,
    seeds: int = 1,
    base: str = "",
    steps: int = FULL["steps"],
    demos: int = 0,
    pairs: int = 0,
) -> dict:
    """All stages from raw text, for `seeds` seeds; the report is returned and written to
    runs/report.json, and as a page to runs/report.html.

    base: a pretrain run or Hub id to start from; "" pre-trains one, for `steps` steps and a third
    more (a profile with a base of its own takes that, and its own stages' settings). demos, pairs:
    how many demonstrations and labels each SFT and reward model sees. Report: {"profile", "base",
    "versions", "settings", "seeds": [figures per seed], "mean": {...}, "spread": {... (highest −
    lowest)}}.
    """
    base = base or profile.sft.base or pretrained(profile.pretrain, steps).name
    profile = full(profile, demos, pairs) if makes_own(base) else profile
    rows = [one_seed(profile, base, seed) for seed in range(seeds)]
    report = whole(profile, base, rows)
    report_page.write(report, runs.root())
    return report


def whole(profile: config.Profile, base: str, rows: list[dict]) -> dict:
    """The report of these rows (`run`)."""
    settings = {name: asdict(getattr(profile, name)) for name in config.STAGES}
    about = {"versions": runs.versions(), "settings": settings}
    return {"profile": profile.name, "base": base, **about, "seeds": rows, **summary(rows)}


def makes_own(base: str) -> bool:
    """Whether `base` comes from a pretrain run of ours and not from the Hub."""
    return "/" not in base or base.startswith("shipped/")


def trained(profile: config.Profile, base: str, seed: int) -> dict[str, runs.Run]:
    """Every stage after pre-training with one seed: {part: its run}. A part is called as its stage;
    what learns from the judge's labels is "ai_reward" and "rlaif".
    """
    sft = stage("sft", config.change(profile.sft, base=base, seed=seed))

    def then(name, aside=False, **settings):
        cfg = getattr(profile, name)
        cfg = config.change(cfg, base=base, policy=sft.name, seed=seed, **settings)
        return stage(name, cfg, aside=aside, **({"probe": evals.probe} if name == "ppo" else {}))

    parts = {"sft": sft, "reward": then("reward")}
    parts["ppo"] = then("ppo", reward=parts["reward"].name)
    parts |= {"dpo": then("dpo"), "kto": then("kto"), "ai_feedback": then("ai_feedback")}
    labels = str(parts["ai_feedback"].path / "pairs.jsonl")
    # Aside: a notebook goes on from what learned from the rater.
    parts["ai_reward"] = then("reward", aside=True, data=labels)
    parts["rlaif"] = then("ppo", aside=True, reward=parts["ai_reward"].name)
    return parts


def one_seed(profile: config.Profile, base: str, seed: int) -> dict:
    """Every stage after pre-training with one seed, and its figures: a row of the report."""
    return row(base, seed, trained(profile, base, seed))


def row(base: str, seed: int, parts: dict[str, runs.Run]) -> dict:
    """The report's row of one seed's runs (`trained`): their names, seconds, costs and figures."""
    return {
        "seed": seed,
        "runs": {part: run.name for part, run in parts.items()},
        "seconds": {part: run.info["seconds"] for part, run in parts.items()},
        "costs": {
            name: cost({part: parts[part] for part in chain}) for name, chain in CHAINS.items()
        },
        **(base_habits(runs.load(base), seed) if makes_own(base) else {}),
        **measure(parts, seed),
    }


def cost(chain: dict[str, runs.Run]) -> dict:
    """What a method's parts took: labels by kind, "seconds" in all, and "peak_bytes" of the stage
    that held the most (None where one did not say).
    """
    found = dict.fromkeys(("demonstrations", "comparisons", "thumbs", "ai_labels"), 0)
    for part, run in chain.items():
        for kind, keys in LABELS.get(part, {}).items():
            found[kind] += sum(run.evaluation[key] for key in keys)
    peaks = [run.info.get("peak_bytes") for run in chain.values()]
    found["seconds"] = round(sum(run.info["seconds"] for run in chain.values()), 1)
    return found | {"peak_bytes": None if None in peaks else max(peaks)}


def summary(rows: list[dict]) -> dict:
    """{"mean": {figure: over the rows}, "spread": {figure: highest − lowest}}."""
    figures = [key for key, value in rows[0].items() if isinstance(value, float)]
    mean = {key: statistics.fmean(row[key] for row in rows) for key in figures}
    spread = {key: max(row[key] for row in rows) - min(row[key] for row in rows) for key in figures}
    return {"mean": mean, "spread": spread}


def shippable(rows: list[dict]) -> dict:
    """The seed (a row of the report) to ship: whose policies (those that a checkpoint is made of)
    answer most of the lecture's questions, and of those alike the one that is right most often.
    """
    policies = [part for part in ("sft", *METHODS) if part in runs.STAGES]

    def merits(row):
        return min(row[f"{p}_lecture"] for p in policies), sum(row[f"{p}_right"] for p in policies)

    return max(rows, key=merits)


def ship(report: dict) -> None:
    """For maintainers: make the base and the runs of one seed (`shippable`) the checkpoints that
    come with the project, one a stage, their weights in half precision, and the report beside them.
    """
    target = runs.data_folder() / "checkpoints"
    parts = {"pretrain": report["base"], **shippable(report["seeds"])["runs"]}
    sources = [runs.load(name) for part, name in parts.items() if part in runs.STAGES]
    sources = [run for run in sources if run.path != target / run.stage]
    checkpoints(sources, target)
    shipped = {**report, "base": "shipped/pretrain"}
    (target / "report.json").write_text(json.dumps(shipped, indent=1) + "\n", "utf8")


def checkpoints(sources: list[runs.Run], target) -> None:
    """Copies of whole runs in `target`, one a stage and called by it, their weights in half
    precision. The runs name each other by their new names.
    """
    renamed = {}  # the runs name each other, and by fingerprint each other's weights
    for source in sources:
        folder = target / source.stage
        shutil.rmtree(folder, ignore_errors=True)
        unshipped = shutil.ignore_patterns("README.md", "running", "training_args.bin")
        shutil.copytree(source.path, folder, ignore=unshipped)
        for file in folder.rglob("*.safetensors"):
            save_file({k: v.half() for k, v in load_file(file).items()}, file, {"format": "pt"})
        renamed[f'"{source.name}"'] = f'"shipped/{source.stage}"'
        part = "" if source.stage == "pretrain" else models.ADAPTER
        before, now = (models.fingerprint(str(at / part)) for at in (source.path, folder))
        renamed[before] = now
    for source in sources:
        folder = target / source.stage
        info = {**source.info, "name": f"shipped/{source.stage}"}
        for key in ("aside", "files"):  # the weights are others now
            info.pop(key, None)
        text = json.dumps(info, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        (folder / "run.json").write_text(_renamed(text, renamed), "utf8")
        config_file = folder / models.ADAPTER / "adapter_config.json"
        if config_file.exists():
            config_file.write_text(_renamed(config_file.read_text("utf8"), renamed), "utf8")


def _renamed(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text
