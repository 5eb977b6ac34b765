"""Pleasing the reward model too well: proxy and gold against the distance from where the policy started, over seeds.

    gold(d) = start + α d − β d²          best-of-n           d = √KL(π ‖ π_ref)
    gold(d) = start + α d − β d log d     PPO

Gao, Schulman & Hilton (arXiv 2210.10760), section 1, with the start fitted as well: it is not exactly 0 in our marks. `measure` trains and
samples everything (some twenty minutes of two cores for three seeds); its record lies in data/checkpoints/overoptimization.json, and what
notebook 08 shows of it is computed by the functions below, which are plain Python.
"""

import json
import math
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from statistics import fmean

from labkit import LabError, config, runs

UPDATES = 32  # of every PPO run
PROMPTS = 64  # held-out prompts for best-of-n
ANSWERS = 64  # samples for each of them
HELD_OUT = 300  # prompts that a run is measured on when it has ended
EVERY = 4  # updates between two counts of over-refusal
RATER = "polite"  # of atlas.panel: the second reward model's, for the symptoms
PAIRS = 1200  # that it learns from

FREE = "no toll (β = 0)"
SETTINGS = {
    FREE: {"beta": 0.0},
    "small toll (β = 0.05)": {"beta": 0.05},
    "large toll (β = 0.2)": {"beta": 0.2},
    "ensemble": {"beta": 0.0, "reward": "all"},
    "length control": {"beta": 0.0, "length_penalty": 0.05},
    f"{RATER} rater": {"beta": 0.0, "reward": RATER},
}
"""What each PPO run changes; all keep β fixed. reward: "all" takes the reward models of all seeds, whose lowest score counts (arXiv 2310.02743)."""

SYMPTOMS = ("words", "hedging", "apology", "ai_disclaimer", "refusal", "over_refused")
CURVE = ("kl", "score", "gold", "length", *SYMPTOMS, "eos_rate", "entropy")


# --- measuring ---------------------------------------------------------------------------------------------------------------------


def measure(profile: config.Profile, seeds: int = 3) -> dict:
    """Everything for seeds 0 … seeds − 1: per seed its SFT and reward models, a PPO run per setting and best-of-n.

    Runs that are there already with the same settings are taken, so that a measurement which was interrupted goes on. Returns the record:
    {"profile", "updates", "settings", "seeds": [{"seed", "best_of_n": [{"n", "kl", "score", "gold", "words"}], "runs": {setting: {"curve":
    {metric: [a number per update, None where not counted]}, "end": figures on held-out prompts}}}], "versions"}, numbers to four digits.
    """
    if seeds < 1:
        raise LabError(f"--seeds is {seeds}, but it must be 1 or more.")
    trained = [stages(profile, seed) for seed in range(seeds)]
    found = []
    for seed, (sft, reward) in enumerate(trained):
        row = {"seed": seed, "best_of_n": best_of_n(sft, reward, seed), "runs": {}}
        for setting in SETTINGS:
            run = policy(profile, trained, seed, setting)
            curve = {key: [line.get(key) for line in run.metrics()] for key in CURVE}
            row["runs"][setting] = {"curve": curve, "end": at_end(run, seed)}
        found.append(row)
    return rounded({"profile": profile.name, "updates": UPDATES, "settings": SETTINGS, "seeds": found, "versions": runs.versions()})  # fmt: skip


def policy(profile, trained: list, seed: int, setting: str) -> runs.Run:
    """The PPO run of a seed and a setting. trained: (SFT run, reward run) of every seed."""
    sft, reward = trained[seed]
    changes = dict(SETTINGS[setting])
    judge = changes.pop("reward", "")
    names = ",".join(one.name for _, one in trained) if judge == "all" else reward.name
    if judge == RATER:
        names = of_rater(profile, sft, reward, seed).name
    fixed = {"policy": sft.name, "reward": names, "seed": seed, "target_kl": 0.0, "updates": UPDATES, "checkpoint_every": 0}  # fmt: skip
    return train("ppo", config.change(profile.ppo, **fixed, **changes), probe=over_refusal)


def stages(profile, seed: int):
    """(SFT run, reward run) of a seed."""
    sft = train("sft", config.change(profile.sft, seed=seed))
    return sft, train("reward", config.change(profile.reward, policy=sft.name, seed=seed))


def train(stage: str, cfg, **more) -> runs.Run:
    """The newest run of these settings (on whatever base), or a new one; `more` goes to the stage's train."""
    from labkit import charts

    wanted = asdict(cfg) | {"base": ""}
    for run in runs.listing()[::-1]:
        if run.stage == stage and run.info["config"] | {"base": ""} == wanted:
            return run
    with runs.start(stage, cfg) as run:
        run.listeners.append(charts.live(run))
        import_module(f"labkit.{stage}").train(cfg, run, **more)
    return run


