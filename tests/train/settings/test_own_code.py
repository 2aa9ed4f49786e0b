"""What is called by name, and the message where it does not take what it is given."""

import functools

import pytest

from torchrl_moawm.train.settings import own_code
from torchrl_moawm.train.settings.own_code import find_for


class Meta(type):
    """A metaclass whose call takes anything, as that of TorchRL's environments."""

    def __call__(cls, *given, **settings):
        return super().__call__(*given, **settings)


class Env(metaclass=Meta):
    """Takes no device."""

    def __init__(self, n, seed):
        self.n = n


def inner(n, seed):
    return n


@functools.wraps(inner)
def wrapper(n, device, **rest):
    return inner(n, **rest)


def named(n, name):
    return name


@pytest.fixture
def given(monkeypatch):
    def give(function):
        monkeypatch.setitem(own_code.GIVEN, "given:one", function)
        return "given:one"

    return give


@pytest.mark.parametrize("function", [Env, inner, functools.partial(inner, seed=1), lambda n: n])
def test_what_is_not_taken_is_named(function, given):
    with pytest.raises(
        ValueError, match=r"given:one cannot be called as \(\.\.\., device=\.\.\.\)"
    ):
        find_for(given(function), 3, device="cpu")


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        (Env, {"seed": 1}),
        (wrapper, {"seed": 1, "device": "cpu"}),
        (functools.partial(inner, seed=1), {}),
        (named, {"name": "one"}),
        (dict, {}),
        (max, {}),  # has no signature
    ],
)
def test_what_can_be_called_is_given(function, settings, given):
    found = find_for(given(function), *([] if function is dict else [3]), **settings)
    assert found is function


def test_an_error_of_the_module_itself_is_not_one_of_the_call(tmp_path, monkeypatch):
    (tmp_path / "broken_on_import.py").write_text("x = len(5)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(own_code.VARIABLE, "broken_on_import:f")
    with pytest.raises(TypeError, match="has no len"):
        find_for("broken_on_import:f", 1)
