"""Notebook 03's games: rules by hand, one game against many, the learner's formulas, bad input."""

import json
import struct
import warnings
import zlib

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from labkit import LabError, config
from labkit.labs import games_jobs as jobs
from labkit.labs.games import (
    film,
    imitation,
    invaders,
    learning,
    maze,
    paying,
    playing,
    poles,
    record,
)
from labkit.labs.games.invaders import FIRE, GROUND, LEFT, RIGHT, SpaceInvaders
from labkit.labs.games.learning import VERSIONS, Episodes, learn, play, player_for
from labkit.labs.games.many import Many
from labkit.maths import logprobs, losses, policy_gradient
from labkit.stages import ppo

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


# --- the learner ---------------------------------------------------------------------------------

REWARDS, MASK = torch.tensor([[0.0, 1.0, 0.0, 2.0]]), torch.tensor([[1.0, 1.0, 1.0, 1.0]])
VALUES = torch.tensor([[0.5, 1.0, 2.0, 1.0]])


def test_the_versions_by_hand(monkeypatch):
    g = learning.GAMMA
    worked = {
        "0": [0, 1, 0, 2],
        "1": [3, 3, 2, 2],
        "2": [g + 2 * g**3, 1 + 2 * g**2, 2 * g, 2],
        "3.5": [g + 2 * g**3 - 0.5, 2 * g**2, 2 * g - 2, 1],
        "4": [g - 0.5, 2 * g, g - 2, 1],
    }
    worked["3"] = [to_go - sum(worked["2"]) / 4 for to_go in worked["2"]]
    for name, wanted in worked.items():
        found = VERSIONS[name](REWARDS, VALUES, MASK)[0]
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float))
    lam = policy_gradient.gae(REWARDS, VALUES, MASK, g, 0.95)[0]
    torch.testing.assert_close(
        VERSIONS["PPO"](REWARDS, VALUES, MASK)[0],
        ((lam - lam.mean()) / lam.var(correction=0).sqrt())[0],
    )


def test_03_and_07_call_the_same_functions():
    for name in ("gae", "ppo_policy_loss", "ppo_value_loss"):
        mine = getattr(learning, name)
        assert mine is getattr(ppo, name) is getattr(policy_gradient, name)
    assert learning.masked_whiten is ppo.masked_whiten is logprobs.masked_whiten
    assert imitation.sft_loss is ppo.sft_loss is losses.sft_loss  # what 02 shows
    assert imitation.bradley_terry_loss is losses.bradley_terry_loss  # what 06 shows


def test_one_step_a_batch_is_the_plain_policy_gradient():
    player, game = player_for(Many(), 1), Many()
    torch.nn.init.normal_(player.policy[-1].weight, std=0.3)
    episodes = play(player, game, range(4))
    weights = VERSIONS["1"](episodes.rewards, episodes.values, episodes.mask)
    there = episodes.mask.bool()

    def chosen():
        return player.logprobs(episodes.seen).gather(2, episodes.actions[..., None])[..., 0]

    plain = -(weights * chosen())[there].mean()
    loss, _ = learning.ppo_policy_loss(chosen(), episodes.logprobs, weights, episodes.mask, 0.2)
    one, other = (torch.autograd.grad(x, player.policy[0].weight)[0] for x in (plain, loss))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_episodes_are_the_games_that_were_played():
    torch.manual_seed(0)
    episodes = play(player_for(Many()), Many(), range(3))
    for i in range(3):
        game, score = SpaceInvaders(), 0
        seen, _ = game.reset(seed=i)
        for t in range(int(episodes.mask[i].sum())):
            assert (Many.features(seen[None])[0] == episodes.seen[i, t].numpy()).all()
            seen, reward, *_ = game.step(int(episodes.actions[i, t]))
            assert reward == episodes.rewards[i, t]
            score += reward
        assert game.over and score == episodes.scores[i]
    assert torch.allclose(episodes.logprobs[episodes.mask > 0].exp(), torch.tensor(1 / 3))


def test_a_player_learns_to_fire_where_only_firing_pays():
    def fires(episodes):
        return (episodes.actions == FIRE).float()

    player = player_for(Many(limit=10))
    lines = learn(player, Many(limit=10), VERSIONS["PPO"], 25, 8, reward=fires)
    assert lines[-1]["paid"] > 7 > 5 > lines[0]["paid"]
    assert lines[-1]["steps"] == 25 * 8 * 10 and [line["update"] for line in lines[:2]] == [1, 2]


