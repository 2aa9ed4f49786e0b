"""The list of small bugs is up to date, and a test notices each of them."""

import subprocess
import sys

import pytest

from tests.mutants import ROOT, TABLE, Mutant, code_spans, drawn, mutants, random_mutants, staleness


def test_every_mutant_can_be_applied():
    assert [error for mutant in mutants() if (error := staleness(mutant))] == []


def test_the_mutants_are_of_every_file_with_a_formula_or_a_loss():
    package = ROOT / "torchrl_moawm"
    folders = ("functional", "objectives", "modules", "transforms", "system")
    files = {path for name in folders for path in (package / name).glob("*.py")}
    found = {ROOT / mutant.path for mutant in mutants()}
    assert {path for path in files if path.name != "__init__.py"} <= found


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


# ------------------------------------------------------------------------ at random

LINES = [
    ("c = a + b", ["c = a - b"]),
    ("c = (a) * (b / d)", ["c = (a) / (b / d)", "c = (a) * (b * d)"]),
    ("c = a & ~b", ["c = a | ~b", "c = a & b"]),
    ("c = a <= b < d", ["c = a < b < d", "c = a <= b <= d"]),
    ("c = a and b or not d", ["c = a or b or not d", "c = a and b and not d", "c = a and b or d"]),
    ("c = a is not b", []),
    ("c = f(x=True)", ["c = f(x=False)"]),
    ("c = a[0] + 5", ["c = a[0] - 5", "c = a[0] + 6", "c = a[-1] + 5", "c = a[1] + 5"]),
    ("c = a.shape[-1]", ["c = a.shape[0]", "c = a.shape[-2]"]),
    ("c = (a - b).detach().x", ["c = (a - b).x", "c = (a + b).detach().x"]),
    ("c: Literal[1] | None = 2", ["c: Literal[1] | None = 3"]),
    ("raise E(f'{a + 1}', 1)", []),
    ("def f(x: Literal[1] = 2) -> Literal[3]:\n    '1 + 1'", ["Literal[1] = 3) -> Literal[3]"]),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_at_random_one_operator_or_number_changes(line, expected):
    source = f"import a\n\n{line}\n"
    found = [mutant.applied(source) for mutant in random_mutants(ROOT / "file.py", source)]
    assert len(found) == len(expected)
    assert all(any(text in one for one in found) for text in expected)


def test_a_seed_draws_the_same_from_the_whole_package():
    one, two = drawn(50, 0), drawn(50, 0)
    assert one == two != drawn(50, 1)
    assert len(set(one)) == 50
    assert len({mutant.path for mutant in one}) > 10
    for mutant in one:
        assert mutant.applied((ROOT / mutant.path).read_text())
        assert all((ROOT / test).exists() for tests in mutant.rounds for test in tests)


@pytest.mark.slow
def test_every_mutant_is_killed_or_explained():
    done = subprocess.run([sys.executable, "tests/mutants.py"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()
