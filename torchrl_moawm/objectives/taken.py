"""The check of an action that a policy has taken."""

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torch.distributions import Categorical
from torchrl.modules import MaskedCategorical, MaskedOneHotCategorical, OneHotCategorical

from torchrl_moawm._checks.tensors import check_integer, check_shape
from torchrl_moawm._checks.values import check_allowed, check_index, check_one_hot


def as_integer(action: Tensor) -> Tensor:
    """An action as distributions take it: a one-hot one may be boolean, which is TorchRL's type."""
    return action.long() if action.dtype == torch.bool else action


def index_of(one_hot: Tensor) -> Tensor:
    """The choice of a one-hot action ``[..., A]``."""
    return as_integer(one_hot).argmax(-1)


def check_taken(
    name: NestedKey,
    action: Tensor,
    dist: Any,
    inputs: TensorDictBase,
    mask: NestedKey,
    action_mask: NestedKey,
) -> None:
    """Refuses an action that the policy cannot have taken.

    Args:
        name: Of the entry.
        action: The action.
        dist: The policy's distribution.
        inputs: What the policy has read, with the masks.
        mask: The entry that says who acts, which may be absent.
        action_mask: The entry that says which actions are allowed, which may be absent.
    """
    one_hot = isinstance(dist, (OneHotCategorical, MaskedOneHotCategorical))
    event = dist.logits.shape[-1:] if one_hot else dist.event_shape
    check_shape("action", action, (*dist.batch_shape, *event), "as the actor's")
    if one_hot:
        check_one_hot(name, action, inputs.get(mask, None))
        index = index_of(action)
    elif isinstance(dist, (Categorical, MaskedCategorical)):
        check_integer(action=action)
        check_index(name, action, dist.logits.shape[-1])
        index = action
    else:
        return
    allowed = inputs.get(action_mask, None)
    if allowed is not None:
        check_allowed(action_mask, name, allowed, index)
