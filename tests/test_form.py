"""Rhymed quatrains by rule: the rules by hand, small real runs of PPO and TRL's GRPO on them, the
record's arithmetic, and what bad input says.
"""

import json
import random

import pytest
import torch

from labkit import LabError, cli, config, data, models, rollout, runs
from labkit.labs import form, poems
from labkit.labs import form_jobs as jobs

DAWN = "朝辭白帝彩雲間，千里江陵一日還。兩岸猿聲啼不住，輕舟已過萬重山。"  # 李白, 早發白帝城
NIGHT = "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。"  # five characters a line
ONE = f"{'山' * 7}，{'山' * 7}。" * 2

# --- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a, b, wanted",
    [
        ("間", "還", True),  # 上平聲十五刪
        ("還", "山", True),
        ("光", "霜", True),  # 下平聲七陽
        ("東", "冬", False),  # alike today, two rhymes of the book
        ("山", "山", False),  # not with itself
        ("山", "水", False),
        ("重", "東", False),  # 重 stands in 二冬, 二腫 and 二宋
        ("重", "鐘", True),  # one of its readings is enough
        ("□", "山", False),
        ("", "山", False),
    ],
)
def test_two_characters_rhyme_by_the_book(a, b, wanted):
    assert form.rhyme(a, b) is form.rhyme(b, a) is wanted


