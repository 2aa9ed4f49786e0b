"""The simulator of navigation in the place of the world model: imagination with a perfect one."""

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, TransformedEnv

from torchrl_moawm import MOAWM
from torchrl_moawm.envs import RealStarts, make_vmas_env

SEED = 7_000_000


def check_navigation(env: EnvBase) -> None:
    """Refuses what is known of VMAS navigation for another environment.

    Raises:
        ValueError: It is another.
    """
    scenario = getattr(env, "scenario_name", type(env).__name__)
    if scenario != "navigation":
        raise ValueError(
            f"This is of VMAS navigation, not of {scenario}: set algorithm.imagination.rewards, or "
            "its model, to a function of yours."
        )


class NavigationStarts(RealStarts):
    """Begins episodes of the simulator where real ones have been.

    An observation of navigation has all that there is to know of the world: every agent's position,
    velocity and way from its goal.
    """

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        out = super()._reset(tensordict, tensordict_reset)
        world = self.parent.base_env._env
        begins = None if tensordict is None else tensordict.get("_reset", None)
        if begins is None:
            begins = torch.ones(out.numel(), 1, dtype=torch.bool, device=out.device)
        for index, agent in enumerate(world.agents):
            place, speed, way = out["agents", "observation"][:, index, :6].split(2, -1)
            for body, kind, value in (
                (agent, "pos", place),
                (agent, "vel", speed),
                (agent.goal, "pos", place - way),
            ):
                setattr(body.state, kind, value.where(begins, getattr(body.state, kind)))
            left = way.norm(dim=-1) * world.scenario.pos_shaping_factor
            agent.pos_shaping = left.where(begins.squeeze(-1), agent.pos_shaping)
        return out


def navigation(
    system: MOAWM,
    env: EnvBase,
    starts: Callable[[int], TensorDictBase],
    num_envs: int,
    max_disagreement: float | None = None,
) -> TransformedEnv:
    """VMAS navigation itself, as ``make_imagined_env`` gives what the world models know of it.

    Raises:
        ValueError: The environment is another.
    """
    check_navigation(env)
    n_agents = env.observation_spec["agents", "observation"].shape[-2]
    world = make_vmas_env("navigation", num_envs, seed=SEED, n_agents=n_agents, device=env.device)
    system.add_memory(world)
    return world.append_transform(NavigationStarts(starts))
