"""Networks, policy and losses of one group of agents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn

from torchrl_moawm._keys import name_of, path_of
from torchrl_moawm.modules import AgentGRU, GroupStatistics, ScheduledLatent
from torchrl_moawm.objectives import LossSum, split_at
from torchrl_moawm.system.acting import make_policy
from torchrl_moawm.system.losses import make_losses
from torchrl_moawm.system.rewards import make_rewards
from torchrl_moawm.system.settings import LossSettings

if TYPE_CHECKING:
    from torchrl_moawm.transforms import IntrinsicReward

PARTS = ("actor", "critic", "moa_network", "world_model", "student", "teacher")


class GroupSystem:
    """Networks, policy and losses of one group of agents, as :class:`MOAWM` holds them.

    Attributes:
        actor: ``pi(a_t | o_t, z_t)``.
        critic: ``V(s_t, z_t)``, centralised.
        moa_network: The model of the other agents of the group.
        moa_networks: The models of the others by the group they predict, this one among them.
        world_model: Next observation and reward.
        student: Encoder, sampler and decoder of z.
        teacher: The same, seeing everybody.
        scheduled: Whose z acts, where the teacher acts as well; else ``None``.
        statistics: The units of the models of others and world; ``None`` for the environment's.
        policy: Encoder, sampler, actor; writes z, action and log-probability.
        settings: The :class:`LossSettings`, given as keywords.
        targets: The groups that are predicted, by name.
        loss_module: The :class:`LossSum` of ``policy``, ``value``, ``moawm`` (with ``moa``,
            ``world_model``, ``cvae``) and ``teacher``.
    """

    def __init__(
        self,
        *,
        actor: TensorDictModuleBase,
        critic: TensorDictModuleBase,
        moa_networks: Mapping[NestedKey, TensorDictModuleBase],
        world_model: TensorDictModuleBase,
        student: TensorDictModuleBase,
        teacher: TensorDictModuleBase,
        statistics: GroupStatistics | None = None,
        group: NestedKey = "agents",
        **settings: Any,
    ) -> None:
        self.settings = LossSettings(**settings)
        self.group = group
        self.actor = actor
        self.critic = critic
        self.moa_networks = {name_of(each): net for each, net in moa_networks.items()}
        self.targets = {name_of(each): each for each in (group, *moa_networks)}
        self.world_model = world_model
        self.student = student
        self.teacher = teacher
        self.statistics = statistics
        frames = self.settings.teacher_frames
        self.scheduled = ScheduledLatent(frames, group=group) if frames else None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PARTS and {"policy", "loss_module"} & self.__dict__.keys():
            raise RuntimeError(f"Replace {name} before policy or loss_module is first used.")
        if name in PARTS:
            self.__dict__.pop("rewards", None)  # which were of the parts as they were
        if name == "moa_network":
            self.moa_networks[name_of(self.group)] = value
        else:
            super().__setattr__(name, value)

    @property
    def moa_network(self) -> TensorDictModuleBase:
        """The model of the other agents of this group."""
        return self.moa_networks[name_of(self.group)]

    @property
    def networks(self) -> dict[str, TensorDictModuleBase]:
        """Every network by name; the models of other groups are ``moa_network_<group>``."""
        own = {name: getattr(self, name) for name in PARTS}
        others = {
            f"moa_network_{group}": network
            for group, network in self.moa_networks.items()
            if group != name_of(self.group)
        }
        return {**own, **others}

    @property
    def module(self) -> nn.ModuleDict:
        """The networks by name, and what else has a state."""
        states = {name: getattr(self, name) for name in ("statistics", "scheduled")}
        states["value_norm"] = self.settings.value_norm
        states |= {reward.name: reward for reward in self.rewards}
        there = {name: module for name, module in states.items() if module is not None}
        return nn.ModuleDict({**self.networks, **there})

    @property
    def memories(self) -> list[AgentGRU]:
        """The recurrent modules, whose state the environment carries."""
        networks = (self.student, *self.moa_networks.values())
        return [m for network in networks for m in network.modules() if isinstance(m, AgentGRU)]

    @property
    def student_encoder(self) -> TensorDictSequential:
        """The student up to the mean of its posterior, with its memory: a loss's latent network."""
        return self._encoder(self.student, "latent_loc")

    @property
    def teacher_encoder(self) -> TensorDictSequential:
        """The teacher up to the mean of its posterior."""
        return self._encoder(self.teacher, "teacher_loc")

    def _encoder(self, network: TensorDictModuleBase, writes: str) -> TensorDictSequential:
        return TensorDictSequential(*split_at(network, (*path_of(self.group), writes))[0])

    @cached_property
    def policy(self) -> TensorDictSequential:
        """Encoder, sampler, actor; deterministic under deterministic exploration."""
        return make_policy(self)

    @cached_property
    def loss_module(self) -> LossSum:
        """Every loss, weighted, sharing the networks."""
        return make_losses(self)

    @cached_property
    def rewards(self) -> list[IntrinsicReward]:
        """Intrinsic rewards beside the task's."""
        return make_rewards(self)
