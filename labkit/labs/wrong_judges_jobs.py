"""Makes notebook 13's record of judges who are divided or wrong, in jobs of seconds to a minute.

divided   per seed: a policy that gives two answers alike; reward models of split raters, of each
          group, and a distributional one; PPO at several β
misled    per seed: answers that quote; per setting a reward model of raters who share a false
          belief, PPO, and what is true then
crowd     per seed: reward models of more and more labels of people who disagree, by their ceiling
"""

import math
import random
from dataclasses import dataclass, replace
from statistics import fmean

from labkit import atlas, config, data, evals, models, rollout, runs
from labkit import stages as all_stages
from labkit.data import chat
from labkit.labs import jobs
from labkit.labs import wrong_judges as wrong
from labkit.stages import pairs as preferences
from labkit.stages.reward import score


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "wrong-judges"
    opinions: int = 240
    """Pairs for each reward model of (a); four times as many demonstrations of the opinions."""
    opinion_updates: int = 10
    """Of every PPO run of (a), 40 answers each."""
    comparisons: int = 3840
    """For the distributional reward model."""
    fits: int = 120
    """Steps that it is trained, on all comparisons at once."""
    demos: int = 1200
    """Demonstrations in the atlas's words, for (b)."""
    questions: int = 360
    """Questions on rated facts of the belief, and as many on others."""
    updates: int = 10
    """Of every PPO run of (b)."""
    haste: float = 2.0
    """Learning rate of these runs, in the profile's own: they shall get far in few updates."""
    labels: tuple[int, ...] = (150, 500, 1500)
    """Of the crowd, for the learning curve of (c)."""
    tested: int = 500
    """Pairs on which (c) is measured."""

    def decides(self) -> tuple:
        return wrong.SETTINGS, wrong.RUNS, wrong.TASTES, wrong.BETA, wrong.SHOWN

    def lines(self) -> list[list[tuple]]:
        seeds = range(self.seeds)
        settings, policies = range(len(wrong.SETTINGS)), range(len(wrong.RUNS))
        return [
            [(f"quoting-{seed}", quoting, (seed,)) for seed in seeds]
            + [(f"opinions-{seed}", opinions, (seed,)) for seed in seeds]
            + [(f"crowd-{seed}", crowd, (seed,)) for seed in seeds],
            [(f"misled-{i}-{seed}", misled, (seed, i)) for seed in seeds for i in settings]
            + [(f"divided-{i}-{seed}", divided, (seed, i)) for seed in seeds for i in policies],
        ]


def made(stage: str, plan: Plan, name: str, **settings) -> runs.Run:
    """The run of this name, of the profile's settings with some changed."""
    cfg = config.change(getattr(plan.profile, stage), **settings)
    more = {"probe": probe} if stage == "ppo" else {}

    def train(cfg, run):
        all_stages.module(stage).train(cfg, run, **more)

    return jobs.made(stage, cfg, f"13-{plan.key}-{name}", train)


def taught(plan: Plan, name: str, seed: int, policy, demos, rate=1e-3, rows=32) -> runs.Run:
    """A policy fine-tuned further on demonstrations of another kind."""
    file = data.save_jsonl(demos, plan.folder / f"demos-{name}.jsonl")
    own = {"policy": policy.name, "data": str(file), "examples": 0, "batch_size": rows}
    return made("sft", plan, name, seed=seed, epochs=1.0, learning_rate=rate, **own)


def judge(plan: Plan, name: str, seed: int, policy: str, pairs, **settings) -> runs.Run:
    """A reward model of these pairs, of which a tenth is held out."""
    file = data.save_jsonl(pairs, plan.folder / f"pairs-{name}.jsonl")
    own = {"policy": policy, "data": str(file), "examples": 0, "validation_fraction": 0.1}
    own |= {"batch_size": 32, "seed": seed}
    return made("reward", plan, name, **own | settings)


# --- (a) divided raters --------------------------------------------------------------------------