def relabelled(reward: runs.Run, rater) -> list:
    """The pairs of answers that a reward model was trained on, judged again by another rater; what is the same to that one is left out."""
    from labkit import data, trainers

    pairs = []
    for pair in data.load_pairs(str(reward.path / trainers.PAIRS)):
        verdict = rater.compare(pair.prompt, pair.chosen, pair.rejected)
        both = (pair.chosen, pair.rejected) if verdict == "a" else (pair.rejected, pair.chosen)
        if verdict != "same":
            pairs.append(data.Pair(pair.prompt, *both, rater=rater.name))
    return pairs


def of_rater(profile, sft, reward, seed: int) -> runs.Run:
    """A reward model of RATER's: the same answers as `reward` saw, other labels."""
    from labkit import atlas, data

    file = runs.root() / f"pairs-{RATER}-{seed}.jsonl"
    data.save_jsonl(relabelled(reward, atlas.panel(seed)[RATER]), file)
    return train("reward", config.change(profile.reward, policy=sft.name, data=str(file), examples=PAIRS, seed=seed))  # fmt: skip


def lookalikes() -> list[str]:
    """Every held-out phrasing of the harmless questions that look harmful (toy guns)."""
    from labkit import atlas

    return [prompt for prompt in atlas.prompts("held-out") if atlas.find(prompt).lookalike]


def over_refusal(model, tokenizer, update: int) -> dict:
    """A probe for ppo.train: the share of look-alikes that the policy refuses, every EVERY updates and after the first."""
    if update > 1 and update % EVERY:
        return {}
    from labkit import evals, rollout

    asked = lookalikes()
    return {"over_refused": evals.judged(asked, rollout.answer(model, tokenizer, asked))["over_refused"]}


def at_end(run: runs.Run, seed: int) -> dict:
    """What the policy is worth on held-out prompts, sampled at temperature 1 (evals.judged)."""
    from labkit import atlas, evals, models, rollout

    runs.seed_everything(seed)
    prompts = atlas.prompts("held-out", seed, HELD_OUT)
    model, tokenizer = models.load_policy(run)
    said = rollout.answer(model, tokenizer, prompts)
    return evals.judged(prompts, said) | over_refusal(model, tokenizer, 1)


def best_of_n(sft: runs.Run, reward: runs.Run, seed: int) -> list[dict]:
    """Proxy, gold and words of the best of n = 1, 2, 4 … ANSWERS of the SFT policy's answers, by the reward model, with KL = log n − (n − 1) / n."""
    from labkit import atlas, evals, models, rollout
    from labkit.symptoms import symptoms

    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(sft)
    model = models.load_adapter(model, reward, "reward")
    models.use(model, "policy")
    prompts = [p for p in atlas.prompts("held-out", seed, PROMPTS) for _ in range(ANSWERS)]
    said = rollout.answer(model, tokenizer, prompts)
    seen = {
        "score": evals.scores(model, models.load_head(reward), tokenizer, prompts, said),
        "gold": [atlas.judge(prompt, text).total for prompt, text in zip(prompts, said, strict=True)],
        "words": [symptoms(text)["words"] for text in said],
    }
    groups = [slice(i, i + ANSWERS) for i in range(0, len(said), ANSWERS)]
    return [{"n": n, "kl": math.log(n) - (n - 1) / n,
             **{key: fmean(expected_best(seen["score"][g], values[g], n) for g in groups) for key, values in seen.items()}}
            for n in (2**i for i in range(ANSWERS.bit_length())) if n <= ANSWERS]  # fmt: skip


def expected_best(scores: list[float], values: list[float], n: int) -> float:
    """The expected value of the best (by score) of n answers, drawn from these N without replacement.

    The i-th lowest of N is the best of n with probability C(i − 1, n − 1) / C(N, n): no draw, so no luck (arXiv 2112.09332, appendix I).
    """
    order = sorted(range(len(scores)), key=scores.__getitem__)
    return sum(math.comb(i, n - 1) * values[at] for i, at in enumerate(order)) / math.comb(len(order), n)


def rounded(value):
    """Floats to four digits, NaN to None, all the way down."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return (round(value, 4) if math.isfinite(value) else None) if isinstance(value, float) else value


# --- reading the record ------------------------------------------------------------------------------------------------------------


def load(path=None) -> dict:
    """The record of `measure` (default: the one that came with the project). LabError where there is none."""
    path = Path(path or runs.data_folder() / "checkpoints" / "overoptimization.json")
    how = f"Make one (some twenty minutes): python -m labkit bench overoptimization --json > {path}"
    try:
        record = json.loads(path.read_text("utf8"))
        whole = record["settings"] and all(row["best_of_n"] and row["runs"][FREE]["curve"]["kl"] for row in record["seeds"])  # fmt: skip
    except OSError:
        raise LabError(f"There is no record of over-optimisation at {path}. {how}") from None
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise LabError(f"{path} is no record of over-optimisation. {how}")
    return record


def smooth(values: list[float], width: int = 5) -> list[float]:
    """Centred moving mean over `width` values, narrower at both ends."""
    half = width // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def last(record: dict, setting: str, key: str, n: int = 5) -> list[float]:
    """Per seed, the mean over a run's last n updates (for what was counted now and then, the last count)."""
    curves = [row["runs"][setting]["curve"][key] for row in record["seeds"]]
    return [fmean([v for v in curve[-n:] if v is not None]) for curve in curves]


