"""The base of every loss of a group of agents: its keys, its view of a batch, its reduction."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from tensordict import LazyStackedTensorDict, NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_moawm._keys import beginnings, leaf_name, path_of
from torchrl_moawm._ranks import n_ranks, rank_share
from torchrl_moawm.functional import masked_mean
from torchrl_moawm.objectives.batch import BatchView
from torchrl_moawm.objectives.keys import GROUP_MASKS, OWN_MASKS, Keys
from torchrl_moawm.objectives.masks import broadcast_mask, sample_mask
from torchrl_moawm.objectives.reader import optional_keys
from torchrl_moawm.objectives.scheduled import ScheduledLoss

Reduction = Literal["mean", "sum", "none"]


class MultiAgentLoss(ScheduledLoss):
    """Base of the losses of one group of agents.

    Beyond TorchRL's :class:`~torchrl.objectives.LossModule` it keeps these rules.

    - **Keys.** Every default key is ``(group, name)``; ``set_keys(name=None)`` returns to the
      default of that group. ``in_keys`` follow, the optional masks last.
    - **Validity.** An element counts only if every mask that concerns it says so: ``loss_mask_key``
      (TorchRL's, per sample), and *who is there* or *who acts*, as
      :class:`~torchrl_moawm.objectives.batch.BatchView` finds them. A mask under its default name
      may be absent; one named by ``set_keys`` must be there.
    - **Clean inputs.** A network reads what it read when the agent acted; what is not real is 0, so
      a NaN there reaches neither value nor gradient. Inputs are data: no gradient leaves through
      them.
    - **Checked inputs.** An empty batch, another dtype or device than the network's, and whatever
      :func:`~torchrl_moawm.set_value_checks` lists are refused, by the name of the entry.
    - **Reduction.** ``"mean"`` divides by the number of valid elements; ``"none"`` keeps the shape
      and is 0 where invalid. Over several processes see
      :func:`~torchrl_moawm.set_data_parallel`.

    Keyword Args:
        group: The agents.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
    """

    @dataclass
    class _AcceptedKeys:
        mask: NestedKey = "mask"
        alive: NestedKey = "alive"
        previous_mask: NestedKey = "previous_mask"
        previous_alive: NestedKey = "previous_alive"

    default_keys: Any
    data_parallel = False

    def __init__(self, *args: Any, group: NestedKey, reduction: Reduction, **keywords: Any) -> None:
        if "next" in unravel_key((group, "")):
            raise ValueError(
                f"A group cannot be named 'next', as TensorDicts name step t+1: {group!r}."
            )
        super().__init__(*args, **keywords)
        self.group = group
        self.reduction = reduction
        defaults = {field.name: self._default_key(field) for field in fields(self._AcceptedKeys)}
        self.default_keys = partial(self._AcceptedKeys, **defaults)
        self._tensor_keys = self.default_keys()
        self._read_keys()

    # ------------------------------------------------------------------ keys

    def _default_key(self, field: Field[Any]) -> NestedKey:
        """The entry of a key under its default name."""
        at_root = field.metadata.get("at_root")
        return field.default if at_root else unravel_key((self.group, field.default))

    def _read_keys(self) -> None:
        """Derives from the keys what ``forward`` would otherwise derive at every call."""
        self.__dict__["_lists"] = None
        default, declared = self.default_keys(), fields(self._AcceptedKeys)
        given = {field.name: getattr(self.tensor_keys, field.name) for field in declared}
        marked = {
            mark: [field.name for field in declared if field.metadata.get(mark)]
            for mark in ("under_next", "optional")
        }
        found = {
            name: unravel_key(("next", entry) if name in marked["under_next"] else entry)
            for name, entry in given.items()
        }
        self._keys = Keys(
            owner=type(self).__name__,
            group=path_of(self.group),
            keys=found,
            fields={entry: n for n, entry in found.items() if n not in marked["under_next"]},
            named=frozenset(name for name in given if given[name] != getattr(default, name)),
            optional=tuple(marked["optional"]),
            masks={path_of(self.group): {name: name for name in OWN_MASKS}},
        )

    def set_keys(self, **keys: NestedKey | None) -> None:
        """Renames entries, ``set_keys(action=("team", "action"))``; ``None`` is the default.

        Raises:
            ValueError: The loss has no key of that name; the message lists those it has.
        """
        accepted = [field.name for field in fields(self._AcceptedKeys)]
        unknown = [name for name in keys if name not in accepted]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no key {unknown[0]!r}; it has {', '.join(accepted)}. "
                "What a network alone reads is named where the network is made."
            )
        super().set_keys(**keys)
        if "default_keys" in self.__dict__:  # else TorchRL's constructor calls, before the group
            self._read_keys()

    def _required_keys(self) -> Iterator[NestedKey]:
        """Entries that ``forward`` cannot do without, in a stable order."""
        raise NotImplementedError

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries read from the input: the required ones, then the optional masks."""
        return list(self._listed()[0])

    @in_keys.setter
    def in_keys(self, keys: list[NestedKey]) -> None:
        raise AttributeError("in_keys follow set_keys() and the network; they cannot be assigned.")

    @property
    def optional_keys(self) -> list[NestedKey]:
        """Entries among ``in_keys`` that may be absent."""
        return list(self._listed()[1])

    def _listed(self) -> tuple[list[NestedKey], list[NestedKey], Any]:
        """All entries, the optional ones, and the mask of samples with which they were found.

        They are kept, for ``dispatch`` asks at every call, until ``loss_mask_key`` is another. A
        graph does not look at what was kept: it would be compiled again when that comes.
        """
        compiling, named = torch.compiler.is_compiling(), self.loss_mask_key
        found: Any = None if compiling else self.__dict__.get("_lists")
        if found is None or found[2] != named:
            required = list(dict.fromkeys(map(unravel_key, self._required_keys())))
            samples = list(map(unravel_key, self._loss_mask_keys()))
            entries = list(dict.fromkeys([*required, *self._masks(), *samples]))
            needed = required if named == "auto" else [*required, *samples]
            found = entries, [key for key in entries if key not in needed], named
            if not compiling:
                self.__dict__["_lists"] = found
        return found

    def _masks(self) -> list[NestedKey]:
        """Every mask that is read where it is there: the loss's, and those of networks' inputs."""
        own = self._keys.group
        found = [self._key("mask"), self._key("alive"), (*own, "done")]
        found += [self._key(name) for name in self._keys.optional]
        networks = [m for m in self.children() if isinstance(m, TensorDictModuleBase)]
        found += [unravel_key(key) for net in networks for key in optional_keys(net)]
        for key in map(unravel_key, self._required_keys()):
            previous = leaf_name(key).startswith("previous_")
            names = [n for n in GROUP_MASKS if previous or not n.startswith("previous_")]
            for group in [] if key[0] == "next" else beginnings(key):
                named = self._keys.masks.get(group, {})
                found += [self._key(named[n]) if n in named else (*group, n) for n in names]
        return found

    def _key(self, name: str) -> Any:
        """The entry that the field ``name`` stands for, under ``next`` where it belongs there."""
        return self._keys.keys[name]

    # ------------------------------------------------------------------ view

    def _view(self, tensordict: TensorDictBase) -> BatchView:
        """The batch as this loss reads it."""
        lazy = LazyStackedTensorDict  # TorchRL's select and get would turn it around
        if isinstance(tensordict, lazy) or isinstance(tensordict.get(self._keys.group, None), lazy):
            tensordict = tensordict.contiguous()
        role = "" if self.loss_mask_key == "auto" else f"{self._keys.owner} (loss_mask_key)"
        samples = sample_mask(tensordict, self._loss_mask_keys(), role)
        return BatchView(self._keys, tensordict, samples)

    # ------------------------------------------------------------- reduction

    def _reduce(self, loss: Tensor, valid: Tensor | None) -> Tensor:
        """Applies ``reduction`` over the valid elements of a loss per element."""
        if self.reduction == "mean":
            return self._mean(loss, valid)
        if valid is not None:
            loss = torch.where(broadcast_mask(valid, loss.shape, "the loss"), loss, 0.0)
        if self.reduction == "none":
            return loss
        return loss.sum() * n_ranks() if self.data_parallel else loss.sum()

    def _mean(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Mean over the valid elements; over ranks, what averages to that of all ranks."""
        if valid is not None:
            valid = broadcast_mask(valid, x.shape, "the loss")
        mean = masked_mean(x, valid)
        if not self.data_parallel:
            return mean
        count = mean.new_tensor(x.numel()) if valid is None else valid.sum().to(mean.dtype)
        return mean * rank_share(count)
