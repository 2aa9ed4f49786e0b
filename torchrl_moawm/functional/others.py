"""Gathers the other agents' entries."""

import torch
from torch import Tensor


def gather_others(x: Tensor, agent_dim: int) -> Tensor:
    """Entries of the other agents, for every agent.

    ``y[..., i, m, :] = x[..., j, :]`` with ``j`` the m-th index of ``0 .. N-1`` without ``i``.

    Args:
        x: ``[*B, N, *F]``, one entry per agent; carries gradient.
        agent_dim: The dimension of ``x`` that holds the ``N`` agents; may be negative.

    Returns:
        ``[*B, N, N-1, *F]``, the others in ascending index. One agent has none: ``[*B, 1, 0, *F]``.

    Raises:
        ValueError: ``agent_dim`` is not a dimension of ``x``.

    Example:
        >>> import torch
        >>> gather_others(torch.tensor([10, 20, 30]), agent_dim=0)
        tensor([[20, 30],
                [10, 30],
                [10, 20]])
    """
    if not -x.ndim <= agent_dim < x.ndim:
        raise ValueError(f"Expected agent_dim within the shape {list(x.shape)}, got {agent_dim}.")
    agent_dim %= x.ndim
    n_agents = x.shape[agent_dim]
    agents = torch.arange(n_agents, device=x.device).unsqueeze(-1)  # [N, 1]
    slots = torch.arange(n_agents - 1, device=x.device)  # [N - 1]
    index = slots + (slots >= agents)  # [N, N - 1], skips the agent itself
    others = x.index_select(agent_dim, index.flatten())
    shape = (*x.shape[:agent_dim], n_agents, n_agents - 1, *x.shape[agent_dim + 1 :])
    return others.reshape(shape)
