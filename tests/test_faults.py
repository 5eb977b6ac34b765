"""Whatever comes in ends in records or in one clear sentence: fuzzed files, damaged stores, random
command lines, little memory.

A sample of each runs with the other tests; `make faults` (faults.py) sets LABKIT_FAULTS and runs
all of it. Seeds are fixed, so that what fails once fails again.
"""

import ast
import contextlib
import gzip
import inspect
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace

import faults
import pytest

from labkit import LabError, cli, config, data
from labkit.data import files
from labkit.feedback import Feedback, Store

FULL = bool(os.environ.get("LABKIT_FAULTS"))
SECONDS = 120  # that one file or one command line may take on a busy machine
LONGEST = 3_000  # characters of a sentence that anybody reads

DEMO = {"prompt": "台灣最高的山？", "response": "玉山"}
PAIR = {"prompt": "台灣最高的山？", "chosen": "玉山", "rejected": "泰山"}
HH = {name: f"\n\nHuman: Hi\n\nAssistant: {name}" for name in ("chosen", "rejected")}
VOTES = {"annotator1": 1, "annotator2": 1, "annotator3": 2}
PANDALM = {"instruction": "Do", "input": "x", "response1": "a", "response2": "b", **VOTES}
CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
ROWS = {
    data.load_demos: [DEMO, {"messages": CHAT}, {"instruction": "Q", "input": "x", "output": "A"}],
    data.load_pairs: [PAIR, HH, PANDALM, {**PAIR, "margin": 1.5, "confidence": 0.8}],
    data.load_ratings: [{**DEMO, "label": True}, {**DEMO, "label": False}],
    data.load_prompts: [{"prompt": "Q"}, {"messages": CHAT}, HH],
    data.load_text: [{"text": "Once upon a time."}, {"text": "The end."}],
    Store.load: [
        PAIR,
        {**DEMO, "label": True},
        PANDALM,
        vars(Feedback("Q", ("a", "b"), "pair", 1)),
    ],
    config.read: [{"updates": 3, "learning_rate": 1e-3}],
}
VALUES = (
    *(None, True, 0, -1, 1.5, "", " ", "\ud800", "x\udfff", "\0", [], {}, [{}], {"a": [1]}),
    *(float("nan"), float("inf"), 10**400, "x" * 10_000, [[["\ud83d"]]], {"role": "user"}),
)


def hangs(*_):
    raise AssertionError(f"this took more than {SECONDS} s")


@contextlib.contextmanager
def alarm():
    """A test that hangs fails with the traceback of where."""
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


# --- files ---------------------------------------------------------------------------------------


def turned(rng, rows) -> str:
    """Good rows as JSONL, one of them with one bad turn."""
    rows = [dict(rng.choice(rows)) for _ in range(rng.randint(1, 4))]
    row = rng.choice(rows)
    name = rng.choice(list(row))
    turn = rng.choice(("value", "missing", "twice", "digits", "deep", "good"))
    if turn == "value":
        row[name] = rng.choice(VALUES)
    elif turn == "missing":
        del row[name]
    lines = [json.dumps(one, ensure_ascii=rng.random() < 0.5) for one in rows]
    if turn == "twice":
        lines.append(f'{{"{name}": 1, "{name}": "again"}}')
    elif turn == "digits":
        lines.append(f'{{"{name}": {"9" * 5_000}}}')
    elif turn == "deep":
        lines.append("[" * 100_000)
    return rng.choice(("\n", "\r\n", "\r", "\n\n", "\u2028")).join(lines)


