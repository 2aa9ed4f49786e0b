"""What a network says of itself beside its ``in_keys``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

CONTAINERS = (TensorDictModuleBase, nn.ModuleList, nn.ModuleDict, nn.Sequential)
"""What may hold a module that reads a TensorDict; a walk through all modules takes longer."""


def optional_keys(network: nn.Module) -> list[Any]:
    """Entries that modules of a network read where they are there: a memory's mask."""
    return [key for module in readers(network) for key in getattr(module, "optional_keys", ())]


def readers(network: nn.Module) -> Iterator[nn.Module]:
    """The network, and the modules within it that read a TensorDict."""
    yield network
    for module in network.children():
        if isinstance(module, CONTAINERS):
            yield from readers(module)


def parameter_of(network: nn.Module, known: dict[nn.Module, list[str]]) -> Tensor | None:
    """A floating parameter, whose device and dtype are the network's; ``None`` where it has none.

    Args:
        network: The network.
        known: Where parameters were found before, by network: other tensors may be there by now.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and network in known:
        *path, name = known[network]
        module: nn.Module | None = network
        for part in path:
            module = None if module is None else module._modules.get(part)
        if module is not None and module._parameters.get(name) is not None:
            return module._parameters[name]
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point():
            if not compiling:
                known[network] = name.split(".")
            return parameter
    return None
