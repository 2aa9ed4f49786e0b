"""Episodes that a team has not been trained on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch import nn
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm.modules import append_memory_transforms
from torchrl_moawm.objectives.imagination import numbered
from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.metrics.model_quality import judge
from torchrl_moawm.train.metrics.pictures import record_gif
from torchrl_moawm.train.metrics.returns import first_return
from torchrl_moawm.train.tasks.environment import make_env

HELD_OUT_SEEDS = 1_000_000
"""On top of the run's seed, for the environments in which the trained team is judged."""


@contextmanager
def in_evaluation(policy: nn.Module) -> Iterator[None]:
    """While it lasts the policy is in evaluation mode; then every part is as it was."""
    modes = {module: module.training for module in policy.modules()}
    policy.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@torch.no_grad()
def play(
    config: DictConfig, algorithm: Algorithm, env: EnvBase, mode: ExplorationType
) -> TensorDictBase:
    """Plays as many steps as an episode has at most, in every environment: ``[E, T]``.

    The student's z acts, also in a run whose teacher still acts while collecting.
    """
    append_memory_transforms(env, algorithm.memories)
    with in_evaluation(algorithm.policy), set_exploration_type(mode):
        batch = env.rollout(config.task.max_steps, algorithm.policy, break_when_any_done=False)
    return batch.reshape(-1, config.task.max_steps)


def play_steps(
    config: DictConfig, algorithm: Algorithm, env: EnvBase, steps: int
) -> TensorDictBase:
    """Plays episodes with stochastic actions until there are as many team steps: ``[E, T]``.

    Their numbers are with them: sequences are cut from rows that stand behind each other.
    """
    rounds = -(-steps // (env.batch_size.numel() * config.task.max_steps))
    played = [play(config, algorithm, env, ExplorationType.RANDOM) for _ in range(rounds)]
    return numbered(torch.cat(played) if rounds > 1 else played[0])


def deterministic_return(config: DictConfig, algorithm: Algorithm, env: EnvBase) -> float:
    """Return of the deterministic policy: mean over agents and environments, one episode each."""
    batch = play(config, algorithm, env, ExplorationType.DETERMINISTIC)
    return first_return(batch)["evaluation_return"]


def make_held_out_env(config: DictConfig, seed_offset: int) -> EnvBase:
    """Makes the environments of an evaluation, of a seed that the training does not use."""
    return make_env(config, config.evaluation_envs, config.seed + seed_offset)


def evaluate(
    config: DictConfig,
    algorithm: Algorithm,
    training_batch: TensorDictBase,
    blocks: Mapping[str, Sequence[int]],
) -> dict[str, float]:
    """Figures of the team in environments that it has not seen.

    Args:
        config: The configuration.
        algorithm: What was trained.
        training_batch: The last one, to which the baselines of the models are fitted.
        blocks: Ranges of features that are judged apart.
    """
    with closing(make_held_out_env(config, HELD_OUT_SEEDS)) as held_out:
        figures = first_return(play(config, algorithm, held_out, ExplorationType.DETERMINISTIC))
        if algorithm.system is not None:
            batch = play(config, algorithm, held_out, ExplorationType.RANDOM)
            figures |= judge(algorithm.system, batch, training_batch, blocks)
    return figures


def record_episode(config: DictConfig, algorithm: Algorithm, path: Path) -> None:
    """A GIF of the trained team in an environment that it has not seen."""
    drawn = {"render_mode": "rgb_array"} if config.task.suite == "pettingzoo" else {}
    try:
        env = make_env(config, 1, config.seed + HELD_OUT_SEEDS, **drawn)
    except Exception as error:  # of a function that takes no such argument, or refuses it
        if not drawn:
            raise
        print(f"No film: {error}.")
        return
    with closing(env), in_evaluation(algorithm.policy):
        append_memory_transforms(env, algorithm.memories)
        record_gif(env, algorithm.policy, config.task.max_steps, path)
