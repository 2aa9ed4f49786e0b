"""The names that a loss has for the entries of a batch."""

from dataclasses import dataclass, field
from typing import Any

Group = tuple[str, ...]
Key = str | Group

GROUP_MASKS = ("mask", "alive", "done", "previous_mask", "previous_alive")
"""Entries of a group that answer the two questions, at t and at t-1."""

FLAGS = (*GROUP_MASKS, "target_mask", "terminated", "truncated", "is_init", "traj_ids")
"""Entries that are read as they are."""

CHOICES = ("action", "action_log_prob", "action_mask", "advantage")
"""Entries that are real where the agent acts; every other one is real where it is there."""


OWN_MASKS = ("mask", "alive", "previous_mask", "previous_alive")
"""Masks that a loss may find under another name in its own group."""


def key(name: str, **marks: bool) -> Any:
    """Declares a key of a loss that is more than an entry of its group at step t.

    Args:
        name: Its default name.
        **marks: ``under_next``: it is of t+1. ``optional``: it may be absent. ``at_root``: its
            default is no entry of the group. A loss may have marks of its own.
    """
    return field(default=name, metadata=marks)


@dataclass
class Keys:
    """The names that a loss has for the entries it reads."""

    owner: str = ""
    """The loss's name, for messages."""
    group: Group = ()
    """Its agents."""
    keys: dict[str, Key] = field(default_factory=dict)
    """Entry by field, under ``next`` where it belongs there."""
    fields: dict[Key, str] = field(default_factory=dict)
    """Field by entry of step t."""
    named: frozenset[str] = frozenset()
    """Fields that the user has named: their entries must be there."""
    optional: tuple[str, ...] = ()
    """Fields whose entries may be absent."""
    masks: dict[Group, dict[str, str]] = field(default_factory=dict)
    """By group: the fields that stand for its masks."""
    parameters: dict[Any, list[str]] = field(default_factory=dict)
    """By network: where its first floating parameter is, which has its device and dtype."""
