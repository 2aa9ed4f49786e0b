"""The form of every algorithm, and the networks that they share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from omegaconf import DictConfig
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import LossModule

from torchrl_moawm import MOAWM, LossSum
from torchrl_moawm.modules import (
    AgentGroup,
    AgentGRU,
    ScheduledLatent,
    action_settings,
    groups_of,
    make_actor,
    make_critic,
    own_features_first,
)


@dataclass
class Algorithm:
    """An algorithm as the training loop sees it."""

    policy: TensorDictModuleBase
    """Acts; goes to the collector."""
    loss_module: LossModule
    """Everything that is minimised."""
    core: LossModule
    """The part that is minimised in every epoch."""
    advantage: Callable[[TensorDictBase], TensorDictBase]
    """Writes advantage and value target, once per collected batch."""
    networks: dict[str, nn.Module]
    """By name; the gradient of each is clipped by itself. One whose name begins with ``moa``,
    ``world_model``, ``student`` or ``teacher`` has the learning rate ``algorithm.<that>_lr``, where
    there is one, and the others ``lr``."""
    auxiliary: dict[str, tuple[LossModule, int]] = field(default_factory=dict)
    """Other parts by name, each with the number of epochs of a batch in which it is minimised."""
    models: LossModule | None = None
    """What is minimised alone when the team has learned, in ``algorithm.model_steps`` steps."""
    system: MOAWM | None = None
    """Where there are models of others and world to be judged."""
    scheduled: list[ScheduledLatent] = field(default_factory=list)
    """Latent schedules, which are told how many frames were collected."""
    memories: list[AgentGRU] = field(default_factory=list)
    """Recurrent modules whose states an environment has to carry."""
    moa: LossModule | None = None
    """A model of partners that no system here acts for."""
    encode_latent: Callable[[TensorDictBase], TensorDictBase] | None = None
    """Writes z anew when the epochs of the part ``latent`` are over: what is then learned from."""


def one_or_sum(losses: Mapping[str, LossModule]) -> LossModule:
    """The loss of the only group, or the sum over groups."""
    return LossSum(losses) if len(losses) > 1 else next(iter(losses.values()))


class Everybody(nn.Module):
    """Joins the observations of a group, each agent's own first."""

    def forward(self, observation: Tensor) -> Tensor:
        """``[*B, N, D]`` -> ``[*B, N, N D]``."""
        return own_features_first(observation)


def actor_and_critic(
    config: DictConfig, env: EnvBase, group: NestedKey
) -> tuple[ProbabilisticActor, TensorDictModule]:
    """The networks of ``moawm`` that act and value, without a latent.

    With ``algorithm.oracle`` the actor reads the observations of its whole group.
    """
    own, cells = AgentGroup.from_env(env, group), list(config.num_cells)
    oracle = config.algorithm.get("oracle", False)
    reader = replace(own, obs_dim=own.n_agents * own.n_features) if oracle else own
    settings = {**action_settings(env, group), "initial_scale": config.task.initial_scale}
    actor = make_actor(reader, **settings, num_cells=cells)
    if oracle:
        actor[0].module.eye = Everybody()
    others = [AgentGroup.from_env(env, other) for other in groups_of(env) if other != group]
    critic = make_critic(
        own, other_groups=others, shared_value=config.task.shared_value, num_cells=cells
    )
    return actor.to(env.device), critic.to(env.device)
