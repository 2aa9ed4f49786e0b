"""The network of ``MOALoss``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential
from torch import Tensor, nn

from torchrl_moawm._checks import check_option
from torchrl_moawm._keys import path_of
from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules.features import (
    AgentGroup,
    GaussianHead,
    ObsDim,
    PreviousStepFeatures,
    joint_features,
    make_mlp,
)
from torchrl_moawm.modules.memory import AgentGRU


class MOANet(nn.Module):
    """Predicts every other agent's action from one encoding of the observer.

    The encoder runs once per observer, so its cost is linear in N; a linear head has one slot per
    other agent, by ascending index. To the mean (or the logits) of a slot is added what that agent
    did before, times a learned factor per feature that starts at 0: agents often go on as they did.

    Args:
        team: The observers.
        other_groups: Groups whose previous actions are read as well.
        target: Which of all groups is predicted: 0 the observers' own (without the observer), 1 the
            first of the other groups, ..., then the unseen ones, whose previous actions are not
            read, so that nothing is added to their slots.
        memory_dim: Features of a memory, the last argument of ``forward``; 0 where there is none.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation.
        unseen_groups: Groups that are predicted without being seen.
    """

    def __init__(
        self,
        team: AgentGroup,
        other_groups: Sequence[AgentGroup],
        target: int,
        memory_dim: int,
        num_cells: Sequence[int],
        min_scale: float,
        unseen_groups: Sequence[AgentGroup] = (),
    ) -> None:
        super().__init__()
        self.previous = PreviousStepFeatures(team, other_groups)
        self.target = target
        self.n_entries = len(self.previous.in_keys)
        self.aim = aim = [*self.previous.teams, *unseen_groups][target]
        self.seen = target < len(self.previous.teams)
        self.action_dim = aim.action_dim
        self.n_others = aim.n_agents if target else aim.n_agents - 1
        self.outputs = aim.action_dim if aim.n_actions is not None else 2 * aim.action_dim
        if self.seen:
            self.persistence = nn.Parameter(torch.zeros(aim.action_dim))
        self.head = GaussianHead(min_scale) if aim.n_actions is None else nn.Identity()
        self._build(memory_dim, num_cells)

    def reset_parameters(self) -> None:
        """Agents are not expected to go on as they did."""
        if self.seen:
            nn.init.zeros_(self.persistence)

    def _build(self, memory_dim: int, num_cells: Sequence[int]) -> None:
        outputs = max(self.n_others, 1) * self.outputs
        self.net = make_mlp(self.previous.features + memory_dim, outputs, num_cells)

    def forward(self, *entries: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """``[*B, N, M, A]`` logits, or mean and standard deviation ``[*B, N, M, D]``."""
        seen = self.previous.eye(entries[0], "previous_observation")
        acted = self.previous.acted(seen, *entries[1 : self.n_entries])
        seen = torch.cat([seen, *entries[self.n_entries :]], -1)
        if not self.seen:
            return self.head(self._slots(seen, acted, seen))
        theirs = self._pairs(acted[self.target], seen.shape[-2])
        slots = self._slots(seen, acted, theirs)
        again, rest = slots[..., : self.action_dim], slots[..., self.action_dim :]
        did = theirs[..., : self.action_dim]
        return self.head(torch.cat([again + self.persistence * did, rest], -1))

    def _pairs(self, acted: Tensor, n_observers: int) -> Tensor:
        """What the others did, for each observer: ``[*B, N, M, F + 1]``."""
        if self.target:
            return acted.unsqueeze(-3).expand(*acted.shape[:-2], n_observers, -1, -1)
        return gather_others(acted, agent_dim=acted.ndim - 2)

    def _slots(self, seen: Tensor, acted: list[Tensor], theirs: Tensor) -> Tensor:
        """Raw outputs ``[*B, N, M, outputs]``."""
        out = self.net(torch.cat([seen, joint_features(*acted)], -1))
        return out.unflatten(-1, (max(self.n_others, 1), -1))[..., : self.n_others, :]


class PairwiseMOANet(MOANet):
    """Predicts each pair (i, j) from an encoding of i and from what j did: no slots.

    The encoding of i reads its own previous step and the mean over everybody of an embedding of
    what they did. So the prediction does not depend on the order of the agents; but it cannot tell
    apart two that did the same, and its head runs N (N - 1) times.
    """

    def _build(self, memory_dim: int, num_cells: Sequence[int]) -> None:
        teams = self.previous.teams
        width = num_cells[-1]
        self.embeddings = nn.ModuleList(
            nn.Sequential(nn.Linear(team.action_dim + 1, width), nn.Tanh()) for team in teams
        )
        own = self.previous.eye.features + memory_dim + teams[0].action_dim + 1
        self.encoder = make_mlp(own + len(teams) * width, width, num_cells)
        theirs = teams[self.target].action_dim + 1
        self.net = make_mlp(width + theirs, self.outputs, [width])

    def _slots(self, seen: Tensor, acted: list[Tensor], theirs: Tensor) -> Tensor:
        means = [
            embed(x).mean(-2, keepdim=True).expand(*seen.shape[:-1], -1)
            for embed, x in zip(self.embeddings, acted, strict=True)
        ]
        encoding = self.encoder(torch.cat([seen, acted[0], *means], -1)).tanh()
        encoding = encoding.unsqueeze(-2).expand(*theirs.shape[:-1], -1)
        return self.net(torch.cat([encoding, theirs], -1))


def make_moa_network(
    *,
    n_agents: int,
    obs_dim: ObsDim,
    action_dim: int,
    n_actions: int | None = None,
    group: NestedKey = "agents",
    other_groups: Sequence[AgentGroup] = (),
    target_group: NestedKey | None = None,
    unseen_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
    min_scale: float = 0.05,
    head: Literal["slots", "pairwise"] = "slots",
    recurrent: bool = False,
) -> TensorDictModuleBase:
    """A model of the other agents, for :class:`~torchrl_moawm.objectives.MOALoss`.

    It reads ``previous_observation`` of the observer and everybody's ``previous_action`` and
    ``previous_mask``, the observer's own first.

    Keyword Args:
        n_agents: ``N``; each predicts the ``N - 1`` others.
        obs_dim: Features of an observation, or its shape: an image is ``(C, H, W)``.
        action_dim: Features of an action: ``D`` of a continuous one, ``A`` of a discrete one.
        n_actions: ``A`` of discrete actions (int64 or one-hot); ``None`` for continuous ones.
        group: The observers.
        other_groups: Groups whose previous actions it reads as well.
        target_group: Whose actions are predicted: ``None`` for the observers' own group, or one of
            ``other_groups`` or ``unseen_groups``.
        unseen_groups: Groups whose previous actions it does not read, but may have to predict.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation, in the unit of the action.
        head: ``"slots"`` has outputs of their own for each other agent: it costs least, tells
            agents apart that do the same, and is bound to their number and order. ``"pairwise"``
            has one head for all pairs, which reads what the other did: permuting the agents
            permutes its predictions.
        recurrent: Whether it also reads an ``AgentGRU`` over all earlier steps.

    Returns:
        A module that writes ``moa_logits`` ``[*B, N, M, A]``, or ``moa_loc`` and ``moa_scale``
        ``[*B, N, M, D]``; with ``_<target_group>`` behind their names where that is another group.

    Raises:
        ValueError: The head is unknown, or ``target_group`` is none of the groups, or it is unseen
            and the head ``"pairwise"``, which reads what the other did.
    """
    check_option("head", head, ("slots", "pairwise"))
    team = AgentGroup(group, n_agents, obs_dim, action_dim, n_actions)
    groups = [team.group, *(other.group for other in (*other_groups, *unseen_groups))]
    if target_group is not None and target_group not in groups:
        raise ValueError(f"Unknown target_group {target_group!r}; there are {groups}.")
    target = 0 if target_group is None else groups.index(target_group)
    if target > len(other_groups) and head == "pairwise":
        raise ValueError(f"head 'pairwise' reads what {target_group!r} did, which is unseen.")
    suffix = "_".join(["", *path_of(groups[target])]) if target else ""
    features = PreviousStepFeatures(team, other_groups)
    in_keys: list[NestedKey] = list(features.in_keys)
    memory: list[TensorDictModuleBase] = []
    if recurrent:
        gru = AgentGRU(
            features,
            in_keys,
            n_agents=n_agents,
            hidden_dim=num_cells[-1],
            name=f"moa{suffix}",
            group=group,
        )
        memory, in_keys = [gru], [*in_keys, gru.out_keys[0]]
    make = {"slots": MOANet, "pairwise": PairwiseMOANet}[head]
    memory_dim = num_cells[-1] if recurrent else 0
    net = make(team, other_groups, target, memory_dim, num_cells, min_scale, unseen_groups)
    discrete = net.aim.n_actions is not None
    names = ["moa_logits"] if discrete else ["moa_loc", "moa_scale"]
    module = TensorDictModule(net, in_keys, [(group, f"{name}{suffix}") for name in names])
    return TensorDictSequential(*memory, module) if memory else module
