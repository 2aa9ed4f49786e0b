"""Figures that show whether a latent is used: what shuffling costs, and active dimensions."""

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_mask, check_shape
from torchrl_moawm.functional.reduction import full_precision


def shuffle_valid(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Entries of other samples of the batch, for each agent by itself.

    Of an agent's n valid samples, number k receives number ``(k + s) mod n`` with
    ``s = floor(0.618 n)``: a shuffle without randomness, so it compiles and repeats. With the
    golden section s is seldom a multiple of the length of an episode. A single sample stays.

    Args:
        x: ``[*B, N, F]``, one entry per sample and agent.
        mask: True where valid, boolean ``[*B, N]``. ``None`` means all. Only valid entries are
            exchanged; what stands behind the mask is arbitrary.

    Returns:
        ``[*B, N, F]``.

    Raises:
        ValueError: The mask has not the shape of ``x`` without features.
        TypeError: The mask is not boolean.

    Example:
        >>> import torch
        >>> shuffle_valid(torch.arange(4.0).reshape(4, 1, 1)).flatten()
        tensor([2., 3., 0., 1.])
    """
    samples = x.flatten(0, -3) if x.ndim > 3 else x.reshape(-1, *x.shape[-2:])  # [S, N, F]
    if mask is None:
        return samples.roll(-(618 * samples.shape[0] // 1000), dims=0).reshape(x.shape)
    check_shape("mask", mask, x.shape[:-1], "x without features")
    check_mask(mask=mask)
    valid = mask.reshape(samples.shape[:-1])  # [S, N]
    count = valid.sum(0)
    shift = 618 * count // 1000
    rank = valid.cumsum(0) - 1
    order = torch.argsort(valid, dim=0, descending=True, stable=True)  # the valid samples first
    source = order.gather(0, (rank + shift).remainder(count.clamp_min(1)))
    return samples.gather(0, source.unsqueeze(-1).expand_as(samples)).reshape(x.shape)


def active_units(loc: Tensor, mask: Tensor | None = None, threshold: float = 0.01) -> Tensor:
    """Number of latent dimensions whose mean varies with the input.

    ``A = #{ d : Var_x( E[z_d | x] ) > threshold }``

    Args:
        loc: Mean of the latent, ``[*B, N, Z]``.
        mask: True where valid, boolean ``[*B, N]``. ``None`` means all.
        threshold: In squared units of z.

    Returns:
        A scalar count between 0 and ``Z``, of the dtype of ``loc`` (float32 for a half precision).

    Raises:
        ValueError: The mask has not the shape of ``loc`` without features.
        TypeError: The mask is not boolean.

    References:
        Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016 (active units).

    Example:
        >>> import torch
        >>> loc = torch.tensor([[[1.0, 0.5]], [[-1.0, 0.5]]])  # the second never moves
        >>> active_units(loc)
        tensor(1.)
    """
    (loc,) = full_precision(loc)
    flat = loc.reshape(-1, loc.shape[-1])
    count: Tensor | int = max(len(flat), 1)
    if mask is not None:
        check_shape("mask", mask, loc.shape[:-1], "loc without features")
        check_mask(mask=mask)
        count = mask.sum().clamp_min(1)

    def kept(x: Tensor) -> Tensor:
        return x if mask is None else torch.where(mask.reshape(-1, 1), x, 0.0)

    mean = kept(flat).sum(0) / count
    variance = kept(flat - mean).square().sum(0) / count
    return (variance > threshold).sum().to(loc.dtype)