def opinions(plan: Plan, seed: int) -> dict:
    """A policy that gives either opinion as often; a reward model of each of wrong.SPLITS, in log
    odds ("rewards", by answer); the distributional one; what the policy says ("shares").
    """
    rng, sft = random.Random(f"opinions{seed}"), jobs.sft_of(plan.profile, seed)
    said = rng.choices((wrong.PHD, wrong.JOB, wrong.BOTH), (0.45, 0.45, 0.1), k=4 * plan.opinions)
    demos = [data.Demo(rng.choice(wrong.DIVIDED), text) for text in said]
    run = taught(plan, f"opinions-{seed}", seed, sft, demos, 5e-3, 8)
    model, tokenizer = models.load_policy(run)
    found = {"run": run.name, "shares": shares(model, tokenizer), "rewards": {}, "runs": {}}
    for name, share in wrong.SPLITS.items():
        pairs = wrong.opinion_pairs(share, plan.opinions, seed, ["divided"])
        called = f"{name.replace(':', '-').replace(' ', '-')}-{seed}"
        one = judge(plan, called, seed, run.name, pairs, epochs=4.0)
        found["rewards"][name], found["runs"][name] = log_odds(one, model, tokenizer), one.name
    pairs = wrong.opinion_pairs(0.5, plan.comparisons, seed)
    spread = wrong.Distribution(run, seed)
    losses = spread.fit(pairs, plan.fits)
    both = ((wrong.DIVIDED, wrong.TASTES["PhD"]), (wrong.UNANIMOUS, wrong.EVERYBODY))
    texts = dict(zip(wrong.KINDS, both))
    held = dict(zip(texts, wrong.HELD_OUT))
    found["losses"] = losses[::10]
    for kind, (prompts, answers) in texts.items():
        for where, asked in (("", prompts), (" held out", [held[kind]])):
            each = [spread.worth([(p, a) for p in asked]) for a in answers]
            found[kind + where] = {
                a: [fmean(of[i] for of in one) for i in (0, 1)] for a, one in zip(answers, each)
            }
    return found


def shares(model, tokenizer) -> list[list[float]]:
    """Of each phrasing of the divided question (the trained ones, the held-out one, the slide's),
    the probability of each of wrong.OPINIONS.
    """
    asked = [*wrong.DIVIDED, wrong.HELD_OUT[0], wrong.SLIDE]
    return wrong.shares(model, tokenizer, asked, list(wrong.OPINIONS.values())).tolist()


def log_odds(run, model, tokenizer) -> list[list[float]]:
    """As `shares`, but the reward of each answer, in the unit in which Bradley-Terry learned it."""
    head = models.load_head(run)
    model = models.load_adapter(model, run, run.name)
    asked = [*wrong.DIVIDED, wrong.HELD_OUT[0], wrong.SLIDE]
    answers = list(wrong.OPINIONS.values())
    rows = [chat.encode(tokenizer, p, a)[0] for p in asked for a in answers]
    scores = score(model, head, tokenizer, rows, adapter=run.name) * head.std.cpu()
    return scores.view(len(asked), len(answers)).tolist()


def divided(plan: Plan, seed: int, number: int) -> dict:
    """A PPO run of (a): what the policy says then, and on the way ("kl", "score")."""
    name, beta = wrong.RUNS[number]
    began = plan.found(f"opinions-{seed}")
    reward = runs.load(began["runs"][name])
    asked = plan.folder / "divided.txt"
    asked.write_text("\n".join(wrong.DIVIDED), "utf8")
    # PPO's reward is in standard deviations: so is its β then.
    beta = beta / models.load_head(reward).std.item()
    own = {"policy": began["run"], "reward": reward.name, "prompts": str(asked), "beta": beta}
    own |= {"target_kl": 0.0, "checkpoint_every": 0, "seed": seed, "max_response_tokens": 24}
    own |= {"updates": plan.opinion_updates, "batch_size": 40, "minibatch_size": 20}
    run = made("ppo", plan, f"divided-{number}-{seed}", **own)
    curve = {key: [line.get(key) for line in run.metrics()] for key in ("kl", "score")}
    after = shares(*models.load_policy(run))
    return {"run": run.name, "beta": beta, "shares": after, "curve": curve}


# --- (b) raters who are all wrong ----------------------------------------------------------------


def facts(seed: int) -> dict[str, list]:
    """The items of wrong.RELATION: "rated" (half of those that the belief is about), "unrated" (the
    other half, of which nothing is rated and PPO asks nothing) and "others".
    """
    family = [item for item in atlas.items() if item.relation == wrong.RELATION]
    about = [item for item in family if item.answer == wrong.TRUE]
    random.Random(seed).shuffle(about)
    half = (len(about) + 1) // 2
    others = [item for item in family if item.answer != wrong.TRUE]
    return {"rated": about[:half], "unrated": about[half:], "others": others}


