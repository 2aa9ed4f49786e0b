"""Trains a grid of tasks, algorithms and seeds, and reports what it shows.

    python benchmarks/study.py run --jobs 2
    python benchmarks/study.py report

A run that is done is skipped and one that was killed is resumed, so a study can be stopped and
taken up again. Each leaves one JSON in the schema of marl-eval under ``--out``, and one of
``probe.py`` where there are models; the report (an extra: ``pip install -e '.[study]'``) needs
nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.runs import HERE, Run, Stages, grid, train, train_missing

CONTROLS = ("mappo_oracle", "moawm_zero_latent", "moawm_frozen_encoder", "moawm_no_teacher")
STAGES: Stages = {
    "main": (("navigation", "balance", "dispersion"), ("mappo", "moawm"), 5),
    "more": (("give_way", "simple_spread_hidden"), ("mappo", "moawm"), 3),
    "controls": (("navigation", "dispersion"), CONTROLS, 3),
}
"""Tasks, algorithms, number of seeds; in this order, so that a study cut short is still one."""


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
        from studies.report import write_report  # needs the extra, which training does not

        write_report(arguments.out)
        return

    def train_one(run: Run) -> None:
        train(run, arguments.out, arguments.work, arguments.overrides)

    runs = grid(STAGES, arguments.stages)
    train_missing(runs, arguments.out, arguments.jobs, train_one)


if __name__ == "__main__":
    main()