def test_learning_repeats_itself():
    def once():
        return learn(player_for(Many(), 3), Many(), VERSIONS["4"], 2, 4, seed=3)

    first, second = once(), once()
    assert [line["score"] for line in first] == [line["score"] for line in second]


# --- what is paid --------------------------------------------------------------------------------


def made(rewards, mask=None, seen=None) -> Episodes:
    rewards = torch.tensor(rewards, dtype=torch.float)
    mask = torch.ones_like(rewards) if mask is None else torch.tensor(mask, dtype=torch.float)
    zero = torch.zeros_like(rewards)
    return Episodes(seen, zero.long(), zero, zero, rewards, mask)


def test_the_three_ways_to_pay():
    games = made([[4, 4, 0], [1, 0, 0]], [[1, 1, 0], [1, 1, 1]])  # the first is won
    assert paying.won(games).tolist() == [True, False]
    assert paying.sparse(games).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert paying.shaped(games).tolist() == [[0.5, 1.5, 0], [0.125, 0, 0]]
    staying = torch.tensor([[0.05, 1.05, 0], [0.05, 0.05, 0.05]])
    torch.testing.assert_close(paying.staying(games), staying)


def test_the_maze_has_walls_an_end_and_a_television():
    game = maze.Maze(limit=3)
    assert game.reset([1, 2]).tolist() == [[0, 0], [0, 0]]
    seen, rewards, over = game.step([0, 3])  # up, into the wall; right
    assert seen.tolist() == [[0, 0], [1, 0]] and not rewards.any() and not over.any()
    game.at[:] = maze.TARGET - maze.WIDE, maze.TELEVISION
    game.at[0] = maze.TARGET + 1
    _, rewards, over = game.step([2, 1])
    assert rewards.tolist() == [1, 0] and over.tolist() == [True, False]
    assert game.step([0, 0])[2].all()  # the other ran out of time
    on = maze.Maze(television=True)
    on.reset([1])
    on.at[:] = maze.TELEVISION
    pictures = {int(on.step([1])[0][0, 1]) for _ in range(5)}
    assert len(pictures) == 5 and 0 not in pictures


def test_curiosity_pays_what_is_new():
    places = np.array([[0, 0], [1, 0], [1, 0], [11, 0]])
    seen = torch.from_numpy(maze.Maze.features(places))[None]
    pay, games = maze.Curiosity(), made([[0, 0, 0, 0]], seen=seen)
    assert torch.allclose(pay(games), torch.tensor([[2**-0.5, 2**-0.5, 1, 0]]))
    assert torch.allclose(pay(games), torch.tensor([[0.5, 0.5, 2**-0.5, 0]])) and pay.cells() == 2
    short = made([[0, 0, 0, 0]], [[1, 1, 0, 0]], seen=seen)
    assert torch.allclose(maze.Curiosity()(short), torch.tensor([[1.0, 0, 0, 0]]))


# --- imitation -----------------------------------------------------------------------------------


def test_the_teacher_dodges_aims_and_fires():
    assert imitation.teacher(begun(aliens={(8, 6)}).seen()) == RIGHT
    assert imitation.teacher(begun(aliens={(8, 5)}).seen()) == FIRE
    dodge = begun(bombs={(GROUND - 1, 5), (GROUND - 1, 4)})
    assert imitation.teacher(dodge.seen()) == RIGHT
    assert imitation.teacher(begun(ship=0, bombs={(GROUND - 2, 0)}).seen()) == RIGHT
    assert imitation.teacher(begun(aliens=set()).seen()) == FIRE


def test_a_copy_does_what_it_was_shown():
    shown = imitation.demonstrations(range(3), Many(limit=20), slips=0.0)
    player = player_for(Many())
    lines = imitation.clone(player, shown, steps=60)
    there = shown.mask.bool()
    same = (player.logprobs(shown.seen).argmax(-1) == shown.actions)[there].float().mean()
    assert lines[-1]["loss"] < lines[0]["loss"] / 4 and same > 0.9


def test_a_learned_reward_prefers_the_teachers_steps():
    shown = imitation.demonstrations(range(4), Many(limit=20))
    reward = imitation.LearnedReward(shown, Many.actions)
    games = play(player_for(Many()), Many(limit=20), range(4))
    for _ in range(30):
        paid = reward(games)
    assert reward.agreement[-1] > 0.8 and paid.shape == games.mask.shape
    ours, theirs = (reward.of(x)[x.mask.bool()].mean() for x in (games, shown))
    assert theirs > ours and abs(float(paid[games.mask.bool()].mean())) < 1e-5


# --- films, panels, CartPole, the record ---------------------------------------------------------


