"""The losses of a group, weighted, which share its networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensordict.nn import TensorDictSequential
from torch import nn

from torchrl_moawm._keys import name_of
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
from torchrl_moawm.system.acting import acts_on, predictions

if TYPE_CHECKING:
    from torchrl_moawm.system.group import GroupSystem


def make_losses(system: GroupSystem) -> LossSum:
    """Every loss of a group."""
    s, group = system.settings, {"group": system.group}
    return LossSum(
        {
            "policy": policy_loss(system),
            "value": value_loss(system),
            "moawm": MOAWMLoss(
                moa_loss(system),
                world_model_loss(system),
                TeacherCVAELoss(
                    system.student,
                    system.teacher,
                    kl_coeff=s.student_kl_coeff,
                    free_nats=s.student_free_nats,
                    **group,
                ),
                **chosen(system, "moa_coeff", "obs_coeff", "reward_coeff"),
                **chosen(system, "continue_coeff", "cvae_coeff"),
            ),
            "teacher": TeacherVAELoss(system.teacher, kl_coeff=s.teacher_kl_coeff, **group),
        },
        rows=dict.fromkeys(("moawm", "teacher"), s.auxiliary_rows),
    )


def policy_loss(system: GroupSystem) -> ClipPPOPolicyLoss:
    """The actor's loss, which may train the student too."""
    trains = system.settings.policy_trains_student and acts_on(system, "latent")
    return ClipPPOPolicyLoss(
        system.actor,
        latent_network=system.student_encoder if trains else None,
        group=system.group,
        **chosen(system, "clip_epsilon", "entropy_coeff"),
    )


def value_loss(system: GroupSystem) -> ClipPPOValueLoss:
    """The critic's loss, with the estimator of the advantage."""
    s = system.settings
    loss = ClipPPOValueLoss(
        system.critic,
        latent_network=TensorDictSequential(system.student_encoder, *predictions(system)),
        teacher_network=None if system.scheduled is None else system.teacher_encoder,
        group=system.group,
        **chosen(system, "clip_value", "critic_coeff", "value_norm"),
    )
    loss.set_keys(done=s.done_key, terminated=s.terminated_key, reward=s.reward_key)
    loss.make_value_estimator(**chosen(system, "gamma", "lmbda"))
    loss.intrinsic = nn.ModuleList(system.rewards)  # so that the loss saves and moves their units
    return loss


def moa_loss(system: GroupSystem) -> MOALoss | LossSum:
    """The loss of the only model of others, or the sum over the groups that are predicted."""
    losses = {
        target: MOALoss(network, target_group=system.targets[target], group=system.group)
        for target, network in system.moa_networks.items()
    }
    return LossSum(losses) if len(losses) > 1 else losses[name_of(system.group)]


def world_model_loss(system: GroupSystem) -> WorldModelLoss:
    """The world model's loss, with the environment's names of its entries."""
    s = system.settings
    loss = WorldModelLoss(
        system.world_model,
        statistics=system.statistics,
        horizon=s.world_horizon,
        group=system.group,
        **chosen(system, "reward_delta"),
    )
    loss.set_keys(terminated=s.terminated_key, reward=s.reward_key)
    return loss


def chosen(system: GroupSystem, *names: str) -> dict[str, Any]:
    """Some of the settings as keywords."""
    return {name: getattr(system.settings, name) for name in names}
