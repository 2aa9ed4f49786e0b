"""Numbers and rows of every process that trains."""

import torch
import torch.distributed as dist
from torch import Tensor


def n_ranks() -> int:
    """The number of processes that train together.

    Raises:
        RuntimeError: There is no process group.
    """
    if not dist.is_initialized():
        raise RuntimeError(
            "A loss under set_data_parallel() needs torch.distributed.init_process_group() first, "
            "as torchrun prepares it; in one process call set_data_parallel(loss, False)."
        )
    return dist.get_world_size()


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of every rank's tensor of this shape; without gradient."""
    n_ranks()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def rank_share(count: Tensor) -> Tensor:
    """This rank's valid elements over the mean of every rank's; 0 where nobody has one."""
    return n_ranks() * count / sum_over_ranks(count).clamp_min(1)


def gather_rows(x: Tensor) -> Tensor:
    """Every rank's rows ``[R, *F]``, R of its own, one below the other; without gradient."""
    sizes = torch.zeros(n_ranks(), dtype=torch.long, device=x.device)
    sizes[dist.get_rank()] = len(x)
    lengths = sum_over_ranks(sizes).tolist()
    padded = x.detach().new_zeros((max(lengths), *x.shape[1:]))
    padded[: len(x)] = x.detach()
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
