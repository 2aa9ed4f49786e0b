"""The default networks of a group."""

from collections.abc import Mapping, Sequence
from typing import Any

from tensordict import NestedKey
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from torchrl_moawm import modules
from torchrl_moawm.modules import AgentGroup, GroupStatistics, action_settings
from torchrl_moawm.system.settings import NetworkSettings


def make_networks(
    env: EnvBase,
    group: AgentGroup,
    others: Sequence[AgentGroup],
    privileged: Sequence[AgentGroup],
    settings: NetworkSettings,
    statistics: GroupStatistics | None,
    critic_state: Mapping[NestedKey, int],
    teacher_acts: bool = False,
) -> dict[str, Any]:
    """The default networks of a group, as keywords of ``GroupSystem``, on the device of the env.

    Args:
        env: The environment.
        group: The agents.
        others: The other groups that act.
        privileged: The groups that are known in training only.
        settings: Of the networks.
        statistics: The units of the models of others and world, if not the environment's.
        critic_state: Entries of the whole environment, with their number of features.
        teacher_acts: Whether the teacher reads what there is before anybody has acted.
    """
    hidden = privileged if settings.reconstruct == "privileged" else ()
    if settings.reconstruct == "privileged" and not privileged:
        raise ValueError("There is no privileged group that the student could reconstruct.")
    head: Any = {"latent_dim": settings.latent_dim, "num_cells": settings.num_cells}
    world: Any = {"num_cells": settings.model_cells, "statistics": statistics}
    world |= {"continuation": settings.continuation, "ensemble": settings.ensemble}
    coder: Any = {**head, "num_cells": settings.encoder_cells}
    coder["decoder_cells"] = settings.decoder_cells
    critic: Any = {"shared_value": settings.shared_value, "state": critic_state}
    critic["other_groups"] = [*others, *privileged] if settings.critic_privileged else others
    told: Any = {"acts": teacher_acts, "privileged_only": settings.teacher_privileged_only}
    student: Any = {"recurrent": settings.recurrent, "reconstruct_groups": hidden}
    parts: dict[str, Any] = {
        "actor": modules.make_actor(group, **action_settings(env, group.group), **head),
        "critic": modules.make_critic(group, **critic, **head),
        "world_model": modules.make_world_model(group, other_groups=others, **world),
        "student": modules.make_student(group, other_groups=others, **student, **coder),
        "teacher": modules.make_teacher(
            group, other_groups=others, privileged_groups=privileged, **told, **coder
        ),
    }
    parts = {name: network.to(env.device) for name, network in parts.items()}
    models = make_moa_networks(group, others, privileged, settings, statistics)
    parts["moa_networks"] = {name: network.to(env.device) for name, network in models.items()}
    return parts


def make_moa_networks(
    group: AgentGroup,
    others: Sequence[AgentGroup],
    privileged: Sequence[AgentGroup],
    settings: NetworkSettings,
    statistics: GroupStatistics | None,
) -> dict[NestedKey, TensorDictModuleBase]:
    """The models of the others of a group, by the group that they predict."""
    return {
        target.group: modules.make_moa_network(
            group,
            other_groups=others,
            unseen_groups=privileged,
            target_group=target.group,
            head="slots" if target in privileged else settings.moa_head,
            recurrent=settings.recurrent,
            num_cells=settings.model_cells,
            statistics=statistics,
        )
        for target in (group, *others, *privileged)
    }
