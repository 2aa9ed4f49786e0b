"""Returns, shares of the gap and probes of ``study_partners.py``, from its JSON alone.

The *share of the gap* is ``(R - R_nam) / (R_oracle - R_nam)``, of means over seeds: 0 is memoryless
PPO without a model of the partner, 1 an actor that reads its type. Its interval is the bootstrap's
over the seeds of all three.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from metrics.style import (
    BASELINES,
    COLOURS,
    FRAMES,
    NATS,
    RETURN,
    WIDTH,
    Look,
    legend_of_all,
    look,
)
from studies.plots import Lines, Runs, curve, draw_lines, with_seeds
from studies.report import REPETITIONS, read, read_probes, shown

POOLS = {"train": "training partners", "held_out": "held-out partners"}
HARDER = {"switching": "who switch", "unseen": "of unseen kinds"}
ORDER = (
    "type_oracle",
    "moawm_taught",
    "liam_trained",
    "moawm_recurrent",
    "liam",
    "nam_recurrent",
    "nam",
    "moawm_recurrent_own",
    "moawm_recurrent_no_teacher",
    "moawm_recurrent_frozen",
    "moawm_taught_not_acting",
    "moawm_taught_no_gradient",
    "moawm_taught_plain_critic",
)
DRAWN = ORDER[:7]
"""The agents in the picture of returns, which has no ablations."""
Array = NDArray[np.float64]


def returns(runs: Runs, probes: Runs, task: str, name: str, pool: str, at: float = 1.0) -> Array:
    """Returns of the deterministic policy, one per seed, at a share of the frames."""
    if at == 1.0:
        return np.array([probe["returns"][pool] for probe in probes[task][name]])
    frames, values = curve(runs[task][name], f"return_{pool}")
    return values[:, np.abs(frames - last_frame(runs[task][name]) * at).argmin()]


def last_frame(runs: list[dict[str, Any]]) -> int:
    """Where runs end.

    Raises:
        ValueError: They end at different frames.
    """
    last = {max(v["step_count"] for k, v in run.items() if k.startswith("step_")) for run in runs}
    if len(last) > 1:
        raise ValueError(f"Expected runs of one length, these end at {sorted(last)} frames.")
    return int(last.pop())


def whole_curve(runs: Runs, probes: Runs, task: str, name: str, pool: str) -> tuple[Array, Array]:
    """Frames and returns ``[runs, frames]`` from the first batch to the trained policy.

    While it trains a run takes them every few batches, seldom after the last one. There the
    returns are those of the tables.

    Raises:
        ValueError: There are not as many probes as runs.
    """
    frames, values = curve(runs[task][name], f"return_{pool}")
    last, final = last_frame(runs[task][name]), returns(runs, probes, task, name, pool)
    if len(final) != len(values):
        raise ValueError(f"{task}, {name}: {len(values)} runs and {len(final)} probes.")
    before = frames < last
    return np.append(frames[before], last), np.column_stack([values[:, before], final])


def share(ours: Array, nam: Array, oracle: Array) -> tuple[float, float, float]:
    """The share of the gap and its 95% interval."""
    rng = np.random.default_rng(0)

    def means(x: Array) -> Array:
        return x[rng.integers(len(x), size=(REPETITIONS, len(x)))].mean(1)

    low = means(nam)
    drawn = (means(ours) - low) / (means(oracle) - low)
    point = (ours.mean() - nam.mean()) / (oracle.mean() - nam.mean())
    low_end, high_end = np.quantile(drawn, (0.025, 0.975))
    return float(point), float(low_end), float(high_end)


def names_of(runs: Runs, task: str) -> list[str]:
    """The agents that were trained on a task, the best informed first."""
    return [name for name in ORDER if name in runs[task]]


def limit_returns(informed: Runs, task: str, pool: str) -> Array | None:
    """Returns of the informed limit, one per oracle, where they were measured."""
    found = informed.get(task, {}).get("type_oracle", [])
    return np.array([each["returns"][pool] for each in found]) if found else None


def share_cells(
    runs: Runs, probes: Runs, informed: Runs, task: str, name: str, pool: str
) -> list[str]:
    """Shares of the oracle's gap at the end, at half and a quarter, and of the informed limit's."""
    if name in ("nam", "type_oracle"):
        return [""] * 5

    def cell(at: float, upper: Array | None) -> str:
        if upper is None:
            return ""
        ours, nam = (returns(runs, probes, task, each, pool, at) for each in (name, "nam"))
        point, low, high = share(ours, nam, upper)
        return f"{point:.2f} [{low:.2f}, {high:.2f}]"

    oracle = [
        cell(at, returns(runs, probes, task, "type_oracle", pool, at)) for at in (1.0, 0.5, 0.25)
    ]
    limit = limit_returns(informed, task, pool)
    return [*oracle, *(cell(at, limit) for at in (1.0, 0.5))]


def harder(probes: Runs) -> list[str]:
    """Returns with partners who switch within an episode, or are of kinds never met."""
    lines = ["", "## With partners who switch, or are of unseen kinds", ""]
    columns = [f"held-out partners {each}" for each in HARDER.values()]
    lines += [
        f"| task | agent | seeds | held-out partners | {' | '.join(columns)} |",
        "|---" * 6 + "|",
    ]
    for task in probes:
        for name in names_of(probes, task):
            taken = [each["returns"] for each in probes[task][name]]
            if "switching" in taken[0]:
                cells = [
                    shown(np.array([each[pool] for each in taken])) if pool in taken[0] else ""
                    for pool in ("held_out", *HARDER)
                ]
                lines.append(f"| {task} | {name} | {len(taken)} | {' | '.join(cells)} |")
    return lines


def tables(runs: Runs, probes: Runs, informed: Runs) -> str:
    """Everything as Markdown."""
    lines = [
        "# Partners never met before",
        "",
        "Made by `python benchmarks/study_partners.py report` from the JSON in this folder; the",
        "method is in [partners.md](../../partners.md). Return of the deterministic policy,",
        "interquartile mean [95% bootstrap interval] over seeds; share of the gap between `nam`",
        "and `type_oracle`, and between `nam` and the informed limit (`informed_limit.py`), with",
        "`nam` and the upper end at the same share of the frames; the limit is that of the end.",
    ]
    for pool, title in POOLS.items():
        lines += ["", f"## With {title}", ""]
        columns = ["share of the gap", "at half the frames", "at a quarter"]
        columns += ["share of the informed limit", "at half the frames"]
        lines += [f"| task | agent | seeds | return | {' | '.join(columns)} |", "|---" * 9 + "|"]
        for task in runs:
            for name in names_of(runs, task):
                rest = share_cells(runs, probes, informed, task, name, pool)
                cells = [shown(returns(runs, probes, task, name, pool)), *rest]
                n = len(runs[task][name])
                lines.append(f"| {task} | {name} | {n} | {' | '.join(cells)} |")
            limits = limit_returns(informed, task, pool)
            if limits is not None:
                row = f"{len(limits)} | {shown(limits)}"
                lines.append(f"| {task} | informed limit | {row} | | | | | |")
    lines += harder(probes)
    lines += ["", "## Who knows the type", "", "Accuracy of a linear probe, means over seeds.", ""]
    lines += ["| task | agent | what is read | chance | step 2 | a third | two thirds | last | "]
    lines[-1] += "last, held-out |"
    lines += ["|---" * 9 + "|"]
    for task in probes:
        for name in names_of(probes, task):
            tables = probes[task][name]
            known = {pool: accuracy(tables, pool) for pool in POOLS}
            mean = known["train"].mean(0)
            at = [2, len(mean) // 3, 2 * len(mean) // 3, -1]
            figures = [*(mean[k] for k in at), known["held_out"].mean(0)[-1]]
            row = " | ".join(f"{figure:.2f}" for figure in (tables[0]["chance"], *figures))
            lines.append(f"| {task} | {name} | {tables[0]['reads']} | {row} |")
    return "\n".join(lines) + "\n"


def accuracy(probes: list[dict[str, Any]], pool: str) -> Array:
    """Accuracy of the type's probe, ``[runs, steps]``."""
    return np.array([probe["accuracy"][pool] for probe in probes])


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
            panels.append((with_seeds(task, runs[task]), lines))
        heading = f"Return of the deterministic policy, {title}: mean and range over seeds"
        draw_lines(panels, heading, FRAMES, [RETURN], folder / f"returns_{pool}.png")


