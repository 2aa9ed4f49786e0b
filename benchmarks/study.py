"""Trains a grid of tasks, algorithms and seeds, and reports what it shows.

    python benchmarks/study.py run --jobs 2
    python benchmarks/study.py report

A run that is done is skipped and one that was killed is resumed, so a study can be stopped and
taken up again. Each leaves one JSON in the schema of marl-eval under ``--out``, and one of
``probe.py`` where there are models; the report (an extra: ``pip install -e '.[study]'``) needs
nothing else.
"""

from studies.runs import ABLATIONS, Stages, run_study, train

CONTROLS = ("mappo_oracle", *ABLATIONS)
TASKS = ("navigation", "balance", "dispersion", "give_way", "simple_spread_hidden")
STAGES: Stages = {
    "main": (TASKS, ("mappo", "moawm"), 5),
    "controls": (("navigation", "give_way"), CONTROLS, 3),
    "taught": (TASKS, ("moawm_teacher_first",), 5),
    "detached": (TASKS, ("moawm_detached",), 5),
    "gradient": (TASKS, ("moawm_gradient",), 5),
}
"""Tasks, algorithms, number of seeds; in this order, so that a study cut short is still one."""


def main() -> None:
    """Reads the command line."""
    run_study(__doc__, "study", STAGES, "report", train)


if __name__ == "__main__":
    main()
