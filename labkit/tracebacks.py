"""A cell that is run before the one that it needs: a sentence in place of the NameError.

(A LabError is a sentence already; labkit.LabError shows it without a traceback.)
"""

import ast
import json
import os
import re
import sys
from pathlib import Path


def readable():
    """From here on the running notebook says so; outside of IPython nothing happens."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.set_custom_exc((NameError,), show)


def show(shell, kind, error, trace, tb_offset=None):
    """IPython's handler: the sentence, or the traceback where there is none to say."""
    if sentence := said(error, trace, shell.user_ns, cells()):
        error._render_traceback_ = lambda: [f"{kind.__name__}: {sentence}"]  # IPython asks for it
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


def said(error: NameError, trace, namespace: dict, written: list[str]) -> str:
    """The sentence; "" where the error is another one: code outside of `namespace` (the notebook's)
    missed the name, or no cell of those `written` (none: they are not known) makes it.
    """
    while trace.tb_next:
        trace = trace.tb_next
    if trace.tb_frame.f_globals is not namespace:
        return ""
    makes = [cell for cell in written if error.name in made(cell)]
    if written and not makes:
        return ""
    line = makes[0].strip().splitlines()[0] if makes else ""
    where = f" (the one that begins with `{line}`)" if line else ""
    return (
        f"{error.name!r} is not there yet: an earlier cell makes it{where}. Run the cells above"
        " this one first, in order: Run ▸ Run All Above Selected Cell."
    )


def cells() -> list[str]:
    """The running notebook's code cells as they were saved last; [] where its file is not known
    (Jupyter names it to its kernels; Colab and others do not).
    """
    try:
        text = Path(os.environ["JPY_SESSION_NAME"]).read_text("utf8")
        found = json.loads(text)["cells"]
        return ["".join(one["source"]) for one in found if one["cell_type"] == "code"]
    except (KeyError, OSError, ValueError, TypeError):
        return []


def made(cell: str) -> set[str]:
    """The names that a cell assigns, imports or defines; none where it is no plain Python."""
    plain = re.sub(r"^(\s*)[%!].*", r"\1pass", cell, flags=re.MULTILINE)  # %pip, !ls
    try:
        nodes = list(ast.walk(ast.parse(plain)))
    except SyntaxError:
        return set()
    found = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    found |= {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    imports = [n for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
    return found | {a.asname or a.name.partition(".")[0] for n in imports for a in n.names}
