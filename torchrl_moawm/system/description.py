"""What a system is, for those who print it."""

from torchrl_moawm._keys import name_of, path_of
from torchrl_moawm.system.group import GroupSystem
from torchrl_moawm.system.losses import make_losses


def describe(system: GroupSystem) -> str:
    """The networks of a group with their sizes, and its losses, line by line."""
    lines = [f"  {name_of(system.group)}"]
    for name, network in system.networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        reads = dict.fromkeys(path_of(key)[-1] for key in network.in_keys)
        lines.append(f"    {name:<24}{count:>9,} parameters  reads {', '.join(reads)}")
    losses = make_losses(system)  # not kept: parts may yet change
    terms = [str(key) for key in losses.out_keys if str(key).startswith("loss")]
    return "\n".join([*lines, f"    minimises {', '.join(terms)}"])
