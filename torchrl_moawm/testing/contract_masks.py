"""Masks that a loss must honour, and what stands behind each."""

import torch
from tensordict import TensorDictBase, is_tensor_collection, unravel_key
from torch import Tensor
from torchrl.objectives import LossModule

from torchrl_moawm._keys import SAMPLES, leaf_name
from torchrl_moawm.testing.contract_probes import Key, data_keys, in_keys, under

CHOICES = ("action", "action_log_prob", "advantage")  # real where an agent acts, not where it is


def groups(loss: LossModule, batch: TensorDictBase) -> list[Key]:
    """The groups of agents a loss reads: tensordicts with one batch dimension more."""
    found: list[Key] = []
    for read in in_keys(loss):
        key = read[1:] if read[0] == "next" else read
        for depth in range(1, 1 if isinstance(key, str) else len(key)):
            entry = batch.get(key[:depth], None)
            if is_tensor_collection(entry) and entry.ndim > batch.ndim:
                found.append(unravel_key(key[:depth]))
                break
    return list(dict.fromkeys(found))


def masks(loss: LossModule, batch: TensorDictBase) -> dict[Key, tuple[torch.Size, list[Key]]]:
    """Masks that a loss must honour: the shape of each, and the entries behind it."""
    found: dict[Key, tuple[torch.Size, list[Key]]] = {SAMPLES: (batch.shape, data_keys(batch))}
    for group in groups(loss, batch):
        shape, read = batch.get(group).shape, in_keys(loss)
        now = [under(group, key) for key in data_keys(batch.get(group))]
        previous = [key for key in now if leaf_name(key).startswith("previous_")]
        after = batch.get(under("next", group), None)
        then = [] if after is None else [under("next", under(group, k)) for k in data_keys(after)]
        behind = [key for key in now + then if not leaf_name(key).startswith("previous_")]
        chosen = [key for key in behind if leaf_name(key) in CHOICES and key[0] != "next"]
        did = [key for key in previous if leaf_name(key) == "previous_action"]
        stands = {"mask": behind, "previous_mask": previous}
        if batch.get(under(group, "alive"), None) is not None and under(group, "alive") in read:
            stands |= {"mask": chosen, "alive": behind}
        saw = under(group, "previous_alive")
        if batch.get(saw, None) is not None and saw in read:
            stands |= {
                "previous_mask": did,
                "previous_alive": [k for k in previous if k not in did],
            }
        for name, entries in stands.items():
            if name == "mask" or under(group, name) in read:
                found[under(group, name)] = shape, entries
    return found


def pattern(shape: torch.Size, device: torch.device | None) -> Tensor:
    """A mask with a third of the elements False, the same for every group of that size.

    It is irregular, so that a mean over rows of means over agents is another than that of all.
    """
    k = torch.arange(shape.numel(), device=device)
    return ((k != 1) & (k * k % 7 * k % 11 % 3 != 1)).reshape(shape)
