"""The address of the project stands in one place, and whatever holds a copy of it holds that; the
setup cell brings the project into Colab.
"""

import re
import shutil
import subprocess
from pathlib import Path

import colab
import nbformat
import pytest
import yaml

import labkit
from labkit import LabError, charts, launch

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OTHER = "Some-One/labs.of_mine"


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of all that may hold the address."""
    for name in ("README.md", "pyproject.toml", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "labkit").mkdir()
    shutil.copy(ROOT / "labkit/launch.py", tmp_path / "labkit")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    return tmp_path


def texts(root: Path) -> dict[str, str]:
    files = (file for file in root.rglob("*") if file.suffix in (".md", ".toml", ".cff", ".py"))
    pages = (*root.glob("notebooks/*.ipynb"), *root.glob("notebooks/labs/*.ipynb"))
    return {str(file.relative_to(root)): file.read_text("utf8") for file in (*files, *pages)}


def test_every_copy_is_what_would_be_written(checkout):
    """Run `make badges` after editing launch.py, or a badge, a setup cell, README's table."""
    assert launch.write(checkout) == []


def test_the_address_moves_and_comes_back(checkout, monkeypatch):
    before = texts(checkout)
    changed = launch.write(checkout, OTHER)
    assert len(changed) == len(before) == len(NOTEBOOKS) + 5  # the class's notebook, and four texts
    after = texts(checkout)
    assert not [name for name, text in after.items() if launch.REPOSITORY in text]
    assert after["notebooks/labs/class.ipynb"].count(OTHER) == 3
    for page in NOTEBOOKS:
        assert after[f"notebooks/{page.name}"].count(OTHER) == 3  # Colab, Binder, setup cell
        for badge in launch.badges(page.name, OTHER):
            assert badge in after["README.md"]
    assert f'REPOSITORY = "{OTHER}"' in after["labkit/launch.py"]
    monkeypatch.setattr(launch, "REPOSITORY", OTHER)  # as the file now says
    launch.write(checkout, "rlhf-labs/rlhf-labs")
    assert texts(checkout) == before


@pytest.mark.parametrize(
    "wrong", ["labs", "a/b/c", "https://github.com/a/b", "a b/c", "a/", "a/b."]
)
def test_what_is_no_address_changes_nothing(checkout, wrong):
    before = texts(checkout)
    with pytest.raises(LabError, match="owner/name"):
        launch.write(checkout, wrong)
    assert texts(checkout) == before


def test_a_changed_badge_or_setup_cell_is_seen(checkout):
    page = checkout / "notebooks/07_ppo.ipynb"
    whole = page.read_text("utf8")
    for old, new in ((r"%pip install -q", "%pip install"), ("blob/main", "blob/old")):
        page.write_text(whole.replace(old, new), "utf8")
        assert launch.write(checkout) == [page] and page.read_text("utf8") == whole


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_badges_hands_the_address_on():
    said = subprocess.run(
        ["make", "-n", "badges", f"REPO={OTHER}"], cwd=ROOT, capture_output=True, text=True
    )
    assert f"-m labkit.launch {OTHER}\n" in said.stdout


