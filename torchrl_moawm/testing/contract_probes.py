"""Tools of the contract's rules: run a loss, change its batch, hide entries from it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives import LossModule

ROW_MASK = ("collector", "mask")  # TorchRL's own, one value per sample
Key = str | tuple[str, ...]

# ---------------------------------------------------------------------- run


def expect(holds: bool, message: str) -> None:
    """Raises AssertionError with the message unless it holds."""
    if not holds:
        raise AssertionError(message)


def forward(loss: LossModule, batch: TensorDictBase) -> TensorDictBase:
    """The loss on this very batch, its draws always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return loss(batch)


def run(loss: LossModule, batch: TensorDictBase) -> dict[str, Tensor]:
    """Runs the loss on a clone of the batch."""
    return dict(forward(loss, batch.clone()).items())


def terms(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs that are minimised: TorchRL's Trainer sums every one that begins with loss."""
    return {key: value for key, value in outputs.items() if key.startswith("loss")}


def with_gradients(loss: LossModule, batch: TensorDictBase) -> dict[str, Tensor]:
    """The outputs of the loss, and the gradient of the sum of its terms by parameter."""
    outputs = run(loss, batch)
    total = torch.stack([term.sum() for term in terms(outputs).values()]).sum()
    return {**outputs, **gradients_of(total, loss)}


def gradients_of(term: Tensor, loss: LossModule) -> dict[str, Tensor]:
    """The gradient of a term by parameter, 0 where it reaches none; ``.grad`` stays as it is."""
    trained = {name: p for name, p in loss.named_parameters() if p.requires_grad}
    expect(bool(trained), "the loss has no parameter that requires a gradient.")
    found = torch.autograd.grad(
        term, list(trained.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return {f"the gradient of {name}": g for name, g in zip(trained, found, strict=True)}


def same(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], when: str, exact: bool = True
) -> None:
    """Raises AssertionError unless everything expected was found, bit by bit where exact."""
    rtol, atol = (0.0, 0.0) if exact else (1e-5, 1e-6)
    for key, value in expected.items():
        expect(key in found, f"{when} there is no {key!r}, only {list(found)}.")
        try:
            torch.testing.assert_close(found[key], value, rtol=rtol, atol=atol, equal_nan=True)
        except AssertionError as error:
            shown = f"{text(found[key])}, expected {text(value)}"
            raise AssertionError(f"{when} {key} is {shown}.") from error


def text(value: Tensor) -> str:
    """A number, or a shape and the first few numbers."""
    if value.ndim == 0:
        return f"{value.item():.6g}"
    some = ", ".join(f"{x:.6g}" for x in value.flatten()[:4].tolist())
    return f"{list(value.shape)} [{some}, ...]"


# --------------------------------------------------------------------- keys


def last(key: Key) -> str:
    """The innermost name of a key."""
    return key if isinstance(key, str) else key[-1]


def under(prefix: Key, key: Key) -> Key:
    """The key below a prefix."""
    joined: Key = unravel_key((prefix, key))
    return joined


def in_keys(loss: LossModule) -> list[Key]:
    """The loss's in_keys, flat."""
    return [unravel_key(key) for key in loss.in_keys]


def names(error: KeyError, key: Key) -> bool:
    """Says whether the message names the key: in full, or its last name as tensordict does."""
    message = " ".join(map(str, error.args))
    return repr(key) in message or f'key "{last(key)}" not found' in message


def members(loss: LossModule) -> list[LossModule]:
    """The loss and the losses within it."""
    return [module for module in loss.modules() if isinstance(module, LossModule)]


def network_keys(loss: LossModule, name: str) -> set[Key]:
    """The ``in_keys`` or ``out_keys`` of the networks within a loss."""
    functional = [module for one in members(loss) for module in one.__dict__.values()]
    return {  # a functional loss holds its networks apart from its modules
        unravel_key(key)
        for module in (*loss.modules(), *functional)
        if isinstance(module, TensorDictModuleBase) and not isinstance(module, LossModule)
        for key in getattr(module, name)
    }


def default_tensor_keys(loss: LossModule, field: str) -> list[Key]:
    """The default entry of a field, in each member that has the field."""
    having = [member for member in members(loss) if hasattr(member.tensor_keys, field)]
    keys = [getattr(member.default_keys(), field) for member in having]
    return [unravel_key(key) for key in keys if isinstance(key, (str, tuple))]


def moving(
    loss: LossModule, batch: TensorDictBase, keys: Iterable[Key], expected: Mapping[str, Tensor]
) -> list[Key]:
    """The entries that change what a loss returns: each one alone, if all together do."""
    keys = list(keys)

    def moves(some: list[Key]) -> bool:
        try:
            same(run(loss, changed(batch, some)), expected, "")
        except Exception:
            return True
        return False

    return [key for key in keys if moves([key])] if moves(keys) else []


def tensor_keys(loss: LossModule) -> dict[str, list[Key]]:
    """Entries by field of ``tensor_keys``: one for each member that has the field."""
    found: dict[str, list[Key]] = {}
    for member in members(loss):
        for field in fields(member.tensor_keys):
            key = getattr(member.tensor_keys, field.name)
            if isinstance(key, (str, tuple)):
                found.setdefault(field.name, []).append(unravel_key(key))
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
