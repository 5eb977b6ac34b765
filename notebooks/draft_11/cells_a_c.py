"""Notebook 11: head, sections a and c, exercises and summary. Lists of (kind, id, source, tags)."""
H, A, C, X = [], [], [], []   # head, a · RLAIF, c · scores, exercises and summary
def md(to, id, s): to.append(("markdown", id, s.strip("\n"), []))
def code(to, id, s, tags=()): to.append(("code", id, s.strip("\n"), list(tags)))

md(H, "11-h0", r'''
# 11 · AI feedback: a model in the rater's place AI 回饋

[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/rlhf-labs/rlhf-labs/blob/main/notebooks/11_ai_feedback.ipynb)
[![Launch on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/rlhf-labs/rlhf-labs/main?urlpath=lab/tree/notebooks/11_ai_feedback.ipynb)

People are slow and dear. The lecture's question: can a *machine* say which answer is better? (用 AI 的回饋代替人的回饋) Four ways to let it, each measured against the truth of the atlas.

**You will see**
- **a · RLAIF**: a model learns to judge; the same pair in both orders; how often its verdict follows the *place*, and what averaging does to that; soft labels; PPO on AI labels beside PPO on people's; the judge's score as the reward itself;
- **b · Constitutional AI**: principles that you edit; answer, critique, revision, then AI preferences;
- **c · scores from 1 to 10** by a stronger model: what they agree with, and what a coarse scale loses against pairs;
- **d · self-rewarding**: one model answers and judges, round after round.

*About 2 minutes on 2 CPU cores, 1.5 GB of memory. Shipped SFT and judge stand in for yours; what takes longer is in shipped records.*

Papers: [RLAIF](https://arxiv.org/abs/2309.00267), [Constitutional AI](https://arxiv.org/abs/2212.08073), [Instruction tuning with GPT-4](https://arxiv.org/abs/2304.03277), [Self-rewarding language models](https://arxiv.org/abs/2401.10020).
''')
code(H, "11-h1", r'''
# Setup, the same in every notebook. On Colab the first line fetches the project.
import importlib.util
if importlib.util.find_spec("labkit") is None:
    %pip install -q "rlhf-labkit @ git+https://github.com/rlhf-labs/rlhf-labs"
from labkit import notebook
profile = notebook.setup()
''')
md(H, "11-h2", r'''
**In one picture.**

PICTURE

A judge is a language model that reads the question and both answers, and says "A" or "B". Nobody has to believe its text: what counts is the probability of the two letters.
''')
md(A, "11-a0", r'''
## a · RLAIF: a judge labels the pairs

[Lee et al. 2023](https://arxiv.org/abs/2309.00267) put a language model where the rater sat. **The smallest code that shows it**: a judge that sees something of the answers' worth, and *likes what stands first*.
''')
code(A, "11-a1", r'''
import random
from statistics import fmean

import torch

worth = {"玉山。": 1.0, "玉山，希望對你有幫助。": 0.6, "誰來告訴我呀？": -0.5}
likes_first = 1.2                                 # logits for whatever stands first

def p_first(one, other):
    """P("A") with `one` as A and `other` as B."""
    logit = torch.tensor(worth[one] - worth[other] + likes_first)
    return logit.sigmoid().item()

answers = list(worth)
for i, better in enumerate(answers):
    for worse in answers[i + 1:]:
        first, swapped = p_first(better, worse), p_first(worse, better)
        mean = (first + 1 - swapped) / 2
        print(f"{better} > {worse}: P(A) {first:.2f}, places swapped {swapped:.2f}"
              f" → P(better) {first:.2f} and {1 - swapped:.2f}, mean {mean:.2f}")
''', ["nbval-check-output"])
md(A, "11-a2", r'''
Two of the three pairs get "A" in both orders: a single verdict would only have told which answer stood first. The mean is above ½ in all three. What the place adds to both orders alike cancels; what is left is smaller than it was, and tells the answers apart.

### The loop before the stage: a model learns to judge

A large model is asked in words, as it is. The tiny one cannot be prompted, so it is *taught* from **seed judgements**: pairs that a rater compared. The chat prompt is the question with both answers, the answer is one letter, the loss is SFT's (notebook 02) on that letter:
''')
code(A, "11-a3", r'''
from labkit import LabError, atlas, charts, chat, checks, config, data, evals, judges
from labkit import judging, losses, models, rollout, runs, stages
from labkit.maths.logprobs import last_places

seeds = data.load_pairs(runs.shipped("reward").path / "pairs.jsonl")[-160:]
model, tokenizer = models.load_base()
model = models.add_lora(model, profile.ai_feedback, "by hand")
passes = models.forward(model, "by hand")
letters = [chat.encode_text(tokenizer, letter)[0] for letter in judging.LETTERS]
print(judging.pair_prompt("台灣最高的山是哪座？", "玉山。", "誰來告訴我呀？"), "\n")

def letter_logits(prompts):
    """(N, V): what the model would say first, after each of the prompts."""
    rows = [chat.encode_prompt(tokenizer, prompt) for prompt in prompts]
    ids, mask = chat.pad(rows, tokenizer.pad_token_id)
    ids, mask = ids.to(model.device), mask.to(model.device)
    return passes.logits_at(ids, mask, last_places(mask))[0]
''')
code(A, "11-a4", r'''
weights = models.adapter_parameters(model, "by hand")
rate = profile.ai_feedback.learning_rate
optimizer = torch.optim.AdamW(weights, rate, weight_decay=0)
demos = judging.pair_demos(seeds)                         # every pair in both orders
random.Random(0).shuffle(demos)
steps = []
for first in range(0, len(demos), 8):
    some = demos[first : first + 8]
    passes.refresh()                                      # the adapter has moved
    logits = letter_logits([demo.prompt for demo in some])
    said = [letters[judging.LETTERS.index(demo.response)] for demo in some]
    target = torch.tensor(said, device=model.device)
    loss = torch.nn.functional.cross_entropy(logits, target)
    optimizer.zero_grad(), loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    both = logits[:, letters].detach().logsumexp(-1) - logits.detach().logsumexp(-1)
    steps.append({"loss": loss.item(), "P(A) + P(B)": both.exp().mean().item()})
for step in (0, len(steps) // 2, len(steps) - 1):
    told = ", ".join(f"{key} {value:.3f}" for key, value in steps[step].items())
    print(f"step {step + 1}: {told}")
print("a coin between two letters would have the loss log 2 = 0.693")
''')
md(A, "11-a5", r'''
It first learns *to answer with a letter*; which letter comes much later. `train ai-feedback` does the same with 2,000 seed judgements, then lets the judge label fresh pairs. That judge is shipped. (On `small` and `gpu` the judge is the profile's own model, prompted.)
''')
code(A, "11-a6", r'''
judge = judges.of_profile(profile)
sft = notebook.using("sft")
model, tokenizer = models.load_policy(sft)
cfg = config.change(profile.reward, seed=7)    # questions that no training set has
fresh = rollout.preference_pairs(model, tokenizer, cfg, 120, split="held-out")
sides = [[getattr(pair, key) for pair in fresh]
         for key in ("prompt", "chosen", "rejected")]

def in_one_order(judge, prompts, a, b):
    """P("A") (N,), a first: the softmax over the two letters' probabilities."""
    share, mass = judge.first(prompts, a, b)
    return share

a_first = in_one_order(judge, *sides)          # the rater's choice stands first
b_first = in_one_order(judge, sides[0], sides[2], sides[1])    # and second
rows = [{"question": pair.prompt, "rater chose": pair.chosen, "against": pair.rejected,
         "P(A)": p, "P(A), swapped": q, "P(chosen better)": (p + 1 - q) / 2}
        for pair, p, q in zip(fresh[:5], a_first.tolist(), b_first.tolist())]
charts.show(charts.table(rows, digits=2))
''')
code(A, "11-a7", r'''
better = torch.stack([a_first, 1 - b_first], 1)             # (N, 2): P(chosen better)
n = len(fresh)
same_place = (better[:, 0] > 0.5) != (better[:, 1] > 0.5)
print("follows the place:", evals.shown(same_place.float().mean().item(), n))
print('says "A" in', f"{torch.stack([a_first, b_first]).gt(0.5).float().mean():.2f}",
      "of all verdicts")
for name, said in (("chosen first", better[:, 0]), ("chosen second", better[:, 1]),
                   ("both orders", better.mean(1))):
    right = (said > 0.5).float().mean().item()
    print(f"agrees with the rater, {name}: {evals.shown(right, n)}")
print("the same by judging.examined:", judging.examined(judge, fresh))
''')
md(A, "11-a8", r'''
### Judges of several sizes, three seeds

What takes longer ran once: `python -m labkit bench judges --json`. Judges that saw 250, 1,000 and 2,000 seed judgements, and *smaller models*: the first one or two of the base's four layers, with 1,000 judgements. All are asked about the same held-out pairs. "4 layers" stands for the row
with 1,000 judgements.
''')
code(A, "11-a9", r'''
measured = judges.load()

def ranged(row, key):
    low, high = row[f"{key} lowest"], row[f"{key} highest"]
    return f"{row[key]:.2f} ({low:.2f} to {high:.2f})"

table = judges.summary(measured)
pairs_each = len(measured["seeds"][0]["told"])
columns = {"follows the place": "position", "right, one order": "one order",
           "right, both orders": "both orders", "gold, one order": "gold one order",
           "gold, both orders": "gold"}
rows = [{"judge": row["judge"], "parameters": row["parameters"]}
        | {name: ranged(row, key) for name, key in columns.items()} for row in table]
title = f"{pairs_each} held-out pairs a seed; mean (range of three seeds)"
charts.show(charts.table(rows, title=title))
rater = ranged(table[0], "gold of the rater")
print("the rater himself chooses gold's answer in", rater)
''')
code(A, "11-a10", r'''
bars = [{"judge": row["judge"], "verdict": name, "agrees with the rater": row[key],
         "half range": (row[f"{key} highest"] - row[f"{key} lowest"]) / 2}
        for row in table for name, key in (("one order", "one order"),
                                           ("both orders", "both orders"))]
charts.show(charts.bars(bars, "judge", "agrees with the rater", "verdict", "half range",
                        title="What averaging the two orders does"))
for row in table:
    print(f"{row['judge']}: follows the place in {row['position']:.0%};"
          f" averaging adds {row['both orders'] - row['one order']:+.3f}")
''')
code(A, "11-a10b", r'''
largest = table[2]
rows = [{"person": name, "agrees with the judge": ranged(largest, name),
         "with the careful rater": ranged(largest, f"{name} and rater")}
        for name in atlas.panel()]
title = f"The judge with {largest['judge']}, both orders, and four simulated people"
charts.show(charts.table(rows, title=title))
''')
md(A, "11-a11", r'''
| | follows the place | agrees with people |
| --- | --- | --- |
| PaLM 2 L / S / XS as judges (RLAIF paper, prompted) | 18 / 21 / 56 % | 78.0 / 73.8 / 62.7 % |
| GPT-4 / GPT-3.5 / Claude-v1 (MT-bench) | *consistent* after swapping: 65 / 46 / 24 % | |
| here | table above | table above, "right, both orders" |

PLACE_READING

### Soft labels

The judge gives a probability, not only a letter. Is 0.7 right in 70 %? All pairs of the three seeds, by how sure the averaged label is:
''')
code(A, "11-a12", r'''
name = largest["judge"]
rows = [{"label is sure by": f"{row['from']:.2f} to {row['to']:.2f}",
         "mean": row["sure"],
         "agrees with the rater": row["right"], "n": row["n"]}
        for row in judges.calibration(measured, name)]
charts.show(charts.table(rows, digits=2, title=f"The judge with {name}"))
one = data.Pair("台灣最高的山是哪座？", "玉山。", "誰來告訴我呀？", confidence=0.65)
for sure in (1.0, one.confidence, 0.5):
    loss, _ = losses.bradley_terry_loss(torch.tensor([2.0]), torch.zeros(1), 0.0, sure)
    print(f"reward model ahead by 2.0, label {sure:.2f} sure: loss {loss:.3f}")
''')
md(A, "11-a13", r'''
SOFT_READING `Pair.confidence` carries the label into the reward model's Bradley-Terry loss: with a label that is only 0.65 sure, being ahead by 2 costs *more* than with a certain one, so the scores stay closer together.

### From labels to policies

The same pairs, once as the rater compared them, once as the judge labels them (it never saw these pairs). A reward model learns from either, PPO from that. And **direct RLAIF**: no reward model; the judge that learned scores (section c) is asked about every answer that PPO samples.
''')
code(A, "11-a14", r'''
rewards = {"rater's labels": "rater", "AI labels": "judge", "rater's scores": "scores"}
def spread(values):
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"

labelled = [row["rewards"]["judge"]["labels_right"] for row in measured["seeds"]]
print("AI labels that are the rater's:", spread(labelled))
rows = []
for name, key in rewards.items():
    found = [row["rewards"][key] for row in measured["seeds"]]
    row = {"reward model from": name, "pairs": fmean(one["pairs"] for one in found)}
    rows.append(row | {f"agrees with the {who}": spread([one[who] for one in found])
                       for who in ("rater", "gold")})
title = "On held-out pairs, mean (range of seeds)"
charts.show(charts.table(rows, digits=0, title=title))
''')
code(A, "11-a15", r'''
found = judges.policies(measured)
rows = [{"policy": row["policy"], "wins, greedy": ranged(row, "wins_greedy"),
         "wins at equal entropy": ranged(row, "wins_matched"),
         "right": ranged(row, "right"), "words": ranged(row, "words_greedy"),
         "KL": ranged(row, "kl")} for row in found]
n = found[0]["n"]
charts.show(charts.table(rows, title=f"Against SFT, by gold; {n} questions a seed"))
rlhf, rlaif, direct = (row["wins_greedy"] for row in found)
print(f"RLAIF's greedy win rate less RLHF's: {rlaif - rlhf:+.3f};"
      f" direct RLAIF's less RLHF's: {direct - rlhf:+.3f}")
''')
md(A, "11-a16", r'''
| win rate against SFT | RLHF | RLAIF | direct RLAIF |
| --- | --- | --- | --- |
| RLAIF paper (summaries; people judge) | 73 % | 71 % | 74 % |
| here (gold judges, greedy) | first row | second row | third row |

POLICY_READING
''')
md(C, "11-c0", r'''
## c · Scores from 1 to 10 by a stronger model 打分數

[Peng et al. 2023](https://arxiv.org/abs/2304.03277) had GPT-4 write answers *and score them from 1 to 10*; a reward model learned from the scores. A score needs no second answer. But which number? Not the likeliest one: the **expected score**, over the probabilities of all ten.
''')
code(C, "11-c1", r'''
tables = {"sure of 7": [0, 0, 0, 0, 0, 0.05, 0.9, 0.05, 0, 0],
          "7, perhaps 9": [0, 0, 0, 0, 0, 0.1, 0.5, 0.1, 0.3, 0],
          "7, perhaps 3": [0, 0, 0.3, 0.1, 0, 0.1, 0.5, 0, 0, 0]}
for name, p in tables.items():
    expected = sum(i * chance for i, chance in enumerate(p, 1)) / sum(p)
    print(f"{name:13} likeliest {1 + p.index(max(p))}, expected {expected:.2f}")
''', ["nbval-check-output"])
md(C, "11-c2", r'''
Three answers with the same likeliest score; the expected one tells them apart. (On this tokenizer "10" is "1" and "0": the share of 10 is taken off that of 1, `Judge.said`.)

Our stronger model is a judge that learned 3,000 scores of the careful rater, given on a scale: his utility, from "wrong and long" (1) to "right and short" (10), with his noise. Does it agree with him, and with gold?
''')
code(C, "11-c3", r'''
seen = judges.over_seeds(judges.of_scores(measured))
rows = [{"who": who, "rank correlation": ranged(seen, who)}
        for who in ("judge and gold", "judge and rater", "rater and gold")]
charts.show(charts.table(rows, title="Spearman's ρ of scores; mean (range of seeds)"))
rows = [{"scores": name, "tied pairs": ranged(seen, f"{name}: tied"),
         "gold's order, ties half": ranged(seen, f"{name}: right, ties half")}
        for name in ("expected score", "rounded", "rater's score")]
charts.show(charts.table(rows, title="What the scores say of held-out pairs"))
''')
md(C, "11-c4", r'''
### Beside people's scores

The rating panel (notebook 05) has a *scale* mode. Two simulated people score both answers of the pairs from section a, through the same store as yours; with a name in `ME` your own scores from the panel are compared instead.
''')
code(C, "11-c5", r'''
from labkit.feedback import Feedback, Store

ME = ""                                                   # a rater in your own store
store = Store(None if ME else runs.root() / "scores-11.sqlite")
for seed, rater in enumerate(() if ME else list(atlas.panel(3).values())[:2]):
    scored = [judges.scores_of(sides[0], side, 10 * seed + i, rater)
              for i, side in enumerate(sides[1:])]
    store.extend(Feedback(pair.prompt, (pair.chosen, pair.rejected), "scale", both,
                          rater=rater.name) for pair, *both in zip(fresh, *scored))
people, gold = {}, {}
for one in store.all(ME or None, "scale"):
    for text, score in zip(one.responses, one.verdict):
        people.setdefault(one.rater, {})[one.prompt, text] = score
        gold[one.prompt, text] = atlas.judge(one.prompt, text).total
for name, scores in people.items():
    theirs = [gold[key] for key in scores]
    rho = judges.rank_correlation(list(scores.values()), theirs)
    print(f"{name}: {len(scores)} answers scored; rank correlation with gold {rho:.2f}")
names = list(people)
if len(names) > 1:
    shared = [key for key in people[names[0]] if key in people[names[1]]]
    both = [[people[name][key] for key in shared] for name in names[:2]]
    exact = fmean(x == y for x, y in zip(*both))
    print(f"they give the same score to {exact:.0%} of {len(shared)} answers; rank "
          f"correlation of the two {judges.rank_correlation(*both):.2f}")
''')
md(C, "11-c6", r'''
### What a coarse scale loses

One person (the careful rater, with his noise) compares two answers, or scores each of them on a scale with ten, five, three or two steps. His pairs and his scores have the same noise: an answer feels worth its utility and a little luck, and the scale only rounds it.
''')
code(C, "11-c7", r'''
some = seeds + data.load_pairs(runs.shipped("reward").path / "pairs.jsonl")[-1160:-160]
prompts = [pair.prompt for pair in some]
texts = [[getattr(p, side) for p in some] for side in ("chosen", "rejected")]
felt = [judges.Simulated(atlas.Rater()).utilities(prompts, side) for side in texts]
gap = (felt[0] - felt[1]).tolist()
rows = []
for steps in (1000, 10, 5, 3, 2):
    marks = [judges.scores_of(prompts, side, i, most=steps)
             for i, side in enumerate(texts)]
    found = judges.ordered(*marks, gap)
    rows.append({"steps of the scale": steps, "tied": found["tied"],
                 "right, of those not tied": found["right"],
                 "right, ties half": found["right, ties half"]})
charts.show(charts.table(rows, digits=2,
                         title=f"Which of two is better, by score; {found['n']} pairs"))
''')
md(C, "11-c8", r'''
COARSE_READING A pair has no rounding: it can tell two answers apart that would get the same mark. What a *score* has instead: it says how good one answer is, without another to stand beside.

At equal numbers of labels the two meet in section a's table of reward models: a score is one label, so a pair by scores costs two. LABELS_READING
''')
md(X, "11-x0", r'''
## With your own pairs, and with other judges

A JSONL file of `prompt`, `chosen`, `rejected` trains a judge of *your* taste; `judges.prompted` asks any model of the Hub (with examples, it is shown some pairs first).
''')
code(X, "11-x1", r'''
MY_PAIRS, MY_JUDGE = "", ""       # a file of pairs; a Hub id such as "Qwen/Qwen3-0.6B"

if MY_PAIRS:
    mine = config.change(profile.ai_feedback, data=MY_PAIRS, examples=0, labels=200)
    own = stages.train("ai_feedback", mine, listen=charts.live)
    charts.show(charts.table([own.evaluation]))
if MY_JUDGE:
    asked = judges.prompted(MY_JUDGE, examples=seeds[:4])
    charts.show(charts.table([judging.examined(asked, fresh)]))
if not (MY_PAIRS or MY_JUDGE):
    print("With a path in MY_PAIRS this cell would train a judge on your pairs; with a "
          "model in MY_JUDGE it would ask that one about the pairs of section a.")
''')
md(X, "11-x2", r'''
A judge that does not answer with a letter is told so, and nothing is labelled. The bare base, which nobody taught to judge:
''')
code(X, "11-x3", r'''
base = judges.prompted(sft.info["base"]["name"])
try:
    base.labels(*sides)
except LabError as error:
    print(error)
''')
md(X, "11-x4", r'''
## Exercises

**1 · ★★☆ · 10 minutes. Predict an experiment, then run it.** The judge's prompt has the question first, then both answers. Which pairs move its verdict most when the answers change places: those in which one answer is *right* and one wrong, those in which both are right
and only the *manner* differs, or those in which both are wrong? (Figure: the mean change of P(chosen better).) Guess first.
''')
code(X, "11-x5", r'''
def experiment():
    """Mean |P(chosen better), first − second|, by what the pair is about."""
    kinds = {"one is right": [], "both are right": [], "both are wrong": []}
    for pair, first, second in zip(fresh, *places):
        right = [atlas.judge(pair.prompt, text).truth == 1
                 for text in (pair.chosen, pair.rejected)]
        kind = list(kinds)[0 if sum(right) == 1 else 1 if all(right) else 2]
        kinds[kind].append(abs(first - second))
    return {kind: fmean(values) if values else 0.0 for kind, values in kinds.items()}

places = a_first.tolist(), (1 - b_first).tolist()
guess = ...  # "one is right", "both are right" or "both are wrong"

checks.check_prediction(guess, ["one is right", "both are right", "both are wrong"],
                        experiment);
''')
md(X, "11-x6", r'''
<details><summary>What to think about</summary>

The judge sees manners more easily than facts: words such as "sorry" stand in the answer, while a wrong capital looks like a right one. Where it sees nothing, the place is all that is left to decide by. But P also moves *more* where the judge is near ½, since σ is steepest there.
</details>

**2 · ★☆☆ · 5 minutes.** P("A") with the answer first, and P("A") with the places swapped: return the probability that the answer is better, the position taken out.
''')
code(X, "11-x7", r'''
def both_orders(first, swapped):
    ...  # your code

checks.check_both_orders(both_orders);
''')
md(X, "11-x8", r'''
<details><summary>Solution</summary>

```python
def both_orders(first, swapped):
    return (first + 1 - swapped) / 2
```
</details>

**3 · ★★☆ · 5 minutes.** The share of pairs in which both verdicts name the same *letter*, of two lists of P("A"). (18 % for PaLM 2 L.)
''')
code(X, "11-x9", r'''
def position_share(first, swapped):
    ...  # your code

if checks.check_position_share(position_share):
    share = position_share(a_first.tolist(), b_first.tolist())
    print(f"the judge of section a: {share:.2f}")
''')
md(X, "11-x10", r'''
<details><summary>Solution</summary>

```python
def position_share(first, swapped):
    return fmean((a > 0.5) == (b > 0.5) for a, b in zip(first, swapped))
```
</details>

**4 · ★☆☆ · 5 minutes.** The expected score of ten probabilities that need not sum to 1.
''')
code(X, "11-x11", r'''
def expected_score(probabilities):
    ...  # your code

checks.check_expected_score(expected_score);
''')
md(X, "11-x12", r'''
<details><summary>Solution</summary>

```python
def expected_score(probabilities):
    return sum(i * p for i, p in enumerate(probabilities, 1)) / sum(probabilities)
```
</details>

## Summary

- A judge is a language model asked for one letter; its probability is a soft label.
- One order tells as much of the place as of the answers. Ask in both orders, and average.
- A judge is measured before it is used: place, agreement with raters, agreement with truth, each with n.
- Labels that are often wrong can still make a reward model that is right more often than they are, because their errors do not all point one way.
- Scores need no second answer, but a coarse scale ties what a pair tells apart; the expected score is finer than the likeliest one.

**Next:** [12 · helpful or safe](12_helpful_or_safe.ipynb). Before this: [10 · KTO](10_kto.ipynb).
''')
