"""Returns with both pools of partners while an agent trains."""

from collections.abc import Iterator

from omegaconf import DictConfig
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType

from partners.tasks import TASKS
from torchrl_moawm.train.loop.hooks import EVALUATION_SEEDS, EvaluationHook
from torchrl_moawm.train.tasks.environment import make_env


def evaluation_mode(config: DictConfig) -> ExplorationType:
    """How agents act where they are judged: as the task says, most of them deterministically."""
    sampled = TASKS[config.task.scenario].sampled
    return ExplorationType.RANDOM if sampled else ExplorationType.DETERMINISTIC


class HeldOutHook(EvaluationHook):
    """Plays with both pools of partners, every few batches."""

    @property
    def mode(self) -> ExplorationType:
        """The task's."""
        return evaluation_mode(self.config)

    def environments(self) -> Iterator[tuple[str, EnvBase]]:
        """One with the partners of each pool: ``return_train`` and ``return_held_out``."""
        seed = self.config.seed + EVALUATION_SEEDS
        for pool in ("train", "held_out"):
            envs = self.config.evaluation_envs
            yield f"return_{pool}", make_env(self.config, envs, seed, pool=pool)
