"""The Tang poems: form by rule, a character model trained on the spot, what clicks make of it (a
taste, or new weights), and the card of a sitting.
"""

import copy
import gzip
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from labkit import LabError, models, runs
from labkit.data.rows import Pair
from labkit.feedback.agreement import share
from labkit.labs import poems

NIGHT = "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。"  # 李白, 靜夜思
DAWN = "朝辭白帝彩雲間，千里江陵一日還。兩岸猿聲啼不住，輕舟已過萬重山。"  # 李白, 早發白帝城


@pytest.fixture(scope="module")
def poet():
    """(model, tokenizer, run) after a few steps: too few to write well, enough to write."""
    cfg = poems.settings(
        hidden_size=32,
        intermediate_size=64,
        heads=2,
        layers=1,
        vocab_size=1000,
        batch_size=8,
        steps=12,
    )
    with runs.start("poems", cfg) as run:
        model, tokenizer = poems.train(cfg, run)
    return model, tokenizer, run


@pytest.fixture(scope="module")
def couples():
    """(五言, 七言) of the Tang, in characters that the small model knows."""
    frequent = set(poems.character_tokenizer(poems.load(), 1000).get_vocab())
    known = [poem for poem in poems.load() if set(poem) <= frequent]
    return list(zip(*([poem for poem in known if poems.form(poem) == n] for n in (5, 7))))


# --- form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "poem, wanted",
    [
        (NIGHT, 5),
        (DAWN, 7),
        (NIGHT.replace("，", "\n").replace("。", "\n"), 5),  # a line a line
        (DAWN.replace("，", "、").rstrip("。"), 7),
        ("智織千年網，光連萬里橋。語海潮生後，知音共識潮。", 5),  # the lecture's: asked for 七言
        (
            "知識海洋深無垠，字裡行間見真心。問答往來增見識，機智如你最吸引。",
            7,
        ),  # and the second try
        (NIGHT.replace("地上霜", "霜"), None),  # a line too short
        (NIGHT + DAWN, None),
        (NIGHT.split("。")[0] + "。", None),  # two lines
        ("床前明月光，疑是地上霜，舉頭望明月，", None),
        (NIGHT.split("。")[0] + "。" + DAWN.split("。")[0] + "。", None),  # two and two
        (NIGHT.replace("霜", "x"), None),
        (NIGHT.replace("霜", "□"), None),
        ("", None),
        ("，。，。", None),
    ],
)
def test_form_is_what_one_counts_by_hand(poem, wanted):
    assert poems.form(poem) == wanted


def test_shares_are_counted_of_all():
    assert poems.shares([NIGHT, DAWN, DAWN, "abc"]) == {"五言": 0.25, "七言": 0.5, "neither": 0.25}


def test_the_bundled_poems_have_the_forms_that_the_card_counts():
    card = (runs.data_folder() / "README.md").read_text("utf8")
    found = poems.load()
    counts = {n: sum(poems.form(poem) == n for poem in found) for n in (5, 7)}
    assert sum(counts.values()) == len(found)
    assert re.search(
        rf"{len(found):,} poems .*{counts[5]:,} of four lines .*{counts[7]:,} of seven", card
    )


def test_poems_of_ones_own_are_read_line_by_line(tmp_path):
    with gzip.open(tmp_path / "mine.txt.gz", "wt", encoding="utf8") as file:
        file.write(f"{NIGHT}\n\n  {DAWN}\n")
    assert poems.load(str(tmp_path / "mine.txt.gz")) == [NIGHT, DAWN]


@pytest.mark.parametrize("content", [None, ""])
def test_no_poems_is_one_sentence(tmp_path, content):
    file = tmp_path / "none.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(LabError, match="none.txt"):
        poems.load(str(file))


def test_too_few_poems_to_train_on(tmp_path):
    (tmp_path / "two.txt").write_text(f"{NIGHT}\n{DAWN}\n", "utf8")
    cfg = poems.settings(corpus=str(tmp_path / "two.txt"))
    with pytest.raises(
        LabError, match="gives 2 poems of at most 32 frequent characters, but a batch takes 32"
    ):
        poems.train(cfg, None)


# --- the model that writes -----------------------------------------------------------------------


def test_a_token_is_a_character_and_comes_back(poet):
    _, tokenizer, _ = poet
    line = "春風不見人，"
    assert len(tokenizer) == 1000 and tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.convert_ids_to_tokens(tokenizer(line)["input_ids"]) == list(line)
    assert tokenizer.decode(tokenizer(line)["input_ids"]) == line


