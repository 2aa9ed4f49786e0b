"""Tools of the contract's rules: what a loss names, and how to change its batch."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives import LossModule
from torchrl.objectives.value import ValueEstimatorBase

from torchrl_moawm._keys import leaf_name

Key = str | tuple[str, ...]

# --------------------------------------------------------------------- keys


def under(prefix: Key, key: Key) -> Key:
    """The key below a prefix."""
    joined: Key = unravel_key((prefix, key))
    return joined


def in_keys(loss: LossModule) -> list[Key]:
    """The loss's in_keys, flat; none where it has none."""
    return [unravel_key(key) for key in getattr(loss, "in_keys", ())]


def names(error: KeyError, key: Key) -> bool:
    """Says whether the message names the key: in full, or its last name as tensordict does."""
    message = " ".join(map(str, error.args))
    by_name = re.search(rf"\b{re.escape(leaf_name(key))}\b", message) is not None
    return repr(key) in message or by_name


def members(loss: LossModule) -> list[LossModule]:
    """The loss and the losses within it."""
    return [module for module in loss.modules() if isinstance(module, LossModule)]


def network_keys(loss: LossModule, name: str) -> set[Key]:
    """The ``in_keys`` or ``out_keys`` of the networks within a loss, its value estimator aside."""
    functional = [module for one in members(loss) for module in one.__dict__.values()]
    return {  # a functional loss holds its networks apart from its modules
        unravel_key(key)
        for module in (*loss.modules(), *functional)
        if isinstance(module, TensorDictModuleBase)
        and not isinstance(module, LossModule | ValueEstimatorBase)
        for key in getattr(module, name)
    }


def default_tensor_keys(loss: LossModule, field: str) -> list[Key]:
    """The default entry of a field, in each member that has the field."""
    having = [member for member in members(loss) if hasattr(member.tensor_keys, field)]
    keys = [getattr(member.default_keys(), field) for member in having]
    return [unravel_key(key) for key in keys if isinstance(key, (str, tuple))]


def tensor_keys(loss: LossModule) -> dict[str, list[Key]]:
    """Entries by field of ``tensor_keys``: one for each member that has the field."""
    found: dict[str, list[Key]] = {}
    for member in members(loss):
        for field in fields(member.tensor_keys):
            key = getattr(member.tensor_keys, field.name)
            if isinstance(key, (str, tuple)):
                found.setdefault(field.name, []).append(unravel_key(key))
    return found


def new_key(field: str) -> Key:
    """Where a field of ``tensor_keys`` can be moved to."""
    return ("renamed", "nested", f"new_{field}")


def renamable(loss: LossModule) -> dict[str, list[Key]]:
    """What ``tensor_keys`` gives, less what a network writes and ``set_keys`` will not rename."""
    found, written = tensor_keys(loss), network_keys(loss, "out_keys")
    for field in [field for field, keys in found.items() if written.intersection(keys)]:
        try:
            with renamed(loss, field, new_key(field)):
                pass
        except KeyError as error:
            if names(error, new_key(field)):
                del found[field]
    return found


@contextmanager
def renamed(loss: LossModule, field: str, key: NestedKey) -> Iterator[None]:
    """A loss whose field stands for another entry, until the end of the block."""
    having = [member for member in members(loss) if hasattr(member.tensor_keys, field)]
    before = [getattr(member.tensor_keys, field) for member in having]
    try:
        loss.set_keys(**{field: key})
        yield
    finally:
        for member, old in zip(having, before, strict=True):
            member.set_keys(**{field: old})


@contextmanager
def reduced(loss: LossModule, reduction: str) -> Iterator[list[Any]]:
    """A loss, and the losses within it, of another reduction until the end of the block."""
    having: list[Any] = [member for member in members(loss) if hasattr(member, "reduction")]
    before = [member.reduction for member in having]
    try:
        for member in having:
            member.reduction = reduction
        yield having
    finally:
        for member, old in zip(having, before, strict=True):
            member.reduction = old


# -------------------------------------------------------------------- batch


def changed(
    batch: TensorDictBase, keys: Iterable[Key], where: Tensor | None = None
) -> TensorDictBase:
    """A batch with other values in some entries: NaN, integers of the next row, opposite flags.

    Args:
        batch: The batch; it is not touched.
        keys: The entries.
        where: Which elements, ``[*B]`` or ``[*B, N]``; ``None`` means all, and the next row then
            is a valid integer in any encoding.
    """
    batch = batch.copy()
    for key in keys:
        entry = batch.get(key)
        if entry.dtype == torch.bool:
            other = ~entry
        else:
            other = entry * torch.nan if entry.dtype.is_floating_point else entry.roll(1, 0)
        batch.set(key, other if where is None else torch.where(right(where, entry), other, entry))
    return batch


def data_keys(batch: TensorDictBase) -> list[Key]:
    """Every entry that is no flag."""
    return [key for key, entry in batch.items(True, True) if entry.dtype != torch.bool]


def right(mask: Tensor, entry: Tensor) -> Tensor:
    """The mask with trailing ones for the features of the entry."""
    return mask.reshape(mask.shape + (1,) * (entry.ndim - mask.ndim))


def placed(mask: Tensor, value: Tensor) -> Tensor | None:
    """The mask with ones for what the value has before and behind it; None if it has no such shape.

    Members of an ensemble stand before the batch, features behind it.
    """
    for before in range(value.ndim - mask.ndim + 1):
        if value.shape[before : before + mask.ndim] == mask.shape:
            return right(mask.reshape((1,) * before + mask.shape), value)
    return None
