"""The notebooks' exercises, for whoever maintains or grades them.

    python -m labkit.bench.exercises solutions    # make solutions: filled in and executed
    python -m labkit.bench.exercises assignment   # make assignment: nbgrader's source notebooks

An exercise is a code cell that asks a checker; its solution is the ```python of a folded text that
defines what the cell left open. A prediction has none: its guess is what the experiment finds.
"""

import ast
import copy
import json
import os
import re
import shutil
import sys
from pathlib import Path

from labkit import LabError
from labkit.bench.notebooks import execute

FOLDER = Path(__file__).parents[2] / "notebooks"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SKIP = "skip-execution"  # nbclient, and nbgrader with it, passes over cells of this tag
PICTURE = re.compile(r"\]\((?:\.\./)?(pictures/[^)]+)\)")
USES = "import math\nimport torch\nfrom labkit import checks\n"  # what solutions may use
CONFIG = """c = get_config()
c.CourseDirectory.course_id = "rlhf-labs"
c.ClearSolutions.code_stub = {"python": "...  # your code"}
"""


def notebooks(names=()) -> list[Path]:
    """The files named, else all of the series and those beside it."""
    every = sorted(FOLDER.glob("*.ipynb")) + sorted(FOLDER.glob("labs/*.ipynb"))
    return [Path(name) for name in names] or every


def source(cell) -> str:
    return "".join(cell["source"])


def binds(node) -> set[str]:
    """The names that a top-level statement gives a value."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else ()
    return {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}


def asked(node) -> list[ast.Call]:
    """The calls of checkers within a statement."""
    calls = (one for one in ast.walk(node) if isinstance(one, ast.Call))
    return [one for one in calls if ast.unparse(one.func).startswith("checks.check_")]


def solutions(cells) -> dict[str, str]:
    """{name: the folded code that defines it} of a whole notebook."""
    found = {}
    for cell in cells:
        if cell["cell_type"] == "markdown" and "<details>" in source(cell):
            for block in BLOCK.findall(source(cell)):
                for name in set().union(*map(binds, ast.parse(block).body)):
                    found[name] = block
    return found


def is_exercise(cell) -> bool:
    text = source(cell)
    return cell["cell_type"] == "code" and "checks.check_" in text and bool(asked(ast.parse(text)))


def parts(text: str, known: dict[str, str]) -> tuple[list[str], list[str], list[str]]:
    """(the learner's statements, the solution's blocks that belong to them, the statements that ask
    a checker) of an exercise's cell.
    """
    nodes = ast.parse(text).body
    first = next(i for i, node in enumerate(nodes) if asked(node))
    own = [node for node in nodes[:first] if ast.unparse(node) != "from labkit import checks"]
    names = set().union(*map(binds, own)) if own else set()
    blocks = list(dict.fromkeys(known[name] for name in sorted(names & known.keys())))
    solved = {name for block in blocks for name in set().union(*map(binds, ast.parse(block).body))}
    # A function is replaced; a text that is bettered has to be there first.
    kept = [n for n in own if not (isinstance(n, ast.FunctionDef) and n.name in solved)]
    lines = text.splitlines()
    cut = lambda some: ["\n".join(lines[n.lineno - 1 : n.end_lineno]) for n in some]
    return cut(kept), blocks, cut(nodes[first:])


def filled(text: str, known: dict[str, str]) -> str:
    """An exercise's cell as one who knows would leave it."""
    kept, blocks, checks = parts(text, known)
    guesses = []
    for call in (one for check in checks for one in asked(ast.parse(check))):
        if call.func.attr == "check_prediction":
            guess, _, experiment = map(ast.unparse, call.args)
            guesses += [f"measured = {experiment}()", f"{guess} = max(measured, key=measured.get)"]
            guesses += [f"{experiment} = lambda: measured"]
    return "\n".join(["from labkit import checks", *kept, *blocks, *guesses, *checks])


def solved(notebook: dict) -> dict:
    """The notebook with every solution filled in."""
    notebook = copy.deepcopy(notebook)
    known = solutions(notebook["cells"])
    for cell in filter(is_exercise, notebook["cells"]):
        cell["source"] = filled(source(cell), known)
    return notebook


def verdicts(notebook: dict) -> tuple[int, list[str]]:
    """(how many checkers said "Right", what others said) of an executed notebook."""
    said = [
        line
        for cell in filter(is_exercise, notebook["cells"])
        for output in cell["outputs"]
        for line in "".join(output.get("text", "")).splitlines()
    ]
    return sum(line.startswith("Right") for line in said), [
        line for line in said if line.startswith("Not yet")
    ]


def checkers(notebook: dict) -> int:
    """How many checkers a notebook asks."""
    return sum(len(asked(ast.parse(source(c)))) for c in filter(is_exercise, notebook["cells"]))


