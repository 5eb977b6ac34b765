"""The ways to install agree: pyproject.toml, requirements.lock, environment.yml and binder/ give
the same.
 The checks are functions that return a list of complaints, so that each can be tried on something
wrong too.
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
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CUDA = re.compile(r"^(nvidia|cuda|triton)")  # torch's Linux build from PyPI brings these by itself

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


# --- the checks -----------------------------------------------------------------------------------


def read_pins(path: Path) -> dict[str, Requirement]:
    """Requirements of a pip file by canonical name, `-r` followed from the file's own folder, as
    pip does.

    Lines that only say where to look (`--extra-index-url URL`) are passed over; all others are
    requirements.
    """
    pins = {}
    for line in path.read_text(encoding="utf8").splitlines():
        line = line.split("#", 1)[0].strip()
        if line.startswith(("-r ", "--requirement ")):
            pins.update(read_pins(path.parent / line.split(None, 1)[1]))
        elif line and not line.startswith("--extra-index-url "):
            requirement = Requirement(line)
            pins[canonicalize_name(requirement.name)] = requirement
    return pins


def version_of(pin: Requirement) -> Version | None:
    """The one version of an exact pin, or None."""
    spec, *more = list(pin.specifier) or [None]
    exact = spec and not more and spec.operator == "==" and not spec.version.endswith(".*")
    return Version(spec.version) if exact else None


def lock_complaints(pins: dict[str, Requirement]) -> list[str]:
    """A lock holds exact versions from a registry, no folder or address of anyone's, and no CUDA
    package.
    """
    found = []
    for name, pin in pins.items():
        if pin.url:
            found.append(f"{name} comes from {pin.url}")
        elif version_of(pin) is None:
            found.append(f"{pin} is not one exact version")
        elif version_of(pin).local:
            found.append(f"{pin} is a build of one machine")
        if CUDA.match(name):
            found.append(f"{name} is torch's business")
        if name in ("labkit", "rlhf-labkit"):
            found.append(f"{name} would come from PyPI instead of this checkout")
    return found


def range_complaints(pyproject: dict, pins: dict[str, Requirement]) -> list[str]:
    """Each direct dependency is pinned within its range, and is a range: Colab keeps the torch it
    has.
    """
    found = []
    project = pyproject["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        pin = pins.get(canonicalize_name(wanted.name))
        if version_of(wanted):
            found.append(f"{line} is an exact pin; exact pins belong in the lock")
        if pin is None:
            found.append(f"{wanted.name} is not in the lock")
        elif version_of(pin) not in wanted.specifier:
            found.append(f"{pin} is outside {line}")
    return found


def conda_complaints(
    environment: dict, requires_python: str, folder: Path, lock: dict[str, Requirement]
) -> list[str]:
    """conda gives Python alone, of a version we support; pip gives the lock and this checkout."""
    found = []
    conda = [d for d in environment["dependencies"] if isinstance(d, str)]
    pip = [line for d in environment["dependencies"] if isinstance(d, dict) for line in d["pip"]]
    python = [d.removeprefix("python=") for d in conda if d.startswith("python=")]
    if not python or python[0] not in Requirement(f"python{requires_python}").specifier:
        found.append(f"python {python} is not {requires_python}")
    found += [
        f"conda installs {d} past the lock" for d in conda if not re.match(r"(python=|pip$)", d)
    ]
    pins = {}
    for line in pip:
        if line.startswith("-r "):
            pins.update(read_pins(folder / line.removeprefix("-r ")))
        elif line != "-e .":
            found.append(f"pip installs {line} past the lock")
    return found + same_pins_complaints(pins, lock)


def same_pins_complaints(pins: dict[str, Requirement], lock: dict[str, Requirement]) -> list[str]:
    return [
        f"{pins.get(name, name + ' (nothing)')} where the lock has {lock.get(name, 'nothing')}"
        for name in sorted(pins.keys() | lock.keys())
        if pins.get(name) != lock.get(name)
    ]


def installed_complaints(pins: dict[str, Requirement]) -> list[str]:
    """Where the lock is installed: the versions are the lock's, and it lacks nothing that they
    need.
    """
    found = []
    for name, pin in pins.items():
        if pin.marker and not pin.marker.evaluate():
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{pin} is not installed")
            continue
        if (
            Version(distribution.version) not in pin.specifier
        ):  # torch 2.13.0+cpu satisfies ==2.13.0
            found.append(f"{pin} is installed as {distribution.version}")
        for line in distribution.requires or []:
            needed = Requirement(line)
            applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
            if (
                applies
                and canonicalize_name(needed.name) not in pins
                and not CUDA.match(needed.name)
            ):
                found.append(f"{name} needs {line}, which the lock lacks")
    return found


def stranger_installs(text: str) -> list[str]:
    """Install commands that name `labkit` alone, which on PyPI is a stranger's package."""
    text = re.sub(r"\\\s*\n", " ", text)
    commands = re.findall(
        r"\b(?:pip3?|pipx|uv|conda|mamba|poetry)\b[^\n;|&]*?\b(?:install|add)\b[^\n;|&]*", text
    )
    named = re.compile(r"""(?<![\w./-])labkit(?![\w./-]|\s*[@:])""")
    return [command.strip() for command in commands if named.search(command)]


