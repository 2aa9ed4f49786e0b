"""State of a run beside its networks: collector, sampler, random states, world."""

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict, TensorDictBase, is_tensor_collection
from torchrl.checkpoint import Checkpoint, GlobalRNGState
from torchrl.collectors import Collector
from torchrl.data import ReplayBuffer
from torchrl.envs import EnvBase
from torchrl.trainers import OptimizationStepper, TrainerHookBase

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.checkpoints.files import Adapter
from torchrl_moawm.train.checkpoints.vmas_state import VmasRandomState, VmasWorld
from torchrl_moawm.train.parallel.ranks import Learners, OtherRanks
from torchrl_moawm.train.parallel.worker_pool import WorkerPool
from torchrl_moawm.train.tasks.environment import SUITES


class CollectorState:
    """Progress of a collector, and the step from which it goes on.

    Args:
        collector: The collector.
        exact: Whether the step is kept; else the environments begin again.
    """

    def __init__(self, collector: Collector, exact: bool) -> None:
        self.collector = collector
        self.exact = exact

    def state_dict(self) -> dict[str, Any]:
        """TorchRL's own has no step, and the policy, which is in the loss."""
        one = self.collector
        state = {"frames": one._frames, "iter": one._iter, "traj_pool": one._traj_pool.state_dict()}
        return {**state, "carrier": plain(one._carrier)} if self.exact else state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the state."""
        one = self.collector
        one._frames, one._iter = state_dict["frames"], state_dict["iter"]
        one._traj_pool.load_state_dict(state_dict["traj_pool"])
        if self.exact:
            one._carrier = unplain(state_dict["carrier"], one._carrier.device)


class SamplerState:
    """Order of the samples that a replay buffer still has to give.

    What it holds is not kept: a checkpoint is at the end of a batch, the next fills all of it.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.sampler, self.writer = buffer.sampler, buffer.writer

    def state_dict(self) -> dict[str, Any]:
        """The rest of the permutation, and where the next batch is written."""
        return {"sampler": self.sampler.state_dict(), "writer": self.writer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the state."""
        self.sampler.load_state_dict(state_dict["sampler"])
        self.writer.load_state_dict(state_dict["writer"])


def plain(tensordict: TensorDictBase) -> dict[str, Any]:
    """A tensordict as nested dictionaries of tensors, which ``weights_only`` admits."""
    entries = {k: plain(v) if is_tensor_collection(v) else v for k, v in tensordict.items()}
    return {"batch_size": list(tensordict.batch_size), "entries": entries}


def unplain(state: Mapping[str, Any], device: torch.device | None) -> TensorDict:
    """Inverse of ``plain``."""
    entries = {
        key: unplain(value, device) if isinstance(value, Mapping) else value
        for key, value in state["entries"].items()
    }
    return TensorDict(entries, batch_size=state["batch_size"], device=device)


def make_checkpoint(
    config: DictConfig,
    algorithm: Algorithm,
    env: EnvBase,
    collector: Collector | WorkerPool,
    buffer: ReplayBuffer,
    stepper: OptimizationStepper,
    watch: TrainerHookBase,
    learners: Learners,
    imagination: TrainerHookBase | None = None,
) -> Checkpoint:
    """Collects what the Trainer does not add itself (losses, progress, logs, stepper's count)."""
    checkpoint = Checkpoint().register_adapter(object, Adapter())
    here = isinstance(collector, Collector)
    vmas = SUITES[config.task.suite].saved and here  # else the worlds are the workers'
    checkpoint.register("optimizer", stepper.optimizer)
    own = {
        "collector": CollectorState(collector, exact=vmas) if here else collector,
        "replay_buffer": SamplerState(buffer),
        "random_state": GlobalRNGState(),
        "watch": watch,
    }
    if imagination is not None:  # each rank remembers what it has seen itself
        own["imagination"] = imagination
    if vmas:
        own |= {"vmas_random_state": VmasRandomState(), "vmas_world": VmasWorld(env)}
    for name, component in own.items():
        checkpoint.register(name, component)
    if learners.count > 1:
        checkpoint.register("other_ranks", OtherRanks(learners, own))
    for index, scheduled in enumerate(algorithm.scheduled):
        checkpoint.register(f"scheduled_{index}", scheduled)
    return checkpoint
