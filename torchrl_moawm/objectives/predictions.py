"""Predictions by a model of other agents: one kind for each kind of network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from torch.distributions import OneHotCategorical as OneHot
from torch.nn.functional import one_hot
from torchrl.modules import MaskedOneHotCategorical, OneHotCategorical

from torchrl_moawm._checks.tensors import check_shape
from torchrl_moawm._checks.values import check_scale
from torchrl_moawm.functional import diagonal_gaussian_nll, moa_cross_entropy
from torchrl_moawm.functional.moa import allowed_logits
from torchrl_moawm.functional.reduction import full_precision

CHOICE = (Categorical, OneHot, OneHotCategorical)
"""Distributions that say no more than their logits."""


def is_choice(network: nn.Module) -> bool:
    """Whether a network's own distribution is that of one choice, without a mask of its own."""
    kinds = [getattr(part, "distribution_class", None) for part in network.modules()]
    return hasattr(network, "get_dist") and next(filter(None, reversed(kinds)), None) in CHOICE


class Prediction:
    """A prediction of the action of every other agent by every observer."""

    shape: torch.Size
    """Pairs ``[*B, N, M]``."""
    n_actions: int | None = None
    """``A`` of discrete actions; ``None`` for others."""

    def nll(self, target: Tensor) -> Tensor:
        """Negative log-likelihood of the actions ``[*B, N, M, ...]``, in nats, ``[*B, N, M]``."""
        raise NotImplementedError

    def logs(self, target: Tensor) -> dict[str, Tensor]:
        """Values to log by name, each ``[*B, N, M]`` and detached."""
        return {}


@dataclass
class CategoricalPrediction(Prediction):
    """The logits of a choice, ``[*B, N, M, A]``."""

    logits: Tensor

    def __post_init__(self) -> None:
        self.shape, self.n_actions = self.logits.shape[:-1], self.logits.shape[-1]

    def restricted(self, allowed: Tensor) -> CategoricalPrediction:
        """The prediction among the allowed actions, bool ``[*B, N, M, A]``.

        A row that allows nothing counts as unmasked.

        Raises:
            ValueError: The mask is of another shape.
        """
        check_shape("the others' action_mask", allowed, self.logits.shape, "as moa_logits")
        return CategoricalPrediction(allowed_logits(self.logits, allowed))

    def nll(self, target: Tensor) -> Tensor:
        """The cross entropy."""
        return moa_cross_entropy(self.logits, target)

    def logs(self, target: Tensor) -> dict[str, Tensor]:
        """``moa_accuracy``: whether the most likely action was taken."""
        hit = self.logits.detach().argmax(-1) == target
        return {"moa_accuracy": hit.to(self.logits.dtype)}


@dataclass
class GaussianPrediction(Prediction):
    """A diagonal Gaussian of a continuous action, mean and standard deviation ``[*B, N, M, D]``."""

    loc: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        self.shape = self.loc.shape[:-1]

    def nll(self, target: Tensor) -> Tensor:
        """The Gaussian's, summed over the features of the action."""
        return diagonal_gaussian_nll(self.loc, self.scale, target)


@dataclass
class DistributionPrediction(Prediction):
    """The distribution of a probabilistic network, of batch shape ``[*B, N, M]``."""

    dist: Distribution

    @classmethod
    def of(cls, network: Any, inputs: TensorDictBase, scale_key: NestedKey) -> Prediction:
        """The distribution of a network; a standard deviation that it writes is checked."""
        if scale_key not in map(unravel_key, network.out_keys):
            dist = network.get_dist(inputs)
            return CategoricalPrediction(dist.logits) if is_choice(network) else cls(dist)
        outputs = network.get_dist_params(inputs)
        check_scale(scale_key, outputs.get(scale_key))
        return cls(network.build_dist_from_params(outputs))

    def __post_init__(self) -> None:
        self.shape = self.dist.batch_shape
        if isinstance(self.dist, Categorical):
            self.n_actions = self.dist.logits.shape[-1]

    def nll(self, target: Tensor) -> Tensor:
        """The distribution's own; one of one-hot actions gets them back from their index."""
        if isinstance(self.dist, (OneHotCategorical, MaskedOneHotCategorical)):
            target = one_hot(target, self.n_actions or -1)
        elif self.dist.event_shape:
            expected = (*self.shape, *self.dist.event_shape)
            check_shape("the others' action", target, expected, "as moa_network predicts them")
        (target,) = full_precision(target)
        return -self.dist.log_prob(target)
