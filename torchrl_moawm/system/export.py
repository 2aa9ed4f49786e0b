"""The trained policy by itself: what a robot or a server needs, and nothing of training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm._keys import name_of, path_of
from torchrl_moawm.system.acting import mean_modules, predictions
from torchrl_moawm.system.group import GroupSystem


class DeployedPolicy(nn.Module):
    """The deterministic policy of some groups as a function of plain tensors.

    ``forward({"agents_observation": ..., ...})`` gives ``{"agents_action": ...}``; with a memory
    also its next state, by the name of the state that was read. It acts as ``MOAWM.policy`` does
    under deterministic exploration, on the mean of the student's posterior.

    Args:
        groups: Whose policies.
        there: Entries that can be given. A memory reads the mask of its group if it is one, and
            its group's own ``is_init`` where there is none for all.
    """

    def __init__(self, groups: Iterable[GroupSystem], there: Iterable[NestedKey]) -> None:
        super().__init__()
        groups, there = list(groups), set(map(unravel_key, there))
        self.policy = TensorDictSequential(*(m for one in groups for m in modules_of(one)))
        read = dict.fromkeys(map(unravel_key, self.policy.in_keys))
        paths = [path_of(one.group) for one in groups if one.memories]
        if "is_init" not in there:  # each agent begins by itself
            own = [(*path, "is_init") for path in paths if (*path, "is_init") in there]
            read = dict.fromkeys([key for key in read if key != "is_init" or not own] + own)
        masks = [(*path, "mask") for path in paths]
        self.in_keys = {name_of(key): key for key in (*read, *masks) if key in there or key in read}
        self.out_keys = {
            name_of(key[1:] if key[0] == "next" else key): key
            for key in map(unravel_key, self.policy.out_keys)
            if key[0] == "next" or key[-1] == "action"
        }

    def forward(self, entries: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries by name in, ``[E, ...]``; actions and states out."""
        batch_size = next(iter(entries.values())).shape[:1]
        given = {self.in_keys[name]: entry for name, entry in entries.items()}
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            out = self.policy(TensorDict(given, batch_size))
        return {name: out[key] for name, key in self.out_keys.items()}


def modules_of(system: GroupSystem) -> list[nn.Module]:
    """The modules that write the mean of z, what the others are expected to do, and the action."""
    return [*mean_modules(system), *predictions(system), system.actor]


def export_policy(groups: Iterable[GroupSystem], example: TensorDictBase) -> ExportedProgram:
    """Exports the policy of some groups; :meth:`MOAWM.export_policy` says more."""
    if example.ndim != 1:
        raise ValueError(
            f"Expected an example with one batch dimension, the environments, as reset() gives it; "
            f"got {list(example.shape)}."
        )
    policy = DeployedPolicy(groups, example.keys(True, True))
    entries = {name: example.get(key, None) for name, key in policy.in_keys.items()}
    missing = [policy.in_keys[name] for name, entry in entries.items() if entry is None]
    if missing:
        raise KeyError(f"The policy reads {missing[0]}, which the example lacks.")
    entries = {name: torch.cat([entry, entry]) for name, entry in entries.items()}  # one is static
    shapes = {name: {0: Dim.AUTO} for name in entries}
    with torch.no_grad():
        return torch.export.export(policy, (entries,), dynamic_shapes=(shapes,))
