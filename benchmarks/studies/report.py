"""Curves, intervals and tables of a study, from its JSON alone.

Statistics by rliable (Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", 2021): interquartile means with 95% stratified bootstrap intervals, probability of
improvement. Returns are put on one scale per task for the aggregate over tasks: 0 is the lowest and
1 the highest return of any run of the task.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rliable import library, metrics

from studies.plots import plot, plot_models
from studies.runs import ABLATIONS, VARIANTS
from torchrl_moawm.train.metrics.curves import Runs

FIGURES = {
    "moa_nll": "MOA, nats",
    "moa_nll_marginal": "marginal",
    "moa_nll_repeat": "repeat",
    "moa_nll_oracle": "oracle",
    "world_model_skill": "world-model skill",
    "z_gap": "z_gap",
    "student_kl": "student KL, nats",
    "active_units": "active units",
}
REPETITIONS = 5000
RETURNS_ALONE = (*VARIANTS, *ABLATIONS)
"""Agents whose returns are compared, and not their models, which learn in the same way, or less."""


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---")


def by_seed(file: Path) -> tuple[str, str, int]:
    """Task, algorithm and seed of a file, by which they are sorted."""
    return file.parts[-3], file.parts[-2], int(file.stem.rpartition("_")[2])


def read(folder: Path) -> Runs:
    """Runs by task and algorithm, in the order of their seeds."""
    runs: Runs = {}
    for file in sorted(folder.glob("*/*/seed_*.json"), key=by_seed):
        for tasks in json.loads(file.read_text()).values():
            for task, algorithms in tasks.items():
                for algorithm, seeds in algorithms.items():
                    runs.setdefault(task, {}).setdefault(algorithm, []).extend(seeds.values())
    return runs


def final(runs: list[dict[str, Any]], name: str = "return") -> NDArray[np.float64]:
    """A figure of the deterministic evaluation at the end, of each run that has it."""
    values = [run["absolute_metrics"][name][0] for run in runs if name in run["absolute_metrics"]]
    return np.array(values)


def interval(scores: NDArray[np.float64]) -> tuple[float, float, float]:
    """Interquartile mean and its interval; of ``[runs]`` or ``[runs, tasks]``."""
    scores = scores.reshape(len(scores), -1)

    def iqm(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([metrics.aggregate_iqm(x)])

    np.random.seed(0)
    point, bounds = library.get_interval_estimates({"_": scores}, iqm, reps=REPETITIONS)
    return float(point["_"][0]), float(bounds["_"][0, 0]), float(bounds["_"][1, 0])


def shown(scores: NDArray[np.float64], digits: int = 2) -> str:
    """``2.87 [2.80, 2.93]``."""
    point, low, high = interval(scores)
    return f"{point:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def improvement(runs: dict[str, list[dict[str, Any]]], ours: str, theirs: str) -> str:
    """Probability that a run of ours ends above a run of theirs, with its interval."""
    pair = {"_": (final(runs[ours])[:, None], final(runs[theirs])[:, None])}
    np.random.seed(0)
    point, bounds = library.get_interval_estimates(
        pair, metrics.probability_of_improvement, reps=REPETITIONS
    )
    low, high = np.ravel(bounds["_"])
    return f"{float(np.ravel(point['_'])[0]):.2f} [{low:.2f}, {high:.2f}]"


def read_probes(folder: Path, name: str = "probe") -> Runs:
    """Tables of ``probe.py`` by task and algorithm, in the order of their seeds; or of others."""
    probes: Runs = {}
    for file in sorted(folder.glob(f"*/*/{name}_*.json"), key=by_seed):
        task, algorithm = file.parts[-3:-1]
        table = json.loads(file.read_text())
        probes.setdefault(task, {}).setdefault(algorithm, []).append(table)
    return probes


def probe_tables(probes: Runs) -> list[str]:
    """Tables of what z and world model know, by block of features: medians over seeds."""
    titles = {
        "probe": "Linear probe for what the **others** observe, explained variance on episodes it "
        "was not fitted to, from:",
        "open_loop": "World model on its own predictions, skill over copying o_t after steps:",
    }
    lines = []
    for kind, title in titles.items():
        first = next(iter(next(iter(probes.values())).values()))[0]
        columns = list(next(iter(first[kind].values())))
        lines += ["", title, "", f"| task | algorithm | block | {' | '.join(columns)} |"]
        lines += ["|---" * (len(columns) + 3) + "|"]
        for task, algorithms in probes.items():
            for name, those in algorithms.items():
                for block in those[0][kind]:
                    cells = [np.median([one[kind][block][c] for one in those]) for c in columns]
                    row = " | ".join(f"{cell:.2f}" for cell in cells)
                    lines.append(f"| {task} | {name} ({len(those)}) | {block} | {row} |")
    return lines


def tables(runs: Runs) -> str:
    """Everything as Markdown."""
    lines = [
        "# Study",
        "",
        "Made by `python benchmarks/study.py report` from the JSON in this folder. Returns: of the",
        "deterministic policy at the end, interquartile mean [95% bootstrap interval] over seeds.",
        "An interval of few seeds spans little more than these seeds; of one seed, nothing.",
        "",
        "| task | algorithm | seeds | return | P(better than mappo) |",
        "|---|---|---|---|---|",
    ]
    for task, algorithms in runs.items():
        for name, those in algorithms.items():
            better = "" if name == "mappo" else improvement(algorithms, name, "mappo")
            better = better if "mappo" in algorithms else ""
            row = f"{len(those)} | {shown(final(those))} | {better}"
            lines.append(f"| {task} | {name} | {row} |")
    lines += ["", *aggregate(runs), ""]
    lines += ["Models on fresh episodes, medians over seeds.", ""]
    lines += [f"| task | algorithm | {' | '.join(FIGURES.values())} |"]
    lines += ["|---" * (len(FIGURES) + 2) + "|"]
    for task, algorithms in runs.items():
        for name, those in algorithms.items():
            found = [final(those, figure) for figure in FIGURES if name not in RETURNS_ALONE]
            if any(len(values) for values in found):
                cells = [f"{np.median(values):.2f}" if len(values) else "" for values in found]
                lines.append(f"| {task} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def aggregate(runs: Runs) -> list[str]:
    """Over the tasks on which both were trained with the same number of seeds."""
    pairs = {
        task: those
        for task, those in runs.items()
        if {"mappo", "moawm"} <= those.keys() and len(those["mappo"]) == len(those["moawm"])
    }
    if not pairs:
        return []
    n_seeds = min(len(those["mappo"]) for those in pairs.values())
    lines = []
    for name in ("mappo", "moawm"):
        columns = []
        for those in pairs.values():
            both = np.concatenate([final(those["mappo"]), final(those["moawm"])])
            columns.append(((final(those[name]) - both.min()) / np.ptp(both))[:n_seeds])
        lines.append(f"- `{name}`: {shown(np.stack(columns, 1))}")
    head = (
        f"Over {', '.join(pairs)} ({n_seeds} seeds), each between its worst (0) and best (1) run:"
    )
    return [head, "", *lines]


def write_report(folder: Path) -> None:
    """``study.md``, ``study.png`` and ``models.png`` into the folder."""
    runs = read(folder)
    if not runs:
        raise SystemExit(f"No results in {folder}: python benchmarks/study.py run")
    drawn = {
        task: {name: those[name] for name in those if name not in VARIANTS}
        for task, those in runs.items()
    }
    plot(drawn, folder / "study.png")
    text, probes = tables(runs), read_probes(folder)
    if probes:
        text += "\n".join(probe_tables(probes)) + "\n"
    if any("moawm" in algorithms for algorithms in runs.values()):
        plot_models(drawn, folder / "models.png")
    (folder / "study.md").write_text(text)
    print((folder / "study.md").read_text())
