"""clipped_policy_loss and normalized_advantage."""

import math

import pytest
import torch
from torch.testing import assert_close
from torchrl._utils import _standardize

from tests.functional.checks import (
    assert_gradcheck,
    assert_same_mapped_and_compiled,
    gradients,
)
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


def test_with_a_huge_clip_is_the_plain_surrogate(pair):
    log_ratio, advantage = pair
    assert_close(clipped_policy_loss(*pair, 1e6), -log_ratio.exp() * advantage)


def test_is_never_better_than_the_plain_surrogate(pair):
    log_ratio, advantage = pair
    assert (clipped_policy_loss(*pair, EPS) >= -log_ratio.exp() * advantage).all()


def test_permuting_agents_permutes_the_surrogate(pair):
    flipped = clipped_policy_loss(*(x.flip(1) for x in pair), EPS)
    assert_close(flipped, clipped_policy_loss(*pair, EPS).flip(1))


def test_gradient_at_ratio_one_is_the_policy_gradient(pair):
    _, advantage = pair
    zero = torch.zeros_like(advantage)
    (grad,) = gradients(lambda x: clipped_policy_loss(x, advantage, EPS), zero)
    assert_close(grad, -advantage)


def test_gradient_vanishes_where_the_step_has_gone_far_enough(pair):
    log_ratio, advantage = pair
    (grad,) = gradients(lambda x: clipped_policy_loss(x, advantage, EPS), log_ratio)
    ratio = log_ratio.exp()
    enough = ((ratio > 1 + EPS) & (advantage > 0)) | ((ratio < 1 - EPS) & (advantage < 0))
    assert enough.any()
    assert not enough.all()
    assert_close(grad, torch.where(enough, 0.0, -ratio * advantage))


def test_policy_gradcheck(pair):
    assert_gradcheck(lambda x, a: clipped_policy_loss(x, a, EPS), *(x[:8] for x in pair))


def test_nan_of_one_element_stays_there(pair):
    log_ratio, advantage = pair
    log_ratio[7, 2] = torch.nan
    loss = clipped_policy_loss(log_ratio, advantage, EPS)
    assert loss.isnan().nonzero().tolist() == [[7, 2, 0]]


def test_policy_eager_vmap_and_compiled_agree(pair):
    eps = torch.full((40,), EPS, dtype=torch.float64)
    assert_same_mapped_and_compiled(clipped_policy_loss, *pair, eps)


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


def test_permuting_agents_permutes_the_advantage(advantage, boolean):
    mask = boolean(4, 6, 3, 1)
    flipped = normalized_advantage(advantage.flip(2), mask.flip(2))
    assert_close(flipped, normalized_advantage(advantage, mask).flip(2))


def test_one_living_sample_or_none_or_a_constant_give_zero():
    advantage = torch.tensor([[[3.0], [4.0], [5.0]], [[6.0], [7.0], [5.0]]])
    mask = torch.tensor([[[True], [False], [True]], [[False], [False], [True]]])
    assert_close(normalized_advantage(advantage, mask), torch.zeros(2, 3, 1))


def test_nan_behind_the_mask_reaches_neither_value_nor_gradient(advantage, boolean):
    mask = boolean(4, 6, 3, 1)
    weight = torch.linspace(-1, 1, 72, dtype=torch.float64).reshape(4, 6, 3, 1)
    poisoned = torch.where(mask, advantage, torch.nan)

    def weighted(x):
        return normalized_advantage(x, mask) * weight

    assert_close(weighted(poisoned), weighted(advantage))
    assert_close(gradients(weighted, poisoned), gradients(weighted, advantage))


def test_advantage_gradcheck(advantage, boolean):
    mask = boolean(4, 6, 3, 1)
    assert_gradcheck(lambda x: normalized_advantage(x, mask), advantage)


def test_advantage_eager_vmap_and_compiled_agree(advantage, boolean):
    assert_same_mapped_and_compiled(normalized_advantage, advantage, boolean(4, 6, 3, 1))


def test_advantage_refuses_wrong_masks_and_dtypes(advantage):
    with pytest.raises(ValueError, match=r"advantage \[4, 6, 3, 1\], mask \[4, 6, 3\]"):
        normalized_advantage(advantage, torch.ones(4, 6, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"Expected mask of dtype torch.bool"):
        normalized_advantage(advantage, torch.ones_like(advantage))
    with pytest.raises(TypeError, match="Expected advantage of a floating dtype"):
        normalized_advantage(advantage.long())
