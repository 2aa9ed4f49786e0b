"""What a group's policy is made of: encoder, what the others are expected to do, actor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensordict import unravel_key
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import nn

from torchrl_moawm._keys import path_of
from torchrl_moawm.modules import StoredActionLogProb
from torchrl_moawm.objectives import split_at

if TYPE_CHECKING:
    from torchrl_moawm.system.group import GroupSystem


def make_policy(system: GroupSystem) -> TensorDictSequential:
    """Encoder, sampler, actor; deterministic under deterministic exploration.

    The memories of the models of the others run along, so that their state is carried.
    """
    path = path_of(system.group)
    modules = [*latent_modules(system), *predictions(system)]
    own = {id(module) for part in modules for module in part.modules()}
    memories = [memory for memory in system.memories if id(memory) not in own]
    log_prob = StoredActionLogProb(system.actor, (*path, "action"), (*path, "action_log_prob"))
    return TensorDictSequential(*memories, *modules, system.actor, log_prob)


def latent_modules(system: GroupSystem) -> list[TensorDictModuleBase]:
    """What writes z: the student's mean or a sample; where the teacher acts, the one or other."""
    path = path_of(system.group)
    if system.settings.act_on != "mean":
        return split_at(system.student, (*path, "latent"))[0]
    if system.scheduled is None:
        return mean_modules(system)
    teacher = split_at(system.teacher, (*path, "teacher_loc"))[0]
    student = split_at(system.student, (*path, "latent_loc"))[0]
    return [*student, *teacher, system.scheduled]


def mean_modules(system: GroupSystem) -> list[TensorDictModuleBase]:
    """The student's encoder, whose mean is z."""
    loc, z = ((*path_of(system.group), name) for name in ("latent_loc", "latent"))
    return [*split_at(system.student, loc)[0], TensorDictModule(nn.Identity(), [loc], [z])]


def predictions(system: GroupSystem) -> list[TensorDictModuleBase]:
    """What the models of the others expect, where the actor reads it."""
    key = (*path_of(system.group), "predicted_actions")
    if key not in map(unravel_key, system.actor.in_keys):
        return []
    from torchrl_moawm.modules import PredictedActions

    return [PredictedActions(system.moa_networks.values(), system.group)]
