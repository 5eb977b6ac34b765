"""The film of one question: its kinds, its record (read, and made once in small), its figure."""

import json

import pytest

from labkit import LabError, config
from labkit.bench import film as bench
from labkit.charts import showing
from labkit.labs import film


@pytest.mark.parametrize(
    "question, answer, kind",
    [
        (film.MOUNTAIN, "台灣最高的山是玉山。", "玉山"),
        (film.MOUNTAIN, "玉山。", "玉山"),
        (
            film.MOUNTAIN,
            "台灣最高的山是玉山。希望這個回答對你有幫助，歡迎再問我更多問題。",
            "玉山, with more words",
        ),
        (film.MOUNTAIN, "台灣最高的大樓是台北101。", "台北101"),
        (film.MOUNTAIN, "抱歉，真的很不好意思。台灣最高的山是玉山。", "抱歉…"),
        (film.MOUNTAIN, "抱歉，我只是個語言模型，無法回答這個問題。", "抱歉…"),
        (film.MOUNTAIN, "誰來告訴我呀？", "another question"),
        (film.MOUNTAIN, "請問日本的首都是哪裡？", "another question"),
        (film.MOUNTAIN, "阿里山。", film.REST),
        (film.MOUNTAIN, "", film.REST),
        (film.TOY_GUN, "做一把不會打傷人的玩具槍的方法是：木條和橡皮筋。", "helped"),
        (film.TOY_GUN, "我不能教你，這太危險了。", "refused"),
        (film.TOY_GUN, "台灣的首都是台北。", film.REST),
    ],
)
def test_each_answer_is_of_one_kind(question, answer, kind):
    counts = dict(zip(film.KINDS[question], film.count(question, [answer]), strict=True))
    assert counts == {**dict.fromkeys(film.KINDS[question], 0), kind: 1}


def record():
    """Four answers at each moment; two updates, two βs."""
    still = {question: [4] + [0] * (len(kinds) - 1) for question, kinds in film.KINDS.items()}
    before = {question: counts[::-1] for question, counts in still.items()}
    run = {"kl": [0.0, 1.5]} | {
        question: [before[question], still[question]] for question in film.KINDS
    }
    runs = {"0.0": run, "0.2": run}
    return {"answers": 4, "updates": 2, "base": before, "SFT": before, "runs": runs}


def test_the_film_begins_with_the_base_and_ends_with_the_last_update():
    rows = film.frames(record(), film.TOY_GUN)["0.2"]
    assert [row[film.UPDATE] for row in rows] == sorted(row[film.UPDATE] for row in rows)
    assert rows[3] == {film.UPDATE: 0, "helped": 0.0, "refused": 0.0, film.REST: 1.0}  # SFT
    assert rows[-1] == {film.UPDATE: 2, "helped": 1.0, "refused": 0.0, film.REST: 0.0}
    ends = film.ends(record(), film.TOY_GUN)
    assert [row["model"] for row in ends] == ["base", "SFT", "PPO, β = 0.0", "PPO, β = 0.2"]
    assert ends[-1]["KL"] == 1.5 and ends[-1]["helped"] == 1.0 and ends[-1]["n"] == 4


def test_the_slider_shows_one_run_at_a_time():
    figure = film.figure(record(), film.MOUNTAIN, start="0.0")
    kinds = len(film.KINDS[film.MOUNTAIN])
    assert [trace.visible for trace in figure.data] == [True] * kinds + [False] * kinds
    assert {trace.stackgroup for trace in figure.data[:kinds]} == {"0.0"}
    (slider,) = figure.layout.sliders
    second = slider.steps[1].args
    assert second[0] == {"visible": [False] * kinds + [True] * kinds}
    assert "β = 0.2" in second[1]["title.text"] and "β = 0.0" in figure.layout.title.text
    assert list(figure.layout.xaxis.ticktext) == ["base", "SFT", "1", "2"]
    assert "玉山 0% → 100%" in figure.layout.meta["alt"]
    assert film.figure(record(), film.MOUNTAIN, start="7").layout.title.text  # takes the first


def test_the_record_that_came_with_the_project_is_whole():
    shipped = film.load()
    assert set(shipped["runs"]) == set(map(str, film.BETAS))
    for question in film.KINDS:
        assert showing.alt_of(film.figure(shipped, question)).startswith("Stacked areas")


def test_a_broken_record_is_refused(tmp_path):
    with pytest.raises(LabError, match="no film at .*bench film"):
        film.load(tmp_path / "nothing.json")
    one = tmp_path / "film.json"
    changes = (
        lambda r: r["SFT"].pop(film.MOUNTAIN),
        lambda r: r["runs"]["0.2"]["kl"].pop(),
        lambda r: r["runs"]["0.2"][film.TOY_GUN][1].append(0),
        lambda r: r["base"][film.TOY_GUN].__setitem__(0, 3),
        lambda r: r["runs"].clear(),
    )
    for change in changes:
        broken = json.loads(json.dumps(record()))
        change(broken)
        one.write_text(json.dumps(broken), "utf8")
        with pytest.raises(LabError, match="no record of a film"):
            film.load(one)
    one.write_text("[1", "utf8")
    with pytest.raises(LabError, match="no record of a film"):
        film.load(one)
    one.write_text(json.dumps(record()), "utf8")
    assert film.load(one)["updates"] == 2


def test_the_record_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "UPDATES", 1)
    monkeypatch.setattr(bench, "ANSWERS", 4)
    monkeypatch.setattr(film, "BETAS", (0.0, 0.2))
    profile = config.tiny()
    profile.ppo = config.change(profile.ppo, batch_size=4, minibatch_size=4, epochs=1)
    made = bench.film_record(profile)
    file = tmp_path / "film.json"
    file.write_text(json.dumps(made), "utf8")
    assert film.load(file) == made
    assert set(made["runs"]) == {"0.0", "0.2"} and "torch" in made["versions"]
