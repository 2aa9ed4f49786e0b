"""Running statistics of a group: the units in which its models read and predict."""

import torch
from torch import Tensor, nn
from torchrl.modules import RunningValueNorm

from torchrl_moawm.modules.group import AgentGroup

LIMIT = 10.0
"""Standard deviations at which a standardised input is cut off."""


class RunningNorm(RunningValueNorm):
    """Standardises by the running mean and standard deviation of everything seen so far.

    ``x' = (x - mean) / std``, population moments by Chan's update. TorchRL's ``RunningValueNorm``
    with two differences: before the first update it is the identity, and inputs can be cut off.
    TorchRL's ``VecNormV2`` does the same within an environment, where it would change what is
    stored, acted on and rendered; here the entries stay as the environment writes them.

    Args:
        shape: Of one element, ``[*shape]``.
        epsilon: Floor of the variance, in squared units of x: a constant feature stays finite.

    Example:
        >>> import torch
        >>> norm = RunningNorm(1)
        >>> norm.update(torch.tensor([[1.0], [3.0]]))
        >>> norm.normalize(torch.tensor([[4.0]]))  # (4 - 2) / 1
        tensor([[2.]])
    """

    def __init__(self, shape: int | tuple[int, ...], epsilon: float = 1e-8) -> None:
        super().__init__(shape=shape, epsilon=epsilon)

    def _var(self) -> Tensor:
        return torch.where(self.count > 0, super()._var(), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Standardises an input ``[..., *shape]``; beyond 10 standard deviations it is cut off."""
        return self.normalize(x).clamp(-LIMIT, LIMIT).to(x.dtype)


class GroupStatistics(nn.Module):
    """Running mean and standard deviation of what the agents of a group see and earn.

    Three of them: of the observation, of its change in one step, ``o_{t+1} - o_t``, and of the
    reward. Networks that are given them read standardised observations and predict in standard
    deviations; :class:`~torchrl_moawm.objectives.WorldModelLoss` counts its errors in the same
    units and updates them. They are buffers: saved, moved and copied with the networks.

    Args:
        group: The agents, who have one statistic in common.

    Attributes:
        observation: Of ``o_t``, ``[*shape]``.
        change: Of ``o_{t+1} - o_t``, flat, ``[D]``.
        reward: Of ``r_{t+1}``, ``[1]``.

    Example:
        >>> import torch
        >>> statistics = GroupStatistics(AgentGroup(n_agents=2, obs_dim=1, action_dim=1))
        >>> now, after = torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [9.0]])
        >>> statistics.update(now, after, reward=torch.tensor([[0.0], [2.0]]))
        >>> statistics.change.mean, statistics.change.scale()
        (tensor([3.]), tensor([2.]))
    """

    def __init__(self, group: AgentGroup) -> None:
        super().__init__()
        self.observation = RunningNorm(group.obs_shape)
        self.change = RunningNorm(group.n_features)
        self.reward = RunningNorm(1)

    @torch.no_grad()
    def update(self, observation: Tensor, next_observation: Tensor, reward: Tensor) -> None:
        """Takes in rows: ``o_t`` and ``o_{t+1}`` ``[R, *shape]``, ``r_{t+1}`` ``[R, 1]``."""
        if len(observation):
            self.observation.update(observation)
            self.change.update((next_observation - observation).flatten(1))
            self.reward.update(reward)
