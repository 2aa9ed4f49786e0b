"""Compiled without a graph break, and on the meta device: no loss looks at a value."""

import shutil

import pytest
import torch
from torch.testing import assert_close

from tests.objectives.factory import (
    LOSSES,
    gradients,
    make_moa,
    make_moawm,
    make_total,
    module,
    terms,
)
from torchrl_moawm import ClipPPOValueLoss
from torchrl_moawm.testing import make_batch

CASES = [
    *((name, "categorical", 0.0) for name in LOSSES),
    *((name, "categorical", 0.3) for name in LOSSES),
    *((name, "one-hot", 0.3) for name in ("moa", "cvae", "policy")),
    *((name, "continuous", 0.3) for name in ("moa", "cvae", "vae", "world_model", "policy")),
    ("moa", "continuous", 0.0),
]


def build(name, action_type):
    """The entropy of a continuous policy is sampled: without it."""
    sampled = name == "policy" and action_type == "continuous"
    return LOSSES[name](action_type, **({"entropy_coeff": 0.0} if sampled else {}))


def assert_compiled_equals_eager(loss, batch, **options):
    torch._dynamo.reset()
    expected, expected_grads = loss(batch), gradients(loss, batch)
    compiled = torch.compile(loss, fullgraph=True, **options)
    found = compiled(batch)
    assert list(found.keys()) == list(expected.keys())
    for key, value in expected.items():
        if key != "entropy" or loss.entropy_coeff != 0:
            assert_close(found[key], value, msg=key)
    parameters = list(loss.parameters())
    grads = torch.autograd.grad(terms(found), parameters, allow_unused=True, materialize_grads=True)
    assert_close(dict(zip(expected_grads, grads, strict=True)), expected_grads)


@pytest.mark.parametrize(("name", "action_type", "dead"), CASES)
def test_compiled_gives_the_same_value_and_gradient(name, action_type, dead, generator):
    batch = make_batch((7,), action_type=action_type, dead_fraction=dead, generator=generator)
    assert_compiled_equals_eager(build(name, action_type), batch, backend="aot_eager")


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_by_inductor_gives_the_same(generator):
    batch = make_batch((7,), dead_fraction=0.3, generator=generator)
    critic = module(torch.nn.Linear(5, 1), ["observation"], ["state_value"])
    assert_compiled_equals_eager(ClipPPOValueLoss(critic), batch)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_compiled_reductions(reduction, generator):
    batch = make_batch((7,), dead_fraction=0.3, generator=generator)
    assert_compiled_equals_eager(make_moa(reduction=reduction), batch, backend="aot_eager")


def test_a_coefficient_scheduled_after_compilation_counts(generator):
    torch._dynamo.reset()
    loss, batch = make_moa(), make_batch((7,), generator=generator)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    before = compiled(batch)["loss_moa"]
    loss.moa_coeff = 0.5
    assert_close(compiled(batch)["loss_moa"], 0.5 * before)


@pytest.mark.parametrize("make", [*LOSSES.values(), make_moawm, make_total])
@pytest.mark.parametrize("dead", [0.0, 0.3])
def test_on_the_meta_device(make, dead):
    """Nothing there has a value: ``.item()``, ``.cpu()`` or a branch on one would fail."""
    batch, loss = make_batch((7,), dead_fraction=dead), make()
    expected = loss(batch)
    found = loss.to("meta")(batch.to("meta"))
    assert list(found.keys()) == list(expected.keys())
    for key, value in expected.items():
        assert found[key].is_meta
        assert found[key].shape == value.shape
        assert found[key].requires_grad == value.requires_grad


@pytest.mark.parametrize("name", ["moa", "cvae", "vae", "world_model"])
def test_continuous_actions_on_the_meta_device(name):
    """TorchRL's ``TanhNormal`` cannot be built there, so not the policy."""
    batch = make_batch((7,), action_type="continuous", dead_fraction=0.3).to("meta")
    assert terms(LOSSES[name]("continuous").to("meta")(batch)).is_meta
