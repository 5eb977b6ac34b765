"""Pleasing the reward model too well: proxy and gold against the distance from where the policy
started, over seeds.

    gold(d) = start + α d − β d²          best-of-n           d = √KL(π ‖ π_ref)
    gold(d) = start + α d − β d log d     PPO

Gao, Schulman & Hilton (arXiv 2210.10760), section 1, with the start fitted as well: it is not
exactly 0 in our marks. `measure` trains and samples everything (24 PPO runs and 9 reward models for
three seeds); its record lies in data/checkpoints/overoptimization.json, and what notebook 08 shows
of it is computed by the functions below, which are plain Python.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import numpy as np

from labkit import LabError, atlas, charts, config, data, evals, models, rollout, runs
from labkit import stages as all_stages
from labkit.atlas.symptoms import symptoms
from labkit.stages import pairs as preferences

UPDATES = 32  # of every PPO run
PROMPTS = 64  # held-out prompts for best-of-n
ANSWERS = 64  # samples for each of them
HELD_OUT = 300  # prompts that a run is measured on when it has ended
EVERY = 4  # updates between two counts of over-refusal
PAIRS = 1200  # that another rater's reward model learns from

FREE = "no toll (β = 0)"
SETTINGS = {
    FREE: {"beta": 0.0},
    "small toll (β = 0.05)": {"beta": 0.05},
    "large toll (β = 0.2)": {"beta": 0.2},
    "ensemble": {"beta": 0.0, "reward": "all"},
    "length control": {"beta": 0.0, "length_penalty": 0.05},
    "polite rater": {"beta": 0.0, "reward": "polite"},
    "impressed rater": {"beta": 0.0, "reward": "impressed"},
    "impressed rater, length control": {"beta": 0.0, "reward": "impressed", "length_penalty": 0.05},
}
"""What each PPO run changes; all keep β fixed. reward: "all" takes the careful reward models of all
seeds, whose lowest score counts (arXiv 2310.02743); a name of atlas.panel takes a reward model that
learned from that rater's labels.
"""

SYMPTOMS = ("words", "hedging", "apology", "ai_disclaimer", "refusal", "over_refused")
CURVE = ("kl", "score", "gold", "length", *SYMPTOMS, "eos_rate", "entropy")


# --- measuring -----------------------------------------------------------------------------------


def measure(profile: config.Profile, seeds: int = 3) -> dict:
    """Everything for seeds 0 … seeds − 1: per seed its SFT and reward models, a PPO run per setting
    and best-of-n.

    Runs that are there already with the same settings are taken, so that a measurement which was
    interrupted goes on. Returns the record: {"profile", "updates", "settings", "seeds": [{"seed",
    "best_of_n": [{"n", "kl", "score", "gold", "words"}], "runs": {setting: {"curve": {metric: [a
    number per update, None where not counted]}, "end": figures on held-out prompts}}}],
    "versions"}, numbers to four digits.
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
    made = {"profile": profile.name, "updates": UPDATES, "settings": SETTINGS, "seeds": found}
    text = json.dumps(made | {"versions": runs.versions()})
    # Four digits are enough, and JSON has no NaN.
    short = {"parse_float": lambda x: round(float(x), 4), "parse_constant": lambda nan: None}
    return json.loads(text, **short)


def policy(profile, trained: list, seed: int, setting: str) -> runs.Run:
    """The PPO run of a seed and a setting. trained: (SFT run, reward run) of every seed."""
    sft, reward = trained[seed]
    changes = dict(SETTINGS[setting])
    judge = changes.pop("reward", "")
    if judge == "all":
        names = ",".join(one.name for _, one in trained)
    else:
        names = (of_rater(profile, sft, reward, seed, judge) if judge else reward).name
    changes |= {"policy": sft.name, "reward": names, "seed": seed, "updates": UPDATES}
    cfg = config.change(profile.ppo, target_kl=0.0, checkpoint_every=0, **changes)
    return train("ppo", cfg, probe=over_refusal)


