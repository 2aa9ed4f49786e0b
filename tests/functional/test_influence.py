"""choice_influence and gaussian_influence."""

import math

import pytest
import torch
from torch.testing import assert_close

from torchrl_moawm.functional import choice_influence, gaussian_influence


def softmax(logits):
    exps = [math.exp(x - max(logits)) for x in logits]
    return [e / sum(exps) for e in exps]


def of_choices(logits, alternatives, weights):
    """One pair, in plain Python."""
    p, qs = softmax(logits), [softmax(each) for each in alternatives]
    mixture = [sum(w * q[a] for w, q in zip(weights, qs, strict=True)) for a in range(len(p))]
    return sum(x * math.log(x / m) for x, m in zip(p, mixture, strict=True))


def density(x, loc, scale):
    inner = [(a - m) ** 2 / (2 * s**2) for a, m, s in zip(x, loc, scale, strict=True)]
    norm = [math.log(s) + 0.5 * math.log(2 * math.pi) for s in scale]
    return math.exp(-sum(inner) - sum(norm))


def of_gaussians(loc, scale, locs, scales, weights, noise):
    """One pair, in plain Python."""
    found = []
    for draw in noise:
        x = [m + s * n for m, s, n in zip(loc, scale, draw, strict=True)]
        each = [density(x, m, s) for m, s in zip(locs, scales, strict=True)]
        mixture = sum(w * d for w, d in zip(weights, each, strict=True))
        found.append(math.log(density(x, loc, scale) / mixture))
    return sum(found) / len(found)


@pytest.fixture
def choices(normal):
    """Logits ``[5, 4]``, of three alternatives ``[3, 5, 4]``, and their weights ``[3, 5]``."""
    return normal(5, 4), normal(3, 5, 4), normal(3, 5).softmax(0)


@pytest.fixture
def gaussians(normal):
    """Means and spreads ``[5, 2]``, those of three alternatives, weights, noise ``[6, 5, 2]``."""
    given = normal(5, 2), normal(5, 2).exp()
    return *given, normal(3, 5, 2), normal(3, 5, 2).exp(), normal(3, 5).softmax(0), normal(6, 5, 2)


def test_choices_against_a_loop(choices):
    found = choice_influence(*choices)
    logits, alternatives, weights = choices
    for b in range(5):
        rows = logits[b].tolist(), alternatives[:, b].tolist(), weights[:, b].tolist()
        assert_close(found[b].item(), of_choices(*rows), atol=1e-9, rtol=0)


def test_gaussians_against_a_loop(gaussians):
    found = gaussian_influence(*gaussians)
    loc, scale, locs, scales, weights, noise = gaussians
    for b in range(5):
        rows = [x[b].tolist() for x in (loc, scale)]
        rows += [x[:, b].tolist() for x in (locs, scales, weights, noise)]
        assert_close(found[b].item(), of_gaussians(*rows), atol=1e-9, rtol=0)


def test_choices_by_hand():
    # j does what i does; i does the first thing with 1/4: KL = log(1 / (1/4)) = log 4
    certain = torch.tensor([[40.0, 0.0], [0.0, 40.0]], dtype=torch.float64)
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    assert_close(choice_influence(certain[0], certain, weights).item(), math.log(4.0))


def test_an_action_without_probability_counts_nothing():
    never = torch.tensor([0.0, -math.inf], dtype=torch.float64)
    found = choice_influence(never, torch.stack([never, never]), torch.full((2,), 0.5).double())
    assert found.item() == pytest.approx(0.0, abs=1e-15)


def test_who_does_not_care_is_not_influenced(choices, gaussians):
    logits, _, weights = choices
    same = choice_influence(logits, logits.expand(3, -1, -1), weights)
    assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)
    loc, scale, _, _, weights, noise = gaussians
    same = gaussian_influence(
        loc, scale, *(x.expand(3, -1, -1) for x in (loc, scale)), weights, noise
    )
    assert_close(same, torch.zeros_like(same), atol=1e-12, rtol=0)


def test_influence_is_not_negative(choices):
    logits, alternatives, weights = choices
    near = alternatives * 1e-9 + logits
    assert (choice_influence(logits, near, weights) >= 0).all()


def test_samples_estimate_the_divergence(normal, generator):
    """One alternative: the divergence of two Gaussians, which has a closed form."""
    noise = torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    loc, scale = torch.tensor([1.0]).double(), torch.tensor([0.5]).double()
    other = torch.tensor([[0.0]]).double(), torch.tensor([[1.0]]).double()
    found = gaussian_influence(loc, scale, *other, torch.ones(1).double(), noise)
    exact = math.log(2.0) + (0.25 + 1.0) / 2 - 0.5
    assert_close(found.item(), exact, atol=0.01, rtol=0)


@pytest.mark.parametrize("wrong", [torch.rand(2, 5), torch.rand(3, 4)])
def test_weights_of_another_shape_are_refused(choices, wrong):
    with pytest.raises(ValueError, match="weights"):
        choice_influence(*choices[:2], wrong.double())


def test_noise_of_another_shape_is_refused(gaussians):
    with pytest.raises(ValueError, match="noise"):
        gaussian_influence(*gaussians[:-1], gaussians[-1][..., :1])


def test_eager_and_compiled_agree(choices, gaussians):
    for function, arguments in ((choice_influence, choices), (gaussian_influence, gaussians)):
        torch._dynamo.reset()
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        assert_close(compiled(*arguments), function(*arguments))


def test_half_precision_is_computed_in_full(choices):
    found = choice_influence(*(x.bfloat16() for x in choices))
    assert found.dtype == torch.float32
    assert_close(found.double(), choice_influence(*choices), rtol=0.1, atol=0.05)
