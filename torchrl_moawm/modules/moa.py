"""The network of ``MOALoss``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from torchrl_moawm._checks import check_team
from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules.features import GaussianHead, action_features, make_mlp, own_first


class MOANet(nn.Module):
    """Predicts every other agent's action from one encoding of the observer.

    The encoder runs once per observer, so its cost is linear in N; a linear head has one slot per
    other agent, by ascending index. To the mean (or the logits) of a slot is added what that agent
    did before, times a learned factor per feature that starts at 0: agents often go on as they did.
    """

    def __init__(
        self,
        n_agents: int,
        obs_dim: int,
        action_dim: int,
        n_actions: int | None,
        num_cells: Sequence[int],
        min_scale: float,
    ) -> None:
        super().__init__()
        self.sizes = n_agents, obs_dim, action_dim
        self.n_others = n_agents - 1
        self.n_actions = n_actions
        outputs = action_dim if n_actions is not None else 2 * action_dim
        inputs = obs_dim + n_agents * (action_dim + 1)
        self.net = make_mlp(inputs, max(self.n_others, 1) * outputs, num_cells)
        self.persistence = nn.Parameter(torch.zeros(action_dim))
        self.head = GaussianHead(min_scale) if n_actions is None else nn.Identity()

    def forward(
        self, previous_observation: Tensor, previous_action: Tensor, previous_mask: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """``[*B, N, M, A]`` logits, or mean and standard deviation ``[*B, N, M, D]``."""
        n_agents, obs_dim, action_dim = self.sizes
        check_team(n_agents, previous_observation=(previous_observation, obs_dim))
        acted = previous_mask.unsqueeze(-1).to(previous_observation.dtype)
        action = action_features(previous_action, previous_observation, self.n_actions)
        check_team(n_agents, previous_action=(action, action_dim), previous_mask=(acted, 1))
        action = action * acted
        joint = own_first(torch.cat([action, acted], -1))
        out = self.net(torch.cat([previous_observation, joint], -1))
        slots = out.unflatten(-1, (max(self.n_others, 1), -1))[..., : self.n_others, :]
        did = gather_others(action, agent_dim=action.ndim - 2)  # [*B, N, M, F]
        again, rest = slots.split([did.shape[-1], slots.shape[-1] - did.shape[-1]], -1)
        return self.head(torch.cat([again + self.persistence * did, rest], -1))


def make_moa_network(
    *,
    n_agents: int,
    obs_dim: int,
    action_dim: int,
    n_actions: int | None = None,
    group: NestedKey = "agents",
    num_cells: Sequence[int] = (128, 128),
    min_scale: float = 0.05,
) -> TensorDictModule:
    """A model of the other agents, for :class:`~torchrl_moawm.objectives.MOALoss`.

    It reads ``previous_observation`` of the observer and everybody's ``previous_action`` and
    ``previous_mask``, the observer's own first.

    Keyword Args:
        n_agents: ``N``; each predicts the ``N - 1`` others.
        obs_dim: Features of an observation.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        n_actions: ``A`` of discrete actions (int64 or one-hot); ``None`` for continuous ones.
        group: Where the entries are.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation, in the unit of the action.

    Returns:
        A module that writes ``moa_logits`` ``[*B, N, M, A]``, or ``moa_loc`` and ``moa_scale``
        ``[*B, N, M, D]``.
    """
    net = MOANet(n_agents, obs_dim, action_dim, n_actions, num_cells, min_scale)
    names = ["moa_loc", "moa_scale"] if n_actions is None else ["moa_logits"]
    in_names = ("previous_observation", "previous_action", "previous_mask")
    return TensorDictModule(
        net, in_keys=[(group, n) for n in in_names], out_keys=[(group, n) for n in names]
    )
