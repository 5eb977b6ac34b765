"""The stages on TRL's trainers, each learning something small from files of the learner's own."""

import itertools
import math

import pytest
import torch
from safetensors.torch import load_file

from labkit import LabError, config, data, models, rollout, runs
from labkit.data import chat
from labkit.stages import ai_feedback, dpo, reward, sft, trl
from labkit.stages import pairs as preferences

CITIES = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Gold": "metal"}
SMALL = dict(
    base="tiny-base", lora_r=8, lora_alpha=16, max_prompt_tokens=60, max_response_tokens=30
)


@pytest.fixture(scope="session")
def demos(tmp_path_factory):
    records = [
        data.Demo(f"What is the capital of {country}? {i}", city)
        for i in range(30)
        for country, city in CITIES.items()
    ]
    return str(data.save_jsonl(records, tmp_path_factory.mktemp("data") / "demos.jsonl"))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """The rater likes the short answer. Two pairs are the same once they are cut to
    max_response_tokens.
    """
    records = [
        data.Pair(f"Is it {country} or {i}?", city, f"I think it may be {city}.")
        for i in range(30)
        for country, city in CITIES.items()
    ]
    long = "very " * 80
    records += [data.Pair(f"How long {i}?", long + "yes", long + "no") for i in range(2)]
    return str(data.save_jsonl(records, tmp_path_factory.mktemp("data") / "pairs.jsonl"))


@pytest.fixture(scope="session")
def sft_run(tiny_base, demos):
    cfg = config.Sft(**SMALL, data=demos, epochs=4, batch_size=16, learning_rate=1e-2)
    with runs.start("sft", cfg, "sft-cities") as run:
        sft.train(cfg, run)
    return run


def test_sft_loss_is_on_the_answer_alone(tokenizer):
    (row,) = trl.demo_rows(tokenizer, [data.Demo("Gold?", "metal")], config.Sft())
    ids, response_mask = chat.encode(tokenizer, "Gold?", "metal")
    assert row["input_ids"] == ids and row["length"] == len(ids)
    assert [
        label for label, response in zip(row["labels"], response_mask) if response
    ] == chat.encode_response(tokenizer, "metal")
    assert {label for label, response in zip(row["labels"], response_mask) if not response} == {
        -100
    }


def test_the_sft_loss_is_the_models_own(sft_run, tokenizer, monkeypatch):
    """Rows of like length share a pass: the same tokens, the same losses, a gradient to all."""
    monkeypatch.setattr(models, "LIKE_LENGTH", 2)
    model, _ = models.load_base("tiny-base")
    model = models.load_adapter(model, sft_run, "default", trainable=True)
    demos = [data.Demo("Gold?", "metal " * (1 + 3 * i % 5)) for i in range(5)]
    rows = trl.demo_rows(tokenizer, demos, config.Sft())
    ids, mask = chat.pad([row["input_ids"] for row in rows], tokenizer.pad_token_id)
    labels, _ = chat.pad([row["labels"] for row in rows], -100)
    found, right = trl.response_loss(models.forward(model, "default"), ids, mask, labels)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        own = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
        )
        hits = (logits.argmax(-1) == labels[:, 1:]).sum()
    assert len(found) == (labels != -100).sum()
    assert found.sum().item() == pytest.approx(own.item(), rel=1e-4)
    assert right.sum() == hits
    found.sum().backward()
    assert all(w.grad is not None for w in models.adapter_parameters(model, "default"))


def test_sft_learns_and_leaves_a_whole_run(sft_run, capsys):
    losses = [line["loss"] for line in sft_run.metrics() if "loss" in line]
    assert losses[-1] < 0.5 * losses[0] and sft_run.evaluation["loss"] < 0.5 * losses[0]
    assert sft_run.evaluation["demonstrations"] + 2 <= 120
    assert {p.name for p in sft_run.path.iterdir()} == {"run.json", "metrics.jsonl", "adapter"}
    assert runs.load("sft-cities").info["base"]["name"] == "tiny-base"
    line = sft_run.metrics()[0]
    assert line["step"] == 1 and line["steps"] == sft_run.metrics()[-1]["step"]
    assert capsys.readouterr().out == ""


