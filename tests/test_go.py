"""Go on a small board: rules, records, the two ways to learn, the board to play on, the record."""

import copy
import gzip
import json
import random
import sys

import pytest
import torch

from labkit import LabError, runs
from labkit.labs.games import go, go_jobs
from labkit.labs.games.go import learn, picture, records, rules, sacrifice
from labkit.labs.games.go import net as net_module
from labkit.maths import policy_gradient

PASS = 25


def position(*moves, size=5):
    state = go.starts(size, 1)[0]
    for where in moves:
        go.move(state, where)
    return state


# --- rules ---------------------------------------------------------------------------------------


def test_a_missing_engine_is_one_sentence_and_the_rest_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspiel", None)
    for ask in (go.new, lambda: go.tree_search(5), lambda: go.starts(7, 2)):
        with pytest.raises(LabError, match="pip install open_spiel"):
            ask()
    from labkit import agreement, ppo  # noqa: F401

    assert go.name(12, 5) == "c3" and go.name(25, 5) == "pass"
    net = go.Net()
    assert net(torch.zeros(2, rules.PLANES, 5, 5))[0].shape == (2, 26)


@pytest.mark.parametrize("size", [0, 1, 2, 10, 19, 40, -5, "5", 5.5, None])
def test_a_board_that_is_not_there_is_refused(size):
    with pytest.raises(LabError, match="no board of"):
        go.new(size)


@pytest.mark.parametrize("where", [12, -1, 26, 99])
def test_an_illegal_move_changes_nothing(where, capfd):
    state = position(12)
    with pytest.raises(LabError, match="not allowed"):
        go.move(state, where)
    assert state.history() == [12]
    assert capfd.readouterr().err == ""  # the engine would write there, and print its own words


def test_a_ko_is_not_taken_back_at_once():
    """Black takes one stone, and White may not retake it in the next move."""
    #   . X O .      a ko in the lower left corner: Black plays c2 (a point in White's mouth)
    moves = [1, 2, 5, 8, 11, 12, 3, 6]  # b1 c1 a2 d2 b3 c3 d1 b2
    state = position(*moves)
    assert state.legal_actions()  # whoever reads the board may try
    taken = position(*moves, 7)  # Black c2 takes b2
    assert picture.stones(taken)[6] == "+" and 6 not in taken.legal_actions()


def test_after_the_end_nothing_moves():
    state = position(PASS, PASS)
    with pytest.raises(LabError, match="over"):
        go.move(state, 3)


def test_a_game_that_never_ends_ends():
    """Players that never pass: over at move 2 · size², or a position comes back."""
    restless = lambda states: [  # noqa: E731
        next(m for m in s.legal_actions() if m != PASS or len(s.legal_actions()) == 1)
        for s in states
    ]
    played = go.match(restless, restless, 4)
    assert all(len(moves) <= 50 for moves in played.moves)
    assert set(played.scores) <= {0.0, 0.5, 1.0}


def test_a_player_that_breaks_the_rules_is_named():
    with pytest.raises(LabError, match="a1 is not allowed"):
        go.match(lambda states: [0] * len(states), go.anywhere(), 2)


def test_planes_are_seen_by_the_mover():
    black, white = go.planes([position(12, 0), position(12)])
    assert black[0, 2, 2] == 1 and black[1, 0, 0] == 1 and black[4].all()
    assert white[1, 2, 2] == 1 and not white[0].any() and not white[4].any()
    assert white[2].sum() == 24 and not black[3].any()
    assert go.planes([position(PASS)])[0, 3].all()
    assert go.planes([position(size=7)]).shape == (1, rules.PLANES, 7, 7)


def test_colours_are_shared_and_counted():
    """A player that always resigns to nothing (passes) loses with White and Black alike."""
    passes = lambda states: [PASS] * len(states)  # noqa: E731
    played = go.match(passes, passes, 6)
    assert played.scores == [0.0, 1.0] * 3  # komi: White wins an empty board
    assert played.rate() == (0.5, 6) and played.rate("black") == (0.0, 3)
    assert go.match(passes, passes, 2, begin=[position(12)] * 2).scores == [0.0, 1.0]


def test_boards_filled_by_lot_are_blacks_turn():
    for state in go.scattered(5, 20, random.Random(0), most=36):
        made = state.history()
        assert state.current_player() == 0 and not state.is_terminal()
        assert len(made) % 2 == 0 and 2 <= len(made) <= 36
    again = go.scattered(5, 20, random.Random(0), most=36)
    assert again[-1].history() == made


