"""Squared prediction error."""

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_floating, check_mask, check_same_shape
from torchrl_moawm.functional.reduction import full_precision


def squared_error_norm(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared Euclidean norm of the error: a sum over features, without the factor 1/2.

    ``|| m * (x^ - x) ||_2^2 = sum_d m_d (x^_d - x_d)^2``

    Args:
        prediction: ``[..., D]``; carries gradient.
        target: ``[..., D]``, of the step that is predicted.
        mask: True where the feature counts, boolean ``[..., D]``. ``None`` means all. A NaN behind
            it reaches neither the result nor a gradient.

    Returns:
        ``[...]`` in the squared unit of the features.

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
    error = prediction - target
    if mask is not None:
        check_same_shape(prediction=prediction, mask=mask)
        check_mask(mask=mask)
        error = torch.where(mask, error, 0.0)
    return error.square().sum(-1)
