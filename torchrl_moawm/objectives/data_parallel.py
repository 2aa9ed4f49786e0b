"""Data-parallel training: means over the batches of every rank."""

from typing import TypeVar

from torchrl.objectives import LossModule

from torchrl_moawm._checks.tensors import check_option

Loss = TypeVar("Loss", bound=LossModule)


def set_data_parallel(loss: Loss, mode: bool = True) -> Loss:
    """Makes a loss, or every loss in a sum, divide by the number of valid elements of all ranks.

    Data-parallel training averages the gradients of K ranks. The mean of masked means is not the
    masked mean of the whole: a rank with few valid elements would count as much as one with many.
    Under this mode rank k returns

    ``L_k = K sum_{valid of k} x / (number of valid elements of all ranks)``

    so the average of the gradients over ranks, as ``DistributedDataParallel`` makes it, is exactly
    that of one process on the whole batch, and the average of ``L_k`` is its loss. Likewise
    advantages are normalised by the moments over all ranks, a ``value_norm`` sees the targets of
    all, and with ``reduction="sum"`` the average is the sum. The logs that are means become so,
    too; ``z_gap``, ``explained_variance`` and ``active_units`` remain those of the rank.

    Every rank of the default process group must call the losses in the same order; the counts are
    summed in ``forward``, a few numbers each. Beside ``SyncBatchNorm.convert_sync_batchnorm``,
    which does the same to the moments of a network's activations.

    Args:
        loss: Any loss; those of TorchRL in a sum are left as they are.
        mode: True for on.

    Returns:
        The loss itself.

    Raises:
        ValueError: ``mode`` is not a boolean.
        RuntimeError: From ``forward``, where ``torch.distributed.init_process_group`` was not
            called.

    Example:
        >>> from torchrl_moawm.modules import AgentGroup, make_moa_network
        >>> from torchrl_moawm.objectives import MOALoss
        >>> group = AgentGroup(n_agents=3, obs_dim=5, n_actions=4)
        >>> loss = MOALoss(make_moa_network(group))
        >>> set_data_parallel(loss).data_parallel
        True
    """
    check_option("mode", mode, (True, False))
    for module in loss.modules():
        if hasattr(module, "data_parallel"):
            module.data_parallel = mode
    return loss
