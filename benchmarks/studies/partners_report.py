"""The report of ``study_partners.py``, from its JSON alone."""

from pathlib import Path

import numpy as np

from studies.partners_cells import digits_of, signed
from studies.partners_numbers import (
    FORAGING,
    FRESH,
    OURS,
    POOLS,
    Array,
    accuracy,
    gap_is_open,
    limit_returns,
    names_of,
    over_the_run,
    probed,
    returns,
    share,
)
from studies.partners_page import TASKS
from studies.partners_pictures import plot_partner_model, plot_probes, plot_projection, plot_returns
from studies.report import read, read_probes, shown
from torchrl_moawm.train.metrics.curves import Runs

TABLES_ALONE = ("rendezvous_unseen",)
"""Tasks that no picture has."""
HARDER = {"switching": "who switch", "unseen": "of unseen kinds"}


def with_digits(values: Array) -> str:
    """An interquartile mean and its interval, with as many digits as returns of that size need."""
    return shown(values, digits_of(values))


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
        if not gap_is_open(nam, upper):
            return "no gap"
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
                    with_digits(np.array([each[pool] for each in taken]))
                    if pool in taken[0]
                    else ""
                    for pool in ("held_out", *HARDER)
                ]
                lines.append(f"| {task} | {name} | {len(taken)} | {' | '.join(cells)} |")
    return lines


def leads(runs: Runs, probes: Runs) -> list[str]:
    """Returns of ours minus those of the others, with held-out partners."""
    lines = ["", f"## `{OURS}` minus the others", ""]
    lines += [
        "Difference of mean returns with held-out partners [95% bootstrap interval]. The mean",
        f"over the run is that over its frames; fresh seeds are those from {FRESH} on.",
        "",
    ]
    columns = ["at half the frames", "at the end", "mean over the run"]
    columns += ["mean over the run, fresh seeds"]
    lines += [f"| task | minus | seeds | {' | '.join(columns)} |", "|---" * 7 + "|"]
    for task in (task for task in runs if OURS in runs[task]):
        for name in (name for name in names_of(runs, task) if name != OURS):
            pairs = [
                [returns(runs, probes, task, each, "held_out", at) for each in (OURS, name)]
                for at in (0.5, 1.0)
            ]
            whole = [over_the_run(runs, probes, task, each, "held_out") for each in (OURS, name)]
            fresh = [values[FRESH:] for values in whole]
            cells = [
                signed(*pair) if all(map(len, pair)) else "" for pair in (*pairs, whole, fresh)
            ]
            seeds = " and ".join(str(len(values)) for values in whole)
            lines.append(f"| {task} | {name} | {seeds} | {' | '.join(cells)} |")
    return lines


def tables(runs: Runs, probes: Runs, informed: Runs) -> str:
    """Everything as Markdown."""
    lines = [
        "# Partners never met before",
        "",
        "Made by `python benchmarks/study_partners.py report` from the JSON in this folder; the",
        "method is in [partners.md](../../partners.md). Return of the deterministic policy (on the",
        "tasks of foraging of drawn actions), interquartile mean [95% bootstrap interval] over",
        "seeds; share of the gap between `nam` and `type_oracle`, and between `nam` and the",
        "informed limit (`informed_limit.py`), with `nam` and the upper end at the same share of",
        "the frames; the limit is that of the end.",
    ]
    for pool, title in POOLS.items():
        lines += ["", f"## With {title}", ""]
        columns = ["share of the gap", "at half the frames", "at a quarter"]
        columns += ["share of the informed limit", "at half the frames"]
        lines += [f"| task | agent | seeds | return | {' | '.join(columns)} |", "|---" * 9 + "|"]
        for task in runs:
            for name in names_of(runs, task):
                rest = share_cells(runs, probes, informed, task, name, pool)
                cells = [with_digits(returns(runs, probes, task, name, pool)), *rest]
                n = len(runs[task][name])
                lines.append(f"| {task} | {name} | {n} | {' | '.join(cells)} |")
            limits = limit_returns(informed, task, pool)
            if limits is not None:
                row = f"{len(limits)} | {with_digits(limits)}"
                lines.append(f"| {task} | informed limit | {row} | | | | | |")
    lines += leads(runs, probes)
    lines += harder(probes)
    lines += ["", "## Who knows the type", "", "Accuracy of a linear probe, means over seeds.", ""]
    lines += ["| task | agent | what is read | chance | step 2 | a third | two thirds | last | "]
    lines[-1] += "last, held-out |"
    lines += ["|---" * 9 + "|"]
    for task in probes:
        for name in names_of(probes, task):
            tables = probed(probes[task][name])
            if not tables:
                continue
            known = {pool: accuracy(tables, pool) for pool in POOLS}
            mean = known["train"].mean(0)
            at = [2, len(mean) // 3, 2 * len(mean) // 3, -1]
            figures = [*(mean[k] for k in at), known["held_out"].mean(0)[-1]]
            row = " | ".join(f"{figure:.2f}" for figure in (tables[0]["chance"], *figures))
            lines.append(f"| {task} | {name} | {tables[0]['reads']} | {row} |")
    return "\n".join(lines) + "\n"


def write_report(folder: Path) -> None:
    """``partners.md`` and its pictures into the folder."""
    needed = ("nam", "type_oracle")
    runs = {task: a for task, a in read(folder).items() if all(n in a for n in needed)}
    if not runs:
        raise SystemExit(f"No results in {folder}: python benchmarks/study_partners.py run")
    probes = {task: a for task, a in read_probes(folder).items() if task in runs}
    informed = read_probes(folder, "informed")
    (folder / "partners.md").write_text(tables(runs, probes, informed))
    drawn = [task for task in runs if task not in TABLES_ALONE]
    order = (*TASKS, *FORAGING)  # as in the tables; those without a gap stand behind
    drawn.sort(key=lambda task: order.index(task) if task in order else len(order))
    runs, probes = ({task: each[task] for task in drawn} for each in (runs, probes))
    plot_returns(runs, probes, folder)
    plot_probes(probes, folder)
    plot_partner_model(probes, folder)
    plot_projection(probes, folder)
    print((folder / "partners.md").read_text())
