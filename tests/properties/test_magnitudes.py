"""Values and gradients stay finite over sixty orders of magnitude (float32: twenty)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.objectives.factory import LOSSES, gradients
from tests.properties.strategies import batches, magnitudes, masks, numbers, signed, tensors
from torchrl_moawm import functional

SHAPE = (2, 3)
WIDE = {torch.float64: (1e-30, 1e30), torch.float32: (1e-10, 1e10)}
RATIOS = 1e4  # far beyond what exp can represent: the ratio is bounded

# One letter for each argument: x any sign, s a scale, l a log-ratio.
FUNCTIONS = {
    "diagonal_gaussian_kl": "xsxs",
    "diagonal_gaussian_nll": "xsx",
    "squared_error_norm": "xx",
    "clipped_value_loss": "xxx",
    "clipped_policy_loss": "lx",
    "masked_mean": "x",
}
dtypes = pytest.mark.parametrize("dtype", WIDE)


def assert_finite(function, *args):
    args = [arg.clone().requires_grad_() for arg in args]
    value = function(*args)
    grads = torch.autograd.grad(value.sum(), args)
    assert value.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)


def arguments(letters, dtype):
    kinds = {
        "x": signed(*WIDE[dtype]),
        "s": magnitudes(*(10.0**e for e in ((-30, 30) if dtype == torch.float64 else (-4, 4)))),
        "l": numbers(RATIOS),
    }
    rounded = {
        name: kind.map(lambda v: torch.tensor(v, dtype=dtype).item())
        for name, kind in kinds.items()
    }
    return st.tuples(*(tensors(SHAPE, rounded[letter], dtype) for letter in letters))


@dtypes
@pytest.mark.parametrize("name", FUNCTIONS)
@given(st.data(), st.floats(0.0, 1.0))
def test_of_a_function(name, dtype, data, eps):
    function = getattr(functional, name)
    clip = (eps,) if name.startswith("clipped") else ()
    args = data.draw(arguments(FUNCTIONS[name], dtype))
    assert_finite(lambda *x: function(*x, *clip), *args)


@dtypes
@given(st.data(), masks(5, 3, 1))
def test_of_the_normalised_advantage(dtype, data, mask):
    """Constant, single and almost constant advantages of an agent included."""
    magnitude = data.draw(signed(*WIDE[dtype]))
    few = st.sampled_from([0.0, 1.0, 1.0 + 1e-6, -1.0])
    advantage = magnitude * data.draw(tensors((5, 3, 1), few)).to(dtype)
    assert_finite(lambda x: functional.normalized_advantage(x, mask), advantage)


@dtypes
@given(st.data(), st.lists(st.integers(0, 3), min_size=2, max_size=2))
def test_of_the_cross_entropy(dtype, data, chosen):
    logits = data.draw(arguments("x", dtype))[0]
    extended = torch.cat([logits, torch.full((2, 1), -1.0, dtype=dtype)], -1)
    actions = torch.tensor(chosen)
    assert_finite(lambda x: functional.moa_cross_entropy(x, actions), extended)


@pytest.mark.parametrize("name", [name for name, letters in FUNCTIONS.items() if "s" in letters])
@given(st.data())
def test_of_a_scale_that_is_zero(name, data):
    """There is a floor under it: value and gradient are huge there, but they are numbers."""
    letters = FUNCTIONS[name]
    at = data.draw(st.sampled_from([k for k, letter in enumerate(letters) if letter == "s"]))
    args = list(data.draw(arguments(letters.replace("x", "l"), torch.float64)))
    args[at] = torch.zeros(SHAPE, dtype=torch.float64)
    assert_finite(getattr(functional, name), *args)


SCALED = (
    "observation",
    "previous_observation",
    "latent",
    "latent_noise",
    "feature",
    "teacher_feature",
    "state_value",
    "value_target",
    "advantage",
)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25)
@given(st.data(), st.sampled_from(["categorical", "continuous"]), st.integers(-30, 30))
def test_of_a_loss_module(name, data, action_type, exponent):
    """Everything that has a unit, in another unit."""
    batch = data.draw(batches(action_type))
    factor = 10.0**exponent
    for key in SCALED:
        batch["agents", key] = factor * batch["agents", key]
    for key in ("observation", "reward"):
        batch["next", "agents", key] = factor * batch["next", "agents", key]
    loss = LOSSES[name](action_type).double()
    assert all(value.isfinite().all() for value in loss(batch).values())
    assert all(grad.isfinite().all() for grad in gradients(loss, batch).values())
