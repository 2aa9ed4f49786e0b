"""The network of ``WorldModelLoss``."""

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_moawm.modules.features import ObservationEncoder, joint_features, make_mlp
from torchrl_moawm.modules.group import AgentGroup, accepts_sizes


class WorldModelNet(nn.Module):
    """Predicts the change of the observation, and the reward.

    Its last layer starts at zero: untrained, it copies the observation and expects no reward.
    """

    def __init__(
        self, group: AgentGroup, other_groups: Sequence[AgentGroup], num_cells: Sequence[int]
    ) -> None:
        super().__init__()
        self.groups = [group, *other_groups]
        self.eye = ObservationEncoder(group.obs_dim, group.n_agents)
        joint = sum(each.n_agents * each.action_dim for each in self.groups)
        self.net = make_mlp(self.eye.features + joint, group.n_features + 1, num_cells)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the last of layers that were just drawn to zero."""
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, observation: Tensor, *actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted ``o_{t+1}`` ``[*B, N, D]`` (flat) and ``r_{t+1}`` ``[*B, N, 1]``."""
        group = self.groups[0]
        features = self.eye(observation)
        pairs = zip(self.groups, actions, strict=True)
        joint = joint_features(*(each.action_features(action, features) for each, action in pairs))
        change, reward = self.net(torch.cat([features, joint], -1)).split([group.n_features, 1], -1)
        return group.flat(observation) + change, reward


@accepts_sizes
def make_world_model(
    group: AgentGroup,
    *,
    other_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
) -> TensorDictModule:
    """A world model, for :class:`~torchrl_moawm.objectives.WorldModelLoss`.

    It reads the agent's own ``observation`` and everybody's ``action``, its own first.

    Args:
        group: The agents.

    Keyword Args:
        other_groups: Groups whose actions it reads as well.
        num_cells: Widths of the hidden layers.

    Returns:
        A module that writes ``predicted_observation`` and ``predicted_reward``.
    """
    actions = [key for each in (group, *other_groups) for key in each.keys("action")]
    return TensorDictModule(
        WorldModelNet(group, other_groups, num_cells),
        in_keys=[*group.keys("observation"), *actions],
        out_keys=group.keys("predicted_observation", "predicted_reward"),
    )
