"""The simulator of mpe2's simple_tag in the place of the world model.

mpe2 steps one world at a time, some hundred times a second; this is its step for many at once.
"""

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.envs import EnvBase, RewardScaling, TransformedEnv

from torchrl_moawm import MOAWM
from torchrl_moawm.envs import ImaginedEnv, RealStarts
from torchrl_moawm.transforms import PreviousStep

GROUPS = "adversary", "agent"
ADVERSARIES, OBSTACLES = 3, 2
STEP, DAMPING = 0.1, 0.25
CONTACT_FORCE, CONTACT_MARGIN = 100.0, 1e-3
SIZE = torch.tensor([0.075] * ADVERSARIES + [0.05] + [0.2] * OBSTACLES)
ACCELERATION = torch.tensor([3.0] * ADVERSARIES + [4.0]).unsqueeze(-1)
FASTEST = torch.tensor([1.0] * ADVERSARIES + [1.3]).unsqueeze(-1)
MOVES = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
TOUCH = 10.0


class SimpleTag(nn.Module):
    """One step of the world, read out of observations, which have all that there is to know of it.

    Bodies are the adversaries, the prey and the obstacles, in this order.

    Args:
        reward_scale: What the environment's rewards are multiplied by.
    """

    in_keys = [(group, name) for group in GROUPS for name in ("observation", "action")]
    out_keys = [
        (group, f"predicted_{name}") for group in GROUPS for name in ("observation", "reward")
    ]

    def __init__(self, reward_scale: float = 1.0) -> None:
        super().__init__()
        self.reward_scale = reward_scale

    def forward(
        self, adversary: Tensor, adversary_action: Tensor, agent: Tensor, agent_action: Tensor
    ) -> tuple[Tensor, ...]:
        """Observations ``[E, 3, 16]`` and ``[E, 1, 14]``, actions ``[E, N]``, as ``out_keys``."""
        speed, place, *_ = torch.cat([adversary[..., :4], agent[..., :4]], -2).split(2, -1)
        obstacles = agent[..., 0, 4:8].unflatten(-1, (-1, 2)) + agent[..., 2:4]
        push = MOVES[torch.cat([adversary_action, agent_action], -1)] * ACCELERATION
        push = push + contact(torch.cat([place, obstacles], -2))[..., :4, :]
        place = place + speed * STEP
        speed = speed * (1 - DAMPING) + push * STEP
        size = speed.norm(dim=-1, keepdim=True)
        speed = torch.where(size > FASTEST, speed / size * FASTEST, speed)
        seen = [ways(place, speed, obstacles, i) for i in range(ADVERSARIES + 1)]
        team = [torch.cat([each, speed[..., ADVERSARIES, :]], -1) for each in seen[:ADVERSARIES]]
        earned, lost = (self.reward_scale * reward for reward in rewards(place))
        return torch.stack(team, -2), earned, seen[ADVERSARIES].unsqueeze(-2), lost


def rewards(place: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards of adversaries ``[E, 3, 1]`` and prey ``[E, 1, 1]``, of where they are ``[E, 4, 2]``.

    The adversaries earn each touch together; the prey loses by touches, and by leaving the field.
    """
    touched = TOUCH * touches(place).sum(-1)
    out = place[..., ADVERSARIES, :].abs()
    beyond = ((out - 0.9) * 10).where(out < 1.0, (2 * out - 2).exp().clamp(max=10.0))
    lost = touched + beyond.where(out >= 0.9, 0.0).sum(-1)
    return touched[..., None, None].repeat_interleave(ADVERSARIES, -2), -lost[..., None, None]


def ways(place: Tensor, speed: Tensor, obstacles: Tensor, index: int) -> Tensor:
    """Own velocity and position, and the ways to the obstacles and to the others, ``[E, 14]``."""
    own = place[..., index : index + 1, :]
    others = torch.cat([place[..., :index, :], place[..., index + 1 :, :]], -2)
    seen = [speed[..., index : index + 1, :], own, obstacles - own, others - own]
    return torch.cat(seen, -2).flatten(-2)


def touches(place: Tensor) -> Tensor:
    """Whether each adversary touches the prey, ``[E, 3]``."""
    far = (place[..., :ADVERSARIES, :] - place[..., ADVERSARIES:, :]).norm(dim=-1)
    return far < SIZE[0] + SIZE[ADVERSARIES]


def contact(place: Tensor) -> Tensor:
    """The force on each body by those that it meets, ``[E, bodies, 2]``."""
    ways = place.unsqueeze(-2) - place.unsqueeze(-3)
    eye = torch.eye(len(SIZE), dtype=torch.bool)
    far = ways.norm(dim=-1).masked_fill(eye, 1.0)
    meet = SIZE.unsqueeze(-1) + SIZE
    depth = nn.functional.softplus((meet - far) / CONTACT_MARGIN) * CONTACT_MARGIN
    force = CONTACT_FORCE * ways / far.unsqueeze(-1) * depth.unsqueeze(-1)
    return force.masked_fill(eye.unsqueeze(-1), 0.0).sum(-2)


def scale_of(env: EnvBase) -> float:
    """What an environment's rewards are multiplied by."""
    scales = [float(t.scale) for t in env.transform if isinstance(t, RewardScaling)]
    return scales[0] if scales else 1.0


def simple_tag(
    system: MOAWM,
    env: EnvBase,
    starts: Callable[[int], TensorDictBase],
    num_envs: int,
    max_disagreement: float | None = None,
) -> TransformedEnv:
    """mpe2's simple_tag itself, as ``make_imagined_env`` gives what the world models know of it."""
    net = SimpleTag(scale_of(env))
    model = TensorDictModule(net, net.in_keys, net.out_keys)
    system.add_memory(world := TransformedEnv(ImaginedEnv(model, env, num_envs), PreviousStep()))
    return world.append_transform(RealStarts(starts))
