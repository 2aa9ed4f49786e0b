"""What every loss here shares: keys by group, validity, clean inputs, reduction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives import LossModule

from torchrl_moawm._checks import check_coefficient, check_fits, check_mask, check_option
from torchrl_moawm.functional import masked_mean
from torchrl_moawm.objectives.entries import (
    both,
    checked_mask,
    clean,
    expand_left,
    last,
    require,
)
from torchrl_moawm.objectives.parallel import n_ranks, rank_share

Reduction = Literal["mean", "sum", "none"]


class ScheduledLoss(LossModule):
    """A loss whose coefficients are buffers, filled by assignment so that they can be scheduled.

    ``loss.moa_coeff = 0.5`` fills the buffer in place; a negative or non-finite number is refused.
    """

    tensor_keys: Any

    def _forward_value_estimator_keys(self, **_: NestedKey) -> None:
        """No estimator here; ``ClipPPOValueLoss`` has one."""

    def _register_coeff(self, name: str, value: float | Tensor) -> None:
        check_coefficient(name, value)
        self.register_buffer(name, torch.as_tensor(value, dtype=torch.get_default_dtype()))

    def __setattr__(self, name: str, value: Any) -> None:
        buffer = self.__dict__.get("_buffers", {}).get(name)
        if name == "reduction":
            check_option("reduction", value, ("mean", "sum", "none"))
        if buffer is not None and isinstance(value, (int, float, Tensor)):
            check_coefficient(name, value)
            buffer.fill_(float(value))
        else:
            super().__setattr__(name, value)


class MultiAgentLoss(ScheduledLoss):
    """Base of the losses of one group of agents.

    Beyond TorchRL's :class:`~torchrl.objectives.LossModule` it keeps these rules.

    - **Keys.** Every default key is ``(group, name)``; ``set_keys(name=None)`` returns to the
      default of that group. ``in_keys`` follow, the optional masks last.
    - **Validity.** An element counts only if every mask that exists says so: ``loss_mask_key``
      (TorchRL's, per sample), ``(group, "mask")`` (agents that act), and what a loss adds. A mask
      under its default name may be absent; one named by ``set_keys`` must be there.
    - **Clean inputs.** What stands behind a mask is zeroed before a network reads it, so a NaN
      there reaches neither value nor gradient. Entries ``previous_...`` stand behind two: the
      agent's mask and its ``previous_mask``. Inputs are data: no gradient leaves through them.
    - **Checked inputs.** An empty batch, another dtype or device than the network's, and whatever
      :func:`~torchrl_moawm.set_value_checks` lists are refused, by the name of the entry.
    - **Reduction.** ``"mean"`` divides by the number of valid elements; ``"none"`` keeps the shape
      and is 0 where invalid. Over several processes see
      :func:`~torchrl_moawm.set_data_parallel`.
    """

    @dataclass
    class _AcceptedKeys:
        mask: NestedKey = "mask"

    default_keys: Any
    _at_root: tuple[str, ...] = ()
    _next: tuple[str, ...] = ()
    _optional: tuple[str, ...] = ("mask",)
    data_parallel = False

    def __init__(self, *args: Any, group: NestedKey, reduction: Reduction, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.group = group
        self.reduction = reduction
        self._set_default_keys()

    def _set_default_keys(self, **groups: NestedKey) -> None:
        """Prefixes every accepted key with its group; ``groups`` names those of another group."""
        defaults = {
            field.name: unravel_key((groups.get(field.name, self.group), field.default))
            for field in fields(self._AcceptedKeys)
            if field.name not in self._at_root
        }
        self.default_keys = partial(self._AcceptedKeys, **defaults)
        self._tensor_keys = self.default_keys()
        self._read_keys()

    def _read_keys(self) -> None:
        """Derives from the keys what ``forward`` would otherwise derive at every call."""
        default = self.default_keys()
        names = [field.name for field in fields(self._AcceptedKeys)]
        keys = {name: getattr(self._tensor_keys, name) for name in names}
        self._named = {name for name in names if keys[name] != getattr(default, name)}
        self._previous_keys = {
            unravel_key(keys[name])
            for name in ("previous_observation", "previous_action")
            if name in keys
        }

    def set_keys(self, **keys: NestedKey | None) -> None:
        """Renames entries, ``set_keys(action=("team", "action"))``; ``None`` is the default.

        Raises:
            ValueError: The loss has no key of that name.
        """
        super().set_keys(**keys)
        if "default_keys" in self.__dict__:  # else TorchRL's constructor calls, before the group
            self._read_keys()

    # ------------------------------------------------------------------ keys

    def _required_keys(self) -> Iterator[NestedKey]:
        """Entries that ``forward`` cannot do without, in a stable order."""
        raise NotImplementedError

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries read from the input: the required ones, then the optional masks."""
        optional = (self._key(name) for name in self._optional)
        return list(dict.fromkeys([*map(unravel_key, self._required_keys()), *optional]))

    @in_keys.setter
    def in_keys(self, keys: list[NestedKey]) -> None:
        raise AttributeError("in_keys follow set_keys() and the network; they cannot be assigned.")

    @property
    def optional_keys(self) -> list[NestedKey]:
        """Entries among ``in_keys`` that may be absent."""
        required = set(map(unravel_key, self._required_keys()))
        return [key for key in map(self._key, self._optional) if key not in required]

    def _key(self, name: str) -> NestedKey:
        """The entry that the field ``name`` stands for, under ``next`` where it belongs there."""
        key = getattr(self.tensor_keys, name)
        return unravel_key(("next", key) if name in self._next else key)

    def _get(self, tensordict: TensorDictBase, name: str) -> Tensor:
        """An entry that must be there."""
        return require(tensordict, self._key(name), f"{type(self).__name__} ({name})")

    def _data(self, tensordict: TensorDictBase, name: str, mask: Tensor | None) -> Tensor:
        """An entry that the loss compares with: checked, 0 behind the mask, without gradient."""
        return clean(self._key(name), self._get(tensordict, name), mask)

    def _get_optional(self, tensordict: TensorDictBase, name: str) -> Tensor | None:
        """An entry that may be absent under its default name."""
        if name in self._named:
            return self._get(tensordict, name)
        return tensordict.get(self._key(name), None)

    # -------------------------------------------------------------- validity

    def _sample_mask(self, tensordict: TensorDictBase) -> Tensor | None:
        """TorchRL's own masks, one value per sample, ``[*B]`` after its trailing ones are gone."""
        mask = None
        for key in self._loss_mask_keys():
            if self.loss_mask_key == "auto":
                found = tensordict.get(key, None)
            else:
                found = require(tensordict, key, f"{type(self).__name__} (loss_mask_key)")
            if found is not None:
                check_mask(**{str(key): found})
                while found.ndim > 1 and found.shape[-1] == 1:
                    found = found.squeeze(-1)
                mask = both(mask, found)
        return mask

    def _agent_mask(self, tensordict: TensorDictBase, name: str = "mask") -> Tensor | None:
        """True where the sample is valid and the agent acts, ``[*B, N]`` or just ``[*B]``."""
        mask = checked_mask(self._key(name), self._get_optional(tensordict, name))
        return both(self._sample_mask(tensordict), mask)

    def _inputs(
        self,
        tensordict: TensorDictBase,
        network: TensorDictModuleBase,
        place: tuple[str, ...] = (),
    ) -> TensorDictBase:
        """A shallow copy with just what the network reads, zero behind every mask.

        The agents' mask goes with it: a network with memory keeps its state while it is False.
        ``place`` is where the tensordict lies in the batch, for a message.
        """
        keys = [unravel_key(key) for key in (*network.in_keys, self._key("mask"))]
        inputs = tensordict.select(*keys, strict=False).detach()  # what was collected is data
        samples, agents = self._sample_mask(tensordict), self._agent_mask(tensordict)
        like = next((p for p in network.parameters() if p.is_floating_point()), None)
        for key in keys:
            entry = tensordict.get(key, None)
            if entry is not None:
                name = unravel_key((*place, key))
                if not entry.numel():
                    raise ValueError(f"{name!r} is empty, {list(entry.shape)}: no batch to learn.")
                if like is not None and isinstance(entry, Tensor):
                    check_fits(name, entry, like)
                mask = self._mask_of(tensordict, key, samples, agents)
                fill = last(key) == "action_mask"  # a masked row must stay a distribution
                inputs.set(key, clean(name, entry, mask, fill))
        return inputs

    def _mask_of(
        self,
        tensordict: TensorDictBase,
        key: NestedKey,
        samples: Tensor | None,
        agents: Tensor | None,
    ) -> Tensor | None:
        """The mask in front of an entry: its group's, and at t-1 also the group's previous one."""
        own = unravel_key((self.group,))
        own = (own,) if isinstance(own, str) else own
        if isinstance(key, str):
            return samples
        at_previous_step = last(key).startswith("previous_") or key in self._previous_keys
        if key[: len(own)] == own:
            previous = self._previous_mask(tensordict) if at_previous_step else None
            return both(agents, previous)
        names = ("mask", "previous_mask") if at_previous_step else ("mask",)
        mask = samples
        for name in names:
            theirs = (key[0], name)
            mask = both(mask, checked_mask(theirs, tensordict.get(theirs, None)))
        return mask

    def _previous_mask(self, tensordict: TensorDictBase) -> Tensor | None:
        """True where the agent acted at t-1, ``[*B, N]``."""
        if "previous_mask" in self._optional:
            return checked_mask(
                self._key("previous_mask"), self._get_optional(tensordict, "previous_mask")
            )
        key = unravel_key((self.group, "previous_mask"))
        return checked_mask(key, tensordict.get(key, None))

    # ------------------------------------------------------------- reduction

    def _reduce(self, loss: Tensor, valid: Tensor | None) -> Tensor:
        """Applies ``reduction`` over the valid elements of a loss per element."""
        if valid is not None:
            valid = expand_left(valid, loss.shape, "the loss")
        if self.reduction == "mean":
            return self._mean(loss, valid)
        if valid is not None:
            loss = torch.where(valid, loss, 0.0)
        if self.reduction == "none":
            return loss
        return loss.sum() * n_ranks() if self.data_parallel else loss.sum()

    def _mean(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Mean over the valid elements; over ranks, what averages to that of all ranks."""
        mean = masked_mean(x, valid)
        if not self.data_parallel:
            return mean
        count = mean.new_tensor(x.numel()) if valid is None else valid.sum().to(mean.dtype)
        return mean * rank_share(count)
