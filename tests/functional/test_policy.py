"""clipped_policy_loss and normalized_advantage."""

import math

import pytest
import torch
from torch.testing import assert_close
from torchrl._utils import _standardize

from tests.functional.checks import gradients
from torchrl_moawm.functional import clipped_policy_loss, normalized_advantage

EPS = 0.2

# -------------------------------------------------------------- clipped_policy_loss


@pytest.fixture
def pair(normal):
    """Log-ratio and advantage, ``[40, 3, 1]``."""
    return 0.5 * normal(40, 3, 1), 2.0 * normal(40, 3, 1)


def test_policy_by_hand():
    log_ratio = torch.tensor([2.0, 2.0, 0.5, 0.5, 1.1]).log()
    advantage = torch.tensor([3.0, -3.0, 3.0, -3.0, 3.0])
    # -min(6, 3.6), -min(-6, -3.6), -min(1.5, 2.4), -min(-1.5, -2.4), -min(3.3, 3.3)
    expected = torch.tensor([-3.6, 6.0, -1.5, 2.4, -3.3])
    assert_close(clipped_policy_loss(log_ratio, advantage, EPS), expected)


def test_policy_against_a_loop(pair):
    loss = clipped_policy_loss(*pair, EPS).flatten().tolist()
    rows = zip(*(x.flatten().tolist() for x in pair), strict=True)
    for found, (log_ratio, a) in zip(loss, rows, strict=True):
        rho = math.exp(log_ratio)
        assert_close(found, -min(rho * a, min(max(rho, 1 - EPS), 1 + EPS) * a))


def test_policy_against_torchrls_formula(pair):
    log_ratio, advantage = pair  # ClipPPOLoss clips the logarithm
    bounds = (-EPS, EPS)
    clipped = log_ratio.clamp(*(math.log1p(bound) for bound in bounds)).exp()
    gain = torch.stack([log_ratio.exp() * advantage, clipped * advantage], -1).min(-1).values
    assert_close(clipped_policy_loss(*pair, EPS), -gain)


def test_at_ratio_one_is_minus_the_advantage(pair):
    _, advantage = pair
    assert_close(clipped_policy_loss(torch.zeros_like(advantage), advantage, EPS), -advantage)


def test_gradient_at_ratio_one_is_the_policy_gradient(pair):
    _, advantage = pair
    zero = torch.zeros_like(advantage)
    (grad,) = gradients(lambda x: clipped_policy_loss(x, advantage, EPS), zero)
    assert_close(grad, -advantage)


def test_policy_refuses_a_column_against_a_row():
    with pytest.raises(ValueError, match=r"log_ratio \[2\], advantage \[2, 1\]"):
        clipped_policy_loss(torch.ones(2), torch.ones(2, 1), EPS)


def test_policy_refuses_integers():
    one = torch.ones(2)
    with pytest.raises(TypeError, match="Expected advantage of a floating dtype"):
        clipped_policy_loss(one, one.long(), EPS)


# ------------------------------------------------------------- normalized_advantage


@pytest.fixture
def advantage(normal):
    return normal(4, 6, 3, 1) * torch.tensor([[1.0], [10.0], [0.1]]) + torch.tensor(
        [[5.0], [0], [-3]]
    )


def test_advantage_by_hand():
    advantage = torch.tensor([[[1.0], [10.0]], [[2.0], [20.0]], [[6.0], [99.0]]])
    mask = torch.tensor([[[True], [True]], [[True], [True]], [[True], [False]]])
    # agent 0: mean 3, variance (4 + 1 + 9) / 2 = 7; agent 1: mean 15, variance (25 + 25) / 1 = 50
    expected = torch.tensor(
        [[-2 / 7**0.5, -5 / 50**0.5], [-1 / 7**0.5, 5 / 50**0.5], [3 / 7**0.5, 0]]
    )
    assert_close(normalized_advantage(advantage, mask).squeeze(-1), expected)


def test_advantage_against_a_loop(advantage, boolean):
    mask = boolean(4, 6, 3, 1)
    found = normalized_advantage(advantage, mask)
    for agent in range(3):
        valid = mask[:, :, agent]
        values = advantage[:, :, agent][valid].tolist()
        mean = sum(values) / len(values)
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        expected = torch.tensor([(v - mean) / std for v in values], dtype=torch.float64)
        assert_close(found[:, :, agent][valid], expected)


@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e-9])
def test_with_nobody_dead_is_what_mappo_does(advantage, unit):
    expected = _standardize(unit * advantage, exclude_dims=(-2,))
    assert_close(normalized_advantage(unit * advantage), expected)


def test_each_agent_has_mean_zero_and_deviation_one_over_its_living(advantage, boolean):
    mask = boolean(4, 6, 3, 1)
    found = normalized_advantage(advantage, mask)
    for agent in range(3):
        living = found[:, :, agent][mask[:, :, agent]]
        assert_close(living.mean().item(), 0.0)
        assert_close(living.std().item(), 1.0)


def test_the_dead_read_zero_and_do_not_count(advantage, boolean):
    mask = boolean(4, 6, 3, 1)
    found = normalized_advantage(advantage, mask)
    other = normalized_advantage(torch.where(mask, advantage, 1e9), mask)
    assert (found[~mask] == 0).all()
    assert_close(other, found)


def test_shift_and_unit_of_an_agent_do_not_matter(advantage):
    unit, shift = torch.tensor([[2.0], [3.0], [5.0]]), torch.tensor([[7.0], [-8.0], [9.0]])
    assert_close(normalized_advantage(unit * advantage + shift), normalized_advantage(advantage))


def test_one_living_sample_or_none_or_a_constant_give_zero():
    advantage = torch.tensor([[[3.0], [4.0], [5.0]], [[6.0], [7.0], [5.0]]])
    mask = torch.tensor([[[True], [False], [True]], [[False], [False], [True]]])
    assert_close(normalized_advantage(advantage, mask), torch.zeros(2, 3, 1))


def test_advantage_refuses_wrong_masks_and_dtypes(advantage):
    with pytest.raises(ValueError, match=r"advantage \[4, 6, 3, 1\], mask \[4, 6, 3\]"):
        normalized_advantage(advantage, torch.ones(4, 6, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"Expected mask of dtype torch.bool"):
        normalized_advantage(advantage, torch.ones_like(advantage))
    with pytest.raises(TypeError, match="Expected advantage of a floating dtype"):
        normalized_advantage(advantage.long())


def test_ranks_with_and_without_a_mask_add_up_the_same(normal):
    """An all-reduce takes tensors of one type; all valid is as no mask."""
    advantage, sums = normal(8, 3, 1), []

    def across(x):
        sums[-1].append((x.shape, x.dtype))
        return 2 * x

    found = []
    for mask in (None, torch.ones(8, 3, 1, dtype=torch.bool)):
        sums.append([])
        found.append(normalized_advantage(advantage, mask, across=across))
    assert sums[0] == sums[1]
    assert torch.equal(*found)
