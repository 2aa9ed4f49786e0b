"""The plain regression that models are compared with."""

import pytest
import torch

from metrics.regression import FitSettings, Standardised, fit

QUICK = FitSettings(passes=30, minibatch=50, lr=0.02, num_cells=16)


def test_a_linear_map_is_found(normal):
    x = normal(600, 4).float() * 5.0 + 100.0
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
    y = (y - y.mean()) / y.std()
    network = fit(x[:400], 1, lambda out, rows: (out - y[rows]).square().mean(), QUICK)
    assert (network(x[400:]) - y[400:]).square().mean() < 0.01
    assert not any(p.requires_grad for p in network.parameters())


def test_a_fit_is_the_same_again_and_leaves_the_random_state(normal):
    x, y = normal(200, 3).float(), normal(200, 1).float()
    before = torch.get_rng_state()
    one, other = (
        fit(x, 1, lambda out, rows: (out - y[rows]).square().mean(), QUICK) for _ in range(2)
    )
    assert torch.equal(one(x), other(x))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_does_not_count_is_not_standardised_by(normal):
    x = normal(50, 2, 3)
    x[..., 2] = 7.0  # constant
    valid = torch.arange(50)[:, None] % 2 == torch.arange(2)
    spoiled = torch.where(valid.unsqueeze(-1), x, float("nan"))
    found = Standardised(spoiled, valid)
    for agent in range(2):
        kept = x[valid[:, agent], agent]
        torch.testing.assert_close(found.mean[agent], kept.mean(0))
        torch.testing.assert_close(found.std[agent, :2], kept[:, :2].std(0, correction=0))
    assert found.std[:, 2].tolist() == [1.0, 1.0]
    assert found(x)[..., 2].abs().max() == pytest.approx(0.0)
