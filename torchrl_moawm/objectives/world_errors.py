"""Predictions, targets and errors of a world model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl_moawm._checks.tensors import check_shape
from torchrl_moawm._keys import get_required
from torchrl_moawm.functional import continuation_nll, huber_error_norm, squared_error_norm
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.masks import mask_and, mask_and_detach


@dataclass
class WorldTargets:
    """What came at t+1, as data: 0 where nobody is there."""

    observation: Tensor
    """``[*B, N, D]``, flat."""
    reward: Tensor
    """``[*B, N, 1]``."""
    features: Tensor | None = None
    """Features that count, boolean ``[*B, N, D]``."""
    terminated: Tensor | None = None
    """Where it was the end, boolean ``[*B, N, 1]``; if the continuation is predicted."""

    @classmethod
    def read(cls, view: BatchView, prediction: WorldPrediction) -> WorldTargets:
        """Takes what a prediction is compared with out of a batch.

        Raises:
            KeyError: An entry is missing.
            ValueError: Prediction and target differ in shape.
            TypeError: A mask or flag is not boolean.
        """
        predicted, logits = prediction.observation.select(-2, 0), prediction.logits
        there, name = view.there(), view.keys.keys["observation"]
        observation = flat(view.get("observation"), predicted)
        check_target(name, predicted, observation)
        features = view.mask("observation_mask")
        features = None if features is None else flat(features, predicted)
        observation = mask_and_detach(name, observation, mask_and(there, features))
        reward = of_each(view, "reward", prediction.reward.select(-2, 0))
        terminated = None if logits is None else of_each(view, "terminated", logits)
        return cls(observation, reward, features, terminated)

    def after(self, steps: int) -> WorldTargets:
        """The targets so many steps later, of sequences ``[*B, T]``: ``[*B, T - steps, ...]``."""

        def cut(x: Tensor) -> Tensor:
            return x[..., steps:, :, :]

        optional = (x if x is None else cut(x) for x in (self.features, self.terminated))
        return WorldTargets(cut(self.observation), cut(self.reward), *optional)


@dataclass
class Units:
    """In which units errors count."""

    observation: Tensor | None = None
    """Weight of each feature of the observation, ``[D]``; ``None`` is 1."""
    reward: Tensor | None = None
    """Weight of the reward, ``[1]``."""
    delta: float | None = None
    """Where the error of the reward turns linear."""


@dataclass
class WorldPrediction:
    """What the members of a world model predict of t+1; a model without members is one of one."""

    observation: Tensor
    """``[*B, N, K, D]``."""
    reward: Tensor
    """``[*B, N, K, 1]``."""
    logits: Tensor | None
    """Logits of going on, ``[*B, N, 1]``, if that is predicted."""

    @classmethod
    def read(
        cls, outputs: TensorDictBase, key: Callable[[str], Any], writes: Callable[[str], bool]
    ) -> WorldPrediction:
        """Takes the prediction out of what a network has written.

        Args:
            outputs: What it has written.
            key: The entry of a field.
            writes: Whether the network writes it.

        Raises:
            KeyError: An entry is missing.
            ValueError: The members' prediction is not of the shape of their mean.
        """
        observation, reward = (
            members(
                get_required(outputs, key(f"predicted_{name}"), "world_model"),
                key(f"ensemble_{name}"),
                outputs if writes(f"ensemble_{name}") else None,
            )
            for name in ("observation", "reward")
        )
        name = "predicted_continue"
        logits = get_required(outputs, key(name), "world_model") if writes(name) else None
        return cls(observation, reward, logits)

    def errors(self, targets: WorldTargets, units: Units) -> dict[str, Tensor]:
        """The error of each term, ``[*B, N]``: the mean of the members' own."""
        observation = of_members(targets.observation, self.observation)
        reward, features = of_members(targets.reward, self.reward), targets.features
        features = None if features is None else of_members(features, self.observation)
        seen = squared_error_norm(self.observation, observation, features, units.observation)
        if units.delta is None:
            earned = squared_error_norm(self.reward, reward, weight=units.reward)
        else:
            earned = huber_error_norm(self.reward, reward, weight=units.reward, delta=units.delta)
        errors = {"obs": seen.mean(-1), "reward": earned.mean(-1)}
        if self.logits is not None and targets.terminated is not None:
            errors["continue"] = continuation_nll(self.logits, targets.terminated).squeeze(-1)
        return errors


def members(predicted: Tensor, key: NestedKey, outputs: TensorDictBase | None) -> Tensor:
    """The predictions of the members, ``[*B, N, K, D]``; one prediction is that of one member.

    Raises:
        ValueError: They are not of the shape of the prediction ``[*B, N, D]``.
    """
    if outputs is None:
        return predicted.unsqueeze(-2)
    found = get_required(outputs, key, "world_model")
    expected = (*predicted.shape[:-1], *found.shape[-2:-1], predicted.shape[-1])
    check_shape(f"{key!r}", found, expected, "the members between agents and features")
    return found


def of_members(target: Tensor, predicted: Tensor) -> Tensor:
    """A target ``[*B, N, D]`` beside the prediction of each member, ``[*B, N, K, D]``."""
    return target.unsqueeze(-2).expand_as(predicted)


def of_each(view: BatchView, field: str, predicted: Tensor) -> Tensor:
    """A target of each agent; one of the whole group, ``[*B, 1]``, is that of each."""
    target, name = view.get(field), view.keys.keys[field]
    if target.shape == (*predicted.shape[:-2], 1):
        target = target.unsqueeze(-2).expand(predicted.shape)
    check_target(name, predicted, target)
    entry: Tensor = mask_and_detach(name, target, view.there())
    return entry


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