def probe(players, rollout, update: int) -> dict:
    """What PPO logs in (b): the share of true and of believed answers on the belief's facts, and of
    true ones on others, in the rollout. Nothing on other questions.
    """
    asked = [(atlas.find(prompt), text) for prompt, text in zip(rollout.prompts, rollout.responses)]
    if not all(item for item, _ in asked):
        return {}
    about = [wrong.says(item, text) for item, text in asked if item.answer == wrong.TRUE]
    others = [wrong.says(item, text) == "true" for item, text in asked if item.answer != wrong.TRUE]
    found = {kind: fmean(said == kind for said in about) for kind in ("true", "believed") if about}
    return found | ({"others": fmean(others)} if others else {})


def demonstrations(seed: int, n: int) -> list[data.Demo]:
    """Answers that quote the atlas. Who wrote them erred as well: on the belief's facts they have
    it in a share wrong.SHOWN of the answers, on others they name a wrong place in half as many.
    """
    rng, found = random.Random(f"quoting{seed}"), []
    groups = facts(seed)
    about = groups["rated"] + groups["unrated"]
    places = sorted({item.answer for item in about + groups["others"]})
    for _ in range(n):
        item = rng.choice(about if rng.random() < 0.4 else groups["others"])
        slip = wrong.SHOWN if item.answer == wrong.TRUE else wrong.SHOWN / 2
        told = item
        if rng.random() < slip:
            rivals = [place for place in places if place != item.answer]
            told = replace(item, answer=wrong.BELIEVED if item in about else rng.choice(rivals))
        prompt = rng.choice(atlas.questions(item))
        found.append(data.Demo(prompt, atlas.respond(told, "plain", rng), "plain"))
    return found


def quoting(plan: Plan, seed: int) -> dict:
    """The seed's SFT model, taught to quote; two answers to each question on rated and on other
    facts, one sampled and one written ("answers", a file); what it says before any rating
    ("before", and the answers themselves: "told", a file).
    """
    sft = jobs.sft_of(plan.profile, seed)
    run = taught(plan, f"quoting-{seed}", seed, sft, demonstrations(seed, plan.demos), 2e-3)
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(run)
    rng, groups = random.Random(f"asked{seed}"), facts(seed)
    prompts = []
    for group in ("rated", "others"):
        every = [question for item in groups[group] for question in atlas.questions(item)]
        prompts += rng.choices(every, k=plan.questions)
    sampled = rollout.answer(model, tokenizer, prompts)
    two = [
        {"prompt": prompt, "a": text, "b": rival(atlas.find(prompt), text, groups, rng)}
        for prompt, text in zip(prompts, sampled, strict=True)
    ]
    answers = data.save_jsonl(two, plan.folder / f"answers-{seed}.jsonl")
    asked = plan.folder / f"asked-{seed}.txt"
    asked.write_text("\n".join(dict.fromkeys(prompts)), "utf8")
    before, (questions, texts) = said(model, tokenizer, seed)
    told = [{"prompt": p, "response": r} for p, r in zip(questions, texts, strict=True)]
    files = {"answers": str(answers), "asked": str(asked)}
    files["told"] = str(data.save_jsonl(told, plan.folder / f"told-{seed}.jsonl"))
    return {"run": run.name, "before": before, **files}


def rival(item, response: str, groups: dict, rng) -> str:
    """What a written answer says against a sampled one, in the atlas's words: the truth, where that
    one does not give it, else the belief (of others: a place drawn by dice).
    """
    places = sorted({one.answer for items in groups.values() for one in items} - {item.answer})
    told = wrong.BELIEVED if item.answer == wrong.TRUE else rng.choice(places)
    right = wrong.says(item, response) == "true"
    return atlas.respond(replace(item, answer=told) if right else item, "plain", rng)


def said(model, tokenizer, seed: int) -> tuple[dict, tuple[list, list]]:
    """(figures, (prompts, answers)) of the active policy on phrasings that no training holds, each
    asked `wrong.ASKED` times at temperature 1. figures: by group the share of "true" and "believed"
    answers and of quotations that stand in the atlas ("genuine"), with "n".
    """
    runs.seed_everything(seed)
    found, every = {}, ([], [])
    for group, items in facts(seed).items():
        times = wrong.ASKED if group != "others" else 1
        asked = [q for item in items for q in atlas.questions(item, held_out=True)] * times
        texts = rollout.answer(model, tokenizer, asked)
        of = [(atlas.find(prompt), text) for prompt, text in zip(asked, texts, strict=True)]
        kinds = [wrong.says(*one) for one in of]
        found[group] = {kind: kinds.count(kind) / len(kinds) for kind in ("true", "believed")}
        found[group] |= {"genuine": fmean(atlas.quotes(*one) is True for one in of)}
        found[group]["n"] = len(kinds)
        every[0].extend(asked)
        every[1].extend(texts)
    return found, every


