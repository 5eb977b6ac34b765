"""The ways to install agree: pyproject.toml, requirements.lock, environment.yml and binder/ give
the same.
"""

import importlib.metadata
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CUDA = re.compile(r"^(nvidia|cuda|triton)")  # torch's Linux build from PyPI brings these by itself
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))


def read_pins(path: Path) -> dict[str, Requirement]:
    """Requirements of a pip file by canonical name, `-r` followed from the file's own folder, as
    pip does. A line that is neither one nor says where to look is an InvalidRequirement.
    """
    pins = {}
    for line in path.read_text("utf8").splitlines():
        line = line.split("#", 1)[0].strip()
        if line.startswith("-r "):
            pins |= read_pins(path.parent / line.removeprefix("-r "))
        elif line and not line.startswith("--extra-index-url "):
            requirement = Requirement(line)
            pins[canonicalize_name(requirement.name)] = requirement
    return pins


LOCK = read_pins(ROOT / "requirements.lock")


def hashed(text: str) -> dict[str, set[str]]:
    """{name==version: its hashes} of a pip file with --hash; pip asks for one of them."""
    lines = text.replace("\\\n", " ").splitlines()
    return {
        line.split()[0]: set(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line))
        for line in lines
        if "==" in line
    }


def test_every_pin_but_torch_has_its_hashes():
    """pip takes none of these files when its bytes are others than when the lock was made."""
    found = hashed((ROOT / "requirements.hashes").read_text("utf8"))
    pins = {f"{pin.name}{pin.specifier}" for name, pin in LOCK.items() if name != "torch"}
    assert set(found) == pins and all(found.values())
    assert hashed("a==1 \\\n    --hash=sha256:" + "0" * 64 + "\nb==2\n") == {
        "a==1": {"0" * 64},
        "b==2": set(),
    }


def portable(pin: Requirement) -> bool:
    """One exact release from a registry: no folder or address of anyone's, no build of one machine
    (torch 2.13.0+cpu satisfies ==2.13.0), no CUDA package, and not us.
    """
    exact = re.fullmatch(r"==[\w.]+", str(pin.specifier)) and "*" not in str(pin.specifier)
    return bool(exact and not CUDA.match(pin.name) and pin.name not in ("labkit", "rlhf-labkit"))


def stranger_installs(text: str) -> list[str]:
    """Install commands that name `labkit` alone, which on PyPI is a stranger's package."""
    text = re.sub(r"\\\s*\n", " ", text)
    client = r"\b(?:pip3?|pipx|uv|conda|mamba|poetry)\b"
    commands = re.findall(client + r"[^\n;|&]*?\b(?:install|add)\b[^\n;|&]*", text)
    named = re.compile(r"""(?<![\w./-])labkit(?![\w./-]|\s*[@:])""")
    return [command.strip() for command in commands if named.search(command)]


def text_of(path: Path) -> str:
    """A file's text; of a notebook, its cells' sources."""
    text = path.read_text("utf8")
    if path.suffix == ".ipynb":
        return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text


# --- what is pinned ------------------------------------------------------------------------------


def test_the_lock_is_exact_and_portable():
    assert len(LOCK) > 100 and not [str(pin) for pin in LOCK.values() if not portable(pin)]


@pytest.mark.parametrize(
    "line",
    [
        "tqdm>=4.70",
        "tqdm",
        "tqdm==4.*",
        "tqdm==4.70.1,<5",
        "torch==2.13.0+cpu",
        "torch @ file:///opt/torch.whl",
        "nvidia-cublas==13.1.1.3 ; sys_platform == 'linux'",
        "labkit==0.1.0",
    ],
)
def test_a_line_that_is_not_portable_is_seen(line):
    assert not portable(Requirement(line)) and portable(Requirement("six==1.17.0"))


def test_every_direct_dependency_is_a_range_that_holds_its_pin():
    extras = PROJECT["project"]["optional-dependencies"]
    for line in PROJECT["project"]["dependencies"] + extras["lab"] + extras["dev"]:
        wanted = Requirement(line)
        (pin,) = LOCK[canonicalize_name(wanted.name)].specifier
        assert pin.version in wanted.specifier and "==" not in line, line
    for line in PROJECT["build-system"]["requires"]:  # `make` installs without build isolation
        assert canonicalize_name(Requirement(line).name) in LOCK


def test_conda_and_binder_install_the_lock():
    """conda gives Python alone, of a version we support; pip gives the lock and this checkout."""
    supported = Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    python, *rest = yaml.safe_load(text_of(ROOT / "environment.yml"))["dependencies"]
    assert python.removeprefix("python=") in supported
    assert rest == ["pip", {"pip": ["-r requirements.lock", "-e ."]}]
    binder = ROOT / "binder"
    assert lines_of(binder / "requirements.txt") == [
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        "-c ../requirements.lock",
        "-e .[lab,go]",
    ]
    assert text_of(binder / "runtime.txt").strip().removeprefix("python-") in supported
    # Any other file there (an environment.yml, a Dockerfile) would be built instead.
    assert {file.name for file in binder.iterdir()} == {"requirements.txt", "runtime.txt"}


def lines_of(path: Path) -> list[str]:
    """The lines of a file of pip's without comments."""
    found = (line.split("#", 1)[0].strip() for line in path.read_text("utf8").splitlines())
    return [line for line in found if line]


def test_the_dev_container_is_that_of_make():
    """It has no pins of its own: `make install` in a container of a Python that we support."""
    text = text_of(ROOT / ".devcontainer/devcontainer.json")
    about = json.loads("\n".join(line for line in text.splitlines() if line[:2] != "//"))
    python = re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:(3\.\d+)-\w+", about["image"])
    assert python[1] in Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    assert about["postCreateCommand"] == "make install"
    assert about["containerEnv"]["PIP_EXTRA_INDEX_URL"].endswith("/whl/cpu")
    for opened in about["customizations"]["codespaces"]["openFiles"]:
        assert (ROOT / opened).exists()


