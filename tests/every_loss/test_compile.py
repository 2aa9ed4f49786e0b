"""Compiled without a graph break, and on the meta device: no loss looks at a value."""

import shutil

import pytest
import torch
from torch.testing import assert_close

from tests.objectives.factory import (
    LOSSES,
    WORLDS,
    Held,
    gradients,
    make_moa,
    make_moawm,
    make_total,
    make_world,
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
    assert_same_as_eager(loss, torch.compile(loss, fullgraph=True, **options), batch)


def assert_same_as_eager(loss, compiled, batch, **tolerance):
    expected, expected_grads = loss(batch), gradients(loss, batch)
    found = compiled(batch)
    assert list(found.keys()) == list(expected.keys())
    for key, value in expected.items():
        if key != "entropy" or getattr(loss, "entropy_coeff", 1) != 0:
            assert_close(found[key], value, msg=lambda m, key=key: f"{key}: {m}", **tolerance)
    parameters = list(loss.parameters())
    grads = torch.autograd.grad(terms(found), parameters, allow_unused=True, materialize_grads=True)
    assert_close(dict(zip(expected_grads, grads, strict=True)), expected_grads, **tolerance)


@pytest.mark.parametrize(  # the other cases: with dynamic shapes or slowly, below
    ("name", "action_type", "dead"),
    [(name, "continuous", 0.3) for name in ("moa", "cvae", "policy")],
)
def test_compiled_gives_the_same_value_and_gradient(name, action_type, dead, generator):
    batch = make_batch((7,), action_type=action_type, dead_fraction=dead, generator=generator)
    assert_compiled_equals_eager(build(name, action_type), batch, backend="aot_eager")


inductor = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


@inductor
def test_compiled_by_inductor_gives_the_same(generator):
    batch = make_batch((7,), dead_fraction=0.3, generator=generator)
    critic = module(torch.nn.Linear(5, 1), ["observation"], ["state_value"])
    assert_compiled_equals_eager(ClipPPOValueLoss(critic), batch)


@pytest.mark.slow
@inductor
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("name", "action_type", "dead"), CASES)
def test_every_loss_compiled_by_inductor(name, action_type, dead, dynamic, generator):
    batch = make_batch((7,), action_type=action_type, dead_fraction=dead, generator=generator)
    assert_compiled_equals_eager(build(name, action_type), batch, dynamic=dynamic)


def slowly(*cases):
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


CONTINUOUS = [("moa", "continuous"), ("cvae", "continuous"), ("policy", "continuous")]
SUMS = {"moawm": make_moawm, "total": make_total}


@pytest.mark.parametrize(
    ("name", "action_type"),
    [
        *((name, "categorical") for name in LOSSES),
        *slowly(*CONTINUOUS, *((name, "categorical") for name in SUMS)),
    ],
)
def test_one_compilation_serves_every_number_of_samples(name, action_type, generator):
    torch._dynamo.reset()
    loss = SUMS[name](action_type) if name in SUMS else build(name, action_type)
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    batches = [
        make_batch((size,), action_type=action_type, dead_fraction=0.3, generator=generator)
        for size in (7, 9, 12)  # 3, 4 and 5 are the agents, actions and features
    ]
    loss(batches[0])
    assert_same_as_eager(loss, compiled, batches[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in batches[1:]:
            assert_same_as_eager(loss, compiled, batch)


@pytest.mark.parametrize("name", [*LOSSES, "total"])
def test_an_eager_call_between_compiles_nothing_again(name, generator):
    """What a loss keeps for its next eager call is not looked at by a graph."""
    torch._dynamo.reset()
    loss = SUMS[name]("categorical") if name in SUMS else build(name, "categorical")
    batch = make_batch((7,), dead_fraction=0.3, generator=generator)
    compiled = torch.compile(loss, backend="eager")
    expected = compiled(batch)
    with torch.compiler.set_stance("force_eager"):
        loss(batch)
    with torch.compiler.set_stance("fail_on_recompile"):
        found = compiled(batch)
    same = [key for key in loss.out_keys if key in ("loss_moa", "loss_obs", "loss_objective")]
    assert_close(found.select(*same).to_dict(), expected.select(*same).to_dict())


@pytest.mark.parametrize("name", WORLDS)
def test_one_compilation_serves_what_more_a_world_model_is_asked(name, generator):
    torch._dynamo.reset()
    loss = make_world(**WORLDS[name])
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    batches = [make_batch((size, 8), dead_fraction=0.3, generator=generator) for size in (7, 9, 12)]
    loss(batches[0])
    assert_same_as_eager(loss, compiled, batches[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in batches[1:]:
            assert_same_as_eager(loss, compiled, batch)


@pytest.mark.slow
@inductor
@pytest.mark.parametrize("name", WORLDS)
def test_a_world_model_that_is_asked_more_compiled_by_inductor(name, generator):
    batch = make_batch((7, 8), dead_fraction=0.3, generator=generator)
    assert_compiled_equals_eager(make_world(**WORLDS[name]), batch)


@pytest.mark.parametrize(
    "name", ["moa", "policy", *slowly(*((n,) for n in LOSSES if n not in ("moa", "policy")))]
)
def test_compiled_under_autocast(name, generator):
    """Near the eager result: compiled, less is rounded to bfloat16 on the way."""
    torch._dynamo.reset()
    batch, loss = make_batch((7,), dead_fraction=0.3, generator=generator), LOSSES[name]()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        found = compiled(batch)
        assert all(value.dtype == torch.float32 for value in found.values())
        assert_same_as_eager(loss, compiled, batch, rtol=1e-2, atol=1e-2)


def test_values_are_not_looked_at_in_compiled_code(generator):
    torch._dynamo.reset()
    loss, batch = LOSSES["value"](), make_batch((7,), generator=generator)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    compiled(batch)
    batch["agents", "value_target"][1, 1] = torch.nan
    assert compiled(batch)["loss_value"].isnan()
    with pytest.raises(ValueError, match="NaN or infinite"):
        loss(batch)


@pytest.mark.parametrize("name", LOSSES)
def test_an_ensemble_of_networks_by_vmap(name, generator):
    """The same loss under several parameters at once, values and gradients."""
    batch = make_batch((7,), dead_fraction=0.3, generator=generator)
    members = [Held(LOSSES[name]()) for _ in range(3)]
    parameters = [dict(member.named_parameters()) for member in members]
    stacked = {key: torch.stack([p[key] for p in parameters]).detach() for key in parameters[0]}

    def value(given):
        return torch.func.functional_call(members[0], given, (batch,))

    found_grads, found = torch.vmap(torch.func.grad_and_value(value))(stacked)
    for index, member in enumerate(members):
        assert_close(found[index], member(batch))
        for key, gradient in gradients(member.loss, batch).items():
            assert_close(found_grads["loss." + key][index], gradient, msg=key)


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


def asked_more():
    return make_world(**WORLDS["everything"])


@pytest.mark.parametrize("make", [*LOSSES.values(), make_moawm, make_total, asked_more])
@pytest.mark.parametrize("dead", [0.0, 0.3])
def test_on_the_meta_device(make, dead):
    """Nothing there has a value: ``.item()``, ``.cpu()`` or a branch on one would fail."""
    batch, loss = make_batch((7, 3), dead_fraction=dead), make()
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
