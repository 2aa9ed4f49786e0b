"""KL >= 0, and 0 only at equality."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.properties.strategies import magnitudes, numbers, tensors
from torchrl_moawm.functional import diagonal_gaussian_kl, diagonal_gaussian_nll

SHAPE = (2, 3)
LOCS = tensors(SHAPE, numbers())
SCALES = tensors(SHAPE, magnitudes(1e-3, 1e3))


def rounding(loc_p, scale_p, loc_q, scale_q):
    """What float64 may lose among the summands."""
    parts = ((scale_p / scale_q) ** 2 + ((loc_p - loc_q) / scale_q) ** 2).sum(-1)
    return 1e-14 * (10.0 + parts)


@given(LOCS, SCALES, LOCS, SCALES)
def test_is_never_negative(loc_p, scale_p, loc_q, scale_q):
    four = loc_p, scale_p, loc_q, scale_q
    assert (diagonal_gaussian_kl(*four) >= -rounding(*four)).all()


@given(tensors(SHAPE, numbers(1e30)), tensors(SHAPE, magnitudes()))
def test_of_a_gaussian_with_itself_is_exactly_zero(loc, scale):
    assert (diagonal_gaussian_kl(loc, scale, loc.clone(), scale.clone()) == 0.0).all()


steps = st.floats(1e-5, 10.0) | st.floats(-0.9, -1e-5)


@given(LOCS, SCALES, st.integers(0, 2), steps, st.booleans())
def test_of_two_that_differ_in_one_number_is_above_zero(loc, scale, d, step, in_scale):
    """The mean moved by a share of the standard deviation, or the standard deviation itself."""
    moved = scale.clone() if in_scale else loc.clone()
    moved[1, d] += step * scale[1, d]
    assume(moved[1, d] != (scale if in_scale else loc)[1, d])
    other = (loc, moved) if in_scale else (moved, scale)
    for four in ((loc, scale, *other), (*other, loc, scale)):
        kl = diagonal_gaussian_kl(*four)
        assert kl[1] > 0.0
        assert kl[0] == 0.0


@given(LOCS, SCALES, LOCS, SCALES)
def test_is_the_expected_difference_of_the_two_likelihoods(loc_p, scale_p, loc_q, scale_q):
    """Two points at one standard deviation have p's mean and variance: exact for one Gaussian."""
    expected = torch.zeros(SHAPE, dtype=torch.float64)
    for d in range(SHAPE[1]):
        for sign in (-1.0, 1.0):
            four = (x[:, d : d + 1] for x in (loc_p, scale_p, loc_q, scale_q))
            m, s, n, t = four
            x = m + sign * s
            gap = diagonal_gaussian_nll(n, t, x) - diagonal_gaussian_nll(m, s, x)
            expected[:, d] += gap / 2.0
    found = diagonal_gaussian_kl(loc_p, scale_p, loc_q, scale_q)
    slack = 100 * rounding(loc_p, scale_p, loc_q, scale_q).max().item()
    assert_close(found, expected.sum(-1), rtol=1e-9, atol=slack + 1e-6)