def test_training_learns_and_leaves_a_whole_run(poet):
    model, tokenizer, run = poet
    logged = [row["loss"] for row in run.metrics()]
    assert logged[-1] < logged[0] and runs.load(run.name).evaluation["poems"] > 100
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(run.path)
    assert torch.equal(
        again.model.decoder.embed_tokens.weight, model.model.decoder.embed_tokens.weight
    )


def test_a_seed_decides_the_poems_and_leaves_the_callers_dice_alone(poet):
    model, tokenizer, _ = poet
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = poems.write(model, tokenizer, 4, seed=7)
    assert torch.equal(torch.rand(3), expected)
    assert (
        first
        == poems.write(model, tokenizer, 4, seed=7)
        != poems.write(model, tokenizer, 4, seed=8)
    )
    assert len(first) == 4 and not any("[" in poem for poem in first)


@pytest.mark.parametrize("n", [0, -1])
def test_no_poems_can_be_asked_for(poet, n):
    with pytest.raises(LabError, match="Ask for 1 or more"):
        poems.write(*poet[:2], n)


# --- the taste -----------------------------------------------------------------------------------


def test_a_reader_wants_one_form():
    seven, five = poems.Reader(7, slips=0), poems.Reader(5, slips=0)
    assert seven.compare("", NIGHT, DAWN) == "b" and seven.compare("", DAWN, NIGHT) == "a"
    assert five.compare("", NIGHT, DAWN) == "a" and five.compare("", DAWN, NIGHT) == "b"
    assert seven.compare("", DAWN, DAWN) == seven.compare("", NIGHT, "abc") == "same"
    assert (seven.name, five.name) == ("wants 七言", "wants 五言")


def test_a_reader_slips_as_often_as_said_and_the_same_way_again():
    clicks = [
        [poems.Reader(7, slips=0.2, seed=s).compare("", DAWN, NIGHT) for s in range(500)]
        for _ in range(2)
    ]
    assert clicks[0] == clicks[1] and 60 < clicks[0].count("b") < 140
    assert poems.Reader(7, slips=1).compare("", DAWN, NIGHT) == "b"


@pytest.mark.parametrize("wants", [5, 7])
def test_a_taste_learns_the_form_from_clicks_alone(poet, couples, wants):
    model, tokenizer, _ = poet
    train, held_out = couples[:20], couples[20:40]
    taste = poems.learn_taste(
        model, tokenizer, [Pair("", *(two if wants == 5 else two[::-1])) for two in train]
    )
    assert isinstance(taste, models.Head) and not taste.weight.requires_grad
    five, seven = (taste(poems.hidden(model, tokenizer, list(side))) for side in zip(*held_out))
    assert ((five > seven) == (wants == 5)).float().mean() >= 0.9


def test_a_taste_does_not_depend_on_the_order_of_the_clicks(poet, couples):
    pairs = [Pair("", *two) for two in couples[:12]]
    one, other = (poems.learn_taste(*poet[:2], p) for p in (pairs, pairs[::-1]))
    assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("pairs, found", [([], 0), ([Pair("", NIGHT, DAWN)] * 30, 1)])
def test_too_few_clicks_or_always_the_same_one(poet, pairs, found):
    with pytest.raises(LabError, match=f"10 different pairs of poems or more, but only {found}"):
        poems.learn_taste(*poet[:2], pairs)


def test_hidden_reads_each_poem_alone(poet, couples):
    model, tokenizer, _ = poet
    short, long = couples[0]
    both = poems.hidden(model, tokenizer, [short, long])  # the short one is padded here
    assert both.shape == (2, 32)
    assert torch.allclose(both[:1], poems.hidden(model, tokenizer, [short]), atol=1e-5)


def test_what_is_written_can_be_read_and_longer_poems_are_refused(poet):
    model, tokenizer, _ = poet
    never = torch.zeros(len(tokenizer), device=model.device)
    never[[tokenizer.eos_token_id, tokenizer.pad_token_id]] = -1e9  # a poem without an end
    hook = model.lm_head.register_forward_hook(lambda module, args, logits: logits + never)
    (poem,) = poems.write(model, tokenizer, 1)
    hook.remove()
    assert len(poem) == 38 and poems.hidden(model, tokenizer, [poem]).shape == (1, 32)
    for too_long in (poems.hidden, poems.logps):
        with pytest.raises(LabError, match="39 characters, but this model reads at most 38"):
            too_long(model, tokenizer, [poem, poem + "人"])
        with pytest.raises(LabError, match="There is no poem to read"):
            too_long(model, tokenizer, [])


