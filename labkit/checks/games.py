"""The exercises of notebook 03: what an action is worth. Its other two, the surprise and the clip,
are notebook 07's own (checks/ppo.py).
"""

from labkit.checks.core import solved


@solved(
    "with γ = 1 it is version 1, with γ = 0 version 0; `gae` gives the same with λ = 1.",
    (
        ([0.0, 0.0, 1.0], 1.0),
        "All that comes from a step on: the steps before the hit earn it too.",
    ),
    (([1.0, 0.0, 0.0], 1.0), "What was earned before a step is not that step's doing."),
    (([2.0, 1.0, 4.0], 1.0), "A step's own reward counts as well."),
    (([0.0, 0.0, 1.0], 0.5), "γ once for every step between: two steps before, γ²."),
    (([1.0, 1.0, 1.0], 0.9), "Go through the steps from the last one: G_t = r_t + γ G_{t+1}."),
    (([3.0, 1.0], 0.0), "γ = 0: nothing after the step counts."),
)
def check_to_go(rewards, gamma):
    """function(rewards, gamma) → a list, for every step of one game its reward plus γ times the
    next one's, plus γ² times …: G_t = r_t + γ G_{t+1}. rewards: a list, one a step.
    """
    found, after = [], 0.0
    for reward in rewards[::-1]:
        after = reward + gamma * after
        found.append(after)
    return found[::-1]


@solved(
    "half of the actions are now blamed, though no reward was ever below 0.",
    (([3.0, 1.0], [1, 1]), "The mean of the two is 2: what is left is +1 and −1."),
    (([5.0, 5.0], [1, 1]), "Where all are alike, nobody is praised."),
    (([4.0, 2.0, 9.0], [1, 1, 0]), "The last step was not played (mask 0): leave it out, give 0."),
    (([1.0, 0.0, 0.0, 7.0], [1, 1, 1, 0]), "The mean is over the steps that were played."),
)
def check_baseline(to_go, mask):
    """function(to_go, mask) → a list: each step's reward-to-go minus the mean over the steps that
    were played, and 0 where mask is 0. Both are lists of one length.
    """
    played = [worth for worth, there in zip(to_go, mask) if there]
    mean = sum(played) / len(played)
    return [worth - mean if there else 0.0 for worth, there in zip(to_go, mask)]
