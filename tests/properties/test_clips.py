"""The limits of the two clips."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.objectives.factory import make_policy, make_value
from tests.properties.strategies import batches, numbers, tensors
from torchrl_moawm.functional import clipped_policy_loss, clipped_value, clipped_value_loss

SHAPE = (4,)
LOG_RATIOS = tensors(SHAPE, numbers(3.0))
VALUES = tensors(SHAPE, numbers())
ROOM = st.floats(0.0, 0.99)
HUGE = 1e9


def gradient(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


# -------------------------------------------------------------------------- policy


@given(LOG_RATIOS, VALUES, ROOM)
def test_the_surrogate_is_at_least_the_unclipped(log_ratio, advantage, eps):
    plain = -log_ratio.exp() * advantage
    assert (clipped_policy_loss(log_ratio, advantage, eps) >= plain).all()
    assert_close(clipped_policy_loss(log_ratio, advantage, HUGE), plain, rtol=0, atol=0)


@given(LOG_RATIOS, VALUES, ROOM, ROOM)
def test_more_room_never_makes_the_surrogate_worse(log_ratio, advantage, one, other):
    narrow, wide = sorted([one, other])
    with_less = clipped_policy_loss(log_ratio, advantage, narrow)
    assert (clipped_policy_loss(log_ratio, advantage, wide) <= with_less).all()


@given(LOG_RATIOS, VALUES, ROOM)
def test_the_surrogate_bounds_the_gain_and_not_the_penalty(log_ratio, advantage, eps):
    bound = (1.0 + eps * advantage.sign()) * advantage
    plain = log_ratio.exp() * advantage
    assert_close(clipped_policy_loss(log_ratio, advantage, eps), -torch.minimum(bound, plain))


@given(LOG_RATIOS, VALUES, ROOM)
def test_the_gradient_of_the_surrogate_is_zero_exactly_where_it_is_clipped(log_ratio, a, eps):
    grad = gradient(lambda x: clipped_policy_loss(x, a, eps), log_ratio)
    ratio = log_ratio.exp()
    clipped = ((ratio > 1.0 + eps) & (a > 0.0)) | ((ratio < 1.0 - eps) & (a < 0.0))
    assert (grad[clipped] == 0.0).all()
    inside = ~clipped & (ratio != 1.0 + eps) & (ratio != 1.0 - eps)  # a corner has no gradient
    assert_close(grad[inside], (-ratio * a)[inside])


@given(batches(), st.floats(0.01, 0.9))
def test_the_policy_loss_is_at_least_the_unclipped(batch, eps):
    loss = make_policy(clip_epsilon=eps, reduction="none").double()
    clipped = loss(batch)["loss_objective"]
    loss.clip_epsilon = HUGE
    out = loss(batch)
    assert (clipped >= out["loss_objective"]).all()
    assert out["clip_fraction"] == 0.0


# --------------------------------------------------------------------------- value


@given(VALUES, VALUES, st.floats(0.0, 10.0))
def test_a_clipped_value_lies_between_the_old_and_the_new(value, old, eps):
    clipped = clipped_value(value, old, eps)
    slack = 1e-15 * (value.abs() + old.abs() + eps)
    assert ((clipped - old).abs() <= eps + slack).all()
    assert (clipped >= torch.minimum(value, old) - slack).all()
    assert (clipped <= torch.maximum(value, old) + slack).all()
    near = (value - old).abs() <= eps
    assert_close(clipped[near], value[near])
    assert_close(clipped[~near], (old + eps * (value - old).sign())[~near])


@given(VALUES, VALUES, VALUES, st.floats(0.0, 10.0))
def test_the_value_loss_lies_between_the_unclipped_and_the_worse_of_old_and_new(v, old, r, eps):
    plain, stayed = (v - r).square(), (old - r).square()
    loss = clipped_value_loss(v, old, r, eps)
    assert (loss >= plain).all()
    assert (loss <= torch.maximum(plain, stayed) * (1.0 + 1e-12) + 1e-9).all()
    assert_close(clipped_value_loss(v, old, r, HUGE), plain)
    assert_close(clipped_value_loss(v, old, r, 0.0), torch.maximum(plain, stayed))


@given(VALUES, VALUES, VALUES, st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_more_room_never_makes_the_value_loss_worse(v, old, r, one, other):
    narrow, wide = (clipped_value_loss(v, old, r, eps) for eps in sorted([one, other]))
    assert (wide <= narrow * (1.0 + 1e-12) + 1e-9).all()


@given(VALUES, VALUES, VALUES, st.floats(0.01, 10.0))
def test_the_gradient_of_the_value_loss_is_zero_where_the_clipped_error_rules(v, old, r, eps):
    grad = gradient(lambda x: clipped_value_loss(x, old, r, eps), v)
    error, clipped = (v - r).square(), (clipped_value(v, old, eps) - r).square()
    outside = (v - old).abs() > eps
    assert (grad[outside & (clipped > error)] == 0.0).all()
    plain = error > clipped
    assert_close(grad[plain], 2.0 * (v - r)[plain])


@given(batches(), st.floats(0.0, 2.0), st.sampled_from(["l2", "l1", "smooth_l1"]))
def test_the_value_loss_of_a_team_is_at_least_the_unclipped(batch, eps, kind):
    settings = {"loss_critic_type": kind, "reduction": "none"}
    loss = make_value(clip_value=eps, **settings).double()
    clipped = loss(batch)["loss_value"]
    loss.clip_value = HUGE
    wide = loss(batch)["loss_value"]
    loss.clip_value = None
    plain = loss(batch)["loss_value"]
    assert (clipped >= plain).all()
    assert_close(wide, plain)