def chunks(png: bytes):
    at = 8
    while at < len(png):
        (size,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        data = png[at + 8 : at + 8 + size]
        assert struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0] == zlib.crc32(
            kind + data
        )
        yield kind, data
        at += 12 + size


def test_a_film_is_an_animated_png():
    cells = np.zeros((3, 2, 4), np.uint8)
    cells[1, 1, 2] = film.ALIEN
    whole = film.Film(cells, "an alien appears", scale=1)
    found = list(chunks(whole.png()))
    kinds = [kind for kind, _ in found]
    assert kinds[:3] == [b"IHDR", b"acTL", b"PLTE"] and kinds[-1] == b"IEND"
    assert kinds.count(b"fcTL") == 3 and kinds.count(b"fdAT") == 2 and kinds.count(b"IDAT") == 1
    numbers = [struct.unpack(">I", d[:4])[0] for k, d in found if k in (b"fcTL", b"fdAT")]
    assert numbers == list(range(5))
    second = zlib.decompress(next(data for kind, data in found if kind == b"fdAT")[4:])
    rows = np.frombuffer(second, np.uint8).reshape(16, 33)
    assert film.ALIEN in rows[8:, 17:25] and film.ALIEN not in rows[:8]
    both = whole.beside(film.Film(cells[:1], ""), "two")
    assert both.cells.shape == (3, 2, 9) and (both.cells[:, :, 4] == film.GAP).all()
    bundle = whole._repr_mimebundle_()
    assert bundle["text/plain"] == "an alien appears" and bundle["image/png"].startswith("iVBOR")


def test_a_game_can_be_played_by_its_buttons():
    panel = playing.Play(seed=3)
    for name in ("left", "fire", "right"):
        panel.buttons[name].click()
    assert panel.steps == 3 and [action for _, action, _ in panel.games[0]] == [LEFT, FIRE, RIGHT]
    assert "Your ship is in column" in panel._status.value and "step 3 of 80" in panel._head.value
    episodes = panel.episodes()
    assert episodes.seen.shape == (1, 3, Many.size) and episodes.mask.sum() == 3
    while not panel.game.over:
        panel.press("fire")
    steps = panel.steps
    panel.buttons["fire"].click()  # when it is over, a key does nothing but say so
    assert panel.steps == steps and "This game is over" in panel._status.value
    panel.press("new game")
    panel.press("new game")
    assert len(panel.games) == 2 and "Space Invaders: " in str(panel)


def test_cartpole_is_gymnasiums():
    game = poles.Poles()
    assert game.reset([5, 6]).shape == (2, 4)
    total = np.zeros(2)
    for _ in range(60):
        _, rewards, over = game.step(np.zeros(2, int))
        total += rewards
    assert over.all() and (total < 20).all() and (total > 5).all()


def test_the_record_is_measured_and_read(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path))
    small = {"seeds": 1, "updates": 2, "short": 2, "games": 4, "shown": 2, "steps": 200}
    found = jobs.measure(jobs.Plan(config.profile("tiny"), **small))
    file = tmp_path / "games.json"
    file.write_text(json.dumps(found), "utf8")
    read = record.load(file)
    assert record.ways(read, "rung") == [name for name in VERSIONS if name != "PPO"]
    assert len(record.margins(read, "4", "0")) == 1
    (row,) = record.curves(read, "rung", every=2)["4"]
    assert row["update"] == 2 and row["score lowest"] == row["score"]
    assert {row["way"] for row in record.after(read, "shaping", "won")} == set(paying.WAYS)


# --- bad input: one sentence each ----------------------------------------------------------------


class Endless(Many):
    """Breaks its promise to be over after `limit` steps."""

    def __init__(self):
        super().__init__(limit=5)

    def step(self, actions):
        seen, rewards, over = super().step(actions)
        return seen, rewards, over & False


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
        (lambda: play(player_for(maze.Maze()), Many(), [1]), "make one with player_for"),
        (lambda: play(player_for(Many()), Endless(), [1]), "not over after its limit of 5"),
        (lambda: playing.Play(seed=1).press("jump"), "no button 'jump'"),
        (lambda: playing.Play(seed=1).episodes(), "You have not played yet"),
        (lambda: imitation.clone(player_for(Many()), made([[0.0]], [[0.0]])), "nothing to copy"),
        (lambda: record.load("nowhere.json"), "bench games"),
    ],
)
def test_bad_input_is_named(wrong, said):
    with pytest.raises(LabError, match=said) as error:
        wrong()
    assert "\n" not in str(error.value)
