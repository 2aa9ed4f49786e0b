"""A worker: its environment, its seed, and a collector that says what went wrong."""

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.collectors import BaseCollector, Collector, MultiAsyncCollector
from torchrl.envs import EnvBase, Transform


class WorkerError(RuntimeError):
    """A worker raised: a bug, which another worker would have too; its traceback is the message."""


class WorkersLostError(RuntimeError):
    """Workers were killed, or did not answer in time, more often than they are replaced."""


def make_worker_env(
    make_env: Callable[[DictConfig, int, int], EnvBase],
    config: DictConfig,
    num_envs: int,
    seed: int,
    *,
    memory: list[Transform],
) -> EnvBase:
    """A worker's environment, made in its own process, whose random states it seeds too."""
    env = make_env(config, num_envs, seed)
    for transform in memory:
        env.append_transform(transform)
    torch.manual_seed(seed)  # of the actions; a new process begins with the same in every worker
    np.random.seed(seed)
    return env


def worker_seed(seed: int, worker: int, frames: int) -> int:
    """Seed of a worker that starts after so many frames of the run; none is used twice."""
    return int(np.random.SeedSequence((seed, worker, frames)).generate_state(1)[0])


class Worker(Collector):
    """TorchRL's collector in a process of its own, which says what went wrong.

    Args:
        *arguments: Of ``Collector``.
        report: A folder that gets the traceback of what ends the iteration. Beside
            ``MultiSyncCollector`` and its kin, which only say that a process failed.
        **settings: Of ``Collector``.
    """

    def __init__(self, *arguments: Any, report: Path | None = None, **settings: Any) -> None:
        self.report = report
        super().__init__(*arguments, **settings)

    def __bool__(self) -> bool:
        """Ray asks it when a constructor fails; the length would raise, and hide the reason."""
        return True

    def __repr__(self) -> str:
        """Ray writes it before every line of a worker."""
        return "Worker"

    @property
    def pid(self) -> int:
        """Process id."""
        return os.getpid()

    def iterator(self) -> Iterator[TensorDictBase]:
        """Yields TorchRL's batches; writes a report of what ends the iteration."""
        try:
            yield from super().iterator()
        except Exception:
            if self.report is not None:
                pending = self.report / f"{self.worker_idx}.pending"
                pending.write_text(traceback.format_exc())
                pending.rename(pending.with_suffix(".txt"))
            raise


class FirstCome(MultiAsyncCollector):
    """TorchRL's ``MultiAsyncCollector`` with a place in the queue for every worker.

    TorchRL's has one place: a worker that finds it full for a second collects again, over the batch
    that it has.
    """

    @property
    def _queue_len(self) -> int:
        return self.num_workers


def end(collector: BaseCollector) -> None:
    """Ends a collector, and what brought the weights to its workers.

    TorchRL leaves the latter to ``__del__``: a thread that is begun there while Python ends may
    never start, and is waited for.
    """
    collector.shutdown()
    schemes = getattr(collector, "_weight_sync_schemes", None) or {}
    for scheme in schemes.values():
        scheme.shutdown()
