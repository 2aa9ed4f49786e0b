"""What a sum asks of its losses: their names, their shares of the rows, the names of outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tensordict import TensorDictBase
from torch import nn
from torchrl.objectives import LossModule

from torchrl_moawm.objectives.scheduled import ScheduledLoss


def check_names(losses: Mapping[str, LossModule]) -> None:
    """Refuses names that a module's parts cannot have.

    Raises:
        ValueError: The message says which name, and why.
    """
    taken = nn.ModuleDict()
    for name in losses:
        if not isinstance(name, str) or not name or "." in name or hasattr(taken, name):
            raise ValueError(
                f"{name!r} cannot be the name of a loss (or of a group that has one): expected a "
                "word without a dot that torch's modules do not use themselves."
            )


def check_rows(rows: Mapping[str, float], losses: Mapping[str, LossModule]) -> dict[str, float]:
    """Refuses a share that is none, or of a loss that is not there.

    Raises:
        KeyError: A name is of no loss.
        ValueError: A share is not above 0 and at most 1.
    """
    for name, share in rows.items():
        if name not in losses:
            raise KeyError(f"rows names the loss {name!r}; there are {list(losses)}.")
        if not 0.0 < share <= 1.0:
            raise ValueError(f"Expected a share of the rows in (0, 1], got {share} for {name!r}.")
    return dict(rows)


def first_rows(batch: TensorDictBase, share: float) -> TensorDictBase:
    """The first rows of a batch: at least one."""
    if share == 1.0:
        return batch
    if not batch.batch_dims:
        raise ValueError(
            f"A share of the rows, {share}, is of a batch: give a TensorDict with a batch size."
        )
    return batch[: max(round(share * batch.shape[0]), 1)]


def output_names(losses: Mapping[str, LossModule]) -> dict[str, dict[str, str]]:
    """The name of every output of every loss in the sum: by loss, then by its own name."""
    every = {
        name: loss._every_key() if isinstance(loss, ScheduledLoss) else loss.out_keys
        for name, loss in losses.items()
    }  # also those that are not selected: what is returned keeps its name
    count = Counter(key for keys in every.values() for key in keys)
    names = {
        name: {key: key if count[key] == 1 else f"{key}_{name}" for key in keys}
        for name, keys in every.items()
    }
    counted = Counter(new for of_one in names.values() for new in of_one.values())
    twice = sorted(new for new, times in counted.items() if times > 1)
    if twice:
        raise ValueError(f"Outputs of different losses would both be {twice}: rename a loss.")
    return names
