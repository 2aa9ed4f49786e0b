"""The tables of partners.md: shares, equal seconds, and where a share says nothing."""

import re

import numpy as np
import pytest

from studies import partners_cells, partners_page
from studies.partners_cells import Results
from studies.partners_numbers import OURS

RETURNS = {  # by agent: at the first batch, at half, at the end
    "type_oracle": (0.0, 0.8, 1.0),
    "nam": (0.0, 0.0, 0.0),
    OURS: (0.0, 0.4, 0.9),
    "liam": (0.0, 0.3, 0.7),
}


def made(values=RETURNS, seeds=2):
    """Two equal seeds of each agent."""
    runs, probes = {}, {}
    for agent, (first, half, last) in values.items():
        run = {
            f"step_{i}": {"step_count": 50 * i, "return_held_out": [value]}
            for i, value in enumerate((first, half, last))
        }
        runs[agent] = [run] * seeds
        probes[agent] = [{"returns": {"held_out": last, "switching": last / 2}}] * seeds
    limit = {"returns": {"held_out": 0.75}}
    return Results({"t": runs}, {"t": probes}, {"t": {"type_oracle": [limit]}})


def test_shares_by_hand():
    results = made()
    assert results.share("t", OURS) == "90% [90, 90]"
    assert results.share("t", OURS, 0.5) == "50% [50, 50]"  # of what the oracle has by then
    assert results.of_the_limit("t", OURS) == "120% [120, 120]"
    assert results.of_the_limit("t", OURS, 0.5) == "53% [53, 53]"  # of the limit at the end
    assert results.lead("t", "liam", 0.5) == "+0.10 [+0.10, +0.10]"


def test_a_share_of_hardly_any_gap_is_left_out():
    early = made({**RETURNS, "type_oracle": (0.0, 0.09, 1.0)})
    assert early.share("t", OURS, 0.5) == ""
    assert early.share("t", OURS) == "90% [90, 90]"


def test_equal_seconds_by_hand(monkeypatch):
    """Ours takes 1.2 times as long: at 50 of its frames it is beside LIAM at 60."""
    monkeypatch.setattr(partners_cells, "SECONDS", {OURS: 1.2, "liam": 1.0})
    liam = 0.3 + 0.4 * 10 / 50
    shown = f"{0.4 - liam:+.2f}"
    assert made().lead_in_seconds("t", "liam") == f"{shown} [{shown}, {shown}]"
    assert made().lead_in_seconds("t", "nam") == ""


def test_digits_follow_the_size_of_a_return():
    assert partners_cells.mean(np.array([0.5, 0.5])) == "0.50 [0.50, 0.50]"
    assert partners_cells.mean(np.array([53.21, 53.21])) == "53.2 [53.2, 53.2]"
    assert partners_cells.signed(np.array([53.2]), np.array([52.9])) == "+0.3 [+0.3, +0.3]"
    assert partners_cells.mean(np.array([0.0432, 0.0432])) == "0.043 [0.043, 0.043]"
    assert partners_cells.signed(np.array([0.0432]), np.array([0.04])) == "+0.003 [+0.003, +0.003]"


@pytest.mark.parametrize("table", ["results", "leads", "parts", "switching", "limit", "foraging"])
def test_the_committed_tables_are_whole(table):
    """Every task and agent has its row, and no cell is a number that there is not."""
    from studies import page_tables

    text = page_tables.tables()["benchmarks/partners.md"][table]
    tasks = partners_page.FORAGING if table == "foraging" else partners_page.TASKS
    assert all(f"| {task}" in text for task in tasks)
    assert not re.search(r"nan|inf\b", text)
    columns = {line.count("|") for line in text.splitlines()}
    assert len(columns) == 1
