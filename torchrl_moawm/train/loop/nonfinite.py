"""Steps whose loss or gradient is NaN or infinite: skipped, counted, named."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.objectives import LossModule

from torchrl_moawm.train.checkpoints.files import atomic_save
from torchrl_moawm.train.checkpoints.run_state import plain

LOG = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


class NonFinite:
    """Finds steps that must not be taken, counts and names them, and gives up after some in a row.

    It looks at what is there anyway: the sum of the losses and the gradient norm of each network.

    Args:
        limit: Steps in a row at which the run stops.
        folder: Where ``nonfinite.pt`` goes then; nowhere, if None.
    """

    def __init__(self, limit: int = 10, folder: Path | None = None) -> None:
        if limit < 1:
            raise ValueError(f"Expected max_nonfinite_steps to be at least 1, got {limit}.")
        self.limit = limit
        self.folder = folder
        self.steps = 0
        self.in_a_row = 0
        self.by_name: Counter[str] = Counter()

    def found(self, total: Tensor, norms: Mapping[str, Tensor], losses: TensorDictBase) -> bool:
        """Whether the step is to be skipped.

        Args:
            total: What was minimised, a scalar.
            norms: The gradient norm of each network.
            losses: Every term, to name the culprit.
        """
        if torch.stack([total.detach(), *norms.values()]).isfinite().all():
            self.in_a_row = 0
            return False
        terms = {key: each for key, each in losses.items() if key.startswith("loss")}
        culprits = [key for key, each in {**terms, **norms}.items() if not each.isfinite().all()]
        self.steps += 1
        self.in_a_row += 1
        self.by_name.update(culprits)
        LOG.warning("Step skipped, %d in a row: not finite: %s", self.in_a_row, ", ".join(culprits))
        return True

    def give_up(self, loss_module: LossModule, batch: TensorDictBase) -> None:
        """At the limit: keeps the minibatch and the weights, and stops the run.

        Raises:
            NonFiniteError: Always at the limit.
        """
        if self.in_a_row < self.limit:
            return
        kept = ""
        if self.folder is not None:
            file = self.folder / "nonfinite.pt"
            atomic_save({"batch": plain(batch), "loss_module": loss_module.state_dict()}, file)
            kept = f" The minibatch and the weights: {file}."
        names = ", ".join(f"{name} ({count})" for name, count in self.by_name.most_common())
        raise NonFiniteError(f"{self.in_a_row} steps in a row were not finite: {names}.{kept}")

    def figures(self) -> dict[str, float]:
        """Steps skipped since the run began, in all and for each term or network."""
        each = {f"nonfinite_{name}": float(count) for name, count in self.by_name.items()}
        return {"nonfinite_steps": float(self.steps), **each}

    def state_dict(self) -> dict[str, Any]:
        """Counts of skipped steps."""
        return {"steps": self.steps, "in_a_row": self.in_a_row, "by_name": dict(self.by_name)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the counts."""
        self.steps, self.in_a_row = state_dict["steps"], state_dict["in_a_row"]
        self.by_name = Counter(state_dict["by_name"])