def text_of(path: Path) -> str:
    """A file's text; of a notebook, its cells' sources."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".ipynb":
        return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text


# --- this repository ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))


@pytest.fixture(scope="module")
def lock() -> dict[str, Requirement]:
    return read_pins(ROOT / "requirements.lock")


def test_the_lock_is_exact_and_portable(lock):
    assert len(lock) > 100 and lock_complaints(lock) == []
    assert str(lock["torch"]) == "torch==2.13.0"  # so that 2.13.0+cpu satisfies it


def test_every_direct_dependency_is_pinned_within_its_range(pyproject, lock):
    assert range_complaints(pyproject, lock) == []


def test_build_backend_is_in_the_lock(pyproject, lock):
    """`make` installs the checkout without build isolation, hence without the network."""
    for line in pyproject["build-system"]["requires"]:
        assert canonicalize_name(Requirement(line).name) in lock


def test_environment_yml_installs_the_lock(pyproject, lock):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf8"))
    assert conda_complaints(environment, pyproject["project"]["requires-python"], ROOT, lock) == []


def test_binder_installs_the_lock_with_torch_for_cpu(pyproject, lock):
    assert same_pins_complaints(read_pins(ROOT / "binder/requirements.txt"), lock) == []
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in text_of(
        ROOT / "binder/requirements.txt"
    )
    runtime = text_of(ROOT / "binder/runtime.txt").strip().removeprefix("python-")
    assert runtime in Requirement(f"python{pyproject['project']['requires-python']}").specifier
    post_build = ROOT / "binder/postBuild"
    assert "--no-deps" in text_of(post_build) and post_build.stat().st_mode & stat.S_IXUSR


def test_this_environment_is_the_lock(lock):
    assert installed_complaints(lock) == []


def test_no_file_installs_a_strangers_labkit():
    skip = {"runs", "build", "dist", "__pycache__"}
    kinds = {".md", ".ipynb", ".py", ".toml", ".yml", ".yaml", ".txt", ".lock", ".sh", ".cfg", ""}
    read = 0
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            f for f in folders if f in (".ci", ".github") or f not in skip and not f.startswith(".")
        ]
        for path in (Path(folder, f) for f in files):
            if (
                path.suffix in kinds
                and path.stat().st_size < 5e6
                and path != Path(__file__).resolve()
            ):
                read += 1
                assert stranger_installs(text_of(path)) == [], path
    assert read > 10


def test_ci_runs_the_tests_of_the_makefile(pyproject):
    runner = ROOT / ".ci/run"
    assert runner.stat().st_mode & stat.S_IXUSR
    assert text_of(runner).rstrip().endswith("\nmake test") and "set -euo pipefail" in text_of(
        runner
    )
    job = yaml.safe_load(text_of(ROOT / ".github/workflows/test.yml"))["jobs"]["test"]
    assert {"run": ".ci/run"} in job["steps"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_labkit_and_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith("rlhf_labkit-")
    assert "labkit/__init__.py" in names
    assert {"labkit/_data/README.md", "labkit/_data/tang/quatrains.txt.gz"} <= set(names)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"labkit"}


def test_the_wheel_imports_from_anywhere(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import labkit; print(labkit.__file__); print(labkit.__version__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    output = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    file, version = output.splitlines()
    assert file.startswith(str(tmp_path)) and f"-{version}-" in wheel.name


# --- make -----------------------------------------------------------------------------------------


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run make as from a shell: without what an outer make (of `make test`) hands down to its
    children.
    """
    handed_down = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTEST_ARGS", "NOTEBOOKS")
    environment = {k: v for k, v in os.environ.items() if k not in handed_down}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@needs_make
