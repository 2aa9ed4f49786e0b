"""The runs of a study: a grid of tasks, algorithms and seeds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parents[1]
"""The folder of the commands."""


Stages = dict[str, tuple[tuple[str, ...], tuple[str, ...], int]]
"""By the name of a stage: tasks, algorithms, number of seeds."""


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
        tasks, algorithms, n_seeds = table[stage]
        for seed in range(n_seeds):
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
) -> None:
    """Trains in a process of its own; the result appears whole or not at all."""
    file, folder = run.file(out), work / run.task / run.algorithm / f"seed_{run.seed}"
    if file.exists():
        return
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
    if any((folder / "checkpoints").glob("checkpoint-*")):  # stopped before its end
        command.append(f"resume={folder}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(folder / "log.txt", "w") as log:
        code = subprocess.call(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        known = run.algorithm.startswith("moawm") or suite == "partners"
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


def train_missing(
    runs: Iterable[Run], out: Path, jobs: int, train_one: Callable[[Run], None]
) -> None:
    """Trains the runs that have no result yet, some at a time."""
    missing = [run for run in runs if not run.file(out).exists()]
    print(f"{len(missing)} runs to do", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(train_one, missing))
