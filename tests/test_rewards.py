"""Several reward models made one: by hand, and as PPO is paid by them."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from ppo_scene import players_of, random_run
from torch.testing import assert_close

from labkit import LabError, config
from labkit.maths.rewards import lowest, piecewise, weighted, whiten
from labkit.stages import ppo
from labkit.stages.ppo_players import one_of

SCORES = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 3.0, 2.0]])


def test_lowest_and_weighted_by_hand():
    assert lowest(SCORES).tolist() == [-1.0, -2.0, 0.5]
    assert weighted(SCORES, [0.25, 0.75]).tolist() == [-0.5, 1.75, 1.625]
    assert_close(weighted(SCORES, [1, 3]), weighted(SCORES, [0.25, 0.75]))  # only their ratio
    assert_close(weighted(SCORES, [0.0, 2.0]), SCORES[1])


def test_piecewise_by_hand():
    """σ(−1.7) = 0.154 and σ(−1.8) = 0.142: only the second is below 0.15."""
    safety, helpful = torch.tensor([0.3, -1.7, -1.8, 0.3]), torch.tensor([5.0, 5.0, 5.0, -5.0])
    tagged = torch.tensor([True, False, False, False])
    assert_close(piecewise(safety, helpful, tagged), torch.tensor([0.3, 5.0, -1.8, -5.0]))


def test_whitening_by_hand():
    root = math.sqrt(1.5)
    assert_close(whiten(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([-root, 0.0, root]))
    assert whiten(torch.tensor([2.0, 2.0])).tolist() == [0.0, 0.0]


def test_the_atlas_tags_harmful_requests_and_nothing_else():
    asked = [
        "How do I make gunpowder?",
        "請教我做一把玩具槍，要不會打傷人的那種",  # a look-alike
        "What is the capital of France?",
        "A question of the learner's own",
    ]
    scores = torch.stack([torch.zeros(4), torch.ones(4)])  # σ(0) is no alarm
    assert one_of(scores, asked, "piecewise").tolist() == [0.0, 1.0, 1.0, 1.0]
    assert one_of(scores, asked, "1,3").tolist() == [0.75] * 4
    assert one_of(scores, asked, "lowest").tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "combine, reward, must",
    [
        ("highest", "a,b", "lowest.*piecewise.*a weight for each reward run"),
        ("0.3,x", "a,b", "a weight for each reward run"),
        ("0.3,", "a,b", "a weight for each reward run"),
        ("-0.3,1.3", "a,b", "none below 0"),
        ("0,0", "a,b", "not all 0"),
        ("nan,1", "a,b", "none below 0"),
        ("inf,1", "a,b", "none below 0"),
        ("0.3,0.3,0.4", "a,b", 'a weight for each run of reward="a,b"'),
        ("0.3,0.7", "a", 'a weight for each run of reward="a"'),
        ("piecewise", "", 'a weight for each run of reward="".* for two, safety first'),
        ("piecewise", "a,b,c", "for two, safety first"),
    ],
)
def test_contradictory_weights_are_one_clear_sentence(combine, reward, must):
    with pytest.raises(LabError, match=f"Ppo.combine is .*must be .*{must}"):
        config.Ppo(reward=reward, combine=combine)


def test_ppo_is_paid_by_what_the_rule_makes_of_them(ppo_cfg, scene):
    _, batch, _ = scene
    random_run("reward", "rl-safety", 8)

    def scores(combine, **names):
        return ppo.score(players_of(config.change(ppo_cfg, **names, combine=combine)), batch)

    safety, helpful = (scores("lowest", reward=name) for name in ("rl-safety", "rl-reward"))
    assert (safety - helpful).abs().min() > 1e-3
    scores = partial(scores, reward="rl-safety,rl-reward")
    assert_close(scores("1,0"), safety)
    assert_close(scores("0.25,0.75"), 0.25 * safety + 0.75 * helpful)
    assert_close(scores("lowest"), torch.minimum(safety, helpful))
    nobody = torch.zeros(len(safety), dtype=torch.bool)  # no prompt of the scene is the atlas's
    assert_close(scores("piecewise"), piecewise(safety, helpful, nobody))


def test_only_the_piecewise_rule_whitens(ppo_cfg, scene):
    """The same scores on another scale are the same to the policy there, and nowhere else."""
    _, _, old = scene
    larger = replace(old, scores=3 * old.scores + 2)
    rule = {"reward": "a,b", "missing_eos_penalty": 0.0}
    for combine, same in (("piecewise", True), ("0.5,0.5", False)):
        cfg = config.change(ppo_cfg, **rule, combine=combine)
        (_, one), (_, other) = (ppo.credit(each, cfg, 0.05) for each in (old, larger))
        assert torch.allclose(one, other, atol=1e-4) == same
