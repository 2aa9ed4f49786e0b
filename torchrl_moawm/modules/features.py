"""What the networks read, put side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor, nn
from torchrl.modules import MLP, ConvNet

from torchrl_moawm._checks import check_integer, check_team
from torchrl_moawm._checks.values import check_index
from torchrl_moawm.functional import gather_others
from torchrl_moawm.functional.reduction import full_precision

ObsDim = int | Sequence[int]
"""Features of a flat observation, or the shape of another: an image is ``(C, H, W)``."""


def shape_of(obs_dim: ObsDim) -> tuple[int, ...]:
    """The shape of one observation."""
    return (obs_dim,) if isinstance(obs_dim, int) else tuple(obs_dim)


@dataclass(frozen=True)
class AgentGroup:
    """A group of agents, as a network has to know it."""

    group: NestedKey
    """Where its entries are."""
    n_agents: int
    """``N``."""
    obs_dim: ObsDim
    """Features of an observation, or its shape: an image is ``(C, H, W)``."""
    action_dim: int
    """Features of an action: ``D`` of a continuous one, ``A`` of a discrete one."""
    n_actions: int | None = None
    """``A`` of discrete actions (int64 or one-hot); ``None`` for continuous ones."""

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        return shape_of(self.obs_dim)

    @property
    def n_features(self) -> int:
        """Numbers in one observation: what is reconstructed and predicted."""
        return math.prod(self.obs_shape)

    def flat(self, observation: Tensor) -> Tensor:
        """``[*B, N, *shape]`` -> ``[*B, N, D]``."""
        return observation.flatten(-len(self.obs_shape))

    def action_features(self, action: Tensor, like: Tensor, name: str = "action") -> Tensor:
        """Actions as floating features ``[*B, N, F]``, whatever their encoding.

        Args:
            action: Continuous ``[*B, N, D]``, one-hot ``[*B, N, A]``, or categorical ``[*B, N]``.
            like: Features ``[*B, ., F]``: their dtype, and their number of dimensions.
            name: What the action is called in a message.

        Returns:
            ``[*B, N, D]`` or ``[*B, N, A]``.
        """
        if self.n_actions is not None and action.ndim == like.ndim - 1:
            check_integer(**{name: action})
            check_index((self.group, name), action, self.n_actions)
            actions = torch.arange(self.n_actions, device=action.device)
            action = action.unsqueeze(-1) == actions
        if self.n_actions is None and not action.dtype.is_floating_point:
            raise TypeError(
                f"Expected {name} of {self.group!r} to be floating, as continuous actions are, got "
                f"{action.dtype}. Of discrete actions the number is needed, n_actions=; several "
                "choices at once are not supported."
            )
        features = action.to(like.dtype)
        check_team(self.n_agents, **{name: (features, self.action_dim)})
        return features

    def acted_features(
        self, previous_action: Tensor, previous_mask: Tensor, like: Tensor
    ) -> Tensor:
        """What the agents did at t-1 and whether they acted, ``[*B, N, F + 1]``, 0 where not."""
        acted = previous_mask.unsqueeze(-1).to(like.dtype)
        action = self.action_features(previous_action, like, "previous_action")
        check_team(self.n_agents, previous_mask=(acted, 1))
        return torch.cat([action * acted, acted], -1)


def make_mlp(in_features: int, out_features: int, num_cells: Sequence[int]) -> MLP:
    """A tanh MLP on the last dimension, shared by all agents.

    TorchRL's ``MLP`` rather than its ``MultiAgentMLP``, which breaks ``fullgraph`` compilation.
    """
    return MLP(in_features, out_features, num_cells=list(num_cells), activation_class=nn.Tanh)


class ObservationEncoder(nn.Module):
    """An observation as flat features: an image through a few convolutions, another as it is.

    Args:
        obs_dim: Features of an observation, or its shape.
        n_agents: ``N``; ``None`` for any.
    """

    def __init__(self, obs_dim: ObsDim, n_agents: int | None = None) -> None:
        super().__init__()
        self.n_agents = n_agents
        self.shape = shape_of(obs_dim)
        self.features = math.prod(self.shape)
        self.net: nn.Module = nn.Flatten(-len(self.shape))
        if len(self.shape) == 3:
            channels, *sides = self.shape
            depth = min(max(int(math.log2(min(sides))) - 1, 1), 4)
            cells = [16, 32, 32, 32][:depth]
            self.net = ConvNet(
                in_features=channels,
                num_cells=cells,
                kernel_sizes=3,
                strides=2,
                paddings=1,
                activation_class=nn.Tanh,
            )
            self.features = cells[-1] * math.prod(-(-side // 2**depth) for side in sides)

    def forward(self, observation: Tensor, name: str = "observation") -> Tensor:
        """``[*B, N, *shape]`` -> ``[*B, N, F]``."""
        n_agents = "N" if self.n_agents is None else self.n_agents
        expected = (n_agents, *self.shape)
        found = tuple(observation.shape[-len(expected) :])
        if len(found) < len(expected) or found[n_agents == "N" :] != expected[n_agents == "N" :]:
            raise ValueError(
                f"Expected {name} of shape [*B, {', '.join(map(str, expected))}] (agents, features:"
                f" what the network was built for), got {list(observation.shape)}."
            )
        return self.net(observation)


class PreviousStepFeatures(nn.Module):
    """``(o_{t-1}^i, a_{t-1}^{1:N})`` side by side: what the model of others and the student read.

    The joint action with everybody's mask: the agent's own first, the others' by ascending index,
    then the other groups' in their order.
    """

    names = ("previous_observation", "previous_action", "previous_mask")

    def __init__(self, team: AgentGroup, other_groups: Sequence[AgentGroup]) -> None:
        super().__init__()
        self.teams = [team, *other_groups]
        self.eye = ObservationEncoder(team.obs_dim, team.n_agents)
        joint = sum(other.n_agents * (other.action_dim + 1) for other in self.teams)
        self.features = self.eye.features + joint

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries read, in the order of the arguments."""
        own, *others = (team.group for team in self.teams)
        rest = [(group, name) for group in others for name in self.names[1:]]
        return [*((own, name) for name in self.names), *rest]

    def acted(self, seen: Tensor, *entries: Tensor) -> list[Tensor]:
        """What each group did, ``[*B, N_g, F_g + 1]``, from (action, mask) of each."""
        pairs = zip(self.teams, entries[::2], entries[1::2], strict=True)
        return [team.acted_features(action, mask, seen) for team, action, mask in pairs]

    def forward(self, previous_observation: Tensor, *entries: Tensor) -> Tensor:
        """``[*B, N, F]``."""
        seen = self.eye(previous_observation, "previous_observation")
        return torch.cat([seen, joint_features(*self.acted(seen, *entries))], -1)


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
    team = own.shape[:-1]
    return [x.flatten(-2).unsqueeze(-2).expand(*team, -1) for x in other_groups]


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
        self.bias = math.log(math.expm1(initial_scale - min_scale))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., 2 D]`` -> ``[..., D]`` twice."""
        loc, raw = full_precision(*x.chunk(2, -1))
        if self.max_loc is not None:
            loc = self.max_loc * (loc / self.max_loc).tanh()
        return loc, nn.functional.softplus(raw + self.bias) + self.min_scale