STEP = "step of the episode"


def plot_probes(probes: Runs, folder: Path) -> None:
    """Draws the accuracy of the type step by step, beside chance."""
    panels: list[tuple[str, Lines]] = []
    for task, agents in probes.items():
        lines: Lines = {}
        for name in names_of(probes, task):
            if name not in ("type_oracle", "nam"):
                values = accuracy(agents[name], "train")
                lines[name] = (look(name), np.arange(values.shape[1]), values)
        first = next(iter(agents.values()))
        steps = np.arange(accuracy(first, "train").shape[1])
        chance = np.full((1, len(steps)), first[0]["chance"])
        lines["chance"] = (BASELINES["chance"], steps, chance)
        panels.append((with_seeds(task, agents), lines))
    title = "Linear probe for the partner's type, training partners: mean and range over seeds"
    unit = "accuracy of the probe,\nfraction of episodes"
    draw_lines(panels, title, STEP, [unit], folder / "probe.png")


def plot_partner_model(probes: Runs, folder: Path) -> None:
    """Draws the likelihood of the partner's action step by step, beside a distribution per step."""
    panels: list[tuple[str, Lines]] = []
    ours = look("moawm_recurrent")
    drawn = {
        f"moawm_recurrent, {POOLS['train']}": ("train", "moa", ours),
        f"moawm_recurrent, {POOLS['held_out']}": ("held_out", "moa", Look(ours.color, ":")),
        "one distribution per step": ("train", "marginal", BASELINES["marginal"]),
    }
    for task in probes:
        those = probes[task].get("moawm_recurrent", [])
        lines: Lines = {}
        for label, (pool, kind, style) in drawn.items():
            values = np.array([probe["moa"][pool][kind] for probe in those])
            lines[label] = (style, np.arange(1, values.shape[-1] + 1), values)
        if those:
            panels.append((with_seeds(task, {"": those}), lines))
    if panels:
        title = "Negative log-likelihood of the partner's next action: mean and range over seeds"
        draw_lines(panels, title, STEP, [NATS], folder / "moa.png")


def plot_projection(probes: Runs, folder: Path) -> None:
    """Draws two principal components of z at the last step, by type, of the first seed."""
    names = ("moawm_recurrent", "liam", "nam_recurrent")
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


def write_report(folder: Path) -> None:
    """``partners.md`` and its pictures into the folder."""
    needed = ("nam", "type_oracle")
    runs = {task: a for task, a in read(folder).items() if all(n in a for n in needed)}
    if not runs:
        raise SystemExit(f"No results in {folder}: python benchmarks/study_partners.py run")
    probes = {task: a for task, a in read_probes(folder).items() if task in runs}
    informed = read_probes(folder, "informed")
    (folder / "partners.md").write_text(tables(runs, probes, informed))
    plot_returns(runs, probes, folder)
    plot_probes(probes, folder)
    plot_partner_model(probes, folder)
    plot_projection(probes, folder)
    print((folder / "partners.md").read_text())
