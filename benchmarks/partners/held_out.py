"""Returns with both pools of partners while an agent trains."""

from collections.abc import Iterator

from torchrl.envs import EnvBase

from torchrl_moawm.train.loop.hooks import EVALUATION_SEEDS, EvaluationHook
from torchrl_moawm.train.tasks.environment import make_env


class HeldOutHook(EvaluationHook):
    """Plays the deterministic policy with both pools of partners, every few batches."""

    def environments(self) -> Iterator[tuple[str, EnvBase]]:
        """One with the partners of each pool: ``return_train`` and ``return_held_out``."""
        seed = self.config.seed + EVALUATION_SEEDS
        for pool in ("train", "held_out"):
            envs = self.config.task.evaluation_envs
            yield f"return_{pool}", make_env(self.config, envs, seed, pool=pool)
