"""Beginning, resuming and stopping of a run."""

import errno
import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torchrl.checkpoint import CheckpointError
from torchrl.trainers import Trainer

from torchrl_moawm.train.checkpoints.files import open_checkpoint
from torchrl_moawm.train.loop.folder import has_checkpoints
from torchrl_moawm.train.loop.nonfinite import NonFiniteError
from torchrl_moawm.train.parallel.ranks import Learners, check_count, is_first, n_learners
from torchrl_moawm.train.parallel.worker import WorkersLostError
from torchrl_moawm.train.settings.command_line import resumed
from torchrl_moawm.train.tasks.environment import SUITES

SEEDS_OF_RESUMED = 10_000_000
"""Offset of the seeds of environments that a checkpoint cannot hold, and that begin again."""


def prepare(config: DictConfig, learners: Learners) -> DictConfig:
    """Sets threads and seeds of this process; returns the rank's share of the configuration."""
    own = learners.share(config)
    if own.threads is not None:
        torch.set_num_threads(own.threads)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(own.seed)
    return own


def is_exact(config: DictConfig) -> bool:
    """Whether a checkpoint holds the environments, so that a resumed run has the same bits."""
    return config.collector == "single" and SUITES[config.task.suite].saved


def seed_offset(config: DictConfig, source: Path | None, frames: int) -> int:
    """Offset of the seed where a resumed run's environments begin again."""
    return 0 if source is None or is_exact(config) else SEEDS_OF_RESUMED + frames


def begin(
    trainer: Trainer,
    config: DictConfig,
    learners: Learners,
    folder: Path,
    source: Path | None,
    frames: int,
) -> None:
    """Writes the first checkpoint of a new run, or restores that from which a run goes on."""
    if source is None:
        trainer.save_trainer(force_save=True)
        return
    trainer.load_from_file(
        source, weights_only=True, mmap=False, map_location=torch.device(config.device)
    )
    if learners.count > 1:
        trainer.checkpoint.components["other_ranks"].restore()
    if learners.rank == 0:
        print(f"Goes on from {frames} frames in {folder}.")
    if not is_exact(config):
        whose = f"{config.task.suite}'s" if config.collector == "single" else "The workers'"
        print(f"{whose} environments cannot be saved: new episodes begin, not bitwise.")


def finished(config: DictConfig, folder: Path, overrides: Sequence[str]) -> float | None:
    """The return of a run that ``resume=auto`` finds done; ``None`` where there is work to do.

    Raises:
        ValueError: ``resume=auto`` under torchrun, whose ranks have no folder in common.
        CheckpointError: What is done there is another run.
    """
    if config.resume != "auto":
        return None
    if n_learners() > 1:
        raise ValueError("resume=auto needs one process: name the folder to torchrun.")
    if not (folder / "summary.json").exists():
        return None
    trained = folder / "checkpoint.pt"
    saved = torch.load(trained, weights_only=True, map_location="cpu")["config"]
    if resumed(config, saved, overrides, trained).total_frames > saved["total_frames"]:
        return None
    print(f"Done before: {folder}")
    figure = json.loads((folder / "summary.json").read_text())["evaluation_return"]
    return math.nan if figure is None else float(figure)


def resumed_from(
    config: DictConfig, folder: Path, overrides: Sequence[str]
) -> tuple[DictConfig, Path, Path | None, int]:
    """Finds configuration, folder and checkpoint of a run that goes on, and its frames.

    Args:
        config: As the command line composed it.
        folder: Of this call.
        overrides: What the command line said.

    Returns:
        The same configuration and folder, no checkpoint and 0 for a new run.
    """
    where = config.resume
    if where == "auto":
        where = str(folder) if has_checkpoints(folder) else None
    if where is None:
        return config, folder, None, 0
    source, metadata = open_checkpoint(Path(where))
    check_count(metadata.get("learners", 1), source)
    folder = source.parents[1] if is_first() else folder
    saved, frames = json.loads(metadata["config"]), metadata["collected_frames"]
    config = resumed(config, saved, overrides, source)
    if config.total_frames < min(frames, saved["total_frames"]):
        raise CheckpointError(
            f"{source} has {frames} frames, more than total_frames={config.total_frames}."
        )
    return config, folder, source, frames


@contextmanager
def one_line_errors(folder: Path) -> Iterator[None]:
    """Ends the process with one line, which says how to go on, where the user can mend it."""
    try:
        yield
    except (CheckpointError, NonFiniteError, FileExistsError) as error:
        raise SystemExit(str(error)) from error
    except WorkersLostError as error:
        raise SystemExit(f"Stopped: {error} resume={folder} goes on.") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise SystemExit(f"Stopped: {error}. With room, resume={folder} goes on.") from error
