"""Agents for hidden partners: without a model of them, with one, and told the truth."""

from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.envs import EnvBase

from partners.networks import (
    GROUP,
    PARTNERS,
    PreviousPosterior,
    TypeCode,
    networks,
    recurrent_networks,
)
from torchrl_moawm import MOAWM, ClipPPOPolicyLoss, ClipPPOValueLoss, GuidedPolicyLoss, LossSum
from torchrl_moawm.modules import AgentGRU, StoredActionLogProb, append_memory_transforms
from torchrl_moawm.system import GroupSystem
from torchrl_moawm.train.algorithms.common import Algorithm, actor_and_critic
from torchrl_moawm.train.algorithms.moawm import scheduled_of, settings_of, teacher_frames


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


def make_agent_modelling(config: DictConfig, env: EnvBase) -> Algorithm:
    """A latent inferred by a recurrent student: the framework, LIAM's autoencoder, ablations.

    ``auxiliary_losses`` are those that are trained beside the policy and the value, those of the
    latent in ``latent_epochs`` and those of the models in ``model_epochs`` of a batch's epochs;
    ``sample_latent`` is whether the student's losses sample z, as a VAE does, or take its mean, as
    an autoencoder. With ``recurrent_actor`` actor and critic have a memory of their own beside the
    latent, with ``sequential_prior`` the student is pulled to what it knew a step before.
    """
    algorithm = config.algorithm
    system = make_system(config, env)
    one, own_memories = system[GROUP], list[AgentGRU]()
    if algorithm.recurrent_actor:
        one.actor, one.critic, own_memories = recurrent_networks(config, env, algorithm.latent_dim)
        append_memory_transforms(env, own_memories)
    if algorithm.sequential_prior:
        one.teacher = PreviousPosterior(one.student_encoder)
    core, auxiliary = losses_of(system, algorithm)
    latent: dict[str, Any] = {
        name: auxiliary[name] for name in ("cvae", "teacher") if name in auxiliary
    }
    models = {name: auxiliary[name] for name in auxiliary if name not in latent}
    beside = {
        "latent": (latent, algorithm.latent_epochs),
        "models": (models, algorithm.model_epochs),
    }

    def advantage(batch: TensorDictBase) -> TensorDictBase:
        if not algorithm.sample_latent:
            batch[GROUP, "latent_noise"] = torch.zeros_like(batch[GROUP, "latent_loc"])
        return system.value_estimator(batch)

    running = {id(part) for part in one.student.modules()}
    if "moa" in auxiliary:
        running |= {id(part) for part in one.moa_networks[PARTNERS].modules()}
    runs = (m for m in system.policy.module if not isinstance(m, AgentGRU) or id(m) in running)
    return Algorithm(
        policy=TensorDictSequential(*own_memories[1:], *runs),  # others would run for nothing
        loss_module=LossSum({**core, **auxiliary}),
        core=LossSum(core),
        auxiliary={n: (LossSum(x), epochs) for n, (x, epochs) in beside.items() if x},
        advantage=advantage,
        networks=trained_networks(one, algorithm),
        scheduled=scheduled_of(system),
        memories=[*one.memories, *own_memories],
        moa=auxiliary.get("moa"),
    )


def make_system(config: DictConfig, env: EnvBase) -> MOAWM:
    """The framework with a memory, whose teacher sees the partners."""
    algorithm, cells = config.algorithm, list(config.num_cells)
    own = (
        "latent_dim",
        "reconstruct",
        "student_kl_coeff",
        "teacher_kl_coeff",
        "act_on_predictions",
        "critic_privileged",
        "policy_trains_student",
        "teacher_privileged_only",
    )
    return MOAWM.from_env(
        env,
        privileged=(PARTNERS,),
        recurrent=True,
        act_on="mean",
        teacher_frames=teacher_frames(config),
        num_cells=cells,
        model_cells=cells,
        encoder_cells=cells,
        decoder_cells=cells,
        standardize=False,
        moa_bounded=False,  # as when the study was made
        **settings_of(config.task),
        **{key: algorithm[key] for key in own},
    )


def losses_of(system: MOAWM, algorithm: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The losses of the policy, and those that are trained beside it."""
    one, whole = system[GROUP], system.loss_module
    core = {name: whole[name] for name in ("policy", "value")}
    if algorithm.imitation_coeff or algorithm.leash_coeff:
        core["guided"] = GuidedPolicyLoss(
            one.actor,
            latent_network=one.student_encoder,
            teacher_network=one.teacher_encoder,
            imitation_coeff=algorithm.imitation_coeff,
            leash_coeff=algorithm.leash_coeff,
        )
    there = {"teacher": whole["teacher"], "moa": whole["moawm"]["moa"][PARTNERS]}
    there |= {name: whole["moawm"][name] for name in ("cvae", "world_model")}
    if algorithm.act_on_predictions:  # of the other learner too
        there["moa_own"] = whole["moawm"]["moa"][GROUP]
    return core, {name: there[name] for name in algorithm.auxiliary_losses}


TRAINS = {
    "student": "cvae",
    "teacher": "teacher",
    f"moa_network_{PARTNERS}": "moa",
    "moa_network": "moa_own",
    "world_model": "world_model",
}
"""The loss that trains a network."""


def trained_networks(one: GroupSystem, algorithm: DictConfig) -> dict[str, nn.Module]:
    """The networks that an optimizer gets; student and teacher rest where nothing trains them.

    Raises:
        ValueError: Nothing would train the student, and nobody has said that it rests; or nothing
            would train the models whose predictions act.
    """
    losses = algorithm.auxiliary_losses
    if algorithm.freeze_student:
        one.student.requires_grad_(False)
    elif "cvae" not in losses:
        raise ValueError("Nothing would train the student; say algorithm.freeze_student=true.")
    if algorithm.act_on_predictions and not {"moa", "moa_own"} <= {*losses}:
        raise ValueError(
            "Nothing would train what act_on_predictions lets act: name moa and moa_own in "
            "algorithm.auxiliary_losses."
        )
    if "teacher" not in losses and not algorithm.sequential_prior:
        one.teacher.requires_grad_(False)
    return {
        name: net
        for name, net in one.networks.items()
        if name in ("actor", "critic") or TRAINS.get(name) in losses
    }
