"""Networks, policy and losses of one group of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any, Literal

from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.envs import EnvBase

from torchrl_moawm._checks import check_option
from torchrl_moawm._keys import path_of
from torchrl_moawm.modules import (
    AgentGroup,
    AgentGRU,
    StoredActionLogProb,
    make_actor,
    make_critic,
    make_moa_network,
    make_student,
    make_teacher,
    make_world_model,
)
from torchrl_moawm.objectives import (
    ClipPPOPolicyLoss,
    ClipPPOValueLoss,
    LossSum,
    MOALoss,
    MOAWMLoss,
    TeacherCVAELoss,
    TeacherVAELoss,
    WorldModelLoss,
)
from torchrl_moawm.objectives.vae import split_at
from torchrl_moawm.system.specs import action_settings, name_of, reward_key

PARTS = ("actor", "critic", "moa_network", "world_model", "student", "teacher")


SETTINGS = {
    "gamma": 0.99,
    "lmbda": 0.95,
    "clip_epsilon": 0.2,
    "clip_value": 0.2,
    "entropy_coeff": 0.01,
    "critic_coeff": 1.0,
    "value_norm": None,
    "moa_coeff": 1.0,
    "obs_coeff": 1.0,
    "reward_coeff": 1.0,
    "cvae_coeff": 1.0,
    "student_kl_coeff": 1.0,
    "teacher_kl_coeff": 1.0,
    "act_on": "sample",
    "done_key": "done",
    "terminated_key": "terminated",
    "reward_key": None,
}
"""Settings of the losses of a group, with their defaults."""


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, complete.

    Raises:
        TypeError: One is unknown; the message lists those there are.
    """
    unknown = [name for name in settings if name not in SETTINGS]
    if unknown:
        raise TypeError(f"Unknown setting {unknown[0]!r}; there are {', '.join(SETTINGS)}.")
    return {**SETTINGS, **settings}


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
        policy: Encoder, sampler, actor; writes z, action and log-probability. With ``act_on``
            ``"mean"`` z is the mean of the student's posterior, also when exploring: actor and
            critic then read no noise, and V(s_t, z_t) is of the same kind as V(s_{t+1}, z_{t+1}).
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
        given = checked_settings(settings)
        self.group = group
        self.actor = actor
        self.critic = critic
        self.moa_networks = dict(moa_networks)
        self.targets: dict[str, NestedKey] = {name_of(group): group}
        self.world_model = world_model
        self.student = student
        self.teacher = teacher

        def chosen(*names: str) -> dict[str, Any]:
            return {name: given[name] for name in names}

        self._gae = chosen("gamma", "lmbda")
        self._policy = chosen("clip_epsilon", "entropy_coeff")
        self._value = chosen("clip_value", "critic_coeff", "value_norm")
        self._moawm = chosen("moa_coeff", "obs_coeff", "reward_coeff", "cvae_coeff")
        reward = given["reward_key"]
        self._reward: dict[str, Any] = {} if reward is None else {"reward": reward}
        self._value_keys: dict[str, Any] = {
            "done": given["done_key"],
            "terminated": given["terminated_key"],
            **self._reward,
        }
        self._alpha = given["student_kl_coeff"]
        self._beta = given["teacher_kl_coeff"]
        check_option("act_on", given["act_on"], ("sample", "mean"))
        self._act_on = given["act_on"]

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

    def _key(self, name: str) -> NestedKey:
        return (*path_of(self.group), name)

    @cached_property
    def policy(self) -> TensorDictSequential:
        """Encoder, sampler, actor; deterministic under deterministic exploration.

        The memories of the models of the others run along, so that their state is carried.
        """
        if self._act_on == "mean":
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
        group: dict[str, Any] = {"group": self.group}
        encoder = split_at(self.student, self._key("latent_loc"))[0]
        value = ClipPPOValueLoss(
            self.critic, latent_network=TensorDictSequential(*encoder), **self._value, **group
        )
        value.set_keys(**self._value_keys)
        value.make_value_estimator(**self._gae)
        moa = {
            name: MOALoss(network, target_group=self.targets[name], **group)
            for name, network in self.moa_networks.items()
        }
        world_model = WorldModelLoss(self.world_model, **group)
        world_model.set_keys(**self._reward)
        return LossSum(
            {
                "policy": ClipPPOPolicyLoss(self.actor, **self._policy, **group),
                "value": value,
                "moawm": MOAWMLoss(
                    LossSum(moa) if len(moa) > 1 else moa[name_of(self.group)],
                    world_model,
                    TeacherCVAELoss(self.student, self.teacher, kl_coeff=self._alpha, **group),
                    **self._moawm,
                ),
                "teacher": TeacherVAELoss(self.teacher, kl_coeff=self._beta, **group),
            }
        )


def make_group_system(
    env: EnvBase,
    group: NestedKey,
    teams: Mapping[NestedKey, AgentGroup],
    latent_dim: int,
    settings: Mapping[str, Any],
    *,
    privileged: Mapping[NestedKey, AgentGroup],
    reconstruct: Literal["own", "privileged"],
    num_cells: Sequence[int],
    recurrent: bool,
    moa_head: Literal["slots", "pairwise"],
    shared_value: bool,
    critic_state: Mapping[NestedKey, int],
) -> GroupSystem:
    """The default networks of a group that is among the teams."""
    check_option("reconstruct", reconstruct, ("own", "privileged"))
    if reconstruct == "privileged" and not privileged:
        raise ValueError("There is no privileged group that the student could reconstruct.")
    team = teams[group]
    others = [other for name, other in teams.items() if name != group]
    unseen = list(privileged.values())
    common: dict[str, Any] = {"group": group, "num_cells": num_cells}
    seen: dict[str, Any] = {"n_agents": team.n_agents, "obs_dim": team.obs_dim, **common}
    did: dict[str, Any] = {"action_dim": team.action_dim, "n_actions": team.n_actions}
    z: dict[str, Any] = {"latent_dim": latent_dim}
    everybody: dict[str, Any] = {**seen, **did, "other_groups": others}
    actor = make_actor(obs_dim=team.obs_dim, **action_settings(env, group), **z, **common)
    parts: dict[str, Any] = {
        "actor": actor,
        "critic": make_critic(
            other_groups=others, shared_value=shared_value, state=critic_state, **z, **seen
        ),
        "world_model": make_world_model(**everybody),
        "student": make_student(
            recurrent=recurrent,
            reconstruct_groups=unseen if reconstruct == "privileged" else (),
            **z,
            **everybody,
        ),
        "teacher": make_teacher(**{**z, **everybody, "other_groups": [*others, *unseen]}),
    }
    targets = (group, *(name for name in teams if name != group), *privileged)
    moa = {
        name_of(target): make_moa_network(
            target_group=target,
            unseen_groups=unseen,
            head="slots" if target in privileged else moa_head,
            recurrent=recurrent,
            **everybody,
        ).to(env.device)
        for target in targets
    }
    parts = {name: part.to(env.device) for name, part in parts.items()}
    found: dict[str, Any] = {"reward_key": reward_key(env, group)}
    path = path_of(group)
    if (*path, "done") in env.done_keys:  # each agent ends by itself
        found |= {"done_key": (*path, "done"), "terminated_key": (*path, "terminated")}
    settings = {**found, **settings}
    if len(teams) > 1:  # the returns of groups differ: statistics of their own
        settings = {**settings, "value_norm": deepcopy(settings.get("value_norm"))}
    system = GroupSystem(**parts, moa_networks=moa, group=group, **settings)
    system.targets = {name_of(target): target for target in targets}
    return system
