"""The one reduction."""

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_mask, check_same_shape

HALF = (torch.bfloat16, torch.float16)


def full_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """bfloat16 and float16 as float32, others as they are: what is summed and exponentiated.

    Args:
        *tensors: Any; carry gradient.

    Returns:
        As many tensors.

    Example:
        >>> import torch
        >>> full_precision(torch.ones(1, dtype=torch.bfloat16))
        (tensor([1.]),)
    """
    return tuple(x.float() if x.dtype in HALF else x for x in tensors)


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the valid elements.

    ``sum_k m_k x_k / max(1, sum_k m_k)``

    The divisor is the number of valid elements, never the batch size. Where nothing is valid (or
    ``x`` is empty) the result is 0 with zero gradient. Values behind the mask are selected away,
    not multiplied, so a NaN there reaches neither the result nor the gradient of ``x``.

    Args:
        x: Values, any shape; carries gradient.
        mask: True where valid, boolean, of the same shape as ``x``. ``None`` means all.

    Returns:
        A scalar in the unit of ``x``; of float32 where ``x`` is of a half precision.

    Raises:
        ValueError: The shapes differ.
        TypeError: The mask is not boolean.

    Example:
        >>> import torch
        >>> masked_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, True, False]))
        tensor(1.5000)
    """
    (x,) = full_precision(x)
    if mask is None:
        return x.sum() / max(x.numel(), 1)
    check_same_shape(x=x, mask=mask)
    check_mask(mask=mask)
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp_min(1)
