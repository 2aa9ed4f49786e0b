"""Many collectors as one: TorchRL's, with a bound on every wait, and workers that are replaced.

``Team`` stands where the Trainer expects a collector. Its workers act in ``num_envs`` /
``num_collectors`` environments each; a batch has as many frames as that of the single collector,
and the same shape, ``[envs, T]``: the worker dimension is merged into that of the environments.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import torch
from algorithms import Algorithm
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDictBase
from torchrl.collectors import (
    BaseCollector,
    Collector,
    MultiAsyncCollector,
    MultiSyncCollector,
)
from torchrl.collectors.distributed import RayCollector
from torchrl.envs import EnvBase, InitTracker, Transform

KINDS = ("single", "multi_sync", "multi_async", "ray")
HERE = Path(__file__).parent
ENDLESS = 2**62
"""Frames that TorchRL's own may collect: the Trainer says when it is enough."""
PATIENCE = 10
"""Seconds for a process to end."""


class WorkerError(RuntimeError):
    """What a worker raised, with its own traceback: a bug, which another worker would have too."""


class WorkersLostError(RuntimeError):
    """Workers were killed, or did not answer in time, more often than they are replaced."""


def share(config: DictConfig) -> int:
    """Environments of one worker.

    Raises:
        ValueError: There is no such collector, or the environments cannot be divided.
    """
    kind, workers, envs = config.collector, config.num_collectors, config.task.num_envs
    if kind not in KINDS:
        raise ValueError(f"Unknown collector {kind!r}; there are {', '.join(KINDS)}.")
    if workers < 1 or (kind == "single" and workers > 1):
        raise ValueError(f"Expected num_collectors to be 1 or more, 1 for single, got {workers}.")
    if envs % workers:
        raise ValueError(
            f"Expected task.num_envs to be a multiple of num_collectors, got {envs} and {workers}: "
            "a batch would have other frames than that of the single collector."
        )
    return envs // workers


def make_collector(
    config: DictConfig,
    env: EnvBase,
    algorithm: Algorithm,
    make_env: Callable[[DictConfig, int, int], EnvBase],
) -> Collector | Team:
    """The collector that the configuration names; a ``Team`` starts its workers when iterated.

    Args:
        config: The configuration.
        env: The single collector's; for the others, one like those of the workers.
        algorithm: What acts.
        make_env: Makes a worker's environment.
    """
    frames = config.task.num_envs * config.task.max_steps
    common = {
        "frames_per_batch": frames,
        "device": config.device,
        "auto_register_policy_transforms": False,
    }
    if config.collector == "single":
        return Collector(env, algorithm.policy, total_frames=config.total_frames, **common)
    memory: list[Transform] = []
    if algorithm.system is not None:
        parts = [m for one in algorithm.system.groups.values() for m in one.memories]
        memory = [InitTracker(), *(m.make_tensordict_primer() for m in parts)] if parts else []
    acting = OmegaConf.merge(config, {"device": config.worker_device or config.device})
    create = partial(make_worker_env, make_env, acting, share(config), memory=memory)
    return Team(config, create, algorithm.policy, {**common, "device": acting.device})


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
    """Of a worker that is started when the run has seen so many frames: none is used twice."""
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
        """Of the process."""
        return os.getpid()

    def iterator(self) -> Iterator[TensorDictBase]:
        """TorchRL's batches."""
        try:
            yield from super().iterator()
        except Exception:
            if self.report is not None:
                pending = self.report / f"{self.worker_idx}.pending"
                pending.write_text(traceback.format_exc())
                pending.rename(pending.with_suffix(".txt"))
            raise


class FirstCome(MultiAsyncCollector):
    """TorchRL's, that throws nothing away.

    There one place is in the queue: while the learner is busy the second worker waits a second for
    it, and then collects anew over what it has.
    """

    @property
    def _queue_len(self) -> int:
        return self.num_workers


