"""moa_cross_entropy and diagonal_gaussian_nll."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal
from torch.testing import assert_close

from tests.functional.checks import gradients
from torchrl_moawm.functional import diagonal_gaussian_nll, moa_cross_entropy

B, N, M, A = 4, 3, 2, 5


@pytest.fixture(params=[A, 20], ids=["few", "many"])  # each is computed in its own way
def n_actions(request):
    return request.param


@pytest.fixture
def logits(normal, n_actions):
    return 3.0 * normal(B, N, M, n_actions) + 1.0  # not normalised


@pytest.fixture
def actions(generator, n_actions):
    return torch.randint(n_actions, (B, N, M), generator=generator)


@pytest.fixture
def gaussian(normal):
    """Mean, standard deviation and target, ``[4, 3, 2, 5]``."""
    return normal(B, N, M, A), normal(B, N, M, A).exp(), normal(B, N, M, A)


# ---------------------------------------------------------------- moa_cross_entropy


def test_cross_entropy_by_hand():
    logits = torch.tensor([[[1.0, 1.0 + math.log(3.0)], [7.0, 7.0]]])  # p = 1/4, 3/4; 1/2, 1/2
    value = moa_cross_entropy(logits, torch.tensor([[0, 1]]))
    assert_close(value, torch.tensor([[math.log(4.0), math.log(2.0)]]))


def test_cross_entropy_twice_differentiable(logits, actions):
    x = logits[:2].requires_grad_()

    def function(x):
        return moa_cross_entropy(x, actions[:2])

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)


def test_cross_entropy_against_a_loop(logits, actions):
    value = moa_cross_entropy(logits, actions)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in (B, N, M))).tolist():
        row, action = logits[*index].tolist(), actions[*index].item()
        p = math.exp(row[action]) / sum(math.exp(x) for x in row)
        assert_close(value[*index].item(), -math.log(p))


def test_cross_entropy_against_torch(logits, actions):
    value = moa_cross_entropy(logits, actions)
    assert_close(value, -Categorical(logits=logits).log_prob(actions))
    flat = torch.nn.functional.cross_entropy(logits.flatten(0, 2), actions.flatten())
    assert_close(value.mean(), flat)


def test_equal_logits_give_the_logarithm_of_the_number_of_actions(actions, n_actions):
    uniform = torch.full((B, N, M, n_actions), 2.0)
    assert_close(moa_cross_entropy(uniform, actions), torch.full((B, N, M), math.log(n_actions)))


def test_logits_shifted_together_give_the_same(logits, actions):
    shifted = logits + torch.arange(M, dtype=torch.float64).unsqueeze(-1)
    assert_close(moa_cross_entropy(shifted, actions), moa_cross_entropy(logits, actions))


def test_huge_logits_stay_finite():
    value = moa_cross_entropy(torch.tensor([[[1e4, 0.0]]]), torch.tensor([[1]]))
    assert_close(value, torch.tensor([[1e4]]))


def test_gradient_is_softmax_minus_one_hot(logits, actions):
    (grad,) = gradients(lambda x: moa_cross_entropy(x, actions), logits)
    assert_close(grad, logits.softmax(-1) - torch.nn.functional.one_hot(actions, grad.shape[-1]))


@pytest.mark.parametrize("bad", [-100, -1, 20])
def test_no_index_is_ignored(logits, actions, bad):
    """Torch's cross entropy gives 0 for -100."""
    actions[0, 0, 0] = bad
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        moa_cross_entropy(logits, actions)


def test_forbidden_actions_have_no_part_in_the_sum(logits, actions, n_actions):
    """What a mask has set to ``-inf``: the rest is a distribution, and the gradient is finite."""
    allowed = torch.arange(n_actions) >= actions.unsqueeze(-1)
    masked = logits.masked_fill(~allowed, -torch.inf)
    assert_close(moa_cross_entropy(masked, actions), -Categorical(logits=masked).log_prob(actions))
    (grad,) = gradients(lambda x: moa_cross_entropy(x, actions), masked)
    assert_close(grad, masked.softmax(-1) - torch.nn.functional.one_hot(actions, n_actions))


def test_narrow_integers_are_class_indices_too(logits, actions):
    narrow = moa_cross_entropy(logits, actions.to(torch.int32))
    assert_close(narrow, moa_cross_entropy(logits, actions))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_actions_that_are_not_integers_are_refused(logits, actions, dtype):
    with pytest.raises(
        TypeError, match=f"Expected others_actions of an integer dtype, got {dtype}"
    ):
        moa_cross_entropy(logits, actions.to(dtype))


