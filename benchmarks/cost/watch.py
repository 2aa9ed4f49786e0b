"""Until when a team trains: a moving mean of its deterministic return passes a threshold.

It imports nothing but the standard library, for it runs under BenchMARL's interpreter as well.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

WINDOW = 3
"""Evaluations in the moving mean."""


def moving_mean(returns: Sequence[float], window: int = WINDOW) -> float:
    """Mean of the last evaluations; minus infinity before there are as many as the window has."""
    if len(returns) < window:
        return float("-inf")
    return sum(returns[-window:]) / window


class Watch:
    """Evaluates a team while it trains, by a clock that stands still meanwhile.

    Args:
        threshold: The moving mean that has to be reached.
        limit: Seconds of training after which the team is stopped.
        every: Frames between evaluations.
        window: Evaluations in the moving mean.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        threshold: float,
        limit: float,
        every: int = 2_000,
        window: int = WINDOW,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.threshold, self.limit, self.every, self.window = threshold, limit, every, window
        self.clock = clock
        self.started = clock()
        self.taken: list[tuple[int, float, float]] = []
        self.frames = 0
        self.seconds = 0.0

    def start(self) -> None:
        """Sets the clock to zero."""
        self.started = self.clock()

    def __call__(self, frames: int, evaluate: Callable[[], float]) -> bool:
        """Whether to stop, asked after every update; evaluates where it is time to.

        Args:
            frames: Team steps so far.
            evaluate: Plays the deterministic policy and returns its return.
        """
        self.frames, self.seconds = frames, self.clock() - self.started
        if frames - (self.taken[-1][0] if self.taken else 0) >= self.every:
            before = self.clock()
            self.taken.append((frames, round(self.seconds, 2), evaluate()))
            self.started += self.clock() - before
        return self.passed() or self.seconds >= self.limit

    def passed(self) -> bool:
        """Whether the moving mean is at the threshold or above."""
        return moving_mean([each[-1] for each in self.taken], self.window) >= self.threshold

    def result(self) -> dict[str, Any]:
        """What came of it: frames and seconds until it passed, or until it was stopped."""
        mean = moving_mean([each[-1] for each in self.taken], self.window)
        return {
            "passed": self.passed(),
            "frames": self.frames,
            "seconds": round(self.seconds, 2),
            "moving_mean": mean if self.taken[self.window - 1 :] else None,
            "evaluations": [list(each) for each in self.taken],
        }
