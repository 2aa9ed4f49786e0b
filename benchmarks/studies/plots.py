"""Curves of a study while it trains: mean and range over seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from metrics.style import (
    BASELINES,
    FRAMES,
    GREY,
    LOOKS,
    NATS,
    RETURN,
    WIDTH,
    Look,
    along_frames,
    legend_of_all,
    look,
)

Runs = dict[str, dict[str, list[dict[str, Any]]]]
Lines = dict[str, tuple[Look, NDArray[Any], NDArray[np.float64]]]
"""Look, x and values ``[runs, steps]`` of each line, by its label."""
COLUMNS = 3
OF_THE_MODELS = {
    f"model of others, {NATS}": {
        "moa_nll": ("moawm", look("moawm")),
        "moa_nll_marginal": ("one distribution per agent", BASELINES["marginal"]),
        "moa_nll_repeat": ("previous action repeated", BASELINES["repeat"]),
        "moa_nll_oracle": ("oracle: the policy itself", BASELINES["oracle"]),
    },
    "world model: skill\nover copying (0 to 1)": {"world_model_skill": ("moawm", look("moawm"))},
    "KL of the student\nto the teacher, nats": {"student_kl": ("moawm", look("moawm"))},
    "active dimensions\nof z, of 16": {"active_units": ("moawm", look("moawm"))},
}
"""Rows of ``models.png``: the unit, and labels and looks of the figures."""


def curve(
    runs: list[dict[str, Any]], name: str = "return"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frames, and a figure ``[runs, steps]`` while training, of the runs and steps that have it."""
    steps = [
        {v["step_count"]: v[name][0] for k, v in run.items() if k.startswith("step_") and name in v}
        for run in runs
    ]
    steps = [one for one in steps if one] or steps
    frames = sorted(set.intersection(*map(set, steps)))
    return np.array(frames), np.array([[one[frame] for frame in frames] for one in steps])


def with_seeds(task: str, algorithms: dict[str, list[dict[str, Any]]]) -> str:
    """The heading of a task's panel: ``dispersion, 3 to 5 seeds``."""
    low, *_, high = sorted(2 * [len(runs) for runs in algorithms.values()])
    number = str(low) if low == high else f"{low} to {high}"
    return f"{task}, {number} seed{'s' if high > 1 else ''}"


def plot(runs: Runs, path: Path) -> None:
    """Draws the return, task by task."""
    panels = [
        (with_seeds(task, those), {n: (look(n), *curve(of)) for n, of in those.items()})
        for task, those in runs.items()
    ]
    title = "Return of the stochastic policy while training: mean and range over seeds"
    draw_lines(panels, title, FRAMES, [RETURN] * -(-len(panels) // COLUMNS), path)


def plot_models(runs: Runs, path: Path) -> None:
    """Draws the figures of ``moawm``'s models: a row for each, a column for each task."""
    tasks = [task for task, algorithms in runs.items() if "moawm" in algorithms]
    panels: list[tuple[str, Lines]] = []
    for figures in OF_THE_MODELS.values():
        for task in tasks:
            read = {name: curve(runs[task]["moawm"], name) for name in figures}
            lines: Lines = {
                figures[n][0]: (figures[n][1], *r) for n, r in read.items() if len(r[0])
            }
            panels.append((task if figures is next(iter(OF_THE_MODELS.values())) else "", lines))
    title = "Models of moawm on data they were not trained on: mean and range over seeds"
    draw_lines(panels, title, FRAMES, list(OF_THE_MODELS), path)


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
