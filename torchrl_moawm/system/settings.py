"""Settings of networks and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from tensordict import NestedKey
from torchrl.modules import ValueNorm

from torchrl_moawm._checks.tensors import (
    check_coefficient,
    check_option,
    check_positive,
    check_share,
    check_size,
)

COEFFICIENTS = ("influence_coeff", "curiosity_coeff")
"""Settings that no loss checks when it is made."""


@dataclass(frozen=True)
class NetworkSettings:
    """Settings of the default networks; ``MOAWM.from_env`` takes each of them as a keyword.

    Example:
        >>> NetworkSettings(latent_dim=8).num_cells
        (128, 128)
    """

    latent_dim: int = 16
    """Dimensions of z."""
    num_cells: Sequence[int] = (128, 128)
    """Widths of the hidden layers of actor and critic."""
    model_cells: Sequence[int] = (128, 128)
    """Widths of the hidden layers of the models of others and world; of the former the last one is
    also the size of a hidden state."""
    encoder_cells: Sequence[int] = (128,)
    """Widths of the hidden layers of the encoders of student and teacher; the last one is also the
    size of a hidden state."""
    decoder_cells: Sequence[int] = (64,)
    """Widths of the hidden layers of the decoders of student and teacher."""
    standardize: bool = True
    """Whether the models of others and world read observations, and the world model predicts and is
    judged, in standard deviations (:class:`~torchrl_moawm.modules.GroupStatistics`, which
    ``value_estimator`` updates). Else in the environment's own units."""
    recurrent: bool = False
    """Whether the student and the models of the others have a memory
    (:class:`~torchrl_moawm.modules.AgentGRU`). Minibatches are then sequences ``[*B, T]``."""
    reconstruct: Literal["own", "privileged"] = "own"
    """What the student's decoder reconstructs: the agent's own observation, or the observations and
    actions of the privileged groups, as LIAM does. The encoder sees the same in both."""
    continuation: bool = False
    """Whether the world model predicts that the episode goes on, see ``make_world_model``: for
    environments that terminate."""
    ensemble: int = 1
    """Members of the world model; from two on their ``disagreement`` is logged."""
    joint_world_model: bool = False
    """Whether the world model, at training time only, sees the steps of all agents, see
    ``make_joint_world_model``: for imagination."""
    act_on_predictions: bool = False
    """Whether actor and critic read, beside z, what the models of the others expect them to do, see
    ``PredictedActions``."""
    moa_head: Literal["slots", "pairwise"] = "slots"
    """Head of the models of the others, see ``make_moa_network``."""
    moa_bounded: bool = True
    """Whether the models of the others predict continuous actions of who acts by a ``TanhNormal``
    between the bounds, the actor's own kind, see ``make_moa_network``; else by a Gaussian. Actions
    of privileged groups, which nobody has to squash, are predicted by a Gaussian."""
    shared_value: bool = False
    """Whether the agents of a group have one value in common, see ``make_critic``."""
    initial_scale: float = 1.0
    """Standard deviation of continuous actions before any training, see ``make_actor``."""
    teacher_privileged_only: bool = False
    """Whether the teacher sees the privileged groups alone, see ``make_teacher``."""
    critic_privileged: bool = False
    """Whether the critic, at training time only, reads the observations of the privileged groups
    as well (an asymmetric critic: Pinto et al., 2018)."""

    def __post_init__(self) -> None:
        check_option("reconstruct", self.reconstruct, ("own", "privileged"))
        check_option("moa_head", self.moa_head, ("slots", "pairwise"))
        check_size(latent_dim=self.latent_dim)


