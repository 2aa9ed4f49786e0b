"""squared_error_norm and huber_error_norm."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from tests.functional.checks import (
    gradients,
)
from torchrl_moawm.functional import huber_error_norm, squared_error_norm


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


def test_of_equal_tensors_is_zero(pair):
    assert_close(squared_error_norm(pair[0], pair[0]), torch.zeros(4, 3, dtype=torch.float64))


def test_a_mask_and_its_complement_add_up(pair, boolean):
    mask = boolean(4, 3, 5)
    parts = squared_error_norm(*pair, mask) + squared_error_norm(*pair, ~mask)
    assert_close(parts, squared_error_norm(*pair))


def test_closed_form_gradients(pair, boolean):
    mask = boolean(4, 3, 5)
    error = 2 * (pair[0] - pair[1]) * mask
    assert_close(gradients(lambda p, t: squared_error_norm(p, t, mask), *pair), (error, -error))


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


# --------------------------------------------------------------------- weights and Huber


def test_weights_by_hand():
    prediction, target = torch.tensor([[3.0, 4.0, 7.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    weight = torch.tensor([0.5, 1.0, 2.0])
    assert squared_error_norm(prediction, target, weight=weight).item() == 83.0  # 2 + 9 + 72
    mask = torch.tensor([[True, True, False]])
    assert squared_error_norm(prediction, target, mask, weight).item() == 11.0
    # errors 2 sqrt(.5), 3 and 6 sqrt(2) in weighted units; the last two are beyond 2
    expected = 2.0 + 2 * (2 * 3 - 2) + 2 * (2 * 6 * 2**0.5 - 2)
    value = huber_error_norm(prediction, target, weight=weight, delta=2.0)
    assert_close(value.item(), expected)


def test_one_over_the_variance_counts_standard_deviations(pair):
    std = torch.tensor([0.1, 1.0, 2.0, 5.0, 30.0], dtype=torch.float64)
    weight, standard = std**-2, tuple(x / std for x in pair)
    assert_close(squared_error_norm(*pair, weight=weight), squared_error_norm(*standard))
    ours = huber_error_norm(*pair, weight=weight, delta=0.5)
    assert_close(ours, huber_error_norm(*standard, delta=0.5))


def test_huber_is_twice_torchs_and_squared_where_no_error_is_large(pair):
    expected = 2 * torch.nn.functional.huber_loss(*pair, reduction="none", delta=0.7).sum(-1)
    assert_close(huber_error_norm(*pair, delta=0.7), expected)
    assert_close(huber_error_norm(*pair, delta=1e3), squared_error_norm(*pair))


def test_a_weight_of_another_size_and_no_delta_are_refused(pair):
    for function in (squared_error_norm, partial(huber_error_norm, delta=1.0)):
        with pytest.raises(ValueError, match="weight"):
            function(*pair, weight=torch.ones(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="Expected delta above 0"):
        huber_error_norm(*pair, delta=0.0)
