"""Learning from somebody who plays: copying (behaviour cloning), and a reward learned from the
games (inverse reinforcement learning).

Copying is notebook 02's loss, `sft_loss`, on actions in place of tokens. The reward is learned with
notebook 06's, `bradley_terry_loss`: the teacher's steps should get more than the player's. Reward
and player take turns, which is what makes it adversarial; GAIL (Ho & Ermon, 2016, arXiv 1606.03476)
trains a discriminator of single steps in the reward's place.
"""

import numpy as np
import torch
from torch import nn

from labkit import LabError
from labkit.labs.games import learning
from labkit.labs.games.invaders import ALIENS, FIRE, GROUND, LEFT, MARCH, RIGHT
from labkit.labs.games.learning import Episodes, Player
from labkit.labs.games.many import Many
from labkit.maths.logprobs import masked_whiten
from labkit.maths.losses import bradley_terry_loss, sft_loss


def teacher(seen) -> int:
    """What the scripted teacher does: out of the way of a bomb; to where an alien will be when the
    shot gets there; fire.

    seen: planes (5, 10, 10). It guesses the march (a third of a cell a step), so it misses at
    times, and it forgets the walls.
    """
    ship, heading = int(seen[0, GROUND].argmax()), 1 if seen[4, 0, 0] else -1
    danger = seen[3, GROUND - 3 :].any(0)  # (10,): bombs that land soon
    if danger[ship]:
        ways = [d for d in (-1, 1) if 0 <= ship + d <= GROUND]
        ways.sort(key=lambda d: danger[ship + d])
        return LEFT if ways[0] < 0 else RIGHT
    if seen[2].any():  # nothing to fire with: under the aliens' middle
        ahead = {int(seen[1].any(0).nonzero()[0].mean())} if seen[1].any() else {ship}
    else:
        ahead = {
            min(max(column + heading * round((GROUND - row) / MARCH), 0), GROUND)
            for row, column in np.argwhere(seen[1]).tolist()
        }
    aim = min(ahead, key=lambda column: abs(column - ship), default=ship)
    step = (aim > ship) - (aim < ship)
    if not step or danger[ship + step]:
        return FIRE
    return LEFT if step < 0 else RIGHT


def demonstrations(seeds, game=None, slips: float = 0.05) -> Episodes:
    """The teacher's games, one a seed; in a share of `slips` of the steps it does just anything."""
    game, rng = game or Many(), np.random.default_rng(len(seeds))
    shown, going, steps = game.reset(seeds), np.ones(len(seeds), bool), []
    while going.any():
        actions = np.array([teacher(planes) for planes in shown])
        slip = rng.random(len(actions)) < slips
        actions = np.where(slip, rng.integers(0, game.actions, len(actions)), actions)
        after, rewards, over = game.step(actions)
        steps.append((shown, actions, rewards, going))
        shown, going = after, going & ~over
    return as_episodes(game, *(np.stack(part, 1) for part in zip(*steps)))


def as_episodes(game, shown, actions, rewards, mask) -> Episodes:
    """Games that somebody played, arrays (B, T, …), as Episodes; log-probabilities and values are
    0, since nobody knows them.
    """
    games, steps = mask.shape
    seen = game.features(shown.reshape(games * steps, *game.shape))
    parts = (actions, rewards, mask)
    actions, rewards, mask = (torch.from_numpy(np.asarray(part)) for part in parts)
    nothing = torch.zeros(games, steps)
    seen = torch.from_numpy(seen).reshape(games, steps, -1)
    return Episodes(seen, actions.long(), nothing, nothing, rewards.float(), mask.float())


def clone(player: Player, shown: Episodes, steps: int = 150, rate: float = 5e-3) -> list[dict]:
    """Behaviour cloning: make the demonstrated actions likelier; returns "step" and "loss"."""
    if not shown.mask.any():
        raise LabError("There is nothing to copy: no step was played. Play a game first.")
    optimizer, lines = torch.optim.Adam(player.policy.parameters(), rate), []
    for step in range(steps):
        logprobs = player.logprobs(shown.seen).gather(2, shown.actions[..., None])[..., 0]
        loss, _ = sft_loss(logprobs, shown.mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        lines.append({"step": step + 1, "loss": float(loss.detach())})
    return lines


class LearnedReward(nn.Module):
    """r(state, action), a small net, trained against the player that it pays."""

    def __init__(self, shown: Episodes, actions: int, seed: int = 0, hidden: int = 32):
        super().__init__()
        torch.manual_seed(seed)
        self.shown, features = shown, shown.seen.shape[-1]
        self.net = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, actions))
        self.optimizer = torch.optim.Adam(self.parameters(), 1e-3, weight_decay=1e-4)
        self.agreement = []  # how often the teacher's step got more, after each update

    def of(self, episodes: Episodes):
        """The reward of every step, (B, T)."""
        return self.net(episodes.seen).gather(2, episodes.actions[..., None])[..., 0]

    def __call__(self, episodes: Episodes):
        """Learn to tell the teacher's steps from these, then pay these: → (B, T), whitened."""
        theirs, ours = self.shown.mask.bool(), episodes.mask.bool()
        for _ in range(5):
            taught, played = self.of(self.shown)[theirs], self.of(episodes)[ours]
            pairs = torch.randint(len(taught), (len(played),))
            loss, metrics = bradley_terry_loss(taught[pairs], played)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.agreement.append(float(metrics["accuracy"]))
        with torch.no_grad():
            return masked_whiten(self.of(episodes), episodes.mask)


def measured(player: Player, game=None, games: int = 200, seed: int = 10**6) -> dict:
    """ "score" (aliens of eight), "won" (share of games), "steps" of a game: on games that nothing
    learned from, actions drawn.
    """
    torch.manual_seed(seed)
    episodes = learning.play(player, game or Many(), range(seed, seed + games))
    return summary(episodes)


def summary(episodes: Episodes) -> dict:
    scores = episodes.scores
    return {
        "score": float(scores.mean()),
        "won": float((scores == ALIENS).float().mean()),
        "steps": float(episodes.mask.sum(1).mean()),
        "games": len(scores),
    }
