"""Every check of the doctor is shown something wrong, and something right."""

import json
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from labkit import cli, doctor

RIGHT = {"torch": "2.13.0+cpu", "ipywidgets": "8.1.9", "jupyterlab": "4.6.6", "anywidget": "0.11"}
LINES = (
    "torch<3,>=2.6",
    "ipywidgets<9,>=8.0",
    "anywidget<1,>=0.9.13",
    'jupyterlab<5,>=4.2; extra == "lab"',
    'ruff; extra == "dev"',
)


def said(findings, part: str, wrong: str, mend: str, stops: bool):
    """There is one finding, and it is this one."""
    [one] = findings
    assert one.part == part and re.search(wrong, one.wrong) and mend in one.mend, one
    assert one.stops == stops and "\n" not in one.wrong + one.mend


def versions(**others):
    """What metadata.version would say; None: not installed."""

    def version(name):
        found = (RIGHT | others).get(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    return version


def test_what_is_here_and_new_enough_is_passed_over():
    assert list(doctor.packages(LINES, versions())) == []


@pytest.mark.parametrize(
    "name, found, wrong",
    [
        ("torch", "2.5.1", "2.5.1 is here, not <3,>=2.6"),
        ("torch", "3.0", "3.0 is here"),
        ("torch", None, "not installed"),
        ("jupyterlab", "3.6.8", "3.6.8 is here"),
        ("jupyterlab", None, "not installed"),
        ("ipywidgets", "7.7.1", "7.7.1 is here"),
        ("anywidget", None, "not installed"),
    ],
)
def test_a_package_that_is_missing_or_too_old_stops(name, found, wrong):
    findings = doctor.packages(LINES, versions(**{name: found}))
    said(findings, name, wrong, f'-m pip install "{name}<', True)


def test_colab_is_not_asked_for_jupyterlab(monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab_2026")
    assert list(doctor.packages(LINES, versions(jupyterlab=None))) == []
    assert list(doctor.widgets([])) == []


def test_a_labkit_that_is_not_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    said(doctor.packages(), "labkit", "not installed", "pip install -e .", True)


@pytest.mark.parametrize("missing", doctor.WIDGETS)
def test_a_jupyterlab_that_shows_no_panels(tmp_path, missing):
    for name in doctor.WIDGETS:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "package.json").write_text("{}")
    assert list(doctor.widgets([tmp_path / "nowhere", tmp_path])) == []
    (tmp_path / missing / "package.json").unlink()
    said(doctor.widgets([tmp_path]), "widgets", missing, "--force-reinstall", True)


@pytest.mark.parametrize(
    "build, card, driver, wrong",
    [
        ("12.8", False, False, "no NVIDIA driver"),
        ("12.8", False, True, "this driver can't serve"),
        (None, False, True, "the CPU build, and there is an NVIDIA card"),
    ],
)
def test_a_torch_that_does_not_suit_the_machine(build, card, driver, wrong):
    said(doctor.torch(build, card, driver), "torch", wrong, "--force-reinstall torch", False)


def test_a_torch_that_suits_the_machine():
    assert not [*doctor.torch(None, False, False), *doctor.torch("12.8", True, True)]


def test_little_disk():
    assert list(doctor.disk(3)) == []
    said(doctor.disk(1.5), "disk", r"1\.5 GB are free", "LABKIT_RUNS", False)
    said(doctor.disk(0.1), "disk", r"0\.1 GB are free", "LABKIT_RUNS", True)


def test_little_memory():
    assert list(doctor.memory(4)) == []
    said(doctor.memory(1.5), "memory", r"1\.5 GB are free", "Shut Down All Kernels", False)
    said(doctor.memory(0.7), "memory", r"0\.7 GB", "Shut Down All Kernels", True)


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    assert doctor.allowed(tmp_path) == float("inf")
    (tmp_path / "memory.current").write_text("1500000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.allowed(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("2000000000\n")
    assert doctor.allowed(tmp_path) == 5e8
    old = tmp_path / "old/memory"
    old.mkdir(parents=True)
    for name, size in (("limit", 3), ("usage", 1)):
        (old / f"memory.{name}_in_bytes").write_text(f"{size}")
    assert doctor.allowed(tmp_path / "old") == 2
    monkeypatch.setattr(doctor, "allowed", lambda: 5e8)
    said(doctor.memory(), "memory", r"0\.5 GB are free", "Kernel", True)


def test_a_busy_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        assert list(doctor.port(number)) == []  # bound, and nobody listens
        taken.listen()
        said(doctor.port(number), "port", f"{number} is in use", f"--port {number + 1}", False)
    assert list(doctor.port(number)) == []


def test_a_runs_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "not/yet"))
    assert list(doctor.folder()) == []
    assert not (tmp_path / "not").exists()  # only looked at
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABKIT_RUNS", str(tmp_path / "file"))
    said(doctor.folder(), "runs", "can't be written", "LABKIT_RUNS", True)


def test_a_slow_path_for_four_bits():
    assert list(doctor.four_bits(True, "AVX512", "x86_64")) == []
    assert list(doctor.four_bits(True, "DEFAULT", "arm64")) == []
    said(doctor.four_bits(True, "AVX2", "AMD64"), "4-bit", "AVX2, not AVX-512", "=tiny", False)
    said(doctor.four_bits(False, "AVX512", "x86_64"), "4-bit", "library", "bitsandbytes", False)


def test_the_verb_says_it_and_its_exit_status_too(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", (doctor.folder,))
    assert cli.main(["doctor"]) == 0
    assert "The labs can run here. (Looked at: folder.)" in capsys.readouterr().out

    def ill():
        yield doctor.Finding("port", "it is busy", "another", stops=False)
        yield doctor.Finding("runs", "no place", "make room")

    monkeypatch.setattr(doctor, "CHECKS", (ill,))
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "note  port: it is busy\n      → another" in text
    assert "STOPS  runs: no place\n      → make room" in text
    assert cli.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False and report["findings"][1]["mend"] == "make room"


def test_a_check_that_cannot_look_is_passed_over_where_the_reason_was_said(monkeypatch):
    def lacking():
        raise ModuleNotFoundError("No module named 'torch'")
        yield

    def missing():
        yield doctor.Finding("torch", "it is not installed", "pip")

    monkeypatch.setattr(doctor, "CHECKS", (missing, lacking))
    assert [one["part"] for one in doctor.doctor()["findings"]] == ["torch"]
    monkeypatch.setattr(doctor, "CHECKS", (lacking,))
    with pytest.raises(ModuleNotFoundError):
        doctor.doctor()


def test_this_machine_is_looked_at_as_it_is(tmp_path):
    """In a fresh process: every check runs, and nothing is written."""
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    script += "from labkit.cli import main; sys.exit(main(['doctor', '--json']))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    report = json.loads(done.stdout)
    assert report["checked"] == [check.__name__ for check in doctor.CHECKS], done.stderr
    assert done.returncode == (not report["ok"]) and not list(tmp_path.iterdir())
