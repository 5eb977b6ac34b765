"""The net's two ways to learn Go: from game records, and from its own games.

    imitate     first what the teacher does        pre-training, SFT: the loss is sft_loss
    self_play   then what wins                     RLHF: the loss is ppo_policy_loss, and the
                                                   reward is the rules' verdict

Both take their losses and advantages from maths/, where stages/ppo.py (notebook 07) takes them. Of
what AlphaGo has, these are left out: a search on top of the net (which its version Zero learns
from), and most of its size.
"""

import copy
import random
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from labkit import LabError
from labkit.labs.games.go import rules
from labkit.labs.games.go.net import Net, entropy, player
from labkit.maths.logprobs import masked_whiten
from labkit.maths.losses import sft_loss
from labkit.maths.policy_gradient import gae, ppo_policy_loss, ppo_value_loss, shaped_rewards

# --- stage 1: imitation --------------------------------------------------------------------------


def lessons(games: list[list[int]], size: int = 5):
    """Every position of the records, and the teacher's move there: planes (N, 5, size, size), moves
    (N,). LabError where a record breaks the rules.
    """
    seen = []
    for number, record in enumerate(games):
        try:
            seen.append(rules.planes(rules.before(record, size)))
        except LabError as error:
            raise LabError(f"Game {number + 1} of the records: {error}") from None
    return torch.cat(seen), torch.tensor(sum(games, []))


def turned(planes, moves, turn: int):
    """The same positions in one of the board's 8 symmetries: 0 to 3 quarter turns, or these of its
    mirror image (4 to 7). planes (N, 5, size, size), moves (N,) → the same shapes.
    """
    size = planes.shape[-1]
    points = torch.arange(size * size).view(1, size, size)
    if turn > 3:
        planes, points = planes.flip(-1), points.flip(-1)
    planes, points = (x.rot90(turn % 4, (-2, -1)) for x in (planes, points))
    came_from = torch.cat([points.flatten(), torch.tensor([size * size])])  # the pass stays
    return planes, came_from.argsort()[moves]


