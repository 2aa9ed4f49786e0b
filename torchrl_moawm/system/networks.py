"""The default networks of a group."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tensordict import NestedKey
from torchrl.envs import EnvBase

from torchrl_moawm import modules
from torchrl_moawm._checks.tensors import check_option
from torchrl_moawm.modules import AgentGroup, action_settings


def make_networks(
    env: EnvBase,
    group: AgentGroup,
    others: Sequence[AgentGroup],
    privileged: Sequence[AgentGroup],
    *,
    latent_dim: int,
    num_cells: Sequence[int],
    reconstruct: Literal["own", "privileged"],
    recurrent: bool,
    moa_head: Literal["slots", "pairwise"],
    shared_value: bool,
    critic_state: Mapping[NestedKey, int],
) -> dict[str, Any]:
    """The default networks of a group, as keywords of ``GroupSystem``, on the device of the env.

    Args:
        env: The environment.
        group: The agents.
        others: The other groups that act.
        privileged: The groups that are known in training only.

    Keyword Args:
        latent_dim: This and the others are those of ``MOAWM.from_env``.
        num_cells: Widths of the hidden layers.
        reconstruct: What the student reconstructs.
        recurrent: Whether there is a memory.
        moa_head: Head of the models of groups that are seen.
        shared_value: Whether the agents have one value in common.
        critic_state: Entries of the whole environment, with their number of features.
    """
    check_option("reconstruct", reconstruct, ("own", "privileged"))
    if reconstruct == "privileged" and not privileged:
        raise ValueError("There is no privileged group that the student could reconstruct.")
    latent: Any = {"latent_dim": latent_dim, "num_cells": num_cells}
    seen: Any = {"other_groups": others, **latent}
    critic: Any = {"shared_value": shared_value, "state": critic_state}
    hidden = privileged if reconstruct == "privileged" else ()
    student: Any = {"recurrent": recurrent, "reconstruct_groups": hidden}
    parts: dict[str, Any] = {
        "actor": modules.make_actor(group, **action_settings(env, group.group), **latent),
        "critic": modules.make_critic(group, **critic, **seen),
        "world_model": modules.make_world_model(group, other_groups=others, num_cells=num_cells),
        "student": modules.make_student(group, **student, **seen),
        "teacher": modules.make_teacher(group, other_groups=[*others, *privileged], **latent),
    }
    moa: Any = {"other_groups": others, "unseen_groups": privileged, "num_cells": num_cells}
    models = {}
    for target in (group, *others, *privileged):
        head = "slots" if target in privileged else moa_head
        model = modules.make_moa_network(
            group, target_group=target.group, head=head, recurrent=recurrent, **moa
        )
        models[target.group] = model.to(env.device)
    return {**{name: x.to(env.device) for name, x in parts.items()}, "moa_networks": models}
