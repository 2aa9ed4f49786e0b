"""The distribution behind a model of others, where its loss has none of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import NestedKey
from tensordict.nn import ProbabilisticTensorDictModule
from torch import Tensor
from torchrl.modules import TanhNormal

from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules.factorised import FactorisedCategorical

if TYPE_CHECKING:
    from torchrl_moawm.modules.moa_nets import MOANet

Bounds = tuple[Tensor | float, Tensor | float]
"""Lowest and highest action: numbers, or what broadcasts to ``[N, D]``."""


def names_written(choices: Sequence[int]) -> tuple[str, ...]:
    """What a network writes about an action of so many choices; of none about a continuous one."""
    if not choices:
        return "moa_loc", "moa_scale"
    return ("moa_logits",) if len(choices) == 1 else ("moa_choice_logits",)


def distribution_of(
    net: MOANet, written: Sequence[NestedKey], drawn: list[NestedKey], bounds: Bounds | None
) -> ProbabilisticTensorDictModule | None:
    """The distribution behind a network, where MOALoss has none of its own for what is written."""
    choices = net.target_group.choices
    if len(choices) > 1:
        kind: type = FactorisedCategorical
        settings: dict[str, Any] = {"n_actions": choices}
    elif bounds is not None and not choices and net.n_others:
        kind, settings = TanhNormal, bounds_of_pairs(net, *bounds)
    else:
        return None
    parameters = ("logits",) if choices else ("loc", "scale")
    return ProbabilisticTensorDictModule(
        in_keys=dict(zip(parameters, written, strict=True)),
        out_keys=drawn,
        distribution_class=kind,
        distribution_kwargs=settings,
    )


def bounds_of_pairs(
    net: MOANet, low: Tensor | float, high: Tensor | float
) -> dict[str, Tensor | float]:
    """The bounds of the actions of each pair, ``[N, M, D]``; -1 and 1 stay numbers, TorchRL's own.

    Raises:
        ValueError: They are not finite, do not broadcast to ``[N, D]`` of the group that is
            predicted, or the lower one is not below the higher one.
    """
    if not isinstance(low, Tensor) and not isinstance(high, Tensor) and (low, high) == (-1, 1):
        return {"low": low, "high": high}
    shape = net.target_group.n_agents, net.target_group.action_dim
    both = [torch.as_tensor(x) for x in (low, high)]
    both = [x if x.is_floating_point() else x.float() for x in both]
    fits = [
        all(a in (1, b) for a, b in zip(x.shape[::-1], shape[::-1], strict=False)) for x in both
    ]
    if not all(fits) or max(x.ndim for x in both) > 2:
        shapes = [list(x.shape) for x in both]
        raise ValueError(f"Expected bounds that broadcast to {list(shape)}, got {shapes}.")
    low, high = (x.expand(shape) for x in both)
    if not bool((low < high).all() and low.isfinite().all() and high.isfinite().all()):
        raise ValueError("Expected finite bounds, the lower ones below the higher ones.")
    if not net.target:
        low, high = (gather_others(x, agent_dim=0) for x in (low, high))
    if net.seen:
        net.centre, net.half_range = (high + low) / 2.0, (high - low) / 2.0
    return {"low": low, "high": high}
