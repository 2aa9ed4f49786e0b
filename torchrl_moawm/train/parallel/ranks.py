"""Several processes that train one set of weights, as ``torchrun`` starts them.

Each rank acts in its share of the environments and learns from what it has seen there. The losses
divide by the counts of all ranks (``set_data_parallel``) and the gradients are averaged before
every step: K ranks take the step of one process on all their minibatches, and their weights stay
equal. The first rank alone logs, evaluates and saves.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.checkpoint import CheckpointError

SEEDS = 100_000
"""Between the seeds of two ranks."""


def n_learners() -> int:
    """Number of processes that torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the rank that logs and saves."""
    return os.environ.get("RANK", "0") == "0"


def check_count(written_by: int, source: Path) -> None:
    """A run goes on with as many ranks as it had.

    Raises:
        CheckpointError: There are more or fewer.
    """
    if written_by != n_learners():
        raise CheckpointError(
            f"{source}: written by {written_by} ranks, here are {n_learners()}. Every rank has its "
            f"own environments: go on with torchrun --nproc-per-node {written_by}."
        )


@contextmanager
def rank_zero_run_dir() -> Iterator[None]:
    """The first rank has the run's folder; what Hydra writes for another is thrown away.

    Raises:
        ValueError: A sweep: it would start many runs in one group of ranks.
    """
    if n_learners() > 1 and {"-m", "--multirun"}.intersection(sys.argv):
        raise ValueError("A sweep (-m) starts runs of one process: use torchrun for each run.")
    if is_first():
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        nothing = ("hydra.output_subdir=null", "hydra/job_logging=disabled")
        sys.argv += [f"hydra.run.dir={folder}", *nothing]
        yield


class Learners:
    """The ranks together. Whatever is done here all of them do, in the same order.

    Args:
        device: Of the weights.
        timeout: Seconds that one rank waits for another; then it stops, and with it the run.

    Attributes:
        count: How many there are; 1 without torchrun.
        rank: Which this is; 0 is the first.
    """

    def __init__(self, device: str = "cpu", timeout: float = 300.0) -> None:
        self.count, self.rank = n_learners(), int(os.environ.get("RANK", "0"))
        if self.count > 1:
            backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))

    def share(self, config: DictConfig) -> DictConfig:
        """The configuration of this rank: its share of the environments, seeds of its own.

        Raises:
            ValueError: The environments cannot be divided.
        """
        if self.count == 1:
            return config
        num_envs = config.task.num_envs
        if num_envs % self.count:
            raise ValueError(
                f"Expected task.num_envs to be a multiple of the {self.count} processes of "
                f"torchrun, got {num_envs}."
            )
        own = {"seed": config.seed + SEEDS * self.rank}
        own["progress_bar"] = config.progress_bar and self.rank == 0
        if torch.device(config.device).type == "cuda":
            own["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(own["device"])
        return OmegaConf.merge(config, own, {"task": {"num_envs": num_envs // self.count}})

    def broadcast_weights(self, module: nn.Module) -> None:
        """Copies every weight and buffer of the first rank to the others."""
        if self.count > 1:
            for x in (*module.parameters(), *module.buffers()):
                dist.broadcast(x.data, 0)

    def average(self, parameters: Iterable[nn.Parameter], losses: TensorDictBase) -> None:
        """Gradients, and every term that is one number, averaged over ranks, in one message."""
        grads = [p.grad for p in parameters if p.grad is not None]
        names = [name for name, each in losses.items() if each.ndim == 0]
        parts = [*grads, *(losses[name].to(grads[0].dtype) for name in names)]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        means: list[Tensor] = list((flat / self.count).split([part.numel() for part in parts]))
        for grad, mean in zip(grads, means, strict=False):
            grad.copy_(mean.view_as(grad))
        for name, mean in zip(names, means[len(grads) :], strict=True):
            losses.set(name, mean.view(()))

    def average_metrics(self, hook: Callable[..., Any]) -> Callable[..., dict[str, float]]:
        """The hook, whose figures are then the mean of those ranks that have them."""
        if self.count == 1:
            return hook

        def of_all(*arguments: Any) -> dict[str, float]:
            found: list[Any] = [None] * self.count
            dist.all_gather_object(found, hook(*arguments) or {})
            names = dict.fromkeys(name for each in found for name in each)
            values = {name: [each[name] for each in found if name in each] for name in names}
            return {name: sum(those) / len(those) for name, those in values.items()}

        return of_all

    def end(self) -> None:
        """Leaves the process group."""
        if self.count > 1:
            dist.destroy_process_group()


class OtherRanks:
    """State of the other ranks in the checkpoint of the first.

    Args:
        learners: The ranks.
        components: The parts of a checkpoint that differ between ranks, by name.
    """

    def __init__(self, learners: Learners, components: Mapping[str, Any]) -> None:
        self.learners, self.components = learners, components
        self.states: dict[str, Any] = {}

    def gather(self) -> None:
        """Brings them to the first rank; every rank calls it before a checkpoint is written."""
        own = {name: each.state_dict() for name, each in self.components.items()}
        found = [None] * self.learners.count if self.learners.rank == 0 else None
        dist.gather_object(own if self.learners.rank else None, found)
        self.states = {str(rank): each for rank, each in enumerate(found or []) if rank}

    def state_dict(self) -> dict[str, Any]:
        """States of the other ranks, by rank, as gathered."""
        return self.states

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keeps them until everything of the first rank is read."""
        self.states = dict(state_dict)

    def restore(self) -> None:
        """This rank's own over those of the first."""
        for name, state in self.states.get(str(self.learners.rank), {}).items():
            self.components[name].load_state_dict(state)
