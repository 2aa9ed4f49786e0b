"""The formulas: tensors in, most give one value per element; no flags, no tensordict."""

from typing import TYPE_CHECKING

from torchrl_moawm._on_demand import on_demand
from torchrl_moawm.functional.cvae import active_units, shuffle_valid
from torchrl_moawm.functional.divergence import diagonal_gaussian_kl, free_nats
from torchrl_moawm.functional.moa import diagonal_gaussian_nll, moa_cross_entropy
from torchrl_moawm.functional.others import gather_others
from torchrl_moawm.functional.policy import clipped_policy_loss, normalized_advantage
from torchrl_moawm.functional.reduction import masked_mean
from torchrl_moawm.functional.steps import unbroken_steps
from torchrl_moawm.functional.value import clipped_value, clipped_value_loss, explained_variance
from torchrl_moawm.functional.world_model import (
    continuation_nll,
    ensemble_disagreement,
    huber_error_norm,
    squared_error_norm,
)

if TYPE_CHECKING:
    from torchrl_moawm.functional.influence import choice_influence, gaussian_influence
else:
    _HOMES = dict.fromkeys(("choice_influence", "gaussian_influence"), "influence")
    __getattr__ = on_demand(__name__, _HOMES)

__all__ = [
    "active_units",
    "choice_influence",
    "clipped_policy_loss",
    "clipped_value",
    "clipped_value_loss",
    "continuation_nll",
    "diagonal_gaussian_kl",
    "diagonal_gaussian_nll",
    "ensemble_disagreement",
    "explained_variance",
    "free_nats",
    "gather_others",
    "gaussian_influence",
    "huber_error_norm",
    "masked_mean",
    "moa_cross_entropy",
    "normalized_advantage",
    "shuffle_valid",
    "squared_error_norm",
    "unbroken_steps",
]
