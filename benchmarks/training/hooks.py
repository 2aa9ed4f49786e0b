"""Hooks of the Trainer that measure models and returns while a team trains."""

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType
from torchrl.trainers import TrainerHookBase

from algorithms.common import Algorithm
from checkpoints.run_state import plain, unplain
from metrics.model_quality import READ_BY_BASELINES, judge
from metrics.returns import first_return
from settings.scenario import fitting_blocks
from tasks.environment import make_env
from training.evaluation import play

JUDGED = 4_000
"""Team steps of a batch on which the models are judged, whole environments: a few will do."""


class ModelQualityHook(TrainerHookBase):
    """Judges the models of others and world on every batch, before it is learned from.

    They have not seen the batch, so the figures are honest; the baselines are fitted to the batch
    before.

    Args:
        algorithm: Whose models are judged.
        config: The configuration.
        env: What the team acts in, whose observations the task's blocks have to fit; ``None`` does
            not look.
    """

    def __init__(
        self, algorithm: Algorithm, config: DictConfig, env: EnvBase | None = None
    ) -> None:
        self.system = algorithm.system
        self.blocks = (
            OmegaConf.to_container(config.task.observation_blocks)
            if config.task.observation_blocks
            else {}
        )
        if self.system is not None and env is not None:
            self.blocks = fitting_blocks(config.task, env)
        self.device = torch.device(config.device)
        self.last: TensorDictBase | None = None

    def __call__(self, batch: TensorDictBase) -> dict[str, float] | None:
        """Figures of the batch as it was collected."""
        steps = batch.numel() // len(batch)
        batch = batch[: max(JUDGED // steps, 1)]
        keys = [
            key
            for key in batch.keys(True, True)
            if isinstance(key, tuple) and key[0] != "next" and key[-1] in READ_BY_BASELINES
        ]
        last, self.last = self.last, batch.select(*keys)
        if self.system is None or last is None:
            return None
        return judge(self.system, batch, last, self.blocks)

    def state_dict(self) -> dict[str, Any]:
        """Entries of the batch before that the next figures need."""
        return {"last": None if self.last is None else plain(self.last)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the state."""
        last = state_dict["last"]
        self.last = None if last is None else unplain(last, self.device)


class HeldOutHook(TrainerHookBase):
    """Plays the deterministic policy with both pools of partners, every few batches."""

    def __init__(self, config: DictConfig, algorithm: Algorithm) -> None:
        self.config, self.algorithm = config, algorithm
        seed, n = config.seed + 3_000_000, config.task.evaluation_envs
        self.envs = {pool: make_env(config, n, seed, pool=pool) for pool in ("train", "held_out")}
        self.batches, self.taken = 0, True

    def figures(self) -> dict[str, float]:
        """``return_train`` and ``return_held_out`` of one episode in every environment."""
        played = {
            pool: play(self.config, self.algorithm, env, ExplorationType.DETERMINISTIC)
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