def test_the_search_beats_chance():
    share, n = go.match(go.tree_search(5, 50, 1), go.anywhere(2), 20).rate()
    assert share > 0.8 and n == 20


# --- records -------------------------------------------------------------------------------------


def test_the_records_are_games_and_small():
    games = go.read()
    assert len(games) == 4000 and records.path().stat().st_size < 300_000
    for record in games[:50]:
        state = position(*record)
        assert state.is_terminal()


def test_the_records_are_the_teachers(tmp_path):
    """The command gives the same games each time (and with --games 4000, the shipped file)."""
    files = [tmp_path / name for name in ("a.gz", "b.gz")]
    for file in files:
        records.write(records.played(5, 6), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert all(position(*moves).is_terminal() for moves in go.read(5, files[0]))


def test_bad_records_are_named(tmp_path):
    with pytest.raises(LabError, match="no game records for 9"):
        go.read(9)
    broken = tmp_path / "records.gz"
    broken.write_bytes(b"no archive")
    with pytest.raises(LabError, match="holds no game records"):
        go.read(5, broken)
    broken.write_bytes(gzip.compress(b"ab!\n"))
    with pytest.raises(LabError, match="holds no game records"):
        go.read(5, broken)
    with pytest.raises(LabError, match="Game 2 of the records: a1 is not allowed"):
        go.lessons([[0, 1], [0, 0]])


# --- learning ------------------------------------------------------------------------------------


def test_symmetries_move_the_board_and_the_move_alike():
    seen, moves = go.lessons(go.read()[:4])
    turns = [go.turned(seen, moves, k) for k in range(8)]
    point = moves < PASS
    for planes, where in turns:
        free = planes[:, 2].flatten(1)
        assert free[point].gather(1, where[point, None]).all()  # the move is legal there, too
        assert (where[~point] == PASS).all()
    assert len({tuple(planes.flatten().tolist()) for planes, _ in turns}) == 8


def test_the_policy_never_breaks_the_rules():
    net = go.Net()
    states = go.before(go.read()[0])
    forbidden = ~go.legal(states)
    assert (go.opinions(net, states)[forbidden] == 0).all()
    assert torch.allclose(go.opinions(net, states).sum(1), torch.ones(len(states)))
    go.match(go.player(net), go.player(net, 0.0), 8)  # raises where one is not allowed


def test_imitation_lowers_the_loss_and_agrees_more():
    torch.manual_seed(0)
    seen, moves = go.lessons(go.read()[:300])
    rows, net = [], go.Net()
    go.imitate(net, seen, moves, epochs=3, log=rows.append)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["agrees"] > rows[0]["agrees"] * 0.8
    assert rows[-1]["agrees"] > 1 / 15


def test_episodes_hold_what_the_learner_saw():
    torch.manual_seed(0)
    net = go.Net()
    played = go.match(go.player(net, seed=1), go.anywhere(2), 6)
    games = go.episodes(net, played)
    for i, record in enumerate(played.moves):
        own = [move for ply, move in enumerate(record) if ply % 2 == i % 2]
        n = len(own)
        assert games.mask[i].sum() == n and games.moves[i, :n].tolist() == own
        assert games.planes[i, :n, 4].all() if i % 2 == 0 else not games.planes[i, :n, 4].any()
        seen = net(games.planes[i, :n])
        picked = seen[0].gather(1, games.moves[i, :n, None]).squeeze(1)
        assert torch.allclose(games.logprobs[i, :n], picked, atol=1e-5)
        assert torch.allclose(games.values[i, :n], seen[1], atol=1e-5)
    assert games.scores.tolist() == [2 * score - 1 for score in played.scores]


def test_of_games_begun_by_lot_only_the_learners_moves_count():
    torch.manual_seed(0)
    net, begin = go.Net(), go.scattered(5, 6, random.Random(1))
    played = go.match(go.player(net, seed=1), go.anywhere(2), 6, begin=begin)
    games = go.episodes(net, played)
    assert played.made == [len(state.history()) for state in begin]
    for i, (record, made) in enumerate(zip(played.moves, played.made)):
        own = record[made + i % 2 :: 2]
        assert games.mask[i].sum() == len(own) and games.moves[i, : len(own)].tolist() == own
        assert games.planes[i, 0, 4].all() == (i % 2 == 0)


def test_a_game_that_was_over_before_the_learner_moved_is_left_out():
    played = rules.Played([1.0, 0.0], [[12, PASS, PASS], [PASS, PASS]], [0, 1])
    games = go.episodes(go.Net(), played)
    assert games.scores.tolist() == [1.0] and games.mask.sum(1).tolist() == [2]


def test_colours_must_come_out_even():
    """Else the games' numbers would no longer tell which colour the learner had."""
    with pytest.raises(LabError, match="multiple of 8"):
        go.SelfPlay(games=100)
    with pytest.raises(LabError, match="multiple of 4"):
        go.SelfPlay(games=0, opponents=2)


def test_04_and_07_use_the_same_functions(monkeypatch):
    """The step of self-play calls the functions that stages/ppo.py calls."""
    from labkit.stages import ppo

    names = ("shaped_rewards", "gae", "ppo_policy_loss", "ppo_value_loss", "masked_whiten")
    for name in names:
        assert getattr(learn, name) is getattr(ppo, name)
    assert learn.gae is policy_gradient.gae
    called, real = set(), {name: getattr(learn, name) for name in names}
    for name in names:

        def counted(*args, name=name, **options):
            called.add(name)
            return real[name](*args, **options)

        monkeypatch.setattr(learn, name, counted)
    go.self_play(go.Net(), go.SelfPlay(updates=1, games=8, opponents=2, epochs=1))
    assert called == set(names)


def test_the_first_step_compares_the_policy_with_itself():
    """Before any step the ratio is 1: what was played and what is trained is one policy."""
    torch.manual_seed(0)
    net, rows = go.Net(), []
    cfg = go.SelfPlay(updates=1, games=16, epochs=1, minibatch_size=16)
    go.self_play(net, cfg, rows.append)
    assert rows[0]["max_abs_logratio"] < 1e-4 and rows[0]["clip_fraction"] == 0


def test_a_move_that_won_becomes_likelier():
    """One game, won: after steps on it its moves are likelier than those of a lost one."""
    torch.manual_seed(0)
    net = go.Net()
    played = go.match(go.player(net, seed=1), go.anywhere(2), 32)
    played.scores = [1.0 if i % 2 else 0.0 for i in range(32)]  # by decree
    games, before = go.episodes(net, played), copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    go.improve(net, optimizer, games, go.SelfPlay(epochs=4, minibatch_size=32))
    after = go.episodes(net, played).logprobs - go.episodes(before, played).logprobs
    won = games.scores > 0
    assert (after * games.mask)[won].sum() > (after * games.mask)[~won].sum()


def test_self_play_beats_where_it_began():
    """A few updates from nothing already beat the net that they began with."""
    torch.manual_seed(0)
    net = go.Net()
    before = copy.deepcopy(net)
    go.self_play(net, go.SelfPlay(updates=12, games=64, opponents=2, learning_rate=2e-3))
    share, _ = go.match(go.player(net, seed=1), go.player(before, seed=2), 100).rate()
    assert share > 0.6


def test_nets_are_kept_whole(tmp_path):
    net = go.Net(size=7, channels=8, layers=2)
    go.save_net(net, tmp_path / "net.safetensors")
    again = go.load_net(str(tmp_path / "net.safetensors"))
    seen = go.planes(go.starts(7, 3))
    assert again.size == 7 and torch.equal(net(seen)[0], again(seen)[0])
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(LabError, match="no net of notebook 04"):
        go.load_net(str(tmp_path / "bad.safetensors"))
    with pytest.raises(LabError, match="no net 'nobody'"):
        go.load_net("nobody")


def test_the_matched_temperature_matches():
    wide, narrow = go.Net(), go.Net()
    with torch.no_grad():
        narrow.policy.weight.mul_(20)
        wide.policy.weight.mul_(10)
    games = go.read()[:20]
    t = go.matched_temperature(wide, narrow, games)
    seen, _ = go.lessons(games)
    with torch.no_grad():
        warm = net_module.entropy((wide(seen)[0] / t).log_softmax(1)).mean()
        assert abs(warm - net_module.entropy(narrow(seen)[0]).mean()) < 0.01


# --- 珍瓏棋局 -------------------------------------------------------------------------------------


def test_chains_and_liberties():
    group, liberties = sacrifice.chain("XX+++X++++" + "+" * 15, 5, 0)
    assert group == {0, 1, 5} and liberties == {2, 6, 10}


def test_stones_are_given_up_only_where_the_other_can_take_them():
    state = position(12, 1)  # Black at a1 would stand alone beside White's b1: one liberty
    assert go.given_up(state, 0) == 1 and go.given_up(state, 24) == 0
    assert go.given_up(state, PASS) == 0
    state = position(0, 1, 24, 10)  # a2 joins a1, and White can take both at b2
    assert go.given_up(state, 5) == 2
    # a1 has one liberty, a2, where White would take it; there Black takes b2 (b1, c2, b3 are his)
    state = position(0, 1, 2, 6, 7, 24, 11, 10)
    assert go.given_up(state, 5) == 0


def test_a_search_tells_who_wins():
    """And of a riddle, that its answer alone does."""
    search = rules.searcher(5, 200, 1)
    state, answer = go.riddles()[0]
    assert sacrifice.worth(state, answer, search) > 0.2
    assert sacrifice.solves(state, answer, search, 0.0)
    other = next(move for move in state.legal_actions() if move != answer)
    assert not sacrifice.solves(state, other, search, 0.0)
    assert sacrifice.worth(position(12, PASS), PASS, search) == 1.0  # over: one stone holds all


def test_the_shipped_riddles_are_riddles():
    """Legal, two stones or more given up, and a search that knows nothing of them agrees."""
    riddles = go.riddles()
    assert len(riddles) == 30
    assert len({(picture.stones(state), answer) for state, answer in riddles}) == 30
    for state, answer in riddles:
        assert go.given_up(state, answer) > 1
    search = rules.searcher(5, 1500, 99)
    assert all(sacrifice.solves(*one, search, 0.0) for one in riddles[:5])


def test_riddles_are_looked_for_the_same_way_each_time(monkeypatch):
    """With a search that takes every sacrifice for the answer: it stops at the count."""
    monkeypatch.setattr(sacrifice, "solves", lambda *_: True)
    seen = []
    found = sacrifice.find(3, log=lambda moves, n: seen.append(n))
    assert found == sacrifice.find(3) and len(found) == 3 <= len(seen)
    for moves in found:
        assert go.given_up(position(*moves[:-1]), moves[-1]) > 1
        assert len(moves) > sacrifice.EARLIEST


# --- the board -----------------------------------------------------------------------------------


@pytest.fixture
def play():
    """Against a policy that always passes, and thinks of nothing else."""
    thinks = lambda state: [0.0] * 25 + [1.0]  # noqa: E731
    return go.Play(lambda states: [PASS] * len(states), thinks)


def test_a_game_on_the_board(play):
    assert play.said == "You are Black. Your move." and play.view()["stones"] == "+" * 25
    play.press(12)
    assert play.said == "The policy passed. Your move." and play.view()["stones"][12] == "X"
    play.press(12)
    assert "not allowed" in play.said and play.alert and play.state.history() == [12, PASS]
    play.press(PASS)
    assert play.over and play.said == "The game is over: you have won. Press n for a new one."
    assert play.view()["heat"] == [] and play.view()["over"]
    play.press(3)  # a key pressed when the game is over
    assert play.said == "The game is over. Begin a new one." and play.alert
    play.undo()
    assert not play.over and play.state.history() == [12, PASS]
    play.new()
    assert play.state.history() == [] and play.colour == 0
    play.undo()
    assert play.said == "There is nothing to take back."


def test_white_gets_the_answer_first(play):
    play.other()
    assert play.said == "You are White. The policy passed. Your move."
    play.press(PASS)
    assert play.over and "you have won" in play.said  # komi
    play.other()
    assert play.said == "You are Black. Your move."


def test_taken_stones_are_said():
    answers = iter([5, PASS, 1])
    play = go.Play(lambda states: [next(answers)], lambda state: [0.0] * 26)
    play.press(0)  # Black a1; White a2
    play.press(24)
    play.press(23)
    assert play.said == "The policy played b1 and took 1 stone. Your move."


def test_what_the_browser_sends_is_checked(play):
    board = go.Board(play)
    for content in (None, "x", {}, {"move": "12"}, {"move": 1.5}, {"move": True}, {"do": "press"}):
        board._pressed(board, content, None)
        assert play.state.history() == []
    board._pressed(board, {"move": 10**9}, None)
    assert "not allowed" in board.view["said"]
    board._pressed(board, {"move": 7}, None)
    assert board.view["stones"][7] == "X" and json.dumps(board.view)
    board._pressed(board, {"do": "undo"}, None)
    assert board.view["stones"] == "+" * 25


def test_without_widgets_the_board_is_a_picture(play):
    found = go.Board(play)._repr_mimebundle_()
    data = found[0] if isinstance(found, tuple) else found
    assert data["image/svg+xml"].startswith("<svg") and "run this cell" in data["text/plain"]


def test_pictures_say_what_they_show():
    state = position(12, 7)
    shown = go.boards(("a <title>", state, {0: 0.6, PASS: 0.1}, [0]), ("two", state))
    svg = shown.svg()
    assert ">60<" in svg and "likeliest: a1 60%" in str(shown)
    assert "a &lt;title&gt; · pass 10%<" in svg and ">two<" in svg
    assert svg.count('r="19"') == 4  # two stones on either board


# --- the record ----------------------------------------------------------------------------------


def test_a_small_record_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path))
    monkeypatch.setattr(go_jobs.go, "read", lambda size=5: records.read(size)[:40])
    from labkit import config

    monkeypatch.setattr(go_jobs.go, "riddles", lambda size=5: sacrifice.riddles(size)[:2])
    sizes = {"games": 4, "epochs": 1, "updates": 2, "every": 1, "depth": 20, "tries": 2}
    plan = go_jobs.Plan(config.profile("tiny"), 2, **sizes)
    monkeypatch.setattr(
        go_jobs.Plan, "settings", lambda self, seed: go.SelfPlay(2, games=8, seed=seed)
    )
    record = go_jobs.measure(plan, workers=1)
    file = tmp_path / "go.json"
    file.write_text(json.dumps(record), "utf8")
    record = go.load(file)
    rows = go.summary(record)
    assert [row["player"] for row in rows][:2] == ["teacher", "imitation"]
    assert "n = 8" in rows[-1]["teacher"] and len(go.against(record, "self-play", "random")) == 2
    assert [row["update"] for row in go.curve(record)] == [1, 2]
    assert go.load_net(str(plan.folder / "self-play-0.safetensors")).size == 5
    rows = {row["player"]: row for row in go.solved(record)}
    assert set(rows) == {"chance", "teacher", *record["seeds"][0]["against"]}
    assert rows["imitation, likeliest"]["finds"] in (0, 0.25, 0.5, 0.75, 1)
    assert rows["chance"]["finds"] == sum(record["riddles"]["chance"]) / 2


