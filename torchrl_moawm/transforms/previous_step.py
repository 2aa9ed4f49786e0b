"""The previous step, beside the present one."""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.utils import expand_as_right
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, Transform

from torchrl_moawm._keys import beginnings, get_required
from torchrl_moawm.transforms.groups import Path, action_groups, reset_mask, who


class PreviousStep(Transform):
    """Writes o_{t-1} and a_{t-1} beside o_t, for every group of agents.

    At the root of step t: ``(group, "previous_observation")``, ``(group, "previous_action")`` and
    ``(group, "previous_mask")``, a boolean ``[*B, N]``; the same under ``next`` for t+1. So no loss
    needs a time dimension, and minibatches may be shuffled.

    ``previous_mask`` is False on the first step of an episode and for an agent that did not act at
    t-1 (its ``(group, "mask")`` was False). Actions are zero there, and the specs admit that,
    one-hot included. Where the environment also says who is *there* (``(group, "alive")``, or the
    group's own ``done``), an agent that waits for its turn has seen something though it did not
    act: ``(group, "previous_alive")`` is written as well, and observations are zero where that is
    False. Exact under partial resets: the environments that go on keep their entries.

    TorchRL has no such transform; shifting a collected batch instead loses the step at every batch
    boundary and crosses episodes. A transform that changes an observation or an action belongs
    before this one.

    Args:
        in_keys: Entries to remember, each ``(group, ..., name)``. ``None`` is every group's
            observation and action.
        out_keys: Where they go; ``None`` is ``(group, ..., "previous_" + name)``.

    Raises:
        ValueError: The two lists differ in length, a key has no group, or two entries would be
            written to one.
        NotImplementedError: It is called without an environment (in a replay buffer).

    Example:
        >>> from torchrl.envs import TransformedEnv, VmasEnv
        >>> env = TransformedEnv(VmasEnv("navigation", num_envs=2, seed=0), PreviousStep())
        >>> agents = env.rollout(3)["agents"]
        >>> bool((agents["previous_action"][:, 1:] == agents["action"][:, :-1]).all())
        True
        >>> agents["previous_mask"][0, :, 0]
        tensor([False,  True,  True])
    """

    def __init__(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__()
        if in_keys is None and out_keys is not None:
            raise ValueError("Expected in_keys beside out_keys, got out_keys alone.")
        self._chosen = None if in_keys is None else self._paired(in_keys, out_keys)
        self._planned: list[tuple[Path, Path, Path, bool]] | None = None

    def set_container(self, container: Transform | EnvBase) -> None:
        """Joins an environment, in which the keys are found again."""
        super().set_container(container)
        self._planned = None

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Not supported: there is no previous step outside an environment."""
        raise NotImplementedError("PreviousStep cannot be executed without a parent environment.")

    @staticmethod
    def _paired(
        in_keys: Sequence[NestedKey], out_keys: Sequence[NestedKey] | None = None
    ) -> dict[Path, Path]:
        for key in map(unravel_key, (*in_keys, *(out_keys or ()))):
            if isinstance(key, str):
                raise ValueError(f"Expected keys of the form (group, name), got {key!r}.")
        keys = [unravel_key(key) for key in in_keys]
        if out_keys is None:
            out_keys = [(*key[:-1], f"previous_{key[-1]}") for key in keys]
        written = [unravel_key(key) for key in out_keys]
        if len(keys) != len(written):
            raise ValueError(f"Expected one out_key per in_key, got {in_keys} and {out_keys}.")
        if len(set(written)) < len(written):
            raise ValueError(f"Expected different out_keys, got {written}.")
        return dict(zip(keys, written, strict=True))

    def _find(self) -> dict[Path, Path]:
        """Entry remembered -> entry written: every group's observation and action."""
        parent = self.parent
        if parent is None:
            raise RuntimeError("PreviousStep finds its keys in an environment; append it.")
        groups = action_groups(parent)
        observed = [
            key
            for key in map(unravel_key, parent.observation_keys)
            if key[-1] == "observation" and key[:-1] in groups
        ]
        actions = [key for key in map(unravel_key, parent.action_keys) if not isinstance(key, str)]
        return self._paired([*observed, *actions])

    def _group_of(self, key: Path) -> Path:
        """The group of an entry: the longest beginning that acts, else all but the last name."""
        groups = [] if self.parent is None else action_groups(self.parent)
        return next((group for group in beginnings(key) if group in groups), key[:-1])

    @property
    def _plan(self) -> list[tuple[Path, Path, Path, bool]]:
        """Entry, where it goes, its group, and whether that may wait; asked for at every step."""
        if self._planned is None:
            keys = self._find() if self._chosen is None else self._chosen
            entries = [(key, out, self._group_of(key)) for key, out in keys.items()]
            self._planned = [(*entry, self._may_wait(entry[-1])) for entry in entries]
        return self._planned

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Keeps the actions as they were chosen: other transforms go on to scale or cast them."""
        if self.parent is None:
            return self.forward(tensordict)
        for key, *_ in self._plan:
            action = tensordict.get(key, None) if "action" in key else None
            if action is not None:
                tensordict.set(chosen(key), action)
        return tensordict

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        for key, out_key, group, waits in self._plan:
            entry = tensordict.get(chosen(key), None)
            if entry is None:
                entry = get_required(tensordict, key, "PreviousStep", "Every group has to act")
            before = tensordict.get(out_key, None)  # as declared: a policy's one-hot may be int64
            entry = entry if before is None else entry.to(before.dtype)
            there, acted = who(tensordict, group)
            real = acted if "action" in key else there
            if real is not None:
                entry = entry.masked_fill(~expand_as_right(real, entry), 0)
            if acted is None:  # the environment knows no mask: everybody acts
                shape = entry.shape[: tensordict.batch_dims + 1]
                acted = torch.ones(shape, dtype=torch.bool, device=entry.device)
            # clones: a ParallelEnv writes the next root over the memory of this one
            next_tensordict.set(out_key, entry.clone())
            next_tensordict.set((*group, "previous_mask"), acted.clone())
            if waits:
                saw = acted if there is None else there
                next_tensordict.set((*group, "previous_alive"), saw.clone())
        return next_tensordict

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        # written for all; TorchRL keeps what belongs to environments that are not reset
        spec = self.container.full_observation_spec
        for out_key in self._written:
            tensordict_reset.set(out_key, spec[out_key].zero())
        return tensordict_reset

    def _reset_on_native_autoreset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        """The environment has reset itself, in some places: the others keep their entries."""
        for out_key in self._written:
            entry = tensordict_reset.get(out_key)
            reset = reset_mask(tensordict, out_key)
            zeroed = entry if reset is None else entry.where(~expand_as_right(reset, entry), 0)
            tensordict_reset.set(out_key, zeroed.to(entry.dtype))
        return tensordict_reset

    def _may_wait(self, group: Path) -> bool:
        """Says whether agents may be there without acting: the environment writes both."""
        parent: Any = self.parent
        observed = parent.full_observation_spec.keys(True, True)
        ends = parent.full_done_spec.keys(True, True)
        there = (*group, "alive") in observed or (*group, "done") in ends
        return there and (*group, "mask") in observed

    @property
    def _written(self) -> list[Path]:
        groups = dict.fromkeys((group, waits) for _, _, group, waits in self._plan)
        masks = [(*group, "previous_mask") for group, _ in groups]
        saw = [(*group, "previous_alive") for group, waits in groups if waits]
        return [*(out for _, out, _, _ in self._plan), *masks, *saw]

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Declares what is written; zeros are admitted whatever the action."""
        parent = self.parent
        sources = dict(parent.full_observation_spec.items(True, True))
        sources.update(parent.full_action_spec.items(True, True))
        for key, out_key, group, waits in self._plan:
            source = sources[key]
            shape, device = source.shape, source.device
            observation_spec[out_key] = Unbounded(shape, dtype=source.dtype, device=device)
            mask = Categorical(2, shape[: len(parent.batch_size) + 1], device, torch.bool)
            for name in ("previous_mask", *(["previous_alive"] if waits else [])):
                observation_spec[(*group, name)] = mask.clone()
        return observation_spec


def chosen(key: Path) -> Path:
    """The entry that keeps an action as it was chosen, until the end of the step."""
    return (*key[:-1], f"_chosen_{key[-1]}")
