"""What a network says of itself beside ``in_keys``: it takes a walk through all its modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from torchrl_moawm.objectives.keys import Key


@dataclass(frozen=True)
class Reader:
    """What :class:`~torchrl_moawm.objectives.batch.BatchView` asks of a network at every call."""

    optional: tuple[Key, ...]
    """Entries that its modules read where they are there."""
    holder: nn.Module | None
    """The module of its first floating parameter; ``None`` where it has none."""
    name: str = ""
    """The parameter's name there: the tensor itself may be replaced."""

    @classmethod
    def of(cls, network: TensorDictModuleBase) -> Reader:
        """Walks through a network."""
        optional = tuple(optional_keys(network))
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.is_floating_point():
                    return cls(optional, module, name)
        return cls(optional, None)

    def parameter(self) -> Tensor | None:
        """The parameter, whose device and dtype are the network's."""
        return None if self.holder is None else getattr(self.holder, self.name)


def reader_of(network: TensorDictModuleBase, known: dict[Any, Reader]) -> Reader:
    """What is asked of a network at every call; found once, but in code that is compiled."""
    if network not in known:
        found = Reader.of(network)
        if torch.compiler.is_compiling():
            return found
        known[network] = found
    return known[network]


def optional_keys(network: TensorDictModuleBase) -> list[Any]:
    """Entries that modules of a network read where they are there: a memory's mask."""
    return [key for module in network.modules() for key in getattr(module, "optional_keys", ())]
