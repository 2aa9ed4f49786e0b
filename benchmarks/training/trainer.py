"""TorchRL's Trainer with the hooks of PPO."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDictBase
from torchrl.checkpoint import Checkpoint
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.trainers import ReplayBufferTrainer, Trainer

from algorithms.common import Algorithm
from checkpoints.files import FOLDER, FORMAT, Rotation, versions
from checkpoints.run_state import make_checkpoint
from metrics.loggers import Loggers
from metrics.returns import losses_on_the_bar, other_losses, team_return
from parallel.collector import make_collector
from parallel.ranks import Learners
from settings import frames
from tasks.environment import make_env
from training.hooks import ModelQualityHook
from training.schedule import learning_rate
from training.stepper import make_stepper

PASSES_BEHIND = 3
"""How often as many epochs the models get of a batch when they alone learn."""


def make_trainer(
    config: DictConfig,
    algorithm: Algorithm,
    env: EnvBase,
    quality: ModelQualityHook,
    logger: Loggers | None = None,
    folder: Path | None = None,
    learners: Learners | None = None,
) -> Trainer:
    """TorchRL's trainer with the hooks of PPO; checkpoints go into the folder, if there is one.

    Frames are counted over all ranks.

    Args:
        config: The configuration of the whole run; each rank takes its share of it.
        algorithm: What is trained.
        env: What it acts in, where the collector is a single one.
        quality: Judges the models of others and world on every batch.
        logger: Gets every figure, if there is one.
        folder: The run's folder.
        learners: The ranks of torchrun.
    """
    learners = learners or Learners()
    own = learners.share(config)
    collector = make_collector(own, env, algorithm, make_env)
    stepper = make_stepper(own, algorithm, folder, learners)
    buffer, pool = make_buffer(own), make_pool(own)
    checkpoints: dict[str, Any] = {}
    if folder is not None and own.checkpoint.every:
        kept = make_checkpoint(
            env,
            collector,
            buffer.replay_buffer,
            pool.replay_buffer,
            stepper,
            quality,
            learners,
            vmas=own.task.suite == "vmas",
        )
        for index, scheduled in enumerate(algorithm.scheduled):
            kept.register(f"scheduled_{index}", scheduled)
        checkpoints = checkpoint_settings(config, kept, folder, learners.count)
    trainer = Trainer(
        collector=collector,
        total_frames=frames.all_frames(own),
        frame_skip=learners.count,  # a frame here stands for one of every rank
        loss_module=algorithm.loss_module,
        optimization_stepper=stepper,
        optim_steps_per_batch=own.minibatches,
        num_epochs=own.epochs,
        logger=logger,
        log_interval=0,
        progress_bar=own.progress_bar,
        auto_log_optim_steps=False,
        **checkpoints,
    )
    register_hooks(trainer, own, algorithm, buffer, pool, quality)
    return trainer


def sequence_length(config: DictConfig) -> int:
    """Steps of a row of a minibatch: 1 without a memory."""
    recurrent = config.algorithm.get("recurrent", False)
    return config.algorithm.sequence_length if recurrent else 1


def make_pool(config: DictConfig) -> ReplayBufferTrainer:
    """All batches from which the models learn when the team has learned, as minibatches."""
    batch = config.task.num_envs * config.task.max_steps
    return make_buffer(config, batches=max(frames.frames_of_models(config) // batch, 1))


def make_buffer(config: DictConfig, batches: int = 1) -> ReplayBufferTrainer:
    """Batches as shuffled minibatches: of samples, or of sequences where there is a memory."""
    rows = config.task.num_envs * config.task.max_steps // sequence_length(config)
    return ReplayBufferTrainer(
        TensorDictReplayBuffer(
            storage=LazyTensorStorage(batches * rows, device=config.device),
            sampler=SamplerWithoutReplacement(drop_last=True),
            batch_size=rows // config.minibatches,
        ),
        flatten_tensordicts=not config.algorithm.get("recurrent", False),
    )


def checkpoint_settings(
    config: DictConfig, checkpoint: Checkpoint, folder: Path, n_ranks: int
) -> dict[str, Any]:
    """Settings of the Trainer for checkpoints: what is in one, where, how often."""
    metadata = {
        "format": FORMAT,
        "versions": versions(),
        "learners": n_ranks,
        "config": json.dumps(OmegaConf.to_container(config, resolve=True)),  # in its own order
    }
    batch = config.task.num_envs * config.task.max_steps  # of all ranks
    return {
        "checkpoint": checkpoint,
        "checkpoint_rotation": Rotation(folder / FOLDER, keep_last=config.checkpoint.keep),
        "checkpoint_metadata": lambda _: metadata,
        "save_trainer_interval": config.checkpoint.every * batch - 1,
    }


def register_hooks(
    trainer: Trainer,
    config: DictConfig,
    algorithm: Algorithm,
    buffer: ReplayBufferTrainer,
    pool: ReplayBufferTrainer,
    quality: ModelQualityHook,
) -> None:
    """Registers what happens to every batch: learning rates, advantage, storage, figures."""
    stepper, length = trainer.optimization_stepper, sequence_length(config)
    recurrent = config.algorithm.get("recurrent", False)
    average = stepper.learners.average_metrics
    while_learning, behind = stepper.losses, [algorithm.models]
    current = buffer

    def schedule(_: TensorDictBase) -> None:
        nonlocal current
        learned = frames.has_learned(config, trainer.collected_frames)
        current, stepper.losses = (pool, behind) if learned else (buffer, while_learning)
        trainer.num_epochs = config.epochs * (PASSES_BEHIND if learned else 1)
        for group, name in zip(stepper.optimizer.param_groups, algorithm.networks, strict=True):
            group["lr"] = learning_rate(config, name, trainer.collected_frames)

    def store(batch: TensorDictBase) -> None:
        algorithm.advantage(batch)  # once: again in each epoch it would overwrite V_old
        read = [*algorithm.loss_module.in_keys, ("next", "done")]  # the latter by the buffer's hook
        batch = batch.select(*read, strict=False)
        current.extend(batch.reshape(-1, length) if recurrent else batch)

    trainer.register_op("batch_process", schedule)
    trainer.register_op("batch_process", store)

    def count(*_: Any) -> None:
        for scheduled in algorithm.scheduled:
            scheduled.frames.fill_(trainer.collected_frames)

    trainer.register_op("post_steps", count)
    trainer.register_op("pre_steps_log", average(team_return))
    trainer.register_op("pre_steps_log", average(quality))
    trainer.register_op("process_optim_batch", lambda batch: current.sample(batch))
    trainer.register_op("post_optim_complete_log", losses_on_the_bar)
    trainer.register_op("post_optim_complete_log", other_losses)
    trainer.register_op("post_optim_complete_log", lambda *_: stepper.nonfinite.figures())
