"""What the models of the others expect, as an entry that actor and critic read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import ProbabilisticTensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn

from torchrl_moawm._keys import path_of
from torchrl_moawm.modules.memory import AgentGRU


class PredictedActions(TensorDictModuleBase):
    """The models of the others as a part of acting: what they expect, for actor and critic.

    Of discrete actions the probabilities ``q(a^j_t = a | tau^i_{t-1})``, of continuous ones the
    means (with bounds the medians, means before the tanh that are squashed): of step t, from what
    the agent knows of step t-1. It is stored when acting, and losses read what is stored: no
    gradient of theirs reaches the models from here.

    Writes ``predicted_actions`` ``[*B, N, F]``, F the sum of M A over what is predicted, and the
    states of the networks' memories.

    Args:
        networks: Of :func:`make_moa_network`, one for each group that is predicted.
        group: The observers.

    References:
        MATWM (Deihim et al., 2025), where actor and critic read the teammates' predicted actions.

    Example:
        >>> from torchrl_moawm.modules import AgentGroup, make_moa_network
        >>> from torchrl_moawm.testing import make_batch
        >>> model = make_moa_network(AgentGroup(n_agents=3, obs_dim=5, n_actions=4))
        >>> PredictedActions([model])(make_batch((6,)))["agents", "predicted_actions"].shape
        torch.Size([6, 3, 8])
    """

    def __init__(
        self, networks: Iterable[TensorDictModuleBase], group: NestedKey = "agents"
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList()
        self.predictions: list[tuple[NestedKey, list[ProbabilisticTensorDictModule]]] = []
        in_keys: list[NestedKey] = []
        states: list[NestedKey] = []
        for network in networks:
            parts = list(network) if isinstance(network, TensorDictSequential) else [network]
            drawn = [part for part in parts if isinstance(part, ProbabilisticTensorDictModule)]
            model = TensorDictSequential(*(part for part in parts if part not in drawn))
            key = unravel_key(parts[-1 - len(drawn)].out_keys[0])  # logits or means
            self.networks.append(model)
            self.predictions.append((key, drawn))
            in_keys += model.in_keys
            states += [k for part in parts if isinstance(part, AgentGRU) for k in part.out_keys[1:]]
        self.in_keys = list(dict.fromkeys(in_keys))
        self.out_keys = [*states, (*path_of(group), "predicted_actions")]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes what is expected; what the networks write beside that is not kept."""
        found, outputs = [], tensordict.copy()
        for network, (key, drawn) in zip(self.networks, self.predictions, strict=True):
            outputs = network(outputs)
            settings = drawn[0].distribution_kwargs if drawn else {}
            predicted = outputs.get(key)
            if "low" in settings:
                predicted = squashed(predicted, settings["low"], settings["high"])
            found.append(action_features(predicted, choices_of(key, settings)))
        for state in self.out_keys[:-1]:
            tensordict.set(state, outputs.get(state))
        return tensordict.set(self.out_keys[-1], torch.cat(found, -1))


def action_features(predicted: Tensor, choices: Sequence[int] | None) -> Tensor:
    """``[*B, N, M, A]`` logits of choices as probabilities, means as they are: ``[*B, N, M A]``.

    Args:
        predicted: Logits, or means of a continuous action.
        choices: Sizes of the choices; none for one of whatever size, ``None`` for means.
    """
    if choices is None:
        return predicted.flatten(-2)
    parts = predicted.split(list(choices), -1) if choices else [predicted]
    return torch.cat([part.softmax(-1) for part in parts], -1).flatten(-2)


def squashed(loc: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Means before the tanh as actions between their bounds: medians there."""
    low, high = (torch.as_tensor(bound).to(loc) for bound in (low, high))
    return low + (high - low) * (loc.tanh() + 1.0) / 2.0


def choices_of(written: NestedKey, settings: Mapping[str, Any]) -> Sequence[int] | None:
    """Sizes of the choices that are predicted, by the entry and the distribution's settings."""
    if "n_actions" in settings:
        return tuple(settings["n_actions"])
    return None if path_of(written)[-1].startswith("moa_loc") else ()
