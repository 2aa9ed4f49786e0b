"""One run: trains, evaluates, writes its folder."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torchrl.trainers import Trainer

from torchrl_moawm import set_data_parallel
from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.checkpoints.files import save_trained
from torchrl_moawm.train.loop import start
from torchrl_moawm.train.loop.evaluation import evaluate, record_episode
from torchrl_moawm.train.loop.folder import check_folder
from torchrl_moawm.train.loop.hooks import EvaluationHook, ModelQualityHook
from torchrl_moawm.train.loop.models_behind import learn_models
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.metrics.loggers import Loggers
from torchrl_moawm.train.metrics.pictures import plot_curves
from torchrl_moawm.train.metrics.run_files import print_summary, write_run, write_summary
from torchrl_moawm.train.parallel.collector import envs_per_worker
from torchrl_moawm.train.parallel.ranks import Learners
from torchrl_moawm.train.settings.scenario import settled
from torchrl_moawm.train.tasks.environment import SUITES, make_env


def run(
    config: DictConfig, folder: Path, source: Path | None = None, frames: int = 0
) -> dict[str, Any]:
    """Trains, evaluates, writes the run's folder; returns the summary.

    Args:
        config: The configuration.
        folder: Where everything goes.
        source: The checkpoint from which the run goes on; ``None`` begins a new run.
        frames: Frames that the checkpoint has seen.

    Returns:
        The summary; an empty one in the ranks of torchrun behind the first.

    Raises:
        FileExistsError: A new run would begin in a folder that holds the checkpoints of another.
    """
    check_folder(folder, source)
    config = settled(config)
    learners = Learners(config.device, config.learner_timeout)
    own = start.prepare(config, learners)  # this rank's share

    env = make_env(own, envs_per_worker(own), own.seed + start.seed_offset(own, source, frames))
    algorithm = make_algorithm(own, env)
    learners.broadcast_weights(algorithm.loss_module)
    set_data_parallel(algorithm.loss_module, learners.count > 1)

    logger = Loggers(folder, config.loggers if learners.rank == 0 else [])
    quality = ModelQualityHook(algorithm, own, env)
    trainer = make_trainer(config, algorithm, env, quality, logger, folder, learners)
    evaluation = make_evaluation(own, algorithm, learners, frames)
    if evaluation is not None:
        trainer.register_op("pre_steps_log", learners.average_metrics(evaluation))
    start.begin(trainer, own, learners, folder, source, frames)
    try:
        if trainer.collected_frames < trainer.total_frames:  # else it would train a batch more
            trainer.train()
    finally:
        trainer.collector.shutdown()
        if not env.is_closed:  # workers have acted in others of their own
            env.close()
    if evaluation is not None:
        for name, figure in learners.average_metrics(evaluation.at_the_end)().items():
            logger.log_scalar(name, figure, step=trainer.collected_frames)
    model_frames = learn_models(own, algorithm, trainer, learners)
    learners.end()
    set_data_parallel(algorithm.loss_module, False)
    if learners.rank > 0:
        return {}
    return conclude(config, own, algorithm, trainer, quality, logger, model_frames)


def make_evaluation(
    config: DictConfig, algorithm: Algorithm, learners: Learners, frames: int
) -> EvaluationHook | None:
    """What evaluates while the team trains, if anything does."""
    if not config.evaluation_interval:
        return None
    hook = SUITES[config.task.suite].evaluation or EvaluationHook
    batch = config.task.num_envs * config.task.max_steps * learners.count
    return hook(config, algorithm, frames // batch)


def conclude(
    config: DictConfig,
    own: DictConfig,
    algorithm: Algorithm,
    trainer: Trainer,
    quality: ModelQualityHook,
    logger: Loggers,
    model_frames: int,
) -> dict[str, Any]:
    """Judges what was trained and writes the run's folder; returns the summary."""
    folder = logger.folder
    figures = evaluate(own, algorithm, quality.last, quality.blocks)
    summary = {
        "task": config.task.name,
        "algorithm": config.algorithm.name,
        "seed": config.seed,
        "frames": trainer.collected_frames,
        **({"model_frames": model_frames} if model_frames else {}),
        "seconds": round(logger.seconds(), 1),
        **figures,
    }
    optimizer = trainer.optimization_stepper.optimizer
    save_trained(algorithm.loss_module, optimizer, config, summary, folder / "checkpoint.pt")
    system = algorithm.system
    if system is not None and system.made_from is not None and not config.algorithm.get("ablation"):
        system.save(folder / "system.moawm")  # one that was put together by hand cannot be loaded
    plot_curves(logger.history, summary, folder / "curves.png")
    if config.gif:
        record_episode(own, algorithm, folder / "team.gif")
    write_run(logger, summary, folder / "run.json")
    write_summary(summary, folder / "summary.json")
    logger.close()
    print_summary(summary, folder)
    return summary
