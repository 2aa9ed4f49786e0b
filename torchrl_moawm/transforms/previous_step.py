"""The previous step, beside the present one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.utils import expand_as_right
from torchrl.data import Categorical, Composite, Unbounded
from torchrl.envs import Transform


class PreviousStep(Transform):
    """Writes o_{t-1} and a_{t-1} beside o_t, for every group of agents.

    At the root of step t: ``(group, "previous_observation")``, ``(group, "previous_action")`` and
    ``(group, "previous_mask")``, a boolean ``[*B, N]``; the same under ``next`` for t+1. So no loss
    needs a time dimension, and minibatches may be shuffled.

    ``previous_mask`` is False on the first step of an episode and for an agent that did not act at
    t-1 (its ``(group, "mask")`` was False); the entries are zero there, and the specs admit that,
    one-hot included. Exact under partial resets: the environments that go on keep their entries.

    TorchRL has no such transform; shifting a collected batch instead loses the step at every batch
    boundary and crosses episodes.

    Args:
        in_keys: Entries to remember, each ``(group, name)``. ``None`` is every group's observation
            and action.
        out_keys: Where they go; ``None`` is ``(group, "previous_" + name)``.

    Raises:
        ValueError: The two lists differ in length, or a key has no group.

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

    @staticmethod
    def _paired(
        in_keys: Sequence[NestedKey], out_keys: Sequence[NestedKey] | None = None
    ) -> dict[tuple[str, ...], tuple[str, ...]]:
        keys = [unravel_key(key) for key in in_keys]
        if out_keys is None:
            out_keys = [(key[0], f"previous_{key[-1]}") for key in keys]
        written = [unravel_key(key) for key in out_keys]
        for key in (*keys, *written):
            if isinstance(key, str):
                raise ValueError(f"Expected keys of the form (group, name), got {key!r}.")
        if len(keys) != len(written):
            raise ValueError(f"Expected one out_key per in_key, got {in_keys} and {out_keys}.")
        return dict(zip(keys, written, strict=True))

    @property
    def _keys(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        """Entry remembered -> entry written."""
        if self._chosen is None:
            parent = self.parent
            if parent is None:
                raise RuntimeError("PreviousStep finds its keys in an environment; append it.")
            actions = [unravel_key(key) for key in parent.action_keys]
            groups = {key[0] for key in actions if isinstance(key, tuple)}
            observed = [
                key
                for key in map(unravel_key, parent.observation_keys)
                if key[0] in groups and key[-1] == "observation"
            ]
            self._chosen = self._paired([*observed, *actions])
        return self._chosen

    @property
    def _groups(self) -> list[str]:
        return list(dict.fromkeys(key[0] for key in self._keys))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        for key, out_key in self._keys.items():
            entry = tensordict.get(key)
            acted = tensordict.get((key[0], "mask"), None)
            if acted is None:  # the environment knows no mask: everybody acts
                shape = entry.shape[: tensordict.batch_dims + 1]
                acted = torch.ones(shape, dtype=torch.bool, device=entry.device)
            else:
                entry = torch.where(expand_as_right(acted, entry), entry, 0)
            # clones: a ParallelEnv writes the next root over the memory of this one
            next_tensordict.set(out_key, entry.clone())
            next_tensordict.set((key[0], "previous_mask"), acted.clone())
        return next_tensordict

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        # written for all; TorchRL keeps what belongs to environments that are not reset
        spec = self.container.full_observation_spec
        for out_key in self._written:
            tensordict_reset.set(out_key, spec[out_key].zero())
        return tensordict_reset

    @property
    def _written(self) -> list[tuple[str, ...]]:
        return [*self._keys.values(), *((group, "previous_mask") for group in self._groups)]

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Declares what is written; zeros are admitted whatever the action."""
        parent = self.parent
        sources = {**dict(parent.full_observation_spec.items(True, True))}
        sources.update(parent.full_action_spec.items(True, True))
        for key, out_key in self._keys.items():
            source = sources[key]
            observation_spec[out_key] = Unbounded(
                shape=source.shape, dtype=source.dtype, device=source.device
            )
            observation_spec[key[0], "previous_mask"] = Categorical(
                2,
                shape=source.shape[: len(parent.batch_size) + 1],
                dtype=torch.bool,
                device=source.device,
            )
        return observation_spec
