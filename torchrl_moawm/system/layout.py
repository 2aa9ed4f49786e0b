"""What a system knows of its environment: enough to build it again without one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tensordict import NestedKey, unravel_key
from torchrl.envs import EnvBase

from torchrl_moawm._keys import path_of
from torchrl_moawm.modules import AgentGroup, action_settings, groups_of
from torchrl_moawm.modules.spec_checks import check_column, check_dtype
from torchrl_moawm.modules.specs import state_dim


@dataclass(frozen=True)
class GroupLayout:
    """A group that acts: its sizes, its actions, and where its return lies."""

    group: AgentGroup
    """Its name and sizes."""
    actions: Mapping[str, Any]
    """Settings of its actions, which ``make_actor`` takes."""
    keys: Mapping[str, NestedKey]
    """Entries under ``next``, as the fields of ``LossSettings`` are called that name them."""


@dataclass(frozen=True)
class Layout:
    """All groups of an environment, and what else is read of it."""

    groups: Sequence[GroupLayout]
    """The groups that act."""
    privileged: Sequence[AgentGroup] = ()
    """The groups that are known in training only."""
    critic_state: tuple[NestedKey, int] | None = None
    """An entry of the whole environment for the critic, and its number of features."""

    @classmethod
    def from_env(
        cls,
        env: EnvBase,
        group: NestedKey | None = None,
        privileged: Sequence[NestedKey] = (),
        critic_state: NestedKey | None = None,
    ) -> Layout:
        """Reads it from the specs of an environment; see ``MOAWM.from_env``."""
        names = groups_of(env) if group is None else [group]
        groups = [AgentGroup.from_env(env, name) for name in names]
        return cls(
            [
                GroupLayout(g, action_settings(env, g.group), return_keys(env, g.group))
                for g in groups
            ],
            [AgentGroup.from_env(env, name, privileged=True) for name in privileged],
            None if critic_state is None else (critic_state, state_dim(env, critic_state)),
        )

    def plain(self) -> dict[str, Any]:
        """The layout as nested dictionaries of numbers, words and tensors."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Layout:
        """Makes a layout from what :meth:`plain` gave."""
        groups = [
            GroupLayout(**{**one, "group": AgentGroup(**one["group"])}) for one in plain["groups"]
        ]
        privileged = [AgentGroup(**one) for one in plain["privileged"]]
        return cls(groups, privileged, plain["critic_state"])


def return_keys(env: EnvBase, group: NestedKey) -> dict[str, NestedKey]:
    """Where reward and end of a group lie under ``next``."""
    keys, path, dims = {"reward_key": reward_key(env, group)}, path_of(group), len(env.batch_size)
    earned = keys["reward_key"]
    check_dtype(earned, env.full_reward_spec[earned].dtype)
    check_column(earned, env.full_reward_spec[earned], dims + (1 if isinstance(earned, str) else 2))
    if (done := (*path, "done")) in env.done_keys:  # each agent ends by itself
        check_column(done, env.full_done_spec[done], dims + 2)
        keys |= {"done_key": done, "terminated_key": (*path, "terminated")}
    elif (*path, "alive") in env.full_observation_spec.keys(True, True):
        warnings.warn(
            f"The environment writes {(*path, 'alive')} and no {(*path, 'terminated')}: the return "
            "of whoever is gone goes on with the value of what it saw last, as behind a time "
            "limit. Where agents die write done and terminated of the group as well.",
            stacklevel=2,
        )
    return keys


def reward_key(env: EnvBase, group: NestedKey) -> NestedKey:
    """Finds the reward of a group: its own, or the shared one at the root.

    Raises:
        ValueError: There is neither.
    """
    rewards = list(map(unravel_key, env.reward_keys))
    own = (*path_of(group), "reward")
    if own in rewards:
        return own
    at_root = [key for key in rewards if isinstance(key, str)]
    if len(at_root) == 1:
        return at_root[0]
    raise ValueError(
        f"The environment writes no reward {own}, nor one of the whole team at the root; it writes "
        f"{rewards}. Rename yours with TorchRL's RenameTransform."
    )
