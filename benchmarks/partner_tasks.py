"""The tasks of ``partners.py``: a world, and two pools of partners for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from figures import first_return
from partner_scripts import Dancer, Prey, Walker
from partner_worlds import TAG_STEPS, make_hidden, make_tag
from tensordict import TensorDictBase
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import ExplorationType
from torchrl.trainers import TrainerHookBase

from torchrl_moawm.envs import with_transforms
from torchrl_moawm.transforms import Partner, PartnerPool


@dataclass(frozen=True)
class Task:
    """A task and its two pools, with no partner in both."""

    n_types: int
    train: tuple
    held_out: tuple
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


class HeldOut(TrainerHookBase):
    """While training: returns of the deterministic policy with both pools, every few batches."""

    def __init__(
        self, config: Any, algorithm: Any, make_env: Callable[..., Any], play: Callable[..., Any]
    ) -> None:
        self.config, self.algorithm, self.play = config, algorithm, play
        seed, n = config.seed + 3_000_000, config.task.evaluation_envs
        self.envs = {pool: make_env(config, n, seed, pool=pool) for pool in ("train", "held_out")}
        self.batches, self.taken = 0, True

    def figures(self) -> dict[str, float]:
        """``return_train`` and ``return_held_out`` of one episode in every environment."""
        played = {
            pool: self.play(self.config, self.algorithm, env, ExplorationType.DETERMINISTIC)
            for pool, env in self.envs.items()
        }
        return {f"return_{p}": first_return(b)["evaluation_return"] for p, b in played.items()}

    def __call__(self, _: TensorDictBase) -> dict[str, float] | None:
        """Figures before the batch is learned from, or nothing."""
        self.taken = self.batches % self.config.task.evaluate_every == 0
        self.batches += 1
        return self.figures() if self.taken else None

    def at_the_end(self) -> dict[str, float]:
        """Figures of the trained team, unless the last batch had some: so that the curves end."""
        return {} if self.taken else self.figures()
