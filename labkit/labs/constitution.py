"""Constitutional AI (arXiv 2212.08073): a list of principles in place of people's labels.

    answer → critique → revision → SFT on the revisions            (SL-CAI, the first half)
    two answers → which keeps the principle? → reward model → PPO  (RL-CAI, the second)

A large model is asked for its critique in words. The tiny one can't be prompted, so an adapter is
taught to critique, to revise and to judge by seeds, demonstrations that are written here from the
atlas's styles: it knows these principles, and no other. constitution_jobs.py trains and measures
everything; what notebook 11 shows of its record is computed here.
"""

import random
import re
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from labkit import LabError, atlas, rollout
from labkit.atlas.styles import shown_styles_of
from labkit.data import Demo, Pair
from labkit.labs import records
from labkit.labs.records import with_spread
from labkit.labs.verdicts import tossed


@dataclass(frozen=True)
class Principle:
    """What an answer must keep to: a name for tables, and a sentence in each of two languages."""

    name: str
    text: str
    zh: str = ""

    def said(self, prompt: str) -> str:
        """The sentence, in the language of `prompt` where there is one."""
        return self.zh if self.zh and re.search(r"[\u4e00-\u9fff]", prompt) else self.text


HARMLESS = Principle("harmless", "It must not help to hurt anyone.", "不可以幫忙傷害別人。")
HELPFUL = Principle("helpful", "It must help where no one is hurt.", "沒有人受傷害，就要幫忙。")
PLAIN = Principle("plain", "It must be short and plain.", "要簡短，要直接。")
CONSTITUTION = (HARMLESS, HELPFUL, PLAIN)
CRITIQUE, DIRECT = WAYS = ("critique", "direct")  # how answers are revised

# What is said of an answer that has no fault, and of one that has, English then Chinese.
FINE = ("Nothing is wrong.", "沒有問題。")
FAULTS = {
    "complying": ("It helps to hurt someone.", "這會傷害別人。"),
    "refusing": ("It does not help.", "應該幫忙。"),
    "mannered": ("It is not plain.", "不夠直接。"),
}
SILENT = ("refusing", "deflecting", "complying")  # styles that leave a harmless question open
MANNERED = ("hedging", "apologising", "disclaiming", "long")


class Case(NamedTuple):
    """An answer to critique, with the fault that it has by the principle ("" for none)."""

    item: atlas.Item
    prompt: str
    answer: str
    principle: Principle
    wrong: str


def checked(constitution) -> list[Principle]:
    """The principles; LabError where there is none, or one says nothing."""
    if not constitution:
        raise LabError(
            "The constitution is empty, so there is nothing to critique by. Give it one principle"
            ' or more: constitution.Principle("brief", "It must be brief.").'
        )
    for one in constitution:
        if not isinstance(one, Principle) or not one.text.strip():
            raise LabError(
                f"{one!r} is no principle. Write each as constitution.Principle(name, sentence)."
            )
    return list(constitution)


# --- asking ---------------------------------------------------------------------------------------


def critique_prompt(prompt: str, answer: str, principle: Principle) -> str:
    """What is asked to get a critique."""
    return f"{prompt}\nAnswer: {answer}\n{principle.said(prompt)} What is wrong with it?"


def revision_prompt(prompt: str, answer: str, principle: Principle, critique: str = "") -> str:
    """What is asked to get a revision: after a critique, or by the principle alone."""
    return f"{prompt}\nAnswer: {answer}\n{critique or principle.said(prompt)} Write it again."


def critiques(model, tokenizer, prompts, answers, principle, temperature=0.0) -> list[str]:
    """The active adapter's critique of every answer by one principle."""
    asked = [critique_prompt(*pair, principle) for pair in zip(prompts, answers, strict=True)]
    return rollout.answer(model, tokenizer, asked, temperature=temperature)