class Team:
    """What the Trainer takes for a collector: workers in processes or on machines of their own.

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
                    self.join_cluster()
                return self.bounded(self.next_batch)
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
            parts = parts[0].unbind(0)  # [workers, envs, T]
        batch = torch.cat(parts, 0)
        batch.names = [None, "time"]  # the advantage looks for it
        return batch.to(self.config.device)

    def update_policy_weights_(self, *_: Any) -> None:
        """Nothing: the workers get the newest before every batch; after a load the Trainer asks."""

    def start(self) -> BaseCollector:
        """The workers."""
        seeds = [worker_seed(self.config.seed, i, self.frames) for i in range(self.workers)]
        create = [partial(self.create, seed) for seed in seeds]
        self.before = active_children()
        if self.kind == "ray":
            return self.start_ray(create)
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

    def start_ray(self, create: list[Callable[[], EnvBase]]) -> BaseCollector:
        """Workers in the cluster."""
        settings = dict(self.settings)
        own = {"auto_register_policy_transforms": settings.pop("auto_register_policy_transforms")}
        return RayCollector(
            create,
            self.policy,
            total_frames=ENDLESS,
            sync=True,
            collector_class=Worker,
            collector_kwargs=own,
            remote_configs={"num_cpus": 1, "num_gpus": self.config.ray.gpus_per_worker},
            **settings,
        )

    def join_cluster(self) -> None:
        """The one at ``ray.address``, or one that is started here.

        Not in a thread that ends: what Ray starts ends with the thread that started it.
        """
        import ray  # an extra

        if ray.is_initialized():
            return
        asked = self.config.ray
        path = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        memory = {"object_store_memory": asked.object_store_mb * 2**20}
        here = {"num_cpus": self.workers, "include_dashboard": False, **memory}
        ray.init(
            asked.address or "local",
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, path))}},
            logging_level="error",
            **(here if asked.address is None else {}),
        )
        self.cluster = ray

    def bounded(self, call: Callable[[], Any]) -> Any:
        """What the call returns, if it does in time and the workers live."""
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
                    raise self.explained(RuntimeError("a process ended")) from None
                if time.monotonic() > end:
                    why = f"no batch within collector_timeout={limit} seconds."
                    raise WorkersLostError(f"Lost the workers of {self.kind}: {why}") from None
                continue
            if error is not None:
                raise self.explained(error) from error
            return result

    def dead(self) -> bool:
        """Whether a process has ended."""
        try:
            procs = getattr(self.collector, "procs", [])
            return any(one.exitcode is not None for one in procs if not one._closed)
        except ValueError:  # closed meanwhile by TorchRL, which will raise
            return False

    def explained(self, error: Exception) -> Exception:
        """What a worker raised, or that workers are lost, or the error itself."""
        raised = sorted(Path(self.reports.name).glob("*.txt")) if self.reports else []
        if raised:
            return WorkerError(f"Worker {raised[0].stem} raised:\n\n{raised[0].read_text()}")
        lost: tuple[type[Exception], ...] = (EOFError, ConnectionError)
        if self.kind == "ray":
            from ray.exceptions import RayError, RayTaskError

            if isinstance(error, RayTaskError) or "creation task" in str(error):
                return WorkerError(f"A worker raised:\n\n{error}")
            lost = (*lost, RayError)
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
        if hard:
            for process in children:
                process.kill()
                process.join(PATIENCE)
        if collector is not None:
            collector.shutdown()
        if self.cluster is not None:
            self.cluster.shutdown()
            self.cluster = None
        if self.reports is not None:
            self.reports.cleanup()
            self.reports = None
        torch.set_num_threads(threads)  # which TorchRL's shutdown changes

    def state_dict(self) -> dict[str, Any]:
        """Nothing of the workers: their episodes are not kept."""
        return {"frames": self.frames}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Seeds that were not used yet."""
        self.frames = state_dict["frames"]