def imitate(
    net: Net, planes, moves, epochs: int = 4, batch: int = 256, rate=2e-3, seed=0, log=None
):
    """Learn to play what the teacher played, as a language model learns the next token.

    planes (N, 5, size, size), moves (N,): all but the last twentieth of `lessons`, which is held
    out. log: a function of a dict per epoch, "loss" and "agrees", the share of the held-out moves
    that are the policy's likeliest.
    """
    torch.manual_seed(seed)
    held = len(moves) - len(moves) // 20
    optimizer = torch.optim.Adam(net.parameters(), rate)
    steps = epochs * (held // batch)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + epochs)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(held).split(batch):
            x, y = turned(planes[rows], moves[rows], random.Random(int(rows[0])).randrange(8))
            logprobs = net(x)[0].gather(1, y[:, None])  # (b, 1): an answer of one token
            loss, _ = sft_loss(logprobs, torch.ones_like(logprobs))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
            total += loss.item() * len(rows) / held
        with torch.no_grad():
            agrees = (net(planes[held:])[0].argmax(1) == moves[held:]).float().mean().item()
        if log:
            log({"epoch": epoch + 1, "loss": total, "agrees": agrees})


# --- stage 2: reinforcement learning --------------------------------------------------------------


@dataclass
class Episodes:
    """B games, the learner's T moves in each, padded at the end.

    planes (B, T, 5, size, size); moves, logprobs, values, mask (B, T): what it played, log π of
    that, what the critic expected before it, 1 where there was a move. scores (B,): 1 won, −1 lost.
    """

    planes: torch.Tensor
    moves: torch.Tensor
    logprobs: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    scores: torch.Tensor


@torch.no_grad()
def episodes(net: Net, played: rules.Played) -> Episodes:
    """What the learner, the first player, saw and thought in games that it has just played; those
    that ended before it could move are left out.
    """
    rows, scores = [], []
    for i, (record, made) in enumerate(zip(played.moves, played.made)):
        states, own = rules.before(record, net.size), range(made + i % 2, len(record), 2)
        if own:
            seen = rules.planes([states[ply] for ply in own])
            rows.append((seen, torch.tensor([record[ply] for ply in own])))
            scores.append(2 * played.scores[i] - 1)
    logprobs, values = net(torch.cat([seen for seen, _ in rows]))
    moves = torch.cat([made for _, made in rows])
    lengths = [len(made) for _, made in rows]

    def padded(x):
        return pad_sequence(x.split(lengths), batch_first=True)

    return Episodes(
        pad_sequence([seen for seen, _ in rows], batch_first=True),
        padded(moves),
        padded(logprobs.gather(1, moves[:, None]).squeeze(1)),
        padded(values),
        padded(torch.ones(len(moves))),
        torch.tensor(scores),
    )


def improve(net: Net, optimizer, games: Episodes, cfg) -> dict:
    """cfg.epochs passes over the games in minibatches, with the functions of notebook 07's PPO.
    Returns the means of its metrics, and the policy's entropy, in nats a move.

    The score is paid once, at the last move, and β is 0: the rules can't be fooled, so there is no
    toll for leaving what the teacher did.
    """
    rewards = shaped_rewards(games.scores, games.logprobs, games.logprobs, games.mask, beta=0.0)
    advantages, returns = gae(rewards, games.values, games.mask, lam=cfg.gae_lambda)
    advantages, found = masked_whiten(advantages, games.mask), []
    for _ in range(cfg.epochs):
        for rows in torch.randperm(len(games.scores)).split(cfg.minibatch_size):
            there = games.mask[rows].bool()
            every, values = net(games.planes[rows][there])  # (M, moves), (M,): M moves in all
            new = every.gather(1, games.moves[rows][there][:, None]).squeeze(1)
            old, earned, expected, wanted = (
                x[rows][there] for x in (games.logprobs, advantages, games.values, returns)
            )
            real = torch.ones_like(new)  # no padding is left
            policy_loss, metrics = ppo_policy_loss(new, old, earned, real, cfg.clip)
            value_loss, _ = ppo_value_loss(values, expected, wanted, real, cfg.clip)
            optimizer.zero_grad()
            (policy_loss + value_loss).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            metrics |= {"entropy": entropy(every.detach()).mean()}
            found.append({key: value.item() for key, value in metrics.items()})
    return {key: sum(one[key] for one in found) / len(found) for key in found[0]}


@dataclass
class SelfPlay:
    """Settings of self-play."""

    updates: int = 60
    games: int = 256
    """Games per update."""
    opponents: int = 4
    """Versions that it plays in one update: the newest kept, and earlier ones by lot."""
    keep: int = 5
    """Updates from one kept version to the next."""
    scattered: float = 0.5
    """The share of games that begin not on the empty board, but where stones were put by lot."""
    epochs: int = 2
    minibatch_size: int = 64
    """Games."""
    learning_rate: float = 1e-3
    clip: float = 0.2
    gae_lambda: float = 0.95
    seed: int = 0

    def __post_init__(self):
        if self.games % (2 * self.opponents) or self.games < 1:
            raise LabError(
                f"games is {self.games}: against {self.opponents} opponents, with both colours, it "
                f"must be a multiple of {2 * self.opponents}."
            )


def self_play(net: Net, cfg: SelfPlay, log=None):
    """Play earlier versions of itself, and make the moves of won games more likely, of lost games
    less. log: a function of a dict per update: "won" and "black" (the share won of all, and as
    Black), "length" (moves a game), and what `improve` returns.
    """
    torch.manual_seed(cfg.seed)
    dice = random.Random(cfg.seed)
    optimizer = torch.optim.Adam(net.parameters(), cfg.learning_rate, eps=1e-5)
    versions = [copy.deepcopy(net)]
    for update in range(cfg.updates):
        others = [versions[-1], *dice.choices(versions, k=cfg.opponents - 1)]
        played = rules.Played()
        for other in others:
            games = cfg.games // cfg.opponents
            odd = round(games * cfg.scattered)
            begin = rules.scattered(net.size, odd, dice) + rules.starts(net.size, games - odd)
            both = (player(one, seed=dice.getrandbits(32)) for one in (net, other))
            played += rules.match(*both, len(begin), net.size, begin)
        metrics = improve(net, optimizer, episodes(net, played), cfg)
        if (update + 1) % cfg.keep == 0:
            versions.append(copy.deepcopy(net))
        if log:
            length = sum(map(len, played.moves)) / len(played.moves)
            row = {"update": update + 1, "won": played.rate()[0], "length": length}
            log(row | {"black": played.rate("black")[0], **metrics})
