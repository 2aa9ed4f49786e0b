"""The network of ``WorldModelLoss``."""

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_moawm._checks.tensors import check_size
from torchrl_moawm.modules.ensemble import MembersMLP
from torchrl_moawm.modules.features import ObservationEncoder, joint_features, make_mlp
from torchrl_moawm.modules.group import AgentGroup
from torchrl_moawm.modules.statistics import GroupStatistics


class WorldModelNet(nn.Module):
    """Predicts the change of the observation, and the reward: an MLP for each, and a linear map.

    The linear map takes what is linear, such as the motion by the velocity, from the MLPs. The last
    layers start at zero: untrained, it copies the observation and expects no reward (with
    statistics it expects their means), and that it goes on is as likely as not. A continuation is
    one MLP more, an ensemble has ``K`` of everything.
    """

    def __init__(
        self,
        group: AgentGroup,
        other_groups: Sequence[AgentGroup],
        num_cells: Sequence[int],
        statistics: GroupStatistics | None,
        continuation: bool = False,
        ensemble: int = 1,
    ) -> None:
        super().__init__()
        self.groups = [group, *other_groups]
        self.statistics = statistics
        self.ensemble = ensemble
        norm = None if statistics is None else statistics.observation
        self.eye = ObservationEncoder(group.obs_dim, group.n_agents, norm)
        self.widths = [group.n_features, 1] + [1] * continuation
        inputs = self._build_inputs(num_cells)
        half = [-(-width // 2) for width in num_cells]
        self.net = self._mlp(inputs, group.n_features, num_cells)
        self.reward_net = self._mlp(inputs, 1, half)
        self.continue_net = self._mlp(inputs, 1, half) if continuation else None
        self.linear: nn.Module
        if ensemble == 1:
            self.linear = nn.utils.skip_init(nn.Linear, inputs, sum(self.widths), bias=False)
        else:
            own = self.members_differ
            self.linear = MembersMLP(
                ensemble, inputs, sum(self.widths), bias=False, own_features=own
            )
        self.reset_parameters()

    def _mlp(self, inputs: int, outputs: int, cells: Sequence[int]) -> nn.Sequential:
        """An MLP of the inputs, or one for each member."""
        if self.ensemble == 1:
            return make_mlp(inputs, outputs, cells, nn.SiLU)
        return MembersMLP(self.ensemble, inputs, outputs, cells, own_features=self.members_differ)

    def _build_inputs(self, num_cells: Sequence[int]) -> int:
        """Makes what turns entries into inputs; their number."""
        return self.eye.features + sum(g.n_agents * g.action_dim for g in self.groups)

    def _inputs(self, features: Tensor, actions: Sequence[Tensor], _: Sequence[Tensor]) -> Tensor:
        """Own observation and everybody's actions, ``[*B, N, F]``."""
        return torch.cat([features, joint_features(*actions)], -1)

    @property
    def members_differ(self) -> bool:
        """Whether each member of an ensemble has inputs of its own."""
        return False

    @property
    def nets(self) -> list[nn.Sequential]:
        """The MLPs, of observation, reward and (if there is one) continuation."""
        nets = (self.net, self.reward_net, self.continue_net)
        return [net for net in nets if net is not None]

    def reset_parameters(self) -> None:
        """Sets the last of layers that were just drawn to zero."""
        for layer in (*(net[-1] for net in self.nets), self.linear):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, observation: Tensor, *entries: Tensor) -> tuple[Tensor, ...]:
        """Predicted ``o_{t+1}`` ``[*B, N, D]`` (flat) and ``r_{t+1}`` ``[*B, N, 1]``, and the rest.

        Behind them the logits of going on, and of an ensemble what its members predict: the first
        are then means over the members.
        """
        group = self.groups[0]
        features = self.eye(observation)
        pairs = zip(self.groups, entries, strict=False)  # then the others' observations, if any
        actions = [each.action_features(action, features) for each, action in pairs]
        inputs = self._inputs(features, actions, entries[len(actions) :])
        outputs = torch.cat([net(inputs) for net in self.nets], -1) + self.linear(inputs)
        change, reward, *rest = outputs.split(self.widths, -1)  # each [*B, N, (K,) F]
        if self.statistics is not None:
            dtype = observation.dtype  # half precision's, where the statistics are not
            change = self.statistics.change.denormalize(change).to(dtype)
            reward = self.statistics.reward.denormalize(reward).to(dtype)
        now = group.flat(observation)
        if self.ensemble == 1:
            return now + change, reward, *rest
        members = now.unsqueeze(-2) + change, reward, *rest
        return *(x.mean(-2) for x in members), *members[:2]


def make_world_model(
    group: AgentGroup,
    *,
    other_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
    statistics: GroupStatistics | None = None,
    continuation: bool = False,
    ensemble: int = 1,
) -> TensorDictModule:
    """A world model, for :class:`~torchrl_moawm.objectives.WorldModelLoss`.

    It reads the agent's own ``observation`` and everybody's ``action``, its own first.

    Args:
        group: The agents.

    Keyword Args:
        other_groups: Groups whose actions it reads as well.
        num_cells: Widths of the hidden layers for the observation; the others are half as wide.
        statistics: Units in which it reads the observation and predicts; ``None`` for the
            environment's own.
        continuation: Whether it predicts that the episode goes on, by a logit.
        ensemble: Number of members K, networks of one shape with weights of their own. The logits
            of going on are the members' mean.

    Returns:
        A module that writes ``predicted_observation`` and ``predicted_reward``; with
        ``continuation`` also ``predicted_continue``; with several members, whose means these are,
        ``ensemble_observation`` ``[*B, N, K, D]`` and ``ensemble_reward`` ``[*B, N, K, 1]``.

    Raises:
        ValueError: ``ensemble`` is below 1.
    """
    check_size(ensemble=ensemble)
    actions = [key for each in (group, *other_groups) for key in each.keys("action")]
    return TensorDictModule(
        WorldModelNet(group, other_groups, num_cells, statistics, continuation, ensemble),
        in_keys=[*group.keys("observation"), *actions],
        out_keys=group.keys(*written(continuation, ensemble)),
    )


def written(continuation: bool, ensemble: int) -> list[str]:
    """Names of the entries that a world model writes."""
    names = ["predicted_observation", "predicted_reward"] + ["predicted_continue"] * continuation
    return names + ["ensemble_observation", "ensemble_reward"] * (ensemble > 1)
