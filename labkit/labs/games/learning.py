"""Policy gradients on games: play B games to their end, weigh every action, make one step.

The formulas are those of notebook 07, imported and not written again: `gae` (reward-to-go,
discount, advantage), `masked_whiten`, `ppo_policy_loss` (ratio and clip), `ppo_value_loss`. B games
of up to T steps are a batch (B, T) with a mask, as B answers of up to T tokens are there.

What was simplified: two nets of one hidden layer, one process, no entropy bonus, no schedule.
"""

import time
from dataclasses import dataclass

import torch
from torch import nn

from labkit import LabError
from labkit.maths.logprobs import masked_mean, masked_sum, masked_whiten
from labkit.maths.policy_gradient import gae, ppo_policy_loss, ppo_value_loss

GAMMA = 0.95
HIDDEN, RATE, CRITIC_PASSES = 64, 5e-3, 4
UNCLIPPED = 1e9  # a clip that never decides


@dataclass
class Episodes:
    """B games of up to T steps.

    seen (B, T, F): what the player saw before each step, float. actions (B, T). logprobs (B, T):
    log π of each action when it was taken. values (B, T): what the critic expected before it.
    rewards (B, T). mask (B, T): 1 while the game went on, 0 after its end.
    """

    seen: torch.Tensor
    actions: torch.Tensor
    logprobs: torch.Tensor
    values: torch.Tensor
    rewards: torch.Tensor
    mask: torch.Tensor

    @property
    def scores(self) -> torch.Tensor:
        """What each game brought, (B,)."""
        return masked_sum(self.rewards, self.mask, 1)


class Player(nn.Module):
    """A policy (what to do) and a critic (what is still to come): two small nets."""

    def __init__(self, features: int, actions: int, hidden: int = HIDDEN):
        super().__init__()
        self.features = features

        def net(out):
            return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, out))

        self.policy, self.critic = net(actions), net(1)
        for last in (self.policy[-1], self.critic[-1]):  # begin undecided, expecting nothing
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def logprobs(self, seen):
        """log π of every action: (…, F) → (…, actions)."""
        return self.policy(seen).log_softmax(-1)

    def values(self, seen):
        """(…, F) → (…)."""
        return self.critic(seen).squeeze(-1)


def player_for(game, seed: int = 0, hidden: int = HIDDEN) -> Player:
    """A new player of this game."""
    torch.manual_seed(seed)
    return Player(game.size, game.actions, hidden)


def read(game, seen) -> torch.Tensor:
    """What B games show, as the player's features (B, F)."""
    return torch.from_numpy(game.features(seen))


@torch.no_grad()
def play(player: Player, game, seeds, greedy: bool = False) -> Episodes:
    """Play the game of every seed (B) once, to its end. greedy: the likeliest action, not a drawn
    one.
    """
    now, going = read(game, game.reset(seeds)), torch.ones(len(seeds), dtype=torch.bool)
    if now.shape[1] != player.features:
        raise LabError(
            f"This player sees {player.features} numbers, but the game shows {now.shape[1]}: make"
            " one with player_for(game)."
        )
    seen = torch.zeros(len(seeds), game.limit, game.size)
    actions = torch.zeros(len(seeds), game.limit, dtype=torch.long)
    logprobs, rewards, mask = torch.zeros(3, len(seeds), game.limit)
    step = 0
    while going.any():
        if step == game.limit:
            raise LabError(f"A game was not over after its limit of {game.limit} steps.")
        opinion = player.logprobs(now)  # (B, actions)
        chosen = opinion.argmax(1) if greedy else torch.multinomial(opinion.exp(), 1)[:, 0]
        seen[:, step], actions[:, step], mask[:, step] = now, chosen, going.float()
        logprobs[:, step] = opinion.gather(1, chosen[:, None])[:, 0]
        after, paid, over = game.step(chosen.numpy())
        rewards[:, step] = torch.from_numpy(paid)
        now, going, step = read(game, after), going & ~torch.from_numpy(over), step + 1
    parts = (part[:, :step] for part in (seen, actions, logprobs, rewards, mask))
    seen, actions, logprobs, rewards, mask = parts
    return Episodes(seen, actions, logprobs, player.values(seen), rewards, mask)


# --- the versions of the lecture's course, and of notebook 07 ------------------------------------


def version_0(rewards, values, mask):
    """The reward of the moment: 短視近利. (γ = 0: nothing after the step counts.)"""
    return gae(rewards, 0 * values, mask, gamma=0.0)[0]


