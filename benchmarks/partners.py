"""Partners never met before: does a model of them pay, and for whom?

    python benchmarks/partners.py run --jobs 2
    python benchmarks/partners.py report

Tasks, pools and agents are in ``partner_tasks.py`` and ``partner_agents.py``, the method in
``partners.md``. Runs are made by ``study.py``: one that is done is skipped, and each leaves its
returns and its probes under ``--out``.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from study import HERE, Run, Stages, grid, train

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
        from partners_report import write_report  # needs the extra, which training does not

        write_report(arguments.out)
        return

    def one(run: Run) -> None:
        settings = [*COMMON, *SETTINGS[run.task], *arguments.overrides]
        train(run, arguments.out, arguments.work, settings, "partners", "partner_probe.py")

    runs = [r for r in grid(arguments.stages, STAGES) if not r.file(arguments.out).exists()]
    print(f"{len(runs)} runs to do", flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(one, runs))


if __name__ == "__main__":
    main()
