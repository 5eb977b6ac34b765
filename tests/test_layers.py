"""What may import what, and where a next-token shift may stand. Each checker is tried on wrong text first."""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import labkit

FOLDER = Path(labkit.__file__).parent
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "plotly",
    "datasets",
    "numpy",
    "pandas",
    "kaleido",
    "IPython",
    "ipywidgets",
)
LIGHT = ("panels", "feedback", "charts", "lines", "live", "svg", "pictures", "data", "config")
STAGES = ("pretrain", "sft", "reward", "ppo", "dpo", "kto", "ai_feedback")


def imported(source: str, package: str = "labkit") -> set[str]:
    """Every module that a module's text imports, at the top or inside a function, with the names taken from
    it as possible submodules.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, (package if node.level else "", node.module)))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif (
            isinstance(node, ast.Call)
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            if (getattr(node.func, "attr", None) or getattr(node.func, "id", None)) in (
                "import_module",
                "__import__",
            ):
                found.add(node.args[0].value)
    return found


def forbidden(source: str, names) -> set[str]:
    """Which of `names` (or their submodules) a module's text imports."""
    return {
        name
        for name in names
        for module in imported(source)
        if module == name or module.startswith(name + ".")
    }


def shifts(source: str) -> list[int]:
    """Lines that cut the first or the last place off a second axis, as a next-token shift does: [:, 1:], [:,
    :-1], [:, n - 1:-1], [..., :-1, :].
    """
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) > 1:
            for part in node.slice.elts[1:]:
                if isinstance(part, ast.Slice):
                    lower, upper = (ast.unparse(edge) if edge else "" for edge in (part.lower, part.upper))
                    if upper == "-1" or (lower == "1" and not upper):
                        lines.append(node.lineno)
    return lines


def modules():
    return sorted(FOLDER.rglob("*.py"))


def loaded_by(code: str) -> set[str]:
    """The heavy modules in a fresh Python after `code`."""
    script = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=FOLDER.parent
        ).stdout.split()
    )


# --- the checkers, on something wrong --------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "import torch",
        "import torch.nn as nn",
        "from torch import nn",
        "from torch.nn.functional import softmax",
        "def f():\n    import torch",
        "try:\n    import torch\nexcept ImportError:\n    torch = None",
        "import importlib\nimportlib.import_module('torch.nn')",
        "__import__('torch')",
    ],
)
def test_the_import_checker_finds_torch(text):
    assert forbidden(text, ["torch"]) == {"torch"}


@pytest.mark.parametrize(
    "text",
    [
        "from labkit import ppo",
        "from labkit.ppo import train",
        "import labkit.ppo",
        "from . import ppo",
        "from .ppo import train",
    ],
)
def test_the_import_checker_finds_a_stage(text):
    assert forbidden(text, ["labkit.ppo", "labkit.dpo"]) == {"labkit.ppo"}


def test_the_import_checker_lets_others_pass():
    assert not forbidden(
        "import torchvision\nfrom labkit import ppo_notes, losses\n'import torch'\n# import torch",
        ["torch", "labkit.ppo"],
    )


@pytest.mark.parametrize(
    "text",
    [
        "x[:, :-1]",
        "x[:, 1:]",
        "logits[:, start - 1:-1]",
        "x[..., :-1, :]",
        "ids[:, 1:].unsqueeze(-1)",
        "x[:, :-1, None]",
    ],
)
def test_the_shift_checker_finds_shifts(text):
    assert shifts("import torch\n" + text) == [2]


@pytest.mark.parametrize(
    "text",
    [
        "x[1:]",
        "x[:-1]",
        "x[:, -1]",
        "x[:, n:]",
        "x[:, :n]",
        "x[:, 1:3]",
        "'x[:, :-1]'",
        "x[:, ::2]",
        "x[:, None]",
    ],
)
def test_the_shift_checker_lets_others_pass(text):
    assert shifts(text) == []


def test_the_subprocess_checker_sees_what_is_loaded():
    assert "numpy" in loaded_by("import numpy")


# --- labkit ----------------------------------------------------------------------------------------


def test_import_labkit_loads_nothing_heavy():
    assert loaded_by("import labkit") == set()
    assert loaded_by("from labkit import config, runs, data") == set()


@pytest.mark.parametrize("name", LIGHT)
def test_views_and_records_never_import_torch(name):
    file = FOLDER / f"{name}.py"
    if file.exists():  # panels and feedback come later, and are held to it from their first day
        assert not forbidden(
            file.read_text("utf8"),
            ("torch", "transformers", "trl", "peft", *(f"labkit.{stage}" for stage in STAGES)),
        )
        assert not loaded_by(f"import labkit.{name}") & {"torch", "transformers", "trl", "peft"}


@pytest.mark.parametrize("name", STAGES)
def test_stages_never_import_one_another(name):
    file = FOLDER / f"{name}.py"
    if file.exists():
        assert not forbidden(file.read_text("utf8"), [f"labkit.{other}" for other in STAGES if other != name])


def test_the_next_token_shift_has_one_place():
    found = {
        str(file.relative_to(FOLDER)): lines
        for file in modules()
        if file.name != "logprobs.py" and (lines := shifts(file.read_text("utf8")))
    }
    assert not found, f"next-token shifts outside logprobs.py (file: lines): {found}"


def test_no_padding_mask_names():
    """Masks are 1 = valid and named for what they keep."""
    wrong = re.compile(r"\b(pad(ding)?_mask|mask_pad(ding)?)\b")
    assert wrong.search("padding_mask = ids == pad") and not wrong.search("attention_mask, response_mask")
    assert not [file.name for file in modules() if wrong.search(file.read_text("utf8"))]


def test_errors_are_not_swallowed():
    def swallowed(source):
        return [
            node.lineno
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ExceptHandler) and all(isinstance(b, ast.Pass) for b in node.body)
        ]

    assert swallowed(
        textwrap.dedent("""
        try:
            f()
        except ValueError:
            pass
    """)
    ) == [4]
    assert not {file.name: lines for file in modules() if (lines := swallowed(file.read_text("utf8")))}
