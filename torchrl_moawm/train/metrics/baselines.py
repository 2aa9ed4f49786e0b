"""Predictions of others' actions that need no model, and who is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor, nn

from torchrl_moawm.functional import diagonal_gaussian_nll
from torchrl_moawm.modules import FactorisedCategorical, path_of
from torchrl_moawm.modules.action_density import Bounds as Bounds  # the benchmarks read it here
from torchrl_moawm.objectives import BatchView


@dataclass
class ActionBaselines:
    """Likelihoods of an action that need no model, fitted to other data.

    Continuous actions: ``marginal`` is one Gaussian per agent, ``repeat`` one around the agent's
    previous action; with ``bounds`` both before a tanh, as the prediction they are compared with,
    else unbounded, as it is. Discrete actions:
    ``marginal`` are frequencies, ``repeat`` gives the previous action the probability with which
    it is repeated and the rest to the others in proportion.
    """

    marginal: tuple[Tensor, ...]
    repeat: tuple[Tensor, ...]
    bounds: Bounds | None = None

    @classmethod
    def fit(
        cls,
        action: Tensor,
        previous: Tensor,
        n_actions: int | None,
        valid: Tensor | None = None,
        bounds: Bounds | None = None,
    ) -> ActionBaselines:
        """Fits to samples ``[S, N, ...]`` where ``valid`` ``[S, N]``: who acted at both steps."""
        if bounds is not None:
            action, previous = (before_tanh(x, *bounds)[0] for x in (action, previous))
        if valid is None:
            valid = torch.ones(action.shape[:2], dtype=torch.bool, device=action.device)
        if n_actions is not None and action.ndim == 3:  # each choice as if of an agent of its own
            valid = valid.repeat_interleave(action.shape[-1], -1)
            action, previous = action.flatten(1), previous.flatten(1)
        count = valid.sum(0)
        if n_actions is None:

            def mean(x: Tensor) -> Tensor:  # over samples, of every agent and feature
                return torch.where(valid.unsqueeze(-1), x, 0.0).sum(0) / count.unsqueeze(-1)

            def deviation(x: Tensor) -> Tensor:
                squares = torch.where(valid.unsqueeze(-1), (x - mean(x)).square(), 0.0).sum(0)
                return (squares / (count - 1).clamp_min(1).unsqueeze(-1)).sqrt().clamp_min(1e-3)

            return cls((mean(action), deviation(action)), (deviation(action - previous),), bounds)
        hot = torch.nn.functional.one_hot(action, n_actions) * valid.unsqueeze(-1)
        counts = hot.sum(0) + 1.0
        same = (((action == previous) & valid).sum(0) + 1.0) / (count + 2.0)
        return cls((counts / counts.sum(-1, keepdim=True),), (same,))

    def nll(self, action: Tensor, previous: Tensor, n_actions: int | None) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods ``[S, N]`` (nats) under ``marginal`` and ``repeat``."""
        if n_actions is None:
            stretch: Tensor | float = 0.0
            if self.bounds is not None:
                previous, _ = before_tanh(previous, *self.bounds)
                action, stretch = before_tanh(action, *self.bounds)
            mean, scale = (x.expand_as(action) for x in self.marginal)
            around = self.repeat[0].expand_as(action)
            return (
                diagonal_gaussian_nll(mean, scale, action) + stretch,
                diagonal_gaussian_nll(previous, around, action) + stretch,
            )
        if action.ndim == 3:
            each = self.nll(action.flatten(1), previous.flatten(1), n_actions)
            marginal, repeat = (x.unflatten(1, action.shape[1:]).sum(-1) for x in each)
            return marginal, repeat
        agents = torch.arange(action.shape[1], device=action.device)
        marginal = self.marginal[0][agents, action]
        rest = marginal / (1.0 - self.marginal[0][agents, previous])
        repeat = torch.where(action == previous, self.repeat[0], (1.0 - self.repeat[0]) * rest)
        return -marginal.log(), -repeat.log()


READ_BY_BASELINES = (
    "action",
    "previous_action",
    "previous_mask",
    "previous_alive",
    "mask",
    "alive",
    "done",
)
"""Names of the entries of each group, at the root, that the baselines read."""


def who(question: str, batch: TensorDictBase, group: NestedKey) -> Tensor:
    """True ``[*B, N]`` for agents who are ``"there"``, who ``"acts"``, who ``"was_there"`` at t-1.

    The answers are the library's, :class:`~torchrl_moawm.objectives.BatchView`.
    """
    mask = getattr(BatchView.of_group(batch, group), question)()
    everybody = torch.ones_like(batch[(*path_of(group), "previous_mask")])
    return everybody if mask is None else mask


def has_choices(network: nn.Module) -> bool:
    """Whether a model of others predicts several choices at once."""
    kinds = (getattr(part, "distribution_class", None) for part in network.modules())
    return FactorisedCategorical in kinds


def bounds_of(network: nn.Module) -> Bounds | None:
    """Bounds of each pair between which a model of others predicts actions, if it does."""
    for part in network.modules():
        settings: dict[str, Any] = getattr(part, "distribution_kwargs", {})
        if "low" in settings:
            return settings["low"], settings["high"]
    return None


def bounds_by_agent(bounds: Bounds | None, own_group: bool) -> Bounds | None:
    """``[N, D]`` of ``[N, M, D]``: the first observer sees all but itself, the second sees it.

    Numbers, and bounds of every agent alike, stay as they are.
    """
    if bounds is None:
        return None

    def of_agents(bound: Tensor | float) -> Tensor | float:
        if not isinstance(bound, Tensor) or bound.ndim < 3:
            return bound
        return torch.cat([bound[1, :1], bound[0]]) if own_group else bound[0]

    return of_agents(bounds[0]), of_agents(bounds[1])


def before_tanh(action: Tensor, low: Tensor | float, high: Tensor | float) -> tuple[Tensor, Tensor]:
    """Actions before their tanh, and ``sum_d log |da_d / du_d|``: what a density loses by it.

    Actions at their bounds are taken for those next to them, as ``TanhNormal`` does.
    """
    half = (high - low) / 2.0
    limit = 1.0 - torch.finfo(action.dtype).resolution
    squashed = ((action - low) / half - 1.0).clamp(-limit, limit)
    return squashed.atanh(), (half * (1.0 - squashed.square())).log().sum(-1)


def acted(
    batch: TensorDictBase, group: NestedKey, several: bool = False
) -> tuple[Tensor, Tensor, Tensor, int | None]:
    """Actions and previous actions ``[S, N, ...]``, who acted at both steps, number of actions.

    Of ``several`` choices at once ``[S, N, F]``, and the number is that of the widest; else int64
    ``[S, N, A]`` is one-hot.
    """
    batch = batch.reshape(-1)
    valid = who("acts", batch, group) & batch[(*path_of(group), "previous_mask")]
    team = batch[path_of(group)]
    action, previous = team["action"], team["previous_action"]
    if action.dtype.is_floating_point:
        return action, previous, valid, None
    action, previous = action.long(), previous.long()
    if action.ndim == 3 and not several:  # one-hot
        return action.argmax(-1), previous.argmax(-1), valid, action.shape[-1]
    return action, previous, valid, int(max(action.max(), previous.max())) + 1