def test_make_alone_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", text_of(ROOT / "Makefile"), re.M)[1].split()
    shown = make()
    assert shown.returncode == 0
    assert sorted(re.findall(r"^make (\S+)", shown.stdout, re.M)) == sorted(phony)


@pytest.fixture
def bare_checkout(tmp_path) -> Path:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@needs_make
def test_make_names_a_missing_python(bare_checkout):
    shown = make("lab", "PYTHON=no-such-python", cwd=bare_checkout)
    assert shown.returncode != 0 and not (bare_checkout / ".venv").exists()
    assert "There is no `no-such-python` here. Install Python 3.11 or newer" in shown.stdout


@needs_make
def test_make_refuses_an_old_python(bare_checkout):
    old = bare_checkout / "python3.10"  # the same interpreter that says it is 3.10
    old.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.version_info = (3, 10); $2"\n'
    )
    old.chmod(0o755)
    shown = make("lab", f"PYTHON={old}", cwd=bare_checkout)
    assert shown.returncode != 0 and not (bare_checkout / ".venv").exists()
    assert "needs Python 3.11 or newer, and" in shown.stdout and "is older" in shown.stdout


@needs_make
def test_make_installs_once_until_the_lock_changes(bare_checkout):
    stamp = bare_checkout / ".venv/.ready"
    stamp.parent.mkdir()
    stamp.touch()
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(bare_checkout / name, (1, 1))
    assert "pip install" not in make("-n", "test", cwd=bare_checkout).stdout
    os.utime(bare_checkout / "requirements.lock", (2**32, 2**32))
    assert "pip install -r requirements.lock" in make("-n", "test", cwd=bare_checkout).stdout


# --- the checks, on something wrong ---------------------------------------------------------------


def pins_of(tmp_path: Path, text: str) -> dict[str, Requirement]:
    (tmp_path / "wrong.lock").write_text(text)
    return read_pins(tmp_path / "wrong.lock")


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("tqdm>=4.70", "not one exact version"),
        ("tqdm", "not one exact version"),
        ("tqdm==4.*", "not one exact version"),
        ("tqdm==4.70.1,<5", "not one exact version"),
        ("torch==2.13.0+cpu", "a build of one machine"),
        ("torch @ file:///opt/torch.whl", "comes from file:///opt/torch.whl"),
        ("nvidia-cublas==13.1.1.3 ; sys_platform == 'linux'", "torch's business"),
        ("labkit==0.1.0", "would come from PyPI"),
    ],
)
def test_a_wrong_lock_is_seen(tmp_path, line, complaint):
    assert lock_complaints(pins_of(tmp_path, "six==1.17.0  # fine\n")) == []
    (found,) = lock_complaints(pins_of(tmp_path, line))
    assert complaint in found


def test_a_line_that_is_no_requirement_is_refused(tmp_path):
    for line in ("./wheels/torch.whl", "-e .", "--find-links wheels"):
        with pytest.raises(InvalidRequirement):
            pins_of(tmp_path, line)


