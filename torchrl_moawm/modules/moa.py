"""The network of ``MOALoss``."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import NestedKey
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn

from torchrl_moawm._checks.tensors import check_option
from torchrl_moawm._keys import name_of
from torchrl_moawm.functional import gather_others
from torchrl_moawm.modules.action_density import Bounds, distribution_of
from torchrl_moawm.modules.features import (
    GaussianHead,
    PreviousStepFeatures,
    joint_features,
    make_mlp,
)
from torchrl_moawm.modules.group import AgentGroup, accepts_sizes
from torchrl_moawm.modules.memory import AgentGRU
from torchrl_moawm.modules.statistics import GroupStatistics


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


@accepts_sizes
def make_moa_network(
    group: AgentGroup,
    *,
    other_groups: Sequence[AgentGroup] = (),
    target_group: NestedKey | None = None,
    unseen_groups: Sequence[AgentGroup] = (),
    num_cells: Sequence[int] = (128, 128),
    min_scale: float = 0.02,
    head: Literal["slots", "pairwise"] = "slots",
    recurrent: bool = False,
    statistics: GroupStatistics | None = None,
    bounds: Bounds | None = None,
) -> TensorDictModuleBase:
    """A model of the other agents, for :class:`~torchrl_moawm.objectives.MOALoss`.

    It reads ``previous_observation`` of the observer and everybody's ``previous_action`` and
    ``previous_mask``, the observer's own first.

    Args:
        group: The observers; each predicts the ``N - 1`` others.

    Keyword Args:
        other_groups: Groups whose previous actions it reads as well.
        target_group: Whose actions are predicted: ``None`` for the observers' own group, or one of
            ``other_groups`` or ``unseen_groups``.
        unseen_groups: Groups whose previous actions it does not read, but may have to predict.
        num_cells: Widths of the hidden layers.
        min_scale: Floor of the standard deviation.
        head: ``"slots"`` has outputs of their own for each other agent: it costs least, tells
            agents apart that do the same, and is bound to their number and order. ``"pairwise"``
            has one head for all pairs, which reads what the other did: permuting the agents
            permutes its predictions.
        recurrent: Whether it also reads an ``AgentGRU`` over all earlier steps.
        statistics: Units in which it reads ``previous_observation``.
        bounds: Between which a continuous action lies, the lowest and the highest: numbers, or
            ``[N, D]`` of the group that is predicted. The prediction is then of the kind that the
            default actor has, a ``TanhNormal``. ``None`` predicts by a Gaussian, which knows of no
            bounds: right for who is not squashed, poor for a team that acts at them.

    Returns:
        A module that writes ``moa_logits`` ``[*B, N, M, A]``, or ``moa_loc`` and ``moa_scale``
        ``[*B, N, M, D]``; with ``_<target_group>`` behind their names where that is another group.
        With bounds a probabilistic one: these two are of the action before its tanh, and its
        distribution a ``TanhNormal``. Of several choices at once a probabilistic one too, whose
        distribution is a :class:`~torchrl_moawm.modules.FactorisedCategorical` of
        ``moa_choice_logits`` ``[*B, N, M, sum_f A_f]``.

    Raises:
        ValueError: The head is unknown, or ``target_group`` is none of the groups, or it is unseen
            and the head ``"pairwise"``, which reads what the other did.
    """
    check_option("head", head, ("slots", "pairwise"))
    names = [each.group for each in (group, *other_groups, *unseen_groups)]
    if target_group is not None and target_group not in names:
        raise ValueError(f"Unknown target_group {target_group!r}; there are {names}.")
    target = 0 if target_group is None else names.index(target_group)
    if target > len(other_groups) and head == "pairwise":
        raise ValueError(f"head 'pairwise' reads what {target_group!r} did, which is unseen.")
    suffix = f"_{name_of(names[target])}" if target else ""
    norm = None if statistics is None else statistics.observation
    features = PreviousStepFeatures(group, other_groups, norm)
    in_keys: list[NestedKey] = list(features.in_keys)
    memory: list[TensorDictModuleBase] = []
    if recurrent:
        sizes: Any = {"n_agents": group.n_agents, "hidden_dim": num_cells[-1], "group": group.group}
        memory = [AgentGRU(features, in_keys, name=f"moa{suffix}", **sizes)]
        in_keys += memory[0].out_keys[:1]
    make = {"slots": MOANet, "pairwise": PairwiseMOANet}[head]
    memory_dim = num_cells[-1] if recurrent else 0
    net = make(group, other_groups, target, memory_dim, num_cells, min_scale, unseen_groups, norm)
    names = [f"{name}{suffix}" for name in names_written(net.target_group.choices)]
    module = TensorDictModule(net, in_keys, group.keys(*names))
    drawn = distribution_of(net, module.out_keys, group.keys(f"moa_action{suffix}"), bounds)
    if drawn is not None:
        return ProbabilisticTensorDictSequential(*memory, module, drawn)
    return TensorDictSequential(*memory, module) if memory else module


def names_written(choices: Sequence[int]) -> tuple[str, ...]:
    """What a network writes about an action of so many choices; of none about a continuous one."""
    if not choices:
        return "moa_loc", "moa_scale"
    return ("moa_logits",) if len(choices) == 1 else ("moa_choice_logits",)
