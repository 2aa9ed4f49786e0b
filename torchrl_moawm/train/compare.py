"""The command ``moawm-compare``: curves and final returns of several runs, side by side.

    moawm-compare outputs/moawm/vmas/navigation/* outputs/mappo/vmas/navigation/*
    moawm-compare mine/run.json benchmarl/mappo_navigation_mlp__1a2b3c4d.json --out both.png

It reads folders of runs (their ``run.json``) and files in the schema of marl-eval, so those that
BenchMARL writes too. Runs of one task and algorithm are its seeds. It writes a picture and beside
it a table (``compare.md``), which it prints.
"""

import argparse
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchrl_moawm.train.metrics.curves import (
    Lines,
    Runs,
    curve,
    draw_lines,
    steps_with,
    with_seeds,
)
from torchrl_moawm.train.metrics.style import FRAMES, RETURN, cycle, look

COLUMNS = 2
EVALUATED = "return_deterministic"


def read(places: Sequence[Path]) -> Runs:
    """Runs by task and algorithm; a place that is no finished run is left out with a warning.

    Raises:
        ValueError: None is a finished run, a file is not in marl-eval's schema, or two are runs of
            one seed.
    """
    runs: Runs = {}
    seen: dict[tuple[str, str, str], Path] = {}
    unfinished: list[Path] = []
    for place in dict.fromkeys(place.resolve() for place in places):
        file = place / "run.json" if place.is_dir() else place
        if not file.is_file():
            unfinished.append(place)
            continue
        try:
            saved = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is no JSON: {error}") from error
        for task, algorithm, seed, run in entries(saved, file):
            other = seen.setdefault((task, algorithm, seed), file)
            if other != file:
                raise ValueError(
                    f"{other} and {file} are both {seed} of {algorithm} on {task}, no two seeds: "
                    "leave one out, or give one run another algorithm.name."
                )
            runs.setdefault(task, {}).setdefault(algorithm, []).append(run)
    for place in unfinished:
        if not runs:
            raise ValueError(f"{place} holds no run.json: has that run ended?")
        warnings.warn(f"Left out {place}: it holds no run.json.", stacklevel=2)
    return runs


def entries(saved: Any, file: Path) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Task, algorithm, seed and run of all in ``{suite: {task: {algorithm: {seed: run}}}}``."""
    found = [
        (f"{suite}/{task}", algorithm, seed, run)
        for suite, tasks in mapping(saved, file).items()
        for task, algorithms in mapping(tasks, file).items()
        for algorithm, seeds in mapping(algorithms, file).items()
        for seed, run in mapping(seeds, file).items()
    ]
    for *_, run in found:
        if not steps_with(mapping(run, file), "return"):
            raise ValueError(f"{file} has no steps with a return: no episode has ended.")
    return found


def mapping(value: Any, file: Path) -> Mapping[str, Any]:
    """The value, which has to be one of names."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{file} is not in the schema of marl-eval.")
    return value


def final(run: Mapping[str, Any]) -> float:
    """The mean return at the end.

    Of a run of ours that is the final evaluation, its absolute metric. Where a step holds the
    returns of several episodes (BenchMARL's evaluation, whose absolute metric is the best episode
    of the whole run) it is the mean of the last step.
    """
    last = max(steps_with(run, "return"), key=lambda step: step["step_count"])["return"]
    absolute = run.get("absolute_metrics", {}).get("return")
    return float(np.mean(absolute if absolute and len(last) == 1 else last))


def table(runs: Runs) -> str:
    """Final returns, differences to the first algorithm of each task, frames and seconds."""
    lines = [
        "| task | algorithm | seeds | return at the end | difference to the first | frames | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, algorithms in runs.items():
        first: NDArray[np.float64] | None = None
        for name, seeds in algorithms.items():
            returns = np.array([final(run) for run in seeds])
            apart = "" if first is None else difference(returns, first)
            first = returns if first is None else first
            frames, seconds = (of_the_last(seeds, key) for key in ("step_count", "elapsed_time"))
            shown = f"{returns.mean():.3g} [{returns.min():.3g}, {returns.max():.3g}]"
            cells = [task, name, str(len(seeds)), shown, apart, frames, seconds]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(ours: NDArray[np.float64], first: NDArray[np.float64]) -> str:
    """Difference of the means; with its standard error where both have two seeds or more."""
    apart = f"{ours.mean() - first.mean():+.3g}"
    if min(len(ours), len(first)) < 2:
        return apart
    error = np.sqrt(ours.var(ddof=1) / len(ours) + first.var(ddof=1) / len(first))
    return f"{apart} +- {error:.2g}"


def of_the_last(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    """Mean over runs of an entry of their last step, if all have it."""
    steps = [steps_with(run, name) for run in runs]
    if not all(steps):
        return ""
    return f"{np.mean([max(each[name] for each in one) for one in steps]):,.0f}"


def draw(runs: Runs, path: Path) -> None:
    """Draws returns over frames, task by task; deterministic ones where every run has them."""
    names = list(dict.fromkeys(name for algorithms in runs.values() for name in algorithms))
    looks = dict(zip(names, cycle(look(names[0]).color, len(names)), strict=True))
    panels: list[tuple[str, Lines]] = []
    for task, algorithms in runs.items():
        everyone = [run for seeds in algorithms.values() for run in seeds]
        evaluated = all(any(EVALUATED in v for v in run.values()) for run in everyone)
        drawn = EVALUATED if evaluated else "return"
        lines: Lines = {n: (looks[n], *curve(seeds, drawn)) for n, seeds in algorithms.items()}
        panels.append((with_seeds(task, algorithms), lines))
    title = "Return while training: mean and range over seeds"
    draw_lines(panels, title, FRAMES, [RETURN] * -(-len(panels) // COLUMNS), path)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="moawm-compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, files of marl-eval")
    parser.add_argument("--out", type=Path, default=Path("compare.png"), help="the picture")
    given = parser.parse_args()
    if given.out.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--out is a picture: .png, .pdf or .svg, not {given.out.name}")
    try:
        runs = read(given.runs)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        draw(runs, given.out)
    except ValueError as error:
        parser.error(str(error))
    written = table(runs)
    given.out.with_suffix(".md").write_text(f"{written}\n")
    print(f"{written}\n\n{given.out}")


if __name__ == "__main__":
    main()
