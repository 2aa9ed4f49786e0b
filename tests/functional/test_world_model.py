"""squared_error_norm."""

import pytest
import torch
from torch.testing import assert_close

from tests.functional.checks import (
    assert_gradcheck,
    assert_same_mapped_and_compiled,
    gradients,
)
from torchrl_moawm.functional import squared_error_norm


@pytest.fixture
def pair(normal):
    return normal(4, 3, 5), normal(4, 3, 5)


def test_by_hand():
    prediction, target = torch.tensor([[3.0, 4.0, 7.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    assert squared_error_norm(prediction, target).item() == 49.0  # 4 + 9 + 36
    mask = torch.tensor([[True, True, False]])
    assert squared_error_norm(prediction, target, mask).item() == 13.0  # 4 + 9, not divided


def test_against_a_loop(pair, boolean):
    mask = boolean(4, 3, 5)
    value = squared_error_norm(*pair, mask)
    for b in range(4):
        for i in range(3):
            rows = zip(*(x[b, i].tolist() for x in (*pair, mask)), strict=True)
            assert_close(value[b, i].item(), sum((p - t) ** 2 for p, t, m in rows if m))


def test_is_the_squared_vector_norm(pair):
    prediction, target = pair
    norm = torch.linalg.vector_norm(prediction - target, dim=-1)
    assert_close(squared_error_norm(prediction, target), norm.square())


def test_is_the_mean_squared_error_times_the_number_of_features(pair):
    mse = torch.nn.functional.mse_loss(*pair, reduction="none").mean(-1)
    assert_close(squared_error_norm(*pair), 5 * mse)


def test_of_equal_tensors_is_zero(pair):
    assert_close(squared_error_norm(pair[0], pair[0]), torch.zeros(4, 3, dtype=torch.float64))


def test_is_symmetric(pair):
    assert_close(squared_error_norm(*pair), squared_error_norm(*reversed(pair)))


def test_a_mask_and_its_complement_add_up(pair, boolean):
    mask = boolean(4, 3, 5)
    parts = squared_error_norm(*pair, mask) + squared_error_norm(*pair, ~mask)
    assert_close(parts, squared_error_norm(*pair))


def test_permuting_agents_permutes_it(pair):
    flipped = squared_error_norm(*(x.flip(1) for x in pair))
    assert_close(flipped, squared_error_norm(*pair).flip(1))


def test_closed_form_gradients(pair, boolean):
    mask = boolean(4, 3, 5)
    error = 2 * (pair[0] - pair[1]) * mask
    assert_close(gradients(lambda p, t: squared_error_norm(p, t, mask), *pair), (error, -error))


def test_gradcheck(pair, boolean):
    mask = boolean(4, 3, 5)
    assert_gradcheck(lambda p, t: squared_error_norm(p, t, mask), *pair)


@pytest.mark.parametrize("which", [0, 1])
def test_nan_behind_the_mask_reaches_neither_value_nor_gradient(pair, boolean, which):
    mask = boolean(4, 3, 5)

    def masked(p, t):
        return squared_error_norm(p, t, mask)

    poisoned = list(pair)
    poisoned[which] = torch.where(mask, pair[which], torch.nan)
    assert_close(masked(*poisoned), masked(*pair))
    assert_close(gradients(masked, *poisoned), gradients(masked, *pair))


def test_eager_vmap_and_compiled_agree(pair, boolean):
    assert_same_mapped_and_compiled(squared_error_norm, *pair, boolean(4, 3, 5))
    assert_same_mapped_and_compiled(squared_error_norm, *pair)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"prediction \[2, 1\], target \[2\]"):
        squared_error_norm(torch.ones(2, 1), torch.ones(2))
    with pytest.raises(ValueError, match=r"prediction \[2, 3\], mask \[2, 1\]"):
        squared_error_norm(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 1).bool())


def test_wrong_dtypes_are_refused():
    x = torch.ones(2)
    with pytest.raises(TypeError, match=r"Expected target of a floating dtype, got torch.int64"):
        squared_error_norm(x, x.long())
    with pytest.raises(TypeError, match=r"Expected mask of dtype torch.bool, got torch.float32"):
        squared_error_norm(x, x, x)
