"""Intrinsic rewards, added to a collected batch."""

from copy import deepcopy
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import Transform
from torchrl.modules import RunningValueNorm

from torchrl_moawm._keys import SAMPLES, get_required, path_of
from torchrl_moawm._ranks import gather_rows
from torchrl_moawm.functional import ensemble_disagreement, squared_error_norm
from torchrl_moawm.transforms.groups import real_inputs, who

FLOOR = 1e-12
"""Floor of the variance of a reward: one that varies less is not scaled up to something."""
LEVEL = 0.1
"""Share of its mean that the deviation of a reward is at least: one that hardly varies, neither."""
OUTLIER = 10.0
"""Standard deviations of its change at which the error of a feature is cut off."""


class IntrinsicReward(Transform):
    """Base of intrinsic rewards.

    Called with a collected batch, once, before its advantage. It writes the reward as it is,
    ``("next", group, name)`` ``[*B, N, 1]``, and adds ``coeff`` times it to the reward that is
    learned from, in standard deviations of all that it has seen (as in Burda et al., 2019: divided,
    not centred; one of less than a tenth of the mean counts as that). Where there is one reward for
    the whole group it adds the mean over the agents.
    Returns that are reported stay those of the task: ``RewardSum`` has run before. Padding, where
    ``("collector", "mask")`` is False, is worth nothing and is not taken into the deviation; under
    :func:`~torchrl_moawm.set_data_parallel` that is of the batches of all ranks.

    Args:
        name: Of the entry that is written.

    Keyword Args:
        group: The agents.
        coeff: What a standard deviation is worth, in the unit of the reward.
        normalize: Whether the reward is divided by its running standard deviation.
        reward_key: Under ``next``; ``None`` is the group's own.
    """

    data_parallel = False

    def __init__(
        self,
        name: str,
        *,
        group: NestedKey = "agents",
        coeff: float = 0.1,
        normalize: bool = True,
        reward_key: NestedKey | None = None,
    ) -> None:
        super().__init__()
        self.name, self.path, self.coeff = name, path_of(group), coeff
        self.reward_key = unravel_key(reward_key or (*self.path, "reward"))
        self.norm = RunningValueNorm(shape=1, epsilon=FLOOR) if normalize else None

    def intrinsic(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """The reward for what was done at t, and whom it concerns, ``[*B, N]`` each."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase, update: bool = True) -> TensorDictBase:
        """Adds the reward to a batch, which the deviation takes in unless ``update`` is False."""
        found, valid = self.intrinsic(tensordict)
        valid = valid & samples(tensordict, valid)
        found = torch.where(valid, found, 0.0).unsqueeze(-1)  # [*B, N, 1]
        tensordict.set(("next", *self.path, self.name), found)
        if self.norm is not None:
            if update:
                rows = gather_rows(found[valid]) if self.data_parallel else found[valid]
                if len(rows):
                    self.norm.update(rows)
            found = found / scale_of(self.norm)
        reward = self._after(tensordict, self.reward_key, "Name another with reward_key")
        if reward.ndim < found.ndim:
            found = found.mean(-2)
        return tensordict.set(("next", self.reward_key), reward + self.coeff * found.to(reward))

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        raise RuntimeError(
            f"{type(self).__name__} belongs to collected batches, not to an environment: call it "
            "with a batch before the advantage, or give the coefficient to MOAWM.from_env."
        )

    def _after(self, batch: TensorDictBase, key: NestedKey, how: str = "Rename yours") -> Tensor:
        """An entry of t+1 that has to be there."""
        return get_required(batch, unravel_key(("next", key)), type(self).__name__, how)

    def _acted(self, batch: TensorDictBase, like: Tensor) -> Tensor:
        """Who acted at t, ``[*B, N]``."""
        acted = who(batch, self.path)[1]
        return torch.ones_like(like, dtype=torch.bool) if acted is None else acted


class Curiosity(IntrinsicReward):
    """Rewards an agent for what its world model did not expect, or is not sure of.

    ``|| o^_{t+1} - o_{t+1} ||_2^2``, the error of the world model (Pathak et al., 2017, there in
    features of an inverse model), over the features that ``("next", group, "observation_mask")``
    says are known. Of an ensemble it is the
    :func:`~torchrl_moawm.functional.ensemble_disagreement` of the members instead, which noise does
    not attract (Pathak et al., 2019).

    With statistics the error of a feature is cut off at 10 standard deviations of its change, so
    that one that rests but for once does not outweigh all others; before their first update these
    deviations are the batch's own.

    Args:
        world_model: As :class:`~torchrl_moawm.objectives.WorldModelLoss` trains it.

    Keyword Args:
        statistics: A :class:`~torchrl_moawm.modules.GroupStatistics`, in whose standard deviations
            of the change a feature counts; ``None`` counts in the environment's own units.
        group: The agents.
        coeff: What a standard deviation is worth, in the unit of the reward.
        normalize: Whether the reward is divided by its running standard deviation.
        reward_key: Under ``next``; ``None`` is the group's own.

    References:
        Pathak et al., "Curiosity-driven Exploration by Self-supervised Prediction", 2017. Pathak et
        al., "Self-Supervised Exploration via Disagreement", 2019. Burda et al., "Exploration by
        Random Network Distillation", 2019 (TorchRL's ``RNDLoss``: the error of a random network).
    """

    def __init__(
        self, world_model: TensorDictModuleBase, *, statistics: Any = None, **settings: Any
    ) -> None:
        super().__init__("curiosity", **settings)
        self.__dict__["world_model"], self.__dict__["statistics"] = world_model, statistics

    def intrinsic(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Error or disagreement, ``[*B, N]``."""
        outputs = self.world_model(real_inputs(batch, self.world_model.in_keys))
        key = (*self.path, "predicted_observation")
        predicted = get_required(outputs, key, "Curiosity", "Have the world model write it")
        seen = self._after(batch, (*self.path, "observation")).reshape(predicted.shape)
        known = batch.get(("next", *self.path, "observation_mask"), None)
        known = None if known is None else known.reshape(predicted.shape)
        acted = self._acted(batch, predicted[..., 0])
        weight = None if self.statistics is None else self._weight(batch, seen, known, acted)
        members = outputs.get((*self.path, "ensemble_observation"), None)
        if members is not None:
            return ensemble_disagreement(members, weight), acted
        if weight is not None:
            most = OUTLIER * weight.rsqrt()
            seen = predicted + (seen - predicted).clamp(-most, most)
        return squared_error_norm(predicted, seen, known, weight), acted

    def _weight(
        self, batch: TensorDictBase, seen: Tensor, known: Tensor | None, acted: Tensor
    ) -> Tensor:
        """One over the variance of the change of each feature ``[D]``; at first of this batch's."""
        statistics = self.statistics
        if not statistics.change.count:
            valid = acted & samples(batch, acted)
            valid = valid if known is None else valid & known.all(-1)
            change = seen - batch.get((*self.path, "observation")).reshape(seen.shape)
            rows = gather_rows(change[valid]) if self.data_parallel else change[valid]
            statistics = deepcopy(statistics)
            if len(rows):
                statistics.change.update(rows)
        return statistics.change_weight()


def samples(batch: TensorDictBase, like: Tensor) -> Tensor:
    """What is no padding, ``[*B, 1]``, or ``[*B, N]`` where nothing says so."""
    real = batch.get(SAMPLES, None)
    if real is None:
        return torch.ones_like(like, dtype=torch.bool)
    return real if real.ndim == like.ndim else real[..., None]


def scale_of(norm: Any) -> Tensor:
    """What a reward is divided by, ``[1]``: 1 where nothing has been seen that is worth a unit."""
    scale = torch.maximum(norm.scale(), LEVEL * norm.mean.abs())
    return torch.where((norm.count > 0) & (scale.square() > 2 * FLOOR), scale, 1.0)
