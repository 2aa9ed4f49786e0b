"""The network of ``WorldModelLoss``."""

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_moawm.modules.features import ObservationEncoder, joint_features, make_mlp
from torchrl_moawm.modules.group import AgentGroup, accepts_sizes
from torchrl_moawm.modules.statistics import GroupStatistics


class WorldModelNet(nn.Module):
    """Predicts the change of the observation, and the reward: an MLP for each, and a linear map.

    The linear map takes what is linear, such as the motion by the velocity, from the MLPs. The last
    layers start at zero: untrained, it copies the observation and expects no reward (with
    statistics it expects their means).
    """

    def __init__(
        self,
        group: AgentGroup,
        other_groups: Sequence[AgentGroup],
        num_cells: Sequence[int],
        statistics: GroupStatistics | None,
    ) -> None:
        super().__init__()
        self.groups = [group, *other_groups]
        self.statistics = statistics
        norm = None if statistics is None else statistics.observation
        self.eye = ObservationEncoder(group.obs_dim, group.n_agents, norm)
        inputs = self.eye.features + sum(g.n_agents * g.action_dim for g in self.groups)
        self.net = make_mlp(inputs, group.n_features, num_cells, nn.SiLU)
        self.reward_net = make_mlp(inputs, 1, num_cells, nn.SiLU)
        self.linear = nn.utils.skip_init(nn.Linear, inputs, group.n_features + 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the last of layers that were just drawn to zero."""
        for layer in (self.net[-1], self.reward_net[-1], self.linear):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, observation: Tensor, *actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted ``o_{t+1}`` ``[*B, N, D]`` (flat) and ``r_{t+1}`` ``[*B, N, 1]``."""
        group = self.groups[0]
        features = self.eye(observation)
        pairs = zip(self.groups, actions, strict=True)
        joint = joint_features(*(each.action_features(action, features) for each, action in pairs))
        inputs = torch.cat([features, joint], -1)
        outputs = torch.cat([self.net(inputs), self.reward_net(inputs)], -1) + self.linear(inputs)
        change, reward = outputs.split([group.n_features, 1], -1)
        if self.statistics is not None:
            change = self.statistics.change.denormalize(change)
            reward = self.statistics.reward.denormalize(reward)
        return group.flat(observation) + change, reward


@accepts_sizes
def make_world_model(
    group: AgentGroup,
    *,
    other_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
    statistics: GroupStatistics | None = None,
) -> TensorDictModule:
    """A world model, for :class:`~torchrl_moawm.objectives.WorldModelLoss`.

    It reads the agent's own ``observation`` and everybody's ``action``, its own first.

    Args:
        group: The agents.

    Keyword Args:
        other_groups: Groups whose actions it reads as well.
        num_cells: Widths of the hidden layers of both MLPs.
        statistics: Units in which it reads the observation and predicts; ``None`` for the
            environment's own.

    Returns:
        A module that writes ``predicted_observation`` and ``predicted_reward``.
    """
    actions = [key for each in (group, *other_groups) for key in each.keys("action")]
    return TensorDictModule(
        WorldModelNet(group, other_groups, num_cells, statistics),
        in_keys=[*group.keys("observation"), *actions],
        out_keys=group.keys("predicted_observation", "predicted_reward"),
    )
