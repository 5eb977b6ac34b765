"""One option, --data, for every stage that takes data: a folder in the Hub's layout trains it, and
what was taken is told and kept in the run.
"""

import shutil

import pytest
from test_data_sets import ANSWER, feedback, shards, turns

from labkit import cli, config, data, runs
from labkit.data import chat

SIZES = "--max-prompt-tokens 40 --max-response-tokens 8".split()
LONG = "Gold " * 60


@pytest.fixture
def home(empty_runs, ppo_cfg, tiny_base):
    """A runs folder with a base, an SFT and a reward run."""
    for name in ("tiny-base", "rl-sft", "rl-reward"):
        shutil.copytree(tiny_base.path.parent / name, empty_runs / name)


def trained(capsys, stage, folder, *more):
    """(run, what it told on standard error) of `train STAGE --data FOLDER`."""
    assert cli.main(["train", stage, "--data", folder, "--name", f"my-{stage}", *more]) == 0
    return runs.load(f"my-{stage}"), capsys.readouterr().err


def test_pretraining_reads_of_a_set_what_its_steps_can_use(empty_runs, tmp_path, capsys):
    rows = [{"text": f"The {i} cats see {i * i} rivers near a castle."} for i in range(3000)]
    small = "--hidden-size 32 --intermediate-size 64 --layers 1 --heads 2 --vocab-size 300"
    small += " --context 64 --sequence-length 16 --batch-size 4 --steps 20 --warmup 2"
    run, told = trained(capsys, "pretrain", shards(tmp_path / "s", train=rows), *small.split())
    wanted = 8 * 20 * 4 * 16  # characters: CHARACTERS a token
    texts = [row["text"] for row in rows]
    taken = next(n for n in range(1, 3000) if sum(map(len, texts[:n])) >= wanted)
    assert f"split train: {taken} rows taken; columns: text." in told
    assert run.info["data_hash"] == runs.digest(texts[:taken])


def test_sft_leaves_out_the_long_prompts_of_a_collection(home, tmp_path, capsys):
    rows = [feedback(i, "玉山") for i in range(12)] + [
        {**feedback(0), "messages": turns(LONG, "a")}
    ]
    folder = shards(tmp_path / "u", train_prefs=rows[:2], train_sft=rows)
    run, told = trained(
        capsys, "sft", folder, "--base", "tiny-base", "--batch-size", "4", "--lora-r", "2", *SIZES
    )
    assert "12 of 13 rows taken" in told
    assert "1 × prompt of more than max_prompt_tokens=40 tokens (first: row 13)" in told
    about = run.info["data"]
    assert (about["split"], about["rows"], about["columns"]) == ("train_sft", 12, ["messages"])
    # The lone own file stays strict: its author can mend it.
    file = data.save_jsonl(
        [{"prompt": LONG, "response": "a"}, {"prompt": "Q", "response": "a"}], tmp_path / "m.jsonl"
    )
    assert cli.main(["train", "sft", "--data", str(file), "--base", "tiny-base", *SIZES]) == 1
    assert "max_prompt_tokens is 40" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_pairs_of_whole_dialogues(home, tmp_path, capsys, stage, tokenizer):
    ask = [f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: {i}?\n\nAssistant: " for i in range(12)]
    rows = [{"chosen": one + "yes", "rejected": one + "no"} for one in ask]
    rows += [{name: f"\n\nHuman: {LONG}{text}" for name, text in rows[0].items()}] * 12
    asked = data.load_pairs(shards(tmp_path / "hh", train=rows))[0].prompt
    framed = tokenizer.decode(chat.encode_prompt(tokenizer, asked))
    assert framed == "USER:HiAI:Hello[END]USER:0?AI:"
    more = ["--policy", "rl-sft", "--batch-size", "4", "--epochs", "1", "--examples", "10", *SIZES]
    run, told = trained(capsys, stage, str(tmp_path / "hh"), *more)
    assert "10 of 24 rows taken, drawn at random; columns: chosen, rejected." in told
    assert "prompt   'Human: Hi\\n\\nAssistant: Hello" in told
    # As many as were asked for, though the long ones are left out.
    assert run.info["data"]["rows"] == 10 and run.evaluation["dropped"] == 0


def test_thumbs_of_conversations(home, tmp_path, capsys):
    rows = [
        {"prompt": turns(f"{i}?"), "completion": [ANSWER | {"content": "A"}], "label": i % 2 == 0}
        for i in range(16)
    ] + [{"prompt": turns(LONG), "completion": [ANSWER | {"content": "A"}], "label": True}]
    more = ["--policy", "rl-sft", "--batch-size", "4", "--epochs", "1", *SIZES]
    run, told = trained(capsys, "kto", shards(tmp_path / "kto", train=rows), *more)
    assert "columns: completion, label, prompt." in told and "label    'True'" in told
    assert run.info["data"]["rows"] == 16 and "1 × prompt of more than" in told


def test_ppo_takes_as_many_prompts_as_its_updates_ask(home, tmp_path, capsys):
    rows = [feedback(i) for i in range(30)] + [feedback(0, prompt=LONG) for _ in range(30)]
    folder = shards(tmp_path / "u", train_prefs=rows[:1], train_gen=rows)
    more = (
        "--policy rl-sft --reward rl-reward --updates 2 --batch-size 4 --minibatch-size 4".split()
    )
    run, told = trained(capsys, "ppo", folder, *more, *SIZES)
    about = run.info["data"]
    assert (about["split"], about["rows"], about["drawn"]) == ("train_gen", 8, True)
    (n, why, _), *_ = about["left_out"]
    assert n > 0 and why == "prompt of more than max_prompt_tokens=40 tokens" and why in told
    prompts = {line["prompt"] for line in run.metrics()}
    assert len(prompts) == 2 and prompts <= {f"Q{i}" for i in range(30)}


def test_ptx_reads_of_a_set_what_its_updates_can_draw(ppo_cfg, tokenizer, tmp_path):
    from types import SimpleNamespace

    from labkit.stages import ppo_report

    folder = shards(tmp_path / "s", train=[{"text": f"{i:03d} cats. " * 9} for i in range(400)])
    cfg = config.change(ppo_cfg, ptx_text=folder, max_prompt_tokens=8, max_response_tokens=8)
    players = SimpleNamespace(tokenizer=tokenizer, model=SimpleNamespace(device="cpu"))
    ids, mask = ppo_report.text_rows(players, cfg)(300)
    seen = {tokenizer.decode(row)[:3] for row in ids}
    wanted = 4 * 16 * cfg.updates * cfg.epochs * cfg.batch_size // 90 + 1  # 90 characters each
    assert len(seen) > 5 and seen <= {f"{i:03d}" for i in range(wanted)}
