"""Many collectors as one: TorchRL's, with a bound on every wait, and workers that are replaced."""

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.collectors import BaseCollector, MultiSyncCollector
from torchrl.envs import EnvBase

from torchrl_moawm.train.parallel import on_ray
from torchrl_moawm.train.parallel.worker import (
    FirstCome,
    Worker,
    WorkerError,
    WorkersLostError,
    end,
    worker_seed,
)

KILL_TIMEOUT = 10
"""Seconds that a process has to end before it is left alone."""


class WorkerPool:
    """Several workers as one collector, in processes or on machines of their own.

    Before every batch the workers get the policy's weights. Whatever TorchRL waits for is waited
    for in a thread beside, with an eye on the processes and on the clock: workers that were killed
    or do not answer within ``collector_timeout`` seconds are all replaced, with new seeds, and the
    batch is collected again, ``collector_restarts`` times in a run.

    Args:
        config: The configuration.
        create: Makes a worker's environment for a seed.
        policy: Acts.
        settings: Of every collector.
    """

    init_random_frames = 0  # the Trainer asks

    def __init__(
        self,
        config: DictConfig,
        create: Callable[[int], EnvBase],
        policy: torch.nn.Module,
        settings: Mapping[str, Any],
    ) -> None:
        self.config, self.create, self.policy, self.settings = config, create, policy, settings
        self.kind, self.workers = config.collector, config.num_collectors
        self.pieces = self.workers if self.kind == "multi_async" else 1  # of a batch
        self.restarts = config.collector_restarts
        self.frames = 0
        self.collector: BaseCollector | None = None
        self.reports: tempfile.TemporaryDirectory[str] | None = None
        self.cluster: Any = None
        self.before = active_children()

    def __iter__(self) -> Iterator[TensorDictBase]:
        """Batches ``[envs, T]``, without end."""
        while True:
            batch = self.collect()
            self.frames += batch.numel()
            yield batch

    def collect(self) -> TensorDictBase:
        """One whole batch, by other workers where these are lost.

        Raises:
            WorkerError: A worker raised.
            WorkersLostError: They are lost too often.
        """
        while True:
            try:
                if self.kind == "ray" and self.collector is None:
                    self.cluster = self.cluster or on_ray.join_cluster(
                        self.config.ray, self.workers
                    )
                return self.call_with_timeout(self.next_batch)
            except WorkersLostError as error:
                self.shutdown(hard=True)
                if self.restarts < 1:
                    raise
                self.restarts -= 1
                print(f"{error} Others take their place; {self.restarts} more times.", flush=True)
            except BaseException:
                self.shutdown(hard=True)
                raise

    def next_batch(self) -> TensorDictBase:
        """The newest weights to the workers, then what they collect with them."""
        if self.collector is None:
            self.collector = self.start()
            self.iterator = iter(self.collector)
        self.collector.update_policy_weights_()
        parts = [next(self.iterator) for _ in range(self.pieces)]
        if self.kind != "multi_async":
            parts = parts[0].unbind(0)  # of the workers; an environment alone gives [T]
        if self.kind == "ray":
            parts = on_ray.told_apart(parts)
        batch: Any = torch.cat([part.reshape(-1, self.config.task.max_steps) for part in parts])
        batch.names = [None, "time"]  # the advantage looks for it
        return batch.to(self.config.device)

    def update_policy_weights_(self, *_: Any) -> None:
        """Does nothing: workers get the newest weights before every batch."""

    def start(self) -> BaseCollector:
        """Starts the workers."""
        seeds = [worker_seed(self.config.seed, i, self.frames) for i in range(self.workers)]
        create: list[Callable[[], EnvBase]] = [partial(self.create, seed) for seed in seeds]
        self.before = active_children()
        if self.kind == "ray":
            return on_ray.start_on_ray(self.config, create, self.policy, self.settings)
        self.reports = tempfile.TemporaryDirectory()
        settings = dict(self.settings)
        if self.kind == "multi_async":
            settings["frames_per_batch"] //= self.workers  # there, of each
        return {"multi_sync": MultiSyncCollector, "multi_async": FirstCome}[self.kind](
            create,
            self.policy,
            total_frames=-1,
            collector_class=partial(Worker, report=Path(self.reports.name)),
            num_threads=torch.get_num_threads(),  # of this process, as they are
            **settings,
        )

    def call_with_timeout(self, call: Callable[[], Any]) -> Any:
        """Returns what the call returns, if it does in time and the workers live."""
        done: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                done.put((call(), None))
            except Exception as error:
                done.put((None, error))

        threading.Thread(target=work, daemon=True).start()  # one that hangs ends with the process
        limit = self.config.collector_timeout
        end = time.monotonic() + limit
        while True:
            try:
                result, error = done.get(timeout=0.5)
            except queue.Empty:
                if self.dead():
                    raise self.classify_error(RuntimeError("a process ended")) from None
                if time.monotonic() > end:
                    why = f"no batch within collector_timeout={limit} seconds."
                    raise WorkersLostError(f"Lost the workers of {self.kind}: {why}") from None
                continue
            if error is not None:
                raise self.classify_error(error) from error
            return result

    def dead(self) -> bool:
        """Whether a process has ended."""
        try:
            procs = getattr(self.collector, "procs", [])
            return any(one.exitcode is not None for one in procs if not one._closed)
        except ValueError:  # closed meanwhile by TorchRL, which will raise
            return False

    def classify_error(self, error: Exception) -> Exception:
        """Turns an error into a ``WorkerError``, a ``WorkersLostError``, or leaves it as it is."""
        raised = sorted(Path(self.reports.name).glob("*.txt")) if self.reports else []
        if raised:
            return WorkerError(f"Worker {raised[0].stem} raised:\n\n{raised[0].read_text()}")
        if self.kind == "ray" and on_ray.raised_on_ray(error):
            return WorkerError(f"A worker raised:\n\n{error}")
        lost: tuple[type[Exception], ...] = (EOFError, ConnectionError)
        lost = (*lost, *on_ray.ray_errors()) if self.kind == "ray" else lost
        if isinstance(error, lost) or isinstance(error.__cause__, lost) or self.dead():
            return WorkersLostError(f"Lost workers of {self.kind}: {error}")
        return error

    def shutdown(self, *, hard: bool = False, **_: Any) -> None:
        """Ends every worker, and the cluster that was started for them; may be called again.

        Args:
            hard: Whether they are killed, rather than asked.
            **_: What the Trainer passes.
        """
        threads = torch.get_num_threads()
        collector, self.collector = self.collector, None
        children = getattr(collector, "procs", None)
        if children is None:  # Ray's are none, those of a start that hangs nobody knows
            children = [p for p in active_children() if p not in self.before]
        children = [p for p in children if not p._closed]
        for process in children if hard else ():
            process.kill()
            process.join(KILL_TIMEOUT)
        if collector is not None:
            end(collector)
        if self.cluster is not None:
            self.cluster.shutdown()
            self.cluster = None
        if self.reports is not None:
            self.reports.cleanup()
            self.reports = None
        torch.set_num_threads(threads)  # which TorchRL's shutdown changes

    def state_dict(self) -> dict[str, Any]:
        """Frames collected; the workers' episodes are not kept."""
        return {"frames": self.frames}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the frames, so that seeds not used yet come next."""
        self.frames = state_dict["frames"]
