"""Steps of a trajectory that predictions over several of them can be compared with."""

import torch
from torch import Tensor

from torchrl_moawm._checks.tensors import check_mask, check_same_shape, check_size


def unbroken_steps(there: Tensor, ends: Tensor, horizon: int) -> Tensor:
    """Mask of the predictions over several steps that lie within one trajectory.

    ``m_{t, h} = prod_{k=0}^{h-1} v_{t+k} prod_{k=0}^{h-2} (1 - e_{t+k})``: the prediction from t of
    t+h counts if the agent is there (v) at each of the h steps, and no trajectory ends (e) before
    the last of them; it is within the sequence. For ``h = 1`` this is ``v_t``.

    Args:
        there: True where the agent is there at t, boolean ``[..., T, N]``.
        ends: True where its trajectory ends with step t, so that t+1 belongs to another one,
            boolean ``[..., T, N]``.
        horizon: ``H``.

    Returns:
        Boolean ``[..., T, N, H]``.

    Raises:
        ValueError: The shapes differ, or ``horizon`` is below 1.
        TypeError: One of them is not boolean.

    Example:
        >>> import torch
        >>> there, ends = torch.ones(3, 1).bool(), torch.tensor([[False], [True], [False]])
        >>> unbroken_steps(there, ends, 2)[:, 0].int()  # of steps 0, 1, 2: one step, and two
        tensor([[1, 1],
                [1, 0],
                [1, 0]], dtype=torch.int32)
    """
    check_size(horizon=horizon)
    check_same_shape(there=there, ends=ends)
    check_mask(there=there, ends=ends)
    goes_on, found = there & ~ends, [there]
    for _ in range(1, horizon):
        later = torch.cat([found[-1], torch.zeros_like(there[..., :1, :])], -2)[..., 1:, :]
        found.append(goes_on & later)
    return torch.stack(found, -1)
