"""The tables of README, ``partners.md`` and the benchmarks' first page, from the results."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from studies import partners_page
from studies.partners_cells import Results
from studies.partners_numbers import share
from studies.report import final, read, read_probes, rows
from torchrl_moawm.train.metrics.curves import Runs

EVENLY = 2 * np.log(2)
"""Nats of an even density over navigation's two actions, each from -1 to 1."""
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
ABOUT = "\n".join(
    (
        "# Headline figures, run again",
        "",
        "Made by `python benchmarks/reproduce.py` from the runs and intervals of `reproduce.toml`.",
    )
)
AGENTS = {
    "moawm_taught": "`moawm_taught`: this framework",
    "liam_trained": "`liam_trained`: LIAM-style, with the policy's gradient, its critic told",
    "liam": "`liam`: LIAM-style",
    "nam_recurrent": "`nam_recurrent`: recurrent PPO",
}
COLUMNS = {
    "rendezvous": "rendezvous",
    "opposite": "opposite",
    "VMAS simple_tag, hidden prey": "simple_tag",
    "prey that was trained": "trained_prey",
    "foraging in fog": "foraging_fog",
    "the same, 12 x 12 cells": "foraging_fog_12",
}
"""Tasks by their heading."""


def partners_table(results: Results) -> str:
    """Shares of the gap between ``nam`` and ``type_oracle`` at the end, and at half the frames."""

    def shares(agent: str, task: str) -> str:
        if agent not in results.runs[task]:
            return ""
        names, cells = (agent, "nam", "type_oracle"), []
        for at in (1.0, 0.5):
            three = (results.returns(task, each, at) for each in names)
            cells.append(f"{share(*three)[0]:.0%}")
        return ", ".join(cells)

    body = [
        [name, *(shares(agent, task) for task in COLUMNS.values())]
        for agent, name in AGENTS.items()
    ]
    return rows(["", *COLUMNS], body)


def main_job_table(runs: Runs, attained: Mapping[str, Mapping[str, float]]) -> str:
    """Figures of the main job beside what they are compared with.

    Args:
        runs: Of the study; the main job is its first seed of ``moawm`` on navigation.
        attained: What its first seed and a plain regression attain on the same data, by figure.
    """
    ours, theirs = runs["navigation"]["moawm"], runs["navigation"]["mappo"]
    first = {name: value[0] for name, value in ours[0]["absolute_metrics"].items()}
    blocks = {name.partition("/")[2]: value for name, value in first.items() if "by_block/" in name}
    others, nats = (
        ", ".join(f"{value:.2f}" for value in final(ours, name)[1:])
        for name in ("return", "moa_nll")
    )
    all_five = f"mean of the five {np.mean(final(ours)):.2f}"
    mappo = f"of TorchRL's MAPPO, same networks and loop, {np.mean(final(theirs)):.2f}"
    lidar, reward = (attained[x] for x in ("world_model_skill_by_block/lidar", "reward_skill"))
    position = f"position and goal {min(blocks['position'], blocks['goal']):.3f}"
    body = [
        [
            "`evaluation_return`, the deterministic policy's (the bar's `return` is the exploring "
            "one's)",
            f"{first['return']:.2f}",
            f"Seeds 1 to 4: {others}; {all_five}, {mappo}; the intervals overlap",
        ],
        [
            "`moa_nll`, nats per predicted agent",
            f"{first['moa_nll']:.2f}",
            f"Seeds 1 to 4: {nats}. `_oracle`, the acting policy itself, which no other agent can "
            f"know: {first['moa_nll_oracle']:.2f} here; `_marginal`, one distribution per agent: "
            f"{first['moa_nll_marginal']:.2f}; `_repeat`, around the previous action: "
            f"{first['moa_nll_repeat']:.2f}; evenly over all actions: {EVENLY:.2f}",
        ],
        [
            "`world_model_skill_by_block`: 1 is perfect, 0 is copying",
            f"{position}, velocity {blocks['velocity']:.3f}, lidar {blocks['lidar']:.2f}",
            f"on other data of the trained team lidar {lidar['run']:.2f}, where a plain regression "
            f"has {lidar['attainable']:.2f}",
        ],
        [
            "`reward_skill`",
            f"{first['reward_skill']:.2f}",
            f"the same: {reward['run']:.2f}, the regression {reward['attainable']:.2f}",
        ],
        [
            "`z_gap`, reconstruction error with z shuffled over that with z",
            f"{first['z_gap']:.1f}",
            "1 is a latent without use",
        ],
    ]
    return rows(["printed as", "value", "for comparison"], body)


def tables() -> dict[str, dict[str, str]]:
    """Every table by its page and the name in its marker."""
    folder = RESULTS / "partners"
    partners = Results(read(folder), read_probes(folder), read_probes(folder, "informed"))
    figures = json.loads((RESULTS / "attainable_navigation.json").read_text())["figures"]
    main_job = {"main job": main_job_table(read(RESULTS / "study"), figures)}
    return {
        "README.md": {"partners": partners_table(partners), **main_job},
        "docs/pages/benchmarks/index.md": main_job,
        "benchmarks/partners.md": partners_page.tables(partners),
    }


def filled(text: str, made: Mapping[str, str]) -> str:
    """A page with its tables as the results are.

    Raises:
        ValueError: A table has no place in it.
    """
    for name, table in made.items():
        begin, marker, rest = text.partition(f"<!-- table: {name} -->\n")
        _, end, behind = rest.partition("\n<!-- end -->")
        if not marker or not end:
            raise ValueError(f"The page has no table {name!r}.")
        text = begin + marker + table + end + behind
    return text


def write() -> None:
    """Writes the tables into their pages."""
    for page, made in tables().items():
        file = ROOT / page
        file.write_text(filled(file.read_text(), made))
