"""Coefficients that a schedule may change while training."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor
from torchrl.objectives import LossModule

from torchrl_moawm._checks.tensors import check_coefficient, check_option


class ScheduledLoss(LossModule):
    """A loss whose coefficients are buffers, filled by assignment so that they can be scheduled.

    ``loss.moa_coeff = 0.5`` fills the buffer in place; a negative or non-finite number is refused.
    ``select_out_keys`` and ``reset_parameters_recursive`` do what they do for TorchRL's losses.
    """

    tensor_keys: Any
    _switchable: tuple[str, ...] = ()
    """Coefficients that may be ``None``: there is no such term then, until a number is assigned."""
    _selected_out_keys: list[str] | None = None

    def _forward_value_estimator_keys(self, **_: NestedKey) -> None:
        """No estimator here; ``ClipPPOValueLoss`` has one."""

    def make_value_estimator(self, *_: Any, **__: Any) -> Any:
        """Refuses: the advantage belongs to the critic."""
        # as TorchRL does; the property value_estimator would swallow an AttributeError's message
        raise NotImplementedError(
            f"{type(self).__name__} has no value estimator. That of a ClipPPOValueLoss writes the "
            "advantage: value_loss.value_estimator(batch)."
        )

    def _register_coeff(self, name: str, value: float | Tensor) -> None:
        check_coefficient(name, value)
        like = next(chain(self.parameters(), self.buffers()), None)
        device = None if like is None else like.device
        number = torch.tensor(float(value), dtype=torch.get_default_dtype(), device=device)
        self.register_buffer(name, number)  # its own: whose tensor it was may give it to others

    def __setattr__(self, name: str, value: Any) -> None:
        buffers = self.__dict__.get("_buffers", {})
        number = isinstance(value, (int, float, Tensor))
        if value is None and buffers.get(name) is not None and name not in self._switchable:
            raise TypeError(f"Expected {name} to be a number, got NoneType.")
        if name == "reduction":
            check_option("reduction", value, ("mean", "sum", "none"))
        if number and (buffers.get(name) is not None or name in self._switchable):
            check_coefficient(name, value)
            if buffers.get(name) is not None:
                buffers[name].fill_(float(value))
            else:  # there was no such term
                self.__dict__["_lists"] = None  # of entries: it reads its own
                self.__dict__.pop(name, None)
                self._register_coeff(name, value)
            return
        if number and "_coef" in name and name[0] != "_":
            there = [each for each in buffers if each.endswith("_coeff")]
            raise AttributeError(
                f"{type(self).__name__} has no weight {name!r}; it has {there}. A LossSum weighs "
                "the terms that its coeffs name."
            )
        self.__dict__["_lists"] = None  # of entries, which follow the networks and the options
        if "_keys" in self.__dict__:
            self._keys.parameters.clear()  # of networks that may be gone
        super().__setattr__(name, value)

    def _written_keys(self) -> list[str]:
        """Entries that ``forward`` writes, in their order."""
        raise NotImplementedError

    def _every_key(self) -> list[str]:
        """Entries that ``forward`` would write if nothing were selected, here or within a sum."""
        return self._written_keys()

    @property
    def out_keys(self) -> list[str]:
        """Entries that the loss returns: terms first, then logs; fewer after select_out_keys."""
        return self._written_keys() if self._selected_out_keys is None else self._selected_out_keys

    @out_keys.setter
    def out_keys(self, keys: list[str]) -> None:
        self.select_out_keys(*keys)

    def select_out_keys(self, *out_keys: str) -> ScheduledLoss:
        """Leaves just these entries in the output; ``reset_out_keys()`` brings back the others.

        Raises:
            ValueError: The loss does not return one of them.
        """
        written = self._written_keys()
        unknown = [key for key in out_keys if key not in written]
        if unknown:
            raise ValueError(f"The loss returns {written}, and none of {unknown}.")
        self._selected_out_keys = [key for key in written if key in out_keys]
        return self

    def reset_out_keys(self) -> ScheduledLoss:
        """Returns every entry again."""
        self._selected_out_keys = None
        return self

    def _out(self, entries: dict[str, Tensor]) -> TensorDict:
        """The result of ``forward``: all entries, or the selected ones."""
        selected = self._selected_out_keys
        return TensorDict(entries if selected is None else {key: entries[key] for key in selected})

    def reset_parameters_recursive(self) -> None:
        """Draws new parameters for every network, children before the modules that hold them.

        A network whose first weights are special has a ``reset_parameters`` of its own, which runs
        after that of its layers. What holds no parameter, or cannot be reset, stays as it is.
        """
        for module in reversed(list(self.modules())):
            reset = getattr(type(module), "reset_parameters", None)  # not of a module within
            if reset is not None:
                reset(module)
