"""The algorithms of the benchmark, all in one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule
from torchrl.objectives.multiagent import MAPPOLoss
from torchrl.objectives.utils import ValueEstimators

from torchrl_moawm import MOAWM, LossSum
from torchrl_moawm.modules import FreshLogProb, make_actor, make_critic
from torchrl_moawm.system import actor_sizes


@dataclass
class Algorithm:
    """What the training loop needs to know of an algorithm."""

    policy: TensorDictModuleBase
    """Acts; goes to the collector."""
    loss_module: LossModule
    """Everything that is minimised."""
    core: LossModule
    """The part that is minimised in every epoch."""
    advantage: Callable[[TensorDictBase], TensorDictBase]
    """Writes advantage and value target, once per collected batch."""
    networks: dict[str, nn.Module]
    """By name; the gradient of each is clipped by itself."""
    system: MOAWM | None = None
    """Where there are models of others and world to be judged."""


def make_algorithm(config: DictConfig, env: EnvBase) -> Algorithm:
    """The algorithm the configuration names, for the environment.

    Raises:
        ValueError: No algorithm has that name.
    """
    makers = {"moawm": make_moawm, "mappo": make_mappo}
    if config.algorithm.name not in makers:
        raise ValueError(f"Unknown algorithm {config.algorithm.name!r}; there are {list(makers)}.")
    return makers[config.algorithm.name](config, env)


def make_moawm(config: DictConfig, env: EnvBase) -> Algorithm:
    """The whole framework."""
    task, algorithm = config.task, config.algorithm
    shared = ("gamma", "lmbda", "clip_epsilon", "clip_value", "entropy_coeff", "critic_coeff")
    own = [key for key in algorithm if key not in ("name", "auxiliary_epochs", "auxiliary_lr")]
    system = MOAWM.from_env(
        env,
        num_cells=list(config.num_cells),
        **{key: task[key] for key in shared},
        **{key: algorithm[key] for key in own},
    )
    losses = system.loss_module
    names = ("actor", "critic", "moa_network", "world_model", "student", "teacher")
    return Algorithm(
        policy=system.policy,
        loss_module=losses,
        core=LossSum({"policy": losses["policy"], "value": losses["value"]}),
        advantage=losses["value"].value_estimator,
        networks={name: getattr(system, name) for name in names},
        system=system,
    )


def make_mappo(config: DictConfig, env: EnvBase) -> Algorithm:
    """TorchRL's MAPPO with the networks of ``moawm``, without a latent."""
    task = config.task
    (group,) = env.group_map
    sizes = actor_sizes(env, group)
    n_agents = sizes.pop("n_agents")
    common = {"group": group, "num_cells": list(config.num_cells)}
    actor = make_actor(**sizes, **common).to(env.device)
    critic = make_critic(n_agents=n_agents, obs_dim=sizes["obs_dim"], **common).to(env.device)
    loss = MAPPOLoss(
        actor,
        critic,
        functional=False,
        clip_epsilon=task.clip_epsilon,
        clip_value=task.clip_value,
        entropy_coeff=task.entropy_coeff,
        critic_coeff=task.critic_coeff,
        loss_critic_type="l2",
    )
    loss.set_keys(
        action=(group, "action"),
        sample_log_prob=(group, "action_log_prob"),
        value=(group, "state_value"),
        reward=(group, "reward"),
        advantage=(group, "advantage"),
        value_target=(group, "value_target"),
    )
    loss.make_value_estimator(ValueEstimators.MAGAE, gamma=task.gamma, lmbda=task.lmbda)
    log_prob = FreshLogProb(actor, (group, "action"), (group, "action_log_prob"))
    return Algorithm(
        policy=TensorDictSequential(actor, log_prob),
        loss_module=loss,
        core=loss,
        advantage=loss.value_estimator,
        networks={"actor": actor, "critic": critic},
    )
