"""The world models of a system as an environment, and episodes in it."""

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm._keys import SAMPLES, name_of
from torchrl_moawm.envs import ImaginedEnv, RealStarts
from torchrl_moawm.objectives.imagination import numbered
from torchrl_moawm.system.moawm import MOAWM
from torchrl_moawm.transforms import PreviousStep


def make_imagined_env(
    system: MOAWM,
    env: EnvBase,
    starts: Callable[[int], TensorDictBase] | None,
    num_envs: int,
    max_disagreement: float | None = None,
    rewards: TensorDictModuleBase | None = None,
) -> TransformedEnv:
    """An environment that the world models of a system simulate.

    It has the entries of the real one that a policy reads: the previous step, and the states of the
    system's memories.

    Args:
        system: The system, whose world models read nothing but observations and actions.
        env: The real environment; its specs are read.
        starts: Gives so many states ``[n]`` of real steps, from which episodes begin; ``None``
            where it is stepped from given states alone.
        num_envs: Environments that run side by side.
        max_disagreement: Of the members of an ensemble, in standard deviations of the change where
            there are statistics, beyond which a step is not trusted; ``None`` trusts every step.
        rewards: Where the rewards of the task are known they need not be learned: a module that
            writes ``predicted_reward`` ``[E, N, 1]`` of each group, from entries such as
            ``observation``, ``action`` and ``predicted_observation`` (flat), in the units of the
            environment's rewards. For one world model, not an ensemble. ``None`` takes those that
            the world models predict.

    Returns:
        The environment. It looks at models and statistics as they are at each step.

    Raises:
        ValueError: Rewards are given beside an ensemble, whose members predict their own.
    """
    groups = system.groups.values()
    known = {name_of(g.group): g.statistics for g in groups if g.statistics is not None}
    units = {name: statistics.change_weight for name, statistics in known.items()}
    models = [g.world_model for g in groups]
    if rewards is not None and any("ensemble_reward" in key for m in models for key in m.out_keys):
        raise ValueError("Known rewards stand beside one world model, not beside an ensemble's.")
    model = TensorDictSequential(*models, *([] if rewards is None else [rewards]))
    imagined = ImaginedEnv(model, env, num_envs, max_disagreement=max_disagreement, units=units)
    system.add_memory(transformed := TransformedEnv(imagined, PreviousStep()))
    return transformed if starts is None else transformed.append_transform(RealStarts(starts))


@torch.no_grad()
def imagine(env: EnvBase, policy: TensorDictModuleBase, steps: int) -> TensorDictBase:
    """Episodes that a policy has in an imagined environment, as a collector would give them.

    Args:
        env: Of :func:`make_imagined_env`.
        policy: Acts, exploring.
        steps: In each environment; where an episode ends, another begins.

    Returns:
        The batch ``[E, T]``, with the numbers of its trajectories, ``("collector", "traj_ids")``.
        Steps that are not to be trusted are masked, ``("collector", "mask")``, so that a return
        ends before them, with the value there.
    """
    with set_exploration_type(ExplorationType.RANDOM):
        batch = env.rollout(steps, policy, break_when_any_done=False)
    trusted: Any = ~batch["next", "truncated"].squeeze(-1)
    return numbered(batch).set(SAMPLES, trusted)
