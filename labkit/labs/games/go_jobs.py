"""Makes notebook 04's record, in jobs that stand for themselves.

teacher     once: how strong the teacher is
imitation   per seed: a net that learns the records
self-play   per seed: the same net, then self-play
matches     per seed: both, drawn and likeliest moves, against everybody
riddles     once: does the engine agree, does the teacher solve them; and per seed: do both nets

The nets of the first seed are what the notebook loads: copy them from the folder that the last line
on standard error names to data/checkpoints/go.
"""

import sys
import time
from dataclasses import asdict, dataclass

import torch

from labkit import runs
from labkit.labs import jobs
from labkit.labs.games import go


@dataclass(frozen=True)
class Plan(jobs.Plan):
    """What is measured, and how much of it."""

    name = "go"
    size: int = 5
    games: int = 400
    """Of every match, half with either colour."""
    epochs: int = 4
    """Of imitation."""
    updates: int = 100
    """Of self-play."""
    every: int = 10
    """Updates between two matches on the way."""
    depth: int = 1000
    """Random games a move of the searches that try the riddles out, each move `tries` times."""
    tries: int = 10

    def settings(self, seed: int) -> go.SelfPlay:
        return go.SelfPlay(updates=self.updates, seed=seed)

    def decides(self) -> tuple:
        lines = [*go.read(self.size), *(state.history() for state, _ in go.riddles(self.size))]
        return asdict(self.settings(0)), go.SIMULATIONS, runs.digest(map(str, lines))

    def lines(self) -> list[list[tuple]]:
        seeds = range(self.seeds)
        return [
            [(f"imitation-{seed}", imitation, (seed,)) for seed in seeds]
            + [("teacher", teacher, ()), ("riddles", riddles, ())],
            [(f"self-play-{seed}", self_play, (seed,)) for seed in seeds],
            [(f"matches-{seed}", matches, (seed,)) for seed in seeds]
            + [(f"answers-{seed}", answers, (seed,)) for seed in seeds],
        ]

    def net(self, name: str) -> go.Net:
        return go.load_net(str(self.folder / f"{name}.safetensors"))


def rates(plan: Plan, one, other, games: int = 0) -> dict:
    """The share of games that `one` wins: of all, as Black, as White."""
    played = go.match(one, other, games or plan.games, plan.size)
    return {"all": played.rate()[0]} | {c: played.rate(c)[0] for c in ("black", "white")}


def searches(plan: Plan) -> dict:
    """The players that need no net."""
    return {
        "random": go.anywhere(31),
        "teacher": go.teacher(plan.size, 32),
        "MCTS-50": go.tree_search(plan.size, 50, 33),
    }


def teacher(plan: Plan) -> dict:
    """The teacher against the others, and against itself."""
    return {
        name: rates(plan, go.teacher(plan.size, 34), other)
        for name, other in searches(plan).items()
    }


def imitation(plan: Plan, seed: int) -> dict:
    """Loss and agreement after every epoch."""
    torch.manual_seed(seed)
    net, curve = go.Net(plan.size), []
    go.imitate(
        net, *go.lessons(go.read(plan.size), plan.size), plan.epochs, seed=seed, log=curve.append
    )
    go.save_net(net, plan.folder / f"imitation-{seed}.safetensors")
    return {"curve": curve, "parameters": sum(p.numel() for p in net.parameters())}


def self_play(plan: Plan, seed: int) -> dict:
    """What self-play logs, with seconds of training so far, and the share of 100 games won against
    the teacher on the way.
    """
    net, curve, spent, began = plan.net(f"imitation-{seed}"), [], 0.0, time.time()

    def log(row):
        nonlocal spent, began
        spent += time.time() - began
        row = row | {"seconds": spent}
        if row["update"] % plan.every == 0:
            mine = go.player(net, seed=seed)
            row["teacher"] = rates(plan, mine, go.teacher(plan.size, row["update"]), 100)["all"]
        curve.append(row)
        began = time.time()

    go.self_play(net, plan.settings(seed), log)
    go.save_net(net, plan.folder / f"self-play-{seed}.safetensors")
    return {"curve": {key: [row.get(key) for row in curve] for key in curve[-1]}}


