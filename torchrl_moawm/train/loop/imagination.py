"""Learning in imagination: PPO on what the world models say would happen."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.trainers import Trainer, TrainerHookBase

from torchrl_moawm import LossSum
from torchrl_moawm.system import imagine, make_imagined_env
from torchrl_moawm.system.rewards import estimate
from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.checkpoints.run_state import plain, unplain
from torchrl_moawm.train.loop.buffer import make_buffer, rows
from torchrl_moawm.train.settings.own_code import find

JUDGED = 3
"""Batches on whose median skill it depends whether the world is known."""
MEMORY = 0.8
"""What the returns before weigh in the mean that has to rise."""
RISE = 0.02
"""What counts as a rise, as a share of all that the mean has risen."""
LEAST = 0.2
"""Share below which nothing more is imagined."""


@dataclass
class Taper:
    """Schedule of the imagined share: none until the model is good, then all, then ever less.

    It begins when the reward is predicted on a batch that has not been learned from, for every
    group; where rewards are known, when what is seen is predicted. The share is halved when the
    mean real return has not risen for some batches, and falls to nothing at last: what a model does
    not know, a policy learns to exploit.
    """

    from_skill: float
    """The skill from which on."""
    patience: int
    """Batches without a new best mean return, after which the share is halved."""
    judged: str = "reward_skill"
    """The figure that is the skill."""
    share: float = 0.0
    skills: list[float] = field(default_factory=list)
    ended: bool = False
    mean: float | None = None
    first: float = float("inf")
    best: float = -float("inf")
    waited: int = 0

    def _says(self, figure: str) -> bool:
        """Whether a figure is the skill of a group; that of a block of its observation is not."""
        return figure.startswith(self.judged) and "/" not in figure

    def see(self, figures: Mapping[str, float]) -> None:
        """Takes the figures of a real batch, from before it is learned from."""
        skills = [value for name, value in figures.items() if self._says(name)]
        # of a small batch they are far off now and then: the median is not; of one without a reward
        # they are NaN, and say nothing
        if skills and not any(map(math.isnan, skills)):
            self.skills = [*self.skills, min(skills)][-JUDGED:]
        known = len(self.skills) == JUDGED and median(self.skills) > self.from_skill
        if known and not self.share and not self.ended:
            self.share = 1.0
        if self.share and "return" in figures:
            now = figures["return"]
            self.mean = now if self.mean is None else MEMORY * self.mean + (1 - MEMORY) * now
            self.first = min(self.first, self.mean)
            rise = self.mean - self.best
            self.waited = 0 if rise > RISE * (self.best - self.first) else self.waited + 1
            self.best = max(self.best, self.mean)
        if self.waited >= self.patience:
            self.share, self.waited = self.share / 2.0, 0
        if self.share and self.share < LEAST:
            self.share, self.ended = 0.0, True


class Imagination(TrainerHookBase):
    """Learns in imagination, behind the update on a real batch.

    The world models learn from all that is remembered of the real world; then the policy learns,
    by PPO, in what they imagine from there.

    Args:
        config: This rank's share of the configuration.
        algorithm: Whose system imagines and learns.
        env: The real environment, whose specs are read.

    Raises:
        ValueError: The algorithm has no system.
    """

    def __init__(self, config: DictConfig, algorithm: Algorithm, env: EnvBase) -> None:
        self.config, self.settings = config, config.algorithm.imagination
        if algorithm.system is None:
            raise ValueError(f"{config.algorithm.name} has no world model that could imagine.")
        self.algorithm, self.system = algorithm, algorithm.system
        rewards = self.settings.rewards
        judged = "reward_skill" if rewards is None else "world_model_skill"
        self.taper = Taper(self.settings.from_skill, self.settings.patience, judged)
        self.frames = 0
        parts = {g: s.loss_module["moawm"] for g, s in self.system.groups.items()}
        self.models = LossSum({g: part.part("world_model") for g, part in parts.items()})
        self.memory = TensorDictReplayBuffer(
            storage=LazyTensorStorage(self.settings.memory_frames, device=config.device)
        )
        model = self.settings.model
        self.env = (make_imagined_env if model is None else find(model))(
            self.system,
            env,
            lambda n: self.memory.sample(n).exclude("index"),
            self.settings.envs,
            self.settings.max_disagreement,
            **({} if rewards is None else {"rewards": find(rewards)(env)}),
        )
        kept = [*self.models.in_keys, *self.env.full_observation_spec.keys(True, True)]
        self.kept = list(dict.fromkeys(kept))

    def learn(self, batch: TensorDictBase, trainer: Trainer) -> dict[str, float]:
        """Remembers a real batch and learns; returns figures."""
        if self.taper.ended:
            return {"imagined_frames": self.frames, "imagined_share": 0.0}
        self.memory.extend(batch.select(*self.kept, strict=False).reshape(-1))
        stepper, size = trainer.optimization_stepper, self.settings.minibatch
        for _ in range(self.settings.model_steps):
            stepper.minimise(self.models, self.memory.sample(size), trainer)
        rounds = round(self.taper.share * self.settings.rounds)
        rewards = [self._round(trainer) for _ in range(rounds)]
        found = {"imagined_reward": sum(rewards) / rounds} if rounds else {}
        return {"imagined_frames": self.frames, "imagined_share": self.taper.share, **found}

    def _round(self, trainer: Trainer) -> float:
        """Imagines, and learns from that; returns the mean reward."""
        settings, core = self.settings, self.algorithm.core
        batch = imagine(self.env, self.algorithm.policy, settings.horizon)
        self.frames += batch.numel() * trainer.optimization_stepper.learners.count
        for system in self.system.groups.values():
            estimate(system.loss_module["value"], batch, update=False)
        size = batch.numel() // settings.minibatches
        buffer = make_buffer(self.config, batch.numel(), size)
        buffer.extend(rows(self.config, core, batch))
        for _ in range(settings.epochs * settings.minibatches):
            trainer.optimization_stepper.minimise(core, buffer.sample(), trainer)
        rewards = [batch["next"].get(key) for key in self.env.reward_keys]
        return float(torch.cat([reward.flatten() for reward in rewards]).mean())

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, and how far imagination has come."""
        memory = plain(self.memory[:]) if len(self.memory) else None
        writer = self.memory.writer.state_dict()
        return {
            "taper": asdict(self.taper),
            "frames": self.frames,
            "memory": memory,
            "writer": writer,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the state."""
        self.taper = Taper(**state_dict["taper"])
        self.frames = state_dict["frames"]
        self.memory.empty()  # another rank's may be in it
        if state_dict["memory"] is not None:
            self.memory.extend(unplain(state_dict["memory"], torch.device(self.config.device)))
        self.memory.writer.load_state_dict(state_dict["writer"])
