"""The view of a batch: its entries, its masks, and what a network reads of it.

Two questions are kept apart for every agent and step.

- **Who is there**: the observation is real and the return still runs. ``(group, "alive")`` says so
  where it is written; else the group's own ``done`` at the root (there is who is not done); else
  ``(group, "mask")``; else all are there. At t+1 there is whoever was there at t, or has come, and
  is not terminated: the last observation of a truncated episode is real.
- **Who acts**: the action of step t is the agent's own choice. ``(group, "mask")`` says so where it
  is written, and nobody acts who is not there; without one, all who are there act.

An agent that waits for its turn, or pauses, is there and does not act.
"""

from __future__ import annotations

from collections.abc import Collection

from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_moawm._checks.tensors import check_device_and_dtype, check_mask
from torchrl_moawm._keys import beginnings, get_required, leaf_name, path_of
from torchrl_moawm.objectives.keys import CHOICES, FLAGS, GROUP_MASKS, Group, Key, Keys
from torchrl_moawm.objectives.masks import (
    broadcast_mask,
    get_flag,
    get_mask,
    mask_and,
    mask_and_detach,
)
from torchrl_moawm.objectives.reader import optional_keys, parameter_of


class BatchView:
    """One batch as one loss reads it, made once per ``forward``.

    Args:
        keys: What the loss calls the entries.
        tensordict: The batch, or its ``next``.
        samples: True where a sample is valid, ``[*B]``: TorchRL's own masks.
        before: The view of step t where this one is of ``next``.
    """

    def __init__(
        self,
        keys: Keys,
        tensordict: TensorDictBase,
        samples: Tensor | None,
        before: BatchView | None = None,
    ) -> None:
        self.keys = keys
        self.tensordict = tensordict
        self.samples = samples
        self.before = before
        self._found: dict[tuple[str, Group], Tensor | None] = {}

    @classmethod
    def of_group(cls, tensordict: TensorDictBase, group: NestedKey) -> BatchView:
        """A group's view under the default names, for whoever has no loss."""
        return cls(Keys(group=path_of(group)), tensordict, samples=None)

    # --------------------------------------------------------------- entries

    def get(self, name: str) -> Tensor:
        """The entry of a field, which must be there."""
        return get_required(self.tensordict, self.keys.keys[name], f"{self.keys.owner} ({name})")

    def optional(self, name: str) -> Tensor | None:
        """The entry of a field, which may be absent under its default name."""
        if name in self.keys.named and self.before is None:
            return self.get(name)
        return self.tensordict.get(self.keys.keys[name], None)

    def data(self, name: str, mask: Tensor | None) -> Tensor:
        """A target of the loss: checked, 0 behind the mask, without gradient."""
        return mask_and_detach(self.keys.keys[name], self.get(name), mask)

    # ----------------------------------------------------------------- masks

    def there(self, group: Group | None = None) -> Tensor | None:
        """True where an agent is there, ``[*B, N]`` (or ``[*B]``); ``None`` is all True."""
        return self._once("there", group)

    def acts(self, group: Group | None = None) -> Tensor | None:
        """True where an agent acts."""
        return self._once("acts", group)

    def was_there(self, group: Group | None = None) -> Tensor | None:
        """True where an agent was there at t-1: what it saw then is real."""
        return self._once("was_there", group)

    def acted(self, group: Group | None = None) -> Tensor | None:
        """True where an agent acted at t-1."""
        return self._once("acted", group)

    def _once(self, question: str, group: Group | None) -> Tensor | None:
        """The answer for the loss's group or another, with the samples' own mask; found once."""
        group = self.keys.group if group is None else group
        if (question, group) not in self._found:
            answer = getattr(self, f"_{question}")(group)
            self._found[question, group] = mask_and(self.samples, answer)
        return self._found[question, group]

    def _acts(self, group: Group) -> Tensor | None:
        mask = self._mask(group)
        if self._source(group) == "mask":
            return mask
        return mask_and(mask, self._there(group))

    def _acted(self, group: Group) -> Tensor | None:
        return self._group_mask(group, "previous_mask")

    def _was_there(self, group: Group) -> Tensor | None:
        was_there = self._group_mask(group, "previous_alive")
        return self._acted(group) if was_there is None else was_there

    def _mask(self, group: Group) -> Tensor | None:
        mask = self._group_mask(group, "mask")
        return self.before._mask(group) if mask is None and self.before is not None else mask

    def _there(self, group: Group) -> Tensor | None:
        there = self._says(group, self._source(group))
        if self.before is None:
            return there
        before = self.before._there(group)
        there = before if before is None or there is None else before | there
        terminated = get_flag(self.tensordict, (*group, "terminated"))
        return there if terminated is None else mask_and(there, ~terminated)

    def _source(self, group: Group) -> str:
        """The entry that says who is there: the same at t+1 as at t."""
        if self.before is not None:
            return self.before._source(group)
        if self._group_mask(group, "alive") is not None:
            return "alive"
        return "mask" if self.tensordict.get((*group, "done"), None) is None else "done"

    def _says(self, group: Group, source: str) -> Tensor | None:
        if source != "done":
            return self._group_mask(group, source)
        done = get_flag(self.tensordict, (*group, "done"))
        return None if done is None else ~done

    def _group_mask(self, group: Group, name: str) -> Tensor | None:
        """A mask of a group, under the name that the loss has for it."""
        named = self.keys.masks.get(group, {}).get(name)
        return get_mask(self.tensordict, (*group, name)) if named is None else self.mask(named)

    def mask(self, name: str) -> Tensor | None:
        """The mask of a field, which may be absent under its default name."""
        mask = self.optional(name)
        if mask is not None:
            check_mask(**{str(self.keys.keys[name]): mask})
        return mask

    def group_of(self, key: Key) -> Group | None:
        """The group that an entry belongs to: the longest beginning of its key that is one."""
        for group in beginnings(key):
            names = [(*group, name) for name in GROUP_MASKS]
            if group == self.keys.group or any(
                self.tensordict.get(n, None) is not None for n in names
            ):
                return group
        return None

    def mask_of(self, key: Key) -> Tensor | None:
        """The mask of an entry: True where it is real."""
        if key[0] == "next" and key not in self.keys.fields:  # a network's own
            after = BatchView(self.keys, self.tensordict["next"], self.samples, self)
            return after.mask_of(key[1:])
        name = self.keys.fields.get(key, leaf_name(key))
        if name in FLAGS:
            return None
        group = self.group_of(key)
        if group is None and key in self.keys.fields:  # a field of the loss, wherever it is kept
            group = self.keys.group
        if group is None:
            return self.samples
        path = (*key, name)
        if name.startswith("previous_"):
            chosen = "action" in path or "previous_action" in path
            return self.acted(group) if chosen else self.was_there(group)
        chosen = any(part in CHOICES for part in path)
        return self.acts(group) if chosen else self.there(group)

    # ---------------------------------------------------------------- inputs

    def inputs(
        self, network: TensorDictModuleBase, without: Collection[NestedKey] = ()
    ) -> TensorDictBase:
        """A shallow copy with just what the network reads: what it read when it acted.

        Entries are 0 where they are not real, so that a NaN there is harmless. A hidden state that
        is carried (the network writes it under ``next``) is read as it was stored. Some may be left
        out: what is written anew, or read by nobody.
        """
        optional = optional_keys(network)
        carried = {unravel_key(key) for key in network.out_keys}
        keys = [unravel_key(key) for key in (*network.in_keys, *optional)]
        keys = [key for key in keys if key not in without]
        inputs = self.tensordict.select(*keys, strict=False)
        like = parameter_of(network, self.keys.parameters)
        for key in keys:
            entry = self.tensordict.get(key, None)
            if entry is None:
                if key not in optional and leaf_name(key).startswith("previous_"):
                    get_required(self.tensordict, key, self.keys.owner)
                continue
            name = key if self.before is None else unravel_key(("next", key))
            if not entry.numel():
                raise ValueError(f"{name!r} is empty, {list(entry.shape)}: no batch to learn.")
            if like is not None and isinstance(entry, Tensor):
                if self.keys.fields.get(key) == "latent" and like.dtype.itemsize == 2:
                    inputs.set(key, entry := entry.to(like.dtype))  # its encoder wrote float32
                check_device_and_dtype(name, entry, like)
            if leaf_name(key) == "mask":
                inputs.set(key, self._acting(key, entry))
                continue
            fill = leaf_name(key) == "action_mask"  # a masked row must stay a distribution
            mask = self.mask_of(key)
            if mask is not None and unravel_key(("next", key)) in carried:
                mask = mask | entry.isfinite().flatten(mask.ndim).all(-1)
            kept = mask_and_detach(name, entry, mask, fill)
            if kept is not entry:
                inputs.set(key, kept)
        return inputs

    def _acting(self, key: Key, mask: Tensor) -> Tensor:
        """The agents' mask for a memory, which rests where they do not act.

        At the end of an episode nobody acts any more, but the last observation is remembered.
        """
        if self.before is None:
            return mask
        done = get_flag(self.tensordict, (*key[:-1], "done"))
        done = get_flag(self.tensordict, "done") if done is None else done
        return mask if done is None else mask | broadcast_mask(done, mask.shape, key)
