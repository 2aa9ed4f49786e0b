"""The default networks of a group."""

from collections.abc import Mapping, Sequence
from typing import Any

from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictModuleBase

from torchrl_moawm import modules
from torchrl_moawm.modules import AgentGroup, GroupStatistics
from torchrl_moawm.system.layout import GroupLayout, Layout
from torchrl_moawm.system.settings import NetworkSettings


def make_networks(
    layout: Layout,
    own: GroupLayout,
    settings: NetworkSettings,
    statistics: Mapping[NestedKey, GroupStatistics],
    teacher_acts: bool = False,
) -> dict[str, Any]:
    """The default networks of a group, as keywords of ``GroupSystem``.

    Args:
        layout: What is known of the environment.
        own: The group.
        settings: Of the networks.
        statistics: The units of the models of others and world by group, if not the environment's.
        teacher_acts: Whether the teacher reads what there is before anybody has acted.
    """
    group, privileged = own.group, layout.privileged
    others = [other.group for other in layout.groups if other is not own]
    hidden = privileged if settings.reconstruct == "privileged" else ()
    if not privileged:
        check_nobody_is_told(settings)
    head: Any = {"latent_dim": settings.latent_dim, "num_cells": settings.num_cells}
    coder: Any = {**head, "num_cells": settings.encoder_cells}
    if settings.act_on_predictions:
        head["predicted_dim"] = predicted_dim(group, [*others, *privileged])
    coder["decoder_cells"] = settings.decoder_cells
    state = {} if layout.critic_state is None else dict([layout.critic_state])
    critic: Any = {"shared_value": settings.shared_value, "state": state}
    critic["other_groups"] = [*others, *privileged] if settings.critic_privileged else others
    told: Any = {"acts": teacher_acts, "privileged_only": settings.teacher_privileged_only}
    student: Any = {"recurrent": settings.recurrent, "reconstruct_groups": hidden}
    parts: dict[str, Any] = {
        "actor": modules.make_actor(
            group, **own.actions, **head, initial_scale=settings.initial_scale
        ),
        "critic": modules.make_critic(group, **critic, **head),
        "world_model": make_world_model(group, others, settings, statistics),
        "student": modules.make_student(group, other_groups=others, **student, **coder),
        "teacher": modules.make_teacher(
            group, other_groups=others, privileged_groups=privileged, **told, **coder
        ),
    }
    models = make_moa_networks(layout, own, settings, statistics.get(group.group))
    return {**parts, "moa_networks": models}


def check_nobody_is_told(settings: NetworkSettings) -> None:
    """Refuses what would be of privileged groups where there are none.

    Raises:
        ValueError: The message names the setting.
    """
    said = {
        "reconstruct='privileged'": settings.reconstruct == "privileged",
        "teacher_privileged_only=True": settings.teacher_privileged_only,
        "critic_privileged=True": settings.critic_privileged,
    }
    for setting, holds in said.items():
        if holds:
            raise ValueError(f"{setting} needs a group to be told of: privileged=[...].")


def predicted_dim(group: AgentGroup, others: Sequence[AgentGroup]) -> int:
    """Features of the predicted actions of everybody but oneself.

    Raises:
        ValueError: There is nobody else.
    """
    size = sum(each.n_agents * each.action_dim for each in (group, *others)) - group.action_dim
    if not size:
        raise ValueError(f"{group.group!r} is one agent alone: no action of others to act on.")
    return size


def make_world_model(
    group: AgentGroup,
    others: Sequence[AgentGroup],
    settings: NetworkSettings,
    statistics: Mapping[NestedKey, GroupStatistics],
) -> TensorDictModule:
    """The world model of a group: of what an agent sees, or of all agents."""
    if settings.joint_world_model:
        from torchrl_moawm.modules.joint_world_model import joint_model_of

        units = [statistics[each.group] for each in (group, *others)] if statistics else None
        heads = settings.continuation, settings.ensemble
        return joint_model_of(group, others, settings.model_cells, units, *heads)
    return modules.make_world_model(
        group,
        other_groups=others,
        num_cells=settings.model_cells,
        statistics=statistics.get(group.group),
        continuation=settings.continuation,
        ensemble=settings.ensemble,
    )


def make_moa_networks(
    layout: Layout,
    own: GroupLayout,
    settings: NetworkSettings,
    statistics: GroupStatistics | None,
) -> dict[NestedKey, TensorDictModuleBase]:
    """The models of the others of a group, by the group that they predict."""
    others = [other.group for other in layout.groups if other is not own]
    bounds = {
        each.group.group: (each.actions["low"], each.actions["high"]) for each in layout.groups
    }
    return {
        target.group: modules.make_moa_network(
            own.group,
            other_groups=others,
            unseen_groups=layout.privileged,
            target_group=target.group,
            head="slots" if target in layout.privileged else settings.moa_head,
            recurrent=settings.recurrent,
            num_cells=settings.model_cells,
            statistics=statistics,
            bounds=bounds.get(target.group) if settings.moa_bounded else None,
        )
        for target in (own.group, *others, *layout.privileged)
    }
