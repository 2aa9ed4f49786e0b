"""Networks, policy and losses of one group of agents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn

from torchrl_moawm import objectives
from torchrl_moawm._keys import name_of, path_of
from torchrl_moawm.modules import AgentGRU, GroupStatistics, ScheduledLatent
from torchrl_moawm.objectives import ClipPPOValueLoss, LossSum, split_at
from torchrl_moawm.system.acting import acts_on, make_policy, predictions
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
        s, group = self.settings, {"group": self.group}
        moa = {
            target: objectives.MOALoss(network, target_group=self.targets[target], **group)
            for target, network in self.moa_networks.items()
        }
        world_model = objectives.WorldModelLoss(
            self.world_model,
            statistics=self.statistics,
            horizon=s.world_horizon,
            **self._chosen("reward_delta"),
            **group,
        )
        world_model.set_keys(terminated=s.terminated_key, reward=s.reward_key)
        cvae = objectives.TeacherCVAELoss(
            self.student,
            self.teacher,
            kl_coeff=s.student_kl_coeff,
            free_nats=s.student_free_nats,
            **group,
        )
        return LossSum(
            {
                "policy": self._policy_loss(),
                "value": self._value_loss(),
                "moawm": objectives.MOAWMLoss(
                    LossSum(moa) if len(moa) > 1 else moa[name_of(self.group)],
                    world_model,
                    cvae,
                    **self._chosen("moa_coeff", "obs_coeff", "reward_coeff"),
                    **self._chosen("continue_coeff", "cvae_coeff"),
                ),
                "teacher": objectives.TeacherVAELoss(
                    self.teacher, kl_coeff=s.teacher_kl_coeff, **group
                ),
            },
            rows=dict.fromkeys(("moawm", "teacher"), s.auxiliary_rows),
        )

    @cached_property
    def rewards(self) -> list[IntrinsicReward]:
        """Intrinsic rewards beside the task's."""
        return make_rewards(self)

    def _policy_loss(self) -> objectives.ClipPPOPolicyLoss:
        """The actor's loss, which may train the student too."""
        trains = self.settings.policy_trains_student and acts_on(self, "latent")
        return objectives.ClipPPOPolicyLoss(
            self.actor,
            latent_network=self.student_encoder if trains else None,
            group=self.group,
            **self._chosen("clip_epsilon", "entropy_coeff"),
        )

    def _value_loss(self) -> ClipPPOValueLoss:
        """The critic's loss, with the estimator of the advantage."""
        s = self.settings
        loss = ClipPPOValueLoss(
            self.critic,
            latent_network=TensorDictSequential(self.student_encoder, *predictions(self)),
            teacher_network=None if self.scheduled is None else self.teacher_encoder,
            group=self.group,
            **self._chosen("clip_value", "critic_coeff", "value_norm"),
        )
        loss.set_keys(done=s.done_key, terminated=s.terminated_key, reward=s.reward_key)
        loss.make_value_estimator(**self._chosen("gamma", "lmbda"))
        loss.intrinsic = nn.ModuleList(self.rewards)  # so that the loss saves and moves their units
        return loss

    def _chosen(self, *names: str) -> dict[str, Any]:
        """Some of the settings as keywords."""
        return {name: getattr(self.settings, name) for name in names}