def version_1(rewards, values, mask):
    """Reward-to-go: all that comes from here on."""
    return gae(rewards, 0 * values, mask, gamma=1.0, lam=1.0)[0]


def version_2(rewards, values, mask):
    """Discounted: what comes later has less to do with this action."""
    return gae(rewards, 0 * values, mask, gamma=GAMMA, lam=1.0)[0]


def version_3(rewards, values, mask):
    """Minus a baseline, the mean: good is what is better than usual."""
    to_go = version_2(rewards, values, mask)
    return to_go - masked_mean(to_go, mask)


def version_35(rewards, values, mask):
    """Minus the critic's guess for this very state (version 3.5)."""
    return gae(rewards, values, mask, gamma=GAMMA, lam=1.0)[0]


def version_4(rewards, values, mask):
    """Advantage actor-critic: the one step's surprise, r + γ V(next) − V."""
    return gae(rewards, values, mask, gamma=GAMMA, lam=0.0)[0]


def between(rewards, values, mask, gamma=GAMMA):
    """Between 3.5 and 4, as PPO has it: λ = 0.95, and whitened."""
    return masked_whiten(gae(rewards, values, mask, gamma=gamma, lam=0.95)[0], mask)


VERSIONS = {
    "0": version_0,
    "1": version_1,
    "2": version_2,
    "3": version_3,
    "3.5": version_35,
    "4": version_4,
    "PPO": between,
}
"""{name: weight}; weight(rewards, values, mask), all (B, T), → the weight of every action."""


# --- the loop ------------------------------------------------------------------------------------


def learn(
    player,
    game,
    weight,
    updates: int,
    games: int = 32,
    passes: int = 1,
    clip: float = UNCLIPPED,
    minibatches: int = 1,
    reward=None,
    rate: float = RATE,
    seed: int = 0,
    steps: int = 0,
    gamma: float = GAMMA,
) -> list[dict]:
    """Improve the player; returns a line an update: "update", "score" (what the game paid per
    game), "steps" (of all games so far), "paid" (what the reward paid), "seconds".

    weight: one of VERSIONS. passes: how often a batch is used; 1 is on-policy (the ratio is 1, and
    the loss's gradient is the plain policy gradient), more need `clip`. reward: a function of
    Episodes → (B, T), in place of what the game pays. steps: stop after so many of all games.
    """
    torch.manual_seed(seed)
    groups = [{"params": net.parameters()} for net in (player.policy, player.critic)]
    optimizer = torch.optim.Adam(groups, rate, eps=1e-5)
    lines, started, played = [], time.perf_counter(), 0
    for update in range(updates):
        first = (seed * 10_000 + update) * games
        episodes = play(player, game, range(first, first + games))
        played += int(episodes.mask.sum())
        rewards = reward(episodes) if reward else episodes.rewards
        improve(player, optimizer, episodes, rewards, weight, passes, clip, minibatches, gamma)
        line = {"update": update + 1, "score": float(episodes.scores.mean()), "steps": played}
        line["paid"] = float(masked_sum(rewards, episodes.mask, 1).mean())
        lines.append(line | {"seconds": time.perf_counter() - started})
        if steps and played >= steps:
            break
    return lines


def improve(player, optimizer, episodes, rewards, weight, passes, clip, minibatches, gamma):
    """`passes` times over the games: a step of policy and critic for each minibatch of steps. In a
    single pass the critic still reads the batch CRITIC_PASSES times: its targets don't grow old.
    """
    there = episodes.mask.bool()
    weights = weight(rewards, episodes.values, episodes.mask)
    _, returns = gae(rewards, 0 * rewards, episodes.mask, gamma, 1.0)  # what really came
    kept = (episodes.seen, episodes.actions, episodes.logprobs, weights, episodes.values, returns)
    kept = [part[there] for part in kept]  # (N, …): the steps that were played
    for number in range(max(passes, CRITIC_PASSES)):
        for rows in torch.randperm(len(kept[0])).chunk(minibatches):
            seen, actions, old, A, old_values, targets = (part[rows] for part in kept)
            every = torch.ones_like(old)
            values = player.values(seen)
            loss, _ = ppo_value_loss(values, old_values, targets, every, UNCLIPPED)
            if number < passes:
                new = player.logprobs(seen).gather(1, actions[:, None])[:, 0]
                loss = loss + ppo_policy_loss(new, old, A, every, clip)[0]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for net in (player.policy, player.critic):
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()  # a net without a gradient stays as it is
