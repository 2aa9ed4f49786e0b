"""Running statistics of a group: the units in which its models read and predict."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torchrl.modules import PopArtValueNorm, RunningValueNorm, ValueNorm

from torchrl_moawm.functional.reduction import full_precision
from torchrl_moawm.modules.group import AgentGroup

LIMIT = 100.0
"""Standard deviations at which a standardised input is cut off.

Far out, for features such as a lidar's rest almost always and mean most where they do not.
"""


class FullPrecision(ValueNorm):
    """A normaliser whose counts stay in float32 where a module is cast to half precision.

    A count of float16 ends at 65,504, one of bfloat16 stands still long before.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        counted = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers():
            if buffer.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = counted[name].to(buffer.device)
        return self

    def update(self, value_target: Tensor) -> None:
        """Takes in rows ``[R, *shape]``."""
        super().update(full_precision(value_target)[0])


class RunningNorm(FullPrecision, RunningValueNorm):
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
        """Standardises an input ``[..., *shape]``; beyond 100 standard deviations it is cut off."""
        return self.normalize(x).clamp(-LIMIT, LIMIT).to(x.dtype)


class RecentNorm(FullPrecision, PopArtValueNorm):
    """The standard deviation of the last few batches: an exponential moving average.

    TorchRL's ``PopArtValueNorm``, whose scale is 1 before the first update.

    Args:
        shape: Of one element, ``[*shape]``.
        beta: What the batches before count, beside one.
        epsilon: Floor of the variance.
    """

    def __init__(self, shape: int, beta: float = 0.5, epsilon: float = 1e-5) -> None:
        super().__init__(shape=shape, beta=beta, epsilon=epsilon)

    def scale(self) -> Tensor:
        """The standard deviation, ``[*shape]``."""
        return torch.where(self.debiasing_term > 0, super().scale(), 1.0)


class GroupStatistics(nn.Module):
    """Running mean and standard deviation of what the agents of a group see and earn.

    Of the observation, of its change in one step, ``o_{t+1} - o_t``, and of the reward. Networks
    that are given them read standardised observations and predict in standard deviations. And of
    the errors of the world model on batches that it had not seen yet: by these
    :class:`~torchrl_moawm.objectives.WorldModelLoss`, which updates everything here, weighs its
    features. They are buffers: saved, moved and copied with the networks.

    Args:
        group: The agents, who have one statistic in common.

    Attributes:
        observation: Of ``o_t``, ``[*shape]``.
        change: Of ``o_{t+1} - o_t``, flat, ``[D]``.
        reward: Of ``r_{t+1}``, ``[1]``.
        observation_error: Of the error of ``o^_{t+1}`` in standard deviations of the change,
            ``[D]``.
        reward_error: Of the error of ``r^_{t+1}`` in standard deviations of the reward, ``[1]``.

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
        self.observation_error = RecentNorm(group.n_features)
        self.reward_error = RecentNorm(1)

    def change_weight(self) -> Tensor:
        """``1 / var(o_{t+1} - o_t)`` of each feature of the observation, ``[D]``."""
        return self.change.scale().square().reciprocal()

    def observation_weight(self) -> Tensor:
        """``1 / var(error)`` of each feature of the observation, ``[D]``."""
        return (self.change.scale() * self.observation_error.scale()).square().reciprocal()

    def reward_weight(self) -> Tensor:
        """``1 / var(error)`` of the reward, ``[1]``."""
        return (self.reward.scale() * self.reward_error.scale()).square().reciprocal()

    @torch.no_grad()
    def update(self, observation: Tensor, next_observation: Tensor, reward: Tensor) -> None:
        """Takes in rows: ``o_t`` and ``o_{t+1}`` ``[R, *shape]``, ``r_{t+1}`` ``[R, 1]``."""
        if len(observation):
            self.observation.update(observation)
            self.change.update((next_observation - observation).flatten(1))
            self.reward.update(reward)

    @torch.no_grad()
    def update_errors(self, observation_error: Tensor, reward_error: Tensor) -> None:
        """Takes in a model's errors on rows that it was not trained on, ``[R, D]`` and ``[R, 1]``.

        Behind :meth:`update`, in the units of the environment.
        """
        if len(observation_error):
            self.observation_error.update(observation_error / self.change.scale())
            self.reward_error.update(reward_error / self.reward.scale())
