"""Runs the README's headline figures again, and fails where one is not what it says.

    python benchmarks/reproduce.py                 every figure, with two runs at a time
    python benchmarks/reproduce.py --short         main job and one partner task, a learning gate
    python benchmarks/reproduce.py --list          what would be run, and for how long
    python benchmarks/reproduce.py tables          writes the tables of README and pages

``reproduce.toml`` has the runs and the expected intervals. A run that is done is skipped, so that
one may stop. The table goes to ``results/reproduced.md``; those of the pages are of the committed
results (``results/study``, ``results/partners``), which these runs repeat.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from studies import page_tables
from study_partners import settings_of

HERE = Path(__file__).parent
LIST = HERE / "reproduce.toml"
OUT = HERE / "results" / "reproduced.md"
ALL = ("progress_bar=false", "gif=false", "threads=1")


class Run(NamedTuple):
    """One seed of a task and an algorithm."""

    task: str
    algorithm: str
    seed: int
    settings: tuple[str, ...] = ()

    def folder(self, work: Path) -> Path:
        """Where it goes; other settings are another run."""
        other = (each.replace("=", "-") for each in self.settings)
        return work.joinpath(self.task, self.algorithm, *other, f"seed_{self.seed}")

    def command(self, folder: Path) -> list[str]:
        """The command line."""
        suite, task = self.task.split("/")
        more = settings_of(task, self.algorithm) if suite == "partners" else ()
        chosen = [f"task={self.task}", f"algorithm={self.algorithm}", f"seed={self.seed}"]
        place = f"hydra.run.dir={folder}"
        command = [sys.executable, str(HERE / "train.py"), *chosen, place]
        return [*command, *ALL, *more, *self.settings]


class Row(NamedTuple):
    """One figure of the table."""

    what: str
    seeds: int
    low: float
    high: float
    found: float

    @property
    def holds(self) -> bool:
        """Whether the figure is what it has to be; one that is no number is not."""
        return self.low <= self.found <= self.high

    def __str__(self) -> str:
        """A row of Markdown."""
        cells = (self.what, self.seeds, f"{self.low:g} to {self.high:g}", f"{self.found:.3g}")
        return f"| {' | '.join(map(str, cells))} | {'yes' if self.holds else '**no**'} |"


def runs_of(listed: dict[str, Any], short: bool) -> list[Run]:
    """The seeds that are run: the first one in the short form, which has runs of its own."""
    both = short and listed.get("short") is True
    seeds = listed["seeds"][:1] if both else listed["seeds"]
    if not both and short != (listed.get("short") == "only"):
        return []
    settings = tuple(listed.get("settings", ()))
    return [Run(listed["task"], listed["algorithm"], seed, settings) for seed in seeds]


def start(run: Run, work: Path) -> None:
    """Trains in a process of its own, unless that is done.

    Raises:
        SystemExit: It ended by an error.
    """
    folder = run.folder(work)
    if (folder / "summary.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "w") as log:
        command = [*run.command(folder), "resume=auto"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, env=environment):
            raise SystemExit(f"{run} failed: see {folder / 'log.txt'}")
    print(f"done    {run}", flush=True)


def figure(name: str, run: Run, work: Path) -> float:
    """A figure of a run: of its summary, or the last of those that were logged while it trained."""
    folder = run.folder(work)
    value: Any = json.loads((folder / "summary.json").read_text())
    for part in name.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        rows = (folder / "csv" / "scalars" / f"{name}.csv").read_text().split()
        value = rows[-1].split(",")[1]
    return float(value)


def table(listed: dict[str, Any], short: bool, work: Path) -> list[Row]:
    """Every figure that the runs give."""
    rows, done = [], {}
    for run in listed["run"]:
        runs = runs_of(run, short)
        for name, (low, high) in run["expected"].items() if runs else ():
            found = float(np.mean([figure(name, one, work) for one in runs]))
            what = ", ".join((run["task"], run["algorithm"], *run.get("settings", ())))
            rows.append(Row(f"{what}: `{name}`", len(runs), low, high, found))
            done[run["task"], run["algorithm"], name] = found
    for share in listed["share"]:
        task, name = share["task"], "return_held_out"
        ours, low, high = (
            done.get((task, algorithm, name), np.nan)
            for algorithm in (share["algorithm"], "nam", "type_oracle")
        )
        if not np.isnan([ours, low, high]).any():
            what = f"{task}, {share['algorithm']}: share of the gap"
            least, most = share["expected"]
            rows.append(Row(what, 1, least, most, (ours - low) / (high - low)))
    return rows


def reproduce(short: bool, jobs: int, work: Path) -> None:
    """Runs what is listed and writes the table.

    Raises:
        SystemExit: A figure is outside its interval.
    """
    listed = tomllib.loads(LIST.read_text())
    runs = [run for each in listed["run"] for run in runs_of(each, short)]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda run: start(run, work), runs))
    rows = table(listed, short, work)
    lines = ["| figure | seeds | expected | found | holds |", "|---|---|---|---|---|"]
    text = "\n".join([*lines, *map(str, rows)])
    print(text)
    if not short:
        OUT.write_text(f"{page_tables.ABOUT}\n\n{text}\n")
    wrong = [row.what for row in rows if not row.holds]
    if wrong:
        raise SystemExit(f"Outside of its interval: {'; '.join(wrong)}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["run", "tables"], default="run")
    parser.add_argument("--short", action="store_true", help="main job and one partner task")
    parser.add_argument("--list", action="store_true", help="what would be run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--work", type=Path, default=Path("outputs/reproduce"), help="of the runs")
    given = parser.parse_args()
    if given.what == "tables":
        page_tables.write()
        return
    if given.list:
        for run in tomllib.loads(LIST.read_text())["run"]:
            runs = runs_of(run, given.short)
            if runs:
                seeds, minutes = [one.seed for one in runs], run["minutes"] * len(runs)
                print(f"{run['task']:<22}{run['algorithm']:<15}seeds {seeds}  {minutes:.1f} min")
        return
    reproduce(given.short, given.jobs, given.work)


if __name__ == "__main__":
    main()
