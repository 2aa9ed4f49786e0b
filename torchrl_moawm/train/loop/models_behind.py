"""The last training of the models, on what the team does when it has learned."""

from contextlib import closing

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.trainers import Trainer
from tqdm import trange

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.loop.buffer import make_buffer, rows
from torchrl_moawm.train.loop.evaluation import play_steps
from torchrl_moawm.train.parallel.ranks import Learners
from torchrl_moawm.train.tasks.environment import SUITES, make_env

SEEDS = 6_000_000
"""Seeds, on top of the run's, of the environments in which the finished team plays."""


def learn_models(
    config: DictConfig, algorithm: Algorithm, trainer: Trainer, learners: Learners
) -> int:
    """Trains the models of others and world on what the finished team does; returns its frames.

    Models trained beside a policy that changes lag behind it. Hence ``model_steps`` more steps of
    the optimizer on ``model_frames`` team steps with stochastic actions, at a learning rate that
    falls to 0. The team stays as it is to the last bit, and so does a model of others on which it
    acts (``algorithm.act_on_predictions``). A run that is stopped here begins here again, with the
    same bits.

    Args:
        config: This rank's share of the configuration.
        algorithm: Whose models learn; where there are none, nothing is done.
        trainer: With which the team has learned.
        learners: The ranks, each of which has its share of the frames and of a minibatch.
    """
    frames = config.algorithm.get("model_frames", 0) // learners.count
    if algorithm.models is None or not frames:
        return 0
    batch = play_on(config, algorithm, frames)
    minibatch = min(config.algorithm.model_minibatch // learners.count, batch.numel())
    buffer = make_buffer(config, batch.numel(), minibatch)
    buffer.extend(rows(config, algorithm.models, batch))
    if config.progress_bar and hasattr(trainer, "_pbar"):
        trainer._pbar.close()  # else it is drawn below this one, with the time of both
    stepper, steps = trainer.optimization_stepper, config.algorithm.model_steps
    for step in trange(steps, desc="models", disable=not config.progress_bar):
        stepper.set_rates(step / steps)  # the team's networks have no gradient
        stepper.minimise(algorithm.models, buffer.sample(), trainer)
    return batch.numel() * learners.count


def play_on(config: DictConfig, algorithm: Algorithm, frames: int) -> TensorDictBase:
    """Steps of the finished team, ``[E, T]``; an episode in each of many environments, if it can.

    PettingZoo steps one environment at a time: there it is as many as the team has learned in.
    """
    wide = SUITES[config.task.suite].wide
    num_envs = -(-frames // config.task.max_steps) if wide else config.task.num_envs
    with closing(make_env(config, num_envs, config.seed + SEEDS)) as env:
        torch.manual_seed(config.seed + SEEDS)  # the same bits where a run begins here again
        return play_steps(config, algorithm, env, frames)