def test_a_range_that_the_lock_misses_is_seen(tmp_path):
    pins = pins_of(tmp_path, "numpy==2.4.6\nruff==0.17.6\n")

    def complaints(dependencies, dev=()):
        project = {"dependencies": list(dependencies), "optional-dependencies": {"dev": list(dev)}}
        return range_complaints({"project": project}, pins)

    assert complaints(["numpy>=1.26,<3"], ["Ruff<1"]) == []
    assert complaints(["numpy<2"]) == ["numpy==2.4.6 is outside numpy<2"]
    assert complaints([], ["ruff>=1"]) == ["ruff==0.17.6 is outside ruff>=1"]
    assert complaints(["torch>=2.6"]) == ["torch is not in the lock"]
    assert complaints(["numpy==2.4.6"]) == [
        "numpy==2.4.6 is an exact pin; exact pins belong in the lock"
    ]


def test_an_environment_that_drifts_is_seen(tmp_path):
    lock = pins_of(tmp_path, "numpy==2.4.6\nsix==1.17.0\n")
    (tmp_path / "other.lock").write_text("numpy==2.4.5\n")

    def complaints(conda, pip):
        return conda_complaints({"dependencies": [*conda, {"pip": pip}]}, ">=3.11", tmp_path, lock)

    right = ["-r wrong.lock", "-e ."]
    assert complaints(["python=3.11", "pip"], right) == []
    assert complaints(["python=3.10", "pip"], right) == ["python ['3.10'] is not >=3.11"]
    assert complaints(["pip"], right) == ["python [] is not >=3.11"]
    assert complaints(["python=3.12", "pip", "pytorch"], right) == [
        "conda installs pytorch past the lock"
    ]
    assert complaints(["python=3.12", "pip"], [*right, "numpy<2"]) == [
        "pip installs numpy<2 past the lock"
    ]
    assert complaints(["python=3.12", "pip"], ["-e ."]) == [
        "numpy (nothing) where the lock has numpy==2.4.6",
        "six (nothing) where the lock has six==1.17.0",
    ]
    assert (
        complaints(["python=3.12", "pip"], ["-r other.lock"])[0]
        == "numpy==2.4.5 where the lock has numpy==2.4.6"
    )


def test_an_environment_unlike_the_lock_is_seen(tmp_path, lock):
    pytest_version = importlib.metadata.version("pytest")
    alone = f"pytest=={pytest_version}\n"
    assert "pluggy" in " ".join(installed_complaints(pins_of(tmp_path, alone)))
    assert (
        installed_complaints(pins_of(tmp_path, "no-such-thing==1.0 ; sys_platform == 'amiga'"))
        == []
    )
    assert installed_complaints(pins_of(tmp_path, "no-such-thing==1.0")) == [
        "no-such-thing==1.0 is not installed"
    ]
    (found,) = installed_complaints(pins_of(tmp_path, "typing-extensions==0.1"))
    assert found.startswith("typing-extensions==0.1 is installed as ")


@pytest.mark.parametrize(
    "command",
    [
        "pip install labkit",
        "!pip install -q labkit",
        "%pip install 'labkit[dev]'",
        "python3 -m pip install numpy labkit==0.1",
        "pip install \\\n    labkit",
        '[sys.executable, "-m", "pip", "install", "labkit"]',
        "uv add labkit",
        "uv pip install labkit",
        "conda install -c conda-forge labkit",
    ],
)
def test_a_strangers_labkit_is_seen(command):
    assert len(stranger_installs(command)) == 1


@pytest.mark.parametrize(
    "command",
    [
        "pip install rlhf-labkit",
        "pip install 'rlhf-labkit[dev]'",
        "pip install -e .",
        "pip install git+https://example.org/someone/labkit.git",
        "pip install -r requirements.lock; python -m labkit run",
        "pip install ./labkit",
        "python -m labkit run",
    ],
)
def test_our_own_install_commands_pass(command):
    assert stranger_installs(command) == []
