"""clipped_value, clipped_value_loss and explained_variance."""

import pytest
import torch
from torch.testing import assert_close
from torchrl.objectives.utils import _clip_value_loss

from torchrl_moawm.functional import clipped_value, clipped_value_loss, explained_variance

EPS = 0.2


@pytest.fixture
def values(normal):
    """Value, old value and target, ``[40, 3, 1]``."""
    return normal(40, 3, 1), normal(40, 3, 1), normal(40, 3, 1)


def test_by_hand():
    value, old, target = (
        torch.tensor(x) for x in ([3.0, 1.1, 3.0], [1.0, 1.0, 1.0], [3.0, 2.0, 0.0])
    )
    # V_clip = 1.5, 1.1, 1.5: max(0, 1.5^2), max(0.9^2, 0.9^2), max(3^2, 1.5^2)
    assert_close(clipped_value_loss(value, old, target, 0.5), torch.tensor([2.25, 0.81, 9.0]))
    assert_close(clipped_value(value, old, 0.5), torch.tensor([1.5, 1.1, 1.5]))
    assert_close(clipped_value(-value, -old, 0.5), torch.tensor([-1.5, -1.1, -1.5]))


def test_against_a_loop(values):
    loss = clipped_value_loss(*values, EPS).flatten().tolist()
    rows = zip(*(x.flatten().tolist() for x in values), strict=True)
    for found, (v, old, r) in zip(loss, rows, strict=True):
        clipped = old + min(max(v - old, -EPS), EPS)
        assert_close(found, max((v - r) ** 2, (clipped - r) ** 2))


def test_against_torchrl(values):
    value, old, target = values
    plain = (value - target).square()
    expected, _ = _clip_value_loss(old, value, torch.tensor(EPS), target, plain, "l2")
    assert_close(clipped_value_loss(*values, EPS), expected)


def test_a_value_that_has_not_moved_is_the_plain_square(values):
    _, old, target = values
    assert_close(clipped_value_loss(old, old, target, EPS), (old - target).square())


def test_is_invariant_to_a_common_shift_and_to_the_sign(values):
    loss = clipped_value_loss(*values, EPS)
    assert_close(clipped_value_loss(*(x + 3 for x in values), EPS), loss)
    assert_close(clipped_value_loss(*(-x for x in values), EPS), loss)


def test_column_against_row_is_refused():
    row, column = torch.ones(2), torch.ones(2, 1)
    message = r"Expected one shape, got value \[2, 1\], old_value \[2, 1\], value_target \[2\]"
    with pytest.raises(ValueError, match=message):
        clipped_value_loss(column, column, row, EPS)
    with pytest.raises(ValueError, match=r"value \[2\], old_value \[2, 1\]"):
        clipped_value(row, column, EPS)


def test_integers_are_refused():
    one = torch.ones(2)
    with pytest.raises(TypeError, match="Expected value_target of a floating dtype"):
        clipped_value_loss(one, one, one.long(), EPS)


# ------------------------------------------------------------------ explained variance


def test_explained_variance_by_hand():
    """Errors 1, -1, 0 against returns 0, 3, 6: ``1 - (2 / 3) / 6``; one more that is masked."""
    value = torch.tensor([-1.0, 4.0, 6.0, torch.nan], dtype=torch.float64)
    target = torch.tensor([0.0, 3.0, 6.0, 9.0], dtype=torch.float64)
    mask = torch.tensor([True, True, True, False])
    expected = torch.tensor(8 / 9, dtype=torch.float64)
    assert_close(explained_variance(value, target, mask), expected)
    assert_close(explained_variance(value[:3], target[:3]), expected)


def test_a_constant_explains_nothing_and_an_offset_everything(values):
    _, _, target = values
    assert_close(explained_variance(torch.ones_like(target), target), target.new_tensor(0.0))
    assert_close(explained_variance(target + 3.0, target), target.new_tensor(1.0))


def test_explained_variance_where_all_returns_are_the_same_is_finite():
    same = torch.ones(3)
    assert explained_variance(same, same) == 1.0
    assert explained_variance(torch.tensor([0.0, 1.0, 2.0]), same).isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_explained_variance_of_large_returns_in_half_precision(dtype, normal):
    value, target = 300.0 * normal(1000).to(dtype), 300.0 * normal(1000).to(dtype)
    expected = explained_variance(value.float(), target.float())
    torch.testing.assert_close(explained_variance(value, target), expected)


def test_explained_variance_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"got value \[3\], value_target \[3, 1\]"):
        explained_variance(torch.ones(3), torch.ones(3, 1))
