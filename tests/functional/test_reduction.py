"""masked_mean."""

import pytest
import torch
from torch.testing import assert_close

from tests.functional.checks import gradients
from torchrl_moawm.functional import masked_mean


def loop(x, mask):
    total, count = 0.0, 0
    for value, valid in zip(x.flatten().tolist(), mask.flatten().tolist(), strict=True):
        if valid:
            total, count = total + value, count + 1
    return total / max(count, 1)


def test_by_hand():
    x = torch.tensor([[4.0, -1.0], [100.0, 3.0]])
    mask = torch.tensor([[True, True], [False, True]])
    assert masked_mean(x, mask) == 2.0  # (4 - 1 + 3) / 3, not / 4
    assert masked_mean(x) == 26.5  # 106 / 4


def test_against_a_loop(normal, boolean):
    x, mask = normal(3, 4, 5), boolean(3, 4, 5)
    assert_close(masked_mean(x, mask).item(), loop(x, mask))


def test_all_valid_is_the_plain_mean(normal):
    x = normal(3, 4)
    assert_close(masked_mean(x, torch.ones(3, 4, dtype=torch.bool)), x.mean())
    assert_close(masked_mean(x), x.mean())


def test_gradient_is_one_over_the_valid_count():
    mask = torch.tensor([True, False, True, True])
    (grad,) = gradients(lambda x: masked_mean(x, mask), torch.randn(4))
    assert_close(grad, torch.tensor([1.0, 0.0, 1.0, 1.0]) / 3)


@pytest.mark.parametrize("shape", [(3,), (0,), (2, 1, 0)])
def test_nothing_valid_is_zero_with_zero_gradient(shape):
    x = torch.full(shape, 5.0, requires_grad=True)
    mask = torch.zeros(shape, dtype=torch.bool)
    mean = masked_mean(x, mask)
    mean.backward()
    assert mean == 0.0
    assert_close(x.grad, torch.zeros(shape))


def test_of_an_empty_tensor_is_zero_also_without_mask():
    x = torch.zeros(2, 1, 0, requires_grad=True)
    mean = masked_mean(x)
    mean.backward()
    assert mean == 0.0


def test_keeps_the_dtype(normal):
    assert masked_mean(normal(3), torch.tensor([True, False, True])).dtype == torch.float64


def test_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"Expected one shape, got x \[2, 1\], mask \[2\]\."):
        masked_mean(torch.ones(2, 1), torch.ones(2, dtype=torch.bool))


def test_mask_that_is_not_boolean_is_refused():
    with pytest.raises(TypeError, match=r"Expected mask of dtype torch.bool, got torch.float32"):
        masked_mean(torch.ones(2), torch.ones(2))
