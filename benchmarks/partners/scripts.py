"""Scripted partners: one manner each, for every type; the type says what they are after."""

import math
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor

from partners.worlds import SPEED, STEPS


def on_circle(n: int) -> Tensor:
    """The n sites ``[n, 2]``."""
    angle = torch.arange(n) * (2 * math.pi / n)
    return torch.stack([angle.cos(), angle.sin()], -1)


def partner_reads(tensordict: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
    """The partner's place ``[*B, 1, 2]``, step ``[*B, 1, 1]`` and type ``[*B, 1]``."""
    seen = tensordict["partners", "observation"]
    return seen[..., :2], (seen[..., 2:3] * STEPS).round(), tensordict["partners", "type"]


def walk(place: Tensor, goal: Tensor, speed: float) -> Tensor:
    """The move towards the goal, no further than it."""
    way = (goal - place) / SPEED
    return way * (speed / way.norm(dim=-1, keepdim=True).clamp_min(speed))


@dataclass(frozen=True)
class Walker:
    """Walks to the site of its type, in a manner of its own."""

    n_types: int
    weave: float = 0.0
    """Sideways part of a step, to and fro."""
    bend: float = 0.0
    """Angle by which it sets out beside its way, falling to 0."""
    speed: float = 0.8

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """Move of the partner, ``[*B, 1, 2]``."""
        place, step, kind = partner_reads(tensordict)
        move = walk(place, on_circle(self.n_types)[kind], self.speed)
        turn = self.bend * (1 - step / 6).clamp_min(0.0)
        x, y = move[..., :1], move[..., 1:]
        move = torch.cat([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], -1)
        side = torch.stack([-move[..., 1], move[..., 0]], -1)
        return (move + self.weave * (step * math.pi / 2).cos() * side).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Dancer:
    """Dances the figure of its type in the middle, then walks to the site of its type."""

    n_types: int
    size: float = 1.0
    phase: float = 0.0
    beat: float = math.pi / 2
    """Angle per step."""

    def __call__(self, tensordict: TensorDictBase) -> Tensor:
        """Move of the partner, ``[*B, 1, 2]``."""
        place, step, kind = partner_reads(tensordict)
        angle = self.phase + self.beat * step.squeeze(-1)
        x, y, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
        pairs = [(x, y), (x, -y), (x, none), (none, x)]
        figures = torch.stack([torch.stack(pair, -1) for pair in pairs], -2)
        index = kind[..., None, None].expand(*kind.shape, 1, 2)
        dance = self.size * figures.gather(-2, index).squeeze(-2)
        way = walk(place, on_circle(self.n_types)[kind], 1.0)
        return torch.where(step < 8, dance, way).clamp(-1.0, 1.0)
