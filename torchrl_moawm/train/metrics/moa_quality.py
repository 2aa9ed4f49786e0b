"""Quality of the models of others, beside baselines."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl_moawm.functional import masked_mean
from torchrl_moawm.modules import path_of
from torchrl_moawm.objectives import MOALoss
from torchrl_moawm.system import GroupSystem
from torchrl_moawm.train.metrics.baselines import (
    ActionBaselines,
    acted,
    bounds_by_agent,
    bounds_of,
    has_choices,
    who,
)


def judge_moa(
    system: GroupSystem, target: str, batch: TensorDictBase, training_batch: TensorDictBase
) -> dict[str, float]:
    """The model of one group by the agents of another (or the same) beside its baselines.

    All four figures are means over the same pairs (i, j): the observer i was there at t-1, as
    ``MOALoss`` asks, and j acts at t and acted at t-1, for ``repeat`` needs its previous action. So
    where nobody acts twice in a row, in games of two in turns, there are no figures.
    """
    predicted_group = path_of(system.targets[target])
    network = system.moa_networks[target]
    several = has_choices(network)
    fitted, fitted_previous, fitted_valid, n_fitted = acted(
        training_batch, predicted_group, several
    )
    action, previous, _, n_actions = acted(batch, predicted_group, several)
    pairs = judged_pairs(batch, system.group, predicted_group)
    if not pairs.any():
        return {}
    bounds = bounds_by_agent(bounds_of(network), predicted_group == path_of(system.group))
    n_actions = n_actions and max(n_actions, n_fitted or 0)
    baselines = ActionBaselines.fit(fitted, fitted_previous, n_actions, fitted_valid, bounds)
    marginal, repeat = baselines.nll(action, previous, n_actions)
    oracle = -batch.reshape(-1)[(*predicted_group, "action_log_prob")]

    def mean(nll: Tensor) -> float:
        return float(masked_mean(nll.unsqueeze(-2).expand(pairs.shape), pairs))

    return {
        "moa_nll": moa_nll(moa_loss(system, target), batch, pairs),
        "moa_nll_marginal": mean(marginal),
        "moa_nll_repeat": mean(repeat),
        "moa_nll_oracle": mean(oracle),
    }


def moa_loss(system: GroupSystem, target: str) -> MOALoss:
    """The loss of the model of one group by the agents of another (or the same)."""
    moa = system.loss_module["moawm"]["moa"]
    return moa[target] if len(system.moa_networks) > 1 else moa


def judged_pairs(batch: TensorDictBase, group: NestedKey, predicted_group: NestedKey) -> Tensor:
    """True ``[S, N, N_p]`` where the model of observer i by what j does is judged.

    The observer was there at t-1, and j acts at t and acted at t-1; nobody observes itself.
    """
    watched = who("was_there", batch.reshape(-1), group)
    pairs = watched.unsqueeze(-1) & acted(batch, predicted_group)[2].unsqueeze(-2)
    if path_of(group) == path_of(predicted_group):
        pairs = pairs & ~torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device)
    return pairs


def moa_nll(moa: MOALoss, batch: TensorDictBase, pairs: Tensor) -> float:
    """Mean negative log-likelihood over the pairs of :func:`judged_pairs`, nats."""
    weight, moa.reduction, moa.moa_coeff = float(moa.moa_coeff), "none", 1.0
    predicted = moa(batch)["loss_moa"].reshape(*pairs.shape[:2], -1)
    moa.reduction, moa.moa_coeff = "mean", weight
    return float(masked_mean(predicted, without_self(pairs, predicted.shape[-1])))


def without_self(pairs: Tensor, n_others: int) -> Tensor:
    """``[S, N, N_p, ...]`` as ``[S, N, M, ...]``: without the diagonal where M = N - 1."""
    if n_others == pairs.shape[2]:
        return pairs
    others = ~torch.eye(pairs.shape[2], dtype=torch.bool, device=pairs.device)
    return pairs[:, others].unflatten(1, (pairs.shape[1], n_others))
