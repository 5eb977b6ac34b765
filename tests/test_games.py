"""Notebook 03's games: rules by hand, one game against many, the learner's formulas, bad input."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from labkit import LabError
from labkit.labs.games import invaders
from labkit.labs.games.invaders import FIRE, GROUND, LEFT, RIGHT, SpaceInvaders
from labkit.labs.games.many import Many

# --- the rules -----------------------------------------------------------------------------------


def begun(**state) -> SpaceInvaders:
    """A game in which only what is given is in the air or on the board."""
    game = SpaceInvaders()
    game.reset(seed=1)
    game.aliens, game.bombs, game.shot, game.ship, game.heading = {(1, 9)}, set(), None, 5, 1
    vars(game).update(state)
    return game


def test_gymnasium_accepts_the_game():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("labkit/SpaceInvaders-v0", render_mode="ansi").unwrapped)


def test_a_shot_climbs_one_cell_a_step_and_hits():
    game = begun(aliens={(5, 5), (1, 9)})
    assert [game.step(action)[1] for action in (FIRE, LEFT)] == [0, 0]
    assert game.shot == (7, 5) and game.ship == 4
    # Its one shot is in the air, so firing does nothing; the aliens come down, one into the shot.
    _, reward, over, late, info = game.step(FIRE)
    assert (reward, over, late, info) == (1, False, False, {"aliens": 1, "won": False})
    assert game.shot is None and game.aliens == {(2, 9)}


def test_aliens_come_down_at_the_wall_and_turn_round():
    game = begun(aliens={(1, 9), (1, 3)}, step_number=2)
    game.step(LEFT)
    assert game.aliens == {(2, 9), (2, 3)} and game.heading == -1
    game.step_number = 5
    game.step(LEFT)
    assert game.aliens == {(2, 8), (2, 2)}


def test_a_bomb_falls_from_the_lowest_alien_and_ends_the_game():
    game = begun(aliens={(1, 2), (3, 2)}, step_number=3)
    game.step(RIGHT)
    assert game.bombs == {(4, 2)}
    game = begun(bombs={(GROUND - 1, 5)})
    _, reward, over, late, info = game.step(FIRE)
    assert (reward, over, late, info["won"]) == (0, True, False, False)


def test_the_last_alien_wins_and_time_runs_out():
    game = begun(aliens={(6, 5)}, shot=(7, 5))
    assert game.step(LEFT)[1:] == (1.0, True, False, {"aliens": 0, "won": True})
    game = begun(step_number=game.limit - 1)
    assert game.step(LEFT)[2:4] == (False, True)
    assert begun(aliens={(8, 9)}, step_number=2).step(LEFT)[2]  # they have landed


def test_the_walls_hold_the_ship():
    game = begun(ship=0)
    game.step(LEFT)
    assert game.ship == 0
    game.ship = GROUND
    game.step(RIGHT)
    assert game.ship == GROUND
    assert invaders.drawn(game.seen()).splitlines()[-1] == ".........A"


def test_many_games_are_equal_to_single_ones_step_for_step():
    rng, seeds = np.random.default_rng(3), np.arange(60)
    actions = np.where(rng.random((60, 80)) < 0.3, FIRE, rng.integers(0, 3, (60, 80)))
    many, single = Many(), [SpaceInvaders() for _ in seeds]
    begins = many.reset(seeds)
    assert (
        begins == np.stack([game.reset(seed=int(s))[0] for game, s in zip(single, seeds)])
    ).all()
    ends = set()
    for t in range(80):
        seen, rewards, over = many.step(actions[:, t])
        for i, game in enumerate(single):
            if game.over:
                assert rewards[i] == 0 and over[i]
                continue
            now, reward, done, late, info = game.step(actions[i, t])
            assert (now == seen[i]).all() and reward == rewards[i] and (done or late) == over[i]
            ends |= {("late", late)} if done or late else set()
    assert over.all() and len(ends) == 2  # some were lost, some ran out of time


def test_features_are_seen_from_the_ship():
    game = begun(aliens={(2, 5), (3, 0)}, ship=5, shot=(4, 7), bombs={(6, 4)})
    seen = game.seen()[None]
    near = Many.features(seen)[0, : 11 * 30].reshape(11, 3, 10)
    assert {tuple(map(int, place)) for place in np.argwhere(near)} == {
        (5, 0, 2),
        (0, 0, 3),
        (7, 1, 4),
        (4, 2, 6),  # (column, plane, row); 5 is the ship's own
    }
    assert Many.features(seen).shape == (1, Many.size)
    assert Many.features(seen)[0, 11 * 30 :].tolist() == [0] * 5 + [1] + [0] * 4 + [1]


# --- bad input: one sentence each ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, said",
    [
        (
            lambda: begun().step(3),
            r"no action 3 here. There are 0 \(left\), 1 \(right\), 2 \(fire\)",
        ),
        (lambda: begun().step("fire"), "no action 'fire' here"),
        (lambda: SpaceInvaders().step(0), "call reset"),
        (lambda: begun(over=True).step(0), "This game is over"),
        (lambda: SpaceInvaders(limit=0), "a game needs an end"),
        (lambda: Many(limit=None), "a game needs an end"),
        (lambda: (many := Many(), many.reset([1, 2]), many.step([0])), "2 games need as many"),
        (lambda: (many := Many(), many.reset([1]), many.step([7])), "none of 0 to 2"),
    ],
)
def test_bad_input_is_named(wrong, said):
    with pytest.raises(LabError, match=said) as error:
        wrong()
    assert "\n" not in str(error.value)
