"""The network of ``WorldModelLoss``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_moawm._checks import check_team
from torchrl_moawm.modules.features import action_features, make_mlp, own_first


class WorldModelNet(nn.Module):
    """Predicts the change of the observation, and the reward.

    Its last layer starts at zero: untrained, it copies the observation and expects no reward.
    """

    def __init__(
        self,
        n_agents: int,
        obs_dim: int,
        action_dim: int,
        n_actions: int | None,
        num_cells: Sequence[int],
    ) -> None:
        super().__init__()
        self.n_actions = n_actions
        self.sizes = n_agents, obs_dim, action_dim
        self.net = make_mlp(obs_dim + n_agents * action_dim, obs_dim + 1, num_cells)
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted ``o_{t+1}`` ``[*B, N, D]`` and ``r_{t+1}`` ``[*B, N, 1]``."""
        n_agents, obs_dim, action_dim = self.sizes
        did = action_features(action, observation, self.n_actions)
        check_team(n_agents, observation=(observation, obs_dim), action=(did, action_dim))
        joint = own_first(did)
        change, reward = self.net(torch.cat([observation, joint], -1)).split([obs_dim, 1], -1)
        return observation + change, reward


def make_world_model(
    *,
    n_agents: int,
    obs_dim: int,
    action_dim: int,
    n_actions: int | None = None,
    group: NestedKey = "agents",
    num_cells: Sequence[int] = (128, 128),
) -> TensorDictModule:
    """A world model, for :class:`~torchrl_moawm.objectives.WorldModelLoss`.

    It reads the agent's own ``observation`` and everybody's ``action``, its own first.

    Keyword Args:
        n_agents: ``N``.
        obs_dim: Features of an observation.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        n_actions: ``A`` of discrete actions (int64 or one-hot); ``None`` for continuous ones.
        group: Where the entries are.
        num_cells: Widths of the hidden layers.

    Returns:
        A module that writes ``predicted_observation`` and ``predicted_reward``.
    """
    return TensorDictModule(
        WorldModelNet(n_agents, obs_dim, action_dim, n_actions, num_cells),
        in_keys=[(group, "observation"), (group, "action")],
        out_keys=[(group, "predicted_observation"), (group, "predicted_reward")],
    )
