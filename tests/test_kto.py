"""The KTO stage: thumbs by file and from simulated raters, its reference, weights, bad input."""

import json
import re
from itertools import pairwise

import pytest
import torch
from ppo_scene import random_run

from labkit import LabError, atlas, cli, config, data, models, rollout, runs
from labkit.data import Rating, chat
from labkit.stages import kto, trl

SMALL = dict(
    base="tiny-base", policy="kto-sft", lora_r=4, max_prompt_tokens=60, max_response_tokens=24
)


@pytest.fixture(scope="session")
def kto_sft(tiny_base):
    return random_run("sft", "kto-sft", 5)


@pytest.fixture(scope="session")
def thumbs(tmp_path_factory):
    """Whoever gave them likes short answers: 60 up, 60 down."""
    records = [
        Rating(f"Is it Gold or {i}?", "a metal" if up else "I think it may be red.", up)
        for i in range(60)
        for up in (True, False)
    ]
    return str(data.save_jsonl(records, tmp_path_factory.mktemp("data") / "thumbs.jsonl"))


def test_kto_starts_at_the_sft_policy_and_learns_what_is_liked(kto_sft, thumbs, monkeypatch):
    seen = {}

    def keep(model, run, name, head=None):
        seen.update({n: p.detach().clone() for n, p in model.named_parameters() if ".lora_" in n})
        save(model, run, name, head)

    save = models.save_adapter
    monkeypatch.setattr(models, "save_adapter", keep)
    cfg = config.Kto(**SMALL, data=thumbs, epochs=4, batch_size=16, learning_rate=5e-3)
    with runs.start("kto", cfg, "kto-short") as run:
        kto.train(cfg, run)
    first, found = run.metrics()[0], run.evaluation
    # At the first step policy = reference (not rounded away from it, not the bare base): every
    # implicit reward is 0, so is z₀, and σ(0) = ½ is lost on every thumb.
    assert first["rewards/chosen"] == first["rewards/rejected"] == first["kl"] == 0
    assert first["loss"] == pytest.approx(0.5, abs=1e-6)
    assert found["margin"] > 0.05 and found["loss"] < 0.5 and found["kl"] >= 0
    assert (found["thumbs"], found["held_out"], found["dropped"]) == (108, 12, 0)
    assert found["up"] == 54
    assert not list((run.path / "adapter").glob("*ref*"))
    # TRL's "ref" holds the SFT weights and stays, while "default" moves.
    start = models.load_adapter(models.load_base("tiny-base")[0], kto_sft, "ref")
    references = {n: p for n, p in start.named_parameters() if ".ref." in n}
    assert references and all(torch.equal(seen[n], p) for n, p in references.items())
    moved = [(seen[n.replace(".ref.", ".default.")], p) for n, p in references.items()]
    assert any(not torch.equal(*both) for both in moved)
    assert runs.policy("kto-short").stage == "kto" and cli.speaker("kto-short").stage == "kto"


