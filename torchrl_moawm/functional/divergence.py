"""Divergences between distributions."""

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_floating, check_same_shape
from torchrl_moawm.functional.reduction import full_precision

MIN_SCALE = 1e-6
"""A standard deviation below this counts as this one: with 0 there is no finite answer."""


def diagonal_gaussian_kl(loc_p: Tensor, scale_p: Tensor, loc_q: Tensor, scale_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two diagonal Gaussians, summed over the latent dimensions.

    ``KL(p || q) = 1/2 sum_d [ log(s_q^2 / s_p^2) + (s_p^2 + (mu_p - mu_q)^2) / s_q^2 - 1 ]``

    Args:
        loc_p: Mean of p, ``[..., D]``.
        scale_p: Standard deviation of p, ``[..., D]``, above 0.
        loc_q: Mean of q, ``[..., D]``.
        scale_q: Standard deviation of q, ``[..., D]``, above 0.

    All four carry gradient. A scale below 1e-6, be it 0, counts as 1e-6 and has no gradient, so
    that divergence and gradient stay finite; an infinite one gives infinity or NaN.

    Returns:
        ``[...]`` in nats, at least 0, and 0 only where p equals q.

    Raises:
        ValueError: The shapes differ.
        TypeError: An argument is not floating.

    References:
        Kingma and Welling, "Auto-Encoding Variational Bayes", 2014, appendix B (q standard normal).

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> diagonal_gaussian_kl(2 * one, one, 0 * one, one)  # (mu_p - mu_q)^2 / 2
        tensor(2.)
    """
    check_same_shape(loc_p=loc_p, scale_p=scale_p, loc_q=loc_q, scale_q=scale_q)
    loc_p, scale_p, loc_q, scale_q = full_precision(loc_p, scale_p, loc_q, scale_q)
    check_floating(loc_p=loc_p, scale_p=scale_p, loc_q=loc_q, scale_q=scale_q)
    scale_p, scale_q = scale_p.clamp_min(MIN_SCALE), scale_q.clamp_min(MIN_SCALE)
    ratio = scale_p / scale_q
    distance = (loc_p - loc_q) / scale_q
    return ((ratio.square() + distance.square() - 1.0) / 2.0 - ratio.log()).sum(-1)


def free_nats(kl: Tensor, threshold: float | Tensor) -> Tensor:
    """Divergence of which the first nats cost nothing: below the threshold it has no gradient.

    ``max(KL, threshold)``, elementwise

    The threshold is for the whole latent of an agent at a step, so it applies to the sum over the
    latent dimensions, and before the mean over agents and steps.

    Args:
        kl: Divergences in nats, any shape; carries gradient where above the threshold.
        threshold: In nats, at least 0.

    Returns:
        The same shape, in nats.

    Raises:
        TypeError: The divergence is not floating.

    References:
        Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", 2016 (free
        bits, there per group of dimensions and on the mean of a minibatch). Hafner et al.,
        "Mastering Diverse Domains through World Models", 2023 (as here, with 1 nat).

    Example:
        >>> import torch
        >>> free_nats(torch.tensor([0.5, 2.0]), 1.0)
        tensor([1., 2.])
    """
    check_floating(kl=kl)
    return kl.clamp_min(torch.as_tensor(threshold, dtype=kl.dtype, device=kl.device))
