"""Names of groups and of TorchRL's own entries, and entries that have to be there."""

from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor

TRAJECTORY = ("collector", "traj_ids")
"""Where TorchRL's collectors say which trajectory a step belongs to."""
SAMPLES = ("collector", "mask")
"""Where TorchRL's collectors say which samples are real and which are padding."""


def path_of(group: NestedKey) -> tuple[str, ...]:
    """A group as a tuple of names."""
    key = unravel_key((group,))
    return (key,) if isinstance(key, str) else key


def name_of(group: NestedKey) -> str:
    """A group as one word: ``("team", "red")`` is ``team_red``."""
    return "_".join(path_of(group))


def beginnings(key: NestedKey) -> list[tuple[str, ...]]:
    """What stands before the last name of a key, the longest first; nothing before a word."""
    return [] if isinstance(key, str) else [key[:depth] for depth in range(len(key) - 1, 0, -1)]


def leaf_name(key: NestedKey) -> str:
    """The innermost name of a key."""
    return key if isinstance(key, str) else key[-1]


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
