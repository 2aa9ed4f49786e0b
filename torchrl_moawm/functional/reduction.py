"""The one reduction."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_moawm._checks import check_mask, check_same_shape


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
        A scalar in the unit of ``x``.

    Raises:
        ValueError: The shapes differ.
        TypeError: The mask is not boolean.

    Example:
        >>> import torch
        >>> masked_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, True, False]))
        tensor(1.5000)
    """
    if mask is None:
        return x.sum() / max(x.numel(), 1)
    check_same_shape(x=x, mask=mask)
    check_mask(mask=mask)
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp_min(1)
