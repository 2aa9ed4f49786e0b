"""The tables of ``partners.md``: a selection of what the report has, from the same JSON."""

from collections.abc import Mapping

import numpy as np

from studies.partners_cells import Results, mean, signed
from studies.partners_numbers import FORAGING, FRESH, ORDER, OURS, last_frame, limit_returns
from studies.report import rows

TASKS = (
    *("rendezvous", "opposite", "simple_tag", "trained_prey"),
    *("foraging_fog", "foraging_fog_12"),
)
AGENTS = (OURS, "liam_trained", "liam", "poam", "meliba", "moawm_recurrent", "nam_recurrent")
RIVALS = ("liam_trained", "liam", "poam")
PARTS: Mapping[str, str] = {
    f"{OURS}_not_acting": "the teacher does not act",
    f"{OURS}_no_kl": "the teacher neither acts nor pulls the student (alpha = 0)",
    f"{OURS}_gradient": "the policy's gradient trains the student too",
    f"{OURS}_plain_critic": "the critic does not see the partner",
    f"{OURS}_predicting": "actor and critic read what the models of others expect",
}


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
        if agent in results.runs[task]
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


def foraging_table(results: Results) -> str:
    """Where there may be nothing to infer: every agent, and what it has more than ``nam``."""
    head = ["task (frames)", "agent", "seeds", "at half", "at the end"]
    body = []
    for task in FORAGING:
        last = last_frame(results.runs[task]["nam"])
        for agent in (name for name in ORDER if name in results.runs[task]):
            values, nam = (
                [results.returns(task, x, at) for at in (0.5, 1.0)] for x in (agent, "nam")
            )
            more = "" if agent == "nam" else signed(values[1], nam[1])
            first = f"{task} ({last:,})" if agent == "type_oracle" else ""
            body.append([first, f"`{agent}`", str(len(values[1])), *map(mean, values), more])
    return rows([*head, "minus `nam`"], body)


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
        "foraging": foraging_table(results),
    }
