"""A world model that sees everybody, for imagination."""

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn

from torchrl_moawm._checks.tensors import check_size
from torchrl_moawm.modules.ensemble import MembersMLP
from torchrl_moawm.modules.features import ObservationEncoder
from torchrl_moawm.modules.group import AgentGroup
from torchrl_moawm.modules.statistics import GroupStatistics
from torchrl_moawm.modules.world_model import WorldModelNet, written


class JointWorldModelNet(WorldModelNet):
    """``WorldModelNet`` on an agent's own step and on what each other agent means to it.

    Of agent i, who sees and does ``x_i = (o_i, a_i)``, it reads ``x_i`` and for every group h the
    mean over its agents j (without i itself) of ``SiLU(A_h x_i + B_h x_j + c_h)``. So permuting the
    agents of a group permutes its predictions.
    """

    def __init__(
        self,
        group: AgentGroup,
        other_groups: Sequence[AgentGroup],
        num_cells: Sequence[int],
        statistics: Sequence[GroupStatistics] | None,
        continuation: bool = False,
        ensemble: int = 1,
    ) -> None:
        own = None if statistics is None else statistics[0]
        super().__init__(group, other_groups, num_cells, own, continuation, ensemble)
        for eye, other in zip(self.other_eyes, (statistics or ())[1:], strict=False):
            eye.norm = other.observation

    @property
    def members_differ(self) -> bool:
        """Whether there are members, each of which reads means of its own."""
        return self.ensemble > 1

    def _build_inputs(self, num_cells: Sequence[int]) -> int:
        others = self.groups[1:]
        eyes = [ObservationEncoder(each.obs_dim, each.n_agents) for each in others]
        self.other_eyes = nn.ModuleList(eyes)
        pairs = zip([self.eye, *eyes], self.groups, strict=True)
        widths = [eye.features + each.action_dim for eye, each in pairs]
        cells = num_cells[-1]
        self.of_self = nn.ModuleList(self._linear(widths[0], cells) for _ in widths)
        self.of_other = nn.ModuleList(self._linear(width, cells, bias=False) for width in widths)
        return widths[0] + cells * len(widths)

    def _linear(self, inputs: int, outputs: int, bias: bool = True) -> nn.Module:
        """A linear layer, or one for each member."""
        if self.ensemble == 1:
            return nn.Linear(inputs, outputs, bias=bias)
        return MembersMLP(self.ensemble, inputs, outputs, bias=bias)

    def _inputs(
        self, features: Tensor, actions: Sequence[Tensor], others: Sequence[Tensor]
    ) -> Tensor:
        """Own step and the means over the others, ``[*B, N, (K,) F]``."""
        seen = [features, *(eye(entry) for eye, entry in zip(self.other_eyes, others, strict=True))]
        steps = [torch.cat(pair, -1) for pair in zip(seen, actions, strict=True)]  # x, by group
        own = steps[0]
        agents = own.ndim - 2
        means = []
        for index, step in enumerate(steps):
            mine, theirs = self.of_self[index](own), self.of_other[index](step)
            pairs = nn.functional.silu(mine.unsqueeze(agents + 1) + theirs.unsqueeze(agents))
            total, count = pairs.sum(agents + 1), step.shape[agents]
            if index == 0:  # without itself
                total, count = total - nn.functional.silu(mine + theirs), max(count - 1, 1)
            means.append(total / count)
        if self.members_differ:
            own = own.unsqueeze(-2).expand(*own.shape[:-1], self.ensemble, -1)
        return torch.cat([own, *means], -1)


def make_joint_world_model(
    groups: Sequence[AgentGroup],
    *,
    num_cells: Sequence[int] = (128, 128),
    statistics: Sequence[GroupStatistics] | None = None,
    continuation: bool = False,
    ensemble: int = 1,
) -> TensorDictSequential:
    """A world model of all agents' next observations and rewards from all their steps.

    ``make_world_model`` predicts what an agent can know of its next step; this one what is going to
    happen, for :class:`~torchrl_moawm.envs.ImaginedEnv`. It reads everybody's ``observation`` and
    ``action``, so it belongs to training. Within a group its predictions do not depend on the order
    of the agents; an agent reads of the others means over pairs with it.

    Args:
        groups: All groups that act.

    Keyword Args:
        num_cells: Widths of the hidden layers; the last is also that of the pairs.
        statistics: Units in which it reads observations and predicts, one of each group; ``None``
            for the environment's own.
        continuation: Whether it predicts that the episode goes on, by a logit.
        ensemble: Number of members K, networks of one shape with weights of their own.

    Returns:
        A module for each group, one behind the other; each writes the entries of
        :func:`make_world_model`. ``WorldModelLoss(joint, group="adversary")`` trains that of a
        group, or ``WorldModelLoss(joint[0])``.

    Raises:
        ValueError: ``ensemble`` is below 1, there is no group, or there are not as many statistics.

    Example:
        >>> import torch
        >>> from torchrl_moawm.testing import make_batch
        >>> model = make_joint_world_model([AgentGroup(n_agents=3, obs_dim=5, action_dim=2)])
        >>> batch = make_batch(n_agents=3, obs_dim=5, action_dim=2, action_type="continuous")
        >>> model(batch)["agents", "predicted_observation"].shape[1:]
        torch.Size([6, 3, 5])
    """
    check_size(ensemble=ensemble, groups=len(groups))
    if statistics is not None and len(statistics) != len(groups):
        raise ValueError(f"Expected statistics of {len(groups)} groups, got {len(statistics)}.")
    models = []
    for index, group in enumerate(groups):
        others = [each for each in groups if each is not group]
        own_first = None
        if statistics is not None:
            own_first = [statistics[index], *(s for i, s in enumerate(statistics) if i != index)]
        models.append(joint_model_of(group, others, num_cells, own_first, continuation, ensemble))
    return TensorDictSequential(*models)


def joint_model_of(
    group: AgentGroup,
    other_groups: Sequence[AgentGroup],
    num_cells: Sequence[int],
    statistics: Sequence[GroupStatistics] | None,
    continuation: bool,
    ensemble: int,
) -> TensorDictModule:
    """The part of one group, which reads the steps of all; its own statistics come first."""
    net = JointWorldModelNet(group, other_groups, num_cells, statistics, continuation, ensemble)
    actions = [key for each in (group, *other_groups) for key in each.keys("action")]
    seen = [key for each in other_groups for key in each.keys("observation")]
    in_keys = [*group.keys("observation"), *actions, *seen]
    return TensorDictModule(net, in_keys, group.keys(*written(continuation, ensemble)))