def test_integer_logits_are_refused(logits, actions):
    with pytest.raises(TypeError, match=r"Expected logits of a floating dtype, got torch.int64"):
        moa_cross_entropy(logits.long(), actions)


def test_actions_of_another_shape_are_refused(logits, actions):
    message = r"others_actions of shape \[4, 3, 2\] \(logits without actions\), got \[4, 3, 2, 1\]"
    with pytest.raises(ValueError, match=message):
        moa_cross_entropy(logits, actions.unsqueeze(-1))


# ------------------------------------------------------------ diagonal_gaussian_nll


def test_nll_by_hand():
    loc, scale, target = (torch.tensor(x) for x in ([1.0, 0.0], [2.0, 1.0], [5.0, 3.0]))
    # (5-1)^2 / (2 * 4) = 2, 3^2 / 2 = 4.5, log 2 + log 1, 2 * log(2 pi) / 2
    expected = torch.tensor(6.5 + math.log(2.0) + math.log(2.0 * math.pi))
    assert_close(diagonal_gaussian_nll(loc, scale, target), expected)


def test_nll_against_a_loop(gaussian):
    value = diagonal_gaussian_nll(*gaussian)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in (B, N, M))).tolist():
        density = 1.0
        for m, s, a in zip(*(x[*index].tolist() for x in gaussian), strict=True):
            density *= math.exp(-((a - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi))
        assert_close(value[*index].item(), -math.log(density))


def test_nll_against_torch_distributions(gaussian):
    loc, scale, target = gaussian
    expected = -Independent(Normal(loc, scale), 1).log_prob(target)
    assert_close(diagonal_gaussian_nll(loc, scale, target), expected)


def test_nll_at_the_mean_is_the_entropy_without_half_a_nat_per_dimension(gaussian):
    loc, scale, _ = gaussian
    entropy = Independent(Normal(loc, scale), 1).entropy()
    assert_close(diagonal_gaussian_nll(loc, scale, loc), entropy - A / 2)


def test_nll_is_least_at_the_mean(gaussian):
    loc, scale, target = gaussian
    assert (diagonal_gaussian_nll(*gaussian) > diagonal_gaussian_nll(loc, scale, loc)).all()
    assert_close(
        diagonal_gaussian_nll(loc, scale, target), diagonal_gaussian_nll(target, scale, loc)
    )


def test_nll_of_scaled_units_adds_the_logarithm_of_the_unit(gaussian):
    scaled = diagonal_gaussian_nll(*(10 * x for x in gaussian))
    assert_close(scaled, diagonal_gaussian_nll(*gaussian) + A * math.log(10.0))


def test_closed_form_gradients_of_the_nll(gaussian):
    loc, scale, target = gaussian
    distance = (loc - target) / scale
    expected = (distance / scale, (1 - distance.square()) / scale, -distance / scale)
    assert_close(gradients(diagonal_gaussian_nll, *gaussian), expected)


def test_nll_refuses_shapes_that_would_broadcast():
    one, column = torch.ones(2), torch.ones(2, 1)
    with pytest.raises(ValueError, match=r"loc \[2\], scale \[2\], target \[2, 1\]"):
        diagonal_gaussian_nll(one, one, column)


def test_nll_refuses_discrete_targets():
    one = torch.ones(2)
    with pytest.raises(TypeError, match=r"Expected target of a floating dtype, got torch.int64"):
        diagonal_gaussian_nll(one, one, one.long())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_the_cross_entropy_has_a_forward_mode_and_a_hessian(normal, n_actions):
    """``diag(p) - p p^T``, whatever was done."""
    logits, actions = normal(1, 1, n_actions), torch.tensor([[3]])

    def f(x):
        return moa_cross_entropy(x, actions)

    p = logits.softmax(-1).flatten()
    hessian = torch.func.hessian(lambda x: f(x).sum())(logits).view(n_actions, n_actions)
    assert_close(hessian, p.diag() - torch.outer(p, p))
    assert_close(torch.func.jacfwd(f)(logits), torch.func.jacrev(f)(logits))
    assert torch.autograd.gradcheck(f, logits.requires_grad_(), check_forward_ad=True)