def test_nothing_else_depends_on_the_address():
    """Only what `write` writes may hold it: code, tests and builds work before it exists."""
    listed = subprocess.run(
        ["git", "grep", "-lI", launch.REPOSITORY], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode > 1:
        pytest.skip("no git here")
    kept = {"pyproject.toml", "CITATION.cff", "labkit/launch.py", "tests/test_launch.py"}
    others = {name for name in listed.stdout.split() if not name.startswith("notebooks/")} - kept
    assert {name for name in others if "/" in name or not name.endswith(".md")} == set()


def test_how_to_cite_is_whole():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert {"cff-version", "message", "title", "authors"} <= set(
        cited
    )  # the format's required keys
    assert cited["version"] == labkit.__version__ and cited["license"] == "Apache-2.0"
    assert cited["repository-code"] == f"https://github.com/{launch.REPOSITORY}"


def test_readmes_pictures_are_there_and_small():
    readme = (ROOT / "README.md").read_text("utf8")
    shown = re.findall(r"^!\[(.+)\]\((?!http)(.+)\)$", readme, re.M)
    assert {".github/live-ppo.png", ".github/film.png", ".github/panel-light.png"} <= {
        file for _, file in shown
    }
    sizes = [(ROOT / file).stat().st_size for _, file in shown]
    assert all(1_000 < size < 300_000 for size in sizes) and sum(sizes) < 1_500_000
    assert all(len(alt.split()) > 5 for alt, _ in shown)


def test_readmes_own_links_lead_somewhere():
    readme = (ROOT / "README.md").read_text("utf8")
    heads = {
        re.sub(r"[^\w -]", "", head).replace(" ", "-").lower()
        for head in re.findall(r"^#+ (.+)$", readme, re.M)
    }
    for link in re.findall(r"\]\((?!http)([^)]+)\)", readme):
        assert link[1:] in heads if link[0] == "#" else (ROOT / link).exists(), link


# --- what the notebooks take ---------------------------------------------------------------------

WORDS = {
    1: ("a minute on", "than a minute on"),
    2: ("2 minutes on", "two minutes on", "a minute or two on", "a minute and a half on"),
}


def head_of(page: Path) -> str:
    return nbformat.read(page, 4).cells[0].source.lower()


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_a_notebook_says_what_the_table_says(page):
    [lab] = [lab for lab in launch.LABS if lab.page == page.name]
    head = head_of(page)
    assert any(words in head for words in WORDS[lab.minutes]), head
    assert f"{lab.memory:g} gb" in head, head


def test_the_table_names_what_is_there():
    assert [lab.page for lab in launch.LABS] == [page.name for page in NOTEBOOKS]
    readme = (ROOT / "README.md").read_text("utf8")
    assert [row[1] for row in launch.ROW.findall(readme)] == [lab.file for lab in launch.LABS]


def test_notebook_00_shows_the_map_as_it_is_drawn():
    """Else: run it again (make notebooks NOTEBOOKS=notebooks/00_start_here.ipynb)."""
    cells = nbformat.read(NOTEBOOKS[0], 4).cells
    [shown] = [one.outputs[0].data for one in cells if one.source.endswith("charts.course()")]
    assert shown == charts.course()._repr_mimebundle_()


def asked_for(page: Path) -> set[str]:
    """The stages whose runs a notebook's cells take up."""
    code = "\n".join(cell.source for cell in nbformat.read(page, 4).cells if "outputs" in cell)
    named = re.findall(r"notebook\.(?:using|finished)\(([^)]*)\)", code)
    return {name.lower() for one in named for name in re.findall(r'"(\w+)"', one)}


@pytest.mark.parametrize("lab", launch.LABS[:-1], ids=lambda lab: lab.file)
def test_a_notebook_needs_what_its_cells_take_up(lab):
    needs = asked_for(ROOT / "notebooks" / lab.page)
    assert needs == set(lab.needs.split()) | ({"pretrain"} if lab.file[:2] == "01" else set())


# --- Colab ---------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_setup_cell_brings_the_project_into_colab(tmp_path):
    seen = colab.rehearse(tmp_path)
    assert seen["installed"] == ["rlhf_labkit"]  # whatever was there stays, torch above all
    assert Path(seen["labkit"]).is_relative_to(tmp_path / "venv")
    assert not Path(seen["torch"]).is_relative_to(tmp_path)
    assert Path(seen["sft"]).is_relative_to(tmp_path / "venv")  # the checkpoints came along
    assert seen["runs"] == str(tmp_path / "content/runs")
    assert seen["told"] == ["custom widgets"]
    assert "text/html" in seen["chart"] and "application/vnd.plotly.v1+json" not in seen["chart"]
    assert "profile tiny on" in seen["said"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_setup_cell_that_brings_nothing_is_seen(tmp_path):
    broken = launch.SETUP.format(repository=launch.REPOSITORY).replace("%pip install", "%pip -V ")
    with pytest.raises(AssertionError, match="No module named 'labkit'"):
        colab.rehearse(tmp_path, cell=broken)
