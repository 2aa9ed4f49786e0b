"""The tables of ``partners.md``: a selection of what the report has, from the same JSON.

All returns are those with held-out partners, as plain means over seeds with 95% bootstrap
intervals.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from studies.partners_numbers import (
    FRESH,
    Array,
    last_frame,
    lead,
    limit_returns,
    over_the_run,
    returns,
    share,
    whole_curve,
)
from studies.report import rows
from torchrl_moawm.train.metrics.curves import Runs

OURS = "moawm_taught"
TASKS = ("rendezvous", "opposite", "simple_tag", "trained_prey")
AGENTS = (OURS, "liam_trained", "liam", "poam", "meliba", "moawm_recurrent", "nam_recurrent")
RIVALS = ("liam_trained", "liam", "poam")
PARTS: Mapping[str, str] = {
    f"{OURS}_not_acting": "the teacher does not act",
    f"{OURS}_no_kl": "the teacher neither acts nor pulls the student (alpha = 0)",
    f"{OURS}_gradient": "the policy's gradient trains the student too",
    f"{OURS}_plain_critic": "the critic does not see the partner",
    f"{OURS}_predicting": "actor and critic read what the models of others expect",
}
SECONDS = {OURS: 1.16, "liam_trained": 1.32, "liam": 1.0, "poam": 1.66}
"""Seconds of a frame over ``liam``'s, ours without models of others and world: "Seconds"."""
NO_GAP = 0.1
"""Where the oracle has opened less of its gap than this, a share of it says nothing."""


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
        return percent(*share(self.returns(task, agent, at), self.returns(task, "nam", at), limit))

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


def interval(point: float, low: float, high: float, sign: str = "") -> str:
    """A return, or with the sign ``+`` a difference of two, and its interval."""
    digits = 2 if max(map(abs, (point, low, high))) < 2 else 1
    return f"{point:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def signed(ours: Array, theirs: Array) -> str:
    """A difference of means and its interval."""
    return interval(*lead(ours, theirs), "+")


def mean(values: Array) -> str:
    """A mean and its interval."""
    return interval(*lead(values, np.zeros(1)))


def results_table(results: Results) -> str:
    """Returns and shares of every agent."""
    head = ["task (frames)", "agent", "seeds", "return", "of the oracle's gap", "at half"]
    body = []
    for task in TASKS:
        frames = last_frame(results.runs[task]["nam"])
        names = [name for name in AGENTS if name in results.runs[task]]
        for agent in ("type_oracle", *names, "nam"):
            values = results.returns(task, agent)
            cells = [mean(values), *[""] * 4]
            if agent in names:
                shares = [
                    f(task, agent, at)
                    for f in (results.share, results.of_the_limit)
                    for at in (1.0, 0.5)
                ]
                cells[1:] = shares
            first = f"{task} ({frames:,})" if agent == "type_oracle" else ""
            bold = f"**`{agent}`**" if agent == OURS else f"`{agent}`"
            body.append([first, bold, str(len(values)), *cells])
        limit = limit_returns(results.informed, task, "held_out")
        if limit is not None:
            body.append(["", "informed limit", str(len(limit)), mean(limit), *[""] * 4])
    return rows([*head, "of the gap to the informed limit", "at half"], body)


def leads_table(results: Results) -> str:
    """Ours minus its rivals."""
    head = ["task", f"`{OURS}` minus", "at half", "in equal seconds"]
    head += ["at the end", "mean over the run"]
    body = [
        [
            task,
            f"`{agent}`",
            results.lead(task, agent, 0.5),
            results.lead_in_seconds(task, agent),
            results.lead(task, agent),
            results.lead_over_the_run(task, agent),
            results.lead_over_the_run(task, agent, FRESH),
        ]
        for task in TASKS
        for agent in RIVALS
    ]
    return rows([*head, f"seeds {FRESH} to 7 alone"], body)


def parts_table(results: Results) -> str:
    """Ours with parts taken away or added."""
    head = ["task", "changed", "seeds", "at half", "at the end"]
    body = []
    for task in TASKS:
        for agent, what in {OURS: f"`{OURS}`", **PARTS}.items():
            if agent in results.runs[task]:
                seeds = str(len(results.runs[task][agent]))
                shares = [results.share(task, agent, at) for at in (0.5, 1.0)]
                minus = "" if agent == OURS else results.lead_over_the_run(task, agent)
                body.append([task if agent == OURS else "", what, seeds, *shares, minus])
    return rows([*head, "whole minus this, over the run"], body)


def switching_table(results: Results) -> str:
    """Held-out partners who stay, and who are drawn anew within an episode."""
    agents = ("type_oracle", OURS, "liam_trained", "liam")
    body = []
    for task in TASKS:
        cells = []
        for agent in agents:
            there = "switching" in results.probes[task][agent][0]["returns"]
            pools = ("held_out", "switching") if there else ()
            cells.append(", ".join(mean(results.returns(task, agent, pool=p)) for p in pools))
        body.append([task, *cells])
    return rows(["task", *(f"`{agent}`" for agent in agents)], body)


def limit_table(results: Results) -> str:
    """The oracle where it is told, and where a filter tells it."""
    head = ["task", "oracles", "filter right at the end", "`type_oracle`, same episodes"]
    body = []
    for task in TASKS:
        found = results.informed[task]["type_oracle"]
        right = np.mean([each["accuracy"]["held_out"][-1] for each in found])
        told, informed = (
            np.array([each[name]["held_out"] for each in found]) for name in ("oracle", "returns")
        )
        body.append([task, str(len(found)), f"{right:.2f}", mean(told), mean(informed)])
    return rows([*head, "informed by the filter"], body)


def tables(results: Results) -> dict[str, str]:
    """Every table of the page by the name in its marker."""
    return {
        "results": results_table(results),
        "leads": leads_table(results),
        "parts": parts_table(results),
        "switching": switching_table(results),
        "limit": limit_table(results),
    }
