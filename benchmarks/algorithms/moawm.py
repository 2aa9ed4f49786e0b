"""The whole framework: PPO with a latent, and models of the others and of the world."""

from omegaconf import DictConfig
from torchrl.envs import EnvBase

from algorithms.common import Algorithm, actor_and_critic, one_or_sum
from torchrl_moawm import MOAWM, LossSum

OF_TRAINING = (
    "name",
    "kind",
    "ablation",
    "sequence_length",
    "student_lr",
    "auxiliary_epochs",
    "auxiliary_lr",
)
"""Settings of an algorithm that are not those of ``MOAWM.from_env``."""


def make_moawm(config: DictConfig, env: EnvBase) -> Algorithm:
    """The whole framework."""
    task, algorithm = config.task, config.algorithm
    shared = ("gamma", "lmbda", "clip_epsilon", "clip_value", "entropy_coeff", "critic_coeff")
    own = [key for key in algorithm if key not in OF_TRAINING]
    system = MOAWM.from_env(
        env,
        num_cells=list(config.num_cells),
        shared_value=task.shared_value,
        **{key: task[key] for key in shared},
        **{key: algorithm[key] for key in own},
    )
    for group, one in system.groups.items():
        if algorithm.ablation == "zero_latent":  # weights on z = 0 do nothing: leave them out
            one.actor, one.critic = actor_and_critic(config, env, group)
        elif algorithm.ablation == "frozen_encoder":
            one.student.requires_grad_(False)
    core = {
        group: LossSum({name: one.loss_module[name] for name in ("policy", "value")})
        for group, one in system.groups.items()
    }
    return Algorithm(
        policy=system.policy,
        loss_module=system.loss_module,
        core=one_or_sum(core),
        advantage=system.value_estimator,
        networks=system.networks,
        system=system,
    )