def test_the_loss_is_trls_own(kto_sft, thumbs, tmp_path, monkeypatch):
    """On one batch, after the policy has moved: the loss, z₀, the implicit rewards and the gradient
    are those of TRL's own passes over the peft model.
    """
    seen = {}

    def keep(trainer, rows):
        if seen:
            return {}
        trainer.train_dataset = trainer.train_dataset.select(range(12))
        batch = next(iter(trainer.get_train_dataloader()))
        weights = models.adapter_parameters(trainer.model, "default")
        for kind in (type(trainer), trl_s):
            trainer._metrics["eval"].clear()
            trainer.model.zero_grad()
            loss = kind.compute_loss(trainer, trainer.model, batch)
            loss.backward()
            figures = {name: values[0] for name, values in trainer._metrics["eval"].items()}
            seen[kind] = figures | {"loss": loss.item()}, [w.grad.clone() for w in weights]
        return {}

    from trl import KTOTrainer as trl_s

    monkeypatch.setattr(trl, "evaluate", keep)
    weights = {"desirable_weight": 2.0, "undesirable_weight": 0.5, "beta": 0.7}
    cfg = config.Kto(**SMALL, data=thumbs, examples=32, batch_size=8, learning_rate=2e-2, **weights)
    with runs.start("kto", cfg) as run:
        kto.train(cfg, run)
    (ours, our_gradient), (theirs, their_gradient) = seen.values()
    for name, value in ours.items():
        assert theirs[name] == pytest.approx(value, abs=1e-4), name
    assert set(ours) >= {"loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins"}
    assert abs(ours["rewards/margins"]) > 0.01  # it has moved
    for a, b in zip(our_gradient, their_gradient, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_every_setting_reaches_the_trainer_in_the_order_of_the_rows(kto_sft, thumbs, monkeypatch):
    given = {}

    def stop(kind, settings, model, tokenizer, rows, cfg, run, **options):
        given.update(options, rows=rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(trl, "train", stop)
    values = {"beta": 0.7, "desirable_weight": 3.0, "undesirable_weight": 2.0}
    cfg = config.Kto(**SMALL, data=thumbs, **values)
    for _ in range(2):
        with pytest.raises(LabError, match="Stopped"), runs.start("kto", cfg) as run:
            kto.train(cfg, run)
        assert given | values == given and given["train_sampling_strategy"] == "sequential"
        first = given.setdefault("first", given["rows"])
    assert [row["prompt_ids"] for row in first] == [row["prompt_ids"] for row in given["rows"]]
    labels = [row["label"] for row in first]
    assert len(set(labels[::2])) == 2  # shuffled: in the file up and down take turns
    for before, row in pairwise([first[-1], *first]):
        assert row["KL_completion_ids"] == before["completion_ids"]


def test_thumbs_are_cut_dropped_and_split_by_prompt(tokenizer, capsys):
    cfg = config.Kto(max_prompt_tokens=20, max_response_tokens=8)
    records = [Rating(f"Gold {i}?", "metal " * 9, i % 2 == 0) for i in range(20)]
    records += [Rating(f"Gold {i}?", "wood", True) for i in range(20)]
    records += [Rating("Gold " * 50, "metal", True), Rating("Gold 3?", "  ", False)]
    training, held_out, dropped = kto.split_thumbs(tokenizer, records, cfg)
    assert (len(training), len(held_out), dropped) == (36, 4, 2)
    assert "1 of 42 thumbs have a prompt of more than" in capsys.readouterr().err
    sides = [{tuple(row["prompt_ids"]) for row in rows} for rows in (training, held_out)]
    assert not sides[0] & sides[1]
    assert max(len(row["completion_ids"]) for row in training) == 8
    one = next(row for row in training if len(row["completion_ids"]) < 8)
    assert one["completion_ids"] == chat.encode_response(tokenizer, "wood") and one["label"]
    with pytest.raises(LabError, match="1 of 1 thumbs .*Raise max_prompt_tokens"):
        kto.split_thumbs(tokenizer, records[-2:-1], cfg)


@pytest.mark.parametrize("up", [True, False])
def test_one_sided_thumbs_are_refused_in_one_sentence(kto_sft, tmp_path, up):
    records = [Rating(f"Gold {i}?", "a metal", up) for i in range(20)]
    file = data.save_jsonl(records, tmp_path / "thumbs.jsonl")
    side = "up" if up else "down"
    cfg = config.Kto(**SMALL, data=str(file))
    with pytest.raises(LabError, match=f"All 18 thumbs to learn from are {side}, but KTO needs"):
        with runs.start("kto", cfg, f"kto-{side}") as run:
            kto.train(cfg, run)
    assert not (runs.root() / f"kto-{side}").exists()


@pytest.mark.parametrize(
    "up, down, weights, said",
    [
        (5, 5, (1, 1), None),
        (6, 4, (1, 1), None),  # 1.5, the edge
        (2, 8, (4, 1), None),
        (6, 3, (1, 2), None),
        (2, 8, (1, 1), "is 0.25, .* Set desirable_weight between 4 and 6."),
        (8, 2, (1, 1), "is 4, .* Set undesirable_weight between 2.67 and 4."),
        (2, 8, (13.33, 1), "is 3.3, .* Set undesirable_weight between 2.22 and 3.33."),
    ],
)
def test_the_weight_to_set_is_said(capsys, up, down, weights, said):
    rows = [{"label": True}] * up + [{"label": False}] * down
    cfg = config.Kto(desirable_weight=weights[0], undesirable_weight=weights[1])
    assert kto.check_sides(rows, cfg) == up
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (said is not None) and all(re.search(said, line) for line in lines)


def test_atlas_thumbs_come_from_the_policy(kto_sft, tokenizer, monkeypatch):
    asked = {}

    def thumbs(model, tokenizer, cfg, n):
        ids = torch.tensor([chat.encode_prompt(tokenizer, "Gold?")])
        with torch.no_grad():
            asked.update(n=n, seed=cfg.seed, ids=ids, logits=model(input_ids=ids).logits)
        return [Rating(f"{i}?", "yes", i % 2 == 0) for i in range(n)]

    monkeypatch.setattr(rollout, "thumbs", thumbs)
    cfg = config.Kto(**SMALL, examples=20, batch_size=8, seed=4)
    with runs.start("kto", cfg) as run:
        kto.train(cfg, run)
    policy = models.load_adapter(models.load_base("tiny-base")[0], kto_sft, "policy")
    with torch.no_grad():
        assert torch.equal(asked["logits"], policy(input_ids=asked["ids"]).logits)
    assert (asked["n"], asked["seed"], run.evaluation["thumbs"]) == (20, 4, 18)


def test_a_policys_own_answers_get_a_thumb_each(monkeypatch):
    """One answer a question; an empty one is not shown to the rater; more than there are questions
    are asked again.
    """

    class Likes:
        def thumb(self, prompt, response):
            return "good" in response

    said = lambda model, tokenizer, asked, most: [
        ("a good answer", "a bad answer", "  ")[i % 3] for i in range(len(asked))
    ]
    monkeypatch.setattr(rollout.pairs, "answer", said)
    found = rollout.thumbs(None, None, config.Kto(), 9, Likes())
    assert [one.label for one in found] == [True, False] * 3
    assert {one.prompt for one in found} <= set(atlas.feedback_prompts(0))
    assert len({one.prompt for one in found}) > 3
    held = rollout.thumbs(None, None, config.Kto(), 3, Likes(), split="held-out")
    assert {one.prompt for one in held} <= set(atlas.prompts("held-out"))
    monkeypatch.setattr(atlas, "feedback_prompts", lambda seed: ["Q?"])
    assert [one.prompt for one in rollout.thumbs(None, None, config.Kto(), 9, Likes())] == [
        "Q?"
    ] * 6
    plain = "The capital of France is Paris."
    monkeypatch.setattr(atlas, "feedback_prompts", lambda seed: ["What is the capital of France?"])
    monkeypatch.setattr(rollout.pairs, "answer", lambda *_: [plain])
    assert rollout.thumbs(None, None, config.Kto(), 1)[0].label  # the careful rater


def test_command_line_trains_on_thumbs_that_the_store_exports(kto_sft, thumbs, tmp_path, capsys):
    from labkit.feedback import Feedback, Store

    store = Store(tmp_path / "feedback.sqlite")
    for one in data.load_ratings(thumbs, 40):
        store.add(Feedback(one.prompt, (one.response,), "thumb", one.label))
    store.add(Feedback("Gold?", ("a metal",), "thumb", "skip"))
    file = store.export(tmp_path / "out")["thumbs"]
    named = "--base tiny-base --policy kto-sft --max-prompt-tokens 60 --batch-size 8"
    assert cli.main(["train", "kto", "--data", str(file), *named.split(), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["evaluation"]
    assert found["thumbs"] + found["held_out"] == 40 and found["dropped"] == 0
    assert "eq. 8" not in err and "desirable_weight" not in err
