"""The verdicts on TorchRL's losses are those of the table in the documentation."""

import re

import pytest
import torchrl

from tests.docs.pages import read
from tests.docs.test_pages import table, words
from tests.testing.torchrl_losses import LOSSES, make
from torchrl_moawm.testing import check_loss_module
from torchrl_moawm.testing.contract import RULES

PAGE = "benchmarks/contract.md"
VERSION = re.search(r"torchrl (\d+\.\d+\.\d+)", read(PAGE)).group(1)
ROWS = {words(row[0])[0]: row for row in table(PAGE)}


def test_the_table_has_every_loss_once():
    assert [words(row[0])[0] for row in table(PAGE)] == list(LOSSES)
    assert f"{len(LOSSES)} losses of torchrl {VERSION}" in read(PAGE)
    assert f"by {len(RULES)} rules" in read(PAGE)


@pytest.mark.skipif(torchrl.__version__ != VERSION, reason=f"the table is of torchrl {VERSION}")
@pytest.mark.parametrize("name", LOSSES)
def test_the_verdict_is_that_of_the_table(name):
    _, keeps, breaks, _ = ROWS[name]
    broken = check_loss_module(*make(name), report=True)
    assert list(broken) == words(breaks)
    assert keeps == f"{len(RULES) - len(broken)} of {len(RULES)}"