def players(plan: Plan, seed: int) -> dict:
    """The two nets as players, each a net and its temperature: moves drawn, the likeliest, and
    imitation's drawn at the temperature at which they vary as little as self-play's.
    """
    first, second = (plan.net(f"{name}-{seed}") for name in ("imitation", "self-play"))
    narrow = go.matched_temperature(first, second, go.read(plan.size)[-100:])
    return {
        "imitation": (first, 1.0),
        "imitation, as narrow": (first, narrow),
        "imitation, likeliest": (first, 0.0),
        "self-play": (second, 1.0),
        "self-play, likeliest": (second, 0.0),
    }


def matches(plan: Plan, seed: int) -> dict:
    """All of them against everybody."""
    those, found = players(plan, seed), {}
    for name, (net, heat) in those.items():
        others = searches(plan)
        for k, other in enumerate(("imitation", "imitation, as narrow"), 1):
            others[other] = go.player(*those[other], seed=seed + 100 * k)
        me = go.player(net, heat, seed=seed)
        found[name] = {other: rates(plan, me, others[other]) for other in others}
    return {"against": found, "temperature": those["imitation, as narrow"][1]}


def riddles(plan: Plan) -> dict:
    """Of every riddle, by deep searches that play on against each other: the share won after the
    answer, and after the best of the other moves; how often the teacher finds the answer, and
    chance.
    """
    rows = []
    for state, answer in go.riddles(plan.size):
        shares = {
            move: go.won_after(state, move, plan.depth, plan.tries)[0]
            for move in state.legal_actions()
        }
        found = [go.teacher(plan.size, k)([state])[0] == answer for k in range(plan.tries)]
        rows.append({"answer": shares.pop(answer), "others": max(shares.values())})
        rows[-1] |= {"teacher": sum(found) / plan.tries, "chance": 1 / (len(shares) + 1)}
    return {key: [row[key] for row in rows] for key in rows[0]}


def answers(plan: Plan, seed: int) -> dict:
    """Per player, the probability that it gives to each riddle's answer."""
    states, moves = zip(*go.riddles(plan.size))
    rows = torch.arange(len(moves)), torch.tensor(moves)
    return {
        name: go.opinions(net, states, heat)[rows].tolist()
        for name, (net, heat) in players(plan, seed).items()
    }


# --- the record ----------------------------------------------------------------------------------


def timeless(found: dict) -> dict:
    """What a job found, without the seconds that it took."""
    return {key: value for key, value in found.items() if key != "seconds"}


def measure(plan: Plan, workers: int = 0) -> dict:
    """Do all jobs that have not ended yet, and return the record that notebook 04 reads."""
    jobs.measure(plan, workers)
    print(f"The nets are in {plan.folder}.", file=sys.stderr)
    records = go.read(plan.size)
    rows = []
    for seed in range(plan.seeds):
        of = {name: plan.found(f"{name}-{seed}") for name in ("imitation", "self-play", "matches")}
        row = {"seed": seed, "imitation": of["imitation"]["curve"]}
        row |= {"self-play": of["self-play"]["curve"]}
        row |= {key: of["matches"][key] for key in ("against", "temperature")}
        rows.append(row | {"riddles": timeless(plan.found(f"answers-{seed}"))})
    made = {
        "size": plan.size,
        "games": plan.games,
        "records": {"games": len(records), "moves": sum(map(len, records))},
        "simulations": go.SIMULATIONS,
        "parameters": plan.found("imitation-0")["parameters"],
        "settings": asdict(plan.settings(0)),
        "teacher": timeless(plan.found("teacher")),
        "riddles": timeless(plan.found("riddles")),
        "seeds": rows,
        "seconds": plan.seconds(),
        "versions": runs.versions(),
    }
    return jobs.rounded(made)