def test_reward_learns_what_the_rater_likes(sft_run, pairs):
    cfg = config.Reward(
        **{**SMALL, "base": ""},
        policy="sft-cities",
        data=pairs,
        epochs=2,
        batch_size=16,
        learning_rate=5e-3,
    )
    with runs.start("reward", cfg, "reward-short") as run:
        reward.train(cfg, run)
    found = run.evaluation
    losses = [line["loss"] for line in run.metrics() if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]  # a head of luck may tell short from long as well
    assert (
        found["accuracy"] > 0.9
        and found["dropped"] == 2
        and found["pairs"] + found["held_out"] == 120
    )
    model, tokenizer = models.load_base("tiny-base")
    model = models.load_adapter(model, runs.load("reward-short"), "reward")
    held_out = preferences.split_pairs(
        tokenizer, data.load_pairs(pairs), cfg, cfg.validation_fraction
    )[1]
    scores = reward.score(model, models.load_head(run), tokenizer, reward.sequences(held_out))
    chosen, rejected = scores.chunk(2)
    assert (chosen - rejected).mean().item() == pytest.approx(found["margin"], abs=1e-3)
    assert run.info["hits"] == "".join("01"[hit] for hit in (chosen > rejected).tolist())


@pytest.mark.parametrize("kind", ["margin", "confidence"])
def test_margins_and_soft_labels_reach_the_reward_loss(sft_run, tmp_path, kind, monkeypatch):
    """The first loss of a run is the hand-made one, of the scores before the first step."""
    seen = []
    plain = reward.bradley_terry_loss

    def spied(chosen, rejected, margin, confidence):
        loss, metrics = plain(chosen, rejected, margin, confidence)
        seen.append((chosen.detach(), rejected.detach(), margin, confidence, loss.detach()))
        return loss, metrics

    monkeypatch.setattr(reward, "bradley_terry_loss", spied)
    values = {"margin": 2.0, "confidence": 0.6}
    records = [
        data.Pair(f"Is it {i}?", "yes", f"no, {i}", **{kind: values[kind]}) for i in range(8)
    ]
    file = str(data.save_jsonl(records, tmp_path / "pairs.jsonl"))
    cfg = config.Reward(
        **{**SMALL, "base": ""},
        policy="sft-cities",
        data=file,
        epochs=1,
        batch_size=8,
        validation_fraction=0.01,
    )
    with runs.start("reward", cfg) as run:
        reward.train(cfg, run)
    chosen, rejected, margin, confidence, loss = seen[0]
    d, c = chosen - rejected - margin, confidence
    assert set(margin.tolist()) == {2.0 if kind == "margin" else 0.0}
    assert [round(x, 4) for x in set(c.tolist())] == [0.6 if kind == "confidence" else 1.0]
    by_hand = -(c * d.sigmoid().log() + (1 - c) * (-d).sigmoid().log()).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert run.metrics()[0]["loss"] == pytest.approx(loss.item(), rel=1e-3)


def test_sft_goes_on_from_a_policy(sft_run, demos):
    """At a learning rate of almost nothing, the adapter is the one it began with."""
    cfg = config.Sft(
        **{**SMALL, "base": ""}, policy="sft-cities", data=demos, epochs=0.1, learning_rate=1e-9
    )
    with runs.start("sft", cfg) as run:
        sft.train(cfg, run)
    assert run.info["policy"] == models.adapter_id(sft_run)
    before, after = (
        load_file(one.path / "adapter" / "adapter_model.safetensors") for one in (sft_run, run)
    )
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-6, rtol=0)


