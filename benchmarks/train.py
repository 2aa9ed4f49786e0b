"""Trains a team on a task and reports what it learned.

    python benchmarks/train.py task=vmas/navigation algorithm=moawm seed=0 total_frames=60000
    python benchmarks/train.py resume=outputs/moawm/vmas/navigation/seed0-...

Every setting of ``conf/`` can be overridden so; ``-m`` sweeps. The run's folder (``hydra.run.dir``)
receives logs (CSV and TensorBoard), ``curves.png``, ``checkpoint.pt``, ``team.gif``,
``summary.json`` and, for ``MOAWM.load``, ``system.moawm``; while it trains ``checkpoints/``, from
which ``resume`` goes on.
"""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from algorithms.make import make_algorithm
from checkpoints.files import save_trained
from metrics.loggers import Loggers
from metrics.pictures import plot_curves
from metrics.run_files import print_summary, write_run, write_summary
from parallel.collector import share
from parallel.ranks import Learners, rank_zero_run_dir
from settings.command_line import check_arguments
from settings.known import CONF, freed
from settings.scenario import settled
from tasks.environment import make_env
from torchrl_moawm import set_data_parallel
from training import start
from training.evaluation import evaluate, record_episode
from training.hooks import HeldOutHook, ModelQualityHook
from training.models_behind import learn_models
from training.trainer import make_trainer


def run(config: DictConfig, folder: Path, source: Path | None = None, frames: int = 0) -> float:
    """Trains, evaluates, writes the run's folder; returns the evaluation's return.

    Args:
        config: The configuration.
        folder: Where everything goes.
        source: The checkpoint from which the run goes on; ``None`` begins a new run.
        frames: Frames that the checkpoint has seen.

    Raises:
        FileExistsError: A new run would begin in a folder that holds the checkpoints of another.
    """
    start.check_folder(folder, source)
    config = settled(config)
    learners = Learners(config.device, config.learner_timeout)
    own = start.prepare(config, learners)  # this rank's share

    env = make_env(own, share(own), own.seed + start.seed_offset(own, source, frames))
    algorithm = make_algorithm(own, env)
    learners.broadcast_weights(algorithm.loss_module)
    set_data_parallel(algorithm.loss_module, learners.count > 1)

    logger, quality = Loggers(folder), ModelQualityHook(algorithm, own, env)
    trainer = make_trainer(config, algorithm, env, quality, logger, folder, learners)
    partners = HeldOutHook(own, algorithm) if own.task.suite == "partners" else None
    if partners is not None:
        trainer.register_op("pre_steps_log", learners.average_metrics(partners))
    start.begin(trainer, own, learners, folder, source, frames)
    try:
        trainer.train()
    finally:
        trainer.collector.shutdown()
    if partners is not None:
        for name, figure in learners.average_metrics(partners.at_the_end)().items():
            logger.log_scalar(name, figure, step=trainer.collected_frames)
    model_frames = learn_models(own, algorithm, trainer, learners)
    learners.end()
    set_data_parallel(algorithm.loss_module, False)
    if learners.rank > 0:
        return 0.0

    held_out, figures = evaluate(own, algorithm, quality.last, quality.blocks)
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
    if algorithm.system is not None and not config.algorithm.get("ablation"):
        algorithm.system.save(folder / "system.moawm")
    plot_curves(logger.history, summary, folder / "curves.png")
    if config.gif:
        record_episode(own, algorithm, held_out, folder / "team.gif")
    write_run(logger, summary, folder / "run.json")
    write_summary(summary, folder / "summary.json")
    print_summary(summary, folder)
    return summary["evaluation_return"]


@hydra.main(version_base=None, config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> float:
    """Begins a run, or goes on with one; what the user can mend ends it with one line."""
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    overrides = list(hydra_config.overrides.task)
    try:
        config = settled(config, overrides, hydra_config.runtime.choices["task"])
    except ValueError as error:
        raise SystemExit(str(error)) from error
    record = folder / str(hydra_config.output_subdir) / "config.yaml"
    if record.is_file():
        OmegaConf.save(config, record)  # as it runs, not as it was merged
    done = start.finished(config, folder)
    if done is not None:
        return done
    with start.one_line_errors(folder):
        config, folder, source, frames = start.resumed_from(config, folder, overrides)
    with start.one_line_errors(folder):
        return run(config, folder, source, frames)


if __name__ == "__main__":
    try:
        check_arguments(sys.argv[1:])
        sys.argv[1:] = map(freed, sys.argv[1:])
        with rank_zero_run_dir():
            main()
    except ValueError as error:
        sys.exit(str(error))
