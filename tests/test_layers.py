"""What may import what, and where a next-token shift may stand. Each checker is tried on wrong text
first.
"""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import labkit
from labkit import config

FOLDER = Path(labkit.__file__).parent
# A room may import those above it, and its own. In this order the house is read.
ORDER = (
    "config ranks reporting runs compat launch data atlas maths models rollout evals stages charts "
    "feedback labs checks series tracebacks notebook bench doctor cli"
).split()
STAGES = ("pretrain", "sft", "reward", "ppo", "dpo", "kto", "ai_feedback")
HEAVY = (
    "torch transformers trl peft bitsandbytes plotly datasets numpy pandas kaleido IPython"
    " ipywidgets"
).split()


def imported(source: str, package: str = "labkit") -> set[str]:
    """Every module that a module's text imports, at the top or inside a function, with the names
    taken from it as possible submodules.
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
    # What `labkit` finds for a learner by its bare name counts as where it lives.
    homes = {f"labkit.{m}": f"labkit.{home}.{m}" for home, ms in labkit.ROOMS.items() for m in ms}
    return {homes.get(name, name) for name in found}


def forbidden(source: str, names) -> set[str]:
    """Which of `names` (or their submodules) a module's text imports."""
    return {
        name
        for name in names
        for module in imported(source)
        if module == name or module.startswith(name + ".")
    }


def shifts(source: str) -> list[int]:
    """Lines that cut the first or the last place off a second axis, as a next-token shift does: [:,
    1:], [:, :-1], [:, n - 1:-1], [..., :-1, :].
    """
    lines = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Tuple)
            and len(node.slice.elts) > 1
        ):
            for part in node.slice.elts[1:]:
                if isinstance(part, ast.Slice):
                    lower, upper = (
                        ast.unparse(edge) if edge else "" for edge in (part.lower, part.upper)
                    )
                    if upper == "-1" or (lower == "1" and not upper):
                        lines.append(node.lineno)
    return lines


def modules() -> dict[str, str]:
    """{dotted name: text} of every module, packages by their own name."""
    found = {}
    for file in sorted(FOLDER.rglob("*.py")):
        parts = file.relative_to(FOLDER.parent).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = file.read_text("utf8")
    return found


def room(name: str) -> str:
    """labkit.stages.ppo → stages."""
    return (name.split(".") + [""])[1]


def wrong_arrows(texts: dict[str, str], order=ORDER) -> list[str]:
    """What is imported from a room below, or from none that the table knows: "one → other"."""
    rank = {name: place for place, name in enumerate(order)}
    wrong = []
    for name, text in texts.items():
        here = room(name)
        if here in ("", "__main__"):  # the package itself, and `python -m labkit`
            continue
        if here not in rank:
            wrong.append(f"{name} is in no room")
            continue
        for target in sorted(imported(text)):
            there = room(target)
            if target.startswith("labkit.") and (there in rank or f"labkit.{there}" in texts):
                if rank.get(there, len(order)) > rank[here]:
                    wrong.append(f"{name} → {target}")
    return wrong


def loaded_by(code: str) -> set[str]:
    """The heavy modules in a fresh Python after `code`."""
    script = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            cwd=FOLDER.parent,
        ).stdout.split()
    )


# --- the checkers, on something wrong ------------------------------------------------------------


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
        "from labkit.stages.ppo import train",
        "import labkit.stages.ppo",
        "from labkit.stages import ppo",
        "import importlib\nimportlib.import_module('labkit.stages.ppo')",
    ],
)
def test_the_import_checker_finds_a_stage(text):
    assert forbidden(text, ["labkit.stages.ppo", "labkit.stages.dpo"]) == {"labkit.stages.ppo"}


def test_the_import_checker_lets_others_pass():
    assert not forbidden(
        "import torchvision\nfrom labkit import ppo_notes, losses\n'import torch'\n# import torch",
        ["torch", "labkit.stages.ppo"],
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


def test_the_arrow_checker_finds_what_points_upwards_and_who_has_no_room():
    texts = {
        "labkit.data.files": "from labkit.atlas import facts",
        "labkit.runs": "def f():\n    from labkit import ppo",
        "labkit.atlas.facts": "from labkit import config, data\nfrom labkit.atlas import gold",
        "labkit.attic": "",
        "labkit.config": "import labkit.attic",
    }
    assert wrong_arrows(texts) == [
        "labkit.data.files → labkit.atlas",
        "labkit.data.files → labkit.atlas.facts",
        "labkit.runs → labkit.stages.ppo",
        "labkit.attic is in no room",
        "labkit.config → labkit.attic",
    ]


def test_the_subprocess_checker_sees_what_is_loaded():
    assert "numpy" in loaded_by("import numpy")


# --- labkit --------------------------------------------------------------------------------------


def test_import_labkit_loads_nothing_heavy():
    assert loaded_by("import labkit") == set()
    assert loaded_by("from labkit import config, runs, data") == set()


def test_no_arrow_points_upwards():
    assert not wrong_arrows(modules())


def test_the_table_names_what_is_there():
    """No room that does not exist, and no stage: a name that is not there would check nothing."""
    here = {room(name) for name in modules()} - {"", "__main__"}
    assert here == set(ORDER)
    assert {f"labkit.stages.{stage}" for stage in STAGES} <= set(modules())
    assert STAGES == config.STAGES


@pytest.mark.parametrize("name", ("feedback", "charts"))
def test_views_and_records_never_import_torch(name):
    heavy = ("torch", "transformers", "trl", "peft", "labkit.models", "labkit.stages")
    for module, text in modules().items():
        if room(module) == name:
            assert not forbidden(text, heavy), module
            assert not loaded_by(f"import {module}") & {"torch", "transformers", "trl", "peft"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_imports_no_other_stage_and_no_judge(name):
    others = [f"labkit.stages.{other}" for other in STAGES if other != name]
    judges = [f"labkit.{one}" for one in ("evals", "atlas.gold", "atlas.raters", "atlas.symptoms")]
    text = modules()[f"labkit.stages.{name}"]
    assert not forbidden(text, [*others, *judges])
    assert not re.search(r"atlas\.(judge|Rater|panel|find)\b", text)


def test_the_next_token_shift_has_one_place():
    found = {
        name: lines
        for name, text in modules().items()
        if name != "labkit.maths.logprobs" and (lines := shifts(text))
    }
    assert not found, f"next-token shifts outside logprobs.py (file: lines): {found}"


def test_no_padding_mask_names():
    """Masks are 1 = valid and named for what they keep."""
    wrong = re.compile(r"\b(pad(ding)?_mask|mask_pad(ding)?)\b")
    assert wrong.search("padding_mask = ids == pad") and not wrong.search(
        "attention_mask, response_mask"
    )
    assert not [name for name, text in modules().items() if wrong.search(text)]


def test_errors_are_not_swallowed():
    def swallowed(source):
        return [
            node.lineno
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.ExceptHandler)
            and all(isinstance(b, ast.Pass) for b in node.body)
        ]

    assert swallowed(
        textwrap.dedent("""
        try:
            f()
        except ValueError:
            pass
    """)
    ) == [4]
    assert not {name: lines for name, text in modules().items() if (lines := swallowed(text))}
