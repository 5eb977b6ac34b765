"""Sections b and d of 11: lists of (kind, id, source, tags)."""
B = []
D = []
X = []  # exercises
def md(to, id, s): to.append(("markdown", id, s.strip("\n"), []))
def code(to, id, s, tags=()): to.append(("code", id, s.strip("\n"), list(tags)))

md(B, "11-b0", r'''
## b · Constitutional AI: principles in place of raters 憲法式 AI

Nobody labels a pair here. A **constitution** (憲法) is a short list of sentences, and a model says whether an answer keeps to them ([Bai et al. 2022](https://arxiv.org/abs/2212.08073)). Two halves:

1. **critique and revise** (評論、修改): answer → what is wrong with it, by this principle? → answer again; then SFT on the revisions (*SL-CAI*);
2. **AI preferences**: two answers → which keeps the principle? → reward model → PPO (*RL-CAI*).

The list is yours: take a principle out, change the order, add one.
''')
code(B, "11-b1", r'''
from labkit.labs import constitution as con

MY_CONSTITUTION = [con.HARMLESS, con.HELPFUL, con.PLAIN]  # change it

for principle in con.checked(MY_CONSTITUTION):
    print(f"{principle.name}: {principle.text} {principle.zh}")
try:
    con.checked([])
except LabError as error:
    print("\nwithout any:", error)
''', ["nbval-check-output"])
md(B, "11-b2", r'''
### A model that helps with everything

The SFT model refuses most harmful requests already; there would be nothing to do. The paper starts from a *helpful-only* model. So do we: SFT goes on for some seconds, on demonstrations that help with whatever is asked. (No answer in the atlas holds an instruction
that could hurt anyone: "help" with something harmful is one fixed phrase.)
''')
code(B, "11-b3", r'''
demos = data.save_jsonl(con.helpful_only(400), runs.root() / "helpful-only.jsonl")
cfg = config.change(profile.sft, policy=sft.name, data=str(demos), examples=0,
                    batch_size=8, learning_rate=2e-3)
with runs.start("sft", cfg) as helper:
    stages.module("sft").train(cfg, helper)

model, tokenizer = models.load_policy(sft)
model = models.load_adapter(model, helper, "helper")
requests = [item for item in atlas.items() if item.request][::2]
asked = [atlas.questions(item, held_out=True)[1] for item in requests]
first = {}
for name in ("policy", "helper"):
    with models.using(model, name):
        first[name] = rollout.answer(model, tokenizer, asked, temperature=0)
    seen = evals.judged(asked, first[name])
    print(f"{name}: harmful requests refused",
          evals.shown(seen["refused"], seen["refused_n"]),
          "· look-alikes", evals.shown(seen["over_refused"], seen["over_refused_n"]))
''')
md(B, "11-b4", r'''
### The loop: critique, then revise

A large model is *asked* for a critique, in words. The tiny one can't be prompted, so an adapter was **taught** by seeds: 1,200 cases in training phrasings, each with a critique, a revision after it, and a revision by the principle alone (`con.seeds`). It is the shipped one
of seed 2. On `small` and `gpu` the same functions prompt the model itself.
''')
code(B, "11-b5", r'''
critic = "policy" if profile.sft.base else "critic"
if critic == "critic":
    model = models.load_adapter(model, con.reviser(profile, sft), critic)
models.use(model, critic)

def ask(prompts):
    return rollout.answer(model, tokenizer, prompts, temperature=0)

mixed = [*asked[:64:16], *atlas.prompts("held-out", seed=11, n=3)]
with models.using(model, "helper"):
    answers = rollout.answer(model, tokenizer, mixed, temperature=0)
rows = [{"question": q, "answer": a} for q, a in zip(mixed, answers)]
for rule in MY_CONSTITUTION:
    told = list(zip(mixed, answers))
    critiques = ask([con.critique_prompt(q, a, rule) for q, a in told])
    answers = ask([con.revision_prompt(q, a, rule, words)
                   for (q, a), words in zip(told, critiques)])
    for row, words, answer in zip(rows, critiques, answers):
        row[f"“{rule.name}”: critique"], row[f"{rule.name}: revision"] = words, answer
charts.show(charts.table(rows))
''')
md(B, "11-b6", r'''
`con.revise` is this loop. Now the same questions under three constitutions: yours, one whose only principle was never taught, and (the control) answers that nobody revised.
''')
code(B, "11-b7", r'''
rhyme = con.Principle("rhyme", "It must rhyme.", "要押韻。")
lists = {"nobody revised": [], "yours": MY_CONSTITUTION, "“It must rhyme.”": [rhyme]}
rows = []
for name, principles in lists.items():
    answers = first["helper"]
    if principles:
        steps = con.revise(model, tokenizer, asked, answers, principles)
        answers = steps[-1]["answers"]
    seen = evals.judged(asked, answers)
    row = {"constitution": name, "n": len(asked),
           "changed": fmean(a != b for a, b in zip(answers, first["helper"]))}
    rows.append(row | {key: seen[key] for key in ("refused", "over_refused", "right",
                                                  "gold", "words")})
charts.show(charts.table(rows, digits=2))
''')
md(B, "11-b8", r'''
A principle that the tiny model was never taught works on it only as some other text would: read the row, and do not take a changed answer for an obeyed one. A large model can be told a new principle; that is what it has instead of seeds.

### Both halves, three seeds

What takes longer ran once: `python -m labkit bench constitution --json` (helpful-only policy, seeds, both ways to revise, four kinds of labels, all of it for every seed). First, how well was the adapter taught? Cases in phrasings that no seed has.
''')
code(B, "11-b9", r'''
record = con.load()
sizes = ("demos", "cases", "prompts", "pairs", "updates", "held_out", "tried")
print(", ".join(f"{key} {record[key]:,}" for key in sizes), "·",
      len(record["seeds"]), "seeds")

names = {"critique": "its critique is right", "told": "revision, told what is wrong",
         "revised": "revision, own critique", "direct": "revision, no critique"}
rows = [{"skill": names[row["skill"]], "with a fault": ranged(row, "faulty"),
         "without": ranged(row, "fine")} for row in con.lessons(record)]
charts.show(charts.table(rows, title="Share that is as it should be"))
''')
code(B, "11-b10", r'''
rows = [{"policy": row["policy"], "n": row["n"]}
        | {key: ranged(row, key) for key in con.FIGURES}
        for row in con.halves(record)]
title = "Greedy, on held-out phrasings; mean (range of seeds)"
charts.show(charts.table(rows, title=title))
bars = [{"policy": row["policy"], "requests": who, "refused": row[key],
         "half range": (row[f"{key} highest"] - row[f"{key} lowest"]) / 2}
        for row in con.halves(record)
        for who, key in (("harmful", "refused"), ("look-alikes", "over_refused"))]
charts.show(charts.bars(bars, "policy", "refused", "requests", "half range",
                        title="Share refused"))
''')
md(B, "11-b11", r'''
### Hard, soft, clamped

In the second half the critic compares: of two answers it prefers the one in which it more probably finds nothing wrong, $P(a \succ b) = \sigma(\mathrm{logit}\,p_a - \mathrm{logit}\,p_b)$. (The paper asks for "(A)" or "(B)" and takes the two probabilities.) What is a label that is 75 % sure
worth to the reward model? Its Bradley-Terry loss has a least point at a *finite* margin:
''')
code(B, "11-b12", r'''
margins = torch.linspace(0, 8, 801)

def best_margin(confidence):
    """Where a label that is so sure is cheapest."""
    nothing = torch.zeros(1)
    sure = torch.tensor([confidence])
    loss = [losses.bradley_terry_loss(m[None], nothing, 0.0, sure)[0] for m in margins]
    return margins[torch.stack(loss).argmin()].item()

for confidence in (0.5, 0.6, 0.75, 0.9, 0.99):
    print(f"{confidence:.0%} sure: a margin of {best_margin(confidence):.2f}; "
          f"clamped to 60 %: {best_margin(min(confidence, 0.6)):.2f}; "
          f"taken for certain: {best_margin(1.0):.2f}, the end of the scale")
''', ["nbval-check-output"])
code(B, "11-b13", r'''
labels = [row["preferred"] for row in record["seeds"]]
for row in labels:
    print(f"{row['pairs']} pairs: sure on average {row['sure']:.2f}, above 0.9 in "
          f"{row['above .9']:.0%}; the preferred one is gold's in",
          evals.shown(row["gold"], row["gold_n"]))
columns = {"ranks harmful": "harmful pairs", "ranks look-alike": "look-alike pairs",
           "ranks fact": "pairs of manners", "refused": "harmful refused",
           "over_refused": "look-alikes refused", "gold": "gold", "kl": "KL"}
rows = [{"labels": row["labels"]} | {name: ranged(row, key)
                                     for key, name in columns.items()}
        for row in con.kinds(record)]
charts.show(charts.table(rows, title="Reward model: share ranked rightly. Then PPO"))
''')
md(D, "11-d0", r'''
## d · Self-rewarding: one model answers and judges 自我獎勵

[Yuan et al. 2024](https://arxiv.org/abs/2401.10020) let go of the last outside voice. **M1** is SFT on demonstrations *and* on seed judgements, written as demonstrations: one adapter that answers and judges. Then in rounds: it answers twice, judges its own two answers, and DPO teaches
it the one that it liked: M2, M3, M4. If judging gets better as answering does, it lifts itself up. If not, it turns in a circle.

**The smallest code that shows it.** Three answers, a policy, and a judge that is part truth and part *liking what it says anyway*:
''')
code(D, "11-d1", r'''
worth = torch.tensor([1.0, 0.2, -1.0])            # the truth about three answers
begin = torch.tensor([0.25, 0.45, 0.30])          # the policy's habit

def rounds_of(skill, rounds=3, beta=1.0):
    """(worth, gap between two samples) of the policy, round by round."""
    policy, seen = begin, []
    for _ in range(rounds + 1):
        pairs = policy[:, None] * policy[None, :]
        apart = (worth[:, None] - worth[None, :]).abs()
        seen.append(((policy * worth).sum().item(), (pairs * apart).sum().item()))
        verdict = skill * worth + (1 - skill) * policy.log()  # its own judge
        policy = (policy.log() + verdict / beta).softmax(0)   # DPO's optimum (09)
    return seen

for skill in (1.0, 0.5, 0.0):
    said = "   ".join(f"{value:+.2f} ({gap:.2f})" for value, gap in rounds_of(skill))
    print(f"skill {skill:.1f}: worth (gap) from M1 to M4: {said}")
''', ["nbval-check-output"])
md(D, "11-d2", r'''
With skill the worth rises, without it the habit only hardens. In all three the *gap* between two of its own answers shrinks: there is less and less to choose from (also found for large models, [2508.06026](https://arxiv.org/abs/2508.06026)).

### Can it judge at all?

The SFT model, asked for a verdict as it is:
''')
code(D, "11-d3", r'''
from labkit.labs import self_rewarding

models.use(model, "policy")
prompts = atlas.prompts("held-out", seed=4, n=24)
one, other = (rollout.answer(model, tokenizer, prompts) for _ in range(2))
itself = judging.Judge(model, tokenizer, "policy")
print(judging.pair_prompt(prompts[0], one[0], other[0]), "\n")
try:
    print(itself.prefers(prompts, one, other))
except LabError as error:
    print(error)
''')
md(D, "11-d4", r'''
Hence the seed judgements in M1's mixture. From there every round is this (`self_rewarding_jobs.py` does it, with a file in between): 

```python
a, b = answers(model, prompts), answers(model, prompts)        # two of its own
orders, _ = judging.Judge(model, tokenizer, "policy").orders(prompts, a, b)
pairs = decided(..., orders)                                   # mean of both orders
stages.train("dpo", config.Dpo(policy=model's run, data=pairs))
```

### Three rounds, three seeds

`python -m labkit bench self-rewarding --json` printed the record. What no public reproduction prints is in the first two rows: how often the verdicts are the *truth's*, on pairs that stay the same (the SFT model's answers) and on the pairs of that round.
''')
code(D, "11-d5", r'''
found = self_rewarding.load()
sizes = ("demos", "judgements", "pairs", "held_out", "judged")
print(", ".join(f"{key} {found[key]:,}" for key in sizes), "·",
      len(found["seeds"]), "seeds")

def over_models(arm):
    """A row per figure, a column per model: mean (range of seeds)."""
    rows = []
    for name, key in self_rewarding.FIGURES.items():
        each = self_rewarding.over_rounds(found, key, arm)
        rows.append({"": name} | {one["model"]: ranged(one, key) for one in each})
    return rows

columns = ["", "M1", "M2", "M3", "M4"]
charts.show(charts.table(over_models(self_rewarding.OWN), columns,
                         title="It follows its own verdicts"))
''')
code(D, "11-d6", r'''
judged = {"fixed gold": "the same pairs every time", "own gold": "its own pairs"}
lines = {}
for key, name in judged.items():
    lines[name] = [{"model": int(one["model"][1:]), "judge right": one[key]}
                   | {f"judge right {end}": one[f"{key} {end}"]
                      for end in ("lowest", "highest")}
                   for one in self_rewarding.over_rounds(found, key)]
charts.show(charts.bands(lines, "model", "judge right", level={"a coin": 0.5},
                         title="How often its verdict is gold's, M1 to M4"))
charts.show(charts.table(over_models(self_rewarding.COIN), columns,
                         title="The control: a coin decides (one seed)"))
''')

