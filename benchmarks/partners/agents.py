"""Agents for hidden partners: without a model of them, with one, and told the truth."""

from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import nn
from torchrl.envs import EnvBase

from torchrl_moawm import MOAWM, ClipPPOPolicyLoss, ClipPPOValueLoss, LossSum
from torchrl_moawm.modules import (
    AgentGroup,
    AgentGRU,
    StoredActionLogProb,
    StudentFeatures,
    action_settings,
    append_memory_transforms,
    make_actor,
    make_critic,
)
from torchrl_moawm.train.algorithms.common import Algorithm, actor_and_critic
from torchrl_moawm.train.algorithms.moawm import scheduled_of

GROUP, PARTNERS = "agents", "partners"


class TypeCode(TensorDictModuleBase):
    """The partner's type as z: what only an oracle may read."""

    def __init__(self, n_types: int) -> None:
        super().__init__()
        self.n_types = n_types
        self.in_keys = [(GROUP, "observation"), (PARTNERS, "type")]
        self.out_keys = [(GROUP, "latent_loc"), (GROUP, "latent")]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes ``[*B, N, n_types]``."""
        seen, kind = (tensordict.get(key) for key in self.in_keys)
        code = nn.functional.one_hot(kind, self.n_types).to(seen.dtype)
        code = code.flatten(-2).unsqueeze(-2).expand(*seen.shape[:-1], -1)
        for key in self.out_keys:
            tensordict.set(key, code.clone())
        return tensordict


def make_ppo(config: DictConfig, env: EnvBase) -> Algorithm:
    """PPO without a model of the partners; with ``recurrent`` actor and critic have a GRU each."""
    memories: list[AgentGRU] = []
    code = None
    if config.algorithm.oracle:
        code = TypeCode(int(env.full_observation_spec[PARTNERS, "type"].space.n))
        actor, critic = networks(config, env, code.n_types)
    elif config.algorithm.recurrent:
        actor, critic, memories = recurrent_networks(config, env)
    else:
        actor, critic = actor_and_critic(config, env, GROUP)
    core = ppo(config, actor, critic, code)
    log_prob = StoredActionLogProb(actor, (GROUP, "action"), (GROUP, "action_log_prob"))
    before = [] if code is None else [code]
    policy = TensorDictSequential(*before, *memories[1:], actor, log_prob)
    append_memory_transforms(env, memories)
    return Algorithm(
        policy=policy,
        loss_module=core,
        core=core,
        advantage=core["value"].value_estimator,
        networks={"actor": actor, "critic": critic},
        memories=memories,
    )


def ppo(
    config: DictConfig, actor: nn.Module, critic: nn.Module, latent: TensorDictModuleBase | None
) -> LossSum:
    """Policy and value loss, with the settings that the agents share."""
    task = config.task
    value = ClipPPOValueLoss(
        critic,
        latent_network=latent,
        clip_value=task.clip_value,
        critic_coeff=task.critic_coeff,
    )
    value.make_value_estimator(gamma=task.gamma, lmbda=task.lmbda)
    policy = ClipPPOPolicyLoss(
        actor, clip_epsilon=task.clip_epsilon, entropy_coeff=task.entropy_coeff
    )
    return LossSum({"policy": policy, "value": value})


def networks(
    config: DictConfig, env: EnvBase, latent_dim: int
) -> tuple[ProbabilisticTensorDictSequential, TensorDictModule]:
    """Actor and critic that read a latent of that size."""
    group = AgentGroup.from_env(env, GROUP)
    sizes: dict[str, Any] = {"latent_dim": latent_dim, "num_cells": list(config.num_cells)}
    actor = make_actor(group, **action_settings(env, GROUP), **sizes)
    critic = make_critic(group, **sizes)
    return actor, critic


def recurrent_networks(
    config: DictConfig, env: EnvBase
) -> tuple[ProbabilisticTensorDictSequential, TensorDictSequential, list[AgentGRU]]:
    """Actor and critic with a GRU each in place of the latent, trained by their own losses."""
    team, width = AgentGroup.from_env(env, GROUP), config.num_cells[-1]
    actor, critic = networks(config, env, width)
    memories = []
    for name, net in (("actor", actor[0].module.net), ("critic", critic.module.net)):
        net[0].reset_parameters()  # memory is read from the first step on
        features = StudentFeatures(team)
        size = {"n_agents": team.n_agents, "hidden_dim": width}
        memories.append(AgentGRU(features, features.in_keys, name=name, **size))
    seen = (GROUP, "observation")
    reads = [[seen, memory.out_keys[0]] for memory in memories]
    head = TensorDictModule(actor[0].module, reads[0], actor[0].out_keys)
    return (
        ProbabilisticTensorDictSequential(memories[0], head, actor[1]),
        TensorDictSequential(
            memories[1], TensorDictModule(critic.module, reads[1], critic.out_keys)
        ),
        memories,
    )


def make_agent_modelling(config: DictConfig, env: EnvBase) -> Algorithm:
    """A latent inferred by a recurrent student: the framework, LIAM's autoencoder, ablations.

    ``auxiliary_losses`` are those that are trained beside the policy and the value;
    ``sample_latent`` is whether the student's losses sample z, as a VAE does, or take its mean, as
    an autoencoder.
    """
    task, algorithm = config.task, config.algorithm
    shared = ("gamma", "lmbda", "clip_epsilon", "clip_value", "entropy_coeff", "critic_coeff")
    own = ("latent_dim", "reconstruct", "student_kl_coeff", "teacher_kl_coeff")
    of_acting = (
        "act_on_predictions",
        "critic_privileged",
        "policy_trains_student",
        "teacher_privileged_only",
    )
    system = MOAWM.from_env(
        env,
        privileged=(PARTNERS,),
        recurrent=True,
        act_on="mean",
        teacher_frames=int(algorithm.teacher_share * config.total_frames),
        num_cells=list(config.num_cells),
        model_cells=list(config.num_cells),
        encoder_cells=list(config.num_cells),
        decoder_cells=list(config.num_cells),
        standardize=False,
        **{key: task[key] for key in shared},
        **{key: algorithm[key] for key in (*own, *of_acting)},
    )
    one, whole = system[GROUP], system.loss_module
    there = {"teacher": whole["teacher"], "moa": whole["moawm"]["moa"][PARTNERS]}
    there |= {name: whole["moawm"][name] for name in ("cvae", "world_model")}
    if algorithm.act_on_predictions:  # of the other learner too
        there["moa_own"] = whole["moawm"]["moa"][GROUP]
    core = {name: whole[name] for name in ("policy", "value")}
    auxiliary = {name: there[name] for name in algorithm.auxiliary_losses}
    if algorithm.freeze_student:
        one.student.requires_grad_(False)
    if "teacher" not in algorithm.auxiliary_losses:
        one.teacher.requires_grad_(False)
    moa = f"moa_network_{PARTNERS}"
    trains = {"student": "cvae", "teacher": "teacher", moa: "moa", "world_model": "world_model"}
    trains |= {"moa_network": "moa_own"}
    networks = {
        name: net
        for name, net in one.networks.items()
        if name in ("actor", "critic") or trains.get(name) in algorithm.auxiliary_losses
    }
    if not algorithm.freeze_student and "cvae" not in algorithm.auxiliary_losses:
        raise ValueError("Nothing would train the student; say algorithm.freeze_student=true.")

    def advantage(batch: TensorDictBase) -> TensorDictBase:
        if not algorithm.sample_latent:
            batch[GROUP, "latent_noise"] = torch.zeros_like(batch[GROUP, "latent_loc"])
        return system.value_estimator(batch)

    running = {id(part) for part in one.student.modules()}
    if "moa" in algorithm.auxiliary_losses:
        running |= {id(part) for part in one.moa_networks[PARTNERS].modules()}
    policy = TensorDictSequential(
        *(m for m in system.policy.module if not isinstance(m, AgentGRU) or id(m) in running)
    )  # other memories would run for nothing
    return Algorithm(
        policy=policy,
        loss_module=LossSum({**core, **auxiliary}),
        core=LossSum(core),
        auxiliary={"models and latent": (LossSum(auxiliary), algorithm.auxiliary_epochs)},
        advantage=advantage,
        networks=networks,
        scheduled=scheduled_of(system),
        memories=one.memories,
        moa=there["moa"] if "moa" in algorithm.auxiliary_losses else None,
    )
