"""The world model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor

from torchrl_moawm.functional import huber_error_norm, squared_error_norm
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.common import MultiAgentLoss, Reduction
from torchrl_moawm.objectives.data_parallel import gather_rows
from torchrl_moawm.objectives.keys import key
from torchrl_moawm.objectives.masks import (
    broadcast_mask,
    get_required,
    mask_and,
    mask_and_detach,
)


class WorldModelLoss(MultiAgentLoss):
    """Loss of a model of the next observation and reward: what will I see and earn?

    ``L_obs = E_{t, i} || m_t * (o^_t - o_t) ||_2^2`` and ``L_reward = E_{t, i} (r^_t - r_t)^2``, by
    :func:`~torchrl_moawm.functional.squared_error_norm` (a sum over features, no 1/2).

    The model reads step t (``observation``, ``action``) and is compared with ``("next", ...)``,
    which is the formula one step on; TorchRL keeps the true terminal observation there, so terminal
    transitions count.

    TorchRL 0.14 has a ``WorldModelLoss`` of its own (reward, done, reconstruction and latent terms
    of a ``WorldModel``): a mean over features, no agents, no masks. This one stands beside it for
    those three reasons.

    Args:
        world_model: Writes ``predicted_observation`` ``[*B, N, D]`` and ``predicted_reward``
            ``[*B, N, 1]`` from entries of step t.

    Keyword Args:
        group: The agents.
        obs_coeff: Weight of the observation term.
        reward_coeff: Weight of the reward term.
        statistics: A :class:`~torchrl_moawm.modules.GroupStatistics`: the error of every feature
            then counts by ``w_d = 1 / var_d``, the variance of the model's own error on the last
            batches before it was trained on them, so that what is nearly known is learned as well
            as what is noisy. :meth:`update_statistics` keeps them. ``None`` counts in the
            environment's own units.
        reward_delta: Where the reward's error turns from squared to linear, by
            :func:`~torchrl_moawm.functional.huber_error_norm`, for rewards with rare large values;
            in standard deviations of the error where there are statistics. ``None`` squares every
            error.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[*B, N]``).

    Every agent counts that is there at t, be it its turn or not. A reward of the whole group,
    ``[*B, 1]`` (``set_keys(reward="reward")``), is that of each agent.

    Returns:
        ``loss_obs`` and ``loss_reward``. Where ``("next", group, "observation_mask")`` exists, a
        boolean ``[*B, N, D]``, only the features it marks count. An observation of several
        dimensions, such as an image, is compared flat.

    Raises:
        KeyError: An entry is missing; the message names it.
        ValueError: Prediction and target differ in shape, or an option is unknown.
        TypeError: A mask is not boolean.

    Example:
        >>> import torch
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl_moawm.testing import make_batch
        >>> class Still(torch.nn.Module):  # nothing moves and nothing is earned
        ...     def forward(self, observation):
        ...         return observation, observation[..., :1] * 0
        >>> network = TensorDictModule(Still(), [("agents", "observation")],
        ...     [("agents", "predicted_observation"), ("agents", "predicted_reward")])
        >>> sorted(WorldModelLoss(network)(make_batch()).keys())
        ['loss_obs', 'loss_reward']
    """

    @dataclass
    class _AcceptedKeys(MultiAgentLoss._AcceptedKeys):
        observation: NestedKey = key("observation", under_next=True)
        reward: NestedKey = key("reward", under_next=True)
        predicted_observation: NestedKey = "predicted_observation"
        predicted_reward: NestedKey = "predicted_reward"
        observation_mask: NestedKey = key("observation_mask", under_next=True, optional=True)

    def __init__(
        self,
        world_model: TensorDictModuleBase,
        *,
        group: NestedKey = "agents",
        obs_coeff: float = 1.0,
        reward_coeff: float = 1.0,
        statistics: Any = None,
        reward_delta: float | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(group=group, reduction=reduction)
        self.world_model = world_model
        self.statistics = statistics
        self.reward_delta = reward_delta
        self._register_coeff("obs_coeff", obs_coeff)
        self._register_coeff("reward_coeff", reward_coeff)

    def _required_keys(self) -> Iterator[NestedKey]:
        yield from self.world_model.in_keys
        yield self._key("observation")
        yield self._key("reward")

    def _written_keys(self) -> list[str]:
        return ["loss_obs", "loss_reward"]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Predicts step t+1 from step t and compares it with ``next``."""
        view = self._view(tensordict)
        outputs = self.world_model(view.inputs(self.world_model))
        predicted = get_required(outputs, self._key("predicted_observation"), "world_model")
        predicted_reward = get_required(outputs, self._key("predicted_reward"), "world_model")
        there, name = view.there(), self._key("observation")
        observation = flat(view.get("observation"), predicted)
        check_target(name, predicted, observation)
        features = view.mask("observation_mask")
        features = None if features is None else flat(features, predicted)
        observation = mask_and_detach(name, observation, mask_and(there, features))
        loss_obs = squared_error_norm(predicted, observation, features, self._weight("observation"))
        loss_reward = self._reward_error(predicted_reward, self._earned(view, predicted_reward))
        return self._out(
            {
                "loss_obs": self.obs_coeff * self._reduce(loss_obs, there),
                "loss_reward": self.reward_coeff * self._reduce(loss_reward, there),
            }
        )

    def _weight(self, name: str) -> Tensor | None:
        """One over the variance of each feature's error, where there are statistics."""
        return None if self.statistics is None else getattr(self.statistics, f"{name}_weight")()

    def _reward_error(self, predicted: Tensor, reward: Tensor) -> Tensor:
        weight = self._weight("reward")
        if self.reward_delta is None:
            return squared_error_norm(predicted, reward, weight=weight)
        return huber_error_norm(predicted, reward, weight=weight, delta=self.reward_delta)

    @torch.no_grad()
    def update_statistics(self, tensordict: TensorDictBase) -> None:
        """Takes a collected batch into the statistics: once per batch, before it is learned from.

        The model's errors are then of data that it has not seen. Those who are there count, over
        all ranks under :func:`~torchrl_moawm.set_data_parallel`; an observation counts if all its
        features do. Not within ``forward``: the loss of a minibatch must not depend on the
        minibatches before it. Does nothing where the loss has no statistics.
        """
        if self.statistics is None:
            return
        view = self._view(tensordict)
        *rows, valid = self._rows(view)
        self.statistics.update(*map(self._of_all_ranks, rows))
        outputs = self.world_model(view.inputs(self.world_model))
        predicted = outputs.get(self._key("predicted_observation"))[valid]
        reward = outputs.get(self._key("predicted_reward"))[valid]
        errors = predicted - flat(rows[1], predicted), reward - rows[2]
        self.statistics.update_errors(*map(self._of_all_ranks, errors))

    def _rows(self, view: BatchView) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``o_t``, ``o_{t+1}`` and reward of who is there, one below the other, and who that is."""
        key, there = self.tensor_keys.observation, view.there()
        now = get_required(view.tensordict, key, f"{self._keys.owner} (observation)")
        agents = (*view.tensordict.batch_size, now.shape[view.tensordict.ndim])
        valid = now.new_ones(agents, dtype=torch.bool)
        if there is not None:
            valid = broadcast_mask(there, agents, "the agents")
        features = view.mask("observation_mask")
        if features is not None:
            valid = valid & features.flatten(len(agents)).all(-1)
        reward = self._earned(view, now.new_empty(*agents, 1))
        now = mask_and_detach(key, now, there)
        after = mask_and_detach(self._key("observation"), view.get("observation"), valid)
        return now[valid], after[valid], reward[valid], valid

    def _of_all_ranks(self, rows: Tensor) -> Tensor:
        return gather_rows(rows) if self.data_parallel else rows

    def _earned(self, view: BatchView, predicted: Tensor) -> Tensor:
        """The reward of each agent; one of the whole group, ``[*B, 1]``, is that of each."""
        reward, name = view.get("reward"), self._key("reward")
        if reward.shape == (*predicted.shape[:-2], 1):
            reward = reward.unsqueeze(-2).expand(predicted.shape)
        check_target(name, predicted, reward)
        return mask_and_detach(name, reward, view.there())


def check_target(name: NestedKey, prediction: Tensor, target: Tensor) -> None:
    """Refuses a target of another shape than the prediction.

    Raises:
        ValueError: The message names the entry and gives both shapes.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"Expected one shape, got prediction {list(prediction.shape)}, target "
            f"{list(target.shape)}: the target is {name!r}."
        )


def flat(entry: Tensor, like: Tensor) -> Tensor:
    """The dimensions of one observation as one, where the prediction has one."""
    return entry.flatten(like.ndim - 1) if entry.ndim > like.ndim else entry