def test_the_reward_model_scores_alike_in_training_and_after(sft_run, monkeypatch):
    """Rows of like length share a pass and come back in their order, with a gradient to all."""
    monkeypatch.setattr(models.scoring, "LIKE_LENGTH", 4)
    model, tokenizer = models.load_base("tiny-base")
    model = models.load_adapter(model, sft_run, "reward", trainable=True)
    head = models.Head(64)
    texts = [("Gold?", "metal " * (1 + 7 * i % 11)) for i in range(11)]
    rows = [chat.encode(tokenizer, *both)[0] for both in texts]
    ids, mask = chat.pad(rows, tokenizer.pad_token_id)
    assert len(set(mask.sum(1).tolist())) == 11
    found = models.RewardModel(model, head, models.forward(model, "reward"))(ids, mask).logits
    assert torch.allclose(found, models.rewards(model, head, ids, mask).unsqueeze(-1), atol=1e-4)
    found.sum().backward()
    weights = models.adapter_parameters(model, "reward")
    assert all(weight.grad is not None for weight in weights)


@pytest.mark.parametrize("own", [True, False])
def test_scores_are_in_standard_deviations_of_the_sft_policy(sft_run, pairs, monkeypatch, own):
    """Somebody else's pairs are not its answers: it is asked for some. The atlas's pairs are."""
    seen = {}

    def normalise(head, scores):
        seen["scores"] = scores
        head_normalise(head, scores)

    def answer(model, tokenizer, prompts, *_):
        seen["logits"] = model(input_ids=ids).logits
        return ["Paris." * (1 + i % 3) for i in range(len(prompts))]

    ids = torch.tensor([[2, 30, 40, 3]])
    head_normalise = models.Head.normalise
    monkeypatch.setattr(models.Head, "normalise", normalise)
    monkeypatch.setattr(rollout, "answer", answer)
    made = data.load_pairs(pairs, 12)
    monkeypatch.setattr(rollout, "preference_pairs", lambda *_, seen: made)
    cfg = config.Reward(
        **SMALL, policy="sft-cities", data="atlas" if own else pairs, examples=12, batch_size=8
    )
    with runs.start("reward", cfg) as run:
        reward.train(cfg, run)
    model, tokenizer = models.load_base("tiny-base")
    if not own:  # the policy answered, not what the reward model had become
        policy = models.load_adapter(model, sft_run, "policy")
        assert torch.equal(seen["logits"], policy(input_ids=ids).logits)
        model, tokenizer = models.load_base("tiny-base")
    model = models.load_adapter(model, run, "reward")
    training, *_ = preferences.split_pairs(tokenizer, made, cfg, cfg.validation_fraction)
    references = reward.sequences(training)
    if not own:
        references = [
            row["prompt_ids"] + chat.encode_response(tokenizer, "Paris." * (1 + i % 3))
            for i, row in enumerate(training)
        ]
    scores = reward.score(model, models.load_head(run), tokenizer, references)
    assert len(scores) == len(seen["scores"])
    assert scores.mean().abs() < 1e-3
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert ("answers to the pairs' prompts" in run.evaluation["normalised_on"]) is not own


def test_dpo_starts_at_the_sft_policy_and_moves(sft_run, pairs):
    cfg = config.Dpo(
        **{**SMALL, "base": ""},
        policy="sft-cities",
        data=pairs,
        epochs=2,
        batch_size=16,
        learning_rate=2e-3,
    )
    with runs.start("dpo", cfg, "dpo-short") as run:
        dpo.train(cfg, run)
    first, found = run.metrics()[0], run.evaluation
    # Policy = reference at the first step, not rounded away from it and not the bare base: every
    # implicit reward is 0 and the loss ln 2.
    assert first["rewards/chosen"] == first["rewards/rejected"] == 0
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found["accuracy"] > 0.9 and found["dropped"] == 2 and found["margin"] > 0

    # The implicit reward is measured against the SFT adapter: recompute one by hand.
    model, tokenizer = models.load_base("tiny-base")
    model = models.load_adapter(model, sft_run, "reference")
    model = models.load_adapter(model, runs.load("dpo-short"), "policy")
    row = preferences.split_pairs(tokenizer, data.load_pairs(pairs), cfg, dpo.HELD_OUT)[1][0]

    def log_probability(side):
        ids = torch.tensor([row["prompt_ids"] + row[side]])
        with torch.no_grad():
            every = (
                model(input_ids=ids)
                .logits[0, :-1]
                .log_softmax(-1)
                .gather(-1, ids[0, 1:, None])
                .squeeze(-1)
            )
        return every[len(row["prompt_ids"]) - 1 :].sum().item()

    policy = log_probability("chosen_ids") - log_probability("rejected_ids")
    with models.reference(model):
        reference = log_probability("chosen_ids") - log_probability("rejected_ids")
    assert policy > reference
    assert sum("ref" in p.name for p in (run.path / "adapter").iterdir()) == 0


