"""Every public name is in the reference, once."""

import importlib
from collections import Counter

import pytest

from tests.docs.pages import directives

MODULES = ("", ".functional", ".modules", ".objectives", ".transforms", ".envs", ".system")
MODULES = [f"torchrl_moawm{name}" for name in (*MODULES, ".testing", ".train")]


def found(name):
    module, _, leaf = name.rpartition(".")
    return getattr(importlib.import_module(module), leaf)


@pytest.mark.parametrize("module", MODULES)
def test_no_public_name_is_missing(module):
    documented = {id(found(name)) for name in directives()}
    public = importlib.import_module(module)
    assert [name for name in public.__all__ if id(getattr(public, name)) not in documented] == []


def test_everything_documented_is_public_and_stands_once():
    for name in directives():
        module, _, leaf = name.rpartition(".")
        assert leaf in importlib.import_module(module).__all__, name
    assert max(Counter(id(found(name)) for name in directives()).values()) == 1
