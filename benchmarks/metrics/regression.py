"""A plain regression: standardised inputs, an MLP beside a linear map, Adam."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class FitSettings:
    """Settings of a fit."""

    passes: int = 6
    """Passes over the samples."""
    minibatch: int = 500
    """Samples of an agent in a minibatch."""
    lr: float = 4e-3
    """Adam's learning rate, which falls to zero."""
    num_cells: int = 256
    """Width of the two hidden layers."""
    seed: int = 0
    """Seed of the weights and of the order of the samples."""


class Standardised(nn.Module):
    """Mean and deviation of each feature over samples; a constant one has deviation 1.

    Args:
        x: The samples, ``[S, ...]``.
        valid: True ``[S, ...]`` for the entries that count, of fewer dimensions than ``x``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, x: Tensor, valid: Tensor | None = None) -> None:
        super().__init__()
        if valid is None:
            valid = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        weight = valid.view(*valid.shape, *[1] * (x.ndim - valid.ndim)).to(x.dtype)
        count = weight.sum(0).clamp_min(1.0)
        x = torch.where(weight > 0, x, 0.0)
        mean = x.sum(0) / count
        std = (((x - mean) * weight).square().sum(0) / count).sqrt()
        self.register_buffer("mean", mean)
        self.register_buffer("std", torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        """Standardises."""
        return (x - self.mean) / self.std


class Regression(nn.Module):
    """Two hidden layers of SiLU beside a linear map, on standardised inputs.

    Args:
        x: The inputs that it will be fitted to, ``[S, F]``.
        n_outputs: Outputs ``K``.
        num_cells: Width of the hidden layers.
    """

    def __init__(self, x: Tensor, n_outputs: int, num_cells: int) -> None:
        super().__init__()
        n_inputs = x.shape[-1]
        self.inputs = Standardised(x)
        self.linear = nn.Linear(n_inputs, n_outputs)
        self.net = nn.Sequential(
            nn.Linear(n_inputs, num_cells),
            nn.SiLU(),
            nn.Linear(num_cells, num_cells),
            nn.SiLU(),
            nn.Linear(num_cells, n_outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[..., F]`` -> ``[..., K]``."""
        x = self.inputs(x)
        return self.linear(x) + self.net(x)


def falling_adam(
    network: nn.Module, lr: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam for a network, and the schedule by which its rate falls to zero over the steps."""
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0 - k / steps)


def fit(
    x: Tensor, n_outputs: int, loss: Callable[[Tensor, Tensor], Tensor], settings: FitSettings
) -> Regression:
    """A regression fitted to samples.

    Args:
        x: Inputs ``[S, F]``.
        n_outputs: Outputs ``K``.
        loss: Of outputs ``[m, K]`` and the indices ``[m]`` of their samples: a scalar.
        settings: How it is fitted.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = Regression(x, n_outputs, settings.num_cells).to(x.device)
    generator = torch.Generator().manual_seed(settings.seed)
    steps = settings.passes * -(-len(x) // settings.minibatch)
    optimizer, schedule = falling_adam(network, settings.lr, steps)
    with torch.enable_grad():
        for _ in range(settings.passes):
            for rows in torch.randperm(len(x), generator=generator).split(settings.minibatch):
                rows = rows.to(x.device)
                optimizer.zero_grad()
                loss(network(x[rows]), rows).backward()
                optimizer.step()
                schedule.step()
    return network.requires_grad_(False)


class LeastSquares(nn.Module):
    """A regression to the mean of targets, fitted by the squared error of standardised ones.

    Args:
        x: Inputs ``[S, F]``.
        target: What follows from them, ``[S, K]``.
        settings: How it is fitted.
    """

    def __init__(self, x: Tensor, target: Tensor, settings: FitSettings) -> None:
        super().__init__()
        self.unit = Standardised(target)
        scaled = self.unit(target)

        def loss(out: Tensor, rows: Tensor) -> Tensor:
            return (out - scaled[rows]).square().mean()

        self.network = fit(x, target.shape[-1], loss, settings)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., F]`` -> ``[..., K]``, in the unit of the target."""
        return self.network(x) * self.unit.std + self.unit.mean
