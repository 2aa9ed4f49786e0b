"""Trains a grid of tasks, algorithms and seeds, and reports what it shows.

    python benchmarks/study.py run --jobs 2
    python benchmarks/study.py report

A run that is done is skipped and one that was killed is resumed, so a study can be stopped and
taken up again. Each leaves one JSON in
the schema of marl-eval under ``--out``, and one of ``probe.py`` where there are models; the report
(an extra: ``pip install -e '.[study]'``) needs nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
CONTROLS = ("mappo_oracle", "moawm_zero_latent", "moawm_frozen_encoder", "moawm_no_teacher")
Stages = dict[str, tuple[tuple[str, ...], tuple[str, ...], int]]
STAGES: Stages = {
    "main": (("navigation", "balance", "dispersion"), ("mappo", "moawm"), 5),
    "more": (("give_way", "simple_spread_hidden"), ("mappo", "moawm"), 3),
    "controls": (("navigation", "dispersion"), CONTROLS, 3),
}
"""Tasks, algorithms, number of seeds; in this order, so that a study cut short is still one."""


class Run(NamedTuple):
    """One cell of the grid."""

    task: str
    algorithm: str
    seed: int

    def file(self, out: Path) -> Path:
        """Where its result is."""
        return out / self.task / self.algorithm / f"seed_{self.seed}.json"

    def probe(self, out: Path) -> Path:
        """Where the probes of its z and its world model are."""
        return out / self.task / self.algorithm / f"probe_{self.seed}.json"


def grid(stages: Iterable[str], table: Stages | None = None) -> Iterator[Run]:
    """Every run, seed after seed."""
    for stage in stages:
        tasks, algorithms, n_seeds = (STAGES if table is None else table)[stage]
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


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what is missing")
    run.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    run.add_argument("--work", type=Path, default=Path("outputs/study"), help="logs, checkpoints")
    run.add_argument("overrides", nargs="*", help="of train.py's settings, total_frames=500000")
    report = commands.add_parser("report", help="curves, intervals and tables of what is there")
    for command in (run, report):
        command.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
        command.add_argument("--out", type=Path, default=HERE / "results" / "study")
    arguments = parser.parse_args()
    if arguments.command == "report":
        from study_report import write_report  # needs the extra, which training does not

        write_report(arguments.out)
        return
    runs = [run for run in grid(arguments.stages) if not run.file(arguments.out).exists()]
    print(f"{len(runs)} runs to do", flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for _ in pool.map(
            lambda run: train(run, arguments.out, arguments.work, arguments.overrides), runs
        ):
            pass


if __name__ == "__main__":
    main()