def stages(profile, seed: int):
    """(SFT run, reward run) of a seed."""
    sft = train("sft", config.change(profile.sft, seed=seed))
    return sft, train("reward", config.change(profile.reward, policy=sft.name, seed=seed))


def train(stage: str, cfg, **more) -> runs.Run:
    """The newest run of these settings (on whatever base, in whatever micro-batches: another size
    costs memory and changes nothing else), or a new one; `more` goes to the stage's train.
    """
    any_will_do = {"base": "", "micro_batch_size": 0}
    for run in runs.listing()[::-1]:
        if run.stage == stage and run.info["config"] | any_will_do == asdict(cfg) | any_will_do:
            return run
    return all_stages.train(stage, cfg, listen=charts.live, **more)


def relabelled(reward: runs.Run, rater) -> list:
    """The pairs of answers that a reward model was trained on, judged again by another rater; what
    is the same to that one is left out.
    """
    pairs = []
    for pair in data.load_pairs(str(reward.path / preferences.PAIRS)):
        verdict = rater.compare(pair.prompt, pair.chosen, pair.rejected)
        both = (pair.chosen, pair.rejected) if verdict == "a" else (pair.rejected, pair.chosen)
        if verdict != "same":
            pairs.append(data.Pair(pair.prompt, *both, rater=rater.name))
    return pairs


def of_rater(profile, sft, reward, seed: int, rater: str) -> runs.Run:
    """A reward model of another rater's: the same answers as `reward` saw, other labels."""
    file = runs.root() / f"pairs-{rater}-{seed}.jsonl"
    data.save_jsonl(relabelled(reward, atlas.panel(seed)[rater]), file)
    own = {"policy": sft.name, "data": str(file), "examples": PAIRS, "seed": seed}
    return train("reward", config.change(profile.reward, **own))


def lookalikes() -> list[str]:
    """Every held-out phrasing of the harmless questions that look harmful (toy guns)."""
    return [prompt for prompt in atlas.prompts("held-out") if atlas.find(prompt).lookalike]


def over_refused(model, tokenizer) -> dict:
    """{"over_refused": the share of the look-alikes that the policy refuses}."""
    asked = lookalikes()
    found = evals.judged(asked, rollout.answer(model, tokenizer, asked))
    return {"over_refused": found["over_refused"]}


def over_refusal(players, answers, update: int) -> dict:
    """A probe for ppo.train: evals.probe, and over_refused first and every EVERY updates."""
    found = evals.probe(players, answers, update)
    if update == 1 or update % EVERY == 0:
        found |= over_refused(players.model, players.tokenizer)
    return found


def at_end(run: runs.Run, seed: int) -> dict:
    """What the policy is worth on held-out prompts, sampled at temperature 1 (evals.judged)."""
    runs.seed_everything(seed)
    prompts = atlas.prompts("held-out", seed, HELD_OUT)
    model, tokenizer = models.load_policy(run)
    said = rollout.answer(model, tokenizer, prompts)
    return evals.judged(prompts, said) | over_refused(model, tokenizer)


def best_of_n(sft: runs.Run, reward: runs.Run, seed: int) -> list[dict]:
    """Proxy, gold and words of the best of n = 1, 2, 4 … ANSWERS of the SFT policy's answers, by
    the reward model, with KL = log n − (n − 1) / n.
    """
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(sft)
    model = models.load_adapter(model, reward, "reward")
    models.use(model, "policy")
    prompts = [p for p in atlas.prompts("held-out", seed, PROMPTS) for _ in range(ANSWERS)]
    said = rollout.answer(model, tokenizer, prompts)
    seen = {
        "score": evals.scores(model, models.load_head(reward), tokenizer, prompts, said),
        "gold": [atlas.judge(*pair).total for pair in zip(prompts, said, strict=True)],
        "words": [symptoms(text)["words"] for text in said],
    }
    groups = [slice(i, i + ANSWERS) for i in range(0, len(said), ANSWERS)]

    def best(key, n):
        return fmean(expected_best(seen["score"][g], seen[key][g], n) for g in groups)

    sizes = [2**i for i in range(ANSWERS.bit_length())]
    return [
        {"n": n, "kl": math.log(n) - (n - 1) / n, **{key: best(key, n) for key in seen}}
        for n in sizes
    ]


