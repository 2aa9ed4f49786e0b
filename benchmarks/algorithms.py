"""The algorithms of the benchmark, all in one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import LossModule
from torchrl.objectives.multiagent import MAPPOLoss
from torchrl.objectives.utils import ValueEstimators

from torchrl_moawm import MOAWM, LossSum
from torchrl_moawm.modules import (
    AgentGroup,
    AgentGRU,
    StoredActionLogProb,
    action_settings,
    groups_of,
    make_actor,
    make_critic,
    own_features_first,
)


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
    memories: list[AgentGRU] = field(default_factory=list)
    """Those of no system, whose states an environment has to carry."""
    moa: LossModule | None = None
    """A model of partners that no system here acts for."""


def make_algorithm(config: DictConfig, env: EnvBase) -> Algorithm:
    """The algorithm the configuration names, for the environment.

    Raises:
        ValueError: No algorithm has that name.
    """
    from partner_agents import make_modelling, make_nam

    makers = {"moawm": make_moawm, "mappo": make_mappo}
    makers |= {"nam": make_nam, "modelling": make_modelling}
    if config.algorithm.kind not in makers:
        raise ValueError(f"Unknown algorithm {config.algorithm.kind!r}; there are {list(makers)}.")
    return makers[config.algorithm.kind](config, env)


def make_moawm(config: DictConfig, env: EnvBase) -> Algorithm:
    """The whole framework."""
    task, algorithm = config.task, config.algorithm
    shared = ("gamma", "lmbda", "clip_epsilon", "clip_value", "entropy_coeff", "critic_coeff")
    of_training = ("name", "kind", "control", "sequence_length", "student_lr")
    of_training += ("auxiliary_epochs", "auxiliary_lr")
    own = [key for key in algorithm if key not in of_training]
    system = MOAWM.from_env(
        env,
        num_cells=list(config.num_cells),
        shared_value=task.shared_value,
        **{key: task[key] for key in shared},
        **{key: algorithm[key] for key in own},
    )
    for group, one in system.groups.items():
        if algorithm.control == "zero_latent":  # weights on z = 0 do nothing: leave them out
            one.actor, one.critic = actor_and_critic(config, env, group)
        elif algorithm.control == "frozen_encoder":
            one.student.requires_grad_(False)
    core = {
        group: LossSum({name: one.loss_module[name] for name in ("policy", "value")})
        for group, one in system.groups.items()
    }
    return Algorithm(
        policy=system.policy,
        loss_module=system.loss_module,
        core=one_or_sum(core),
        advantage=system.value_estimator,
        networks=system.networks,
        system=system,
    )


def make_mappo(config: DictConfig, env: EnvBase) -> Algorithm:
    """TorchRL's MAPPO with the networks of ``moawm``, without a latent, for each group."""
    losses = {group: mappo_loss(config, env, group) for group in groups_of(env)}
    log_probs = {
        group: StoredActionLogProb(
            loss.actor_network, (group, "action"), (group, "action_log_prob")
        )
        for group, loss in losses.items()
    }

    def advantage(batch: TensorDictBase) -> TensorDictBase:
        for loss in losses.values():
            loss.value_estimator(batch)
        return batch

    networks = {
        f"{name}{f'_{group}' if len(losses) > 1 else ''}": getattr(loss, f"{name}_network")
        for group, loss in losses.items()
        for name in ("actor", "critic")
    }
    loss = one_or_sum(losses)
    policy = [x for group, loss in losses.items() for x in (loss.actor_network, log_probs[group])]
    return Algorithm(TensorDictSequential(*policy), loss, loss, advantage, networks)


def one_or_sum(losses: Mapping[str, LossModule]) -> LossModule:
    """The loss of the only group, or the sum over groups."""
    return LossSum(losses) if len(losses) > 1 else next(iter(losses.values()))


class Everybody(nn.Module):
    """What all agents of a group see, each with its own first."""

    def forward(self, observation: Tensor) -> Tensor:
        """``[*B, N, D]`` -> ``[*B, N, N D]``."""
        return own_features_first(observation)


def actor_and_critic(
    config: DictConfig, env: EnvBase, group: str
) -> tuple[ProbabilisticActor, TensorDictModule]:
    """The networks of ``moawm`` that act and value, without a latent.

    With ``algorithm.oracle`` the actor reads the observations of its whole group.
    """
    own, cells = AgentGroup.from_env(env, group), list(config.num_cells)
    oracle = config.algorithm.get("oracle", False)
    reader = replace(own, obs_dim=own.n_agents * own.n_features) if oracle else own
    actor = make_actor(reader, **action_settings(env, group), num_cells=cells)
    if oracle:
        actor[0].module.eye = Everybody()
    others = [AgentGroup.from_env(env, other) for other in groups_of(env) if other != group]
    critic = make_critic(
        own, other_groups=others, shared_value=config.task.shared_value, num_cells=cells
    )
    return actor.to(env.device), critic.to(env.device)


def mappo_loss(config: DictConfig, env: EnvBase, group: str) -> MAPPOLoss:
    """TorchRL's loss with an actor and a centralised critic for one group."""
    task = config.task
    actor, critic = actor_and_critic(config, env, group)
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
    if (group, "done") in env.done_keys:  # each agent ends by itself
        loss.set_keys(done=(group, "done"), terminated=(group, "terminated"))
    loss.make_value_estimator(ValueEstimators.MAGAE, gamma=task.gamma, lmbda=task.lmbda)
    # TorchRL names what GAE reads, but not the advantage, which it computes again without a word
    # where that is missing: on shuffled minibatches, as if these were time
    read = (*actor.in_keys, *critic.in_keys)
    names = ("action", "action_log_prob", "advantage", "value_target", "state_value")
    keys = [*read, *((group, name) for name in names), ("next", "done")]  # ReplayBufferTrainer's
    loss.in_keys = list(dict.fromkeys(keys))
    return loss
