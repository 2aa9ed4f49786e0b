"""Negative log-likelihood of the other agents' actions."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from torchrl_moawm._checks.tensors import (
    check_floating,
    check_integer,
    check_same_shape,
    check_shape,
)
from torchrl_moawm.functional.divergence import MIN_SCALE
from torchrl_moawm.functional.reduction import full_precision

VECTOR_BYTES = 64 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 32
"""Size of the processor's vector registers, as torch uses them."""

NO_ACTION = -(2**31)
"""What stands for an index to be ignored: none is, and torch's -100 would give 0 for a bad action.
"""


def allowed_logits(logits: Tensor, allowed: Tensor) -> Tensor:
    """Logits ``[*B, A]`` of the actions that are allowed, bool ``[*B, A]``; else the least number.

    A row that allows nothing (an agent that cannot act) counts as unmasked.
    """
    allowed = allowed | ~allowed.any(-1, keepdim=True)
    return logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)


def moa_cross_entropy(logits: Tensor, others_actions: Tensor) -> Tensor:
    """Cross entropy of the others' discrete actions.

    ``-log p(a^j) = -log_softmax_a(logits)[a^j]``

    Args:
        logits: Unnormalised log-probabilities, ``[*B, N, M, A]``: agent i about other j at step t.
            Carries gradient.
        others_actions: What the others did at step t, ``[*B, N, M]``, integers in ``0 .. A-1``.

    Returns:
        ``[*B, N, M]`` in nats.

    Raises:
        ValueError: The shapes do not belong together.
        TypeError: The actions are not integers, or the logits not floating.

    References:
        Jaques et al., "Social Influence as Intrinsic Motivation for Multi-Agent Deep Reinforcement
        Learning", 2019 (the model of other agents).

    Note:
        With many actions this is ``torch.nn.functional.cross_entropy``. That one is slow on a CPU
        where the actions do not fill a vector register (16 numbers of float32 with AVX-512, 8 with
        AVX2); there ``log_softmax`` runs along the samples instead (``benchmarks/cost``).

    Example:
        >>> import math, torch
        >>> logits = torch.tensor([[[0.0, math.log(3.0)]]])  # p = 1/4, 3/4
        >>> moa_cross_entropy(logits, torch.tensor([[1]])).exp()
        tensor([[1.3333]])
    """
    (logits,) = full_precision(logits)
    check_floating(logits=logits)
    check_integer(others_actions=others_actions)
    check_shape("others_actions", others_actions, logits.shape[:-1], "logits without actions")
    index, n_actions = others_actions.long(), logits.shape[-1]
    if n_actions * logits.element_size() < VECTOR_BYTES:
        log_p = logits.movedim(-1, 0).log_softmax(0).movedim(0, -1)
        return -log_p.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    rows = logits.reshape(-1, n_actions)
    out = cross_entropy(rows, index.reshape(-1), reduction="none", ignore_index=NO_ACTION)
    return out.view(index.shape)


def diagonal_gaussian_nll(loc: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood under a diagonal Gaussian, summed over the action dimensions.

    ``-log p(a) = sum_d [ (a_d - mu_d)^2 / (2 s_d^2) + log s_d + 1/2 log(2 pi) ]``

    Args:
        loc: Mean, ``[..., D]``; carries gradient.
        scale: Standard deviation, ``[..., D]``, above 0; carries gradient. Below 1e-6 it counts as
            1e-6, without gradient, so that the result stays finite.
        target: What was done at step t, ``[..., D]``.

    Returns:
        ``[...]`` in nats.

    Raises:
        ValueError: The shapes differ.
        TypeError: An argument is not floating.

    Example:
        >>> import torch
        >>> zero, one = torch.zeros(2), torch.ones(2)
        >>> diagonal_gaussian_nll(zero, one, zero)  # log(2 pi)
        tensor(1.8379)
    """
    check_same_shape(loc=loc, scale=scale, target=target)
    loc, scale, target = full_precision(loc, scale, target)
    check_floating(loc=loc, scale=scale, target=target)
    scale = scale.clamp_min(MIN_SCALE)
    distance = (target - loc) / scale
    return (distance.square() / 2.0 + scale.log() + math.log(2.0 * math.pi) / 2.0).sum(-1)
