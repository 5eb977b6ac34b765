"""Builds notebooks/10_kto.ipynb (unexecuted)."""
import sys, nbformat
sys.path.insert(0, ".")
from labkit.charts import diagrams
PIC = diagrams.markdown("10")
CELLS = []
def md(text): CELLS.append(("markdown", text.strip("\n"), []))
def code(text, *tags): CELLS.append(("code", text.strip("\n"), list(tags)))
NB = "nbval-check-output"

md(f'''
# 10 · KTO: thumbs, not pairs 一個讚，或者一個倒讚

[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/rlhf-labs/rlhf-labs/blob/main/notebooks/10_kto.ipynb)
[![Launch on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/rlhf-labs/rlhf-labs/main?urlpath=lab/tree/notebooks/10_kto.ipynb)

A pair costs a rater two answers to read, side by side. What a product gets from its users is less: one answer, and a thumb up or down, or nothing. Kahneman-Tversky optimisation (KTO) learns from that.

**You will see**
- the value function of prospect theory, and the one that KTO makes of it;
- the loss in five lines, and which thumbs it listens to: not those that DPO listens to most;
- the **reference point** $z_0$, measured on answers that stand under the wrong question;
- the whole training as one loop on the 4-bit model, then the stage that does the same;
- KTO beside DPO at equal numbers of labels, over three seeds, with the controls of notebook 09;
- what goes wrong: few thumbs up, wrong weights, flipped thumbs, thumbs of one side.

*MINUTES. Shipped SFT and DPO models stand in for yours.*

Paper: [KTO: Model Alignment as Prospect Theoretic Optimization](https://arxiv.org/abs/2402.01306).
''')
code('''
# Setup, the same in every notebook. On Colab the first line fetches the project.
import importlib.util
if importlib.util.find_spec("labkit") is None:
    %pip install -q "rlhf-labkit @ git+https://github.com/rlhf-labs/rlhf-labs"
from labkit import notebook
profile = notebook.setup()
''')
md(f'''
## 1 The idea in one picture

{PIC}

People do not judge by what a thing is worth, but by what it is worth *to them*, counted from a reference point; a loss weighs more than a gain of the same size, and both wear off: the tenth coin pleases less than the first. That is
prospect theory (Kahneman and Tversky). Its value function was fitted to choices between lotteries. KTO takes the idea, not the formula:
''')
code('''
import math
from statistics import fmean

import torch

def prospect(z):
    """Tversky and Kahneman (1992): the medians of 25 people who chose between bets."""
    return z**0.88 if z >= 0 else -2.25 * (-z) ** 0.88

def logistic(z):
    return 1 / (1 + math.exp(-z))

zs = [i / 2 for i in range(-12, 13)]
for name, value in (("prospect theory", prospect),
                    ("KTO, thumb up", lambda z: logistic(z) - 0.5)):
    print(f"{name}: winning 1 is worth {value(1):+.2f}, losing 1 {value(-1):+.2f}; "
          f"winning 10 {value(10):+.2f}, losing 10 {value(-10):+.2f}")
''', NB)
code('''
from labkit import atlas, charts, chat, checks, config, data, evals, feedback, kto
from labkit import losses, models, panels, rollout, runs
from labkit import thumbs as lab
from labkit.maths.logprobs import shift_mask

def line(value):
    return [{"z": z, "value": value(z)} for z in zs]

drawn = {"prospect theory (1992), a third of it": line(lambda z: prospect(z) / 3),
         "KTO, thumb up": line(lambda z: logistic(z) - 0.5),
         "KTO, thumb down": line(lambda z: logistic(-z) - 0.5)}
charts.show(charts.curves(drawn, ["value"], x="z",
                          title="What a gain or a loss is worth"))
''')
md('''
Here $z = \\beta\\,(\\log\\frac{\\pi(y)}{\\pi_{ref}(y)} - z_0)$: how much more probable the policy makes an answer than the reference does, counted from a reference point $z_0$. KTO's curve is flat on *both* sides, and its two halves are alike; that a loss weighs more is left to
two weights, $\\lambda_D$ for thumbs up (desirable) and $\\lambda_U$ for thumbs down. The authors tried other value functions; this one is easy to optimise.

## 2 The smallest code: the loss in five lines

$$L = \\lambda_D\\,\\big(1 - \\sigma(z)\\big)\\ \\text{for a thumb up}, \\qquad \\lambda_U\\,\\big(1 - \\sigma(-z)\\big)\\ \\text{for a thumb down}.$$

(For a language model, $\\log\\pi(y)$ is again the *sum* over an answer's tokens.)
''')
code('''
def kto_loss(policy, reference, up, beta, kl, liked=1.0, disliked=1.0):
    """policy, reference: log π of N answers; up (N,): thumb up?; kl: the mean
    log π/π_ref of answers under other questions."""
    z0 = kl.detach().clamp(min=0)                     # the reference point
    z = beta * (policy - reference - z0)
    return torch.where(up, liked * (1 - z.sigmoid()),
                       disliked * (1 - (-z).sigmoid())).mean()

policy = torch.tensor([-8.0, -20.0, -6.0])
reference = torch.tensor([-11.0, -19.0, -6.5])
up, kl = torch.tensor([True, False, False]), torch.tensor(0.5)
theirs, seen = losses.kto_loss(policy, reference, up, 0.5, kl, 1.5, 1.0)
ours = kto_loss(policy, reference, up, 0.5, kl, 1.5, 1.0)
print(f"ours {ours:.4f}, labkit's {theirs:.4f}")
for name in ("desirable_reward", "undesirable_reward"):
    print(f"{name}, β log π/π_ref: {seen[name]:+.2f}")
''', NB)
md('''
**Whom does it listen to?** The gradient of a thumb up is $-\\lambda_D\\,\\beta\\,\\sigma(z)\\,(1-\\sigma(z))\\,\\nabla\\log\\pi(y)$. DPO's weight for a pair is $\\beta\\,\\sigma(-\\beta d)$, $d$ the difference of the two log-ratios (notebook 09, exercise 2). Beside each other:
''')
code('''
beta = 0.1
print("   log π/π_ref, above z₀   KTO's pull on a thumb up   DPO's push of a pair")
for d in (-60, -20, 0, 20, 60):
    z = torch.tensor(beta * d, requires_grad=True)
    pull, = torch.autograd.grad(1 - z.sigmoid(), z)
    push, = torch.autograd.grad(-torch.nn.functional.logsigmoid(z), z)
    print(f"{d:15} nats {-beta * pull:21.4f} {-beta * push:25.4f}")
''', NB)
md('''
DPO pushes hardest what it gets most wrong. KTO pulls hardest at the reference point and *lets go* where the policy is far off: a thumb up for an answer that the model finds absurd is taken for a slip of the thumb. The price is that what is truly hard may never be learned.

**What is its optimum?** DPO's was the RLHF optimum (notebook 09). Take the same three answers and rewards; a rater gives a thumb up with probability $\\sigma(r)$. Here the exact $z_0$ is known: the KL to the reference.
''')
code('''
answers = ["玉山。", "抱歉，真的很不好意思。是玉山。", "誰來告訴我呀？"]
start = torch.tensor([0.2, 0.3, 0.5])      # π_ref: the SFT policy, fond of asking back
rewards = torch.tensor([1.0, 0.5, -1.0])
likes = torch.sigmoid(rewards)             # share of thumbs up for each answer

def fit(beta, steps, rate=1.0):
    logits = start.log()
    for step in range(steps):
        logits = logits.detach().requires_grad_()
        moved = logits.log_softmax(0) - start.log()
        kl = (logits.softmax(0) * moved).sum().detach()   # the exact z₀
        z = beta * (moved - kl)
        loss = (start * (likes * (1 - z.sigmoid()) + (1 - likes) * z.sigmoid())).sum()
        logits = logits - rate * torch.autograd.grad(loss, logits)[0]
    return logits.detach().softmax(0)

best = (start.log() + rewards / 0.5).softmax(0)
print("share of thumbs up   ", [f"{p:.2f}" for p in likes.tolist()])
print("RLHF optimum, β = 0.5", [f"{p:.3f}" for p in best.tolist()])
for steps in (30, 300, 3000):
    print(f"KTO after {steps:5,} steps", [f"{p:.3f}" for p in fit(0.5, steps).tolist()])
''', NB)
md('''
TOYPROSE

## 3 The thumbs

Notebook 05's panel has a *thumb* mode: one answer, **Good** or **Bad** (keys 1 and 2). Rate a few if you like; they go into `feedback.sqlite`, and from there into the training below. Nobody has to.
''')
code('''
sft = notebook.using("sft")
model, tokenizer = models.load_policy(sft)  # its adapter "policy": here the reference
asked = ["台灣最高的山是哪座？", *atlas.feedback_prompts(0)[:11]]
runs.seed_everything(1)
said = rollout.answer(model, tokenizer, asked)
items = [(question, (text,)) for question, text in zip(asked, said)]
store = feedback.Store(runs.root() / "feedback.sqlite")
panels.rate(items, "thumb", store)
''')
md('''
A simulated rater presses the same buttons: up with probability $\\sigma((u - e)/T)$, where $u$ is what he feels the answer is worth, $T$ his noise, and $e$ (`expects`) what an answer must be worth to be liked. With $e$ = 0.6 a right answer with two faults of manner disappoints him. So his thumbs
speak of truth *and* of manners.
''')
code('''
rater = atlas.Rater()
pressed = panels.rate(items, "thumb", feedback.Store(runs.root() / "careful.sqlite"),
                      rater="careful").simulate(rater)
rows = [{"question": one.prompt, "answer": one.responses[0],
         "worth": rater.utility(one.prompt, one.responses[0]),
         "thumb": "up" if one.verdict else "down"} for one in pressed]
charts.show(charts.table(rows, digits=2, title=f"He expects {rater.expects}"))
''')
code('''
cfg = config.change(profile.kto, examples=min(profile.kto.examples, 600))
mine = store.ratings("me")                     # yours, if you clicked
thumbs = mine + rollout.thumbs(model, tokenizer, cfg, cfg.examples)
training, held_out = data.split(thumbs, kto.HELD_OUT)
up, down = (sum(t.label == side for t in training) for side in (True, False))
print(f"{len(thumbs)} thumbs, {len(mine)} of them yours: {len(training)} to learn from,"
      f" {len(held_out)} held out")
ratio = cfg.desirable_weight * up / (cfg.undesirable_weight * down)
print(f"to learn from: {up} up, {down} down; λ_D·up / (λ_U·down) = {ratio:.2f}")
''')
md('''
The paper asks for $\\lambda_D n_D / (\\lambda_U n_U)$ between 1 and 1.5 (equation 8). These thumbs are near enough to balance for weights of 1.

## 4 The reference point, seen

What should $z_0$ be? A thumb up is a gain only if the answer gained *more than the policy's answers gain anyway*: the KL between policy and reference. To know it one would have to sample from the policy at every step. KTO estimates it from what is in the batch: each question
with **another question's answer**, and the mean of $\\log\\pi/\\pi_{ref}$ over these, not below 0. No gradient goes through it. For the policy at the start it is 0. So look at one that has moved, the shipped DPO policy:
''')
code('''
def log_pi(logits_at, texts):
    """log π(answer | prompt) of N (prompt, answer), summed over the answer: (N,)."""
    rows = [chat.encode(tokenizer, *both) for both in texts]
    ids, mask = chat.pad([ids for ids, _ in rows], tokenizer.pad_token_id)
    answer, _ = chat.pad([response_mask for _, response_mask in rows], 0)
    ids, mask, answer = (x.to(model.device) for x in (ids, mask, answer))
    said = shift_mask(answer).bool()                      # (N, T-1): place t says t + 1
    logits, _ = logits_at(ids, mask, torch.nn.functional.pad(said, (0, 1)))
    tokens = ids[:, 1:][said]                             # (all answers' tokens,)
    logp = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    sums = torch.zeros(len(ids), device=ids.device)
    return sums.index_add(0, said.nonzero()[:, 0], logp)

def own(some):
    return [(t.prompt, t.response) for t in some]

def mismatched(some):
    """Each prompt with the answer of the thumb before it."""
    return [(t.prompt, b.response) for b, t in zip([some[-1], *some], some)]
''')
code('''
dpo_run = notebook.using("dpo")
model = models.load_adapter(model, dpo_run, "dpo")
moved_to, came_from = (models.forward(model, name) for name in ("dpo", "policy"))

@torch.no_grad()
def log_ratio(texts):
    parts = [texts[k : k + 32] for k in range(0, len(texts), 32)]
    both = ([log_pi(one.logits_at, part) for part in parts]
            for one in (moved_to, came_from))
    ours, theirs = map(torch.cat, both)
    return (ours - theirs).cpu()

some = training[:256]
kinds = {"thumb up": own([t for t in some if t.label]),
         "thumb down": own([t for t in some if not t.label]),
         "another question's answer": mismatched(some)}
ratios = {name: log_ratio(texts) for name, texts in kinds.items()}
charts.show(charts.histogram({name: r.tolist() for name, r in ratios.items()},
                             x="log π/π_ref, nats", title="DPO's policy against SFT's"))
for name, r in ratios.items():
    print(f"{name:26} mean {r.mean():+.2f} nats")
z0 = max(0.0, float(ratios["another question's answer"].mean()))
kl = evals.kl(model, tokenizer, [t.prompt for t in some], "dpo", "policy")
print(f"z₀ = {z0:.2f}; the KL that it stands for: {kl:.2f} nats")
''')
md('''
Z0PROSE

## 5 The real thing, on the 4-bit model

**The whole training in one loop.** Policy and reference give the log-probability of the answers and of the mismatched ones; these go into `kto_loss`; step.
''')
code('''
from transformers import get_cosine_schedule_with_warmup as warm_up_then_cosine

def train_by_hand(training, name, **weights):
    """Adapter `name`, at first the SFT model, learns from thumbs; one row a step."""
    adapted = models.load_adapter(model, sft, name, trainable=True)
    policy, reference = (models.forward(adapted, one) for one in (name, "policy"))
    learns, rows = models.adapter_parameters(adapted, name), []
    optimizer = torch.optim.AdamW(learns, cfg.learning_rate, weight_decay=0)
    n, size = len(training), cfg.batch_size
    schedule = warm_up_then_cosine(optimizer, n // size // 10, math.ceil(n / size))
    for step, first in enumerate(range(0, n, size), 1):
        some = training[first : first + size]
        up = torch.tensor([t.label for t in some], device=model.device)
        policy.refresh()                                  # the adapter has moved
        with torch.no_grad():
            ref = log_pi(reference.logits_at, own(some))
            kl = (log_pi(policy.logits_at, mismatched(some))
                  - log_pi(reference.logits_at, mismatched(some))).mean()
        ours = log_pi(policy.logits_at, own(some))
        loss = kto_loss(ours, ref, up, cfg.beta, kl, **weights)
        optimizer.zero_grad(), loss.backward()
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        optimizer.step(), schedule.step()
        rows.append({"step": step, "loss": loss.item(), "kl": max(0.0, kl.item())})
    return rows
''')
code('''
runs.seed_everything(cfg.seed)
loop = train_by_hand(training, "mine")
print(f"step 1: loss {loop[0]['loss']:.4f} = σ(0): all answers at the reference point")
print(f"last five steps: loss {fmean(row['loss'] for row in loop[-5:]):.4f}; "
      f"z₀ was above 0 in {sum(row['kl'] > 0 for row in loop)} of {len(loop)} steps")
''')
md('''
`kto.train` does the same with TRL's `KTOTrainer`, and keeps the run, its settings and the adapter. (Its rows come in an order of their own, so the curves are not the same to the digit.) The reference is again the SFT adapter itself, frozen.
''')
code('''
file = data.save_jsonl(thumbs, runs.root() / "thumbs-10.jsonl")
cfg = config.change(cfg, data=str(file), examples=0)
drawn = ["loss", "rewards/margins", "kl"]
with runs.start("kto", cfg) as run:
    run.listeners.append(charts.live(run, drawn))
    kto.train(cfg, run)
fives = [loop[k : k + 5] for k in range(0, len(loop), 5)]
means = [{"step": five[-1]["step"], "loss": fmean(row["loss"] for row in five)}
         for five in fives]
stage = [row for row in run.metrics() if "loss" in row]
charts.show(charts.curves({"the loop": means, "kto.train": stage}, ["loss"],
                          title="KTO loss, means of five steps"))
charts.show(charts.table([run.evaluation], title=f"{run.name}, on held-out prompts"))
''')
md('''
## 6 What to inspect

**Before and after**, greedy answers to phrasings that no training set holds. DPO's policy had 2,000 pairs, the KTO of this notebook the thumbs above: the fair comparison comes next.
''')
code('''
model = models.load_adapter(model, run, "kto")
titles = {"policy": "SFT", "dpo": "DPO", "kto": "KTO"}

def answer(name, prompts, **how):
    with models.using(model, name):
        return rollout.answer(model, tokenizer, prompts, **how)

asked = ["台灣最高的山是哪座？", *atlas.prompts("held-out", seed=9, n=6)]
rows = [{"question": question} for question in asked]
for name, title in titles.items():
    for row, text in zip(rows, answer(name, asked, temperature=0.0)):
        row[title] = text
charts.show(charts.table(rows))
''')
code('''
prompts, report = atlas.prompts("held-out", seed=10, n=200), []
greedy = {name: answer(name, prompts, temperature=0.0) for name in titles}
for name, title in titles.items():
    judged = evals.judged(prompts, greedy[name])
    rates = {key: evals.shown(judged[key], judged[f"{key}_n"])
             for key in ("right", "refused", "over_refused")}
    wins = evals.win_rate(prompts, greedy[name], greedy["policy"])
    report.append({"greedy": title, "wins over SFT": evals.shown(wins, len(prompts)),
                   **rates, **{key: judged[key] for key in ("gold", "words")}})
charts.show(charts.table(report, digits=2, title=f"{len(prompts)} held-out questions"))
''')
md('''
**Learned, or only less random?** Greedy against greedy has no randomness on either side. The second control (notebook 09): sampled, against SFT at the temperature that gives it the same entropy.
''')
code('''
with models.using(model, "kto"):
    nats = evals.entropy(model, tokenizer, prompts[:100])
with models.using(model, "policy"):
    heat = evals.matched_temperature(model, tokenizer, prompts[:100], nats)
sampled, cooled = answer("kto", prompts), answer("policy", prompts, temperature=heat)
n = len(prompts)
print(f"KTO: {nats:.2f} nats an answer at temperature 1; SFT has as many at {heat:.2f}")
print("sampled, against SFT of the same entropy:",
      evals.shown(evals.win_rate(prompts, sampled, cooled), n))
print("against greedy DPO, both greedy:",
      evals.shown(evals.win_rate(prompts, greedy["kto"], greedy["dpo"]), n))
''')
md('''
**KTO beside DPO at equal numbers of labels.** One run proves little, and two thousand thumbs do not train in a notebook's minutes. The record below holds three seeds, each with an SFT model, thumbs and pairs of its own, all by the careful rater; a thumb is a label, a pair is a label. (Made by
`python -m labkit bench thumbs`.) A win is an answer that gold prefers to the greedy SFT model's; ties count half.
''')
code('''
record = lab.load()
equal = lab.equal_labels(record)
columns = ["setting", "labels", "wins", "wins lowest", "wins highest", "right", "words",
           "KL"]
charts.show(charts.table(equal, columns, digits=2,
                         title=f"{len(record['seeds'])} seeds, 200 questions each"))
key = "KTO − DPO, points"
for row in equal[::2]:
    print(f"{row['labels']:5,} labels: KTO − DPO {row[key]:+.1f} points "
          f"({row[key + ' lowest']:+.1f} to {row[key + ' highest']:+.1f})")
''')
code('''
charts.show(charts.table(lab.controls(record), digits=2,
                         title="Wins over SFT: greedy, at equal entropy, sampled"))
compared, ties = ([row["counted"][key] for row in record["seeds"]]
                  for key in ("compared", "ties"))
share = sum(ties) / sum(compared)
print(f"of {sum(compared):,} comparisons {share:.0%} were ties, and gave no pair; "
      "every look at one answer gave a thumb")
print("thumbs up:", ", ".join(f"{row['up']:.0%}" for row in record["seeds"]))
''')
md('''
EQUALPROSE

| | the KTO paper (Zephyr-β-SFT, 7 billion parameters, UltraFeedback, 1 epoch) | here |
| --- | --- | --- |
| labels | DPO: pairs; KTO: the same pairs, each broken up into two thumbs | both ways, see the record |
| judge | benchmarks with an answer key | gold |
| grade-school mathematics (GSM8K), right: SFT, DPO, KTO | 39.0, 40.0, 53.5 % | the column "right" |
| BBH, right | 46.3, 44.1, 52.6 % | |
| MMLU, right | 57.2, 58.2, 58.6 % | |
| 90 % of the thumbs up dropped, λ_D = 13.33 | still above DPO | section 7 |

The paper's largest gain is one of *being right*, on a benchmark that its preference data say little of; PAPERPROSE

## 7 What goes wrong

### Few thumbs up

Users complain more readily than they praise. The record dropped thumbs up until there was one for 1, 5 or 10 thumbs down, and trained each time with a $\\lambda_D$ inside the range of equation 8, and with one outside.
''')
code('''
rows = lab.imbalance(record)
columns = ["up", "down", "λ_D", "λ_D·up / down", "wins", "wins lowest", "wins highest",
           "right", "words", "KL"]
charts.show(charts.table(rows, columns, digits=2, title="KTO, thumbs up dropped"))
dpo = lab.row_of(record, lab.DPO)
print(f"DPO on {dpo['labels']} pairs: wins {dpo['wins']:.2f} "
      f"({dpo['wins lowest']:.2f} to {dpo['wins highest']:.2f})")
''')
md('''
IMBALANCEPROSE

The stage says when the weights don't fit, and to what they might be set:
''')
code('''
few_up = [t for t in training if not t.label] + [t for t in training if t.label][:40]
rows = [{"label": t.label} for t in few_up]
for weight in (1.0, 10.0):
    kto.check_sides(rows, config.change(cfg, desirable_weight=weight))
print("each warning is one line on standard error")
''')
md('''
### Thumbs of one side

With thumbs up alone, everything in sight is to become more probable: nothing says what to leave. The stage refuses.
''')
code('''
try:
    kto.check_sides([{"label": True}] * 200, cfg)
except Exception as error:
    print(error)
''', NB)
md('''
### Flipped thumbs

People hit the wrong key, or hold the phone upside down. In the record 10 and 30 % of the labels say the opposite: thumbs for KTO, the order of the pair for DPO.
''')
code('''
rows = lab.flipped(record)
series = {method: [{"share flipped": row["flipped"], "wins": row[method],
                    "wins lowest": row[f"{method} lowest"],
                    "wins highest": row[f"{method} highest"]} for row in rows]
          for method in ("KTO", "DPO")}
charts.show(charts.bands(series, "share flipped", "wins", level={"SFT itself": 0.5},
                         title="Wins over greedy SFT, three seeds"))
for method in ("KTO", "DPO"):
    lost = 100 * (rows[0][method] - rows[-1][method])
    print(f"{method}: {rows[0][method]:.2f} → {rows[-1][method]:.2f} at 30 % flipped "
          f"({lost:.0f} points lost)")
''')
md('''
FLIPPROSE

### Pairs broken up

Whoever has pairs can break each into two thumbs, as the paper did. Is that as good as thumbs that were given one by one?
''')
code('''
names = [lab.KTO, lab.BROKEN_UP, lab.DPO]
rows = [lab.row_of(record, name) for name in names]
charts.show(charts.table(rows, list(equal[1]), digits=2,
                         title="The column labels counts thumbs; for DPO, pairs"))
''')
md('''
BROKENPROSE

## 8 With your own thumbs

A JSONL file with `prompt`, `response` and `label` (true or false), as `store.export` writes it in notebook 05 (`thumbs.jsonl`).
''')
code('''
MY_THUMBS = ""  # for example "thumbs.jsonl"

if MY_THUMBS:
    mine_cfg = config.change(profile.kto, data=MY_THUMBS, examples=0)
    with runs.start("kto", mine_cfg) as mine_run:
        mine_run.listeners.append(charts.live(mine_run, ["loss", "rewards/margins"]))
        kto.train(mine_cfg, mine_run)
    charts.show(charts.table([mine_run.evaluation]))
else:
    print("With a path in MY_THUMBS this cell would train a policy on your thumbs.")
''')
md('''
## 9 Exercises

**1 · ★★☆ · 10 minutes. Predict an experiment, then run it.** The loop of section 5 trains three policies, each on 160 thumbs: on thumbs up alone, on thumbs down alone, and on 80 of each. Which of them widens the gap between the log-probability of liked and of disliked *unseen* answers most? Guess first: the experiment runs
only when there is a guess (half a minute).
''')
code('''
def experiment():
    """How far liked unseen answers have moved above disliked ones, in nats."""
    ups = [t for t in training if t.label][:160]
    downs = [t for t in training if not t.label][:160]
    both = [t for two in zip(ups[:80], downs[:80]) for t in two]
    liked, found = torch.tensor([t.label for t in held_out]), {}
    for name, some in {"up": ups, "down": downs, "both": both}.items():
        train_by_hand(some, f"only_{name}")
        policy = models.forward(model, f"only_{name}")
        with torch.no_grad():
            moved = [log_pi(one.logits_at, own(held_out)).cpu()
                     for one in (policy, came_from)]
        up, down = ((moved[0] - moved[1])[side].mean() for side in (liked, ~liked))
        print(f"{name}: liked {up:+.2f} nats, disliked {down:+.2f}")
        found[name] = float(up - down)
    return found

guess = ...  # "up", "down" or "both"

checks.check_prediction(guess, ["up", "down", "both"], experiment);
''')
md('''
<details><summary>What to think about</summary>

PREDICTPROSE
</details>

**2 · ★★☆ · 10 minutes.** How hard does a thumb up pull? Derive the weight of $\\nabla\\log\\pi(y)$ in the loss of a liked answer ($\\lambda_D$ = 1), given $r = \\log\\pi/\\pi_{ref}$, the reference point and β.
''')
code('''
def pull(r, z0, beta):
    ...  # your code

checks.check_pull(pull);
''')
md('''
<details><summary>Solution</summary>

The derivative of 1 − σ(z) is −σ(z)(1 − σ(z)), and z = β (r − z₀).

```python
def pull(r, z0, beta):
    liked = 1 / (1 + math.exp(-beta * (r - z0)))
    return beta * liked * (1 - liked)
```
</details>

**3 · ★☆☆ · 5 minutes.** Make the mismatched pairs of a batch: each question once, each answer once, none beside its own. (Turning the list round is not enough for three.)
''')
code('''
def mismatch(prompts, answers):
    ...  # your code

if checks.check_mismatched(mismatch):
    print(mismatch(["台灣最高的山？", "Where is Peru?"], ["玉山。", "South America."]))
''')
md('''
<details><summary>Solution</summary>

```python
def mismatch(prompts, answers):
    return list(zip(prompts, answers[-1:] + answers[:-1]))
```
</details>

## Summary

SUMMARY

**Next:** [11 · AI feedback](11_ai_feedback.ipynb): what if no human gives the labels? Before this: [09 · DPO](09_dpo.ipynb).
''')

PROSE = {}
exec(open("kto_prose.py").read())
nb = nbformat.v4.new_notebook(metadata={'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}, 'language_info': {'name': 'python', 'version': '3.11.7', 'codemirror_mode': {'name': 'ipython', 'version': 3}, 'file_extension': '.py', 'mimetype': 'text/x-python', 'nbconvert_exporter': 'python', 'pygments_lexer': 'ipython3'}})
for i, (kind, text, tags) in enumerate(CELLS):
    for k, v in PROSE.items(): text = text.replace(k, v)
    cell = (nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell)(text)
    cell["id"] = f"10-{i:02d}"
    if tags: cell["metadata"]["tags"] = tags
    nb.cells.append(cell)
nbformat.write(nb, "notebooks/10_kto.ipynb")
