"""Partners never met before: does a model of them pay, and for whom?

    python benchmarks/study_partners.py run --jobs 2
    python benchmarks/study_partners.py report

Tasks and pools are in ``tasks/partners.py``, agents in ``algorithms/partners.py``, the method in
``partners.md``. A run that is done is skipped; each leaves its returns and its probes under
``--out``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.runs import HERE, Run, Stages, grid, train, train_missing

MAIN = ("type_oracle", "nam", "moawm_recurrent", "nam_recurrent", "liam")
ABLATIONS = ("moawm_recurrent_own", "moawm_recurrent_no_teacher", "moawm_recurrent_frozen")
STAGES: Stages = {
    "rendezvous": (("rendezvous",), MAIN, 5),
    "opposite": (("opposite",), MAIN, 5),
    "simple_tag": (("simple_tag",), MAIN, 5),
    "ablations": (("rendezvous", "opposite", "simple_tag"), ABLATIONS, 3),
}
COMMON = ("num_cells=[64,64]", "epochs=8", "minibatches=4", "checkpoint.every=0")
SETTINGS = {
    "rendezvous": ("total_frames=184320", "lr=3e-3"),
    "opposite": ("total_frames=184320", "lr=3e-3"),
    "simple_tag": ("total_frames=245760", "lr=2e-3"),
}
"""Of all agents alike."""


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what is missing")
    run.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    run.add_argument("--work", type=Path, default=Path("outputs/partners"), help="logs")
    run.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    run.add_argument("overrides", nargs="*", help="of train.py's settings")
    report = commands.add_parser("report", help="curves, shares of the gap and probes")
    for command in (run, report):
        command.add_argument("--out", type=Path, default=HERE / "results" / "partners")
    arguments = parser.parse_args()
    if arguments.command == "report":
        from studies.partners_report import write_report  # needs the extra, which training does not

        write_report(arguments.out)
        return

    def train_one(run: Run) -> None:
        settings = [*COMMON, *SETTINGS[run.task], *arguments.overrides]
        train(run, arguments.out, arguments.work, settings, "partners", "probe_partners.py")

    runs = grid(STAGES, arguments.stages)
    train_missing(runs, arguments.out, arguments.jobs, train_one)


if __name__ == "__main__":
    main()
