"""Features that the networks read: observations, actions, and both of several groups."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.modules import MLP, ConvNet

from torchrl_moawm.functional import gather_others
from torchrl_moawm.functional.reduction import full_precision
from torchrl_moawm.modules.group import AgentGroup, ObsDim, shape_of


def make_mlp(
    in_features: int,
    out_features: int,
    num_cells: Sequence[int],
    activation: type[nn.Module] = nn.Tanh,
) -> MLP:
    """An MLP on the last dimension, shared by all agents.

    TorchRL's ``MLP`` rather than its ``MultiAgentMLP``, which breaks ``fullgraph`` compilation.
    """
    return MLP(in_features, out_features, num_cells=list(num_cells), activation_class=activation)


class ObservationEncoder(nn.Module):
    """An observation as flat features: an image through a few convolutions, another as it is.

    Args:
        obs_dim: Features of an observation, or its shape.
        n_agents: ``N``; ``None`` for any.
        norm: Standardises the observation before it is read; ``None`` leaves it as it is.
    """

    def __init__(
        self, obs_dim: ObsDim, n_agents: int | None = None, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.n_agents = n_agents
        self.norm = norm
        self.shape = shape_of(obs_dim)
        self.features = math.prod(self.shape)
        self.net: nn.Module = nn.Flatten(-len(self.shape))
        if len(self.shape) == 3:
            channels, *sides = self.shape
            depth = min(max(int(math.log2(min(sides))) - 1, 1), 4)
            cells = [16, 32, 32, 32][:depth]
            layers = {"kernel_sizes": 3, "strides": 2, "paddings": 1, "activation_class": nn.Tanh}
            self.net = ConvNet(in_features=channels, num_cells=cells, **layers)
            self.features = cells[-1] * math.prod(-(-side // 2**depth) for side in sides)

    def forward(self, observation: Tensor, name: str = "observation") -> Tensor:
        """``[*B, N, *shape]`` -> ``[*B, N, F]``."""
        fixed = self.shape if self.n_agents is None else (self.n_agents, *self.shape)
        if observation.ndim <= len(self.shape) or tuple(observation.shape[-len(fixed) :]) != fixed:
            expected = ("N", *fixed) if self.n_agents is None else fixed
            raise ValueError(
                f"Expected {name} of shape [*B, {', '.join(map(str, expected))}] (agents, features:"
                f" what the network was built for), got {list(observation.shape)}."
            )
        return self.net(observation if self.norm is None else self.norm(observation))


class PreviousStepFeatures(nn.Module):
    """``(o_{t-1}^i, a_{t-1}^{1:N})`` side by side: what the model of others and the student read.

    The joint action with everybody's mask: the agent's own first, the others' by ascending index,
    then the other groups' in their order.
    """

    names = ("previous_observation", "previous_action", "previous_mask")

    def __init__(
        self,
        group: AgentGroup,
        other_groups: Sequence[AgentGroup],
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.groups = [group, *other_groups]
        self.eye = ObservationEncoder(group.obs_dim, group.n_agents, norm)
        joint = sum(each.n_agents * (each.action_dim + 1) for each in self.groups)
        self.features = self.eye.features + joint

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries read, in the order of the arguments."""
        own, *others = self.groups
        rest = [key for other in others for key in other.keys(*self.names[1:])]
        return [*own.keys(*self.names), *rest]

    def acted(self, features: Tensor, *entries: Tensor) -> list[Tensor]:
        """Previous actions of each group, ``[*B, N_g, F_g + 1]``, from (action, mask) of each."""
        pairs = zip(self.groups, entries[::2], entries[1::2], strict=True)
        return [group.acted_features(action, mask, features) for group, action, mask in pairs]

    def forward(self, previous_observation: Tensor, *entries: Tensor) -> Tensor:
        """``[*B, N, F]``."""
        features = self.eye(previous_observation, "previous_observation")
        return torch.cat([features, joint_features(*self.acted(features, *entries))], -1)


def own_features_first(x: Tensor) -> Tensor:
    """Everybody's features for each agent, its own first, then the others' by ascending index.

    ``[*B, N, F]`` -> ``[*B, N, N F]``. The same slot means the same role for every agent, so that
    one network can serve them all.
    """
    return torch.cat([x, gather_others(x, agent_dim=x.ndim - 2).flatten(-2)], -1)


def joint_features(own: Tensor, *other_groups: Tensor) -> Tensor:
    """:func:`own_features_first` of the group's features, then all those of the other groups.

    ``[*B, N, F]`` and ``[*B, N_h, F_h]`` each -> ``[*B, N, N F + sum_h N_h F_h]``.
    """
    return torch.cat([own_features_first(own), *broadcast_to_agents(own, *other_groups)], -1)


def broadcast_to_agents(own: Tensor, *other_groups: Tensor) -> list[Tensor]:
    """All features of other groups, for each agent: ``[*B, N_h, F_h]`` -> ``[*B, N, N_h F_h]``."""
    return [x.flatten(-2).unsqueeze(-2).expand(*own.shape[:-1], -1) for x in other_groups]


def zero_init_columns(net: nn.Sequential, columns: Iterable[int]) -> None:
    """Zeroes the first layer's weights of some inputs, which then have to earn their influence.

    The net begins as one without these inputs: the other weights, drawn within
    ``1 / sqrt(inputs)``, are brought to the range that they would have had there.
    """
    first: Any = net[0]
    ignored, n_inputs = list(columns), first.in_features
    if ignored:
        first.weight.data[:, ignored] = 0.0
        for drawn in (first.weight.data, first.bias.data):
            drawn *= math.sqrt(n_inputs / (n_inputs - len(ignored)))


class GaussianHead(nn.Module):
    """Splits features into a mean, bounded where asked, and a standard deviation with a floor.

    ``loc, raw = x``, ``scale = min_scale + softplus(raw + b)`` with b such that raw 0 gives
    ``initial_scale``. With ``max_loc``, ``loc`` becomes ``max_loc tanh(loc / max_loc)``. Both are
    of float32 or more, under autocast too, and finite with their gradient where raw is +-1e4.
    """

    def __init__(
        self, min_scale: float, initial_scale: float = 1.0, max_loc: float | None = None
    ) -> None:
        super().__init__()
        if not 0.0 < min_scale < initial_scale:
            raise ValueError(f"Expected 0 < min_scale < {initial_scale}, got {min_scale}.")
        self.min_scale = min_scale
        self.max_loc = max_loc
        self.bias = 0.0
        self.bias = self.raw(initial_scale)

    def raw(self, scale: float) -> float:
        """The feature that gives a standard deviation.

        Raises:
            ValueError: It is not above the floor.
        """
        if not scale > self.min_scale:
            raise ValueError(f"Expected a standard deviation above {self.min_scale}, got {scale}.")
        return math.log(math.expm1(scale - self.min_scale)) - self.bias

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., 2 D]`` -> ``[..., D]`` twice."""
        loc, raw = full_precision(*x.chunk(2, -1))
        if self.max_loc is not None:
            loc = self.max_loc * (loc / self.max_loc).tanh()
        return loc, nn.functional.softplus(raw + self.bias) + self.min_scale