def run(file: Path, into: Path) -> tuple[int, int, str]:
    """(right, asked, what went wrong) of one notebook, executed with its solutions in its own
    folder; it is left in `into`.
    """
    import nbformat

    notebook = nbformat.reads(json.dumps(solved(json.loads(file.read_text("utf8")))), 4)
    environment = {"LABKIT_RUNS": str(into / "runs"), "LABKIT_PROFILE": "tiny"}
    try:
        execute(file, os.environ | environment, notebook)
        wrong = ""
    except LabError as error:
        wrong = str(error)
    nbformat.write(notebook, into / file.name)
    right, refused = verdicts(notebook)
    return right, checkers(notebook), " / ".join(filter(None, [wrong, *refused]))


# --- nbgrader ------------------------------------------------------------------------------------


def graded(id: str, points: int | None = None) -> dict:
    """nbgrader's mark on a cell: an answer, or with points a test."""
    test = points is not None
    mark = {"schema_version": 3, "grade_id": id, "grade": test, "solution": not test}
    return {
        "nbgrader": mark | {"locked": test, "task": False} | ({"points": points} if test else {})
    }


def marked(block: str) -> str:
    """A solution between nbgrader's marks: of a function the body, else all of it."""
    lines, nodes = block.splitlines(), ast.parse(block).body
    if not any(isinstance(node, ast.FunctionDef) for node in nodes):
        return f"### BEGIN SOLUTION\n{block.rstrip()}\n### END SOLUTION"
    for node in reversed(nodes):
        if isinstance(node, ast.FunctionDef):
            indent = " " * node.body[0].col_offset
            lines.insert(node.end_lineno, f"{indent}### END SOLUTION")
            lines.insert(node.lineno, f"{indent}### BEGIN SOLUTION")
    return "\n".join(lines).rstrip()


def assignment(notebook: dict) -> dict:
    """The notebook as nbgrader's source: an exercise that has a solution becomes the answer and a
    hidden test; all else (widgets, on which an autograder hangs, and trainings) is tagged to be
    passed over.
    """
    notebook, cells = copy.deepcopy(notebook), []
    known = solutions(notebook["cells"])
    for cell in notebook["cells"]:
        text = source(cell)
        if cell["cell_type"] == "code":
            cell["metadata"]["tags"] = sorted({*cell["metadata"].get("tags", ()), SKIP})
            cell["outputs"], cell["execution_count"] = [], None
        if not is_exercise(cell) or not (answer := parts(text, known))[1]:
            folded = cell["cell_type"] == "markdown" and "<details><summary>Solution" in text
            cell["source"] = (
                re.sub(r"<details>.*?</details>\n*", "", text, flags=re.S) if folded else text
            )
            cells.append(cell)
            continue
        kept, blocks, checks = answer
        calls = [ast.unparse(one) for check in checks for one in asked(ast.parse(check))]
        code = lambda id, text, metadata: {
            **{"cell_type": "code", "id": id, "metadata": metadata, "source": text},
            **{"outputs": [], "execution_count": None},
        }
        id = cell["id"]
        cells.append(code(id, "\n".join([*kept, *map(marked, blocks)]), graded(id)))
        looks = "\n".join(["from labkit import checks", *checks])
        cells.append(code(f"{id}-check", looks, {"tags": [SKIP]}))
        tests = "\n".join(f"assert {call}" for call in calls)
        tests = f"{USES}### BEGIN HIDDEN TESTS\n{tests}\n### END HIDDEN TESTS"
        cells.append(code(f"{id}-test", tests, graded(f"{id}-test", len(calls))))
    notebook["cells"] = cells
    return notebook


def write_assignment(files: list[Path], into: Path) -> list[Path]:
    """nbgrader's course folder: its settings, and source/NAME/NAME.ipynb of each notebook."""
    written = []
    into.mkdir(parents=True, exist_ok=True)
    (into / "nbgrader_config.py").write_text(CONFIG, "utf8")
    for file in files:
        place = into / "source" / file.stem / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            assignment(json.loads(file.read_text("utf8"))), ensure_ascii=False, indent=1
        )
        for picture in PICTURE.findall(text):
            (place.parent / "pictures").mkdir(exist_ok=True)
            shutil.copy(FOLDER / picture, place.parent / picture)
        place.write_text(text.replace("](../pictures/", "](pictures/") + "\n", "utf8")
        written.append(place)
    return written


def main(what: str, *names: str) -> int:
    into = FOLDER.parent / "build" / what
    files = notebooks(names)
    if what == "assignment":
        write_assignment(files, into)
        print(f"{len(files)} notebooks: cd {into} && nbgrader generate_assignment NAME")
        return 0
    into.mkdir(parents=True, exist_ok=True)
    fine = True
    for file in files:
        right, asked_for, wrong = run(file, into)
        fine &= right == asked_for and not wrong
        print(f"{file.stem}: {right} of {asked_for} right. {wrong}".rstrip(), flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
