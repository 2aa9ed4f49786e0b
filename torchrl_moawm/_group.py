"""Everything of one group of agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any, Literal

from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.envs import EnvBase
from torchrl.modules import ValueNorm

from torchrl_moawm._checks import check_option
from torchrl_moawm._teams import actor_settings
from torchrl_moawm.modules import (
    AgentGRU,
    FreshLogProb,
    Team,
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
from torchrl_moawm.objectives.cvae import split_at

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
        group: str = "agents",
        gamma: float = 0.99,
        lmbda: float = 0.95,
        clip_epsilon: float = 0.2,
        clip_value: float | None = 0.2,
        entropy_coeff: float = 0.01,
        critic_coeff: float = 1.0,
        value_norm: ValueNorm | None = None,
        moa_coeff: float = 1.0,
        obs_coeff: float = 1.0,
        reward_coeff: float = 1.0,
        cvae_coeff: float = 1.0,
        student_kl_coeff: float = 1.0,
        teacher_kl_coeff: float = 1.0,
        act_on: Literal["sample", "mean"] = "sample",
        done_key: NestedKey = "done",
        terminated_key: NestedKey = "terminated",
    ) -> None:
        self.group = group
        self.actor = actor
        self.critic = critic
        self.moa_networks = dict(moa_networks)
        self.world_model = world_model
        self.student = student
        self.teacher = teacher
        self._gae: dict[str, Any] = {"gamma": gamma, "lmbda": lmbda}
        self._policy: dict[str, Any] = {
            "clip_epsilon": clip_epsilon,
            "entropy_coeff": entropy_coeff,
        }
        self._value: dict[str, Any] = {
            "clip_value": clip_value,
            "critic_coeff": critic_coeff,
            "value_norm": value_norm,
        }
        self._value_keys: dict[str, Any] = {"done": done_key, "terminated": terminated_key}
        self._moawm: dict[str, Any] = {
            "moa_coeff": moa_coeff,
            "obs_coeff": obs_coeff,
            "reward_coeff": reward_coeff,
            "cvae_coeff": cvae_coeff,
        }
        self._alpha = student_kl_coeff
        self._beta = teacher_kl_coeff
        check_option("act_on", act_on, ("sample", "mean"))
        self._act_on = act_on

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PARTS and {"policy", "loss_module"} & self.__dict__.keys():
            raise RuntimeError(f"Replace {name} before policy or loss_module is first used.")
        if name == "moa_network":
            self.moa_networks[self.group] = value
        else:
            super().__setattr__(name, value)

    @property
    def moa_network(self) -> TensorDictModuleBase:
        """The model of the other agents of this group."""
        return self.moa_networks[self.group]

    @property
    def networks(self) -> dict[str, TensorDictModuleBase]:
        """Every network by name; the models of other groups are ``moa_network_<group>``."""
        own = {name: getattr(self, name) for name in PARTS}
        others = {
            f"moa_network_{group}": network
            for group, network in self.moa_networks.items()
            if group != self.group
        }
        return {**own, **others}

    @property
    def memories(self) -> list[AgentGRU]:
        """The recurrent modules, whose state the environment carries."""
        networks = (self.student, *self.moa_networks.values())
        return [m for network in networks for m in network.modules() if isinstance(m, AgentGRU)]

    @cached_property
    def policy(self) -> TensorDictSequential:
        """Encoder, sampler, actor; deterministic under deterministic exploration.

        The memories of the models of the others run along, so that their state is carried.
        """
        if self._act_on == "mean":
            loc, z = (self.group, "latent_loc"), (self.group, "latent")
            encoder = split_at(self.student, loc)[0]
            encoder = [*encoder, TensorDictModule(nn.Identity(), [loc], [z])]
        else:
            encoder = split_at(self.student, (self.group, "latent"))[0]
        own = {id(module) for part in encoder for module in part.modules()}
        memories = [memory for memory in self.memories if id(memory) not in own]
        log_prob = FreshLogProb(self.actor, (self.group, "action"), (self.group, "action_log_prob"))
        return TensorDictSequential(*memories, *encoder, self.actor, log_prob)

    @cached_property
    def loss_module(self) -> LossSum:
        """Every loss, weighted, sharing the networks."""
        group: dict[str, Any] = {"group": self.group}
        encoder = split_at(self.student, (self.group, "latent_loc"))[0]
        value = ClipPPOValueLoss(
            self.critic, latent_network=TensorDictSequential(*encoder), **self._value, **group
        )
        value.set_keys(**self._value_keys)
        value.make_value_estimator(**self._gae)
        moa = {
            target: MOALoss(network, target_group=target, **group)
            for target, network in self.moa_networks.items()
        }
        return LossSum(
            {
                "policy": ClipPPOPolicyLoss(self.actor, **self._policy, **group),
                "value": value,
                "moawm": MOAWMLoss(
                    LossSum(moa) if len(moa) > 1 else moa[self.group],
                    WorldModelLoss(self.world_model, **group),
                    TeacherCVAELoss(self.student, self.teacher, kl_coeff=self._alpha, **group),
                    **self._moawm,
                ),
                "teacher": TeacherVAELoss(self.teacher, kl_coeff=self._beta, **group),
            }
        )


def make_group_system(
    env: EnvBase,
    group: str,
    teams: Mapping[str, Team],
    latent_dim: int,
    settings: Mapping[str, Any],
    *,
    privileged: Mapping[str, Team],
    reconstruct: Literal["own", "privileged"],
    num_cells: Sequence[int],
    recurrent: bool,
    moa_head: Literal["slots", "pairwise"],
    shared_value: bool,
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
    actor = make_actor(obs_dim=team.obs_dim, **actor_settings(env, group), **z, **common)
    parts: dict[str, Any] = {
        "actor": actor,
        "critic": make_critic(other_groups=others, shared_value=shared_value, **z, **seen),
        "world_model": make_world_model(**everybody),
        "student": make_student(
            recurrent=recurrent,
            reconstruct_groups=unseen if reconstruct == "privileged" else (),
            **z,
            **everybody,
        ),
        "teacher": make_teacher(**{**z, **everybody, "other_groups": [*others, *unseen]}),
    }
    moa = {
        target: make_moa_network(
            target_group=target,
            unseen_groups=unseen,
            head="slots" if target in privileged else moa_head,
            recurrent=recurrent,
            **everybody,
        ).to(env.device)
        for target in (group, *(name for name in teams if name != group), *privileged)
    }
    parts = {name: part.to(env.device) for name, part in parts.items()}
    if (group, "done") in env.done_keys:  # each agent ends by itself
        ends = {"done_key": (group, "done"), "terminated_key": (group, "terminated")}
        settings = {**ends, **settings}
    if len(teams) > 1:  # the returns of groups differ: statistics of their own
        settings = {**settings, "value_norm": deepcopy(settings.get("value_norm"))}
    return GroupSystem(**parts, moa_networks=moa, group=group, **settings)