@dataclass(frozen=True)
class LossSettings:
    """Settings of the losses of a group; ``MOAWM.from_env`` takes each of them as a keyword.

    Example:
        >>> LossSettings(gamma=0.9).lmbda
        0.95
    """

    gamma: float = 0.99
    """Discount of the reward, per step."""
    lmbda: float = 0.95
    """Decay of the advantage's sum over steps (GAE): 0 trusts the critic, 1 the return."""
    clip_epsilon: float | tuple[float, float] = 0.2
    """Reach of the policy's probability ratio around 1; two numbers for below and above."""
    clip_value: float | None = 0.2
    """Reach of a value around the one it had when collected, in the unit of the return (with a
    ``value_norm`` in that of its standard deviation); ``None`` does not clip."""
    entropy_coeff: float = 0.01
    """Weight of the policy's entropy, ``beta_ent``."""
    critic_coeff: float = 1.0
    """Weight of the value loss, ``c_v``."""
    value_norm: ValueNorm | None = None
    """Normaliser of the returns (TorchRL's); of several groups each gets a copy of its own."""
    moa_coeff: float = 1.0
    """Weight of the model of other agents."""
    obs_coeff: float = 1.0
    """Weight of the world model's observation."""
    reward_coeff: float = 1.0
    """Weight of the world model's reward."""
    continue_coeff: float = 1.0
    """Weight of the world model's continuation, where it predicts one."""
    cvae_coeff: float = 1.0
    """Weight of the student's two terms."""
    student_kl_coeff: float = 1.0
    """Weight of the KL divergence from student to teacher within the student's terms, alpha."""
    student_free_nats: float = 0.0
    """Nats of that divergence, per agent and step, which cost nothing."""
    teacher_kl_coeff: float = 1.0
    """Weight of the KL divergence from teacher to prior within the teacher's loss, beta."""
    reward_delta: float | None = None
    """Where the error of the world model's reward turns from squared to linear (Huber); in standard
    deviations where rewards are standardised. ``None`` squares every error."""
    world_horizon: int = 1
    """Steps over which the world model predicts, fed what it has predicted. Above 1 minibatches
    have to be sequences ``[*B, T]``, as with ``recurrent``; single steps are refused."""
    auxiliary_rows: float = 1.0
    """Share of each minibatch that the models of others and world, student and teacher learn from;
    it has to be shuffled, as in a replay buffer."""
    act_on: Literal["sample", "mean"] = "sample"
    """Whether the actor reads a sample of the student's posterior or its mean. With the mean actor
    and critic read no noise, when exploring too, and V(s_t, z_t) is of the same kind as
    V(s_{t+1}, z_{t+1})."""
    teacher_frames: int = 0
    """Frames over which the teacher acts as well, in a share of the environments that falls from
    all to none: :class:`~torchrl_moawm.modules.ScheduledLatent`. Call ``system.step(frames)`` after
    each batch. 0: the student alone acts."""
    policy_trains_student: bool = False
    """Whether the policy loss encodes z anew, so that its gradient reaches the student."""
    influence_coeff: float = 0.0
    """Weight of the reward for influence on the others, in standard deviations of it, see
    :class:`~torchrl_moawm.transforms.SocialInfluence`; 0 leaves it out."""
    curiosity_coeff: float = 0.0
    """Weight of the reward for what the world model did not expect, see
    :class:`~torchrl_moawm.transforms.Curiosity`; 0 leaves it out."""
    done_key: NestedKey = "done"
    """Entry under ``next`` that says where the return ends; ``from_env`` finds it."""
    terminated_key: NestedKey = "terminated"
    """Entry under ``next`` that is true at a termination, behind which there is no value;
    ``from_env`` finds it."""
    reward_key: NestedKey | None = None
    """Entry under ``next`` with the reward; ``None`` is the group's own. ``from_env`` finds it."""

    def __post_init__(self) -> None:
        check_option("act_on", self.act_on, ("sample", "mean"))
        for name in COEFFICIENTS:
            check_coefficient(name, getattr(self, name))
        check_positive("reward_delta", self.reward_delta)
        for name in ("gamma", "lmbda"):
            check_share(name, getattr(self, name))
        if self.act_on != "mean" and (self.teacher_frames or self.policy_trains_student):
            raise ValueError(
                "teacher_frames and policy_trains_student need act_on='mean': z is encoded again, "
                "and has to be the one that acted."
            )


def split_settings(given: Mapping[str, Any]) -> tuple[NetworkSettings, dict[str, Any]]:
    """The settings of the networks, and those that were given of the losses, checked.

    Raises:
        TypeError: One is unknown; the message lists those there are.
    """
    of_networks, of_losses = ([f.name for f in fields(c)] for c in (NetworkSettings, LossSettings))
    unknown = [name for name in given if name not in (*of_networks, *of_losses)]
    if unknown:
        there = ", ".join((*of_networks, *of_losses))
        raise TypeError(f"Unknown setting {unknown[0]!r}; there are {there}.")
    losses = {name: given[name] for name in given if name in of_losses}
    LossSettings(**losses)
    return NetworkSettings(**{n: given[n] for n in given if n in of_networks}), losses
