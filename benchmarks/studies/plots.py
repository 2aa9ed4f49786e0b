"""Curves of a study while it trains: mean and range over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

Runs = dict[str, dict[str, list[dict[str, Any]]]]
Panel = dict[str, tuple[int, list[dict[str, Any]]]]
"""Colour and runs of each curve, by its label."""
Lines = dict[str, tuple[int, NDArray[np.float64], NDArray[np.float64]]]
OF_THE_MODELS = {
    "moa_nll": "MOA on unseen data, nats",
    "student_kl": "KL of the student to the teacher, nats",
    "active_units": "active dimensions of z (of 16)",
    "world_model_skill": "world model, skill over persistence",
}


def curve(
    runs: list[dict[str, Any]], name: str = "return"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frames, and a figure ``[runs, steps]`` while training, at the steps that all runs have."""
    steps = [
        {v["step_count"]: v[name][0] for k, v in run.items() if k.startswith("step_") and name in v}
        for run in runs
    ]
    frames = sorted(set.intersection(*map(set, steps)))
    return np.array(frames), np.array([[one[frame] for frame in frames] for one in steps])


def plot(runs: Runs, path: Path) -> None:
    """The return, task by task."""
    names = sorted({algorithm for task in runs.values() for algorithm in task})
    panels = [
        (
            task,
            "return",
            {f"{n} ({len(those)} seeds)": (names.index(n), those) for n, those in those_of.items()},
        )
        for task, those_of in runs.items()
    ]
    title = "Return of the stochastic policy while training: mean and range over seeds"
    draw(panels, title, "return, mean over agents", path)


def plot_models(runs: Runs, path: Path) -> None:
    """The models' figures of ``moawm``, a panel each."""
    tasks = [task for task, algorithms in runs.items() if "moawm" in algorithms]
    curves = {task: (k, runs[task]["moawm"]) for k, task in enumerate(tasks)}
    panels = [(title, name, curves) for name, title in OF_THE_MODELS.items()]
    draw(panels, "Models of moawm while training: mean and range over seeds", "", path)


def draw(panels: list[tuple[str, str, Panel]], title: str, unit: str, path: Path) -> None:
    """A row of panels: title, name of the figure, curves."""
    read = [
        (heading, {label: (colour, *curve(runs, name)) for label, (colour, runs) in those.items()})
        for heading, name, those in panels
    ]
    draw_lines(read, title, "frames", unit, path)


def draw_lines(
    panels: list[tuple[str, Lines]], title: str, along: str, unit: str, path: Path
) -> None:
    """A row of panels: title, and of each line its colour, x and values ``[runs, steps]``."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4.3 * len(panels), 3.6), squeeze=False)
    colours = plt.get_cmap("tab10")
    for axis, (heading, lines) in zip(axes.flat, panels, strict=True):
        for label, (colour, x, values) in lines.items():
            axis.plot(x, values.mean(0), color=colours(colour), label=label)
            axis.fill_between(x, values.min(0), values.max(0), color=colours(colour), alpha=0.15)
        axis.set(title=heading, xlabel=along, ylabel=unit)
        if along == "frames":
            axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6, framealpha=0.5)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
