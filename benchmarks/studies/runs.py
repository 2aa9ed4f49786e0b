"""The runs of a study: a grid of tasks, algorithms and seeds."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parents[1]
"""The folder of the commands."""

Stages = dict[str, tuple[tuple[str, ...], tuple[str, ...], int | range]]
"""By the name of a stage: tasks, algorithms, seeds or their number."""
ABLATIONS = ("moawm_zero_latent", "moawm_frozen_encoder", "moawm_no_teacher")
VARIANTS = ("moawm_teacher_first", "moawm_detached", "moawm_gradient")
"""The framework with parts taken away, and variants that no picture has."""


class Run(NamedTuple):
    """One cell of the grid."""

    task: str
    algorithm: str
    seed: int

    def file(self, out: Path) -> Path:
        """File of the result."""
        return out / self.task / self.algorithm / f"seed_{self.seed}.json"

    def probe(self, out: Path) -> Path:
        """File of the probes of z and world model."""
        return out / self.task / self.algorithm / f"probe_{self.seed}.json"


def grid(table: Stages, stages: Iterable[str]) -> Iterator[Run]:
    """Every run of some stages of a table, seed after seed."""
    for stage in stages:
        tasks, algorithms, seeds = table[stage]
        for seed in range(seeds) if isinstance(seeds, int) else seeds:
            for task in tasks:
                for algorithm in algorithms:
                    yield Run(task, algorithm, seed)


def train(
    run: Run,
    out: Path,
    work: Path,
    overrides: list[str],
    suite: str = "vmas",
    probe_by: str = "probe.py",
    probes: bool = True,
) -> None:
    """Trains in a process of its own; the result appears whole or not at all."""
    file, folder = run.file(out), work / run.task / run.algorithm / f"seed_{run.seed}"
    if file.exists():
        return
    begun = any((folder / "checkpoints").glob("checkpoint-*"))  # and stopped before its end
    if not begun:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(HERE / "train.py"),
        f"task={suite}/{run.task}",
        f"algorithm={run.algorithm}",
        f"seed={run.seed}",
        f"hydra.run.dir={folder}",
        "progress_bar=false",
        "gif=false",
        "threads=1",
        *overrides,
    ]
    if begun:
        command.append(f"resume={folder}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / "log.txt", "w") as log:
        code = subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        known = probes and (run.algorithm.startswith("moawm") or suite == "partners")
        if not code and known:  # what its z and world model know
            probe = [sys.executable, str(HERE / probe_by), str(folder)]
            code = subprocess.call(probe, stdout=log, stderr=subprocess.STDOUT, env=environment)
    if code:
        print(f"FAILED  {run}: see {folder / 'log.txt'}", flush=True)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    for made, kept in (("probe.json", run.probe(out)), ("run.json", file)):  # the latter is "done"
        if (folder / made).exists():
            partial = kept.with_suffix(".partial")
            shutil.copy(folder / made, partial)
            partial.rename(kept)
    print(f"done    {run}", flush=True)


def run_study(
    description: str,
    name: str,
    stages: Stages,
    report_by: str,
    train_one: Callable[[Run, Path, Path, list[str]], None],
) -> None:
    """The command line of a study: ``run`` trains what is missing, ``report`` writes the report.

    Args:
        description: What the help text says.
        name: Of the folders, ``outputs/<name>`` for the work and ``results/<name>``.
        stages: What there is to be run.
        report_by: The module whose ``write_report`` takes the folder of the results; it is imported
            when it is asked for, for training does not need the extra.
        train_one: Takes a run, the folders of results and work, and overrides of settings.
    """
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what is missing")
    run.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    run.add_argument("--work", type=Path, default=Path(f"outputs/{name}"), help="logs, checkpoints")
    run.add_argument("--stages", nargs="+", choices=stages, default=list(stages))
    run.add_argument("overrides", nargs="*", help="of train.py's settings, total_frames=500000")
    report = commands.add_parser("report", help="curves, intervals and tables of what is there")
    for command in (run, report):
        command.add_argument("--out", type=Path, default=HERE / "results" / name)
    given = parser.parse_args()
    if given.command == "report":
        import_module(f"studies.{report_by}").write_report(given.out)
        return
    runs = list(grid(stages, given.stages))
    print(f"{sum(not run.file(given.out).exists() for run in runs)} runs to do", flush=True)
    with ThreadPoolExecutor(given.jobs) as pool:  # of one that is done, what may still be missing
        list(pool.map(lambda one: train_one(one, given.out, given.work, given.overrides), runs))