def test_reference_of_dpo_is_the_sft_adapter(sft_run, pairs, monkeypatch):
    """During training TRL's "ref" adapter holds the SFT weights and stays frozen, while "default"
    moves.
    """
    seen = {}

    def keep(model, run, name, head=None):
        seen.update({n: p.detach().clone() for n, p in model.named_parameters() if ".lora_" in n})
        models_save(model, run, name, head)

    models_save = models.save_adapter
    monkeypatch.setattr(models, "save_adapter", keep)
    cfg = config.Dpo(
        **SMALL, policy="sft-cities", data=pairs, examples=40, batch_size=8, learning_rate=2e-3
    )
    with runs.start("dpo", cfg) as run:
        dpo.train(cfg, run)
    start = models.load_adapter(models.load_base("tiny-base")[0], sft_run, "ref")
    references = {n: p for n, p in start.named_parameters() if ".ref." in n}
    assert references and all(torch.equal(seen[n], p) for n, p in references.items())
    assert any(
        not torch.equal(seen[n.replace(".ref.", ".default.")], p) for n, p in references.items()
    )


def test_atlas_pairs_come_from_the_sft_policy(sft_run, monkeypatch):
    """data="atlas": the stage asks labkit.rollout for pairs, with the SFT policy active."""
    asked = {}

    def preference_pairs(model, tokenizer, cfg, n, seen):
        seen.update(compared=n + 3, same=3)
        ids = torch.tensor([chat.encode_prompt(tokenizer, "What is the capital of France? 3")])
        with torch.no_grad():
            asked.update(n=n, ids=ids, logits=model(input_ids=ids).logits)
        return [data.Pair(f"{i}?", "yes", "I think yes") for i in range(n)]

    monkeypatch.setattr(rollout, "preference_pairs", preference_pairs)
    cfg = config.Reward(**SMALL, policy="sft-cities", examples=20, batch_size=8)
    with runs.start("reward", cfg) as run:
        reward.train(cfg, run)
    model, tokenizer = models.load_base("tiny-base")
    policy = models.load_adapter(model, sft_run, "policy")
    with torch.no_grad():
        assert asked["n"] == 20 and torch.equal(
            asked["logits"], policy(input_ids=asked["ids"]).logits
        )
    found = run.evaluation
    assert found["pairs"] + found["held_out"] == 20
    assert (found["compared"], found["ties"]) == (23, 3)

    # The same pairs for a stage of the same policy, and what was counted of them.
    again, counted = preferences.load_preferences(
        config.Dpo(**SMALL, examples=8), model, tokenizer, sft_run
    )
    assert again == data.load_pairs(run.path / preferences.PAIRS)[:8]
    assert counted == {"compared": 23, "ties": 3}


def test_split_keeps_prompts_apart(tokenizer, pairs):
    cfg = config.Reward(**SMALL)
    training, held_out, dropped = preferences.split_pairs(
        tokenizer, data.load_pairs(pairs), cfg, 0.2
    )
    assert dropped == 2 and not {tuple(r["prompt_ids"]) for r in training} & {
        tuple(r["prompt_ids"]) for r in held_out
    }


