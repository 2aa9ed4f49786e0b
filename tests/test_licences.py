"""The pinned versions and the list of licences are those of what ``pyproject.toml`` asks for."""

import importlib.util
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CI = Path(__file__).parents[1] / ".ci"
spec = importlib.util.spec_from_file_location("licences", CI / "licences.py")
licences = importlib.util.module_from_spec(spec)
spec.loader.exec_module(licences)

PINS = dict(
    line.split("==")
    for line in (CI / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (CI / "licences.md").read_text().splitlines()
    if line.startswith("| ")
][1:]


@pytest.mark.parametrize("name", licences.direct())
def test_every_dependency_is_pinned_within_its_range_and_has_a_licence(name):
    assert name in PINS, "run python .ci/licences.py"
    assert PINS[name] in SpecifierSet(str(licences.direct()[name].specifier))
    ((version, asked, licence),) = [row[1:] for row in ROWS if row[0] == name]
    assert (version, asked) == (PINS[name], "yes")
    assert licence


def test_both_lists_hold_the_same():
    assert list(PINS) == [row[0] for row in ROWS] == sorted(PINS)
    assert all(name == canonicalize_name(name) for name in PINS)


def test_no_licence_that_nobody_has_looked_at():
    """Strong copyleft is VMAS alone, which the library does not import by itself."""
    copyleft = {name for name, _, _, licence in ROWS if "GPL" in licence and "LGPL" not in licence}
    assert copyleft == {"vmas"}
    assert not [row[0] for row in ROWS if row[3] in ("", "not stated", "UNKNOWN")]
