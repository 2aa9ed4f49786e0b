"""The whole framework: PPO with a latent, and models of the others and of the world."""

from dataclasses import fields
from typing import Any

from omegaconf import DictConfig
from torchrl.envs import EnvBase

from torchrl_moawm import MOAWM, LossSum
from torchrl_moawm.modules import ScheduledLatent
from torchrl_moawm.system import LossSettings, NetworkSettings
from torchrl_moawm.train.algorithms.common import Algorithm, actor_and_critic, one_or_sum

SETTINGS = {
    *("group", "privileged", "critic_state"),
    *(field.name for kind in (NetworkSettings, LossSettings) for field in fields(kind)),
} - {"teacher_frames"}
"""Keywords of ``MOAWM.from_env`` that a task or an algorithm has as well, under the same names."""


def settings_of(section: DictConfig) -> dict[str, Any]:
    """Settings of a task, or of an algorithm, that are keywords of ``MOAWM.from_env``."""
    return {name: value for name, value in section.items() if name in SETTINGS}


def teacher_frames(config: DictConfig) -> int:
    """Frames over which the teacher acts too; of a run that goes on, those it was begun with."""
    told = int(config.algorithm.teacher_share * config.total_frames)
    return int(config.algorithm.get("teacher_frames", told))


def make_moawm(config: DictConfig, env: EnvBase) -> Algorithm:
    """The whole framework."""
    return algorithm_of(make_system(config, env), config)


def make_system(config: DictConfig, env: EnvBase) -> MOAWM:
    """The system with its networks, of which each may still be replaced by one of your own."""
    task, algorithm = config.task, config.algorithm
    check_together(algorithm)
    system = MOAWM.from_env(
        env,
        num_cells=list(config.num_cells),
        **settings_of(task),
        **{"moa_bounded": False, **settings_of(algorithm)},  # not said: as before it
        teacher_frames=teacher_frames(config),
    )
    for one in system.groups.values():
        if algorithm.ablation == "zero_latent":  # weights on z = 0 do nothing: leave them out
            one.actor, one.critic = actor_and_critic(config, env, one.group)
        elif algorithm.ablation == "frozen_encoder":
            one.student.requires_grad_(False)
    return system


def check_together(algorithm: DictConfig) -> None:
    """Refuses settings of which one would do nothing beside another.

    Raises:
        ValueError: The message names both; or what the settings lack.
    """
    if "teacher_share" not in algorithm:
        raise ValueError(
            f"algorithm={algorithm.name} has not the settings of moawm. Begin from those: "
            "algorithm=moawm algorithm.kind=module:function, in Python "
            "Experiment(task, 'moawm', {'algorithm.kind': ...}, trust_code=True)."
        )
    beside = {
        "zero_latent": ("act_on_predictions", "policy_trains_student", "teacher_share"),
        "frozen_encoder": ("policy_trains_student",),
    }
    for name in beside.get(algorithm.ablation, ()):
        if algorithm.get(name):
            raise ValueError(
                f"algorithm.{name} would do nothing beside algorithm.ablation={algorithm.ablation}."
            )


def algorithm_of(system: MOAWM, config: DictConfig) -> Algorithm:
    """The system as the training loop sees it."""
    algorithm = config.algorithm
    if algorithm.encode_anew and algorithm.act_on != "mean":
        raise ValueError(
            "algorithm.encode_anew needs algorithm.act_on=mean: z has to be the one that acts. "
            "Say algorithm.encode_anew=false."
        )
    for name in ("act_on_predictions", "curiosity_coeff", "influence_coeff"):
        if algorithm.get(name) and not algorithm.model_epochs:
            raise ValueError(
                f"algorithm.{name} needs algorithm.model_epochs of at least 1: the models that it "
                "reads would not be trained beside the team."
            )
    parts = {group: parts_of(one.loss_module, algorithm) for group, one in system.groups.items()}
    core, models, beside, latent = (
        one_or_sum({group: part[name] for group, part in parts.items()})
        for name in ("core", "models", "beside", "latent")
    )
    return Algorithm(
        policy=system.policy,
        loss_module=system.loss_module,
        core=core,
        auxiliary={
            "models": (beside, algorithm.model_epochs),
            "latent": (latent, algorithm.latent_epochs),
        },
        encode_latent=system.encode_latent if algorithm.encode_anew else None,
        models=models,
        advantage=system.value_estimator,
        networks=system.networks,
        system=system,
        scheduled=scheduled_of(system),
        memories=[memory for one in system.groups.values() for memory in one.memories],
    )


def scheduled_of(system: MOAWM) -> list[ScheduledLatent]:
    """What decides whose z acts, of every group where the teacher acts too."""
    found = (one.scheduled for one in system.groups.values())
    return [scheduled for scheduled in found if scheduled is not None]


def parts_of(whole: LossSum, algorithm: DictConfig) -> dict[str, LossSum]:
    """The losses of a group that are minimised together: of PPO, of the models, of the latent."""
    moawm = whole["moawm"]
    latent = {"cvae": moawm.part("cvae"), "teacher": whole["teacher"]}
    models = moawm.part("moa", "world_model")
    acts_on_it = algorithm.get("act_on_predictions", False)
    return {
        "core": whole.part("policy", "value"),
        "models": moawm.part("world_model") if acts_on_it else models,  # when the team has learned
        "beside": LossSum({"models": models}, rows={"models": algorithm.model_rows}),
        "latent": LossSum(latent, rows=dict.fromkeys(latent, algorithm.latent_rows)),
    }