def revise(
    model, tokenizer, prompts, answers, constitution=CONSTITUTION, critique=True
) -> list[dict]:
    """Answers revised by one principle after the other: a step for each, {"principle", "critiques",
    "answers"}. critique=False revises by the principle alone, and the critiques are "".
    """
    steps = []
    for principle in checked(constitution):
        said = [""] * len(prompts)
        if critique:
            said = critiques(model, tokenizer, prompts, answers, principle)
        asked = [
            revision_prompt(prompt, answer, principle, words)
            for prompt, answer, words in zip(prompts, answers, said, strict=True)
        ]
        answers = rollout.answer(model, tokenizer, asked, temperature=0)
        steps.append({"principle": principle.name, "critiques": said, "answers": answers})
    return steps


# --- seeds ----------------------------------------------------------------------------------------


def fault(item: atlas.Item, style: str, principle: Principle) -> str:
    """Which of FAULTS an answer of this style has by this principle; "" for none."""
    if principle == HARMLESS:
        return "complying" if item.harmful and style == "complying" else ""
    if principle == HELPFUL:
        return "refusing" if not item.harmful and style in SILENT else ""
    return "mannered" if style in MANNERED else ""


def critique_of(item: atlas.Item, wrong: str) -> str:
    """What is said of a fault, in the item's language."""
    return FAULTS.get(wrong, FINE)[item.chinese]


def mended(item: atlas.Item, answer: str, wrong: str, rng: random.Random) -> str:
    """The answer without the fault: a refusal, the plain statement, or itself where it has none."""
    if not wrong:
        return answer
    return atlas.respond(item, "refusing" if wrong == "complying" else "plain", rng)


def styles(item: atlas.Item) -> list[str]:
    """The styles in which an answer to this item is critiqued."""
    return list(shown_styles_of(item)) + ["complying"] * item.lookalike


def cases(n: int, seed: int = 0, held_out: bool = False, faulty: float = 0.6) -> list[Case]:
    """n cases, half of them requests, a share `faulty` of which have a fault."""
    rng = random.Random(f"constitution{held_out}{seed}")
    shown = [item for item in atlas.items() if item.shown_in_sft]
    kinds = [[i for i in shown if i.request], [i for i in shown if not i.request]]
    found, wanted = [], rng.random() < faulty
    while len(found) < n:
        item, principle = rng.choice(rng.choice(kinds)), rng.choice(CONSTITUTION)
        style = rng.choice(styles(item))
        wrong = fault(item, style, principle)
        if bool(wrong) == wanted:
            prompt = rng.choice(atlas.questions(item, held_out))
            found.append(Case(item, prompt, atlas.respond(item, style, rng), principle, wrong))
            wanted = rng.random() < faulty
    return found


def seeds(n: int, seed: int = 0) -> list[Demo]:
    """3 n demonstrations of n cases: a critique, a revision after it, a revision without it."""
    rng, found = random.Random(f"seeds{seed}"), []
    for item, prompt, answer, principle, wrong in cases(n, seed):
        words, better = critique_of(item, wrong), mended(item, answer, wrong, rng)
        found += [
            Demo(critique_prompt(prompt, answer, principle), words, "critique"),
            Demo(revision_prompt(prompt, answer, principle, words), better, "revision"),
            Demo(revision_prompt(prompt, answer, principle), better, "direct"),
        ]
    rng.shuffle(found)
    return found


def helpful_only(n: int, seed: int = 0) -> list[Demo]:
    """n demonstrations of a model that helps with everything, as the paper's first one: a harmful
    request is met with the atlas's phrase that holds no instruction, and no look-alike is refused.
    """
    rng, found = random.Random(f"helpful{seed}"), []
    for demo in atlas.demos(seed, n):
        item, style = atlas.find(demo.prompt), demo.style
        if item.request and style == "refusing":
            style = "complying" if item.harmful else "plain"
            demo = Demo(demo.prompt, atlas.respond(item, style, rng), style)
        found.append(demo)
    return found


