"""The rewards of some tasks, for imagination that need not learn them.

    python benchmarks/train.py algorithm=moawm_known_rewards task=vmas/navigation --trust-code

Who has written a task knows its rewards; what moves how has to be learned all the same. Each
function returns a module that reads what is seen and what is predicted, and writes the rewards.
"""

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.envs import EnvBase

from oracles.navigation import check_navigation
from oracles.simple_tag import GROUPS, rewards, scale_of

NEAR = 0.2
"""Distance of the centres of two agents of navigation that touch.

VMAS counts a pair up to 0.205 as well, where the same pair is within 0.2 in another environment.
"""
ON_GOAL, FINISHED = 0.1, 0.01


def way_made(now: Tensor, after: Tensor) -> Tensor:
    """Rewards of navigation ``[E, N, 1]``, from what is seen before and after the step.

    The way that all have made towards their goals, 0.01 where all are there, and -1 for each other
    agent that one touches.
    """
    far = [seen[..., 4:6].norm(dim=-1) for seen in (now, after)]
    together = (far[0] - far[1]).sum(-1) + FINISHED * (far[1] < ON_GOAL).all(-1)
    apart = (after[..., None, :, :2] - after[..., :, None, :2]).norm(dim=-1)
    touching = (apart <= NEAR).sum(-1) - 1
    return (together.unsqueeze(-1) - touching).unsqueeze(-1)


def navigation(env: EnvBase) -> TensorDictModule:
    """The rewards of VMAS navigation.

    Raises:
        ValueError: The environment is another.
    """
    check_navigation(env)
    keys = [("agents", "observation"), ("agents", "predicted_observation")]
    return TensorDictModule(way_made, keys, [("agents", "predicted_reward")])


def simple_tag(env: EnvBase) -> TensorDictModule:
    """The rewards of mpe2's simple_tag, in the environment's scale."""
    scale = scale_of(env)

    def scaled(team: Tensor, prey: Tensor) -> tuple[Tensor, ...]:
        place = torch.cat([team[..., 2:4], prey[..., 2:4]], -2)
        return tuple(scale * reward for reward in rewards(place))

    keys = [(group, "predicted_observation") for group in GROUPS]
    return TensorDictModule(scaled, keys, [(group, "predicted_reward") for group in GROUPS])
