"""TorchRL's Trainer with the hooks of PPO."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDictBase
from torchrl.checkpoint import Checkpoint
from torchrl.data import TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.trainers import Trainer

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.checkpoints.files import FOLDER, FORMAT, SOFTWARE, Rotation
from torchrl_moawm.train.checkpoints.run_state import make_checkpoint
from torchrl_moawm.train.loop.buffer import make_buffer, permuted, rows, sample
from torchrl_moawm.train.loop.hooks import ModelQualityHook
from torchrl_moawm.train.loop.stepper import make_stepper
from torchrl_moawm.train.metrics.loggers import Loggers
from torchrl_moawm.train.metrics.returns import (
    intrinsic_rewards,
    losses_on_the_bar,
    other_losses,
    team_return,
)
from torchrl_moawm.train.parallel.collector import make_collector
from torchrl_moawm.train.parallel.ranks import Learners
from torchrl_moawm.train.tasks.environment import make_env


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
    steps = own.task.num_envs * own.task.max_steps
    buffer = make_buffer(own, steps, steps // own.minibatches)
    imagination = make_imagination(own, algorithm, env)
    checkpoints: dict[str, Any] = {}
    if folder is not None and own.checkpoint.every:
        states = buffer, stepper, quality, learners, imagination
        kept = make_checkpoint(own, algorithm, env, collector, *states)
        checkpoints = checkpoint_settings(config, kept, folder, learners.count)
    trainer = Trainer(
        collector=collector,
        total_frames=own.total_frames,
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
    register_hooks(trainer, own, algorithm, buffer, quality)
    register_encoding(trainer, own, algorithm, buffer)
    if imagination is not None:
        register_imagination(trainer, imagination, quality)
    return trainer


def make_imagination(config: DictConfig, algorithm: Algorithm, env: EnvBase) -> Any:
    """What learns in imagination, if the algorithm does; nothing of it is imported else."""
    if not config.algorithm.get("imagination"):
        return None
    from torchrl_moawm.train.loop.imagination import Imagination

    return Imagination(config, algorithm, env)


def register_imagination(trainer: Trainer, imagination: Any, quality: ModelQualityHook) -> None:
    """Registers what happens behind the update on a batch."""

    def known(batch: TensorDictBase) -> dict[str, float]:
        return {**quality.figures, **team_return(batch)}

    known_to_all = trainer.optimization_stepper.learners.average_metrics(known)

    def learn(batch: TensorDictBase) -> dict[str, float]:
        imagination.taper.see(known_to_all(batch))
        return imagination.learn(batch, trainer)

    trainer.register_op("post_steps_log", learn)


def checkpoint_settings(
    config: DictConfig, checkpoint: Checkpoint, folder: Path, n_ranks: int
) -> dict[str, Any]:
    """Settings of the Trainer for checkpoints: what is in one, where, how often."""
    metadata = {
        "format": FORMAT,
        "versions": SOFTWARE,
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
    buffer: TensorDictReplayBuffer,
    quality: ModelQualityHook,
) -> None:
    """Registers what happens to every batch: learning rates, advantage, storage, figures."""
    stepper = trainer.optimization_stepper
    average = stepper.learners.average_metrics

    def schedule(_: TensorDictBase) -> None:
        stepper.set_rates(trainer.collected_frames / config.total_frames)

    def store(batch: TensorDictBase) -> None:
        algorithm.advantage(batch)  # once: again in each epoch it would overwrite V_old
        buffer.extend(rows(config, algorithm.loss_module, batch))

    trainer.register_op("batch_process", schedule)
    trainer.register_op("batch_process", store)

    def count(*_: Any) -> None:
        for scheduled in algorithm.scheduled:
            scheduled.frames.fill_(trainer.collected_frames)

    trainer.register_op("post_steps", count)
    trainer.register_op("pre_steps_log", average(team_return))
    trainer.register_op("pre_steps_log", average(intrinsic_rewards))
    trainer.register_op("pre_steps_log", average(quality))

    def draw(_: TensorDictBase) -> TensorDictBase:
        minibatch = sample(buffer, stepper.loss.in_keys)
        return permuted(minibatch) if config.algorithm.get("permute_agents") else minibatch

    trainer.register_op("process_optim_batch", draw)
    trainer.register_op("post_optim_complete_log", losses_on_the_bar)
    trainer.register_op("post_optim_complete_log", other_losses)
    trainer.register_op("post_optim_complete_log", lambda *_: stepper.nonfinite.figures())


def register_encoding(
    trainer: Trainer, config: DictConfig, algorithm: Algorithm, buffer: TensorDictReplayBuffer
) -> None:
    """Registers what happens when the student has learned: actor and critic read its new z."""
    encode, stepper = algorithm.encode_latent, trainer.optimization_stepper
    if encode is None:
        return

    def encode_anew(batch: TensorDictBase) -> TensorDictBase:
        if stepper.epoch == algorithm.auxiliary["latent"][1]:
            episodes = batch.reshape(-1, config.task.max_steps).copy()  # one environment gives [T]
            encoded = encode(episodes)
            buffer.extend(rows(config, algorithm.loss_module, encoded))
        return batch

    trainer.register_op("pre_epoch", encode_anew)
