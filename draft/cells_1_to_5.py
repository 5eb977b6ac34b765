md(r"""
# 04 · AlphaGo and language models 語言模型 vs AlphaGo

[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/rlhf-labs/rlhf-labs/blob/main/notebooks/04_alphago_and_language_models.ipynb)
[![Launch on Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/rlhf-labs/rlhf-labs/main?urlpath=lab/tree/notebooks/04_alphago_and_language_models.ipynb)

The lecture sets two machines side by side. 下圍棋的每一步是分類問題，但整體來看也是生成式學習: each move of Go is a classification, and a whole game is something generated, as an answer is, token by token.
AlphaGo learned in two steps. First from game records (棋譜): 人類老師下哪裡就跟著下哪裡. Then by reinforcement learning (增強式學習), against other versions of itself (對手 = AlphaGo 其他版本). A language model learns in the same two steps. Here you do both, on a small board, with the functions that notebook 07 takes for language.

**You will see**
- a game of Go as a sentence of 26 words;
- stage 1, imitation of a mediocre teacher's records, with the loss of notebook 02;
- stage 2, self-play, in one cell, with the ratio, the clip and the advantage of notebook 07;
- that it beats its teacher, and what of that greedy imitation could do, too;
- 珍瓏棋局: a position where the move that looks lost wins;
- a board on which you play it;
- what is missing when the same is tried with language.

*About two minutes on 2 CPU cores, 0.7 GB of memory. It needs nothing from earlier notebooks, and leaves nothing that a later one takes. The rules come from [OpenSpiel](https://github.com/google-deepmind/open_spiel).*

Papers: [AlphaGo](https://www.nature.com/articles/nature16961), [AlphaGo Zero](https://www.nature.com/articles/nature24270), [OpenSpiel](https://arxiv.org/abs/1908.09453), [PPO](https://arxiv.org/abs/1707.06347).
""")
code(r"""
# Setup, the same in every notebook. On Colab the first line fetches the project.
import importlib.util
if importlib.util.find_spec("labkit") is None:
    %pip install -q "rlhf-labkit @ git+https://github.com/rlhf-labs/rlhf-labs"
from labkit import notebook
profile = notebook.setup()
""")
md(r"""
## 1 The idea in one picture

@@PICTURE@@

Left the teacher, right the result. Above, the result comes from the rules of Go; below, there are no rules that know it.

## 2 A game is a sentence

5 × 5 points, and passing: 26 possible moves, a vocabulary of 26 words. Who holds more points at the end, by stones and by what they surround, has won; White gets half a point more, so nobody draws. Here is the first of the teacher's games, and the board along the way. (If OpenSpiel can't be installed on your machine, the next cell says so; the other notebooks don't need it.)
""")
code(r"""
import copy
import time
from statistics import fmean

import torch

from labkit import charts, checks, evals, losses
from labkit.labs.games import go
from labkit.maths import logprobs as lp
from labkit.maths import policy_gradient as pg

SIZE = 5  # for 7, make records first: python -m labkit.labs.games.go.records --size 7
records = go.read(SIZE)
game = records[0]
print(" ".join(go.name(move, SIZE) for move in game))
print(f"{len(records):,} games, {sum(map(len, records)):,} moves")
""", CHECK)
code(r"""
states = go.before(game, SIZE)
after = [(f"after {n} moves", states[n]) for n in (4, 12, len(game) - 2)]
go.boards(*after)
""")
md(r"""
A policy gets a position and gives a probability to every move: π(move | board), as a language model gives π(token | text). Moves that the rules forbid get probability 0. The board goes in as five planes: own stones, the other's, where a stone may be put, whether the other has just passed, whether the mover is Black.
""")
code(r"""
planes = go.planes([states[6]])
print(tuple(planes.shape), "own stones, and the other's:")
print(planes[0, 0].flip(0).int())  # row 1 is the lowest
print(planes[0, 1].flip(0).int())
print(f"{int(go.legal([states[6]]).sum())} of {SIZE * SIZE + 1} moves are allowed")
""", CHECK)
md(r"""
## 3 Stage 1: imitation

The teacher is mediocre. It is a *tree search* (MCTS) that plays 25 random games to the end before each move, and takes the move that looked best. For up to 26 moves that is one random game each: much of what it plays is luck. (A pupil of people would have the same trouble: 人類老師下哪裡就跟著下哪裡, the mistakes too.)

To learn from it is the task of notebook 02: what comes next? The loss is the same function, `sft_loss`, on answers of one token. A board can be turned and mirrored in eight ways, so every record counts eight times.
""")
code(r"""
torch.manual_seed(0)
net = go.Net(SIZE)
seen, moves = go.lessons(records, SIZE)  # every position, and the teacher's move there

def imitate(net, steps, batch=256, rate=2e-3):
    optimizer, curve = torch.optim.Adam(net.parameters(), rate), []
    for step in range(steps):
        rows = torch.randint(len(moves), (batch,))
        x, y = go.turned(seen[rows], moves[rows], turn=step % 8)
        log_pi, _ = net(x)  # (batch, 26), and what the critic says
        chosen = log_pi.gather(1, y[:, None])  # log π(the teacher's move)
        loss, _ = losses.sft_loss(chosen, torch.ones_like(chosen))
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        curve.append({"step": step, "loss": loss.item()})
    return curve

curve = imitate(net, 500)
nothing = seen[:, 2].sum((1, 2)).add(1).log().mean()  # log of how many moves are allowed
charts.show(charts.curves({"imitation": curve}, ["loss"], smooth=0.9))
print(f"the last 50 steps: {fmean(row['loss'] for row in curve[-50:]):.2f} nats a move; "
      f"whoever knows nothing but the rules pays {nothing:.2f}")
""")
md(r"""
The loss falls, but not far: nobody can foresee dice. How well does it play? Half of the games with either colour; every rate comes with n and an interval. A player either *draws* its moves from π (temperature 1), or takes the likeliest (temperature 0).
""")
code(r"""
def rate(one, other, n=100):
    return evals.shown(*go.match(one, other, n, SIZE).rate())

def against(one):
    return {"random": rate(one, go.anywhere(1)), "teacher": rate(one, go.teacher(SIZE, 2))}

rows = [{"player": "the teacher", **against(go.teacher(SIZE, 3))},
        {"player": "imitation, drawn", **against(go.player(net))},
        {"player": "imitation, likeliest", **against(go.player(net, 0.0))}]
charts.table(rows)
""")
md(r"""
Two things to see. Drawn, the pupil is weaker than its teacher: it repeats the teacher's luck without the teacher's search. But its *likeliest* move is better than its teacher's: that is a vote over thousands of games, in which the luck averages out. Language models have both, too: greedy decoding leaves out what single demonstrations had by chance. So whatever self-play gains below must stand beside **both**.

## 4 Stage 2: self-play

提高產生這些棋步的機率, 降低產生這些棋步的機率: the moves of won games become likelier, the moves of lost games rarer. Who won is 直接由圍棋規則得到, read from the rules. One update, in one cell; every function with `pg.` or `lp.` is one that PPO for language calls, in notebook 07:
""")
code(r"""
def one_update(net, optimizer, other, n=128, clip=0.2, seed=0):
    # sample: n games against an earlier version
    played = go.match(go.player(net, seed=seed), go.player(other, seed=seed + 1), n, SIZE)
    g = go.episodes(net, played)  # own moves (n, T), with log π and the critic's guess
    # credit: the score once, at the last move; the critic's guess is the baseline
    rewards = pg.shaped_rewards(g.scores, g.logprobs, g.logprobs, g.mask, beta=0.0)
    advantages, returns = pg.gae(rewards, g.values, g.mask, lam=0.95)
    advantages = lp.masked_whiten(advantages, g.mask)
    # improve: clipped steps
    for rows in torch.randperm(n).split(32):
        there = g.mask[rows].bool()
        log_pi, values = net(g.planes[rows][there])
        new = log_pi.gather(1, g.moves[rows][there][:, None]).squeeze(1)
        old, A, V, R = (x[rows][there] for x in (g.logprobs, advantages, g.values, returns))
        ones = torch.ones_like(new)
        loss, metrics = pg.ppo_policy_loss(new, old, A, ones, clip)
        of_critic, _ = pg.ppo_value_loss(values, V, R, ones, clip)
        optimizer.zero_grad(); (loss + of_critic).backward(); optimizer.step()
    return played.rate()[0], metrics
""")
code(r"""
learner, optimizer = copy.deepcopy(net), None
optimizer = torch.optim.Adam(learner.parameters(), 1e-3)
for update in range(3):
    won, metrics = one_update(learner, optimizer, net, seed=10 * update)
    print(f"update {update + 1}: won {won:.2f} of its games against the imitation; "
          f"clipped {metrics['clip_fraction']:.1%} of the last minibatch's moves")
""")
md(r"""
`go.self_play` is this loop with several opponents at a time: the newest version kept, and earlier ones by lot. Why earlier ones? Whoever plays only its newest self may learn a trick that beats just that one, and forget what it knew.

β is 0: no penalty for leaving what the teacher did. A reward model can be fooled, so RLHF must stay near the SFT model; the rules of Go can't be.
""")
code(r"""
rows = []
settings = go.SelfPlay(updates=16, games=128, opponents=2, keep=4, epochs=2)
go.self_play(learner, settings, log=rows.append)
lines = {"won": "won against earlier versions", "entropy": "entropy (nats a move)"}
charts.show(charts.curves(rows, lines, x="update"))
""")
code(r"""
rows = [{"player": "imitation, drawn", **against(go.player(net))},
        {"player": "after self-play, drawn", **against(go.player(learner))},
        {"player": "after self-play, likeliest", **against(go.player(learner, 0.0))}]
charts.table(rows)
""")
md(r"""
A minute of games, and no teacher in it. It only played itself, yet it wins more games against the teacher than the net it began with, drawn against drawn.

## 5 Sixty updates, three seeds

What runs a few minutes longer was made beforehand: `python -m labkit bench go`. Three seeds, each with its own imitation, and 400 games for every cell of the table (200 with either colour). *As narrow* is the matched control: imitation at the temperature at which its moves vary as little as those of self-play. A narrow policy is stronger for that alone.
""")
code(r"""
record = go.load()
n = record["games"]
charts.show(charts.table(go.summary(record)))
for colour in ("all", "black", "white"):
    each = go.against(record, "self-play", "teacher", colour)
    games = n if colour == "all" else n // 2
    print(f"self-play, drawn, against its teacher ({colour}), per seed:",
          " · ".join(evals.shown(share, games) for share in each))
assert min(go.against(record, "self-play", "teacher")) >= 0.65
""")
code(r"""
rows = go.curve(record)
title = "Share won, drawn moves, three seeds"
lines = {"against its teacher": [{**row, "share": row["teacher"],
                                  "share lowest": row["teacher lowest"],
                                  "share highest": row["teacher highest"]} for row in rows]}
charts.show(charts.bands(lines, "games", "share", title=title,
                         level={"as good as the teacher": 0.5}))
first, last = rows[0], rows[-1]
print(f"after {first['games']:,} games of self-play {first['teacher']:.2f}, "
      f"after {last['games']:,} {last['teacher']:.2f}")
black = [fmean(row["self-play"]["black"][-10:]) for row in record["seeds"]]
print("won as Black against earlier versions, last ten updates, per seed:",
      " · ".join(f"{share:.2f}" for share in black))
""")
md(r"""
Self-play beats its teacher with either colour, in every seed, and beats imitation at equal narrowness; it also beats a search twice as deep as the teacher's, which it has never met. The last line shows something about Go: the better both sides play, the more often Black wins, for Black moves first, and on 5 × 5 the centre is worth the whole board. (That is proved: van der Werf and others, *Solving Go on Small Boards*, 2003.) What do the two policies think of the empty board?
""")
code(r"""
imitation, champion = go.load_net("imitation"), go.load_net("self-play")
empty = go.starts(SIZE, 1)

def heat(policy, state):
    return dict(enumerate(go.opinions(policy, [state])[0].tolist()))

go.boards(("imitation", empty[0], heat(imitation, empty[0])),
          ("after self-play", empty[0], heat(champion, empty[0])))
""")
exec(open("/tmp/nb_cells2.py").read())
