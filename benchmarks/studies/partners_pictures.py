"""The pictures of ``study_partners.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from studies.partners_numbers import POOLS, accuracy, names_of, probed, whole_curve
from torchrl_moawm.train.metrics.curves import Lines, Runs, draw_lines, with_seeds
from torchrl_moawm.train.metrics.style import (
    BASELINES,
    COLOURS,
    FRAMES,
    NATS,
    RETURN,
    WIDTH,
    Look,
    legend_of_all,
    look,
    styled,
)

DRAWN = ("type_oracle", "moawm_taught", "liam_trained", "liam", "poam", "nam_recurrent", "nam")
"""The agents in the pictures of returns and of probes, which have no ablations."""


def plot_returns(runs: Runs, probes: Runs, folder: Path) -> None:
    """Draws the returns task by task to the end of the runs, a file per pool."""
    for pool, title in POOLS.items():
        panels: list[tuple[str, Lines]] = []
        for task in runs:
            lines: Lines = {
                name: (look(name), *whole_curve(runs, probes, task, name, pool))
                for name in names_of(runs, task)
                if name in DRAWN
            }
            shown = {name: runs[task][name] for name in lines}
            panels.append((with_seeds(task, shown), lines))
        heading = f"Return with {title}: mean and range over seeds"
        draw_lines(panels, heading, FRAMES, in_rows(RETURN, panels), folder / f"returns_{pool}.png")


def in_rows(unit: str, panels: Sequence[object]) -> list[str]:
    """The unit of each row of panels: one row, or two of more than four."""
    return [unit] * (2 if len(panels) > 4 else 1)


STEP = "step of the episode"


def plot_probes(probes: Runs, folder: Path) -> None:
    """Draws the accuracy of the type step by step, beside chance."""
    panels: list[tuple[str, Lines]] = []
    for task, agents in probes.items():
        names = [name for name in names_of(probes, task) if name in DRAWN[1:-1]]
        kept = {name: probed(agents[name]) for name in names}
        lines: Lines = {}
        for name, those in kept.items():
            values = accuracy(those, "train")
            lines[name] = (look(name), np.arange(values.shape[1]), values)
        first = next(iter(agents.values()))
        steps = np.arange(accuracy(first, "train").shape[1])
        chance = np.full((1, len(steps)), first[0]["chance"])
        lines["chance"] = (BASELINES["chance"], steps, chance)
        if kept:  # or nobody infers anything there
            panels.append((with_seeds(task, kept), lines))
    title = "Linear probe for the partner's type, training partners: mean and range over seeds"
    unit = "accuracy of the probe,\nfraction of episodes"
    draw_lines(panels, title, STEP, in_rows(unit, panels), folder / "probe.png")


def plot_partner_model(probes: Runs, folder: Path) -> None:
    """Draws the likelihood of the partner's action step by step, beside a distribution per step."""
    panels: list[tuple[str, Lines]] = []
    ours = look("moawm_taught")
    drawn = {
        f"moawm_taught, {POOLS['train']}": ("train", "moa", ours),
        f"moawm_taught, {POOLS['held_out']}": ("held_out", "moa", Look(ours.color, ":")),
        "one distribution per step": ("train", "marginal", BASELINES["marginal"]),
    }
    for task in probes:
        those = probed(probes[task].get("moawm_taught", []))
        lines: Lines = {}
        for label, (pool, kind, style) in drawn.items():
            values = np.array([probe["moa"][pool][kind] for probe in those])
            lines[label] = (style, np.arange(1, values.shape[-1] + 1), values)
        if those:
            panels.append((with_seeds(task, {"": those}), lines))
    if panels:
        title = "Negative log-likelihood of the partner's next action: mean and range over seeds"
        draw_lines(panels, title, STEP, in_rows(NATS, panels), folder / "moa.png")


@styled
def plot_projection(probes: Runs, folder: Path) -> None:
    """Draws two principal components of z at the last step, by type, of the first seed."""
    names = ("moawm_taught", "liam_trained", "nam_recurrent")
    compared = {task: agents for task, agents in probes.items() if names[1] in agents}
    probes = compared or probes  # a row of one agent says nothing beside others
    figure = Figure(figsize=(WIDTH, 0.9 + 2.5 * len(probes)), layout="constrained")
    axes = figure.subplots(len(probes), len(names), squeeze=False)
    for row, (task, agents) in zip(axes, probes.items(), strict=True):
        for axis, name in zip(row, names, strict=True):
            if name in agents:
                draw_types(axis, agents[name][0]["projection"])
                axis.set_title(f"{task}: {name}")
        row[0].set_ylabel("second component (no unit)")
    for axis in axes[-1]:
        axis.set_xlabel("first component (no unit)")
    legend_of_all(figure, list(axes.flat))
    figure.suptitle("z (or recurrent state) at the last step: two principal components, one seed")
    figure.savefig(folder / "projection.png")


def draw_types(axis: Any, projection: dict[str, Any]) -> None:
    """Draws a point for each episode, its colour and shape by the partner's type."""
    points, types = np.array(projection["points"]), np.array(projection["types"])
    for k in sorted(set(types)):
        style = {"color": COLOURS[k % 8], "marker": "os^vDPX*"[k % 8], "linewidths": 0}
        axis.scatter(*points[types == k].T, s=16, label=f"type {k}", **style)
