"""Prediction errors."""

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import (
    check_floating,
    check_mask,
    check_same_shape,
    check_shape,
)
from torchrl_moawm.functional.reduction import full_precision


def squared_error_norm(
    prediction: Tensor, target: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Squared Euclidean norm of the error: a sum over features, without the factor 1/2.

    ``|| m * (x^ - x) ||_2^2 = sum_d m_d (x^_d - x_d)^2``; with weights ``sum_d m_d w_d (...)^2``.

    Args:
        prediction: ``[..., D]``; carries gradient.
        target: ``[..., D]``, of the step that is predicted.
        mask: True where the feature counts, boolean ``[..., D]``. ``None`` means all. A NaN behind
            it reaches neither the result nor a gradient.
        weight: Of each feature, ``[D]``; ``None`` means 1. ``1 / std^2`` counts every feature in
            its own standard deviations.

    Returns:
        ``[...]`` in the squared unit of the features (times that of the weight).

    Raises:
        ValueError: The shapes differ.
        TypeError: Prediction or target is not floating, or the mask not boolean.

    Example:
        >>> import torch
        >>> x = torch.tensor([3.0, 4.0])
        >>> squared_error_norm(x, torch.zeros(2)), squared_error_norm(x, x, x > 3.0)
        (tensor(25.), tensor(0.))
    """
    check_same_shape(prediction=prediction, target=target)
    prediction, target = full_precision(prediction, target)
    check_floating(prediction=prediction, target=target)
    return _weighted_sum(_masked(prediction - target, mask).square(), weight)


def huber_error_norm(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    delta: float,
) -> Tensor:
    """Squared error that goes on linearly beyond ``delta``: for targets with rare large values.

    ``sum_d m_d w_d h(x^_d - x_d)``, ``h(e) = e^2`` where ``|e| <= delta``, else
    ``delta (2 |e| - delta)``: twice Huber's loss, so that it is :func:`squared_error_norm` where no
    error is large. A weight scales the result, not where it turns: ``delta`` is in the unit of the
    features divided by ``sqrt(w_d)``, so that with ``w = 1 / std^2`` it counts standard deviations.

    Args:
        prediction: ``[..., D]``; carries gradient.
        target: ``[..., D]``, of the step that is predicted.
        mask: True where the feature counts, boolean ``[..., D]``. ``None`` means all.
        weight: Of each feature, ``[D]``; ``None`` means 1.

    Keyword Args:
        delta: Error at which it turns, above 0.

    Returns:
        ``[...]``.

    Raises:
        ValueError: The shapes differ, or ``delta`` is not above 0.
        TypeError: Prediction or target is not floating, or the mask not boolean.

    References:
        Huber, "Robust Estimation of a Location Parameter", 1964.

    Example:
        >>> import torch
        >>> huber_error_norm(torch.tensor([1.0, 5.0]), torch.zeros(2), delta=2.0)  # 1 + 2 (10 - 2)
        tensor(17.)
    """
    if not delta > 0.0:
        raise ValueError(f"Expected delta above 0, got {delta}.")
    check_same_shape(prediction=prediction, target=target)
    prediction, target = full_precision(prediction, target)
    check_floating(prediction=prediction, target=target)
    error = _masked(prediction - target, mask)
    if weight is not None:
        error = error * _checked(weight, error).sqrt()
    size = error.abs()
    return torch.where(size <= delta, error.square(), delta * (2.0 * size - delta)).sum(-1)


def _masked(error: Tensor, mask: Tensor | None) -> Tensor:
    """The error, 0 behind the mask."""
    if mask is None:
        return error
    check_same_shape(prediction=error, mask=mask)
    check_mask(mask=mask)
    return torch.where(mask, error, 0.0)


def _weighted_sum(x: Tensor, weight: Tensor | None) -> Tensor:
    """Sum over the features, each times its weight."""
    return x.sum(-1) if weight is None else (x * _checked(weight, x)).sum(-1)


def _checked(weight: Tensor, x: Tensor) -> Tensor:
    """A weight per feature, ``[D]``."""
    check_shape("weight", weight, x.shape[-1:], "one per feature")
    return weight