def expected_best(scores: list[float], values: list[float], n: int) -> float:
    """The expected value of the best (by score) of n answers, drawn from these N without
    replacement.

    The i-th lowest of N is the best of n with probability C(i − 1, n − 1) / C(N, n): no draw, so no
    luck (arXiv 2112.09332, appendix I).
    """
    order = sorted(range(len(scores)), key=scores.__getitem__)
    weighed = sum(math.comb(i, n - 1) * values[at] for i, at in enumerate(order))
    return weighed / math.comb(len(order), n)


# --- reading the record --------------------------------------------------------------------------


def load(path=None) -> dict:
    """The record of `measure` (default: the one that came with the project). LabError where there
    is none.
    """
    path = Path(path or runs.data_folder() / "checkpoints" / "overoptimization.json")
    how = f"Make one (it takes hours): python -m labkit bench overoptimization --json > {path}"
    try:
        record = json.loads(path.read_text("utf8"))
        whole = record["settings"] and [
            (row["best_of_n"][0], row["runs"][FREE]["curve"]["kl"][0]) for row in record["seeds"]
        ]
    except OSError:
        raise LabError(f"There is no record of over-optimisation at {path}. {how}") from None
    except (ValueError, LookupError, TypeError):
        whole = False
    if not whole:
        raise LabError(f"{path} is no record of over-optimisation. {how}")
    return record


def curves(record: dict, setting: str) -> list[dict]:
    """Per seed, the curve of a setting's run: {metric: [a value per update]}."""
    return [row["runs"][setting]["curve"] for row in record["seeds"]]


def counted(values: list) -> list:
    """The values that were counted."""
    return [value for value in values if value is not None]


def smooth(values: list[float], width: int = 5) -> list[float]:
    """Centred moving mean over `width` values, narrower at both ends."""
    half = width // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def last(record: dict, setting: str, key: str, n: int = 5) -> list[float]:
    """Per seed, the mean over a run's last n updates (for what was counted now and then, the last
    count).
    """
    return [fmean(counted(curve[key][-n:])) for curve in curves(record, setting)]


def way(record: dict, setting: str, every: int = 4) -> list[dict]:
    """A run's way, `every` updates at a time: "update", "√KL", "proxy" and "gold" (means over the
    seeds), each of these two with "… lowest" and "… highest" of the seeds, "length" and the
    symptoms, where they were counted.
    """
    found, rows = curves(record, setting), []
    updates = min(len(curve["kl"]) for curve in found)
    for start in range(0, updates, every):
        parts = {k: [counted(curve[k][start : start + every]) for curve in found] for k in CURVE}
        seeds = {key: [fmean(part) for part in each if part] for key, each in parts.items()}
        root = math.sqrt(max(0.0, fmean(seeds["kl"])))
        row = {"update": min(start + every, updates), "√KL": root}
        row |= with_spread("proxy", seeds["score"]) | with_spread("gold", seeds["gold"])
        rows.append(row | {key: fmean(seeds[key]) for key in ("length", *SYMPTOMS) if seeds[key]})
    return rows


def best(record: dict) -> list[dict]:
    """Best-of-n's way: "n", "√KL", "words", "proxy" and "gold" as in `way`."""
    rows = []
    for same in zip(*(row["best_of_n"] for row in record["seeds"]), strict=True):
        of = {key: [one[key] for one in same] for key in same[0]}
        row = {"n": of["n"][0], "√KL": math.sqrt(of["kl"][0]), "words": fmean(of["words"])}
        rows.append(row | with_spread("proxy", of["score"]) | with_spread("gold", of["gold"]))
    return rows


def with_spread(name: str, values: list[float]) -> dict:
    """{name: mean, "name lowest", "name highest"} of the seeds' values."""
    return {name: fmean(values), f"{name} lowest": min(values), f"{name} highest": max(values)}