def test_pairs_with_a_long_prompt_are_left_out_and_counted(tokenizer, capsys):
    cfg = config.Reward(**SMALL)
    pairs = [data.Pair(str(i), "yes", "no") for i in range(8)] + [
        data.Pair("Gold " * 90, "yes", "no")
    ]
    training, held_out, dropped = preferences.split_pairs(tokenizer, pairs, cfg, 0.25)
    assert (len(training) + len(held_out), dropped) == (8, 1)
    assert "1 of 9 pairs have a prompt of more than max_prompt_tokens=60" in capsys.readouterr().err
    with pytest.raises(LabError, match="1 of 1 pairs.*Raise max_prompt_tokens"):
        preferences.split_pairs(tokenizer, pairs[8:], cfg, 0.25)


def test_nothing_to_learn(tokenizer):
    long = "very " * 80
    with pytest.raises(LabError, match="None of the 3 pairs.*raise max_response_tokens"):
        preferences.split_pairs(
            tokenizer,
            [data.Pair(str(i), long + "a", long + "b") for i in range(3)],
            config.Reward(**SMALL),
            0.2,
        )


def test_prompt_too_long(sft_run, tmp_path):
    file = data.save_jsonl(
        [data.Demo("Gold " * 100, "metal"), data.Demo("Gold?", "metal")], tmp_path / "demos.jsonl"
    )
    cfg = config.Sft(**SMALL, data=str(file))
    with (
        pytest.raises(LabError, match='"Gold Gold.*max_prompt_tokens is 60'),
        runs.start("sft", cfg, "too-long") as run,
    ):
        sft.train(cfg, run)
    with pytest.raises(LabError, match="no run 'too-long'.*unfinished"):
        runs.load("too-long")


STAGES = {
    "sft": (sft, config.Sft, {}),
    "reward": (reward, config.Reward, {"policy": "sft-cities"}),
    "dpo": (dpo, config.Dpo, {"policy": "sft-cities"}),
    "ai_feedback": (ai_feedback, config.AiFeedback, {"policy": "sft-cities"}),
}


TRIALS = itertools.count()  # a name each: an unfinished run keeps its own


def try_stage(stage, demos, pairs, **values):
    module, settings, more = STAGES[stage]
    file = demos if stage == "sft" else pairs
    cfg = settings(**SMALL, **more, data=file, **{"examples": 40, "batch_size": 8, **values})
    with runs.start(stage, cfg, f"{stage}-tried-{next(TRIALS)}") as run:
        module.train(cfg, run)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("step", [1, 3])
def test_a_gradient_that_is_no_number_stops_the_stage(
    sft_run, demos, pairs, monkeypatch, stage, step
):
    """Even where the loss looks fine: one weight's gradient is enough. The run is not kept."""
    from transformers import Trainer

    training_step, calls = Trainer.training_step, []

    def spoilt(trainer, model, *args, **more):
        loss = training_step(trainer, model, *args, **more)
        calls.append(loss)
        if len(calls) == step:
            next(p for p in model.parameters() if p.grad is not None).grad[0] = float("nan")
        return loss

    monkeypatch.setattr(Trainer, "training_step", spoilt)
    with pytest.raises(LabError, match=rf"no longer a number \(step {step}\).*learning_rate"):
        try_stage(stage, demos, pairs)
    assert len(calls) == step and torch.isfinite(torch.stack(calls)).all()
    assert not list(runs.root().glob(f"{stage}-tried*"))


def test_a_held_out_loss_that_is_no_number_stops_the_stage(sft_run, demos, pairs, monkeypatch):
    """The last step can be the one that breaks the weights."""
    from transformers import Trainer

    monkeypatch.setattr(Trainer, "evaluate", lambda *_, **__: {"eval_loss": math.nan})
    with pytest.raises(LabError, match="no longer a number"):
        try_stage("sft", demos, pairs)