def test_this_environment_is_the_lock_and_lacks_nothing():
    for name, pin in LOCK.items():
        if pin.marker and not pin.marker.evaluate():
            continue
        installed = importlib.metadata.distribution(name)
        assert Version(installed.version) in pin.specifier, f"{pin} is {installed.version} here"
        for needed in map(Requirement, installed.requires or []):
            applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
            known = canonicalize_name(needed.name) in LOCK or CUDA.match(needed.name)
            assert known or not applies, f"{name} needs {needed}, which the lock lacks"


def test_ci_runs_the_tests_of_the_makefile():
    runner = ROOT / ".ci/run"
    assert runner.stat().st_mode & stat.S_IXUSR
    text = text_of(runner)
    assert text.rstrip().endswith("\nmake test") and "set -euo pipefail" in text
    job = yaml.safe_load(text_of(ROOT / ".github/workflows/test.yml"))["jobs"]["test"]
    assert {"run": ".ci/run"} in job["steps"]


# --- a stranger's labkit -------------------------------------------------------------------------


def test_no_file_installs_a_strangers_labkit():
    skip = {"runs", "build", "dist", "__pycache__"}
    kinds = {".md", ".ipynb", ".py", ".toml", ".yml", ".yaml", ".txt", ".lock", ".sh", ".cfg", ""}
    read = 0
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            f for f in folders if f in (".ci", ".github") or f not in skip and not f.startswith(".")
        ]
        for path in (Path(folder, f) for f in files):
            small = path.suffix in kinds and path.stat().st_size < 5e6
            if small and path != Path(__file__).resolve():
                read += 1
                assert stranger_installs(text_of(path)) == [], path
    assert read > 10


@pytest.mark.parametrize(
    "command",
    [
        "!pip install -q labkit",
        "%pip install 'labkit[dev]'",
        "python3 -m pip install numpy labkit==0.1",
        "pip install \\\n    labkit",
        '[sys.executable, "-m", "pip", "install", "labkit"]',
        "uv add labkit",
        "conda install -c conda-forge labkit",
    ],
)
def test_a_strangers_labkit_is_seen(command):
    assert len(stranger_installs(command)) == 1


@pytest.mark.parametrize(
    "command",
    [
        "pip install 'rlhf-labkit[dev]'",
        "pip install -e .",
        "pip install git+https://example.org/someone/labkit.git",
        "pip install -r requirements.lock; python -m labkit run",
        "pip install ./labkit",
    ],
)
def test_our_own_install_commands_pass(command):
    assert stranger_installs(command) == []


# --- the wheel -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs Python with the wheel alone, away from the checkout."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site)}

    def python(*arguments):
        command = [sys.executable, "-P", *arguments]
        how = {"cwd": site, "env": environment, "capture_output": True, "text": True}
        return subprocess.run(command, **how)

    return python


def test_the_wheel_holds_labkit_and_its_data(wheel, installed):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"labkit"}
    assert {"labkit/_data/README.md", "labkit/_data/tang/quatrains.txt.gz"} <= names
    code = "import labkit, os; print(os.path.relpath(labkit.__file__), labkit.__version__)"
    file, version = installed("-c", code).stdout.split()
    assert file == os.path.join("labkit", "__init__.py")
    assert wheel.name.startswith(f"rlhf_labkit-{version}-")


@pytest.mark.parametrize("bench", ["series", "ppo", "gpu"])
def test_the_benches_stay_in_the_repository(wheel, installed, bench):
    names = zipfile.ZipFile(wheel).namelist()
    assert [n for n in names if n.startswith("labkit/bench/")] == ["labkit/bench/__init__.py"]
    done = installed("-m", "labkit", "bench", bench, "--json")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "clone" in done.stderr


# --- make ----------------------------------------------------------------------------------------

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run make as from a shell: without what an outer make (of `make test`) hands down to its
    children.
    """
    handed_down = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTEST_ARGS", "NOTEBOOKS")
    environment = {k: v for k, v in os.environ.items() if k not in handed_down}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def bare_checkout(tmp_path) -> Path:
    for name in ("Makefile", "requirements.lock", "requirements.hashes", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@needs_make
def test_make_alone_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", text_of(ROOT / "Makefile"), re.M)[1].split()
    assert sorted(re.findall(r"^make (\S+)", make().stdout, re.M)) == sorted(phony)


@needs_make
def test_make_refuses_a_missing_or_an_old_python(bare_checkout):
    old = bare_checkout / "python3.10"  # the same interpreter that says it is 3.10
    says = "import sys; sys.version_info = (3, 10); $2"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{says}"\n')
    old.chmod(0o755)
    for python, told in (("no-such-python", "Install Python 3.11"), (old, "needs Python 3.11")):
        shown = make("lab", f"PYTHON={python}", cwd=bare_checkout)
        assert shown.returncode != 0 and told in shown.stdout
        assert not (bare_checkout / ".venv").exists()


@needs_make
def test_make_installs_once_until_the_lock_changes(bare_checkout):
    stamp = bare_checkout / ".venv/.ready"
    stamp.parent.mkdir()
    stamp.touch()
    for name in ("requirements.lock", "requirements.hashes", "pyproject.toml"):
        os.utime(bare_checkout / name, (1, 1))
    assert "pip install" not in make("-n", "test", cwd=bare_checkout).stdout
    os.utime(bare_checkout / "requirements.lock", (2**32, 2**32))
    said = make("-n", "test", cwd=bare_checkout).stdout
    assert "pip install --no-deps --require-hashes -r requirements.hashes" in said
