"""Makes notebook 03's record, data/checkpoints/games.json, in jobs of seconds that stand for
themselves: all games are played and all nets trained on CPU cores.

ladder      per seed and version: its learning curve, and the player measured on new games
reuse       per seed: one step a batch, many steps without and with the clip
shaping     per seed and reward: the player's aim, whatever it was paid for
curiosity   per seed: the maze with no reward on the way, with curiosity, with a television
imitation   per seed: copies of 20 games, and players of a reward learned from them
poles       per seed: CartPole with PPO, to 100,000 steps
speed       steps a second, of the game alone and while a player learns
"""

import time
from dataclasses import dataclass
from functools import partial

import torch

from labkit.labs import jobs
from labkit.labs.games import imitation, learning, paying
from labkit.labs.games import record as view
from labkit.labs.games.learning import VERSIONS, learn, player_for
from labkit.labs.games.many import Many
from labkit.labs.games.maze import Curiosity, Maze
from labkit.labs.games.poles import Poles

PPO = {"passes": 4, "minibatches": 4, "clip": 0.2}
REUSE = {
    "1 step a batch": {},
    "32 steps, no clip": {"passes": 8, "minibatches": 4},
    "32 steps, clip": {"passes": 8, "minibatches": 4, "clip": 0.2},
}
MAZES = {
    "the game's reward": (False, False),
    "curiosity": (False, True),
    "curiosity, television": (True, True),
}
"""(television, curiosity) of each."""
POLES = {"passes": 5, "minibatches": 8, "clip": 0.2, "rate": 1e-3, "gamma": 0.99, "games": 8}


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "games"
    seeds: int = 5
    updates: int = 50
    """Of every version of the ladder."""
    short: int = 25
    """Updates of every other run on Space Invaders, and in the maze."""
    games: int = 32
    """In every update."""
    shown: int = 20
    """The teacher's games."""
    steps: int = 100_000
    """Of CartPole."""

    def decides(self) -> tuple:
        return REUSE, MAZES, POLES, PPO, learning.GAMMA, learning.RATE, learning.HIDDEN

    def lines(self) -> list[list[tuple]]:
        def line(job, names=("",)):
            kind, found = job.__name__, []
            for seed in range(self.seeds):
                found += [(f"{kind}-{seed}-{i}", job, (seed, n)) for i, n in enumerate(names)]
            return found

        ladder = [name for name in VERSIONS if name != "PPO"]
        return [
            line(rung, ladder),
            line(shaping, paying.WAYS) + line(curiosity, MAZES) + line(imitate),
            line(balance),
            line(reuse, REUSE),
            [("speed", speed, ())],
        ]


# --- the jobs: (plan, seed, name) → what was found, as JSON --------------------------------------


def curve(lines, key="score", digits=2) -> list:
    return [round(line[key], digits) for line in lines]


def rung(plan: Plan, seed: int, version: str) -> dict:
    player, weight = player_for(Many(), seed), VERSIONS[version]
    lines = learn(player, Many(), weight, plan.updates, plan.games, seed=seed)
    return {"curve": curve(lines), "after": imitation.measured(player)}


def reuse(plan: Plan, seed: int, way: str) -> dict:
    player, weight = player_for(Many(), seed), VERSIONS["PPO"]
    lines = learn(player, Many(), weight, plan.short, plan.games, seed=seed, **REUSE[way])
    return {"curve": curve(lines), "after": imitation.measured(player)}


def shaping(plan: Plan, seed: int, way: str) -> dict:
    player, weight, reward = player_for(Many(), seed), VERSIONS["PPO"], paying.WAYS[way]
    lines = learn(player, Many(), weight, plan.short, plan.games, reward=reward, seed=seed, **PPO)
    return {
        "curve": curve(lines),
        "paid": curve(lines, "paid", 3),
        "after": imitation.measured(player),
    }


def curiosity(plan: Plan, seed: int, way: str) -> dict:
    television, curious = MAZES[way]
    game, watched, found, games = Maze(television=television), Curiosity(), [], plan.games // 2
    own = Curiosity()

    def reward(episodes):
        watched(episodes)
        found.append([watched.cells(), float(episodes.scores.sum())])
        return own(episodes) if curious else episodes.rewards

    player = player_for(game, seed)
    learn(player, game, VERSIONS["PPO"], plan.short, games, reward=reward, seed=seed, **PPO)
    return {"cells": [cells for cells, _ in found], "reached": [n for _, n in found]}


def imitate(plan: Plan, seed: int, _: str) -> dict:
    first = 10**7 + seed * plan.shown
    shown = imitation.demonstrations(range(first, first + plan.shown))
    copy = player_for(Many(), seed)
    imitation.clone(copy, shown)
    found = {"teacher": imitation.summary(shown), "copy": imitation.measured(copy)}
    reward, player = imitation.LearnedReward(shown, Many.actions, seed), player_for(Many(), seed)
    lines = learn(
        player, Many(), VERSIONS["PPO"], plan.short, plan.games, reward=reward, seed=seed, **PPO
    )
    found["learned reward"] = imitation.measured(player)
    return found | {"curve": curve(lines), "agreement": [round(x, 2) for x in reward.agreement]}


def balance(plan: Plan, seed: int, _: str) -> dict:
    player, weight = player_for(Poles(), seed), partial(learning.between, gamma=POLES["gamma"])
    lines = learn(player, Poles(), weight, 10_000, seed=seed, steps=plan.steps, **POLES)
    torch.manual_seed(seed)
    scores = {
        name: learning.play(player, Poles(), range(10**6, 10**6 + 100), greedy).scores
        for name, greedy in (("drawn", False), ("greedy", True))
    }
    after = {name: float(each.mean()) for name, each in scores.items()}
    return {"curve": curve(lines, digits=1), "steps": curve(lines, "steps"), "after": after}


def speed(plan: Plan) -> dict:
    """Steps a second of this process's own time: of 32 games alone, of one game, and learning."""

    def rate(steps, work):
        begun = time.process_time()
        return round(steps(work()) / (time.process_time() - begun))

    many, player = Many(), player_for(Many())

    def alone():
        many.reset(range(plan.games))
        steps = 0
        while not many.over.all():
            steps += int((~many.over).sum())
            many.step(torch.randint(0, many.actions, (plan.games,)).numpy())
        return steps

    def training():
        return learn(player, many, VERSIONS["4"], 5, plan.games)[-1]["steps"]

    training()
    return {"game alone": rate(int, lambda: sum(alone() for _ in range(10)))} | {
        "learning": rate(int, training)
    }


def measure(plan: Plan, workers: int = 1) -> dict:
    """The record: the plan's sizes and, per job, {"seed", "way"} and what it found."""
    jobs.measure(plan, workers)
    found = {}
    for name, function, arguments in sum(plan.lines(), []):
        kind, row = function.__name__, plan.found(name)
        row.pop("seconds")
        if kind == "speed":
            found[kind] = row
        else:
            seed, way = arguments
            found.setdefault(kind, []).append({"seed": seed, "way": way, **row})
    sizes = {name: getattr(plan, name) for name in ("seeds", "updates", "short", "games", "shown")}
    return view.whole(jobs.rounded({"sizes": sizes | {"steps": plan.steps}, **found}))
