"""Several networks of one shape, run as one batched product."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class MembersLinear(nn.Module):
    """A linear layer for each of ``K`` members, ``y_k = x_k W_k + b_k``, by one ``baddbmm``.

    Each member is drawn as :class:`torch.nn.Linear` would draw it.
    """

    def __init__(self, members: int, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, in_features, out_features))
        shape = (members, 1, out_features)
        self.bias = nn.Parameter(torch.empty(shape)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws within ``1 / sqrt(inputs)``."""
        bound = 1.0 / math.sqrt(self.weight.shape[1])
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """``[K, R, in]`` -> ``[K, R, out]``."""
        if self.bias is None:
            return x.bmm(self.weight)
        return torch.baddbmm(self.bias, x, self.weight)


class MembersMLP(nn.Sequential):
    """An MLP for each of ``K`` members of an ensemble, of the same features or each of its own.

    Args:
        members: ``K``.
        in_features: ``F``.
        out_features: ``D``.
        num_cells: Widths of the hidden layers; none makes it linear.
        bias: Whether the layers have one.
        own_features: Whether each member reads features of its own.
    """

    def __init__(
        self,
        members: int,
        in_features: int,
        out_features: int,
        num_cells: Sequence[int] = (),
        bias: bool = True,
        own_features: bool = False,
    ) -> None:
        sizes, layers = [in_features, *num_cells, out_features], []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.SiLU(), MembersLinear(members, inputs, outputs, bias)]
        super().__init__(*layers[1:])
        self.members = members
        self.own_features = own_features

    def forward(self, x: Tensor) -> Tensor:
        """``[*B, N, F]``, of own features ``[*B, N, K, F]`` -> ``[*B, N, K, D]``."""
        if not self.own_features:
            x = x.unsqueeze(-2).expand(*x.shape[:-1], self.members, -1)
        rows = x.flatten(0, -3).transpose(0, 1)  # [K, R, F]
        for layer in self:
            rows = layer(rows)
        return rows.transpose(0, 1).unflatten(0, x.shape[:-2])