# --- the weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_the_probability_of_a_poem_is_that_of_its_characters_and_its_end(
    poet, couples, temperature
):
    model, tokenizer, _ = poet
    short, long = couples[0]
    end = tokenizer.eos_token_id
    ids = [end, *tokenizer(short)["input_ids"], end]
    with torch.no_grad():
        said = (model(torch.tensor([ids])).logits[0] / temperature).log_softmax(-1)
    by_hand = sum(said[t, ids[t + 1]] for t in range(len(ids) - 1))
    found = poems.logps(model, tokenizer, [short, long], temperature)  # the short one is padded
    assert found.shape == (2,) and found.requires_grad
    assert float(found[0].detach()) == pytest.approx(float(by_hand), rel=1e-4)


@pytest.fixture(scope="module")
def dpo(poet):
    """The training loop as notebook 05 shows it."""
    notebook = Path(__file__).parent.parent / "notebooks/05_collecting_feedback.ipynb"
    cells = json.loads(notebook.read_text("utf8"))["cells"]
    (loop,) = (text for c in cells if "def dpo(" in (text := "".join(c["source"])))
    known = {"poet": poet[0], "characters": poet[1], "poems": poems}
    exec(loop, known)
    return known["dpo"]


@pytest.mark.parametrize("wants", [5, 7])
def test_the_loop_of_notebook_05_moves_the_weights_where_the_clicks_point(
    poet, couples, dpo, wants
):
    model, tokenizer, _ = poet
    before = copy.deepcopy(model.state_dict())
    policy = dpo([Pair("", *(two if wants == 5 else two[::-1])) for two in couples[:20]])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():  # of poems that were not clicked: how much likelier each form became
        five, seven = (
            poems.logps(policy, tokenizer, list(side)) - poems.logps(model, tokenizer, list(side))
            for side in zip(*couples[20:60])
        )
    assert ((five > seven) == (wants == 5)).float().mean() >= 0.75


# --- best of n -----------------------------------------------------------------------------------


def test_best_of_n_takes_the_best_of_each_group():
    written, scores = list("abcdefg"), [1, 3, 2, 9, 0, 5, 7]
    assert poems.best_of(1, written, scores) == written
    assert poems.best_of(2, written, scores) == ["b", "d", "f"]  # g is left over
    assert poems.best_of(3, written, torch.tensor(scores)) == ["b", "d"]
    assert poems.best_of(7, written, scores) == ["d"]


@pytest.mark.parametrize("n", [0, -2, 8])
def test_best_of_none_or_of_more_than_there_are(n):
    with pytest.raises(LabError, match="Choose n from 1 to 7"):
        poems.best_of(n, list("abcdefg"), range(7))


# --- the card ------------------------------------------------------------------------------------


BLIND = share([True] * 17 + [False])


def card(blind=BLIND, ties=2, who="yours"):
    before, after = share([True] * 51 + [False] * 49), share([True] * 93 + [False] * 7)
    return poems.Card("七言", 40, who, before, after, blind, ties, 1.14, (NIGHT, DAWN))


def test_a_card_says_what_came_of_it():
    assert str(card()) == (
        "51% → 93% 七言 after 40 clicks of yours; "
        "blind, the new model preferred in 17 of 18, 2 the same"
    )
    assert str(card(share([False] * 3), 0)).endswith("preferred in 0 of 3")
    assert str(card(None, 0)).endswith("not judged blind yet")


@pytest.mark.parametrize("blind, ties", [(BLIND, 2), (None, 0), (None, 20)])
def test_a_card_is_an_svg_of_the_same_words(blind, ties):
    bundle = card(blind, ties)._repr_mimebundle_()
    drawn = ElementTree.fromstring(bundle["image/svg+xml"])
    said = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert drawn.get("aria-label") == bundle["text/plain"] == str(card(blind, ties))
    for words in ("51% 七言", "(41% to 61%, n = 100)", "1.1 nats", NIGHT[:6], DAWN[-8:]):
        assert any(words in one for one in said), words
    assert any("17 of 18" in one for one in said) == (blind is not None)
    sizes = [float(text.get("font-size")) for text in drawn.iter() if text.get("font-size")]
    assert min(sizes) >= 12


def test_a_name_on_a_card_is_text():
    drawn = card(who="<b>me</b> & you").svg()
    assert "<b>" not in drawn and ElementTree.fromstring(drawn) is not None
