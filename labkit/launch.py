"""Where the project is opened, and what its notebooks take.

    python -m labkit.launch               # write badges, setup cells and README's table again
    python -m labkit.launch OWNER/NAME    # the same, for a repository at another address

The address stands here alone, and so do the notebooks' minutes, memory and needs. README, the
notebooks, pyproject.toml and CITATION.cff hold copies, which `write` makes and tests/test_launch.py
compares.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from labkit import LabError

REPOSITORY = "rlhf-labs/rlhf-labs"
# What stands before an address: GitHub's, Colab's, Binder's and Codespaces' ways to write one.
ADDRESS = r"(github\.com/|/github/|/gh/|codespaces\.new/){}(?![\w-])"
BADGES = re.compile(r"(?:^\[!\[.*\n)+", re.M)  # lines of badges
ROW = re.compile(r"^(\| \[(\w+)\]\(notebooks/\2\.ipynb\) \|[^|]*\|[^|]*\|).*$", re.M)
"""A row of README's table: its first three cells (notebook, stage, what you see) are README's."""

SETUP = """\
# Setup, the same in every notebook. On Colab the first lines fetch the project.
import importlib.util
if importlib.util.find_spec("labkit") is None:
    %pip install -q "rlhf-labkit[go] @ git+https://github.com/{repository}"
from labkit import notebook
profile = notebook.setup()"""


@dataclass(frozen=True)
class Lab:
    """A notebook: `minutes` on two idle CPU cores, the `memory` of its kernel at its peak in GB,
    and the stages whose runs it `needs` (yours, else those that came with the project).
    """

    file: str
    title: str
    minutes: int
    memory: float
    needs: str = ""

    @property
    def page(self) -> str:
        return f"{self.file}.ipynb"

    @property
    def number(self) -> str:
        return self.file.partition("_")[0]

    @property
    def costs(self) -> str:
        return f"{self.minutes} min, {self.memory:g} GB"

    @property
    def after(self) -> str:
        """The notebooks that train what it needs."""
        return " ".join(TRAINED_IN[stage] for stage in self.needs.split())


TRAINED_IN = {"pretrain": "01", "sft": "02", "reward": "06", "ppo": "07", "dpo": "09", "kto": "10"}
"""The notebook that trains a stage."""

LABS = (
    Lab("00_start_here", "start here", 1, 0.7, "sft ppo dpo"),
    Lab("01_pretraining", "pre-training", 2, 1.2),
    Lab("02_instruction_tuning", "instruction tuning", 2, 1.2, "pretrain"),
    Lab("03_reinforcement_learning", "reinforcement learning", 1, 0.5),
    Lab("04_alphago_and_language_models", "AlphaGo and language models", 2, 0.9),
    Lab("05_collecting_feedback", "collecting feedback", 2, 1.2, "sft"),
    Lab("06_reward_model", "reward model", 2, 1.5, "sft"),
    Lab("07_ppo", "PPO", 1, 1.2, "sft reward"),
    Lab("08_overoptimization", "over-optimisation", 1, 0.8, "sft reward"),
    Lab("08b_verifiable_rewards", "verifiable rewards", 2, 1.3),
    Lab("09_dpo", "DPO", 2, 1.8, "sft ppo"),
    Lab("10_kto", "KTO", 2, 1.2, "sft dpo"),
    Lab("11_ai_feedback", "AI feedback", 1, 1.0, "sft"),
    Lab("12_helpful_or_safe", "helpful or safe", 2, 1.0, "sft"),
    Lab("13_when_humans_cannot_judge", "when humans cannot judge", 1, 0.8, "sft"),
    Lab("14_report_card", "report card", 2, 1.5, "sft reward ppo dpo kto"),
)


def colab(page: str, repository: str = REPOSITORY) -> str:
    """Where Colab opens a notebook."""
    return f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{page}"


def badges(page: str, repository: str = REPOSITORY) -> list[str]:
    """The badges that open a notebook in Colab and in Binder."""
    binder = f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/notebooks/{page}"
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    return [
        f"[![Open in Colab]({picture})]({colab(page, repository)})",
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})",
    ]


def notebook(text: str, page: str, repository: str = REPOSITORY) -> str:
    """A notebook's file with our badges under its title, and our setup cell."""
    found = json.loads(text)
    head, code = found["cells"][0], next(c for c in found["cells"] if c["cell_type"] == "code")
    shown = "".join(f"{badge}\n" for badge in badges(page, repository))
    said = BADGES.sub(lambda _: shown, "".join(head["source"]), count=1)
    head["source"] = said.splitlines(keepends=True)
    code["source"] = SETUP.format(repository=repository).splitlines(keepends=True)
    return json.dumps(found, ensure_ascii=False, indent=1) + "\n"


def table(text: str, repository: str = REPOSITORY) -> str:
    """README's text with costs and badges in the rows of its notebooks."""
    labs = {lab.file: lab for lab in LABS}

    def row(found):
        lab = labs[found[2]]
        return f"{found[1]} {lab.costs} | {' '.join(badges(lab.page, repository))} |"

    return ROW.sub(row, text)


def write(root: Path, repository: str = REPOSITORY) -> list[Path]:
    """Write every such text of a checkout for the repository at this address; returns the files
    that changed. LabError for what is no address.
    """
    if not re.fullmatch(r"[\w-]+/[\w.-]*\w", repository, re.A):
        raise LabError(f"{repository!r} is no address. Write it as GitHub does: owner/name.")
    address = re.compile(ADDRESS.format(re.escape(REPOSITORY)))
    texts = [*root.glob("*.md"), root / "pyproject.toml", root / "CITATION.cff"]
    pages, changed = root / "notebooks", []
    notebooks = sorted([*pages.glob("*.ipynb"), *pages.glob("labs/*.ipynb")])
    for file in (*texts, root / "labkit/launch.py", *notebooks):
        before = file.read_text("utf8")
        if file.suffix == ".ipynb":
            after = notebook(before, file.relative_to(pages).as_posix(), repository)
        else:
            after = address.sub(rf"\g<1>{repository}", before)
            after = table(after, repository) if file.name == "README.md" else after
            after = after.replace(f'REPOSITORY = "{REPOSITORY}"', f'REPOSITORY = "{repository}"')
        if after != before:
            file.write_text(after, "utf8")
            changed.append(file)
    return changed


if __name__ == "__main__":
    try:
        print(*write(Path(__file__).parents[1], *sys.argv[1:2]), sep="\n")
    except LabError as error:
        sys.exit(f"labkit: {error}")
