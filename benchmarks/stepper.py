"""The optimisation step of the benchmark's ``Trainer``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import LossModule
from torchrl.trainers import OptimizationStepper, Trainer


class PerNetworkStepper(OptimizationStepper):
    """Clips the gradient of each network by itself, and trains some losses in fewer epochs.

    TorchRL's default clips one norm over all parameters: with auxiliary losses in the sum their
    gradients then throttle the policy's.

    Args:
        optimizer: Holds the parameters of all networks.
        networks: The networks by name; each is clipped to ``max_grad_norm``.
        max_grad_norm: Largest norm of a network's gradient.
        steps_per_epoch: Minibatches in a pass over the batch.
        epochs: Passes over the batch.
        core: What is minimised in every epoch.
        auxiliary_epochs: In the first so many epochs of a batch the Trainer's whole loss module is
            minimised, in the others ``core``.
        compile: Whether the losses are compiled (``torch.compile``), forward and backward.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        networks: Mapping[str, nn.Module],
        *,
        max_grad_norm: float,
        steps_per_epoch: int,
        epochs: int,
        core: LossModule,
        auxiliary_epochs: int,
        compile: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self.parameters = {name: list(net.parameters()) for name, net in networks.items()}
        self.max_grad_norm = max_grad_norm
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs
        self.core = core
        self.auxiliary_epochs = auxiliary_epochs
        self.count = 0
        self.evaluate = torch.compile(evaluate) if compile else evaluate

    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        """One minibatch: losses, backward, clip, Adam."""
        epoch = self.count // self.steps_per_epoch % self.epochs
        self.count += 1
        whole = epoch < self.auxiliary_epochs
        total, losses = self.evaluate(trainer.loss_module if whole else self.core, sub_batch)
        total.backward()
        losses = losses.detach()
        for name, parameters in self.parameters.items():
            if any(parameter.grad is not None for parameter in parameters):
                norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, foreach=True)
                losses[f"grad_norm_{name}"] = norm
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def state_dict(self) -> dict[str, int]:
        """The number of steps taken."""
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on where the other stopped."""
        self.count = state_dict["count"]


def evaluate(loss: LossModule, batch: TensorDictBase) -> tuple[Tensor, TensorDictBase]:
    """What is minimised, and every term and figure."""
    losses = loss(batch)
    return sum(value for key, value in losses.items() if key.startswith("loss")), losses