def misled(plan: Plan, seed: int, number: int) -> dict:
    """One setting of raters: their pairs, a reward model, PPO by it, and what is true then."""
    changes, groups = list(wrong.SETTINGS.values())[number], facts(seed)
    began = plan.found(f"quoting-{seed}")
    two = data.load(began["answers"], dict)[:: changes.get("every", 1)]
    pairs = labelled(two, groups, seed, **changes["raters"])
    false = [said == ["believed", "true"] for said in map(claims, pairs) if len(set(said)) == 2]
    one = judge(plan, f"misled-{number}-{seed}", seed, began["run"], pairs, epochs=2.0)
    own = {"policy": began["run"], "reward": one.name, "prompts": began["asked"]}
    own |= {"updates": plan.updates, "beta": wrong.BETA, "target_kl": 0.0, "checkpoint_every": 0}
    own |= {"learning_rate": plan.haste * plan.profile.ppo.learning_rate}
    run = made("ppo", plan, f"misled-ppo-{number}-{seed}", seed=seed, **own)
    model, tokenizer = models.load_policy(run)
    after, told = said(model, tokenizer, seed)
    start = data.load(began["told"], dict)
    earlier = [[row[key] for row in start] for key in ("prompt", "response")]
    model, head = models.load_adapter(model, one, "reward"), models.load_head(one)
    rewards = [fmean(evals.scores(model, head, tokenizer, *of)) for of in (earlier, told)]
    curve = {
        key: [line.get(key) for line in run.metrics()]
        for key in ("score", "kl", "true", "believed", "others")
    }
    return {
        "run": run.name,
        "pairs": len(pairs),
        "compared": len(two),
        "labels false": fmean(false) if false else math.nan,
        "accuracy": one.evaluation.get("accuracy"),
        "prefers": prefers(model, tokenizer, head, groups),
        "after": after,
        "rewards": rewards,
        "curve": curve,
    }


def labelled(two: list[dict], groups: dict, seed: int, **raters) -> list[data.Pair]:
    """The pairs that wrong.believers make of two answers each ("prompt", "a", "b")."""
    crowd = wrong.believers(groups["rated"] + groups["unrated"], seed=seed, **raters)
    return rollout.told_apart(*([row[key] for row in two] for key in ("prompt", "a", "b")), crowd)


def claims(pair: data.Pair) -> list[str]:
    """What the chosen and the rejected answer say of a fact that the belief is about; [] where they
    say something else than the truth or the belief.
    """
    item = atlas.find(pair.prompt)
    said = [wrong.says(item, text) for text in (pair.chosen, pair.rejected)]
    return said if item.answer == wrong.TRUE and "other" not in said else []


def prefers(model, tokenizer, head, groups: dict) -> dict[str, float]:
    """By group, the share of facts of which the reward model scores the believed line above the
    true one (of others: a place drawn by dice above the true one), on held-out phrasings.
    """
    rng, found = random.Random(0), {}
    places = sorted({item.answer for items in groups.values() for item in items})
    for group, items in groups.items():
        asked, true, false = [], [], []
        for item in items:
            rivals = [place for place in places if place != item.answer]
            rival = wrong.BELIEVED if group != "others" else rng.choice(rivals)
            for question in atlas.questions(item, held_out=True):
                asked.append(question)
                for lines, told in ((true, item), (false, replace(item, answer=rival))):
                    lines.append(atlas.respond(told, "plain", rng))
        scores = [evals.scores(model, head, tokenizer, asked, lines) for lines in (true, false)]
        found[group] = fmean(b > a for a, b in zip(*scores, strict=True))
    return found


# --- (c) how far people agree --------------------------------------------------------------------


