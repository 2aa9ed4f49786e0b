"""The value's distance from the return."""

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_floating, check_same_shape
from torchrl_moawm.functional.reduction import full_precision, masked_mean


def clipped_value(value: Tensor, old_value: Tensor, clip_value: float | Tensor) -> Tensor:
    """A value that has moved no further than the clip range since the data were collected.

    ``V_clip = V_old + clip(V - V_old, -eps, eps)``

    Args:
        value: V under the current critic, any shape; carries gradient.
        old_value: V_old, the critic's value when the advantage was computed, of the same shape.
        clip_value: eps, at least 0, in the unit of the value.

    Returns:
        V_clip, of the same shape.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> import torch
        >>> clipped_value(torch.tensor([1.0]), torch.tensor([0.0]), 0.2)
        tensor([0.2000])
    """
    check_same_shape(value=value, old_value=old_value)
    reach = torch.as_tensor(clip_value, dtype=value.dtype, device=value.device)
    return old_value + (value - old_value).clamp(-reach, reach)


def clipped_value_loss(
    value: Tensor, old_value: Tensor, value_target: Tensor, clip_value: float | Tensor
) -> Tensor:
    """PPO's clipped value loss, elementwise, without the factor 1/2.

    ``max( (V - R)^2, (V_clip - R)^2 ),  V_clip = V_old + clip(V - V_old, -eps, eps)``

    Args:
        value: V(s_t, z_t) under the current critic, any shape; carries gradient.
        old_value: V_old, the value when the advantage was computed, of the same shape.
        value_target: The return R_t, of the same shape.
        clip_value: eps, at least 0, in the unit of the value.

    Returns:
        The same shape, in the squared unit of the value.

    Raises:
        ValueError: The shapes differ: ``[B]`` against ``[B, 1]`` is an error, not a broadcast.
        TypeError: An argument is not floating.

    References:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017; the clip on the value is
        of its first implementation (OpenAI baselines).

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> clipped_value_loss(one, 0 * one, one, 0.2)  # V is right, V_clip = 0.2 is not
        tensor([0.6400])
    """
    check_same_shape(value=value, old_value=old_value, value_target=value_target)
    value, old_value, value_target = full_precision(value, old_value, value_target)
    check_floating(value=value, old_value=old_value, value_target=value_target)
    error = (value - value_target).square()
    clipped_error = (clipped_value(value, old_value, clip_value) - value_target).square()
    return torch.maximum(error, clipped_error)


def explained_variance(value: Tensor, value_target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The share of the return's variance that the value explains.

    ``1 - Var(R - V) / Var(R)``: 1 where V is right up to a constant, 0 where it is as good as a
    constant, below 0 where it is worse. Where all returns are the same the divisor is the machine
    epsilon.

    Args:
        value: V, any shape; carries gradient.
        value_target: The return R, of the same shape.
        mask: True where valid, boolean, of the same shape. ``None`` means all.

    Returns:
        A scalar, at most 1.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> import torch
        >>> target = torch.tensor([0.0, 2.0])
        >>> explained_variance(target + 5.0, target), explained_variance(0.0 * target, target)
        (tensor(1.), tensor(0.))
    """
    check_same_shape(value=value, value_target=value_target)
    value, value_target = full_precision(value, value_target)

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)).square(), mask)

    least = torch.finfo(value.dtype).eps
    return 1.0 - variance(value_target - value) / variance(value_target).clamp_min(least)
