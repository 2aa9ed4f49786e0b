"""Entries that are there, or named as missing."""

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl_moawm._keys import leaf_name


def get_required(
    tensordict: TensorDictBase,
    key: NestedKey,
    role: str,
    how: str = "Name another with set_keys()",
) -> Tensor:
    """An entry that must be there.

    Args:
        tensordict: Where it is looked for.
        key: Its name.
        role: Who asks for it.
        how: What a user can do about it, unless it is one that ``PreviousStep`` writes.

    Raises:
        KeyError: The message names the entry, who asks for it, and the entries that are there.
    """
    entry = tensordict.get(key, None)
    if entry is None:
        there = ", ".join(sorted(str(k) for k in tensordict.keys(True, True)))
        how = "Append PreviousStep()" if leaf_name(key).startswith("previous_") else how
        raise KeyError(
            f"{role} needs the entry {key!r}, which is missing. {how}, or write it first. Entries "
            f"there: {there or 'none'}."
        )
    return entry
