"""Errors of a prediction, of an ensemble and of an end, and which steps are compared."""

import math
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from tests.functional.checks import gradients
from torchrl_moawm.functional import (
    continuation_nll,
    ensemble_disagreement,
    huber_error_norm,
    squared_error_norm,
)


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
    with pytest.raises(ValueError, match="Expected delta to be above 0"):
        huber_error_norm(*pair, delta=0.0)


# --------------------------------------------------------------------- continuation


def test_continuation_by_hand():
    """p = 1/2; then p = 3/4 of going on, whose logit is log 3."""
    half = continuation_nll(torch.zeros(2), torch.tensor([True, False]))
    assert_close(half, torch.full((2,), math.log(2)))
    logits = torch.full((2,), math.log(3.0))
    found = continuation_nll(logits, torch.tensor([False, True]))
    assert_close(found, torch.tensor([-math.log(3 / 4), -math.log(1 / 4)]))


def test_continuation_is_the_bernoulli_log_likelihood(normal, boolean):
    logits, over = normal(4, 3, 1), boolean(4, 3, 1)
    bernoulli = torch.distributions.Bernoulli(logits=logits)
    assert_close(continuation_nll(logits, over), -bernoulli.log_prob((~over).double()))
    for b in range(4):
        for i in range(3):
            p = 1 / (1 + math.exp(-logits[b, i].item()))
            expected = -math.log(1 - p if over[b, i] else p)
            assert_close(continuation_nll(logits, over)[b, i].item(), expected)


def test_the_gradient_of_the_continuation_is_the_error_of_the_probability(normal, boolean):
    """``d nll / d logit = p - c``."""
    logits, over = normal(4, 3), boolean(4, 3)
    (grad,) = gradients(lambda x: continuation_nll(x, over), logits)
    assert_close(grad, logits.sigmoid() - (~over).double())


def test_a_continuation_that_is_sure_stays_finite():
    logits, over = torch.tensor([1e4, -1e4, 1e4, -1e4]), torch.tensor([True, True, False, False])
    assert continuation_nll(logits, over).tolist() == [1e4, 0.0, 0.0, 1e4]


def test_the_rate_is_the_best_constant_continuation(boolean):
    over = boolean(1000, p=0.2)
    rate = (~over).double().mean()
    at = [continuation_nll(torch.logit(rate + x).expand(1000), over).mean() for x in (-0.01, 0.01)]
    best = continuation_nll(torch.logit(rate).expand(1000), over).mean()
    assert best < min(at)
    assert_close(best, -(rate * rate.log() + (1 - rate) * (1 - rate).log()))  # its entropy


def test_a_continuation_of_another_shape_or_dtype_is_refused():
    with pytest.raises(ValueError, match=r"logits \[2, 1\], terminated \[2\]"):
        continuation_nll(torch.ones(2, 1), torch.ones(2).bool())
    with pytest.raises(TypeError, match=r"terminated of dtype torch\.bool"):
        continuation_nll(torch.ones(2), torch.ones(2))
    with pytest.raises(TypeError, match="logits of a floating dtype"):
        continuation_nll(torch.ones(2).long(), torch.ones(2).bool())


# --------------------------------------------------------------------- disagreement


def test_disagreement_by_hand():
    """Members (1, 5) and (3, 5): deviations 1 and 0; then the first feature in units of 1/2."""
    members = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert_close(ensemble_disagreement(members).item(), 0.5**0.5)
    assert_close(ensemble_disagreement(members, torch.tensor([4.0, 1.0])).item(), 2.0**0.5)


def test_disagreement_against_a_loop(normal):
    members, weight = normal(4, 3, 5, 2), normal(2).exp()
    found = ensemble_disagreement(members, weight)
    assert found.shape == (4, 3)
    for b in range(4):
        for i in range(3):
            total = 0.0
            for d in range(2):
                values = members[b, i, :, d].tolist()
                mean = sum(values) / 5
                total += weight[d].item() * sum((x - mean) ** 2 for x in values) / 5
            assert_close(found[b, i].item(), (total / 2) ** 0.5)


def test_the_error_of_the_members_is_that_of_their_mean_and_the_disagreement(normal):
    """``(1/K) sum_k ||x_k - x||^2 = ||mean - x||^2 + D disagreement^2``, weighted too."""
    members, target, weight = normal(4, 5, 3), normal(4, 3), normal(3).exp()
    for w in (None, weight):
        each = squared_error_norm(members, target.unsqueeze(1).expand_as(members), weight=w)
        of_mean = squared_error_norm(members.mean(1), target, weight=w)
        spread = ensemble_disagreement(members, w)
        assert_close(each.mean(1), of_mean + 3 * spread.square())


def test_equal_members_agree_and_their_order_does_not_matter(normal):
    members = normal(4, 5, 3)
    equal = members[:, :1].expand_as(members)
    assert_close(ensemble_disagreement(equal), torch.zeros(4, dtype=torch.float64))
    assert_close(ensemble_disagreement(members[:, :1]), torch.zeros(4, dtype=torch.float64))
    assert_close(ensemble_disagreement(members.flip(1)), ensemble_disagreement(members))
    assert_close(ensemble_disagreement(3 * members + 7), 3 * ensemble_disagreement(members))


def test_a_disagreement_of_no_members_is_refused(normal):
    with pytest.raises(ValueError, match=r"Expected predictions \[..., K, D\], got \[3\]"):
        ensemble_disagreement(normal(3))
    with pytest.raises(ValueError, match="weight"):
        ensemble_disagreement(normal(2, 3), normal(2))
