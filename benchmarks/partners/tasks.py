"""The tasks of ``study_partners.py``: a world, and two pools of partners for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import Transform, TransformedEnv

from partners.foraging_scripts import KINDS, Forager
from partners.own_coordinates import make_foraging, told_by_foragers
from partners.scripts import Dancer, Walker
from partners.tag import N_HIDEOUTS, TAG_STEPS, Hunter, Prey, make_prey, make_tag
from partners.trained_prey import TrainedPrey
from partners.worlds import STEPS, make_hidden
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
    seen: tuple[int, ...] | None = None
    """Types of the training pool, and of the held-out one; ``None`` is all of them."""
    sampled: bool = False
    """Whether agents are judged by actions drawn from their policy. On a grid they are: there two
    deterministic learners that want the same cell wait for each other until the episode ends."""
    told: Callable[[], Transform] | None = None
    """Makes the units of what is told of the partners' view; they play by the world's own."""


def foraging(size: int, **world: Any) -> Task:
    """Foraging: partners of six kinds in training, the other four are the pool ``unseen``."""
    return Task(
        len(KINDS),
        (Forager(size), Forager(size, rest=0.2), Forager(size, stray=0.1)),
        (Forager(size, rest=0.1, stray=0.1), Forager(size, rest=0.3)),
        partial(make_foraging, size=size, **world),
        seen=tuple(range(6)),
        sampled=True,
        told=partial(told_by_foragers, size, len(KINDS)),
    )


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
        N_HIDEOUTS,
        (Prey(), Prey(turn=1.2), Prey(turn=2.0), Prey(speed=0.8)),
        (Prey(turn=1.4, speed=0.9), Prey(turn=1.8)),
        make_tag,
        TAG_STEPS,
    ),
    "trained_prey": Task(
        N_HIDEOUTS,
        tuple(TrainedPrey(index) for index in range(4)),
        (TrainedPrey(4), TrainedPrey(5)),
        make_tag,
        TAG_STEPS,
    ),
    "prey": Task(1, (Hunter(), Hunter(0.5), Hunter(0.0)), (Hunter(0.8),), make_prey, TAG_STEPS),
    "foraging": foraging(7),
    "foraging_12": foraging(12, n_food=5),
    "foraging_fog": foraging(7, n_food=5, steps=20, strong_partner=True, shown=4),
    "foraging_fog_12": foraging(12, n_food=5, strong_partner=True, shown=6),
}
TASKS["rendezvous_unseen"] = replace(TASKS["rendezvous"], seen=(0, 1, 3, 4, 5, 7))
"""Partners never go to two of the eight sites in training; those are the pool ``unseen``."""


def pools_of(name: str) -> tuple[str, ...]:
    """The pools of partners of a task."""
    return ("train", "held_out", "switching", *(() if TASKS[name].seen is None else ("unseen",)))


def make_partner_env(
    name: str, num_envs: int, *, seed: int, pool: str = "train", **world: Any
) -> TransformedEnv:
    """A task's environment with the partners of one of its pools.

    ``train``, or ``held_out`` with the same types in other manners; ``switching``, the same
    partners, of whom one in 24 steps is replaced; ``unseen``, where training does not
    have all types, has the others in the manners of ``held_out``.
    """
    task = TASKS[name]
    policies = task.train if pool == "train" else task.held_out
    seen = range(task.n_types) if task.seen is None else task.seen
    kinds = [k for k in range(task.n_types) if (k in seen) != (pool == "unseen")]
    partners = [Partner(policy, kind) for policy in policies for kind in kinds]
    generator = torch.Generator().manual_seed(seed + 1)
    env = task.make(num_envs, seed, **world)
    switches = 1.0 / STEPS if pool == "switching" else 0.0
    drawn = PartnerPool(
        partners, n_types=task.n_types, switch_probability=switches, generator=generator
    )
    env = env.append_transform(drawn)
    env = env if task.told is None else env.append_transform(task.told())
    return with_transforms(env, task.steps)


def make_partners(config: DictConfig, num_envs: int, seed: int, **settings: Any) -> TransformedEnv:
    """The environment of a configuration's task."""
    task = config.task
    return make_partner_env(task.scenario, num_envs, seed=seed, **task.scenario_kwargs, **settings)


def check_partners(scenario: str) -> None:
    """The scenario is one of these tasks.

    Raises:
        ValueError: There is no such one.
    """
    if scenario not in TASKS:
        raise ValueError(f"No such task {scenario!r}; there are {list(TASKS)}.")
