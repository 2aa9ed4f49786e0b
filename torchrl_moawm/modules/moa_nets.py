"""The two heads of a model of the other agents: a slot for each, or one for all pairs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules.features import (
    GaussianHead,
    PreviousStepFeatures,
    joint_features,
    make_mlp,
)
from torchrl_moawm.modules.group import AgentGroup


class MOANet(nn.Module):
    """Predicts every other agent's action from one encoding of the observer.

    The encoder runs once per observer, so its cost is linear in N; a linear head has one slot per
    other agent, by ascending index. To the mean (or the logits) of a slot is added what that agent
    did before, times a learned factor per feature that starts at 0: agents often go on as they did.
    Where an action has bounds, what it did is brought to -1 to 1 by them.

    Args:
        group: The observers.
        other_groups: Groups whose previous actions are read as well.
        target: Which of all groups is predicted: 0 the observers' own (without the observer), 1 the
            first of the other groups, ..., then the unseen ones, whose previous actions are not
            read, so that nothing is added to their slots.
        memory_dim: Features of a memory, the last argument of ``forward``; 0 where there is none.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation.
        unseen_groups: Groups that are predicted without being seen.
        norm: Standardises the observer's previous observation.
    """

    def __init__(
        self,
        group: AgentGroup,
        other_groups: Sequence[AgentGroup],
        target: int,
        memory_dim: int,
        num_cells: Sequence[int],
        min_scale: float,
        unseen_groups: Sequence[AgentGroup] = (),
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.previous = PreviousStepFeatures(group, other_groups, norm)
        self.target = target
        self.n_entries = len(self.previous.in_keys)
        self.target_group = predicted = [*self.previous.groups, *unseen_groups][target]
        self.seen = target < len(self.previous.groups)
        self.n_others = predicted.n_agents if target else predicted.n_agents - 1
        discrete = predicted.n_actions is not None
        self.outputs = predicted.action_dim if discrete else 2 * predicted.action_dim
        if self.seen:
            self.persistence = nn.Parameter(torch.zeros(predicted.action_dim))
        self.centre: Tensor | None
        self.half_range: Tensor | None
        for name in ("centre", "half_range"):  # not saved: it is built again with the same bounds
            self.register_buffer(name, None, persistent=False)
        self.head = nn.Identity() if discrete else GaussianHead(min_scale)
        self._build(memory_dim, num_cells)

    def reset_parameters(self) -> None:
        """Sets the factor of the previous action to zero."""
        if self.seen:
            nn.init.zeros_(self.persistence)

    def _build(self, memory_dim: int, num_cells: Sequence[int]) -> None:
        outputs = max(self.n_others, 1) * self.outputs
        self.net = make_mlp(self.previous.features + memory_dim, outputs, num_cells)

    def forward(self, *entries: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """``[*B, N, M, A]`` logits, or mean and standard deviation ``[*B, N, M, D]``."""
        features = self.previous.eye(entries[0], "previous_observation")
        acted = self.previous.acted(features, *entries[1 : self.n_entries])
        features = torch.cat([features, *entries[self.n_entries :]], -1)
        if not self.seen:
            return self.head(self._slots(features, acted, features))
        others = self._pairs(acted[self.target], features.shape[-2])
        slots = self._slots(features, acted, others)
        width = self.target_group.action_dim
        did, acts = others[..., :width], others[..., width:]
        if self.centre is not None and self.half_range is not None:  # bounds other than -1 and 1
            did = (did - self.centre) / self.half_range * acts
        mean = slots[..., :width] + self.persistence * did
        return self.head(torch.cat([mean, slots[..., width:]], -1))

    def _pairs(self, acted: Tensor, n_observers: int) -> Tensor:
        """Previous actions of the others, for each observer: ``[*B, N, M, F + 1]``."""
        if self.target:
            return acted.unsqueeze(-3).expand(*acted.shape[:-2], n_observers, -1, -1)
        return gather_others(acted, agent_dim=acted.ndim - 2)

    def _slots(self, features: Tensor, acted: list[Tensor], others: Tensor) -> Tensor:
        """Raw outputs ``[*B, N, M, outputs]``."""
        out = self.net(torch.cat([features, joint_features(*acted)], -1))
        return out.unflatten(-1, (max(self.n_others, 1), -1))[..., : self.n_others, :]


class PairwiseMOANet(MOANet):
    """Predicts each pair (i, j) from an encoding of i and from what j did: no slots.

    The encoding of i reads its own previous step and the mean over everybody of an embedding of
    what they did. So the prediction does not depend on the order of the agents; but it cannot tell
    apart two that did the same, and its head runs N (N - 1) times.
    """

    def _build(self, memory_dim: int, num_cells: Sequence[int]) -> None:
        groups = self.previous.groups
        width = num_cells[-1]
        self.embeddings = nn.ModuleList(
            nn.Sequential(nn.Linear(group.action_dim + 1, width), nn.Tanh()) for group in groups
        )
        own = self.previous.eye.features + memory_dim + groups[0].action_dim + 1
        self.encoder = make_mlp(own + len(groups) * width, width, num_cells)
        self.net = make_mlp(width + groups[self.target].action_dim + 1, self.outputs, [width])

    def _slots(self, features: Tensor, acted: list[Tensor], others: Tensor) -> Tensor:
        means = [
            embed(x).mean(-2, keepdim=True).expand(*features.shape[:-1], -1)
            for embed, x in zip(self.embeddings, acted, strict=True)
        ]
        encoding = self.encoder(torch.cat([features, acted[0], *means], -1)).tanh()
        encoding = encoding.unsqueeze(-2).expand(*others.shape[:-1], -1)
        return self.net(torch.cat([encoding, others], -1))