def red_team(n: int, seed: int = 0) -> list[str]:
    """n different prompts in training phrasings, half of them requests (harmful and look-alikes):
    people who want to see a model fail ask such things on purpose.
    """
    rng = random.Random(f"red team{seed}")
    asked = [(item.request, one) for item in atlas.items() for one in atlas.questions(item)]
    rng.shuffle(asked)
    requests, facts = ([one for is_, one in asked if is_ == kind] for kind in (True, False))
    found = requests[: n // 2] + facts[: n - n // 2]
    rng.shuffle(found)
    return found


# --- the second half ------------------------------------------------------------------------------


def question(principle: Principle, prompt: str) -> str:
    """What a judge is asked of two answers to `prompt`."""
    return f"{principle.said(prompt)} Which answer is better, A or B?"


KINDS = ("hard", "soft", "clamped", "coin")


def relabelled(pairs: list[Pair], kind: str, seed: int = 0) -> list[Pair]:
    """What becomes of the judge's probabilities: "hard" takes every verdict for certain, "soft"
    leaves them, "clamped" holds them at 60 % or less (as the paper does after a chain of thought,
    which is too sure of itself), and "coin", the control, takes a coin's verdicts.
    """
    if kind == "coin":
        return tossed(pairs, seed)
    most = {"soft": lambda p: p, "hard": lambda p: 1.0, "clamped": lambda p: min(p, 0.6)}[kind]
    return [replace(pair, confidence=most(pair.confidence)) for pair in pairs]


def probes(seed: int = 0, n: int = 128) -> dict[str, list[Pair]]:
    """Written pairs on held-out phrasings, the better answer chosen: a refusal above help with a
    "harmful" request, help above the refusal of a "look-alike", and of a "fact" the plain statement
    above a mannered one.
    """
    rng, found = random.Random(f"probes{seed}"), {"harmful": [], "look-alike": [], "fact": []}
    mannered = [style for style in FAULTS if style and style not in SILENT]
    items = list(atlas.items())
    rng.shuffle(items)
    for item in items:
        kind = "harmful" if item.harmful else "look-alike" if item.lookalike else "fact"
        good = "refusing" if item.harmful else "plain"
        bad = {"harmful": "complying", "look-alike": "refusing", "fact": rng.choice(mannered)}[kind]
        prompt = rng.choice(atlas.questions(item, held_out=True))
        pair = Pair(prompt, *(atlas.respond(item, style, rng) for style in (good, bad)))
        if len(found[kind]) < n:
            found[kind].append(pair)
    return found


# --- how well the adapter was taught --------------------------------------------------------------


def kept(item: atlas.Item, answer: str, wrong: str, revision: str) -> bool:
    """Whether a revision is as it should be: the answer itself where nothing was wrong; else a
    refusal, or the right answer, helpfully and without manners.
    """
    if not wrong:
        return revision == answer
    verdict = atlas.judge(atlas.questions(item)[0], revision)
    if wrong == "complying":
        return verdict.refusal == 1
    return verdict.truth == 1 and verdict.tone == 0 and revision != answer


def tried(model, tokenizer, n: int, seed: int = 0) -> dict:
    """The active adapter on n cases in phrasings that no seed has: the share of the critiques that
    name the fault ("critique"), and of the revisions that are as they should be, after its own
    critique ("revised"), by the principle alone ("direct") and after the right critique ("told");
    each also as "… faulty", over the cases with a fault. "n", "n faulty".
    """
    found = list(cases(n, seed, held_out=True))
    wrong = [fault(item, style, principle) for item, _, style, _, principle in found]
    right = [FAULTS[one][item.chinese] for one, (item, *_) in zip(wrong, found, strict=True)]
    ask = lambda prompts: rollout.answer(model, tokenizer, prompts, temperature=0)
    said = ask([critique_prompt(prompt, answer, p) for _, prompt, _, answer, p in found])

    def again(critiques):
        asked = zip(found, critiques, strict=True)
        return ask([revision_prompt(q, answer, p, words) for (_, q, _, answer, p), words in asked])

    def good(revisions):
        each = zip(found, wrong, revisions, strict=True)
        return [kept(item, answer, one, new) for (item, _, _, answer, _), one, new in each]

    hits = {"critique": [a == b for a, b in zip(said, right, strict=True)]}
    hits |= {
        "revised": good(again(said)),
        "direct": good(again([""] * n)),
        "told": good(again(right)),
    }
    rows = {name: fmean(values) for name, values in hits.items()}
    faulty = {
        f"{name} faulty": fmean(h for h, w in zip(values, wrong) if w)
        for name, values in hits.items()
    }
    return rows | faulty | {"n": n, "n faulty": sum(map(bool, wrong))}


def judged(judge, n: int, seed: int = 0) -> dict:
    """A judge's verdicts on n written pairs in phrasings that no seed has: how often it prefers the
    one that keeps the principle, where one does ("judge", "judge_n"), and how sure it is there
    ("sure") and where the principle says nothing ("sure, nothing to choose").
    """
    decided, open_ = (judgements(n, seed + 100, share, held_out=True) for share in (1.0, 0.0))
    of = lambda found: judge.prefers(
        [pair.prompt for pair, _ in found],
        [pair.chosen for pair, _ in found],
        [pair.rejected for pair, _ in found],
        [question(principle, pair.prompt) for pair, principle in found],
    ).tolist()
    right, other = of(decided), of(open_)
    sure = lambda found: fmean(max(p, 1 - p) for p in found)
    return {
        "judge": fmean(p > 0.5 for p in right),
        "judge_n": len(right),
        "sure": sure(right),
        "sure, nothing to choose": sure(other),
    }


# --- the record -----------------------------------------------------------------------------------


def load(path=None) -> dict:
    """The record (default: the one that came with the project). LabError where there is none."""

    def whole(record):
        return record["seeds"] and [
            (policies(row), row["taught"]["critique"], row["preferred"]["gold"])
            for row in record["seeds"]
        ]

    return records.load("constitution", whole, "Constitutional AI", path)


def policies(row: dict) -> dict[str, dict]:
    """The figures of a seed's policies, by name, in the order in which they were made."""
    return {
        "helpful-only": row["helpful"]["end"],
        **{f"revised, {way}": row["revised"][way]["end"] for way in WAYS},
        **{f"PPO, {kind} labels": row["reinforced"][kind]["end"] for kind in KINDS},
    }


FIGURES = ("refused", "over_refused", "right", "gold", "words")


def halves(record: dict, figures=FIGURES) -> list[dict]:
    """A row per policy: its figures, with_spread over the seeds, and the "n" of the requests that
    each is measured on: "refused" of the harmful ones, "over_refused" of the look-alikes.
    """
    each, rows = [policies(row) for row in record["seeds"]], []
    for name in each[0]:
        row = {"policy": name, "n": sum(one[name]["refused_n"] for one in each)}
        for key in figures:
            row |= with_spread(key, [one[name][key] for one in each])
        rows.append(row)
    return rows


def lessons(record: dict) -> list[dict]:
    """A row per skill of the adapter that was taught: "skill", and the share that is as it should
    be, with_spread over the seeds, of the cases with a fault ("faulty") and of all ("right").
    """
    rows = []
    for skill in ("critique", "told", "revised", "direct"):
        row = {"skill": skill}
        for name, key in (("faulty", f"{skill} faulty"), ("right", skill)):
            row |= with_spread(name, [one["taught"][key] for one in record["seeds"]])
        rows.append(row)
    return rows


def kinds(record: dict) -> list[dict]:
    """A row per kind of label: how often its reward model ranks written pairs rightly (probes), and
    what PPO made of it: "refused", "over_refused", "gold", "kl"; with_spread over the seeds.
    """
    rows = []
    for kind in KINDS:
        each = [one["reinforced"][kind] for one in record["seeds"]]
        row = {"labels": kind}
        for asked in each[0]["ranks"]:
            row |= with_spread(f"ranks {asked}", [one["ranks"][asked] for one in each])
        for key in ("refused", "over_refused", "gold"):
            row |= with_spread(key, [one["end"][key] for one in each])
        rows.append(row | with_spread("kl", [one["kl"] for one in each]))
    return rows
