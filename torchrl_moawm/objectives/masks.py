"""Masks brought to shape; masked values zeroed."""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from torchrl_moawm._checks.tensors import check_mask
from torchrl_moawm._checks.values import check_finite
from torchrl_moawm._keys import get_required


def get_mask(tensordict: TensorDictBase, key: NestedKey) -> Tensor | None:
    """A mask that may be absent.

    Raises:
        TypeError: It is not boolean.
    """
    mask = tensordict.get(key, None)
    if mask is not None:
        check_mask(**{str(key): mask})
    return mask


def get_flag(tensordict: TensorDictBase, key: NestedKey) -> Tensor | None:
    """A done flag ``[*B, N, 1]`` that may be absent, as a mask ``[*B, N]``."""
    flag = get_mask(tensordict, key)
    return flag.squeeze(-1) if flag is not None and flag.ndim > 1 else flag


def mask_and(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Combines two masks that begin with the same dimensions; ``None`` is all True."""
    if first is None or second is None:
        return second if first is None else first
    if first.device != second.device:
        raise ValueError(f"Expected masks on one device, got {first.device} and {second.device}.")
    if first.ndim < second.ndim:
        first, second = second, first
    return first & broadcast_mask(second, first.shape, "another mask")


def broadcast_mask(mask: Tensor, shape: Sequence[int], name: object) -> Tensor:
    """The mask over a shape that begins with the mask's own.

    Raises:
        ValueError: It does not begin so.
    """
    if tuple(mask.shape) != tuple(shape[: mask.ndim]):
        last = mask.shape[-1:] == (1,) and tuple(mask.shape[:-1]) == tuple(shape[: mask.ndim - 1])
        raise ValueError(
            f"Expected a mask whose shape begins that of {name}, {list(shape)}, got "
            f"{list(mask.shape)}: "
            + ("squeeze its last one." if last else "one of the two is of another batch or group.")
        )
    return mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)).expand(tuple(shape))


def mask_and_detach(name: object, entry: Any, mask: Tensor | None, fill: bool = False) -> Any:
    """The entry, or each of a nested one, as data: without gradient, filled behind the mask.

    Raises:
        ValueError: It is not finite where the mask is True, and values are checked; or the mask
            is on another device or of another shape.
    """
    if isinstance(entry, TensorDictBase):
        return entry.apply(lambda x: mask_and_detach(name, x, mask, fill))
    kept = entry if is_plain(entry) else entry.detach()
    if mask is not None:
        if mask.device != entry.device:
            raise ValueError(f"Expected the mask of {name!r} on {entry.device}, got {mask.device}.")
        kept = torch.where(broadcast_mask(mask, entry.shape, name), kept, fill)
    check_finite(name, entry, kept)
    return kept


def is_plain(entry: Tensor) -> bool:
    """Whether an entry surely carries no gradient, and no tangent; under a transform nobody knows.

    A batched tensor of ``torch.vmap`` does not tell of the gradient that it wraps.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._functorch.maybe_current_level() is None
        and not entry.requires_grad
        and unpack_dual(entry).tangent is None
    )


def zero_behind(mask: Tensor | None, entry: Tensor, name: object) -> Tensor:
    """The entry, 0 where the mask is False, so that a NaN there is harmless."""
    if mask is None:
        return entry
    return torch.where(broadcast_mask(mask, entry.shape, name), entry, 0)


def sample_mask(
    tensordict: TensorDictBase, keys: tuple[NestedKey, ...], required: str = ""
) -> Tensor | None:
    """TorchRL's own masks, one value per sample, ``[*B]`` after its trailing ones are gone.

    Args:
        tensordict: The batch.
        keys: The masks.
        required: Who needs them, if they must be there.
    """
    mask = None
    for key in keys:
        if required:
            get_required(tensordict, key, required, "Set loss_mask_key")
        found = get_mask(tensordict, key)
        if found is not None:
            while found.ndim > max(tensordict.batch_dims, 1) and found.shape[-1] == 1:
                found = found.squeeze(-1)
            mask = mask_and(mask, found)
    return mask