def test_the_clearest_riddle_is_found_by_self_play_alone_in_every_seed():
    def record(*seeds):
        rows = [{"imitation, as narrow": narrow, "self-play": own} for narrow, own in seeds]
        return {"riddles": {"chance": [0.2] * 3}, "seeds": [{"riddles": row} for row in rows]}

    sure = ([0.0, 0.0, 0.0], [0.4, 0.9, 0.9])
    assert go.clearest(record(sure, ([0.0, 0.5, 0.0], [0.9, 0.9, 0.9]))) == 2
    with pytest.raises(LabError, match="No riddle"):
        go.clearest(record(sure, ([0.5, 0.5, 0.5], [0.9, 0.9, 0.9])))


def test_a_record_that_is_none_is_refused(tmp_path):
    with pytest.raises(LabError, match="bench go"):
        go.load(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(LabError, match="is no record of self-play"):
        go.load(tmp_path / "x.json")


def test_the_shipped_record_and_nets_belong_together():
    """65 % of 400 games against the teacher in every seed, by the record; weights under 1 MB."""
    record = go.load()
    assert len(record["seeds"]) == 3 and record["games"] == 400
    assert all(share >= 0.65 for share in go.against(record, "self-play", "teacher"))
    assert record["simulations"] == go.SIMULATIONS
    folder = runs.data_folder() / "checkpoints" / "go"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
    states, answers = zip(*go.riddles())
    for name in ("imitation", "self-play"):
        net = go.load_net(name)
        assert sum(p.numel() for p in net.parameters()) == record["parameters"]
        odds = go.opinions(net, states)[range(len(answers)), answers]
        assert odds.tolist() == pytest.approx(record["seeds"][0]["riddles"][name], abs=1e-3)


def test_the_policys_narrowness_is_a_temperature():
    torch.manual_seed(0)
    net, states = go.Net(), go.starts(5, 2)
    cold, warm, hot = (go.opinions(net, states, heat)[0] for heat in (0.0, 1.0, 5.0))
    assert cold.max() == 1 and cold.argmax() == warm.argmax()
    assert warm.max() > hot.max() and hot.sum() == pytest.approx(1)