def spoilt(rng, raw: bytes) -> bytes:
    """Bytes with some of them lost, changed or added."""
    at, end = sorted(rng.randint(0, len(raw)) for _ in range(2))
    kind = rng.choice(("cut", "flip", "insert", "noise", "repeat"))
    return {
        "cut": raw[:at],
        "flip": raw[:at] + bytes(byte ^ 0x55 for byte in raw[at : at + 3]) + raw[at + 3 :],
        "insert": raw[:at] + rng.choice((b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf")) + raw[at:],
        "noise": rng.randbytes(rng.randint(1, 2_000)),
        "repeat": raw + raw[at:end] * rng.randint(1, 50),
    }[kind]


def odd_place(rng, path: Path, bomb: Path) -> Path:
    """Something under a path that is no plain file."""
    kind = rng.choice(
        ("pipe", "folder", "zero", "loop", "socket", "nowhere", "long", "home", "bomb")
    )
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
            made.bind(path.name)
    elif kind == "bomb":
        shutil.copy(bomb, path)
    places = {"zero": "/dev/zero", "long": path / ("x" * 5_000), "home": "~nosuchuser/mine.jsonl"}
    return Path(places.get(kind, path))


def fuzzed_file(rng, folder: Path, rows, bomb: Path, length: int) -> Path:
    """One file of some kind; length: of a long line, in characters."""
    path = folder / f"mine{rng.choice(('.jsonl', '.jsonl', '.json', '.txt', '.jsonl.gz', ''))}"
    if rng.random() < 0.15:
        return odd_place(rng, path, bomb)
    text = turned(rng, rows)
    kind = rng.choice(("plain", "plain", "encoding", "spoilt", "spoilt", "array", "gzip", "line"))
    if kind == "array":
        text = f"[{','.join(text.splitlines())}]"
    if kind == "line":
        text = json.dumps({name: "x" * length for name in rng.choice(rows)}) + "\n" + text
    coding = rng.choice(("utf-16", "utf-32", "latin1", "big5", "utf-7", "utf-8-sig"))
    raw = text.encode("utf8", "surrogatepass")
    if kind == "encoding":
        raw = text.encode(coding, "replace")
    elif kind == "spoilt":
        raw = spoilt(rng, raw)
    elif kind == "gzip":
        raw = gzip.compress(raw) if rng.random() < 0.5 else spoilt(rng, gzip.compress(raw))
    path.write_bytes(raw)
    return path


def readable(found) -> bool:
    """Whether what came in can be written out again."""
    records = found if isinstance(found, list) else []
    texts = [vars(one).values() if is_dataclass(one) else [one] for one in records]
    return all(
        text.encode("utf8") is not None for one in texts for text in one if type(text) is str
    )


def packed(megabytes: int) -> bytes:
    """So much of one letter, gzipped, as many members: one alone takes long to pack."""
    return gzip.compress(b"a" * (20 << 20)) * (megabytes // 20)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """400 MB in 400 kB."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.gz"
    path.write_bytes(packed(400))
    return path


@pytest.mark.parametrize("load", ROWS, ids=lambda one: one.__qualname__)
def test_a_fuzzed_file_is_read_or_refused(load, tmp_path, bomb, monkeypatch, record_property):
    monkeypatch.setattr(files, "room", lambda: 300_000_000)
    rng = random.Random(f"files {load.__qualname__}")
    store = Store(tmp_path / "feedback.sqlite") if load is Store.load else None
    tried, lost = 200 if FULL else 8, 0
    for number in range(tried):
        folder = tmp_path / str(number)
        folder.mkdir()
        long = 100_000_000 if FULL and number % 50 == 7 else 20_000
        path = fuzzed_file(rng, folder, ROWS[load], bomb, long)
        with contextlib.suppress(OSError):
            before = path.stat().st_size if path.is_file() else 0
        with alarm():
            try:
                given = {Store.load: (store, path), config.read: (str(path), "ppo")}
                assert readable(load(*given.get(load, (str(path),))))
            except LabError as error:
                said = str(error)
                assert 20 < len(said) < LONGEST and said[-1] in ".?!:'\"" + said[-1], said
        if path.parent == folder and path.is_file():
            lost += before - path.stat().st_size
        shutil.rmtree(folder)
    for name, value in {"tried": tried, "survived": tried, "lost": lost}.items():
        record_property(name, value)


# --- stores --------------------------------------------------------------------------------------


def test_a_damaged_store_is_named_and_rescued(tmp_path, record_property):
    """Whatever happened to the file: what opens is whole, what doesn't is named and stays as it is,
    and a rescue brings over what can be read and keeps a copy.
    """
    from labkit.feedback.rescue import rescue

    path = tmp_path / "whole.sqlite"
    with contextlib.closing(Store(path)) as store:
        said = [Feedback("台灣？", ("玉山", "泰山"), "pair", 0, note="x" * 50) for _ in range(300)]
        kept = [store.add(one) for one in said]
        undone = store.undo()
    whole, rng, tried, rescued = path.read_bytes(), random.Random("stores"), 200 if FULL else 6, 0
    for number in range(tried):
        file = tmp_path / str(number) / "feedback.sqlite"
        file.parent.mkdir()
        at = rng.randrange(len(whole))
        size = rng.choice((1, 100, 4096, 20_000))
        damage = rng.choice((b"\0", b"\xff", rng.randbytes(1))) * size
        raw = whole[:at] if rng.random() < 0.3 else whole[:at] + damage + whole[at + size :]
        file.write_bytes(raw)
        with alarm():
            try:
                with contextlib.closing(Store(file)) as store:
                    assert len(store.all()) <= 300  # SQLite has no sums: a changed letter stays
            except LabError as error:
                assert str(file) in str(error)
                assert file.read_bytes() == raw, "a damaged store is not touched"
                with contextlib.suppress(LabError):  # where nothing in it can be read
                    report = rescue(file)
                    rescued += 1
                    assert Path(report["copy"]).read_bytes() == raw
                    with contextlib.closing(Store(file)) as store:
                        found = store.all()
                    assert report["rescued"] >= len(found) > 0 and undone not in found
                    assert sum(one in kept for one in found) >= 0.9 * len(found)
    assert rescued
    for name, value in {"tried": tried, "survived": tried, "lost": 0}.items():
        record_property(name, value)


def test_a_store_that_was_cut_gives_what_it_has_left(tmp_path):
    from labkit.feedback.rescue import rescue

    path = tmp_path / "feedback.sqlite"
    with contextlib.closing(Store(path)) as store:
        kept = [
            store.add(Feedback(f"Q{i}", ("a", "b"), "pair", 0, note="x" * 50)) for i in range(300)
        ]
    with pytest.raises(LabError, match="is whole: there is nothing to rescue"):
        rescue(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(LabError, match="damaged .*Nothing in it was changed.*ratings rescue"):
        Store(path)
    report = rescue(path)
    found = Store(path).all()
    assert len(found) == report["rescued"] > 100 and all(one in kept for one in found)
    assert report["unreadable"] > 0 and Path(report["copy"]).name == "feedback.damaged-1.sqlite"
    (tmp_path / "other.sqlite").write_bytes(b"x")
    for name in ("other.sqlite", "none.sqlite"):
        with pytest.raises(LabError):
            rescue(tmp_path / name)


# --- command lines -------------------------------------------------------------------------------

WORDS = (
    *("", " ", "0", "-1", "1", "2.5", "1e999", "nan", "-inf", str(10**30), "yes", "None", "atlas"),
    *("~nosuchuser/x", "../../escaped", "/dev/zero", "/dev/full/x", "玉山", "🙂", "\udcff", "a\0b"),
    *("x" * 100_000, "--", "-", "-h", "--json", "--no-such", "--seed", "=", "[", "{}", "\x1b[31m"),
    *("owner/name", "owner/name:train", "shipped/sft", "sft-001", "tiny", "gpu", "thumb", "merged"),
)


def every_verb(table=cli.VERBS, before=()):
    for name, verb in table.items():
        if isinstance(verb, dict):
            yield from every_verb(verb, (*before, name))
        else:
            yield (*before, name), verb


def alone(words, verb) -> dict:
    """The table of verbs with this one and next to nothing else: a whole one takes half a second to
    parse by.
    """
    for word in reversed(words):
        verb = {word: verb, "no-more": lambda: {}}
    return verb


def options_of(verb) -> list[str]:
    """The names of a verb's options, its settings' among them."""
    names = []
    for name, parameter in inspect.signature(verb).parameters.items():
        kind = parameter.annotation
        names += [f.name for f in fields(kind)] if is_dataclass(kind) else [name]
    return [f"--{name.replace('_', '-')}" for name in names] + ["--config", "--data", "--json"]


def command_line(rng, words, verb) -> list[str]:
    line = list(words[: rng.choice((len(words),) * 9 + (1,))])
    for _ in range(rng.randint(0, 4)):
        if rng.random() < 0.7:
            line += [rng.choice(options_of(verb)), rng.choice(WORDS)]
        else:
            line.append(rng.choice(WORDS))
    return line


@pytest.fixture
def idle(empty_runs, monkeypatch, tmp_path):
    """Nothing is trained, loaded or measured: what stands before that is tried."""
    from labkit import bench, models, series, stages
    from labkit.bench import gpu, ppo

    def nothing(*_, **__):
        raise LabError("This is only a try: nothing is trained or loaded.")

    monkeypatch.setattr(stages, "module", lambda _: SimpleNamespace(train=nothing))
    for name in ("load_base", "load_policy", "export"):
        monkeypatch.setattr(models, name, nothing)
    monkeypatch.setattr(series, "run", nothing)
    for name in ("series", "pretrain", "feedback", "rollout", "film_record"):
        monkeypatch.setattr(bench, name, nothing, raising=False)
    monkeypatch.setattr("labkit.bench.reruns.reruns", nothing)
    monkeypatch.setattr(ppo, "compare", nothing)
    monkeypatch.setattr(gpu, "gpu", nothing)
    monkeypatch.setattr("labkit.labs.jobs.measure", nothing)
    for lab in cli.RECORDS:
        jobs = __import__(f"labkit.labs.{lab}_jobs", fromlist=["measure"])
        monkeypatch.setattr(jobs, "measure", nothing)
    monkeypatch.setattr("builtins.input", lambda _: (_ for _ in ()).throw(EOFError))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_a_random_command_line_ends_in_a_sentence_or_usage(
    idle, capsys, monkeypatch, record_property
):
    rng, tried = random.Random("command lines"), 0
    for words, verb in [*every_verb()]:
        monkeypatch.setattr(cli, "VERBS", alone(words, verb))
        for _ in range(200 if FULL else 2):
            line, tried = command_line(rng, words, verb), tried + 1
            with alarm():
                try:
                    code = cli.main(line)
                except SystemExit as stopped:
                    code = stopped.code
            out, err = capsys.readouterr()
            shown = ascii(line)[:500]
            assert code in (0, 1, 2) and "Traceback" not in out + err, shown
            if code == 1:
                *_, last = err.rstrip("\n").split("\n")
                assert last.startswith("labkit: ") and len(last) < LONGEST, shown
                assert out == "", shown
    made = {path.name for path in idle.iterdir()}
    assert made <= {"here", "runs"}, "nothing is written beside the folders that were named"
    record_property("tried", tried)
    record_property("survived", tried)


# --- little memory -------------------------------------------------------------------------------

LITTLE = """
import gzip, json, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, (1_500_000_000,) * 2)
from labkit import LabError, config, data, runs, stages
from labkit.feedback import Store
folder = Path(sys.argv[1])
def told(name, call):
    try:
        print(name, "read", len(call()))
    except LabError as error:
        print(name, "refused:", error)
for name in ("bomb.gz", "line.jsonl"):
    told(name, lambda: data.load_text(str(folder / name)))
Store(folder / "feedback.sqlite").close()
cfg = config.Pretrain(vocab_size=400, hidden_size=32, intermediate_size=64, layers=1, heads=2,
    steps=3, batch_size=4, corpus=str(folder / "tales.txt"), validation_fraction=0.2, warmup=1)
with runs.start("pretrain", cfg) as run:
    stages.module("pretrain").train(cfg, run)
print("trained", run.name, flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA is Linux's")
def test_in_little_memory_it_goes_on_or_says_so(tmp_path, record_property):
    (tmp_path / "bomb.gz").write_bytes(packed(2_000))
    (tmp_path / "line.jsonl").write_text(json.dumps({"text": "x" * 100_000_000}))
    (tmp_path / "tales.txt").write_text(
        "\n\n".join(f"The fox saw {i} trees." * 20 for i in range(50))
    )
    found = subprocess.run(
        [sys.executable, "-c", LITTLE, str(tmp_path)],
        env=os.environ | {"LABKIT_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    said = found.stdout + found.stderr
    assert found.returncode == 0, said[-3_000:]
    assert "bomb.gz refused: " in said and "more than this machine has memory for" in said
    assert "line.jsonl read 1" in said and "trained pretrain-001" in said
    record_property("tried", 4)
    record_property("survived", 4)


# --- the table -----------------------------------------------------------------------------------


def test_every_row_of_the_table_names_tests_that_exist(tmp_path):
    rows = faults.rows()
    assert len(rows) > 15
    assert faults.missing(rows) == []
    wrong = tmp_path / "faults.md"
    here = "tests/test_faults.py::"
    wrong.write_text(
        f"| row | tried | how many | test |\n| --- | --- | --- | --- |\n"
        f"| a | b | 1 | `{here}test_that_nobody_wrote` |\n| c | d | 1 | nothing |\n"
        f"| e | f | 1 | `tests/test_no_such_file.py::test_x` |\n"
    )
    assert [row.name for row, _ in faults.missing(faults.rows(wrong))] == ["a", "c", "e"]


def test_every_promise_of_security_names_tests_that_exist(tmp_path):
    text = (faults.ROOT / "SECURITY.md").read_text("utf8")
    promises = faults.promises(text)
    assert len(promises) >= 8
    assert [one for one in promises if not one.tests] == []
    assert faults.missing(promises) == []
    assert faults.missing(faults.promises("- **It is safe.** Held by `tests/test_faults.py::no`."))


# --- what SECURITY.md promises and nothing else holds ---------------------------------------------

CALLS = {"urllib", "http", "socket", "requests", "httpx", "aiohttp", "ftplib", "smtplib"}
# A file of judgements that a learner names by its address; whether a port of this machine is free.
ASKS = {"labs/wrong_judges/annotators.py", "doctor.py"}


def test_nothing_of_ours_calls_out():
    """Ratings and runs stay here: no module of labkit has a line to the network."""
    found = set()
    for file in (faults.ROOT / "labkit").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if CALLS & {name.split(".")[0] for name in names}:
                found.add(file.relative_to(faults.ROOT / "labkit").as_posix())
    assert found == ASKS
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"  # TRL's trainers would tell the Hub


def test_jupyterlab_keeps_its_token_and_its_address():
    """`make lab` turns neither off, and what JupyterLab does by itself is to have both."""
    from jupyter_server.auth.identity import IdentityProvider
    from jupyter_server.serverapp import ServerApp

    told = (faults.ROOT / "Makefile").read_text("utf8")
    (started,) = re.findall(r"jupyter lab (.+)", told)
    assert started == "$(AS_ROOT) $(LAB_ARGS) notebooks/00_start_here.ipynb"
    assert re.findall(r"^LAB_ARGS \?=(.*)$", told, re.M) == [""]
    others = {".venv", "build"}  # the environment's packages
    settings = faults.ROOT.glob("**/jupyter_*config*")
    assert not [file for file in settings if not others & {*file.parts}]
    assert ServerApp.ip.default_value in ("localhost", "127.0.0.1")
    assert len(IdentityProvider().token) >= 32


# --- odd places ----------------------------------------------------------------------------------

ODD = """
import time
from labkit import LabError, config, data, runs, stages
from labkit.feedback import Feedback, Store
now = time.time
time.time = lambda: now() - 30 * 365 * 86_400
store = Store()
store.add(Feedback("台灣？", ("玉山", "泰山"), "pair", 0))
print(store.load(store.export("out 出 📦")["ratings"]), len(store))
cfg = config.Pretrain(vocab_size=400, hidden_size=32, intermediate_size=64, layers=1, heads=2,
    steps=3, batch_size=4, corpus="tales 故事.txt", validation_fraction=0.2, warmup=1)
with runs.start("pretrain", cfg, "台灣-1") as run:
    stages.module("pretrain").train(cfg, run)
print("trained", run.name, runs.latest("pretrain", "台灣-1").name)
try:
    data.load_text("~/tales.txt")
except LabError as error:
    print("refused:", error)
"""


def test_without_a_home_in_odd_folders_with_a_wrong_clock(tmp_path):
    folder = tmp_path / "a folder 資料夾 🗂"
    folder.mkdir()
    (folder / "tales 故事.txt").write_text(
        "\n\n".join(f"The fox saw {i} trees." * 20 for i in range(50))
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "HF_HOME")}
    found = subprocess.run(
        [sys.executable, "-c", ODD],
        env=kept | {"LABKIT_RUNS": str(folder / "my runs"), "PYTHONIOENCODING": "utf8"},
        cwd=folder,
        capture_output=True,
        encoding="utf8",
        timeout=600,
    )
    assert found.returncode == 0, (found.stdout + found.stderr)[-3_000:]
    assert "0 1\n" in found.stdout and "trained 台灣-1 台灣-1" in found.stdout
    assert "refused: " in found.stdout
