"""Losses that do what may look like a defect, and the rules of the contract that they do break."""

import warnings
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict
from tensordict.nn import TensorDictModule, dispatch
from torch import nn
from torchrl.objectives import LossModule

from tests.testing.broken_losses import Altered

MASK = ("collector", "mask")


class Upstream(LossModule):
    """A loss with nothing of ours in it: TorchRL's own keys, masks and reduction."""

    @dataclass
    class _AcceptedKeys:
        observation: NestedKey = "observation"

    default_keys = _AcceptedKeys
    out_keys = ["loss_norm"]

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.reduction = "mean"

    @property
    def in_keys(self):
        return [self.tensor_keys.observation]

    def _forward_value_estimator_keys(self, **_):
        pass

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict):
        observation = tensordict[self.tensor_keys.observation]
        mask = tensordict.get(MASK, None)
        if mask is not None:
            observation = torch.where(mask.unsqueeze(-1), observation, 0.0)
        loss = self.element(observation, tensordict)
        outputs = {"loss_norm": self._reduce_loss(loss, tensordict=tensordict)}
        return TensorDict({**outputs, **self.logs(loss, tensordict)})

    def element(self, observation, tensordict):
        return self.net(observation).squeeze(-1).square()

    def logs(self, loss, tensordict):
        return {}


class ReturnsInAnyOrder(Altered):
    """A tuple of outputs is in the order of ``out_keys``; a tensordict has none."""

    out_keys = ["loss_reward", "loss_obs"]


class Warns(Upstream):
    def logs(self, loss, tensordict):
        warnings.warn("A hint.", stacklevel=2)
        return {}


class WritesItsPriority(Upstream):
    """A loss writes a priority, as TorchRL's do for a prioritised replay buffer."""

    @dataclass
    class _AcceptedKeys:
        observation: NestedKey = "observation"
        priority: NestedKey = "td_error"

    default_keys = _AcceptedKeys

    def logs(self, loss, tensordict):
        tensordict.set(self.tensor_keys.priority, loss.detach())
        return {}


class LogsEverySample(Upstream):
    """What it logs of a masked sample means nothing."""

    out_keys = ["loss_norm", "error"]

    def logs(self, loss, tensordict):
        return {"error": self.net(tensordict[self.tensor_keys.observation]).squeeze(-1).detach()}


class Draws(Upstream):
    def element(self, observation, tensordict):
        return super().element(observation + torch.randn_like(observation), tensordict)


class Ensemble(Upstream):
    """The members stand before the batch."""

    def element(self, observation, tensordict):
        loss = super().element(observation, tensordict)
        return torch.stack([loss, 2.0 * loss])

    def _reduce_loss(self, loss, tensordict):
        mask = tensordict.get(MASK, None)
        mask = torch.ones_like(loss, dtype=torch.bool) if mask is None else mask.expand_as(loss)
        total = torch.where(mask, loss, 0.0)
        mean = total.sum() / mask.sum().clamp_min(1)
        return {"none": total, "sum": total.sum(), "mean": mean}[self.reduction]


class NamesMoreThanItNeeds(Upstream):
    @property
    def in_keys(self):
        return [*super().in_keys, "weight"]


class SaysItInItsOwnWords(Upstream):
    def forward(self, tensordict):
        key = self.tensor_keys.observation
        if tensordict.get(key, None) is None:
            name = key if isinstance(key, str) else key[-1]
            raise KeyError(f"Couldn't find the entry {name} in the input data.")
        return super().forward(tensordict)

    forward = dispatch(forward)


class WithNetwork(Upstream):
    """A network writes a prediction, by its own keys."""

    @dataclass
    class _AcceptedKeys:
        observation: NestedKey = "observation"
        prediction: NestedKey = "prediction"

    default_keys = _AcceptedKeys

    def __init__(self):
        super().__init__()
        self.net = TensorDictModule(self.net, ["observation"], ["prediction"])

    def element(self, observation, tensordict):
        found = self.net(TensorDict({self.tensor_keys.observation: observation}))
        if self.tensor_keys.prediction not in found:
            raise KeyError(f"no {self.tensor_keys.prediction!r}")
        return found[self.tensor_keys.prediction].squeeze(-1).square()


class RefusesAnotherName(WithNetwork):
    """The name of what a network writes cannot be set, as with TorchRL's value estimators."""

    def set_keys(self, **keys):
        super().set_keys(**keys)
        if self.tensor_keys.prediction not in self.net.out_keys:
            raise KeyError(f"value key {self.tensor_keys.prediction!r} not in {self.net.out_keys}")


class NeedsAWeight(Upstream):
    """It reads an entry that is not among its ``in_keys``."""

    @dataclass
    class _AcceptedKeys:
        observation: NestedKey = "observation"
        weight: NestedKey = "weight"

    default_keys = _AcceptedKeys

    def element(self, observation, tensordict):
        loss = super().element(observation, tensordict)
        mask = tensordict.get(MASK, torch.ones_like(loss, dtype=torch.bool))
        return loss * torch.where(mask, tensordict[self.tensor_keys.weight], 0.0)


class Counts(Upstream):
    """A buffer moves with every call, as a penalty's coefficient may."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def logs(self, loss, tensordict):
        self.calls.add_(1.0)
        return {}

    def element(self, observation, tensordict):
        return super().element(observation, tensordict) * (1.0 + self.calls.clone())


class WithoutInKeys(Upstream):
    in_keys = property()

    def forward(self, tensordict):
        return Upstream.forward.__wrapped__.__wrapped__(self, tensordict)


SOUND = {  # the rules that each does break
    ReturnsInAnyOrder: [],
    Warns: [],
    WritesItsPriority: [],
    LogsEverySample: [],
    Draws: [],
    Ensemble: [],
    NamesMoreThanItNeeds: [],
    SaysItInItsOwnWords: [],
    WithNetwork: [],
    RefusesAnotherName: [],
    NeedsAWeight: ["in_keys", "keyword_call"],
    Counts: ["repeatable"],
    WithoutInKeys: ["in_keys", "keyword_call"],
}
