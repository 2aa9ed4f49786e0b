"""Hooks of the Trainer that measure models and returns while a team trains."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.checkpoint import GlobalRNGState
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType
from torchrl.trainers import TrainerHookBase

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.checkpoints.run_state import plain, unplain
from torchrl_moawm.train.checkpoints.vmas_state import VmasRandomState
from torchrl_moawm.train.loop.evaluation import make_held_out_env, play
from torchrl_moawm.train.metrics.baselines import READ_BY_BASELINES
from torchrl_moawm.train.metrics.model_quality import judge
from torchrl_moawm.train.metrics.returns import first_return
from torchrl_moawm.train.settings.scenario import fitting_blocks

EVALUATION_SEEDS = 3_000_000
"""On top of the run's seed, for evaluations while it trains; the one at its end has others."""
JUDGED = 4_000
"""Team steps of a batch on which the models are judged, whole environments: a few will do."""


class ModelQualityHook(TrainerHookBase):
    """Judges the models of others and world on every batch, before it is learned from.

    They have not learned from the batch, so the figures are honest (its running statistics alone
    are in theirs); the baselines are fitted to the batch before.

    Args:
        algorithm: Whose models are judged.
        config: The configuration.
        env: What the team acts in, whose observations the task's blocks have to fit.
    """

    def __init__(self, algorithm: Algorithm, config: DictConfig, env: EnvBase) -> None:
        self.system = algorithm.system
        self.blocks = {} if self.system is None else fitting_blocks(config.task, env)
        self.device, self.steps = torch.device(config.device), config.task.max_steps
        self.last: TensorDictBase | None = None
        self.figures: dict[str, float] = {}

    def __call__(self, batch: TensorDictBase) -> dict[str, float] | None:
        """Figures of the batch as it was collected."""
        batch = batch.reshape(-1, self.steps)  # a single environment gives [T]
        batch = batch[: max(JUDGED // self.steps, 1)]
        keys = [
            key
            for key in batch.keys(True, True)
            if isinstance(key, tuple) and key[0] != "next" and key[-1] in READ_BY_BASELINES
        ]
        last, self.last = self.last, batch.select(*keys)
        if self.system is None or last is None:
            return None
        self.figures = judge(self.system, batch, last, self.blocks)
        return self.figures

    def state_dict(self) -> dict[str, Any]:
        """Entries of the batch before that the next figures need."""
        return {"last": None if self.last is None else plain(self.last)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the state."""
        last = state_dict["last"]
        self.last = None if last is None else unplain(last, self.device)


class EvaluationHook(TrainerHookBase):
    """Plays the deterministic policy every few batches, in the same episodes each time.

    Nothing of it reaches the training: random states are put back, and a run has the same bits with
    it and without. A resumed run keeps the interval.

    Args:
        config: The configuration.
        algorithm: Whose policy plays.
        batches: How many there have been before.
    """

    mode = ExplorationType.DETERMINISTIC

    def __init__(self, config: DictConfig, algorithm: Algorithm, batches: int = 0) -> None:
        self.config, self.algorithm = config, algorithm
        self.batches = batches
        self.taken = not batches or (batches - 1) % config.evaluation_interval == 0

    def environments(self) -> Iterator[tuple[str, EnvBase]]:
        """The environments that are played, each with the name of its return."""
        yield "return_deterministic", make_held_out_env(self.config, EVALUATION_SEEDS)

    def figures(self) -> dict[str, float]:
        """The return in each, over agents and one episode in every environment."""
        figures: dict[str, float] = {}
        with random_states_kept():
            for name, env in self.environments():
                with closing(env):
                    batch = play(self.config, self.algorithm, env, self.mode)
                found = first_return(batch).items()
                figures |= {k.replace("evaluation_return", name): v for k, v in found}
        return figures

    def __call__(self, _: TensorDictBase) -> dict[str, float] | None:
        """Figures before the batch is learned from, or nothing."""
        self.taken = self.batches % self.config.evaluation_interval == 0
        self.batches += 1
        return self.figures() if self.taken else None

    def at_the_end(self) -> dict[str, float]:
        """Figures of the trained team, unless the last batch had some: so that the curves end."""
        return {} if self.taken else self.figures()


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Puts the random states of the process back, and that which VMAS's environments share."""
    kept = [GlobalRNGState(), *([VmasRandomState()] if "vmas" in sys.modules else [])]
    states = [one.state_dict() for one in kept]
    try:
        yield
    finally:
        for one, state in zip(kept, states, strict=True):
            one.load_state_dict(state)
