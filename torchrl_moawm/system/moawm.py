"""The systems of every group of an environment as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.envs import EnvBase

from torchrl_moawm._keys import name_of
from torchrl_moawm.modules import GroupStatistics, append_memory_transforms
from torchrl_moawm.objectives import LossSum
from torchrl_moawm.system.acting import encode_latent
from torchrl_moawm.system.description import describe
from torchrl_moawm.system.group import PARTS, GroupSystem
from torchrl_moawm.system.kept import KeptSystem
from torchrl_moawm.system.layout import Layout
from torchrl_moawm.system.networks import make_networks
from torchrl_moawm.system.rewards import estimate
from torchrl_moawm.system.settings import split_settings


class MOAWM(KeptSystem):
    """The whole framework for every group of agents: networks, policy and losses.

    ``L_total = L_policy + c_v L_value + L_WM + L_vae``, with
    ``L_WM = l_moa L_moa + l_obs L_obs + l_reward L_reward + l_cvae (L_rec + alpha L_KL)``, for each
    group with networks of its own. Agents model those of every group, and the joint previous
    action is that of all groups.

    ``system["adversary"]`` is the :class:`GroupSystem` of a group. Where there is one group its
    parts are also those of the system: ``system.actor``. Each part may be replaced by your own
    module before ``policy`` or ``loss_module`` is first used: ``system.moa_network = mine``, or
    ``system["adversary"].moa_network = mine``.

    Args:
        groups: The systems of the groups by name.

    Attributes:
        groups: The systems of the groups by name.
        policy: For a collector: of every group encoder, sampler, actor; writes z, action and
            log-probability.
        loss_module: The :class:`LossSum` a TorchRL ``Trainer`` takes. Of one group it holds
            ``policy``, ``value``, ``moawm`` (with ``moa``, ``world_model``, ``cvae``) and
            ``teacher``; of several it holds one such sum per group, and every output has the name
            of its group behind it, ``loss_value_adversary`` (the models of others have two:
            ``loss_moa_<predicted group>_<observers>``).

    Example:
        >>> import torch
        >>> from torchrl.envs.utils import ExplorationType, set_exploration_type
        >>> from torchrl_moawm.envs import make_vmas_env
        >>> env = make_vmas_env("navigation", num_envs=2, max_steps=5, seed=0)
        >>> system = MOAWM.from_env(env, num_cells=(32,))
        >>> with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        ...     batch = env.rollout(5, system.policy)
        >>> _ = system.value_estimator(batch)
        >>> sum(term.startswith("loss") for term in system.loss_module(batch).keys())
        10
    """

    def __init__(self, groups: Mapping[str, GroupSystem]) -> None:
        self.groups = dict(groups)

    def __getitem__(self, group: NestedKey) -> GroupSystem:
        if name_of(group) not in self.groups:
            raise KeyError(f"Unknown group {group!r}; the system has {list(self.groups)}.")
        return self.groups[name_of(group)]

    def __getattr__(self, name: str) -> Any:
        if name in (*PARTS, "moa_networks", "student_encoder", "teacher_encoder", "group"):
            return getattr(self._only(name), name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PARTS:
            setattr(self._only(name), name, value)
        else:
            super().__setattr__(name, value)

    def _only(self, name: str) -> GroupSystem:
        if len(self.groups) > 1:
            raise AttributeError(
                f"There are the groups {list(self.groups)}: say whose {name}, system[group].{name}."
            )
        return next(iter(self.groups.values()))

    @classmethod
    def from_env(
        cls,
        env: EnvBase,
        *,
        group: NestedKey | None = None,
        privileged: Sequence[NestedKey] = (),
        critic_state: NestedKey | None = None,
        **settings: Any,
    ) -> MOAWM:
        """Builds networks and losses from the specs of an environment.

        Args:
            env: An environment with ``PreviousStep``, as ``make_vmas_env`` and
                ``make_pettingzoo_env`` give. With ``recurrent`` it is changed: it gets what carries
                the hidden states, see :meth:`add_memory`.

        Keyword Args:
            group: The only group to be served; ``None`` serves every group. Whoever acts for the
                others is then up to you, and nothing of them is read.
            privileged: Groups that nobody here acts for, such as those that
                :class:`~torchrl_moawm.transforms.PartnerPool` plays, and that may be known in
                training only: the teacher reads their observations and actions, the models of the
                others predict their actions, and with ``critic_privileged`` the critic reads their
                observations. Student, actor, world model and the inputs of the models of the others
                see nothing of them.
            critic_state: An entry of the whole environment that the critic reads beside all
                observations, such as SMACv2's ``"state"``; at training time only.
            **settings: Settings of the networks and of the losses, the fields of
                :class:`~torchrl_moawm.system.NetworkSettings` and
                :class:`~torchrl_moawm.system.LossSettings` with their defaults:
                ``latent_dim=16``, ``num_cells=(128, 128)``, ``recurrent=False``, ``gamma=0.99``.
                With ``recurrent`` the environment is changed.

        Returns:
            The system, on the environment's device.

        Raises:
            TypeError: A setting is unknown.
            ValueError: The group is unknown, the environment lacks ``PreviousStep`` or changes
                entries behind it, or an observation, action or reward is of a kind that the default
                networks and losses cannot read; the message names the entry and says what to do.
        """
        layout = Layout.from_env(env, group, privileged, critic_state)
        system = cls.from_layout(layout, **settings).to(env.device)
        system.add_memory(env)
        return system

    @classmethod
    def from_layout(cls, layout: Layout, **settings: Any) -> MOAWM:
        """Builds networks and losses from what is known of an environment, on the CPU."""
        networks, losses = split_settings(settings)
        several = len(layout.groups) > 1
        names = [name_of(own.group.group) for own in layout.groups]
        if len(set(names)) < len(names):
            raise ValueError(f"Two groups would both be called by one name: {names}. Rename one.")
        groups = [own.group for own in layout.groups] if networks.standardize else []
        statistics = {group.group: GroupStatistics(group) for group in groups}
        systems = {}
        for own in layout.groups:
            acts = bool(losses.get("teacher_frames", 0))
            parts = make_networks(layout, own, networks, statistics, acts)
            given = {**own.keys, **losses}
            if several and "value_norm" in losses:  # returns differ, and so do their statistics
                given["value_norm"] = deepcopy(losses["value_norm"])
            name = own.group.group
            systems[name_of(name)] = GroupSystem(
                **parts, statistics=statistics.get(name), group=name, **given
            )
        system = cls(systems)
        system.made_from = layout, settings
        return system

    def add_memory(self, env: EnvBase) -> EnvBase:
        """Appends to an environment what carries the hidden states; another one's, for evaluation.

        TorchRL's ``InitTracker`` (``is_init``) and, for each state, a ``TensorDictPrimer`` (zero
        after a reset); nothing where they are there already, or nobody has a memory.

        Returns:
            The environment.

        Raises:
            TypeError: It is no ``TransformedEnv``.
        """
        return append_memory_transforms(
            env, [m for system in self.groups.values() for m in system.memories]
        )

    def step(self, frames: int) -> None:
        """Counts frames that were collected: the teacher's share of the environments falls."""
        for system in self.groups.values():
            if system.scheduled is not None:
                system.scheduled.step(frames)

    @cached_property
    def policy(self) -> TensorDictSequential:
        """The policies of all groups."""
        policies = [system.policy for system in self.groups.values()]
        return policies[0] if len(policies) == 1 else TensorDictSequential(*policies)

    @cached_property
    def loss_module(self) -> LossSum:
        """Every loss of every group."""
        losses = {name: system.loss_module for name, system in self.groups.items()}
        return next(iter(losses.values())) if len(losses) == 1 else LossSum(losses)

    @property
    def networks(self) -> dict[str, TensorDictModuleBase]:
        """Every network by name, that of its group behind it where there are several."""
        if len(self.groups) == 1:
            return next(iter(self.groups.values())).networks
        return {
            f"{name}_{group}": network
            for group, system in self.groups.items()
            for name, network in system.networks.items()
        }

    def __repr__(self) -> str:
        return "\n".join(["MOAWM", *map(describe, self.groups.values())])

    @torch.no_grad()
    def value_estimator(self, batch: TensorDictBase) -> TensorDictBase:
        """Writes advantage, value target and V_old of every group, once per collected batch.

        Behind it the batch is taken into the running statistics of what the groups see and earn.
        """
        for system in self.groups.values():
            estimate(system.loss_module["value"], batch)
            system.loss_module["moawm"]["world_model"].update_statistics(batch)
        return batch

    @torch.no_grad()
    def encode_latent(self, batch: TensorDictBase) -> TensorDictBase:
        """Writes z_t as the students would infer it now: what acting will read, learning reads.

        To be called when the students have learned from a batch and actor and critic still do. To
        actor and critic z_t is data, and as it was stored it is that of the students before. PPO's
        ratio then counts how far z_t has moved, as it counts how far the actor has. Where a teacher
        acted z_t stays the stored one.

        Args:
            batch: What was collected, ``[*B, T]``; with a memory, sequences.

        Returns:
            The batch.

        Raises:
            ValueError: A sample of the posterior acts (``act_on="sample"``), not its mean.
        """
        for system in self.groups.values():
            if system.settings.act_on != "mean":
                raise ValueError(
                    "encode_latent needs act_on='mean': z has to be the one that acts."
                )
            encode_latent(system, batch)
        return batch
