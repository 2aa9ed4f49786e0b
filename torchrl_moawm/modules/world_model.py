"""The network of ``WorldModelLoss``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_moawm.modules.features import (
    AgentGroup,
    ObsDim,
    ObservationEncoder,
    joint_features,
    make_mlp,
)


class WorldModelNet(nn.Module):
    """Predicts the change of the observation, and the reward.

    Its last layer starts at zero: untrained, it copies the observation and expects no reward.
    """

    def __init__(
        self, team: AgentGroup, other_groups: Sequence[AgentGroup], num_cells: Sequence[int]
    ) -> None:
        super().__init__()
        self.teams = [team, *other_groups]
        self.eye = ObservationEncoder(team.obs_dim, team.n_agents)
        joint = sum(other.n_agents * other.action_dim for other in self.teams)
        self.net = make_mlp(self.eye.features + joint, team.n_features + 1, num_cells)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the last of layers that were just drawn to zero."""
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, observation: Tensor, *actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted ``o_{t+1}`` ``[*B, N, D]`` (flat) and ``r_{t+1}`` ``[*B, N, 1]``."""
        team = self.teams[0]
        seen = self.eye(observation)
        pairs = zip(self.teams, actions, strict=True)
        joint = joint_features(*(other.action_features(action, seen) for other, action in pairs))
        change, reward = self.net(torch.cat([seen, joint], -1)).split([team.n_features, 1], -1)
        return team.flat(observation) + change, reward


def make_world_model(
    *,
    n_agents: int,
    obs_dim: ObsDim,
    action_dim: int,
    n_actions: int | None = None,
    group: NestedKey = "agents",
    other_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
) -> TensorDictModule:
    """A world model, for :class:`~torchrl_moawm.objectives.WorldModelLoss`.

    It reads the agent's own ``observation`` and everybody's ``action``, its own first.

    Keyword Args:
        n_agents: ``N``.
        obs_dim: Features of an observation, or its shape: an image is ``(C, H, W)``.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        n_actions: ``A`` of discrete actions (int64 or one-hot); ``None`` for continuous ones.
        group: Where the entries are.
        other_groups: Groups whose actions it reads as well.
        num_cells: Widths of the hidden layers.

    Returns:
        A module that writes ``predicted_observation`` and ``predicted_reward``.
    """
    team = AgentGroup(group, n_agents, obs_dim, action_dim, n_actions)
    actions = [(other.group, "action") for other in (team, *other_groups)]
    return TensorDictModule(
        WorldModelNet(team, other_groups, num_cells),
        in_keys=[(group, "observation"), *actions],
        out_keys=[(group, "predicted_observation"), (group, "predicted_reward")],
    )
