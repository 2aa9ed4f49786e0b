"""What the tests of the faults share: the losses by name, and a register of the faults."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.objectives.factory import LOSSES, make_moawm, make_total

SUMS = {"moawm": make_moawm, "total": make_total}
ALL = (*LOSSES, *SUMS)
AT = (1, 2)  # the sample and the agent that are spoiled
SURVIVED: dict[str, tuple[tuple[str, ...], str]] = {}


def build(name, action_type="categorical", **settings):
    """The loss of this name; ``"estimator"`` is the value estimator."""
    if name == "estimator":
        return LOSSES["value"](action_type, **settings).value_estimator
    return {**LOSSES, **SUMS}[name](action_type, **settings)


def survived(fault, result, losses=ALL):
    """One test per loss, ``survived: <fault>: <loss>``; the fault has a row in the README."""
    SURVIVED[fault] = losses, result
    return pytest.mark.parametrize("name", losses, ids=lambda name: f"survived: {fault}: {name}")


@dataclass
class Refused:
    """A fault that is refused: how the input is spoiled, and by which message one hears of it."""

    losses: tuple[str, ...]
    spoil: Callable[..., Any] | tuple[Callable[..., Any], ...]
    """From the batch and the loss; returns a batch, or spoils it. Several are several ways."""
    message: str
    """Of the error; ``...`` stands for anything."""
    error: type[Exception] = ValueError
    action_type: str = "categorical"
    make: Callable[[str], Any] | None = None
    """The loss by name, where the usual one will not do."""

    @property
    def ways(self):
        return self.spoil if isinstance(self.spoil, tuple) else (self.spoil,)

    @property
    def pattern(self):
        return ".*".join(re.escape(part) for part in self.message.split("..."))


def put(key, value, at=AT):
    """Spoils one element of an entry."""

    def spoil(batch, _):
        entry = batch[key].clone()
        entry[(*at, *[0] * (entry.ndim - len(at)))] = value
        batch[key] = entry

    return spoil


def change(key, function):
    """Replaces an entry by a function of it, whatever the shape."""

    def spoil(batch, _):
        group, name = key[:-1], key[-1]
        free = batch[group].clone().auto_batch_size_(1) if group else batch
        free[name] = function(free[name])
        return batch.exclude(group).set(group, free) if group else batch

    return spoil


def everywhere(function):
    """The function on every floating entry."""
    return lambda batch, _: batch.apply(lambda x: function(x) if x.is_floating_point() else x)


def same(found, expected, **tolerance):
    """Terms and logs are equal."""
    assert list(found.keys()) == list(expected.keys())
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, msg=lambda m, key=key: f"{key}: {m}", **tolerance
        )


def finite(gradients):
    """Finite, and not all 0."""
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert any(gradient.any() for gradient in gradients.values())
