"""Everything assembled for one environment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.data import Bounded, Categorical, OneHot, TensorSpec
from torchrl.envs import EnvBase
from torchrl.modules import ValueNorm

from torchrl_moawm.modules import (
    FreshLogProb,
    make_actor,
    make_critic,
    make_moa_network,
    make_student,
    make_teacher,
    make_world_model,
)
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
from torchrl_moawm.objectives.cvae import split_at

PARTS = ("actor", "critic", "moa_network", "world_model", "student", "teacher")


class MOAWM:
    """The whole framework for one group of agents: networks, policy and losses.

    ``L_total = L_policy + c_v L_value + L_WM + L_vae``, with
    ``L_WM = l_moa L_moa + l_obs L_obs + l_reward L_reward + l_cvae (L_rec + alpha L_KL)``.

    Each part may be replaced by your own module before ``policy`` or ``loss_module`` is first used:
    ``system.moa_network = mine``.

    Attributes:
        actor: ``pi(a_t | o_t, z_t)``.
        critic: ``V(s_t, z_t)``, centralised.
        moa_network: The model of the other agents.
        world_model: Next observation and reward.
        student: Encoder, sampler and decoder of z.
        teacher: The same, seeing everybody.
        policy: For a collector: encoder, sampler, actor; writes z, action and log-probability.
        loss_module: The :class:`LossSum` a TorchRL ``Trainer`` takes; its losses by name are
            ``policy``, ``value``, ``moawm`` (with ``moa``, ``world_model``, ``cvae``) and
            ``teacher``.

    Example:
        >>> import torch
        >>> from torchrl.envs.utils import ExplorationType, set_exploration_type
        >>> from torchrl_moawm.envs import make_vmas_env
        >>> env = make_vmas_env("navigation", num_envs=2, max_steps=5, seed=0)
        >>> system = MOAWM.from_env(env, num_cells=(32,))
        >>> with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        ...     batch = env.rollout(5, system.policy)
        >>> _ = system.loss_module["value"].value_estimator(batch)
        >>> sum(term.startswith("loss") for term in system.loss_module(batch).keys())
        10
    """

    def __init__(
        self,
        *,
        actor: TensorDictModuleBase,
        critic: TensorDictModuleBase,
        moa_network: TensorDictModuleBase,
        world_model: TensorDictModuleBase,
        student: TensorDictModuleBase,
        teacher: TensorDictModuleBase,
        group: str = "agents",
        gamma: float = 0.99,
        lmbda: float = 0.95,
        clip_epsilon: float = 0.2,
        clip_value: float | None = 0.2,
        entropy_coeff: float = 0.01,
        critic_coeff: float = 1.0,
        value_norm: ValueNorm | None = None,
        moa_coeff: float = 1.0,
        obs_coeff: float = 1.0,
        reward_coeff: float = 1.0,
        cvae_coeff: float = 1.0,
        student_kl_coeff: float = 1.0,
        teacher_kl_coeff: float = 1.0,
        done_key: Any = "done",
        terminated_key: Any = "terminated",
    ) -> None:
        self.group = group
        self.actor = actor
        self.critic = critic
        self.moa_network = moa_network
        self.world_model = world_model
        self.student = student
        self.teacher = teacher
        self._gae: dict[str, Any] = {"gamma": gamma, "lmbda": lmbda}
        self._policy: dict[str, Any] = {
            "clip_epsilon": clip_epsilon,
            "entropy_coeff": entropy_coeff,
        }
        self._value: dict[str, Any] = {
            "clip_value": clip_value,
            "critic_coeff": critic_coeff,
            "value_norm": value_norm,
        }
        self._value_keys: dict[str, Any] = {"done": done_key, "terminated": terminated_key}
        self._moawm: dict[str, Any] = {
            "moa_coeff": moa_coeff,
            "obs_coeff": obs_coeff,
            "reward_coeff": reward_coeff,
            "cvae_coeff": cvae_coeff,
        }
        self._alpha = student_kl_coeff
        self._beta = teacher_kl_coeff

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PARTS and {"policy", "loss_module"} & self.__dict__.keys():
            raise RuntimeError(f"Replace {name} before policy or loss_module is first used.")
        super().__setattr__(name, value)

    @classmethod
    def from_env(
        cls,
        env: EnvBase,
        *,
        group: str | None = None,
        latent_dim: int = 16,
        num_cells: Sequence[int] = (128, 128),
        **settings: Any,
    ) -> MOAWM:
        """Builds networks and losses from the specs of an environment.

        Args:
            env: An environment with ``PreviousStep``, as ``make_vmas_env`` gives.

        Keyword Args:
            group: The agents; ``None`` where the environment has one group.
            latent_dim: Dimensions of z.
            num_cells: Widths of the hidden layers of every network.
            **settings: Coefficients of the losses, as the constructor names them.

        Returns:
            The system, on the environment's device.

        Raises:
            ValueError: The group is unknown (or one must be named), the environment lacks
                ``PreviousStep``, or an observation or action is of a kind the default networks
                cannot read.
        """
        group = _only_group(env, group)
        common: dict[str, Any] = {"group": group, "num_cells": num_cells}
        for_actor = actor_sizes(env, group)
        n_agents = for_actor.pop("n_agents")
        shared = ("obs_dim", "action_dim", "n_actions")
        everybody = {"n_agents": n_agents, **{key: for_actor[key] for key in shared}, **common}
        parts = {
            "actor": make_actor(latent_dim=latent_dim, **for_actor, **common),
            "critic": make_critic(
                n_agents=n_agents, obs_dim=for_actor["obs_dim"], latent_dim=latent_dim, **common
            ),
            "moa_network": make_moa_network(**everybody),
            "world_model": make_world_model(**everybody),
            "student": make_student(latent_dim=latent_dim, **everybody),
            "teacher": make_teacher(latent_dim=latent_dim, **everybody),
        }
        parts = {name: part.to(env.device) for name, part in parts.items()}
        if (group, "done") in env.done_keys:  # each agent ends by itself
            settings = {
                "done_key": (group, "done"),
                "terminated_key": (group, "terminated"),
                **settings,
            }
        return cls(**parts, group=group, **settings)

    @cached_property
    def policy(self) -> TensorDictSequential:
        """Encoder, sampler, actor; deterministic under deterministic exploration."""
        encoder = split_at(self.student, (self.group, "latent"))[0]
        log_prob = FreshLogProb(self.actor, (self.group, "action"), (self.group, "action_log_prob"))
        return TensorDictSequential(*encoder, self.actor, log_prob)

    @cached_property
    def loss_module(self) -> LossSum:
        """Every loss, weighted, sharing the networks."""
        group: dict[str, Any] = {"group": self.group}
        encoder = split_at(self.student, (self.group, "latent_loc"))[0]
        value = ClipPPOValueLoss(
            self.critic, latent_network=TensorDictSequential(*encoder), **self._value, **group
        )
        value.set_keys(**self._value_keys)
        value.make_value_estimator(**self._gae)
        return LossSum(
            {
                "policy": ClipPPOPolicyLoss(self.actor, **self._policy, **group),
                "value": value,
                "moawm": MOAWMLoss(
                    MOALoss(self.moa_network, **group),
                    WorldModelLoss(self.world_model, **group),
                    TeacherCVAELoss(self.student, self.teacher, kl_coeff=self._alpha, **group),
                    **self._moawm,
                ),
                "teacher": TeacherVAELoss(self.teacher, kl_coeff=self._beta, **group),
            }
        )


def _only_group(env: EnvBase, group: str | None) -> str:
    groups = list(dict.fromkeys(key[0] for key in env.action_keys))
    if group is None and len(groups) > 1:
        raise ValueError(f"The environment has the groups {groups}: name one with group=.")
    if group is not None and group not in groups:
        raise ValueError(f"Unknown group {group!r}; the environment has {groups}.")
    return groups[0] if group is None else group


def actor_sizes(env: EnvBase, group: str) -> dict[str, Any]:
    """What the specs of a group say about its networks.

    Args:
        env: An environment with ``PreviousStep``.
        group: The agents.

    Returns:
        ``n_agents``, and what ``make_actor`` needs: ``obs_dim``, ``action_dim``, ``n_actions``,
        ``one_hot``, ``low`` and ``high``.

    Raises:
        ValueError: The environment lacks ``PreviousStep``, or an observation or action is of a kind
            the default networks cannot read.
    """
    if (group, "previous_observation") not in env.full_observation_spec.keys(True, True):
        raise ValueError(
            f"The environment writes no {(group, 'previous_observation')}: append PreviousStep() "
            "to it, or make it with make_vmas_env()."
        )
    observation = env.full_observation_spec[group, "observation"]
    n_agents, *features = observation.shape[len(env.batch_size) :]
    if len(features) != 1:
        raise ValueError(
            f"The default networks read flat observations; {group!r} has {list(features)}. "
            "Flatten them with a transform, or bring your own networks."
        )
    if (group, "action_mask") in env.full_observation_spec.keys(True, True):
        raise ValueError(
            f"The default actor does not read action masks, and {group!r} has one: build the parts "
            "by hand, with an actor of MaskedCategorical."
        )
    action = _action_sizes(env.full_action_spec[group, "action"], group)
    return {"n_agents": n_agents, "obs_dim": features[0], **action}


def _action_sizes(spec: TensorSpec, group: str) -> dict[str, Any]:
    if isinstance(spec, (OneHot, Categorical)):
        n = int(spec.space.n)
        one_hot = isinstance(spec, OneHot)
        return {"action_dim": n, "n_actions": n, "one_hot": one_hot, "low": -1.0, "high": 1.0}
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point:
        low, high = spec.space.low, spec.space.high
        while low.ndim > 2:  # the same in every environment
            low, high = low[0], high[0]
        if (low == -1).all() and (high == 1).all():
            low, high = -1.0, 1.0
        size = spec.shape[-1]
        return {"action_dim": size, "n_actions": None, "one_hot": False, "low": low, "high": high}
    raise ValueError(
        f"The default networks serve continuous (bounded), categorical and one-hot actions; "
        f"{group!r} has {type(spec).__name__}."
    )
