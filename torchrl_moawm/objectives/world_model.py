"""The world model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from torch import Tensor

from torchrl_moawm._checks import check_same_shape
from torchrl_moawm.functional import squared_error_norm
from torchrl_moawm.objectives.common import MultiAgentLoss, Reduction
from torchrl_moawm.objectives.entries import both, checked_mask, clean, require


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
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (``[*B, N]``).

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
    class _AcceptedKeys:
        observation: NestedKey = "observation"
        reward: NestedKey = "reward"
        predicted_observation: NestedKey = "predicted_observation"
        predicted_reward: NestedKey = "predicted_reward"
        observation_mask: NestedKey = "observation_mask"
        mask: NestedKey = "mask"

    _next = ("observation", "reward", "observation_mask")
    _optional = ("observation_mask", "mask")
    out_keys = ["loss_obs", "loss_reward"]

    def __init__(
        self,
        world_model: TensorDictModuleBase,
        *,
        group: NestedKey = "agents",
        obs_coeff: float = 1.0,
        reward_coeff: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(group=group, reduction=reduction)
        self.world_model = world_model
        self._register_coeff("obs_coeff", obs_coeff)
        self._register_coeff("reward_coeff", reward_coeff)

    def _required_keys(self) -> Iterator[NestedKey]:
        yield from self.world_model.in_keys
        yield self._key("observation")
        yield self._key("reward")

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Predicts step t+1 from step t and compares it with ``next``."""
        outputs = self.world_model(self._inputs(tensordict, self.world_model))
        predicted = require(outputs, self._key("predicted_observation"), "world_model")
        predicted_reward = require(outputs, self._key("predicted_reward"), "world_model")
        valid = self._agent_mask(tensordict)
        observation = flat(self._get(tensordict, "observation"), predicted)
        check_same_shape(prediction=predicted, target=observation)
        name = self._key("observation_mask")
        features = checked_mask(name, self._get_optional(tensordict, "observation_mask"))
        features = None if features is None else flat(features, predicted)
        observation = clean(self._key("observation"), observation, both(valid, features))
        loss_obs = squared_error_norm(predicted, observation, features)
        loss_reward = squared_error_norm(predicted_reward, self._data(tensordict, "reward", valid))
        return TensorDict(
            {
                "loss_obs": self.obs_coeff * self._reduce(loss_obs, valid),
                "loss_reward": self.reward_coeff * self._reduce(loss_reward, valid),
            }
        )


def flat(entry: Tensor, like: Tensor) -> Tensor:
    """The dimensions of one observation as one, where the prediction has one."""
    return entry.flatten(like.ndim - 1) if entry.ndim > like.ndim else entry
