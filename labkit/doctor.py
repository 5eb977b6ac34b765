"""`doctor`: what on this machine would stop the labs or slow them down, and the command that mends
it.

A check looks at one thing and yields its findings; it is given what it looks at, so that a test can
give it something wrong. Nothing here changes anything.
"""

import logging
import os
import platform
import shlex
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from labkit import config, runs

DISK = 2  # GB: runs of the whole series, twice
PORT = 8888
PIP = f"{shlex.quote(sys.executable)} -m pip install"
WIDGETS = ("@jupyter-widgets/jupyterlab-manager", "anywidget")
"""What JupyterLab needs on its side to show the panels."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a `part`, the command that mends it, and whether it stops the labs."""

    part: str
    wrong: str
    mend: str
    stops: bool = True


def packages(lines=None, version=metadata.version):
    """Every package we ask for is here, in a version that we work with. lines: requirements as
    pyproject.toml has them; version: of an installed package.
    """
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("rlhf-labkit") if lines is None else lines
    except metadata.PackageNotFoundError:
        yield Finding("labkit", "it is not installed, only found", f"{PIP} -e .[lab]")
        return
    for wanted in map(Requirement, lines):
        if wanted.marker and not wanted.marker.evaluate({"extra": front()}):
            continue
        asked = f'{PIP} "{wanted.name}{wanted.specifier}"'
        try:
            found = version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Finding(wanted.name, "it is not installed", asked)
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield Finding(wanted.name, f"{found} is here, not {wanted.specifier}", asked)


def front() -> str:
    """The extra that brings JupyterLab, but for Colab and Kaggle, which have pages of their own."""
    return "" if "COLAB_RELEASE_TAG" in os.environ or Path("/kaggle").exists() else "lab"


def widgets(folders=None):
    """JupyterLab can show the panels. folders: where it looks for its extensions."""
    if not front():
        return
    if folders is None:
        from jupyter_core.paths import jupyter_path

        folders = jupyter_path("labextensions")
    for name in WIDGETS:
        if not any(Path(folder, name, "package.json").exists() for folder in folders):
            package = "anywidget" if name == "anywidget" else "ipywidgets jupyterlab_widgets"
            yield Finding(
                "widgets",
                f"JupyterLab finds no {name}, so panels stay empty",
                f"{PIP} --force-reinstall --no-deps {package}, then restart JupyterLab",
            )


def torch(build=None, card=None, driver=None):
    """torch suits the machine. build: the CUDA version it was built for, or None; card: whether it
    can use one; driver: whether a driver is here.
    """
    if driver is None:
        import torch

        build, card = torch.version.cuda, torch.cuda.is_available()
        driver = bool(shutil.which("nvidia-smi"))
    cpu = "--index-url https://download.pytorch.org/whl/cpu"
    if build and not driver:
        yield Finding(
            "torch",
            f"it is built for CUDA {build}, and there is no NVIDIA driver: gigabytes for nothing",
            f"{PIP} --force-reinstall torch {cpu}",
            stops=False,
        )
    elif build and not card:
        yield Finding(
            "torch",
            f"it is built for CUDA {build}, which this driver can't serve, so the CPU will do all",
            f"{PIP} --force-reinstall torch {cpu}, or update the driver",
            stops=False,
        )
    elif driver and not build:
        yield Finding(
            "torch",
            "it is the CPU build, and there is an NVIDIA card, which it can't use",
            f"{PIP} --force-reinstall torch",
            stops=False,
        )


def disk(free=None):
    """There is room for runs. free: GB where they go."""
    if free is None:
        free = shutil.disk_usage(existing(runs.root())).free / 1e9
    if free < DISK:
        yield Finding(
            "disk",
            f"{free:.1f} GB are free at {runs.root()}; the series takes up to {DISK}",
            "export LABKIT_RUNS=/a/folder/with/room",
            stops=free < 0.2,
        )


def memory(free=None):
    """There is room for a notebook's kernel. free: GB that may still be taken."""
    if free is None:
        import psutil

        free = min(psutil.virtual_memory().available, allowed()) / 1e9
    needed = config.MEMORY["tiny"]
    if free < needed:
        yield Finding(
            "memory",
            f"{free:.1f} GB are free; a notebook takes up to {needed}",
            "close other programs, and kernels in JupyterLab: Kernel > Shut Down All Kernels",
            stops=free < 1,
        )


def allowed(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that a container's limit still leaves (of the two versions of cgroups)."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            return int((folder / limit).read_text()) - int((folder / used).read_text())
        except (OSError, ValueError):  # not this version, or "max"
            continue
    return float("inf")


def port(number=PORT):
    """JupyterLab's usual port is free."""
    with socket.socket() as one:
        if one.connect_ex(("127.0.0.1", number)) == 0:
            yield Finding(
                "port",
                f"{number} is in use, perhaps by a JupyterLab that runs already",
                f'make lab LAB_ARGS="--port {number + 1}"',
                stops=False,
            )


def folder():
    """Runs can be written."""
    root = runs.root()
    try:
        with tempfile.TemporaryFile(dir=existing(root)):
            return
    except OSError as error:
        yield Finding(
            "runs",
            f"{root} can't be written ({error.strerror})",
            "export LABKIT_RUNS=~/labkit-runs",
        )


def existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    path = path.absolute()
    return path if path.exists() else existing(path.parent)


def four_bits(native=None, capability=None, machine=None):
    """bitsandbytes unpacks 4-bit weights by a fast path. native: whether its own library was
    loaded; capability: what torch says of the processor; machine: its kind.
    """
    if native is None:
        import torch

        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises at the import
        from bitsandbytes import cextension

        if torch.cuda.is_available():
            return
        native = not isinstance(cextension.lib, cextension.ErrorHandlerMockBNBNativeLibrary)
        capability, machine = torch.backends.cpu.get_cpu_capability(), platform.machine()
    if not native:
        yield Finding(
            "4-bit",
            "bitsandbytes' own library could not be loaded: everything goes by plain torch, slowly",
            f'{PIP} --force-reinstall --no-deps "bitsandbytes>=0.50,<1"',
            stops=False,
        )
    elif machine in ("x86_64", "AMD64") and capability != "AVX512":
        yield Finding(
            "4-bit",
            f"this processor has {capability}, not AVX-512: bitsandbytes unpacks weights one by one"
            " (the tiny profile unpacks them once, and hardly notices)",
            "export LABKIT_PROFILE=tiny",
            stops=False,
        )


CHECKS = (packages, widgets, torch, disk, memory, port, folder, four_bits)


def doctor() -> dict:
    """{"ok", "checked", "findings": [{"part", "wrong", "mend", "stops"}]}: a check that can't even
    look (a package is missing) is passed over where `packages` has said so.
    """
    found = []
    for check in CHECKS:
        try:
            found += check()
        except ImportError as error:
            if not found:
                raise error
    return {
        "ok": not any(one.stops for one in found),
        "checked": [check.__name__ for check in CHECKS],
        "findings": [vars(one) for one in found],
    }
