"""Prediction errors of a world model, and the disagreement of an ensemble."""

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import (
    check_floating,
    check_mask,
    check_positive,
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
    check_positive("delta", delta)
    check_same_shape(prediction=prediction, target=target)
    prediction, target = full_precision(prediction, target)
    check_floating(prediction=prediction, target=target)
    error = _masked(prediction - target, mask)
    if weight is not None:
        error = error * _checked(weight, error).sqrt()
    size = error.abs()
    return torch.where(size <= delta, error.square(), delta * (2.0 * size - delta)).sum(-1)


def continuation_nll(logits: Tensor, terminated: Tensor) -> Tensor:
    """Negative log-likelihood of what happened: that it goes on, or that it is over.

    ``-log p(c)``, ``c = not terminated``, ``p(c = 1) = sigmoid(logits)``: ``softplus(-logits)``
    where it goes on, ``softplus(logits)`` where it has terminated.

    Args:
        logits: Of going on, any shape; carries gradient.
        terminated: True where it is over, boolean, of the same shape. A truncated episode goes on.

    Returns:
        Nats, of the same shape; float32 where ``logits`` is of a half precision.

    Raises:
        ValueError: The shapes differ.
        TypeError: ``logits`` is not floating, or ``terminated`` not boolean.

    References:
        Hafner et al., "Mastering Diverse Domains through World Models", 2023: a Bernoulli head for
        the continuation.

    Example:
        >>> import torch
        >>> continuation_nll(torch.zeros(1), torch.tensor([True]))  # p = 1/2: log 2
        tensor([0.6931])
    """
    check_same_shape(logits=logits, terminated=terminated)
    check_mask(terminated=terminated)
    (logits,) = full_precision(logits)
    check_floating(logits=logits)
    return torch.nn.functional.softplus(torch.where(terminated, logits, -logits))


def ensemble_disagreement(predictions: Tensor, weight: Tensor | None = None) -> Tensor:
    """How far the members of an ensemble are from one another.

    ``sqrt( (1 / D) sum_d w_d Var_k(x^_{k, d}) )``: the standard deviation over the members (of the
    population, divided by K), as the root of its mean square over features.

    The mean of the members' squared errors is that of their mean plus ``D`` times the square of
    this: members disagree where they have not been taught what is true.

    Args:
        predictions: Of the members, ``[..., K, D]``.
        weight: Of each feature, ``[D]``; ``None`` means 1. ``1 / std^2`` counts every feature in
            its own standard deviations.

    Returns:
        ``[...]`` in the unit of the features (times the root of that of the weight); 0 for a single
        member.

    Raises:
        ValueError: There are fewer than two dimensions, or the weight is of another size.
        TypeError: The predictions are not floating.

    References:
        Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles", 2017. Pathak et al., "Self-Supervised Exploration via Disagreement", 2019, who
        reward an agent by the variance.

    Example:
        >>> import torch
        >>> ensemble_disagreement(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))  # sqrt((1 + 0) / 2)
        tensor(0.7071)
    """
    if predictions.ndim < 2:
        raise ValueError(f"Expected predictions [..., K, D], got {list(predictions.shape)}.")
    (predictions,) = full_precision(predictions)
    check_floating(predictions=predictions)
    variance = predictions.var(-2, correction=0)
    return (_weighted_sum(variance, weight) / predictions.shape[-1]).sqrt()


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
