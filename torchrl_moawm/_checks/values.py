"""Value checks: NaN, infinities, indices out of range. ``set_value_checks(False)`` disables them.

There are none where no value can be read: in compiled code, on the ``meta`` device and under
``torch.vmap``.
"""

import math
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_option


class _State:
    """The switch of the value checks, and the entries found finite within one call of a sum."""

    on = True
    finite: dict[int, Tensor] | None = None  # by id; the tensor is held, so the id stays its own


def set_value_checks(mode: bool) -> AbstractContextManager[object]:
    """Enables or disables the value checks: by a call, or for a ``with`` block.

    They are on by default: unmasked NaN, infinities and invalid or forbidden actions in what a loss
    or the value estimator reads, an action mask that allows nothing and a negative or infinite
    scale raise an error that names the entry, how many elements there are, and where the first is.

    A check costs a reduction of each entry (``benchmarks/cost``), and on a GPU a synchronisation.
    There is none in compiled code, on the ``meta`` device and under ``torch.vmap``.

    Args:
        mode: True for on.

    Raises:
        ValueError: ``mode`` is not a boolean.

    Example:
        >>> with set_value_checks(False):  # losses check no value here
        ...     pass
        >>> _ = set_value_checks(True)  # from here on they do again
    """
    check_option("mode", mode, (True, False))
    back = ExitStack()
    back.callback(setattr, _State, "on", _State.on)
    _State.on = mode
    return back


def checked_once() -> AbstractContextManager[object]:
    """A block in which an entry that was found finite is not checked again."""
    if torch.compiler.is_compiling() or _State.finite is not None:
        return nullcontext()
    back = ExitStack()
    back.callback(setattr, _State, "finite", None)
    _State.finite = {}
    return back


def values_checked(x: Tensor) -> bool:
    """Says whether the values of this tensor are checked."""
    return (
        _State.on
        and not torch.compiler.is_compiling()
        and not x.is_meta
        and torch._C._functorch.maybe_current_level() is None
    )


def check_finite(name: object, entry: Tensor, kept: Tensor) -> None:
    """Refuses NaN and infinities that are not masked.

    Args:
        name: Of the entry.
        entry: As it is in the batch.
        kept: The same, finite behind its mask.

    Raises:
        ValueError: The message names the entry, how many elements there are, and the first.
    """
    if not entry.is_floating_point() or not values_checked(entry):
        return
    known = _State.finite
    if known is not None and id(entry) in known:
        return
    if math.isfinite(entry.detach().sum().item()):  # so nothing in it is NaN or infinite
        if known is not None:
            known[id(entry)] = entry
        return
    raise_if_any(name, ~kept.isfinite(), "that are NaN or infinite and not masked")


def check_index(name: object, index: Tensor, count: int) -> None:
    """Refuses integers outside ``0 .. count - 1``.

    Raises:
        ValueError: As :func:`check_finite`.
    """
    if values_checked(index) and index.numel():
        low, high = index.aminmax()
        if low.item() < 0 or high.item() >= count:
            outside = (index < 0) | (index >= count)
            raise_if_any(name, outside, f"outside 0 .. {count - 1}, the actions there are")


def check_one_hot(name: object, action: Tensor, mask: Tensor | None) -> None:
    """Refuses rows ``[..., A]``, of agents that act, that are not one-hot.

    Without a mask zeros alone are an action that was not taken.

    Raises:
        ValueError: As :func:`check_finite`.
    """
    if values_checked(action):
        taken = (action != 0).sum(-1)
        wrong = (taken > 1) | (action.sum(-1) != taken)
        wrong = wrong if mask is None else (wrong | (taken == 0)) & mask
        raise_if_any(name, wrong, "(rows) that are not one-hot")


def check_allowed(name: object, action_name: object, allowed: Tensor, action: Tensor) -> None:
    """Refuses actions ``[...]`` that their mask ``[..., A]`` forbids, and rows that allow nothing.

    Raises:
        ValueError: As :func:`check_finite`.
    """
    if values_checked(action):
        forbidden = ~allowed.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)
        if forbidden.any():
            raise_if_any(name, ~allowed.any(-1), "(rows) that allow no action, of agents that act")
            raise_if_any(action_name, forbidden, f"that {name!r} forbids")


def check_scale(name: object, scale: Tensor) -> None:
    """Refuses standard deviations that are negative, NaN or infinite; 0 is no fault.

    Raises:
        ValueError: As :func:`check_finite`.
    """
    if values_checked(scale) and scale.numel():
        low, high = scale.detach().aminmax()
        if not (low.item() >= 0.0 and high.item() < math.inf):
            wrong = ~((scale >= 0.0) & scale.isfinite())
            raise_if_any(name, wrong, "that are negative, NaN or infinite")


def check_sampled(name: object, log_prob: Tensor, log_ratio: Tensor, mask: Tensor | None) -> None:
    """Refuses log-probabilities of which most are exactly 0 though the policy is not certain.

    So a collector stores them for its random frames (``init_random_frames``), whose actions no
    policy has chosen: there is no ratio.

    Raises:
        ValueError: As :func:`check_finite`.
    """
    if values_checked(log_prob) and not log_prob.all():
        unknown = (log_prob == 0.0) & (log_ratio.detach().abs() > 0.1)  # far from certain
        if mask is not None:
            unknown = unknown & mask
        count = log_prob.numel() if mask is None else int(mask.sum())
        if 2 * int(unknown.sum()) > count:
            raise_if_any(
                name,
                unknown,
                "that are exactly 0, as a collector stores them for random actions "
                "(init_random_frames): PPO cannot learn from these",
            )


def mean_change(change: Tensor, mask: Tensor | None) -> float:
    """The mean absolute change of a value, 0 where values are not checked."""
    if not values_checked(change):
        return 0.0
    kept = change if mask is None else change[mask]
    return kept.abs().mean().item() if kept.numel() else 0.0


def raise_if_any(name: object, wrong: Tensor, what: str) -> None:
    """Raises where anything is wrong.

    Raises:
        ValueError: The message says how many elements of the entry are wrong, and which first.
    """
    if wrong.any():
        first = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name!r} has {int(wrong.sum())} of {wrong.numel()} elements {what}; the first is at "
            f"{first}. Without these checks: set_value_checks(False)."
        )