def test_float16_may_skip_a_step_but_not_all():
    """Its gradient scaler starts too high and halves itself: sixteen steps at most."""
    from types import SimpleNamespace

    weight = torch.nn.Linear(1, 1)
    half, state = SimpleNamespace(fp16=True), SimpleNamespace(global_step=0)

    def steps(callback, gradients):
        for gradient in gradients:
            weight.weight.grad = torch.tensor([[gradient]])
            callback.on_pre_optimizer_step(half, state, None, model=weight)
            state.global_step += 1
        callback.on_train_end(half, state, None)

    steps(trl.stop_when_not_finite(), [math.inf] * 16 + [1.0, math.inf, math.nan])
    with pytest.raises(LabError, match="no longer a number"):
        steps(trl.stop_when_not_finite(), [math.inf] * 17)
    state.global_step = 0
    with pytest.raises(LabError, match="no longer a number"):
        steps(trl.stop_when_not_finite(), [math.inf] * 3)


@pytest.mark.parametrize("where", ["train", "evaluate"])
def test_memory_that_runs_out_says_what_to_lower(sft_run, demos, pairs, monkeypatch, where):
    from transformers import Trainer

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, where, full)
    with pytest.raises(LabError, match="Memory ran out.*batch_size"):
        try_stage("sft", demos, pairs)


def test_interrupted_stage_is_no_run(tiny_base, demos, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(trl, "train", stop)
    cfg = config.Sft(**SMALL, data=demos)
    with pytest.raises(LabError, match="Stopped"), runs.start("sft", cfg, "stopped") as run:
        sft.train(cfg, run)
    assert not (runs.root() / "stopped").exists()


def test_stages_do_not_import_one_another():
    import ast
    from pathlib import Path

    stages = set(config.STAGES)
    for stage in stages:
        file = Path(sft.__file__).parent / f"{stage}.py"
        if file.exists():
            names = {
                alias.name.split(".")[-1]
                for node in ast.walk(ast.parse(file.read_text("utf8")))
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in node.names
            }
            assert not names & (stages - {stage}), stage


def test_both_answers_are_scored_with_their_prompt():
    row = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5], "length": 4}
    row |= {"margin": 2.0, "confidence": 0.6}
    (found,) = reward.whole([row])
    assert (found["chosen_ids"], found["rejected_ids"]) == ([1, 2, 3], [1, 2, 4, 5])
    assert (found["margin"], found["confidence"]) == (2.0, 0.6)


def test_beta_of_dpo_is_the_setting(sft_run, pairs, monkeypatch):
    given = {}

    def stop(*_, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(trl, "train", stop)
    cfg = config.Dpo(**SMALL, policy="sft-cities", data=pairs, beta=0.7)
    with pytest.raises(LabError, match="Stopped"), runs.start("dpo", cfg) as run:
        dpo.train(cfg, run)
    assert given["beta"] == 0.7


@pytest.mark.parametrize("fits, micro", [(100, 8), (3, 2), (1, 2)])
def test_a_batch_is_cut_to_what_the_memory_holds(tiny_base, tmp_path, monkeypatch, fits, micro):
    """In parts of one size, two rows at least: KTO asks for them. A pair counts twice."""
    given, run = {}, runs.Run(tmp_path, "sft", "cut")

    def stop(*_, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(trl, "fit", stop)
    asked = []
    monkeypatch.setattr(
        models, "fitting_rows", lambda most, each: asked.append(each) or min(most, fits)
    )
    model = models.load_base("tiny-base")[0]
    for stage, sequences in (("sft", 1), ("dpo", 2)):
        rows, cfg = (
            [{"chosen_ids": []} if sequences == 2 else {}],
            config.Sft(**SMALL, batch_size=8),
        )
        with pytest.raises(KeyboardInterrupt):
            trl.train(None, None, model, None, rows, cfg, run)
        assert asked[-1] == sequences * models.row_bytes(model, 90, 30), stage
        assert given["per_device_train_batch_size"] == micro
        assert given["gradient_accumulation_steps"] == 8 // micro
        assert given["gradient_checkpointing"] is False
    with pytest.raises(KeyboardInterrupt):
        trl.train(None, None, model, None, rows, config.change(cfg, gradient_checkpointing=1), run)
    assert given["gradient_checkpointing"] is True