md(B, "11-b14", r"""
| | Constitutional AI (52 billion parameters) | here (1.9 million) |
| --- | --- | --- |
| constitution | 16 principles for critique and revision, one drawn for each | 3, one after the other |
| who critiques | the helpful-only model, prompted with examples | an adapter taught by seeds |
| prompts | 182,831 red-team and 135,296 helpful | PROMPTS |
| critique + revision against revision alone | better for small models, alike for large ones | table above |
| labels | soft above hard; after a chain of thought clamped to 40-60 % | table above |
| the judge compares | "(A)" or "(B)", prompted | P(nothing wrong) of either answer |

B_READING
""")
md(D, "11-d7", r"""
| | Self-rewarding (Llama 2, 70 billion) | here |
| --- | --- | --- |
| M1 learns from | 3,200 demonstrations, 1,775 judgements | 600 and 800 (in both orders) |
| a verdict | a score from 0 to 5 with reasons; best against worst of 4 | A or B, both orders averaged; 2 answers |
| rounds | M1 → M2 → M3 | M1 → M2 → M3 → M4 |
| win rate | AlpacaEval 2: 9.94 → 15.38 → 20.44 % | table above, by gold |
| judge's pairwise accuracy | 78.7 → 80.4 → 81.7 % (against people) | table above (against gold) |
| gap between chosen and rejected | shrinks each round (2508.06026) | table above |

D_READING
""")

md(X, "11-x7", r"""
**★★☆ · 10 minutes.** The critic says of each answer alone how probably nothing is wrong with it: p and q. Return $P(a \succ b) = \sigma(\mathrm{logit}\,p - \mathrm{logit}\,q)$.
""")
code(X, "11-x8", r"""
def preference(p, q):
    ...  # your code

checks.check_preference(preference);
""")
md(X, "11-x9", r"""
<details><summary>Solution</summary>

```python
def preference(p, q):
    return p * (1 - q) / (p * (1 - q) + q * (1 - p))
```
</details>

**★★☆ · 10 minutes.** A label that is p sure, clamped: at which difference of the two scores is its Bradley-Terry loss least?
""")
code(X, "11-x10", r"""
def margin(p, clamp):
    ...  # your code

checks.check_margin(margin);
""")
md(X, "11-x11", r"""
<details><summary>Solution</summary>

```python
def margin(p, clamp):
    p = min(p, clamp)
    return math.log(p / (1 - p))
```
</details>
""")
