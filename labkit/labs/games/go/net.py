"""A small net that plays Go: policy and critic in one, what it thinks, how it is kept."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from labkit import LabError, runs
from labkit.labs.games.go import rules


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
def opinions(net: Net, states, temperature: float = 1.0) -> torch.Tensor:
    """The policy's probability of every move in every position (B, size² + 1); temperature 0: the
    likeliest move, for certain.
    """
    logprobs, _ = net(rules.planes(states))
    if temperature == 0:
        return F.one_hot(logprobs.argmax(1), logprobs.shape[1]).float()
    return (logprobs / temperature).softmax(1)


def player(net: Net, temperature: float = 1.0, seed: int = 0):
    """A player (see rules.py) that draws from the policy; temperature 0: the likeliest move."""
    dice = torch.Generator().manual_seed(seed)

    def choose(states):
        odds = opinions(net, states, temperature)
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


# --- how narrow a policy is


def entropy(logprobs):
    """−Σ π log π of each row (B, moves) → (B,); what the rules forbid adds nothing."""
    return -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(1)


@torch.no_grad()
def matched_temperature(net: Net, other: Net, games: list[list[int]]) -> float:
    """The temperature at which net's moves vary as much as other's, in the positions of `games`."""
    seen = torch.cat([rules.planes(rules.before(game, net.size)) for game in games])
    (wide, _), target = net(seen), entropy(other(seen)[0]).mean()
    low, high = 0.001, 2.0
    for _ in range(25):
        middle = (low + high) / 2
        above = entropy((wide / middle).log_softmax(1)).mean() > target
        low, high = (low, middle) if above else (middle, high)
    return middle
