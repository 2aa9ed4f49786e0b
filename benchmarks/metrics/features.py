"""What the models of others and world read, as plain features."""

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase

from torchrl_moawm.modules import AgentGroup, groups_of, own_features_first, path_of

OBSERVATIONS = ("observation", "previous_observation")
ACTIONS = ("action", "previous_action")
MASKS = ("previous_mask",)


class Features(TensorDictModuleBase):
    """What a model of a group reads, as features of each agent: its own first, as the library does.

    Args:
        keys: Entries that the model reads; a memory's, and others that are no step's, are left out.
        own: The group.
        groups: Every group whose entries are read.
        everybody: Whether an agent reads the observations of all, not just its own.
    """

    def __init__(
        self,
        keys: Sequence[NestedKey],
        own: AgentGroup,
        groups: Sequence[AgentGroup],
        everybody: bool = False,
    ) -> None:
        super().__init__()
        known = (*OBSERVATIONS, *ACTIONS, *MASKS)
        self.out_keys: list[NestedKey] = []
        self.in_keys = [key for key in map(unravel_key, keys) if key[-1] in known]
        self.own = own
        self.groups = {path_of(each.group): each for each in groups}
        self.everybody = everybody
        self.read_groups = {key[:-1] for key in self.in_keys}

    def forward(self, tensordict: TensorDictBase) -> Tensor:
        """``[*B, N, F]``."""
        path = path_of(self.own.group)
        seen = [key for key in self.in_keys if key[:-1] == path and key[-1] in OBSERVATIONS]
        like, parts = self.own.flat(tensordict[seen[0]]), []
        for key in self.in_keys:
            is_own = key[:-1] == path
            entry = self._features(self.groups[key[:-1]], key[-1], tensordict[key], like)
            if is_own and (self.everybody or key[-1] not in OBSERVATIONS):
                entry = own_features_first(entry)
            elif not is_own:
                entry = entry.flatten(-2).unsqueeze(-2).expand(*like.shape[:-1], -1)
            parts.append(entry)
        return torch.cat(parts, -1)

    def _features(self, group: AgentGroup, name: str, entry: Tensor, like: Tensor) -> Tensor:
        """An entry of one group as numbers, ``[*B, N_g, F_g]``."""
        if name in OBSERVATIONS:
            return group.flat(entry)
        if name in MASKS:
            return entry.unsqueeze(-1).to(like.dtype)
        return group.action_features(entry, like)


def everybody_keys(groups: Sequence[AgentGroup]) -> list[NestedKey]:
    """Observation and action of every group."""
    names = ("observation", "action")
    return [(*path_of(group.group), name) for group in groups for name in names]


def read_groups(env: EnvBase) -> dict[tuple[str, ...], AgentGroup]:
    """Every group of agents that acts in an environment, by its path."""
    return {path_of(group): AgentGroup.from_env(env, group) for group in groups_of(env)}
