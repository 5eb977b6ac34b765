"""The tool of `make mutants` on something wrong, and its list against the present sources."""

import mutants
import pytest

TESTS = "sums::adds"


@pytest.fixture
def package(tmp_path):
    """A made-up labkit of one file, with one test and no data."""
    for folder in ("labkit", "tests", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "labkit/__init__.py").touch()
    (tmp_path / "labkit/sums.py").write_text("def add(a, b):\n    return a + b  # twice: b b\n")
    (tmp_path / "tests/test_sums.py").write_text(
        "from labkit.sums import add\n\n\ndef test_adds():\n    assert add(2, 3) == 5\n"
    )
    return tmp_path


def tried(package, old, new, tests=TESTS):
    mutant = mutants.Mutant("labkit/sums.py", old, new, tests)
    return mutants.run([mutant], package, preload=["pytest"])


def test_a_mutant_that_is_killed_names_its_test(package, capsys):
    assert tried(package, "a + b", "a - b") == 0
    said = capsys.readouterr().out
    assert "test_sums.py::test_adds" in said and "1 of 1 mutants were killed" in said
    assert "a + b" in (package / "labkit/sums.py").read_text()  # only a copy was changed


def test_a_mutant_that_changes_nothing_survives(package, capsys):
    assert tried(package, "a + b", "b + a") == 1
    said = capsys.readouterr().out
    assert "SURVIVED" in said and "0 of 1 mutants were killed" in said


@pytest.mark.parametrize(
    "old, tests, message",
    [
        ("a * b", TESTS, "found 0 times"),
        ("b b", TESTS, ""),
        ("b", TESTS, "found 4 times"),
        ("a + b", "sums::subtracts", "no such test"),
    ],
)
def test_a_mutant_out_of_date_is_an_error(package, capsys, old, tests, message):
    said = mutants.out_of_date([mutants.Mutant("labkit/sums.py", old, "", tests)], package)
    assert message in " ".join(said) and bool(said) == bool(message)
    if message:
        assert tried(package, old, "", tests) == 1 and message in capsys.readouterr().out


def test_a_test_that_fails_anyway_kills_nothing(package, capsys):
    (package / "tests/test_sums.py").write_text("def test_adds():\n    assert False\n")
    assert tried(package, "a + b", "a - b") == 1
    assert "fails without any change" in capsys.readouterr().out


def test_a_mutant_that_can_not_be_imported_kills_nothing(package):
    """Any test would notice."""
    with pytest.raises(RuntimeError, match="could not run"):
        tried(package, "a + b", "a +")


def test_every_mutant_is_up_to_date():
    assert len(mutants.MUTANTS) >= 45
    assert mutants.out_of_date(mutants.MUTANTS, mutants.ROOT) == []
