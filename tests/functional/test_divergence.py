"""diagonal_gaussian_kl and free_nats."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from tests.functional.checks import gradients
from torchrl_moawm.functional import (
    diagonal_gaussian_kl,
    diagonal_gaussian_nll,
    free_nats,
    squared_error_norm,
)


@pytest.fixture
def gaussians(normal):
    """Means and standard deviations of p and q, ``[4, 2, 3]``."""
    return normal(4, 2, 3), normal(4, 2, 3).exp(), normal(4, 2, 3), normal(4, 2, 3).exp()


def loop(loc_p, scale_p, loc_q, scale_q):
    total = 0.0
    for m, s, n, t in zip(
        loc_p.tolist(), scale_p.tolist(), loc_q.tolist(), scale_q.tolist(), strict=True
    ):
        total += 0.5 * (math.log(t**2 / s**2) + (s**2 + (m - n) ** 2) / t**2 - 1.0)
    return total


def test_by_hand():
    loc_p, scale_p = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 4.0])
    loc_q, scale_q = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])
    # first: (3 - 1)^2 / 2 = 2; second: (log(4 / 16) + 16 / 4 - 1) / 2 = 3/2 - log 2
    expected = torch.tensor(3.5 - math.log(2.0))
    assert_close(diagonal_gaussian_kl(loc_p, scale_p, loc_q, scale_q), expected)


def test_the_order_of_the_arguments_by_hand():
    zero, one = torch.zeros(1), torch.ones(1)
    wide = diagonal_gaussian_kl(zero, 2 * one, zero, one)  # (log(1/4) + 4 - 1) / 2
    narrow = diagonal_gaussian_kl(zero, one, zero, 2 * one)  # (log 4 + 1/4 - 1) / 2
    assert_close(wide, torch.tensor(1.5 - math.log(2.0)))
    assert_close(narrow, torch.tensor(math.log(2.0) - 0.375))


def test_against_a_loop(gaussians):
    value = diagonal_gaussian_kl(*gaussians)
    for b in range(4):
        for i in range(2):
            assert_close(value[b, i].item(), loop(*(x[b, i] for x in gaussians)))


def test_against_torch_distributions(gaussians):
    p, q = (Independent(Normal(*gaussians[k : k + 2]), 1) for k in (0, 2))
    assert_close(diagonal_gaussian_kl(*gaussians), kl_divergence(p, q))


def test_unit_scales_give_half_the_squared_error_norm(normal):
    loc_p, loc_q, one = normal(4, 3), normal(4, 3), torch.ones(4, 3, dtype=torch.float64)
    half = squared_error_norm(loc_p, loc_q) / 2
    assert_close(diagonal_gaussian_kl(loc_p, one, loc_q, one), half)


def test_is_cross_entropy_minus_entropy(gaussians):
    loc_p, scale_p, loc_q, scale_q = gaussians
    spread = (scale_p / scale_q).square().sum(-1) / 2
    cross_entropy = diagonal_gaussian_nll(loc_q, scale_q, loc_p) + spread
    entropy = diagonal_gaussian_nll(loc_p, scale_p, loc_p) + 3 / 2  # D / 2
    assert_close(diagonal_gaussian_kl(*gaussians), cross_entropy - entropy)


def test_is_invariant_to_a_common_shift_and_scale(gaussians):
    loc_p, scale_p, loc_q, scale_q = gaussians
    moved = diagonal_gaussian_kl(5 * loc_p + 7, 5 * scale_p, 5 * loc_q + 7, 5 * scale_q)
    assert_close(moved, diagonal_gaussian_kl(*gaussians))


def test_adds_over_dimensions(gaussians):
    parts = sum(diagonal_gaussian_kl(*(x[..., d : d + 1] for x in gaussians)) for d in range(3))
    assert_close(diagonal_gaussian_kl(*gaussians), parts)


def test_closed_form_gradients(gaussians):
    loc_p, scale_p, loc_q, scale_q = gaussians
    distance, variance = loc_p - loc_q, scale_q.square()
    expected = (
        distance / variance,
        scale_p / variance - 1 / scale_p,
        -distance / variance,
        1 / scale_q - (scale_p.square() + distance.square()) / scale_q.pow(3),
    )
    assert_close(gradients(diagonal_gaussian_kl, *gaussians), expected)


def test_shapes_that_would_broadcast_are_refused():
    one, column = torch.ones(2), torch.ones(2, 1)
    message = r"loc_p \[2, 1\], scale_p \[2\], loc_q \[2\], scale_q \[2\]"
    with pytest.raises(ValueError, match=message):
        diagonal_gaussian_kl(column, one, one, one)


def test_integers_are_refused():
    one = torch.ones(2)
    with pytest.raises(TypeError, match=r"Expected scale_q of a floating dtype, got torch.int64"):
        diagonal_gaussian_kl(one, one, one, one.long())


# ------------------------------------------------------------------------ free_nats


def test_free_nats_by_hand():
    """Gradient 1 above the threshold, 0 below; at it torch 2.13 says 1 and 2.14 a half."""
    kl = torch.tensor([0.5, 1.0, 2.0])
    assert_close(free_nats(kl, 1.0), torch.tensor([1.0, 1.0, 2.0]), rtol=0, atol=0)
    gradient = gradients(lambda x: free_nats(x, 1.0), kl[::2])[0]
    assert_close(gradient, torch.tensor([0.0, 1.0]))


def test_free_nats_of_nothing_are_the_divergence(gaussians):
    kl = diagonal_gaussian_kl(*gaussians)
    assert torch.equal(free_nats(kl, 0.0), kl)


def test_free_nats_are_of_the_sum_over_dimensions():
    """0.6 nats in each of two dimensions: 1.2 are above a threshold of 1, each alone is not."""
    zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    kl = diagonal_gaussian_kl(one * math.sqrt(1.2), one, zero, one)
    assert_close(free_nats(kl, 1.0).item(), 1.2)


def test_free_nats_refuse_integers():
    with pytest.raises(TypeError, match=r"Expected kl of a floating dtype, got torch.int64"):
        free_nats(torch.ones(2).long(), 1.0)
