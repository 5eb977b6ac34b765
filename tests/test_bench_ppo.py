"""The PPO comparison: its arithmetic on made-up runs, what it says when something is missing, and
that both sides get the same thing.
"""

import json
import math
import os

import pytest
import torch

from labkit import LabError, cli, config, models, rollout, runs
from labkit.bench import gpu as bench_gpu
from labkit.bench import ppo as bench_ppo
from labkit.bench import watch
from labkit.maths.logprobs import position_ids


def one(seconds=(), rewards=(), peak=1000, speed=10.0):
    """A run's report: an update a policy, `seconds` cumulative."""
    curve = [
        {"update": i, "seconds": s, "reward": r} for i, (s, r) in enumerate(zip(seconds, rewards))
    ]
    return {
        "curve": curve,
        "peak_bytes": peak,
        "imported_bytes": 400,
        "bytes_above_imports": peak - 400,
        "samples_per_second": speed,
        "seconds_per_update": 1.0,
        "kl": 2.0,
        "matmul_flop_per_second": 1e9,
        "score_difference": 1e-6,
    }


def figures(ours, peer, start=0.0):
    return bench_ppo.figures({"ours": ours, "peer": peer}, start)


@pytest.fixture
def peer(tmp_path):
    """A folder that looks like TRL 1.12's."""
    (tmp_path / "trl12" / "trl-1.12.0.dist-info").mkdir(parents=True)
    return tmp_path / "trl12"


# --- the arithmetic ------------------------------------------------------------------------------


def test_ratios_of_medians_by_hand():
    ours = [one([0, 1, 2], [0, 1.0, 2.0], peak=600, speed=s) for s in (20.0, 30.0, 90.0)]
    report = figures(ours, [one([0, 4, 8], [0, 0.5, 1.0], peak=p) for p in (1000, 1200, 1400)])
    # The peer ends at 1.0, so the level is 0.9: ours is there after 0.9 s, the peer after 4 + 4 ·
    # 0.4 / 0.5 = 7.2 s.
    assert report["reward"] == report["ours"]["seconds_to_reward"] == pytest.approx(0.9)
    assert report["ratio_seconds_to_reward"] == pytest.approx(8.0)
    assert report["runs"]["ratio_seconds_to_reward"] == pytest.approx([8.0] * 3)
    assert report["ratio_samples_per_second"] == 3.0
    assert report["runs"]["ratio_samples_per_second"] == [2.0, 3.0, 9.0]
    assert report["ratio_peak_memory"] == 0.5
    assert report["runs"]["ratio_peak_memory"] == pytest.approx([0.6, 0.5, 600 / 1400])
    assert report["ratio_peak_memory_above_imports"] == pytest.approx(200 / 800)
    assert "note" not in report


def test_a_reward_never_reached_gives_no_ratio_but_a_sentence():
    # 1.1 on the mean, but two of three stay low.
    report = figures([one([0, 1], [0, 1.0])] * 3, [one([0, 1], [0, r]) for r in (3.0, 0.1, 0.2)])
    assert report["ratio_seconds_to_reward"] is None
    first, *others = report["runs"]["ratio_seconds_to_reward"]
    assert first == pytest.approx(1 / 3) and others == [None, None]
    assert report["note"] == "peer did not reach the reward 0.90 in half of the runs."


def test_a_side_that_learns_nothing_leaves_nothing_to_reach():
    report = figures([one([0, 1], [0.5, 1.0])], [one([0, 1], [0.5, 0.2])], start=0.5)
    assert report["ratio_seconds_to_reward"] is None and "nothing to reach" in report["note"]
    assert report["ratio_samples_per_second"] == 1.0


def test_without_saved_policies_only_speed_and_memory_are_compared():
    report = figures([one()], [one()], start=math.nan)
    assert report["ratio_seconds_to_reward"] is None and "No policies" in report["note"]
    assert report["ratio_peak_memory"] == 1.0


# --- the peer's folder and the processes ---------------------------------------------------------


