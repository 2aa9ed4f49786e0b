"""The optimisation step of the ``Trainer``."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import LossModule
from torchrl.trainers import OptimizationStepper, Trainer

from torchrl_moawm.train.algorithms.common import Algorithm
from torchrl_moawm.train.loop.nonfinite import NonFinite
from torchrl_moawm.train.loop.schedule import (
    constant_rates,
    is_model,
    learning_rate,
    losses_by_epoch,
)
from torchrl_moawm.train.parallel.ranks import Learners


class PerNetworkStepper(OptimizationStepper):
    """Clips the gradient of each network by itself, and trains some losses in fewer epochs.

    TorchRL's default clips one norm over all parameters: with auxiliary losses in the sum their
    gradients then throttle the policy's.

    Args:
        optimizer: Holds the parameters of all networks.
        networks: The networks by name.
        max_grad_norm: Largest norm of the gradient of each network.
        steps_per_epoch: Minibatches in a pass over the batch.
        losses: What is minimised in each pass over the batch.
        compile: Whether the losses are compiled (``torch.compile``), forward and backward.
        nonfinite: Skips the steps whose loss or gradient is not finite.
        learners: The ranks whose gradients are averaged.
        constant_rates: Networks whose learning rate does not fall.

    Raises:
        ValueError: Two networks share a parameter.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        networks: Mapping[str, nn.Module],
        *,
        max_grad_norm: Mapping[str, float],
        steps_per_epoch: int,
        losses: Sequence[LossModule],
        compile: bool = False,
        nonfinite: NonFinite | None = None,
        learners: Learners | None = None,
        constant_rates: Collection[str] = (),
    ) -> None:
        check_disjoint(networks)
        self.optimizer = optimizer
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.constant_rates = constant_rates
        self.parameters = {name: list(net.parameters()) for name, net in networks.items()}
        self.max_grad_norm = max_grad_norm
        self.steps_per_epoch = steps_per_epoch
        self.losses = list(losses)
        self.count = 0
        self.evaluate = total_and_terms
        if compile:  # for this run alone: torch compiles a function eight times, and then no more
            alone: dict[str, Any] = {"isolate_recompiles": True}  # not in torch's own types
            self.evaluate = torch.compile(total_and_terms, **alone)
        self.nonfinite = nonfinite or NonFinite()
        self.learners = learners or Learners()

    @property
    def epoch(self) -> int:
        """Passes over the batch that are done."""
        return self.count // self.steps_per_epoch % len(self.losses)

    @property
    def loss(self) -> LossModule:
        """What is minimised in this pass over the batch."""
        return self.losses[self.epoch]

    def set_rates(self, done: float) -> None:
        """Sets the rates for when a share of the way is done; they fall linearly to 0."""
        left = max(1.0 - done, 0.0)
        groups = zip(self.optimizer.param_groups, self.rates, self.parameters, strict=True)
        for group, rate, name in groups:
            group["lr"] = rate if name in self.constant_rates else rate * left

    def step(self, trainer: Trainer, sub_batch: TensorDictBase) -> TensorDictBase:
        """One minibatch of the batch: what is minimised in this pass over it."""
        loss = self.loss
        self.count += 1
        return self.minimise(loss, sub_batch, trainer)

    def minimise(
        self, loss: LossModule, sub_batch: TensorDictBase, trainer: Trainer
    ) -> TensorDictBase:
        """Losses, backward, clip, Adam; no Adam where something is not finite."""
        total, losses = self.evaluate(loss, sub_batch)
        total.backward()
        losses, norms = losses.detach(), {}
        if self.learners.count > 1:
            self.learners.average((p for part in self.parameters.values() for p in part), losses)
            total = minimised(losses)
        for name, parameters in self.parameters.items():
            if any(parameter.grad is not None for parameter in parameters):
                norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm[name], foreach=True)
                norms[f"grad_norm_{name}"] = norm
        skip = self.nonfinite.found(total, norms, losses)
        if not skip:
            self.optimizer.step()
        self.optimizer.zero_grad()
        if skip:
            self.nonfinite.give_up(trainer.loss_module, sub_batch)
        return losses.update(norms)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps, and of those that were skipped."""
        return {"count": self.count, "nonfinite": self.nonfinite.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the counts."""
        self.count = state_dict["count"]
        self.nonfinite.load_state_dict(state_dict["nonfinite"])


def check_disjoint(networks: Mapping[str, nn.Module]) -> None:
    """Refuses a parameter that belongs to two networks.

    Raises:
        ValueError: Two networks share a parameter.
    """
    owner: dict[nn.Parameter, str] = {}
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            first = owner.setdefault(parameter, name)
            if first != name:
                raise ValueError(
                    f"{name}.{key} is a parameter of {first} as well: it would be trained twice. "
                    "Each network needs parameters of its own."
                )


def total_and_terms(loss: LossModule, batch: TensorDictBase) -> tuple[Tensor, TensorDictBase]:
    """Computes what is minimised, and every term and log."""
    losses = loss(batch)
    return minimised(losses), losses


def minimised(losses: TensorDictBase) -> Tensor:
    """Sum of the terms that are minimised."""
    return sum(value for key, value in losses.items() if key.startswith("loss"))


def check_trained(loss_module: nn.Module, networks: Mapping[str, nn.Module]) -> None:
    """Refuses a trainable parameter of the losses that belongs to no network.

    Raises:
        ValueError: No optimizer would train it.
    """
    trained = {parameter for network in networks.values() for parameter in network.parameters()}
    for name, parameter in loss_module.named_parameters():
        if parameter.requires_grad and parameter not in trained:
            raise ValueError(f"{name} belongs to none of {list(networks)}: nothing would train it.")


def max_grad_norm(config: DictConfig, network: str) -> float:
    """Largest norm of a network's gradient: models of others and world have one of their own."""
    norm = config.algorithm.get("model_max_grad_norm") if is_model(network) else None
    return config.max_grad_norm if norm is None else norm


def make_stepper(
    config: DictConfig, algorithm: Algorithm, folder: Path | None, learners: Learners
) -> PerNetworkStepper:
    """Adam with a learning rate for each network, and the step that it takes."""
    check_trained(algorithm.loss_module, algorithm.networks)
    groups = [
        {"params": list(net.parameters()), "lr": learning_rate(config, name)}
        for name, net in algorithm.networks.items()
    ]
    return PerNetworkStepper(
        torch.optim.Adam(groups, fused=True),
        algorithm.networks,
        max_grad_norm={name: max_grad_norm(config, name) for name in algorithm.networks},
        steps_per_epoch=config.minibatches,
        losses=losses_by_epoch(algorithm, config.epochs),
        compile=config.compile,
        nonfinite=NonFinite(config.max_nonfinite_steps, folder),
        learners=learners,
        constant_rates=constant_rates(config, algorithm.networks),
    )
