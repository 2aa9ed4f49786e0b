"""Ways to train the same team, batch by batch: our trainer and the loop of TorchRL's tutorial."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch.utils.flop_counter import FlopCounterMode
from torchrl.collectors import Collector
from torchrl.trainers import Trainer

from cost.ppo import PPOSettings, train
from torchrl_moawm.modules import append_memory_transforms
from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.algorithms.mappo import make_mappo
from torchrl_moawm.train.experiment import compose_config
from torchrl_moawm.train.loop.hooks import ModelQualityHook
from torchrl_moawm.train.loop.schedule import losses_by_epoch
from torchrl_moawm.train.loop.stepper import minimised
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.tasks.environment import make_env

EPOCHS, MINIBATCHES, STEPS = 15, 10, 100
LEARNING_RATE = 1e-9
"""Next to nothing, so that all act alike: whoever has learned has more to reset, which costs."""


class Batch(NamedTuple):
    """What a batch has cost."""

    collection: float
    """Seconds of acting."""
    update: float
    """Seconds of learning."""
    operations: float
    """Floating-point operations of the matrix products of the update."""


def clock() -> float:
    """Seconds, once all that was begun on a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


class Timed:
    """A collector that measures itself, and that several calls of a trainer share.

    Args:
        collector: Whoever made it shuts it down.
    """

    def __init__(self, collector: Any) -> None:
        self.collector, self.batches = collector, iter(collector)
        self.last = 0.0
        """Seconds that the last batch took."""

    def __iter__(self) -> Iterator[TensorDictBase]:
        while True:
            start = clock()
            batch = next(self.batches)
            self.last = clock() - start
            yield batch

    def shutdown(self, **_: Any) -> None:
        """It goes on."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collector, name)


def seconds(timed: Timed, train_one: Callable[[], Any]) -> Iterator[tuple[float, float]]:
    """Trains batch by batch; gives the seconds of collection and update of each."""
    while True:
        start = clock()
        train_one()
        yield timed.last, clock() - start - timed.last


def batch_by_batch(trainer: Trainer) -> Iterator[tuple[float, float]]:
    """The seconds of collection and update of each batch of a trainer."""
    timed = trainer.collector = Timed(trainer.collector)

    def train_one() -> None:
        trainer.total_frames = trainer.collected_frames + 1  # so one batch
        trainer.train()

    return seconds(timed, train_one)


def configure(task: str, n_envs: int, batches: int, *more: str) -> DictConfig:
    """The benchmark's configuration."""
    overrides = [
        f"task=vmas/{task}",
        f"task.num_envs={n_envs}",
        f"task.max_steps={STEPS}",
        f"total_frames={batches * n_envs * STEPS}",
        f"epochs={EPOCHS}",
        f"minibatches={MINIBATCHES}",
        f"lr={LEARNING_RATE}",
        "task.shared_value=true",  # as BenchMARL's, and TorchRL's MultiAgentMLP
        "progress_bar=false",
        *more,
    ]
    return compose_config(overrides)


def ours(name: str, task: str, n_envs: int, batches: int, device: str) -> Iterator[Batch]:
    """The batches of our trainer."""
    algorithm_name, _, compiled = name.partition(" ")
    settings = [f"algorithm={algorithm_name}", f"compile={bool(compiled)}", f"device={device}"]
    if algorithm_name == "moawm":
        settings.append(f"algorithm.student_lr={LEARNING_RATE}")  # nor does z move
        settings.append("algorithm.model_frames=0")  # while the team learns
    config = configure(task, n_envs, batches, *settings)
    torch.manual_seed(0)
    env = make_env(config, n_envs, 0)
    algorithm = make_algorithm(config, env)
    needed = operations(config, algorithm, n_envs)
    trainer = make_trainer(config, algorithm, env, ModelQualityHook(algorithm, config, env))
    for spent in batch_by_batch(trainer):
        yield Batch(*spent, needed)


def operations(config: DictConfig, algorithm: Algorithm, n_envs: int) -> float:
    """Floating-point operations of the matrix products of one update."""
    env = make_env(config, n_envs, 0)
    append_memory_transforms(env, algorithm.memories)
    with torch.no_grad():
        batch = env.rollout(STEPS // MINIBATCHES, algorithm.policy, break_when_any_done=False)
    algorithm.advantage(batch)

    def count(loss: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            minimised(loss(batch.reshape(-1))).backward()
        loss.zero_grad()
        return float(counter.get_total_flops())

    by_epoch = losses_by_epoch(algorithm, EPOCHS)
    counted = {key: count(loss) for key, loss in {id(loss): loss for loss in by_epoch}.items()}
    return MINIBATCHES * sum(counted[id(loss)] for loss in by_epoch)


def torchrl_loop(task: str, n_envs: int, batches: int, device: str) -> Iterator[Batch]:
    """The batches of the loop of TorchRL's multi-agent tutorial, with our networks."""
    config = configure(task, n_envs, batches, "algorithm=mappo", f"device={device}")
    torch.manual_seed(0)
    env = make_env(config, n_envs, 0)
    algorithm = make_mappo(config, env)
    needed = operations(config, algorithm, n_envs)
    frames = n_envs * STEPS
    timed = Timed(Collector(env, algorithm.policy, frames_per_batch=frames, total_frames=-1))
    updates = train(timed, algorithm, PPOSettings.of_config(config))
    for spent in seconds(timed, partial(next, updates)):
        yield Batch(*spent, needed)
