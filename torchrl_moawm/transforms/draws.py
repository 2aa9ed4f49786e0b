"""Random draws that differ between workers that were given one seed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor

_BEGUN: WeakSet[Draws] = WeakSet()
"""Streams of this process that have begun."""


class Draws:
    """A stream of random integers, apart from the one that was given the same seed before it.

    The first stream of a seed keeps the given generator. A later one in the same process, and those
    in the workers of a multi-process environment, draw from a generator of their own.

    Args:
        generator: Where the numbers come from; ``None`` is torch's global one.
    """

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.given = None if generator is None else generator.initial_seed()
        self.begun = False

    def integers(self, count: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """Integers in ``0 .. count - 1``."""
        if not self.begun:
            self.begun = True
            self._move_apart(device)
        return torch.randint(count, tuple(shape), generator=self.generator, device=device)

    def chances(self, probability: float, shape: Sequence[int], device: torch.device) -> Tensor:
        """True with a probability, to a millionth."""
        return self.integers(1_000_000, shape, device) < probability * 1_000_000

    def seed(self, seed: int, device: torch.device) -> None:
        """Begins a stream of its own."""
        self.begun = True
        self.generator = torch.Generator(device).manual_seed(seed % 2**63)

    def _move_apart(self, device: torch.device) -> None:
        twins = 0 if self.given is None else sum(other.given == self.given for other in _BEGUN)
        worker = [*multiprocessing.current_process()._identity, 0][0]
        _BEGUN.add(self)
        if twins or worker:
            base = torch.initial_seed() if self.given is None else self.given
            self.seed(base + 1_000_003 * twins + 1_000_000_007 * worker, device)
