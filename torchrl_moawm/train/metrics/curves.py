"""Curves of several runs side by side: mean and range over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from torchrl_moawm.train.metrics.style import (
    FRAMES,
    GREY,
    LOOKS,
    WIDTH,
    Look,
    along_frames,
    legend_of_all,
    styled,
)

Runs = dict[str, dict[str, list[dict[str, Any]]]]
"""Runs in the schema of marl-eval, by task and algorithm."""
Lines = dict[str, tuple[Look, NDArray[Any], NDArray[np.float64]]]
"""Look, x and values ``[runs, steps]`` of each line, by its label."""


def steps_with(run: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The steps of a run that have a figure of that name."""
    return [step for key, step in run.items() if key.startswith("step_") and name in step]


def curve(
    runs: list[dict[str, Any]], name: str = "return"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frames, and a figure ``[runs, steps]`` while training, of the runs and steps that have it."""
    steps = [
        {step["step_count"]: float(np.mean(step[name])) for step in steps_with(run, name)}
        for run in runs
    ]
    steps = [one for one in steps if one] or steps
    frames = sorted(set.intersection(*map(set, steps)))
    if not frames:
        raise ValueError(f"The runs have no number of frames in common at which there is {name!r}.")
    return np.array(frames), np.array([[one[frame] for frame in frames] for one in steps])


def with_seeds(task: str, algorithms: dict[str, list[dict[str, Any]]]) -> str:
    """The heading of a task's panel: ``dispersion, 3 to 5 seeds``."""
    low, *_, high = sorted(2 * [len(runs) for runs in algorithms.values()])
    number = str(low) if low == high else f"{low} to {high}"
    return f"{task}, {number} seed{'s' if high > 1 else ''}"


@styled
def draw_lines(
    panels: list[tuple[str, Lines]], title: str, along: str, units: Sequence[str], path: Path
) -> None:
    """Draws rows of panels, with one legend for all.

    Args:
        panels: The heading of each, and its lines.
        title: What all of them show.
        along: The name of the horizontal axes.
        units: The name of the vertical axes, row by row.
        path: Where the picture goes.
    """
    rows, columns = len(units), -(-len(panels) // len(units))
    figure = Figure(
        figsize=(WIDTH, 0.8 + rows * (2.1 if columns < 4 else 1.7)), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (heading, lines) in zip(axes.flat, panels, strict=False):
        draw_panel(axis, lines, along)
        axis.set_title(heading, fontsize=9 if columns < 4 else 8)
    for row, unit in zip(axes, units, strict=True):
        row[0].set_ylabel(unit)
    for column in axes.T:
        [axis for axis in column if axis.has_data()][-1].set_xlabel(along)
    figure.align_ylabels(axes[:, 0])
    legend_of_all(figure, list(axes.flat), list(LOOKS))
    figure.suptitle(title)
    figure.savefig(path)


def draw_panel(axis: Any, lines: Lines, along: str) -> None:
    """Draws the mean of each line, and its range as a band."""
    for label, (style, x, values) in lines.items():
        axis.plot(x, values.mean(0), label=label, **style._asdict())
        axis.fill_between(x, values.min(0), values.max(0), color=style.color, alpha=0.15, lw=0)
    last = max((x[-1] for _, x, _ in lines.values()), default=1)
    if along == FRAMES:
        along_frames(axis, last)
    else:
        axis.set_xlim(0, last)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(5))
    low, high = axis.get_ylim()
    if low > 0:
        axis.set_ylim(bottom=0)
    elif high > 0:
        axis.axhline(0.0, color=GREY, lw=0.8, zorder=0)
