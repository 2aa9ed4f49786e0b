"""Cells of the tables of ``partners.md``, from the study's JSON.

All returns are those with held-out partners, as plain means over seeds with 95% bootstrap
intervals.
"""

from typing import NamedTuple

import numpy as np

from studies.partners_numbers import (
    OURS,
    Array,
    gap_is_open,
    lead,
    limit_returns,
    over_the_run,
    returns,
    share,
    whole_curve,
)
from torchrl_moawm.train.metrics.curves import Runs

SECONDS = {OURS: 1.16, "liam_trained": 1.32, "liam": 1.0, "poam": 1.66}
"""Seconds of a frame over ``liam``'s, ours without models of others and world: "Seconds"."""
NO_GAP = 0.1
"""Where the oracle has opened less of its gap than this, a share of it says nothing."""


SMALL, LARGE = 0.07, 2.0
"""Returns below the first have three digits behind the point, those from the second on have one."""


class Results(NamedTuple):
    """What the study left."""

    runs: Runs
    probes: Runs
    informed: Runs

    def returns(self, task: str, agent: str, at: float = 1.0, pool: str = "held_out") -> Array:
        """Returns of an agent, one per seed, at a share of the frames."""
        return returns(self.runs, self.probes, task, agent, pool, at)

    def share(self, task: str, agent: str, at: float = 1.0) -> str:
        """The share of the oracle's gap there is by then."""
        ours, low, high = (self.returns(task, each, at) for each in (agent, "nam", "type_oracle"))
        last = [self.returns(task, each).mean() for each in ("nam", "type_oracle")]
        if high.mean() - low.mean() < NO_GAP * (last[1] - last[0]):
            return ""
        return percent(*share(ours, low, high))

    def of_the_limit(self, task: str, agent: str, at: float = 1.0) -> str:
        """The share of the gap to the informed limit at the end."""
        limit = limit_returns(self.informed, task, "held_out")
        if limit is None:
            return ""
        ours, nam = (self.returns(task, each, at) for each in (agent, "nam"))
        return percent(*share(ours, nam, limit)) if gap_is_open(nam, limit) else "no gap"

    def lead(self, task: str, agent: str, at: float = 1.0) -> str:
        """Ours minus an agent."""
        return signed(self.returns(task, OURS, at), self.returns(task, agent, at))

    def lead_in_seconds(self, task: str, agent: str, at: float = 0.5) -> str:
        """Ours at a share of its frames minus an agent that has had as many seconds."""
        if agent not in SECONDS:
            return ""
        returns = []
        for each in (OURS, agent):
            frames, values = whole_curve(self.runs, self.probes, task, each, "held_out")
            there = at * frames[-1] * SECONDS[OURS] / SECONDS[each]
            returns.append(np.array([np.interp(there, frames, one) for one in values]))
        return signed(*returns)

    def lead_over_the_run(self, task: str, agent: str, first: int = 0) -> str:
        """Ours minus an agent as a mean over the run, of the seeds from one on."""
        ours, theirs = (
            over_the_run(self.runs, self.probes, task, each, "held_out")[first:]
            for each in (OURS, agent)
        )
        return signed(ours, theirs) if len(ours) and len(theirs) else ""


def percent(point: float, low: float, high: float) -> str:
    """A share and its interval."""
    return f"{point:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def interval(point: float, low: float, high: float, digits: int, sign: str = "") -> str:
    """A return, or with the sign ``+`` a difference of two, and its interval."""
    return f"{point:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def digits_of(*returns: Array) -> int:
    """Behind the point, by the size of the returns."""
    size = max(abs(each.mean()) for each in returns)
    return 3 if size < SMALL else 2 if size < LARGE else 1


def signed(ours: Array, theirs: Array) -> str:
    """A difference of means and its interval."""
    return interval(*lead(ours, theirs), digits_of(ours, theirs), "+")


def mean(values: Array) -> str:
    """A mean and its interval."""
    return interval(*lead(values, np.zeros(1)), digits_of(values))
