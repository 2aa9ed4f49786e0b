"""Returns with both pools of partners while an agent trains."""

from omegaconf import DictConfig
from torchrl.envs.utils import ExplorationType

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.loop.evaluation import play
from torchrl_moawm.train.loop.hooks import EVALUATION_SEEDS, EvaluationHook
from torchrl_moawm.train.metrics.returns import first_return
from torchrl_moawm.train.tasks.environment import make_env


class HeldOutHook(EvaluationHook):
    """Plays the deterministic policy with both pools of partners, every few batches."""

    def __init__(self, config: DictConfig, algorithm: Algorithm, batches: int = 0) -> None:
        super().__init__(config, algorithm, batches)
        seed, n = config.seed + EVALUATION_SEEDS, config.task.evaluation_envs
        self.envs = {pool: make_env(config, n, seed, pool=pool) for pool in ("train", "held_out")}

    def figures(self) -> dict[str, float]:
        """``return_train`` and ``return_held_out`` of one episode in every environment."""
        played = {
            pool: play(self.config, self.algorithm, env, ExplorationType.DETERMINISTIC)
            for pool, env in self.envs.items()
        }
        return {f"return_{p}": first_return(b)["evaluation_return"] for p, b in played.items()}