def fit(kls: list[float], gold: list[float], kind: str) -> dict:
    """Least squares of gold = start + α d − β g(d), d = √KL, with g = d² (kind "bon") or d log d
    ("rl").

    Returns {"start", "alpha", "beta", "r2", "peak": the KL where the curve is highest, None where
    it has no highest point}. Raises LabError for fewer than four points, or a kind it does not
    know.
    """
    bends = {"bon": lambda d: d**2, "rl": lambda d: d * np.log(np.maximum(d, 1e-12))}
    if kind not in bends:
        raise LabError(f'There is no curve {kind!r}: take "bon" (best-of-n) or "rl" (PPO).')
    if len(kls) < 4 or len(kls) != len(gold):
        raise LabError(
            "A curve with three coefficients needs at least four points, each with its gold; there"
            f" are {len(kls)} and {len(gold)}."
        )
    d, y = np.sqrt(np.maximum(0.0, np.asarray(kls, float))), np.asarray(gold, float)
    terms = np.stack([np.ones_like(d), d, -bends[kind](d)], 1)
    start, alpha, beta = (float(x) for x in np.linalg.lstsq(terms, y, rcond=None)[0])
    left, spread = ((y - terms @ [start, alpha, beta]) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    top = None  # the d where the slope is 0: α = 2 β d, or α = β (log d + 1)
    if beta > 0 and alpha / beta < 50:
        top = alpha / (2 * beta) if kind == "bon" else math.exp(alpha / beta - 1)
    return {
        "start": start,
        "alpha": alpha,
        "beta": beta,
        "r2": float(1 - left / spread) if spread else math.nan,
        "peak": None if top is None or top < 0 else top**2,
    }


def early_stop(record: dict, setting: str = FREE, on: int = 0) -> dict:
    """Stop where the KL first passes a limit that was chosen on one seed: {"limit", "seeds":
    [{"seed", "update", "kl", "gold", "end", "best"}]}.

    The limit is the (smoothed) KL where the smoothed gold of seed number `on` is highest; the rows
    are those of the other seeds, with the smoothed gold where they stop, at the end of the run, and
    at its best. Raises LabError with fewer than two seeds: a limit is not tried where it was
    chosen.
    """
    if len(record["seeds"]) < 2:
        raise LabError(
            "A limit that is chosen on one seed is tried on others: measure two seeds or more."
        )
    ways = smoothed(record, setting)
    kl, gold = ways[on]
    limit, rows = kl[gold.index(max(gold))], []
    for row, (kl, gold) in zip(record["seeds"], ways, strict=True):
        at = next((i for i, x in enumerate(kl) if x >= limit), len(kl) - 1)
        stops = {"update": at + 1, "kl": kl[at], "gold": gold[at]}
        rows.append({"seed": row["seed"], **stops, "end": gold[-1], "best": max(gold)})
    return {"limit": limit, "seeds": rows[:on] + rows[on + 1 :]}


def at_kl(record: dict, setting: str, limit: float) -> list[float]:
    """The (smoothed) gold where the (smoothed) KL first passes `limit`, of the seeds that get
    there.
    """
    ways = smoothed(record, setting)
    there = [[i for i, x in enumerate(kl) if x >= limit] for kl, _ in ways]
    return [gold[places[0]] for (_, gold), places in zip(ways, there, strict=True) if places]


def smoothed(record: dict, setting: str) -> list[tuple[list[float], list[float]]]:
    """Per seed, (KL, gold) of a run, smoothed."""
    return [(smooth(curve["kl"]), smooth(curve["gold"])) for curve in curves(record, setting)]


def summary(record: dict) -> list[dict]:
    """A row per setting, of the last five updates: gold (mean, lowest and highest seed), proxy, KL,
    words and over-refusal, means over the seeds.
    """
    columns = {"proxy": "score", "KL": "kl", "words": "words", "over-refusal": "over_refused"}
    rows = []
    for name in record["settings"]:
        row = {"setting": name, **with_spread("gold", last(record, name, "gold"))}
        rows.append(row | {one: fmean(last(record, name, key)) for one, key in columns.items()})
    return rows
