"""PPO's surrogate and the advantage it is fed."""

from collections.abc import Callable

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_floating, check_mask, check_same_shape
from torchrl_moawm.functional.reduction import full_precision

MAX_LOG_RATIO = 20.0
"""Bound on the log-ratio, in nats."""


def clipped_policy_loss(
    log_ratio: Tensor,
    advantage: Tensor,
    clip_epsilon: float | Tensor | tuple[float | Tensor, float | Tensor],
) -> Tensor:
    """PPO's clipped surrogate, elementwise, in the form that is minimised.

    ``-min( rho A, clip(rho, 1 - eps, 1 + eps) A ),  rho = exp(min(log_ratio, 20))``

    The bound keeps a ratio that has run away finite, loss and gradient with it; beyond it the
    ratio is 4.9e8 and without gradient.

    Args:
        log_ratio: ``log pi(a_t) - log pi_old(a_t)`` in nats, any shape; carries gradient.
        advantage: A_t of the same shape, of the unit of the return (or normalised).
        clip_epsilon: eps, at least 0; or the reach below and above 1, ``(low, high)``.

    Returns:
        The same shape, in the unit of the advantage.

    Raises:
        ValueError: The shapes differ.
        TypeError: An argument is not floating.

    References:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017, equation 7 (there
        maximised).

    Example:
        >>> import torch
        >>> log_ratio = torch.tensor([2.0, 2.0]).log()
        >>> clipped_policy_loss(log_ratio, torch.tensor([1.0, -1.0]), 0.2)
        tensor([-1.2000,  2.0000])
    """
    check_same_shape(log_ratio=log_ratio, advantage=advantage)
    log_ratio, advantage = full_precision(log_ratio, advantage)
    check_floating(log_ratio=log_ratio, advantage=advantage)
    ratio = log_ratio.clamp_max(MAX_LOG_RATIO).exp()
    reach = clip_epsilon if isinstance(clip_epsilon, tuple) else (clip_epsilon, clip_epsilon)
    low, high = (torch.as_tensor(x, dtype=ratio.dtype, device=ratio.device) for x in reach)
    clipped_ratio = ratio.clamp(1.0 - low, 1.0 + high)
    return -torch.minimum(ratio * advantage, clipped_ratio * advantage)


def normalized_advantage(
    advantage: Tensor,
    mask: Tensor | None = None,
    *,
    across: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Advantage with mean 0 and standard deviation 1 over the valid samples of each agent.

    ``(A - mean_i) / max(std_i, 1e-6)``, the standard deviation with ``n - 1``

    As TorchRL's ``MAPPOLoss`` does (over batch and time, each agent by itself), but the dead are
    not counted: there they pollute both moments.

    Args:
        advantage: ``[*B, N, 1]``.
        mask: True where valid, boolean, of the same shape. ``None`` means all.

    Keyword Args:
        across: Adds to a sum over these samples those over samples that are elsewhere: the moments
            are then those of all (an all-reduce over processes). ``None`` where there are none.

    Returns:
        The same shape, without unit; 0 where invalid, and 0 for an agent with one valid sample. Of
        float32 where the advantage is of a half precision.

    Raises:
        ValueError: The shapes differ.
        TypeError: The mask is not boolean, or the advantage not floating.

    Example:
        >>> import torch
        >>> normalized_advantage(torch.tensor([[[1.0]], [[3.0]]])).flatten()
        tensor([-0.7071,  0.7071])
    """
    check_floating(advantage=advantage)
    (advantage,) = full_precision(advantage)  # squares of 300 overflow in float16
    if mask is not None:
        check_same_shape(advantage=advantage, mask=mask)
        check_mask(mask=mask)
    dims = [*range(advantage.ndim - 2), advantage.ndim - 1]  # all but the agents

    def total(x: Tensor) -> Tensor:
        here = x.sum(dims, keepdim=True)
        return here if across is None else across(here)

    def kept(x: Tensor) -> Tensor:
        return x if mask is None else torch.where(mask, x, 0.0)

    count = total(torch.ones_like(advantage, dtype=torch.bool) if mask is None else mask)
    mean = total(kept(advantage)) / count.clamp_min(1)
    centred = kept(advantage - mean)
    variance = total(centred.square()) / (count - 1).clamp_min(1)
    return centred / variance.clamp_min(1e-12).sqrt()  # the root of 0 has no finite gradient