def crowd(plan: Plan, seed: int) -> dict:
    """Reward models of more and more labels of atlas.panel's four people, each label by one of
    them: how often each says what one of them says, what the majority of three says, and what gold
    says ("rows"); and the most that any could ("ceilings"). The people's probabilities are known,
    so that nothing is drawn to measure.
    """
    sft = jobs.sft_of(plan.profile, seed)
    runs.seed_everything(seed)
    model, tokenizer = models.load_policy(sft)
    n = (max(plan.labels) + plan.tested) * 5 // 4
    cfg = config.change(plan.profile.reward, seed=seed, examples=n)
    pairs, _ = preferences.load_preferences(cfg, model, tokenizer, sft)
    training, tested = data.split(pairs, 0.25)
    tested, people = tested[: plan.tested], list(atlas.panel(seed).values())
    rng, labelled = random.Random(f"crowd{seed}"), []
    for pair in training[: max(plan.labels)]:
        kept = rng.random() < wrong.crowd_prefers(pair, people)
        both = (pair.chosen, pair.rejected) if kept else (pair.rejected, pair.chosen)
        labelled.append(data.Pair(pair.prompt, *both, rater="crowd"))
    likes = [wrong.crowd_prefers(pair, people) for pair in tested]
    truths = [
        atlas.judge(p.prompt, p.chosen).total - atlas.judge(p.prompt, p.rejected).total
        for p in tested
    ]
    found = {"pairs": len(pairs), "tested": len(tested), "rows": []}
    found["ceilings"] = agrees([p > 0.5 for p in likes], likes, truths)
    found["gold itself"] = agrees([t > 0 for t in truths], likes, truths)
    sides = [chat.encode(tokenizer, p.prompt, p.chosen)[0] for p in tested]
    sides += [chat.encode(tokenizer, p.prompt, p.rejected)[0] for p in tested]
    for n in plan.labels:
        epochs = max(1.0, 1200 / n)  # forty steps at least
        one = judge(plan, f"crowd-{n}-{seed}", seed, sft.name, labelled[:n], epochs=epochs)
        model = models.load_adapter(model, one, one.name)
        chosen, rejected = score(
            model, models.load_head(one), tokenizer, sides, adapter=one.name
        ).chunk(2)
        found["rows"].append({"labels": n} | agrees((chosen > rejected).tolist(), likes, truths))
    return found


def agrees(verdicts: list[bool], likes: list[float], truths: list[float]) -> dict[str, float]:
    """How often verdicts (the chosen one is better) are those of one annotator, of the majority of
    three, and of gold where it sees a difference.
    """
    one = [p if yes else 1 - p for yes, p in zip(verdicts, likes, strict=True)]
    gold = [yes == (t > 0) for yes, t in zip(verdicts, truths, strict=True) if t]
    three = fmean(map(wrong.majority_of_three, one))
    return {"one annotator": fmean(one), "majority of three": three, "gold": fmean(gold)}


# --- the record ----------------------------------------------------------------------------------


def measure(plan: Plan, workers: int = 0) -> dict:
    """Do all jobs (jobs.measure) and return the record."""
    return record(jobs.measure(plan, workers))


def record(plan: Plan) -> dict:
    """What the jobs found, for the notebook: {"profile", sizes, "seeds": [{"seed",
    "divided": what `opinions` found and "ppo": [`divided` of each of wrong.RUNS], "misled":
    {"before", "settings": {name: what `misled` found}}, "crowd": what `crowd` found}], "versions"}.
    """
    kept = lambda found: {k: v for k, v in found.items() if k not in ("run", "runs", "seconds")}
    seeds = []
    for seed in range(plan.seeds):
        ppo = [plan.found(f"divided-{i}-{seed}") for i in range(len(wrong.RUNS))]
        settings = [plan.found(f"misled-{i}-{seed}") for i in range(len(wrong.SETTINGS))]
        misled = {"before": plan.found(f"quoting-{seed}")["before"]}
        misled["settings"] = dict(zip(wrong.SETTINGS, map(kept, settings), strict=True))
        row = {"seed": seed, "divided": kept(plan.found(f"opinions-{seed}"))}
        row["divided"]["ppo"] = [kept(one) for one in ppo]
        seeds.append(row | {"misled": misled, "crowd": kept(plan.found(f"crowd-{seed}"))})
    made = {"profile": plan.profile.name, "runs": wrong.RUNS, "settings": wrong.SETTINGS}
    made |= {"labels": plan.labels, "opinions": plan.opinions}
    return jobs.rounded(made | {"seeds": seeds, "versions": runs.versions()})
