"""What the pages say of losses, functions and keys is so."""

import re

import pytest

from tests.docs.pages import PAGES, names, read
from torchrl_moawm import functional, objectives, testing

LOSSES = [
    name
    for name in objectives.__all__
    if hasattr(getattr(objectives, name), "_AcceptedKeys") and name != "MultiAgentLoss"
]
"""All but the base, which has no formula."""


def table(page, number=0):
    """Cells of a table of a page, without its head."""
    tables = re.findall(r"(?:^\|.*\n)+", read(page), re.MULTILINE)
    rows = tables[number].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def words(text):
    return re.findall(r"`(\w+)`", text)


def test_the_table_of_losses_names_every_loss_and_existing_functions():
    rows = table("losses/index.md")
    assert {name for row in rows for name in words(row[2])} == set(LOSSES)
    assert {name for row in rows for name in words(row[3])} <= set(functional.__all__)


def test_the_page_of_keys_names_every_entry_of_a_batch():
    now, after = (
        {name for row in table("concepts/keys.md", i) for name in words(row[0])} for i in (0, 1)
    )
    batch = testing.make_batch(dead_fraction=0.5, waiting_fraction=0.5)
    assert set(batch["agents"].keys()) <= now
    assert set(batch["next", "agents"].keys()) <= now | after


@pytest.mark.parametrize("name", LOSSES)
def test_the_page_of_keys_names_every_default_key(name):
    keys = set(words(read("concepts/keys.md")))
    fields = getattr(objectives, name)._AcceptedKeys.__dataclass_fields__
    assert [field.default for field in fields.values() if field.default not in keys] == []


@pytest.mark.parametrize("name", [name for name in LOSSES if "Sum" not in name])
def test_the_page_of_a_loss_names_its_outputs(name):
    (page,) = (page for page in names() if f"::: torchrl_moawm.{name}\n" in read(page))
    documented = getattr(objectives, name).__doc__.split("Returns:")[1].split("Raises:")[0]
    assert set(re.findall(r"``(loss_\w+)``", documented)) - set(words(read(page))) <= (
        {f"loss_{term}" for term in ("moa", "obs", "reward", "reconstruction", "kl")}
        if name == "MOAWMLoss"  # the terms of the three losses
        else set()
    )


def test_every_page_has_one_title_and_stands_in_the_navigation():
    navigation = (PAGES.parent / "mkdocs.yml").read_text()
    for page in names():
        prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
        assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1, page
        assert page in navigation
