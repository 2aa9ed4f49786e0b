"""A batch as minibatches: of samples, or of sequences where there is a memory."""

from collections.abc import Iterable

import torch
from omegaconf import DictConfig
from tensordict import NestedKey, TensorDictBase, is_tensor_collection
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.objectives import LossModule


def sequence_length(config: DictConfig) -> int:
    """Steps of a row of a minibatch: 1 without a memory."""
    recurrent = config.algorithm.get("recurrent", False)
    return config.algorithm.sequence_length if recurrent else 1


def make_buffer(config: DictConfig, steps: int, minibatch: int) -> TensorDictReplayBuffer:
    """Holds so many team steps and gives them as shuffled minibatches of so many."""
    length = sequence_length(config)
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(steps // length, device=config.device),
        sampler=SamplerWithoutReplacement(drop_last=True),
        batch_size=max(minibatch // length, 1),
    )


def sample(buffer: TensorDictReplayBuffer, keys: Iterable[NestedKey]) -> TensorDictBase:
    """The next minibatch, with these entries of those that are there.

    Beside ``buffer.sample()``, which gathers every entry: most epochs read half of them.
    """
    index, _ = buffer.sampler.sample(buffer.storage, buffer.batch_size)
    return buffer.storage[:].select(*keys, strict=False)[index]


def permuted(batch: TensorDictBase) -> TensorDictBase:
    """A minibatch ``[B]`` of step t with the agents of each group in another order, one for all.

    Agents of a group are alike: what one of them has learned from, any of them may.
    """
    for name, agents in batch.items():
        if not is_tensor_collection(agents) or name == "collector":
            continue
        entries = [entry for entry in agents.values() if not is_tensor_collection(entry)]
        if not entries:  # it holds nested groups
            permuted(agents)
            continue
        order = torch.randperm(entries[0].shape[1], device=entries[0].device)
        agents.apply_(lambda entry, order=order: entry[:, order])
    return batch


def rows(config: DictConfig, loss_module: LossModule, batch: TensorDictBase) -> TensorDictBase:
    """What a loss reads of a batch ``[E, T]``, as samples ``[E T]`` or as sequences."""
    batch, length = batch.select(*loss_module.in_keys, strict=False), sequence_length(config)
    if not config.algorithm.get("recurrent", False):
        return batch.reshape(-1)
    return batch.reshape(-1)[: batch.numel() // length * length].reshape(-1, length)
