"""What the networks read, put side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrl.modules import MLP

from torchrl_moawm._checks import check_integer
from torchrl_moawm.functional import gather_others


def make_mlp(in_features: int, out_features: int, num_cells: Sequence[int]) -> MLP:
    """A tanh MLP on the last dimension, shared by all agents.

    TorchRL's ``MLP`` rather than its ``MultiAgentMLP``, which breaks ``fullgraph`` compilation.
    """
    return MLP(in_features, out_features, num_cells=list(num_cells), activation_class=nn.Tanh)


def action_features(action: Tensor, observation: Tensor, n_actions: int | None) -> Tensor:
    """An action as floating features ``[*B, N, F]``, whatever its encoding.

    Args:
        action: Continuous ``[*B, N, D]``, one-hot ``[*B, N, A]``, or categorical ``[*B, N]``.
        observation: ``[*B, N, O]``; gives the dtype, and tells a categorical action by its
            dimensions.
        n_actions: ``A`` of a discrete action, ``None`` of a continuous one.

    Returns:
        ``[*B, N, D]`` or ``[*B, N, A]``.
    """
    if n_actions is not None and action.ndim == observation.ndim - 1:
        check_integer(action=action)
        actions = torch.arange(n_actions, device=action.device)
        action = action.unsqueeze(-1) == actions
    return action.to(observation.dtype)


def own_first(x: Tensor) -> Tensor:
    """Everybody's features for each agent, its own first, then the others' by ascending index.

    ``[*B, N, F]`` -> ``[*B, N, N F]``. The same slot means the same role for every agent, so that
    one network can serve them all.
    """
    return torch.cat([x, gather_others(x, agent_dim=x.ndim - 2).flatten(-2)], -1)


def ignore_at_first(net: nn.Sequential, columns: Iterable[int]) -> None:
    """Zeroes the first layer's weights of some inputs, which then have to earn their influence."""
    weight: Any = net[0].weight
    weight.data[:, list(columns)] = 0.0


class GaussianHead(nn.Module):
    """Splits features into a mean, bounded where asked, and a standard deviation with a floor.

    ``loc, raw = x``, ``scale = min_scale + softplus(raw + b)`` with b such that raw 0 gives
    ``initial_scale``. With ``max_loc``, ``loc`` becomes ``max_loc tanh(loc / max_loc)``.
    """

    def __init__(
        self, min_scale: float, initial_scale: float = 1.0, max_loc: float | None = None
    ) -> None:
        super().__init__()
        if not 0.0 < min_scale < initial_scale:
            raise ValueError(f"Expected 0 < min_scale < {initial_scale}, got {min_scale}.")
        self.min_scale = min_scale
        self.max_loc = max_loc
        self.bias = math.log(math.expm1(initial_scale - min_scale))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., 2 D]`` -> ``[..., D]`` twice."""
        loc, raw = x.chunk(2, -1)
        if self.max_loc is not None:
            loc = self.max_loc * (loc / self.max_loc).tanh()
        return loc, nn.functional.softplus(raw + self.bias) + self.min_scale
