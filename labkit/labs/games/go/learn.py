"""A small net that plays Go, and its two ways to learn: from game records, and from its own games.

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
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from labkit import LabError, runs
from labkit.labs.games.go import rules
from labkit.maths.logprobs import masked_whiten
from labkit.maths.losses import sft_loss
from labkit.maths.policy_gradient import gae, ppo_policy_loss, ppo_value_loss, shaped_rewards


class Net(nn.Module):
    """Policy and critic on one trunk of 3 × 3 convolutions."""

    def __init__(self, size: int = 5, channels: int = 32, layers: int = 4):
        super().__init__()
        self.size, wide = size, [rules.PLANES, *[channels] * layers]
        convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in zip(wide, wide[1:])]
        parts = sum([[one, nn.ReLU()] for one in convolutions], [])
        self.trunk = nn.Sequential(*parts, nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Flatten())
        self.policy = nn.Linear(8 * size * size, size * size + 1)
        self.critic = nn.Sequential(nn.Linear(8 * size * size, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, planes):
        """planes (B, 5, size, size) → log π of every move (B, size² + 1), −inf where the rules
        forbid it; what the critic expects for the mover (B,), −1 lost to 1 won.
        """
        seen = self.trunk(planes)
        free = planes[:, 2].flatten(1).bool()  # plane 2 says where a stone may be put
        allowed = torch.cat([free, torch.ones_like(free[:, :1])], 1)  # passing always is
        logits = self.policy(seen).masked_fill(~allowed, -torch.inf)
        return logits.log_softmax(1), self.critic(seen).squeeze(1).tanh()


@torch.no_grad()
def opinions(net: Net, states) -> torch.Tensor:
    """The policy's probability of every move in every position (B, size² + 1)."""
    return net(rules.planes(states))[0].exp()


def player(net: Net, temperature: float = 1.0, seed: int = 0):
    """A player (see rules.py) that draws from the policy; temperature 0: the likeliest move."""
    dice = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def choose(states):
        logprobs, _ = net(rules.planes(states))
        if temperature == 0:
            return logprobs.argmax(1).tolist()
        odds = (logprobs / temperature).softmax(1)
        return torch.multinomial(odds, 1, generator=dice).squeeze(1).tolist()

    return choose


def save_net(net: Net, file):
    """Write the weights, and the net's shape, as safetensors."""
    shape = {
        "size": net.size,
        "channels": net.trunk[0].out_channels,
        "layers": len(net.trunk) // 2 - 1,
    }
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), file, {key: str(value) for key, value in shape.items()})


def load_net(name: str) -> Net:
    """A net that came with the project, "imitation" or "self-play", or one from a file. LabError
    where there is none.
    """
    own = runs.data_folder() / "checkpoints" / "go" / f"{name}.safetensors"
    file = own if own.exists() else Path(name)
    try:
        with safe_open(file, "pt") as opened:
            shape = {key: int(value) for key, value in opened.metadata().items()}
            weights = {key: opened.get_tensor(key) for key in opened.keys()}
        net = Net(**shape)
        net.load_state_dict(weights)
    except FileNotFoundError:
        raise LabError(f"There is no net {name!r}: {own} is not there.") from None
    except (SafetensorError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise LabError(f"{file} holds no net of notebook 04 ({error}).") from None
    return net


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
    """What the learner, the first player, saw and thought in games that it has just played."""
    rows = []
    for i, record in enumerate(played.moves):
        states = rules.before(record, net.size)
        own = [(s, m) for s, m in zip(states, record) if s.current_player() == i % 2]
        rows.append((rules.planes([s for s, _ in own]), torch.tensor([m for _, m in own])))
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
        torch.tensor(played.scores) * 2 - 1,
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
            mask = games.mask[rows]
            there = mask.bool()
            every, expected = net(games.planes[rows][there])  # (M, moves), (M,)
            made = every.gather(1, games.moves[rows][there][:, None]).squeeze(1)
            new, values = (
                torch.zeros_like(mask).masked_scatter(there, x) for x in (made, expected)
            )
            policy_loss, metrics = ppo_policy_loss(
                new, games.logprobs[rows], advantages[rows], mask, cfg.clip
            )
            value_loss, _ = ppo_value_loss(
                values, games.values[rows], returns[rows], mask, cfg.clip
            )
            optimizer.zero_grad()
            (policy_loss + value_loss).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            metrics |= {"entropy": entropy(every.detach()).mean()}
            found.append({key: value.item() for key, value in metrics.items()})
    return {key: sum(one[key] for one in found) / len(found) for key in found[0]}


def entropy(logprobs):
    """−Σ π log π of each row (B, moves) → (B,); what the rules forbid adds nothing."""
    return -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(1)


@torch.no_grad()
def matched_temperature(net: Net, other: Net, games: list[list[int]]) -> float:
    """The temperature at which net's moves vary as much as other's, in the positions of `games`."""
    seen, _ = lessons(games, net.size)
    (wide, _), target = net(seen), entropy(other(seen)[0]).mean()
    low, high = 0.02, 2.0
    for _ in range(20):
        middle = (low + high) / 2
        above = entropy((wide / middle).log_softmax(1)).mean() > target
        low, high = (low, middle) if above else (middle, high)
    return middle


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
    epochs: int = 2
    minibatch_size: int = 64
    """Games."""
    learning_rate: float = 1e-3
    clip: float = 0.2
    gae_lambda: float = 0.95
    seed: int = 0


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
            both = (player(one, seed=dice.getrandbits(32)) for one in (net, other))
            part = rules.match(*both, cfg.games // cfg.opponents, net.size)
            played = rules.Played(played.scores + part.scores, played.moves + part.moves)
        metrics = improve(net, optimizer, episodes(net, played), cfg)
        if (update + 1) % cfg.keep == 0:
            versions.append(copy.deepcopy(net))
        if log:
            length = sum(map(len, played.moves)) / len(played.moves)
            row = {"update": update + 1, "won": played.rate()[0], "length": length}
            log(row | {"black": played.rate("black")[0], **metrics})
