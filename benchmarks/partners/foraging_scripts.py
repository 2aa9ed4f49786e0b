"""Scripted partners for foraging: the type says which food one goes for, the manner how."""

from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn.functional import one_hot

from partners.foraging import LOAD, MOVES, N_LEARNERS

KINDS = (
    "nearest",
    "topmost",
    "bottommost",
    "leftmost",
    "rightmost",
    "nearest to the middle",
    "farthest from the middle",
    "highest level",
    "nearest to the first learner",
    "random steps",
)
"""What the types go for, by index; ties go to the food that stands first in the observation."""
WANDERS = KINDS.index("random steps")


@dataclass(frozen=True)
class Forager:
    """Walks to the food that its type prefers and loads; around what is in its way at random."""

    size: int
    """Rows, and columns, of the grid."""
    rest: float = 0.0
    """Probability of a step in which it stands still."""
    stray: float = 0.0
    """Probability of a step anywhere."""

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """Action of the partner, ``[*B, 1]``."""
        seen, kind = tensordict["partners", "observation"], tensordict["partners", "type"]
        players = seen[..., -3 * (N_LEARNERS + 1) :].unflatten(-1, (-1, 3))
        food = seen[..., : -3 * (N_LEARNERS + 1)].unflatten(-1, (-1, 3))
        own, there = players[..., :1, :2], food[..., 2] > 0
        goal = self.goal(food, players, kind)
        way = (goal - own).squeeze(-2)
        steps = own + MOVES[:LOAD].to(seen.dtype)  # [*B, 1, 5, 2]
        inside = ((steps >= 0) & (steps < self.size)).all(-1)
        taken = torch.cat([food[..., :2], players[..., 1:, :2]], -2)  # eaten food is at -1, -1
        free = inside & ~(steps[..., None, :] == taken[..., None, :, :]).all(-1).any(-1)
        closer = (goal - steps).abs().sum(-1) < way.abs().sum(-1, keepdim=True)
        draw = torch.rand(steps.shape[:-1], device=seen.device)
        walk = (draw + (free & closer) * 2.0 + free).argmax(-1)  # closer, else anywhere free
        wander = (draw + free).argmax(-1)
        beside = (food[..., :2] - own).abs().sum(-1) == 1
        loads = torch.where(kind == WANDERS, (beside & there).any(-1), way.abs().sum(-1) == 1)
        chance = torch.rand(kind.shape, device=seen.device)
        anywhere = (kind == WANDERS) | (chance < self.stray) | ~there.any(-1)
        action = torch.where(anywhere, wander, walk)
        action = torch.where(loads & there.any(-1), LOAD, action)
        return torch.where(chance > 1.0 - self.rest, 0, action)

    def goal(self, food: Tensor, players: Tensor, kind: Tensor) -> Tensor:
        """Row and column ``[*B, 1, 1, 2]`` of the food that a partner of that type goes for."""
        cost = torch.where(food[..., 2] > 0, self.costs(food, players, kind), torch.inf)
        best = cost.argmin(-1)[..., None, None].expand(*kind.shape, 1, 3)
        return food.gather(-2, best)[..., :2]

    def costs(self, food: Tensor, players: Tensor, kind: Tensor) -> Tensor:
        """What each food costs a partner of that type, ``[*B, 1, K]``: it goes for the least."""
        row, column, level = food.unbind(-1)
        near = [(food - players[..., i : i + 1, :])[..., :2].abs().sum(-1) for i in (0, 1)]
        middle = (food[..., :2] - (self.size - 1) / 2).abs().sum(-1)
        orders = (row, -row, column, -column, middle, -middle, -level)
        each = (near[0], *orders, near[1], near[0])
        return (torch.stack(each, -1) * one_hot(kind, len(KINDS)).unsqueeze(-2)).sum(-1)
