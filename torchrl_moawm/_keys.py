"""Names of groups and of TorchRL's own entries."""

from tensordict import NestedKey, unravel_key

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


def leaf_name(key: NestedKey) -> str:
    """The innermost name of a key."""
    return key if isinstance(key, str) else key[-1]
