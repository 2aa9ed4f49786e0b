"""Networks, policy and losses of one group of agents."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property
from typing import Any

from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.envs import EnvBase

from torchrl_moawm._keys import name_of, path_of
from torchrl_moawm.modules import AgentGroup, AgentGRU, StoredActionLogProb, action_settings
from torchrl_moawm.objectives import (
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    LossSum,
    MOALoss,
    MOAWMLoss,
    TeacherCVAELoss,
    TeacherVAELoss,
    WorldModelLoss,
    split_at,
)
from torchrl_moawm.system.networks import make_networks
from torchrl_moawm.system.settings import LossSettings, keys_from_env

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
        moa_networks: Mapping[str, TensorDictModuleBase],
        world_model: TensorDictModuleBase,
        student: TensorDictModuleBase,
        teacher: TensorDictModuleBase,
        group: NestedKey = "agents",
        **settings: Any,
    ) -> None:
        self.settings = LossSettings.from_keywords(settings)
        self.group = group
        self.actor = actor
        self.critic = critic
        self.moa_networks = dict(moa_networks)
        self.targets: dict[str, NestedKey] = {name_of(group): group}
        self.world_model = world_model
        self.student = student
        self.teacher = teacher

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PARTS and {"policy", "loss_module"} & self.__dict__.keys():
            raise RuntimeError(f"Replace {name} before policy or loss_module is first used.")
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
    def memories(self) -> list[AgentGRU]:
        """The recurrent modules, whose state the environment carries."""
        networks = (self.student, *self.moa_networks.values())
        return [m for network in networks for m in network.modules() if isinstance(m, AgentGRU)]

    @property
    def _reward(self) -> dict[str, NestedKey]:
        """The reward's key for ``set_keys``, where it is not the default."""
        key = self.settings.reward_key
        return {} if key is None else {"reward": key}

    def _key(self, name: str) -> NestedKey:
        return (*path_of(self.group), name)

    @cached_property
    def policy(self) -> TensorDictSequential:
        """Encoder, sampler, actor; deterministic under deterministic exploration.

        The memories of the models of the others run along, so that their state is carried.
        """
        if self.settings.act_on == "mean":
            loc, z = self._key("latent_loc"), self._key("latent")
            encoder = split_at(self.student, loc)[0]
            encoder = [*encoder, TensorDictModule(nn.Identity(), [loc], [z])]
        else:
            encoder = split_at(self.student, self._key("latent"))[0]
        own = {id(module) for part in encoder for module in part.modules()}
        memories = [memory for memory in self.memories if id(memory) not in own]
        keys = self._key("action"), self._key("action_log_prob")
        log_prob = StoredActionLogProb(self.actor, *keys)
        return TensorDictSequential(*memories, *encoder, self.actor, log_prob)

    @cached_property
    def loss_module(self) -> LossSum:
        """Every loss, weighted, sharing the networks."""
        s, name = self.settings, name_of(self.group)
        moa = {
            target: MOALoss(network, target_group=self.targets[target], group=self.group)
            for target, network in self.moa_networks.items()
        }
        world_model = WorldModelLoss(self.world_model, group=self.group)
        world_model.set_keys(**self._reward)
        cvae = TeacherCVAELoss(
            self.student, self.teacher, kl_coeff=s.student_kl_coeff, group=self.group
        )
        return LossSum(
            {
                "policy": ClipPPOPolicyLoss(
                    self.actor,
                    clip_epsilon=s.clip_epsilon,
                    entropy_coeff=s.entropy_coeff,
                    group=self.group,
                ),
                "value": self._value_loss(),
                "moawm": MOAWMLoss(
                    LossSum(moa) if len(moa) > 1 else moa[name],
                    world_model,
                    cvae,
                    moa_coeff=s.moa_coeff,
                    obs_coeff=s.obs_coeff,
                    reward_coeff=s.reward_coeff,
                    cvae_coeff=s.cvae_coeff,
                ),
                "teacher": TeacherVAELoss(
                    self.teacher, kl_coeff=s.teacher_kl_coeff, group=self.group
                ),
            }
        )

    def _value_loss(self) -> ClipPPOValueLoss:
        """The critic's loss, with the estimator of the advantage."""
        s = self.settings
        loss = ClipPPOValueLoss(
            self.critic,
            latent_network=TensorDictSequential(
                *split_at(self.student, self._key("latent_loc"))[0]
            ),
            clip_value=s.clip_value,
            critic_coeff=s.critic_coeff,
            value_norm=s.value_norm,
            group=self.group,
        )
        loss.set_keys(done=s.done_key, terminated=s.terminated_key, **self._reward)
        loss.make_value_estimator(gamma=s.gamma, lmbda=s.lmbda)
        return loss


def make_group_system(
    env: EnvBase,
    group: AgentGroup,
    others: list[AgentGroup],
    privileged: list[AgentGroup],
    settings: Mapping[str, Any],
    **networks: Any,
) -> GroupSystem:
    """The system of a group with its default networks, on the environment's device.

    Args:
        env: The environment.
        group: The agents.
        others: The other groups that act.
        privileged: The groups that are known in training only.
        settings: Settings of the losses that were given.
        **networks: Keywords of ``make_networks``.
    """
    actions = action_settings(env, group.group)
    parts = make_networks(group, others, privileged, actions=actions, **networks)
    settings = {**keys_from_env(env, group.group), **settings}
    if others:  # the returns of groups differ: statistics of their own
        settings = {**settings, "value_norm": deepcopy(settings.get("value_norm"))}
    system = GroupSystem(**parts, group=group.group, **settings)
    for network in system.networks.values():
        network.to(env.device)
    system.targets = {name_of(each.group): each.group for each in (group, *others, *privileged)}
    return system
