"""The list of small bugs is up to date, and a test notices each of them."""

import subprocess
import sys

import pytest

from tests.mutants import ROOT, TABLE, Mutant, code_spans, mutants, staleness


def test_every_mutant_can_be_applied():
    assert [error for mutant in mutants() if (error := staleness(mutant))] == []


def test_the_mutants_are_of_every_file_with_a_formula_or_a_loss():
    folders = (ROOT / "torchrl_moawm" / name for name in ("functional", "objectives"))
    files = {path for folder in folders for path in folder.glob("*.py")}
    found = {ROOT / mutant.path for mutant in mutants()}
    assert found == {path for path in files if path.name != "__init__.py"}


def test_the_table_lists_every_mutant():
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [m.name for m in mutants()]


SOURCE = '''
def one(x):
    """x + 1"""
    return x + 1


def two(x):
    return x + 1 + (x + 1)
'''


def a_mutant(function, old="x + 1", new="x - 1"):
    return Mutant("a name", f"file.py:{function}", old, new, ())


def test_a_mutant_changes_the_code_of_its_function_and_not_the_docstring():
    expected = SOURCE.replace("    return x + 1\n", "    return x - 1\n")
    assert a_mutant("one").applied(SOURCE) == expected
    (before, behind) = code_spans(SOURCE, "one")
    assert SOURCE[slice(*before)] + SOURCE[slice(*behind)] == "def one(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    ("mutant", "message"),
    [
        (a_mutant("two"), "stale, found 2 times"),
        (a_mutant("one", old="x + 2"), "stale, found 0 times"),
        (a_mutant("three"), "There is no three any more"),
    ],
)
def test_a_stale_mutant_is_refused(mutant, message):
    with pytest.raises(ValueError, match=message):
        mutant.applied(SOURCE)


@pytest.mark.slow
def test_every_mutant_is_killed_or_explained():
    done = subprocess.run([sys.executable, "tests/mutants.py"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()