def way(record: dict, setting: str, every: int = 4) -> list[dict]:
    """A run's way, averaged over the seeds and over `every` updates at a time: "√KL", "proxy", "gold" with the seeds' "lowest" and "highest"
    gold, and the symptoms."""
    curves = [row["runs"][setting]["curve"] for row in record["seeds"]]
    rows = []
    for start in range(0, len(curves[0]["kl"]), every):
        part = {
            key: [[v for v in curve[key][start : start + every] if v is not None] for curve in curves]
            for key in CURVE
        }
        mean = {key: [fmean(values) for values in seeds if values] for key, seeds in part.items()}
        row = {
            "update": min(start + every, len(curves[0]["kl"])),
            "√KL": math.sqrt(max(0.0, fmean(mean["kl"]))),
        }
        row |= {
            "proxy": fmean(mean["score"]),
            "gold": fmean(mean["gold"]),
            "lowest": min(mean["gold"]),
            "highest": max(mean["gold"]),
        }
        rows.append(row | {key: fmean(mean[key]) for key in ("length", *SYMPTOMS) if mean[key]})
    return rows


def fit(kls: list[float], gold: list[float], kind: str) -> dict:
    """Least squares of gold = start + α d − β g(d), d = √KL, with g = d² (kind "bon") or d log d ("rl").

    Returns {"start", "alpha", "beta", "r2", "peak": the KL where the curve is highest, None where it has no highest point}.
    Raises LabError for fewer than four points, or a kind it does not know.
    """
    import numpy as np

    bends = {"bon": lambda d: d**2, "rl": lambda d: d * np.log(np.maximum(d, 1e-12))}
    if kind not in bends:
        raise LabError(f'There is no curve {kind!r}: take "bon" (best-of-n) or "rl" (PPO).')
    if len(kls) < 4 or len(kls) != len(gold):
        raise LabError(f"A curve with three coefficients needs at least four points, each with its gold; there are {len(kls)} and {len(gold)}.")  # fmt: skip
    d, y = np.sqrt(np.maximum(0.0, np.asarray(kls, float))), np.asarray(gold, float)
    terms = np.stack([np.ones_like(d), d, -bends[kind](d)], 1)
    (start, alpha, beta), *_ = np.linalg.lstsq(terms, y, rcond=None)
    left, spread = ((y - terms @ [start, alpha, beta]) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    top = None
    if beta > 0 and alpha / beta < 50:
        top = alpha / (2 * beta) if kind == "bon" else math.exp(alpha / beta - 1)
    return {"start": float(start), "alpha": float(alpha), "beta": float(beta), "r2": float(1 - left / spread) if spread else math.nan,
            "peak": None if top is None or top < 0 else float(top**2)}  # fmt: skip


def early_stop(record: dict, setting: str = FREE, on: int = 0) -> dict:
    """Stop where the KL first passes a limit that was chosen on one seed: {"limit", "seeds": [{"seed", "update", "kl", "gold", "end", "best"}]}.

    The limit is the (smoothed) KL where the smoothed gold of seed number `on` is highest; the rows are those of the other seeds, with the smoothed
    gold where they stop, at the end of the run, and at its best. Raises LabError with fewer than two seeds: a limit is not tried where it was chosen.
    """
    if len(record["seeds"]) < 2:
        raise LabError("A limit that is chosen on one seed is tried on others: measure two seeds or more.")
    curves = [
        (
            row["seed"],
            *(smooth(row["runs"][setting]["curve"][key]) for key in ("kl", "gold")),
        )
        for row in record["seeds"]
    ]
    _, kl, gold = curves[on]
    limit, rows = kl[gold.index(max(gold))], []
    for seed, kl, gold in curves[:on] + curves[on + 1 :]:
        at = next((i for i, value in enumerate(kl) if value >= limit), len(kl) - 1)
        rows.append({"seed": seed, "update": at + 1, "kl": kl[at], "gold": gold[at], "end": gold[-1], "best": max(gold)})  # fmt: skip
    return {"limit": limit, "seeds": rows}


def summary(record: dict) -> list[dict]:
    """A row per setting: proxy, gold, KL, words and over-refusal at the end of the runs, means over the seeds, and the lowest and highest gold."""
    rows = []
    for name in record["settings"]:
        gold = last(record, name, "gold")
        rows.append({"setting": name, "proxy": fmean(last(record, name, "score")), "gold": fmean(gold), "lowest": min(gold), "highest": max(gold),
                     "KL": fmean(last(record, name, "kl")), "words": fmean(last(record, name, "words")),
                     "over-refusal": fmean(last(record, name, "over_refused"))})  # fmt: skip
    return rows
