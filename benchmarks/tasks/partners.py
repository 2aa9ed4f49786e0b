"""The tasks of ``study_partners.py``: a world, and two pools of partners for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import TransformedEnv

from tasks.partner_scripts import Dancer, Prey, Walker
from tasks.partner_worlds import TAG_STEPS, make_hidden, make_tag
from torchrl_moawm.envs import with_transforms
from torchrl_moawm.transforms import Partner, PartnerPool


@dataclass(frozen=True)
class Task:
    """A task and its two pools, with no partner in both."""

    n_types: int
    train: tuple[Callable[[TensorDictBase], Tensor], ...]
    held_out: tuple[Callable[[TensorDictBase], Tensor], ...]
    make: Callable[..., TransformedEnv]
    steps: int | None = None
    """Of an episode, where the world has no end of its own."""


TASKS = {
    "rendezvous": Task(
        8,
        (Walker(8), Walker(8, weave=0.4), Walker(8, bend=0.3), Walker(8, bend=-0.3)),
        (Walker(8, weave=-0.4, speed=0.7), Walker(8, bend=0.2, weave=0.2)),
        partial(make_hidden, shown=4),
    ),
    "opposite": Task(
        8,
        (Walker(8), Walker(8, weave=0.3), Walker(8, bend=0.2), Walker(8, bend=-0.2)),
        (Walker(8, weave=-0.3, speed=0.7), Walker(8, bend=0.1, weave=0.15)),
        partial(make_hidden, shown=4, held=14, side=-1.0, clutter=1.0),
    ),
    "dance": Task(
        4,
        (Dancer(4), Dancer(4, phase=0.4), Dancer(4, size=0.7)),
        (Dancer(4, size=0.85, phase=0.2), Dancer(4, phase=-0.3)),
        partial(make_hidden, shown=8, side=-1.0, noise=0.03),
    ),
    "simple_tag": Task(
        4,
        (Prey(4), Prey(4, turn=1.2), Prey(4, turn=2.0), Prey(4, speed=0.8)),
        (Prey(4, turn=1.4, speed=0.9), Prey(4, turn=1.8)),
        make_tag,
        TAG_STEPS,
    ),
}


def make_partner_env(
    name: str, num_envs: int, *, seed: int, pool: str = "train", **world: Any
) -> TransformedEnv:
    """A task's environment with the partners of one of its pools, ``train`` or ``held_out``."""
    task = TASKS[name]
    policies = {"train": task.train, "held_out": task.held_out}[pool]
    partners = [Partner(policy, kind) for policy in policies for kind in range(task.n_types)]
    generator = torch.Generator().manual_seed(seed + 1)
    drawn = PartnerPool(partners, n_types=task.n_types, generator=generator)
    env = task.make(num_envs, seed, **world)
    return with_transforms(env.append_transform(drawn), task.steps)
