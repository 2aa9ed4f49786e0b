"""The report of ``study_imagination.py``, from its JSON alone."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.report import final, read, shown
from torchrl_moawm.train.metrics.curves import Runs, curve, draw_lines, with_seeds
from torchrl_moawm.train.metrics.style import FRAMES, RETURN, look

OURS, KNOWN = "moawm_imagined", "moawm_known_rewards"
TOLD = KNOWN, "moawm_oracle"
"""Who is told what the others have to learn: they do not set the threshold."""
CURVES = {
    "navigation": "return_deterministic",
    "simple_spread": "return",
    "simple_tag": "return_adversary",
}
"""What passes the threshold: 50 episodes of the deterministic policy every 1,000 frames; where an
environment is slow, the episodes of the training, as a mean over the last ``WINDOW`` frames. Of two
teams that play against each other it is the return of those who hunt."""
FINAL = {"simple_tag": "evaluation_return_adversary"}
"""What stands for the return at the end where it is not that of everybody."""
WINDOW = 2_000
SHARE = 0.8
"""The share of the way from the first return to the best control's last one that has to be made."""
DRAWS = 10_000

Numbers = NDArray[np.float64]


def smoothed(frames: Numbers, values: Numbers, task: str) -> Numbers:
    """Means over the last frames, ``[runs, steps]``; a deterministic return as it is."""
    if CURVES[task] == "return_deterministic":
        return values
    recent = [(frames > frame - WINDOW) & (frames <= frame) for frame in frames]
    return np.stack([values[:, these].mean(1) for these in recent], 1)


def threshold(algorithms: dict[str, list[dict[str, Any]]], task: str) -> float:
    """The return that has to be passed."""
    curves = {
        name: (frames, smoothed(frames, values, task))
        for name, runs in algorithms.items()
        for frames, values in [curve(runs, CURVES[task])]
        if name not in TOLD
    }
    first = np.mean([values[:, 0].mean() for _, values in curves.values()])
    best = max(values[:, -1].mean() for name, (_, values) in curves.items() if name != OURS)
    return float(first + SHARE * (best - first))


def passed(runs: list[dict[str, Any]], task: str, value: float) -> tuple[Numbers, Numbers, int]:
    """Frames and seconds of each run until it passes, and how many do; else all there were."""
    frames, seconds, reached = [], [], 0
    for run in runs:
        steps, values = curve([run], CURVES[task])
        whole = (steps >= WINDOW) | (CURVES[task] == "return_deterministic")
        above = np.flatnonzero((smoothed(steps, values, task)[0] >= value) & whole)
        at = steps[above[0]] if len(above) else steps[-1]
        reached += bool(len(above))
        clock = {s["step_count"]: s["elapsed_time"] for s in run.values() if "step_count" in s}
        frames.append(at)
        seconds.append(clock[at])
    return np.array(frames, float), np.array(seconds, float), reached


def ratio(theirs: Numbers, ours: Numbers) -> str:
    """The ratio of the means over seeds, with its 95% bootstrap interval."""
    draw = np.random.default_rng(0)
    a, b = (x[draw.integers(len(x), size=(DRAWS, len(x)))].mean(1) for x in (theirs, ours))
    low, high = np.quantile(a / b, [0.025, 0.975])
    return f"{theirs.mean() / ours.mean():.2f} [{low:.2f}, {high:.2f}]"


def over(values: dict[str, Numbers], name: str, whose: str, more: str) -> str:
    """One algorithm's frames or seconds over another's."""
    if whose == name or whose not in values:
        return ""
    return more + ratio(values[name], values[whose])


HEADER = (
    "| task, and the return to be passed | | seeds that pass | frames until then |"
    " over `moawm_imagined`'s | over `moawm_known_rewards`' | seconds until then |"
    " over `moawm_imagined`'s | return at the end |"
)


def rows(algorithms: dict[str, list[dict[str, Any]]], task: str) -> list[str]:
    """Frames and seconds to the threshold, and the return at the end, of one task."""
    value = threshold(algorithms, task)
    found = {name: passed(runs, task, value) for name, runs in algorithms.items()}
    frames_of = {name: frames for name, (frames, _, _) in found.items()}
    seconds_of = {name: seconds for name, (_, seconds, _) in found.items()}
    lines = []
    for name, (frames, seconds, reached) in found.items():
        more = "at least " if reached < len(frames) else ""
        cells = [
            f"{task}: {value:.2f}",
            f"`{name}`",
            f"{reached} of {len(frames)}",
            f"{more}{frames.mean():,.0f}",
            over(frames_of, name, OURS, more),
            over(frames_of, name, KNOWN, more),
            f"{more}{seconds.mean():.0f}",
            over(seconds_of, name, OURS, more),
            shown(final(algorithms[name], FINAL.get(task, "return"))),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def plot(runs: Runs, path: Path) -> None:
    """Draws what passes the threshold, against real frames."""
    panels = []
    for task, those in runs.items():
        lines = {}
        for name, of in those.items():
            frames, values = curve(of, CURVES[task])
            lines[name] = (look(name), frames, smoothed(frames, values, task))
        panels.append((with_seeds(task, those), lines))
    title = "Learning in imagination: return against real frames, mean and range over seeds"
    draw_lines(panels, title, FRAMES, [RETURN], path)


def write_report(folder: Path) -> None:
    """Writes ``imagination.md`` and ``imagination.png`` beside the runs."""
    runs = read(folder)
    order = [task for task in CURVES if task in runs]
    runs = {
        task: dict(sorted(runs[task].items(), key=lambda each: each[0] != OURS)) for task in order
    }
    plot(runs, folder / "imagination.png")
    lines = ["<!-- Written by study_imagination.py report. -->", "", "# Imagination", ""]
    lines += [HEADER, "|---|---|---|---|---|---|---|---|---|"]
    for task in order:
        lines += rows(runs[task], task)
    (folder / "imagination.md").write_text("\n".join(lines).rstrip() + "\n")
    print(f"Written to {folder}")