@pytest.mark.parametrize(
    "poem, seven, rhymed, given, any_rhyme, same, counted",
    [
        (DAWN, True, True, 1 / 3, 1.0, 1 / 3, 1.0),  # rhymes, but not to 真
        (DAWN.replace("還", "人").replace("山。", "春。"), True, True, 1.0, 1.0, 1.0, 1.0),
        (DAWN.replace("還", "人"), True, False, 2 / 3, 0.5, 2 / 3, 1.0),
        (DAWN.replace("山。", "春。"), True, False, 2 / 3, 0.5, 2 / 3, 1.0),
        (NIGHT, False, True, 0.0, 0.0, 0.0, 20 / 28),  # 五言 that rhymes
        (ONE, True, False, 1 / 3, 0.5, 1 / 3, 1.0),
        (ONE.replace("山", "人"), True, False, 2 / 3, 0.5, 1.0, 1.0),  # the slip pays for it
        ("山" * 28, False, False, 0.0, 0.0, 0.0, 1.0),
        ("山" * 35, False, False, 0.0, 0.0, 0.0, 1.25),
        (DAWN + DAWN, False, False, 0.0, 0.0, 0.0, 2.0),
        (DAWN.replace("，", "。"), False, True, 0.0, 0.0, 0.0, 1.0),  # other marks
        (DAWN + "\n", False, True, 0.0, 0.0, 0.0, 1.0),
        (DAWN.replace("朝", "x"), False, True, 0.0, 0.0, 0.0, 27 / 28),
        ("", False, False, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_rules_say_what_one_counts_by_hand(poem, seven, rhymed, given, any_rhyme, same, counted):
    assert (form.seven(poem), form.rhymed(poem)) == (seven, rhymed)
    assert form.well_formed(poem) == (seven and rhymed)
    assert [rule(poem) for rule in form.RULES.values()] == pytest.approx(
        [given, any_rhyme, same, counted]
    )


def test_the_poems_of_the_tang_pass_and_shuffled_endings_do_not():
    found = [poem for poem in poems.load() if poems.form(poem) == 7]
    assert all(map(form.seven, found))
    assert 0.92 < sum(map(form.rhymed, found)) / len(found) < 0.94
    last = [form.ends(poem) for poem in found]
    shuffled = random.Random(0).sample(last, len(last))
    by_luck = sum(form.rhyme(a[1], b[3]) for a, b in zip(last, shuffled)) / len(last)
    assert by_luck < 0.06


def test_figures_are_counted_of_all_poems():
    asked = [form.ASKED + "朝", form.ASKED + "床", f"{form.ASKED}風AI:", form.ASKED + "月"]
    found = form.figures(asked, [DAWN, NIGHT, "山山", ""])
    assert found["well-formed"] == found["seven"] == 0.25 and found["rhymed"] == 0.5
    assert found["as asked"] == 0.5 and found["endings"] == 0.5  # 山, 鄉, 山 of four
    # 28 different of 28; 光 霜 … of 20: 明, 月, 頭 stand twice; one of two; the empty one apart.
    assert found["distinct"] == pytest.approx((1 + 17 / 20 + 1 / 2) / 3)
    assert found["repeated"] == pytest.approx((1 / 28 + 2 / 20 + 1) / 3)
    assert form.figures(asked[:1], [""])["distinct"] == 1.0  # nothing to repeat
    with pytest.raises(LabError, match="the list is empty"):
        form.figures([], [])


# --- rewards -------------------------------------------------------------------------------------


def test_a_judge_answers_both_trainers_and_keeps_what_it_saw():
    judge = form.Judge(form.any_rhyme)
    assert judge.__name__ == "any_rhyme"
    assert judge([form.ASKED + "朝"] * 2, [DAWN, NIGHT]) == [1.0, 0.0]  # as PPO asks
    framed = ["USER:" + form.ASKED + "朝AI:"]
    assert judge(prompts=framed, completions=[DAWN], completion_ids=[[1]]) == [1.0]  # as TRL does
    first, second = judge.rows
    assert (first["samples"], second["samples"]) == (2, 3)
    assert (first["reward"], first["well-formed"], second["as asked"]) == (0.5, 0.5, 1.0)
    assert 0 <= first["seconds"] <= second["seconds"]


@pytest.mark.parametrize("rule", [None, "count", 1.0])
def test_an_empty_rule_is_refused(rule):
    with pytest.raises(LabError, match="A rule is a function of a poem that gives a number, not"):
        form.Judge(rule)


@pytest.mark.parametrize("rule", [lambda poem: None, lambda poem: "good", lambda poem: poem + 1])
def test_a_rule_without_a_number_is_named_with_its_poem(rule):
    with pytest.raises(LabError, match="gave no number for the poem '朝辭白帝.*an empty one too"):
        form.Judge(rule)(["p"], [DAWN])


# --- small runs ----------------------------------------------------------------------------------


def prompts_file(lines, name="asked.txt"):
    file = runs.root() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines), "utf8")
    return file


@pytest.fixture(scope="module")
def poet():
    """(the base's folder, the SFT run) of a poet that can hardly write."""
    corpus = prompts_file(poems.load()[:300], "poems.txt")
    sizes = dict(hidden_size=32, intermediate_size=64, heads=2, layers=1, batch_size=8, steps=12)
    cfg = form.settings(corpus=str(corpus), vocab_size=1500, **sizes)
    with runs.start("poet", cfg, "small-base") as run:
        form.train_base(cfg, run)
    base = str(run.path)
    return base, form.fine_tune(base, name="small-poet", n=64, corpus=str(corpus))


def marks(poem):
    """A rule that even this poet can learn from."""
    return float(len(poem) % 2)


SMALL = {"PPO": {"batch_size": 8, "minibatch_size": 4}, "GRPO": {"batch_size": 8, "group": 4}}


def test_the_base_is_a_folder_in_half_precision_that_knows_the_frame(poet):
    model, tokenizer = models.load_base(poet[0])
    assert models.describe(model)["quantization"] == "nf4"
    (demo,) = form.known(form.demonstrations(str(runs.root() / "poems.txt")), tokenizer)[:1]
    ids, mask = form.chat.encode(tokenizer, demo.prompt, demo.response)
    # USER:, eight characters and the asked one, AI:; the poem with its [END].
    assert len(ids) == 1 + 9 + 1 + len(demo.response) + 1 and sum(mask) == len(demo.response) + 1
    assert tokenizer.decode(ids) == f"USER:{demo.prompt}AI:{demo.response}[END]"
    from safetensors.torch import load_file

    weights = load_file(runs.root() / "small-base/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}


def test_a_poets_runs_are_nobody_elses(poet):
    assert poet[1].stage == "poet" and runs.policy("small-poet").name == "small-poet"
    assert all(runs.latest(stage).name != "small-poet" for stage in ("sft", "pretrain"))


@pytest.mark.parametrize("method", SMALL)
def test_a_policy_learns_from_a_rule(poet, method):
    base, sft = poet
    judge = form.Judge(marks)
    run = form.learn(method, sft.name, base, judge, f"small-{method}", updates=3, **SMALL[method])
    assert [row["samples"] for row in judge.rows] == [8, 16, 24]
    assert run.stage == "poet" and len(run.metrics()) >= 3
    model, tokenizer = models.load_policy(run)
    model = models.load_adapter(model, sft, "reference")
    moved = [
        float((a - b).abs().max())
        for a, b in zip(*(models.adapter_parameters(model, x) for x in ("policy", "reference")))
    ]
    assert max(moved) > 0  # and the reference in the file is as it was
    asked = form.prompts(4, 1)
    models.use(model, "reference")
    before = form.logps(model, tokenizer, asked, [DAWN] * 4)
    other, _ = models.load_policy(sft)
    torch.testing.assert_close(before, form.logps(other, tokenizer, asked, [DAWN] * 4))


def test_grpo_trains_the_policy_alone_and_in_float32(poet):
    base, sft = poet
    cfg = form.Grpo(policy=sft.name, base=base, updates=1, batch_size=4, group=2)
    cfg.prompts = str(prompts_file(form.prompts(4, 0)))
    with runs.start("poet", cfg, "small-grpo") as run:
        trainer = form.grpo(cfg, run, form.Judge(marks))
    learning = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    moved = [(n, p) for n, p in trainer.model.named_parameters() if p.grad is not None]
    assert {p.dtype for p in learning} == {torch.float32}
    assert all(".default." in name for name, _ in moved)


def test_log_probabilities_are_those_of_the_whole_answer(poet):
    model, tokenizer = models.load_policy(poet[1])
    prompt, found = form.ASKED + "山", []
    ids, mask = form.chat.encode(tokenizer, prompt, NIGHT)
    with torch.no_grad():
        each = model(input_ids=torch.tensor([ids])).logits.div(form.TEMPERATURE).log_softmax(-1)[0]
    for place, (token, said) in enumerate(zip(ids, mask)):
        if said:
            found.append(float(each[place - 1, token]))
    both = form.logps(model, tokenizer, [prompt, form.ASKED + "風"], [NIGHT, DAWN])
    assert both[0].item() == pytest.approx(sum(found), rel=1e-4)


@pytest.mark.parametrize("group, size", [(1, 8), (3, 8), (16, 8)])
def test_a_group_must_fit(group, size):
    with pytest.raises(LabError, match=f"A group of {group} answers can't be.* batch_size={size}"):
        form.Grpo(group=group, batch_size=size)


def test_what_cannot_be_learned_from_is_one_sentence(poet):
    base, sft = poet
    with pytest.raises(LabError, match="no method 'DPO': take"):
        form.learn("DPO", sft.name, base, form.Judge(marks))
    for lines, said in (([], "nothing.txt"), ([form.ASKED + "山" * 20], "max_prompt_tokens is 16")):
        file = prompts_file(lines, "nothing.txt")
        cfg = form.Grpo(policy=sft.name, base=base, prompts=str(file))
        with pytest.raises(LabError, match=said), runs.start("poet", cfg) as run:
            form.grpo(cfg, run, form.Judge(marks))
    few = runs.root() / "few.txt"
    few.write_text(f"{DAWN}\n{NIGHT}\n", "utf8")
    with pytest.raises(LabError, match="gives 2 poems of frequent characters that fit into 48"):
        form.train_base(form.settings(corpus=str(few)), None)
    assert not [one for one in runs.listing() if one.name.startswith("poet-")]  # nothing half-made


def test_without_a_base_one_is_told_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "data_folder", lambda: tmp_path)
    with pytest.raises(LabError, match="no poet's base at .*bench form"):
        form.base()


def test_the_shipped_base_writes_quatrains():
    model, tokenizer = models.load_base(form.base())
    torch.manual_seed(0)
    said = rollout.answer(model, tokenizer, form.prompts(32, 0), form.LONGEST)
    assert sum(map(form.seven, said)) > 8


# --- the record ----------------------------------------------------------------------------------


def made(*wells):
    """A record of one way with a hand-made curve a seed: an update takes 2 s and 10 samples."""
    seeds = []
    for seed, well in enumerate(wells):
        steps = range(1, len(well) + 1)
        curve = {"well-formed": well, "seconds": [2.0 * i for i in steps]}
        curve["samples"] = [10 * i for i in steps]
        end = {"well-formed": well[-1], "kl": 2.0 * seed}
        at = {t: {"well-formed": 0.1 * seed, "different": 1.0, "kl": 0.0} for t in ("0.5", "0.0")}
        best = [{"n": 2, "by the rule": 0.4, "by dice": 0.2 * seed}]
        row = {"seed": seed, "poet": {"temperatures": at, "best_of_n": best}}
        seeds.append(row | {"ways": {"PPO": {"curve": curve, "end": end, "greedy": end}}})
    return {"ways": {"PPO": {"rule": "full"}}, "seeds": seeds}


def test_a_way_is_a_mean_over_updates_and_seeds():
    rows = form.way(made([0.0, 0.2, 0.4, 0.6], [0.2, 0.4, 0.6, 0.8, 1.0]), "PPO", every=2)
    assert [(row["seconds"], row["samples"]) for row in rows] == [(4.0, 20), (8.0, 40)]
    assert [row["well-formed"] for row in rows] == pytest.approx([0.2, 0.6])
    assert rows[1]["well-formed lowest"] == pytest.approx(0.5)


def test_a_share_is_reached_by_a_mean_of_updates_or_never():
    record = made([0.0, 1.0, 0.8, 1.0, 1.0, 0.0], [0.5] * 6)
    first, never = form.reached(record, "PPO", width=3)
    # The means of three: 0.6, 0.93.
    assert (first["seconds"], first["samples"]) == (8.0, 40) and first["seconds in all"] == 12.0
    assert first["highest"] == pytest.approx(2.8 / 3) and first["first"] == 0.0
    assert never["seconds"] is never["samples"] is None and never["highest"] == 0.5


def test_ends_and_controls_are_means_with_their_spread():
    record = made([0.0, 0.8], [0.0, 1.0])
    sft, ppo = form.ends_of(record)
    assert (sft["policy"], ppo["policy"]) == ("SFT", "PPO")
    assert (
        ppo["well-formed"] == pytest.approx(0.9)
        and ppo["well-formed lowest"] == ppo["greedy lowest"] == 0.8
    )
    assert (sft["kl"], ppo["kl"]) == (0.0, 1.0)
    warm, greedy, rule = form.controls(record)
    assert [one["poems"] for one in (warm, greedy, rule)] == [
        "temperature 0.5",
        "greedy",
        "best of 2",
    ]
    assert rule["well-formed"] == 0.4 and rule["by dice"] == pytest.approx(0.1)


def test_the_seconds_of_an_update_are_a_median():
    rows = [{"seconds": second} for second in (5.0, 6.0, 7.0, 20.0)]
    assert jobs.per_update(rows) == 1.0


def test_no_record_is_one_sentence(tmp_path):
    with pytest.raises(LabError, match="no record of verifiable rewards.*bench form --json"):
        form.load(tmp_path / "none.json")
    for text in ("{}", "[]", '{"ways": {"PPO": 1}, "seeds": [{}]}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(LabError, match="is no record of verifiable rewards"):
            form.load(tmp_path / "bad.json")


def test_the_record_that_came_along_is_whole():
    record = form.load()
    assert len(record["seeds"]) == 3 and set(record["ways"]) == set(jobs.WAYS)
    assert len(form.ends_of(record)) == 1 + len(jobs.WAYS)
    file = runs.data_folder() / "checkpoints/form.json"
    assert file.stat().st_size < 300_000


def test_the_whole_measurement_in_small(poet, monkeypatch, capsys):
    monkeypatch.setattr(form, "base", lambda: poet[0])
    small = dict(most=2, questions=8)
    monkeypatch.setattr(jobs, "Plan", lambda profile, seeds: Plan(profile, seeds, **small))
    sizes, group = form.ppo_settings, form.Grpo
    tiny = dict(batch_size=8, minibatch_size=4)
    monkeypatch.setattr(form.learning, "ppo_settings", lambda **own: sizes(**{**own, **tiny}))
    few = dict(batch_size=8, group=4)
    monkeypatch.setattr(form.learning, "Grpo", lambda **own: group(**{**own, **few}))
    taught = form.fine_tune
    monkeypatch.setattr(form, "fine_tune", lambda *a, **own: taught(*a, **own, n=32))
    assert cli.main(["bench", "form", "--seeds", "1", "--workers", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (row,) = record["seeds"]
    assert set(row["ways"]) == set(jobs.WAYS)
    for one in row["ways"].values():
        assert one["curve"]["samples"] == [8, 16] and len(one["poems"]) == 8
        assert {"kl", "surprise", "well-formed"} <= set(one["end"])
    assert len(row["poet"]["best_of_n"]) == len(jobs.BEST_OF)
    before = {file: file.stat().st_mtime_ns for file in runs.root().glob("form-*/*.json")}
    assert before and cli.main(["bench", "form", "--seeds", "1", "--workers", "1"]) == 0
    assert before == {file: file.stat().st_mtime_ns for file in before}  # nothing was done again
    with pytest.raises(LabError, match="--seeds is 0"):
        Plan(config.profile("tiny"), 0)


Plan = jobs.Plan


def test_a_demonstration_begins_as_it_was_asked(tmp_path):
    one, other = form.demonstrations(seed=1), form.demonstrations(seed=2)
    assert one != other and all(isinstance(demo, data.Demo) for demo in one[:3])
    assert all(demo.prompt == form.ASKED + demo.response[0] for demo in one)
    assert form.prompts(3, 1) == [demo.prompt for demo in one[:3]]
