"""A group of agents, as networks have to know it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.envs import EnvBase

from torchrl_moawm._checks.tensors import check_group, check_integer, check_size
from torchrl_moawm._checks.values import check_index
from torchrl_moawm.modules.specs import read_sizes

ObsDim = int | Sequence[int]
"""Features of a flat observation, or the shape of another: an image is ``(C, H, W)``."""


def shape_of(obs_dim: ObsDim) -> tuple[int, ...]:
    """The shape of one observation."""
    return (obs_dim,) if isinstance(obs_dim, int) else tuple(obs_dim)


@dataclass(frozen=True)
class AgentGroup:
    """A group of agents: its name and its sizes, which every network of the group is built for.

    Raises:
        ValueError: A size is missing or below 1, or the two sizes of a discrete action differ.

    Example:
        >>> AgentGroup(n_agents=3, obs_dim=5, action_dim=2).group
        'agents'
    """

    group: NestedKey = "agents"
    """Where its entries are."""
    n_agents: int = 0
    """``N``."""
    obs_dim: ObsDim = 0
    """Features of an observation, or its shape: an image is ``(C, H, W)``."""
    action_dim: int = 0
    """Features of an action: ``D`` of a continuous one; of a discrete one ``A``, of several choices
    at once the sum of theirs, which need not be given."""
    n_actions: int | tuple[int, ...] | None = None
    """``A`` of discrete actions (int64 or one-hot); the number of each of several choices at once
    (int64); ``None`` for continuous ones."""

    def __post_init__(self) -> None:
        if self.n_actions is not None and not self.action_dim:
            object.__setattr__(self, "action_dim", sum(self.choices))
        if self.n_actions is not None and self.action_dim != sum(self.choices):
            raise ValueError(
                f"Expected action_dim to be {sum(self.choices)}, the sum of n_actions="
                f"{self.n_actions}, got {self.action_dim}; leave it out."
            )
        check_size(n_agents=self.n_agents, obs_dim=min(self.obs_shape), action_dim=self.action_dim)

    @classmethod
    def from_env(
        cls, env: EnvBase, group: NestedKey = "agents", privileged: bool = False
    ) -> AgentGroup:
        """Reads the sizes of a group from the specs of an environment.

        Args:
            env: An environment with ``PreviousStep``.
            group: The name of the group.
            privileged: Whether the group is not acted for: its action is written by the
                environment, among the observations, as
                :class:`~torchrl_moawm.transforms.PartnerPool` does.

        Raises:
            ValueError: The group is unknown, an entry is missing (``PreviousStep`` writes two of
                them), its agents differ in shape, or observations or actions are of a kind that
                the default networks cannot read; the message names group and entry. Or a
                privileged group is one that acts.
        """
        return cls(group, *read_sizes(env, group, privileged))

    def keys(self, *names: str) -> list[NestedKey]:
        """Entries of the group by name."""
        return [(self.group, name) for name in names]

    @property
    def choices(self) -> tuple[int, ...]:
        """The number of actions of each choice; none of continuous actions."""
        if self.n_actions is None:
            return ()
        return (self.n_actions,) if isinstance(self.n_actions, int) else tuple(self.n_actions)

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        return shape_of(self.obs_dim)

    @property
    def n_features(self) -> int:
        """Numbers in one observation: what is reconstructed and predicted."""
        return math.prod(self.obs_shape)

    def flat(self, observation: Tensor) -> Tensor:
        """``[*B, N, *shape]`` -> ``[*B, N, D]``."""
        return observation.flatten(-len(self.obs_shape))

    def action_features(self, action: Tensor, like: Tensor, name: str = "action") -> Tensor:
        """Actions as floating features ``[*B, N, F]``, whatever their encoding.

        Args:
            action: Continuous ``[*B, N, D]``, one-hot ``[*B, N, A]``, categorical ``[*B, N]``, or
                several choices ``[*B, N, F]``.
            like: Features ``[*B, ., F]``: their dtype, and their number of dimensions.
            name: What the action is called in a message.

        Returns:
            ``[*B, N, D]`` or ``[*B, N, A]``.
        """
        choices = self.choices
        if len(choices) == 1 and action.ndim == like.ndim - 1:
            action = action.unsqueeze(-1)
        elif len(choices) == 1:
            choices = ()  # one-hot as it is
        if choices:
            check_integer(**{name: action})
            check_group(self.n_agents, **{name: (action, len(choices))})
            taken = list(zip(action.unbind(-1), choices, strict=True))
            for choice, n in taken:
                check_index((self.group, name), choice, n)
            one_hot = [c.unsqueeze(-1) == torch.arange(n, device=c.device) for c, n in taken]
            action = torch.cat(one_hot, -1)
        if self.n_actions is None and not action.dtype.is_floating_point:
            raise TypeError(
                f"Expected {name} of {self.group!r} to be floating, as continuous actions are, got "
                f"{action.dtype}. Of discrete actions the number is needed, n_actions=; of several "
                "choices at once that of each, n_actions=(5, 3)."
            )
        features = action.to(like.dtype)
        check_group(self.n_agents, **{name: (features, self.action_dim)})
        return features

    def acted_features(self, action: Tensor, mask: Tensor, like: Tensor) -> Tensor:
        """Actions of t-1 and whether there was one, ``[*B, N, F + 1]``, 0 where there was none."""
        acted = mask.unsqueeze(-1).to(like.dtype)
        action = self.action_features(action, like, "previous_action")
        check_group(self.n_agents, previous_mask=(acted, 1))
        return torch.cat([action * acted, acted], -1)
