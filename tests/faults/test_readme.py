"""The table of the faults is that of the tests."""

from pathlib import Path

import pytest

from tests.faults.table import ALL, SURVIVED
from tests.faults.test_refused import REFUSED
from tests.faults.test_survived import test_autocast
from tests.faults.test_weights import COEFFICIENTS

README = Path(__file__).parent / "README.md"


def losses(names):
    """The names, or "every loss" where all are among them."""
    rest = [name for name in names if name not in ALL]
    return ", ".join(["every loss", *rest] if set(ALL) <= set(names) else names)


def table():
    """One row a fault, as it stands in the README."""
    kept = [
        f"| {fault} | {losses(names)} | survived | {result} |"
        for fault, (names, result) in SURVIVED.items()
    ]
    refused = [
        f"| {fault} | {losses(row.losses)} | refused | {row.error.__name__}: `{row.message}` |"
        for fault, row in REFUSED.items()
    ]
    having = losses(tuple(dict.fromkeys(name for name, _ in COEFFICIENTS)))
    weights = (
        f"| weight or clip range that is negative, NaN or inf | {having} | refused | "
        "ValueError: `Expected ... to be finite and at least 0, got ...` |"
    )
    head = ["| fault | where | outcome | result or message |", "|---|---|---|---|"]
    return [*head, *kept, *refused, weights]


@pytest.mark.parametrize("row", table())
def test_every_fault_has_its_row(row):
    assert row in README.read_text().splitlines()


def test_every_row_has_its_fault():
    rows = [line for line in README.read_text().splitlines() if line.startswith("|")]
    assert rows == table()


def test_faults_are_registered():
    """So that an empty register cannot pass."""
    assert test_autocast.pytestmark
    assert len(SURVIVED) >= 20
    assert len(REFUSED) >= 40


if __name__ == "__main__":
    print("\n".join(table()))
