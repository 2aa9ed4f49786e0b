"""Checks whose message names the argument and the shapes."""

import math
from collections.abc import Collection, Sequence
from numbers import Real

import torch
from torch import Tensor


def check_same_shape(**tensors: Tensor) -> None:
    """Refuses tensors of different shapes or devices: nothing is broadcast or moved silently.

    Raises:
        ValueError: The message lists every name with its shape, or its device.
    """
    first, *others = tensors.values()  # compared in pairs: a set would fix the sizes when compiled
    if any(other.shape != first.shape for other in others):
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"Expected one shape, got {found}.")
    if any(other.device != first.device for other in others):
        found = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"Expected one device, got {found}.")


def check_shape(name: str, tensor: Tensor, expected: Sequence[int], meaning: str) -> None:
    """Refuses a tensor whose shape is not the expected one.

    Raises:
        ValueError: The message gives both shapes and what the expected one stands for.
    """
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(
            f"Expected {name} of shape {list(expected)} ({meaning}), got {list(tensor.shape)}."
        )


def check_group(n_agents: int, **entries: tuple[Tensor, int]) -> None:
    """Refuses entries that are not ``[*B, N, F]`` for this many agents and features.

    Args:
        n_agents: ``N``.
        **entries: The entry with its number of features, by name.

    Raises:
        ValueError: The message names the entry, what a network was built for, and the shape.
    """
    for name, (tensor, features) in entries.items():
        if tuple(tensor.shape[-2:]) != (n_agents, features):
            raise ValueError(
                f"Expected {name} of shape [*B, {n_agents}, {features}] (agents, features: what "
                f"the network was built for), got {list(tensor.shape)}."
            )


def check_one_shape(group: object, name: str, shape: Sequence[int]) -> None:
    """Refuses a group whose agents differ in shape (TorchRL writes -1 there).

    Raises:
        ValueError: The message names group and entry, and says what to do.
    """
    if -1 in tuple(shape):
        raise ValueError(
            f"The agents of {group!r} differ in the shape of {(group, name)}, {list(shape)}. Give "
            "each shape a group of its own (group_map=MarlGroupMapType.ONE_GROUP_PER_AGENT)."
        )


def check_floating(**tensors: Tensor) -> None:
    """Refuses integer and boolean tensors, and floating ones of different dtypes.

    Raises:
        TypeError: The message names the arguments and their dtypes.
    """
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise TypeError(f"Expected {name} of a floating dtype, got {tensor.dtype}.")
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        raise TypeError(f"Expected one floating dtype, got {found}.")


def check_device_and_dtype(name: object, entry: Tensor, parameter: Tensor) -> None:
    """Refuses an entry on another device than a network's parameters, or of another floating dtype.

    Raises:
        TypeError: The message names the entry and both dtypes.
        ValueError: The message names the entry and both devices.
    """
    if entry.device != parameter.device:
        raise ValueError(
            f"Expected {name!r} on {parameter.device}, as the network, got {entry.device}."
        )
    if entry.dtype.is_floating_point and entry.dtype != parameter.dtype:
        raise TypeError(
            f"Expected {name!r} of {parameter.dtype}, as the network, got {entry.dtype}."
        )


def check_integer(**tensors: Tensor) -> None:
    """Refuses floating and boolean tensors where class indices are due.

    Raises:
        TypeError: The message names the argument and its dtype.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point or tensor.dtype == torch.bool:
            raise TypeError(f"Expected {name} of an integer dtype, got {tensor.dtype}.")


def check_mask(**masks: Tensor) -> None:
    """Refuses masks that are not boolean.

    Raises:
        TypeError: The message names the mask and its dtype.
    """
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise TypeError(f"Expected {name} of dtype torch.bool, got {mask.dtype}.")


def check_option(name: str, value: object, allowed: Collection[object]) -> None:
    """Refuses a word that is not among the allowed ones.

    Raises:
        ValueError: The message lists what is allowed.
    """
    if value not in allowed:
        words = ", ".join(repr(word) for word in allowed)
        raise ValueError(f"Expected {name} to be one of {words}, got {value!r}.")


def check_size(**sizes: int | None) -> None:
    """Refuses sizes below 1; ``None`` stands for none.

    Raises:
        ValueError: The message names the size.
    """
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"Expected {name} to be at least 1, got {size}.")


def check_coefficient(name: str, value: float | Tensor) -> None:
    """Refuses a weight or clip range that is not one finite number of at least 0.

    Raises:
        TypeError: The value is not a number.
        ValueError: The value is negative, NaN or infinite, or a tensor of several elements.
    """
    if isinstance(value, bool) or not isinstance(value, Real | Tensor):
        raise TypeError(f"Expected {name} to be a number, got {type(value).__name__}.")
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"Expected {name} to be one number, got shape {list(value.shape)}.")
    number = float(value)
    if not math.isfinite(number) or number < 0.0:
        raise ValueError(f"Expected {name} to be finite and at least 0, got {number}.")


def check_positive(name: str, value: float | None) -> None:
    """Refuses a threshold that is not finite and above 0; ``None`` stands for none.

    Raises:
        TypeError: The value is not a number.
        ValueError: The value is 0, negative, NaN or infinite.
    """
    if value is not None:
        check_coefficient(name, value)
        if not value > 0.0:
            raise ValueError(f"Expected {name} to be above 0, got {value}.")


def check_share(name: str, value: float | Tensor) -> None:
    """Refuses a discount or share that is not one number from 0 to 1.

    Raises:
        TypeError: The value is not a number.
        ValueError: The value is negative, NaN or above 1, or a tensor of several elements.
    """
    check_coefficient(name, value)
    if float(value) > 1.0:
        raise ValueError(f"Expected {name} to be from 0 to 1, got {float(value)}.")