def test_a_missing_peer_is_told_with_the_way_to_get_it(tmp_path, capsys):
    assert cli.main(["bench", "ppo", "--json", "--peer", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"pip install --no-deps --target {str(tmp_path)!r} trl==1.12.0" in err


def test_the_peers_folder_is_found(peer, monkeypatch, empty_runs):
    assert bench_ppo.peer_folder(str(peer)) == peer
    monkeypatch.setenv("LABKIT_PEER", str(peer))
    assert bench_ppo.peer_folder() == peer
    monkeypatch.delenv("LABKIT_PEER")
    empty_runs.mkdir()
    moved = peer.rename(empty_runs / ".trl-1.12")
    assert bench_ppo.peer_folder() == moved


@pytest.mark.parametrize("repeats", ["0", "-1"])
def test_repeats_below_one(repeats, peer, capsys):
    assert cli.main(["bench", "ppo", "--peer", str(peer), "--repeats", repeats]) == 1
    assert "must be 1 or more" in capsys.readouterr().err


def test_a_side_that_fails_says_its_last_line(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    (first / "broken.py").write_text(
        "import sys\nprint('not this', file=sys.stderr)\nraise ValueError('no such mountain')"
    )
    (first / "silent.py").write_text("")
    with pytest.raises(LabError, match="^TRL 1.12.0 failed .*: ValueError: no such mountain$"):
        bench_ppo.child("broken", tmp_path, first)
    with pytest.raises(LabError, match="^Our PPO failed .*: .*No module named broken"):
        bench_ppo.child("broken", tmp_path)
    with pytest.raises(LabError, match="exit code 0, no message"):
        bench_ppo.child("silent", tmp_path, first)


def test_the_peers_folder_comes_before_the_installed_packages(tmp_path):
    (tmp_path / "trl").mkdir()
    (tmp_path / "trl" / "__init__.py").write_text("__version__ = 'aside'")
    (tmp_path / "asks.py").write_text(
        "import json, trl, labkit\njson.dump({'trl': trl.__version__}, open('report.json', 'w'))"
    )
    assert bench_ppo.child("asks", tmp_path, tmp_path) == {"trl": "aside"}


def test_the_watch_stands_still_while_a_policy_is_saved(tmp_path, monkeypatch):
    now, saved = [100.0], []
    monkeypatch.setattr(watch, "clock", lambda: now[0])
    (tmp_path / "job.json").write_text(json.dumps({"every": 2, "config": {"updates": 3}}))
    stopwatch = watch.Watch(str(tmp_path / "job.json"))

    def save(file):
        saved.append(file.name)
        now[0] += 1000

    now[0] = 500.0  # loading
    stopwatch.begin()
    for seconds in (1.0, 2.0, 4.0):
        now[0] += seconds
        stopwatch.update(save, kl=0.5)
    stopwatch.end(trl="x")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [update["seconds"] for update in report["updates"]] == [1.0, 3.0, 7.0]
    assert saved == ["2.policy", "3.policy"] and report["trl"] == "x"
    if not torch.cuda.is_available():  # there, what torch allocated, which here is nothing
        assert 50e6 < report["imported_bytes"] <= report["peak_bytes"] + 4096


# --- both sides, in small ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tiny_base, tmp_path_factory):
    """Settings of a small PPO on adapters that are hardly trained, in a runs folder of its own."""
    sizes = {"batch_size": 4, "max_prompt_tokens": 40, "max_response_tokens": 6}
    cfg = config.Ppo(base=str(tiny_base.path), minibatch_size=2, updates=3, **sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_RUNS", str(tmp_path_factory.mktemp("runs")))
        _, _, prompts = bench_gpu.untrained(cfg)
        file = bench_ppo.write_prompts([*prompts, *"一二三四"], tmp_path_factory.mktemp("prompts"))
        yield config.change(cfg, prompts=file)


def test_the_peers_plain_models_compute_what_ours_do(world, tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    sft, reward = runs.latest("sft"), runs.latest("reward")
    for run in (sft, reward):
        bench_ppo.write_plain(run, tmp_path / run.stage)
    model, tokenizer = models.load_policy(sft)
    model = models.load_adapter(model, reward, "reward")
    models.use(model, "policy")
    answers = rollout.sample(model, tokenizer, ["Gold?", "What is the capital of Italy?"], 6)
    ids, mask = answers.input_ids, answers.attention_mask
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "sft").eval()
    scorer = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    with torch.no_grad():
        rows = {"input_ids": ids, "attention_mask": mask, "position_ids": position_ids(mask)}
        differ = (plain(**rows).logits - model(**rows).logits)[answers.response_mask.bool()].abs()
        scores = models.rewards(model, models.load_head(reward), ids, mask)
        hidden = scorer.model(**rows).last_hidden_state
        last = (mask * torch.arange(mask.shape[1])).argmax(1)
        theirs = scorer.score(hidden[torch.arange(2), last]).squeeze(-1)
    assert differ.max() < 1e-3
    assert torch.allclose(scores, theirs - scorer.config.reward_shift, atol=1e-3)
    assert "quant" not in (tmp_path / "sft" / "config.json").read_text()


def test_ours_runs_in_a_process_of_its_own_and_its_policies_are_judged(world, tmp_path, capsys):
    bench = bench_ppo.Bench(config.change(world, learning_rate=0.05, warmup=0), tmp_path, every=2)
    assert len(bench.held_out) == 3 and not set(bench.held_out) & set(bench.prompts)
    report = bench.run(None, 0, {})
    curve, updates = report["curve"], report["updates"]
    assert [point["update"] for point in curve] == [0, 2, 3]
    assert 0 < updates[0]["seconds"] < updates[1]["seconds"] < updates[2]["seconds"]
    assert report["samples_per_second"] == pytest.approx(12 / updates[2]["seconds"])
    assert report["imported_bytes"] <= report["peak_bytes"] and report["memory_by_part"]["base"]
    # The last saved policy is another one than the first, and the judge sees that.
    assert curve[0]["reward"] == bench.start != curve[-1]["reward"]
    assert "samples/s" in capsys.readouterr().err


def test_the_whole_comparison_on_made_up_processes(world, peer, monkeypatch, capsys):
    asked = []

    def child(module, folder, first=None):
        job = json.loads((folder / "job.json").read_text())
        rate, side = round(job["learning_rate"], 6), module.removeprefix("labkit.bench.")
        asked.append((side, job["config"]["seed"], job["lora"], rate))
        theirs = side == "peer"
        assert (first == peer) == theirs == ("prompt_ids" in job)
        if theirs:
            assert len(job["prompt_ids"]) == 12
            assert (folder.parent / "plain" / "reward" / "config.json").exists()
        torch.save(rate if theirs else 1.0, folder / "3.policy")
        updates = [{"seconds": (i + 1) * (4.0 if theirs else 1.0), "kl": 1.0} for i in range(3)]
        return one(peak=1000 if theirs else 500) | {"updates": updates}

    def reward(self, policy):
        return policy if isinstance(policy, float) else 0.0

    monkeypatch.setattr(bench_ppo, "child", child)
    monkeypatch.setattr(bench_ppo.Bench, "saved", lambda self, file, is_peer: torch.load(file))
    monkeypatch.setattr(bench_ppo.Bench, "reward", reward)
    report = bench_ppo.compare(config.change(world, learning_rate=0.9), str(peer), repeats=2)
    # Four settings of the peer on the seed after the last; the best (0.9 without LoRA, found first)
    # then takes turns with ours.
    trials = [("peer", 2, False, rate) for rate in (0.9, 0.3, 0.09)] + [("peer", 2, True, 0.9)]
    turns = [(who, seed, who == "ours", 0.9) for seed in (0, 1) for who in ("ours", "peer")]
    assert asked == trials + turns
    assert report["ratio_samples_per_second"] == 4.0 and report["ratio_peak_memory"] == 0.5
    assert report["reward"] == pytest.approx(0.81) and report["same_prompts"]
    assert report["ratio_seconds_to_reward"] == pytest.approx(12 * 0.9 / (3 * 0.81))
    assert report["peer"]["learning_rate"] == 0.9 and len(report["peer"]["trials"]) == 4
    assert report["settings"]["target_kl"] == 0 and report["seeds"] == [0, 1]
    assert report["versions"]["peer"] == "trl 1.12.0"
    assert capsys.readouterr().err.count("samples/s") == 8


def test_reward_models_that_disagree_end_the_comparison(world, peer, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_ppo, "child", lambda *_: one() | {"score_difference": 0.5})
    with pytest.raises(LabError, match="disagree by 0.5 standard deviations"):
        bench_ppo.Bench(world, tmp_path, 0).run(peer, 0, {"lora": False, "learning_rate": 1e-3})


needs_peer = pytest.mark.skipif(
    not os.environ.get("LABKIT_PEER"), reason="needs LABKIT_PEER, a folder with TRL 1.12"
)


@needs_peer
@pytest.mark.parametrize("lora", [False, True])
def test_the_peer_trains_on_the_same_prompts_and_scores(world, tmp_path, lora):
    bench = bench_ppo.Bench(config.change(world, target_kl=0.0), tmp_path, every=3)
    report = bench.run(bench_ppo.peer_folder(), 0, {"lora": lora, "learning_rate": 1e-3})
    assert report["trl"] == "1.12.0" and report["score_difference"] < 1e-3
    assert [point["update"] for point in report["curve"]] == [0, 3] and len(report["updates"]) == 3
    assert report["prompt"] == bench.run(None, 0, {"learning_rate": 1e-3})["prompt"]


def test_a_reward_model_that_reads_the_mean_is_trained_again_at_the_last_token(world, monkeypatch):
    """As the peer's classifier does; the labels stay those of the run that is named."""
    run = runs.latest("reward", world.reward)
    assert bench_ppo.last_token_reward(world).name == run.name
    monkeypatch.setitem(run.info["config"], "reads", "mean")
    monkeypatch.setattr(runs, "latest", lambda *_: run)
    asked = {}
    train = lambda stage, cfg, aside: asked.update(stage=stage, cfg=cfg, aside=aside)
    monkeypatch.setattr(bench_ppo.stages, "train", train)
    bench_ppo.last_token_reward(world)
    mended = config.change(run.config, reads="last")
    assert asked == {"stage": "reward", "cfg": mended, "aside": True}
