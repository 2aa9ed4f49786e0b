"""The default networks of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tensordict import NestedKey

from torchrl_moawm._checks import check_option
from torchrl_moawm._keys import name_of
from torchrl_moawm.modules import (
    AgentGroup,
    make_actor,
    make_critic,
    make_moa_network,
    make_student,
    make_teacher,
    make_world_model,
)


def make_networks(
    group: AgentGroup,
    others: Sequence[AgentGroup],
    privileged: Sequence[AgentGroup],
    *,
    actions: Mapping[str, Any],
    latent_dim: int,
    num_cells: Sequence[int],
    reconstruct: Literal["own", "privileged"],
    recurrent: bool,
    moa_head: Literal["slots", "pairwise"],
    shared_value: bool,
    critic_state: Mapping[NestedKey, int],
) -> dict[str, Any]:
    """The default networks of a group by their name in ``GroupSystem``.

    Args:
        group: The agents.
        others: The other groups that act.
        privileged: The groups that are known in training only.

    Keyword Args:
        actions: What ``make_actor`` has to know of the actions, see ``action_settings``.
        latent_dim: As in ``MOAWM.from_env``, and so are the others.
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
    cells: Any = {"num_cells": num_cells}
    latent: Any = {"latent_dim": latent_dim, **cells}
    seen: Any = {"other_groups": others}
    hidden = privileged if reconstruct == "privileged" else ()
    return {
        "actor": make_actor(group, **actions, **latent),
        "critic": make_critic(
            group, **seen, **latent, shared_value=shared_value, state=critic_state
        ),
        "world_model": make_world_model(group, **seen, **cells),
        "student": make_student(
            group, **seen, **latent, recurrent=recurrent, reconstruct_groups=hidden
        ),
        "teacher": make_teacher(group, other_groups=[*others, *privileged], **latent),
        "moa_networks": {
            name_of(target.group): make_moa_network(
                group,
                target_group=target.group,
                unseen_groups=privileged,
                head="slots" if target in privileged else moa_head,
                recurrent=recurrent,
                **seen,
                **cells,
            )
            for target in (group, *others, *privileged)
        },
    }
