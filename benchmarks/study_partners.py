"""Partners never met before: does a model of them pay, and for whom?

    python benchmarks/study_partners.py run --jobs 2
    python benchmarks/study_partners.py report

Tasks and pools are in ``partners/tasks.py``, agents in ``partners/agents.py``, the method in
``partners.md``. A run that is done is skipped; each leaves its returns and its probes under
``--out``, that of the oracle also what ``informed_limit.py`` makes of it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from studies.runs import HERE, Run, Stages, run_study, train

MAIN = ("type_oracle", "nam", "moawm_recurrent", "nam_recurrent", "liam")
TAUGHT = ("moawm_taught", "liam_trained")
RIVALS = ("poam", "meliba")
TAUGHT_ABLATIONS = (
    "moawm_taught_not_acting",
    "moawm_taught_no_kl",
    "moawm_taught_gradient",
)
ABLATIONS = ("moawm_recurrent_own", "moawm_recurrent_no_teacher", "moawm_recurrent_frozen")
TASKS = ("rendezvous", "opposite", "simple_tag")
FORAGING = ("foraging", "foraging_12")
FOG = ("foraging_fog", "foraging_fog_12")
STAGES: Stages = {
    "rendezvous": (("rendezvous",), MAIN, 5),
    "opposite": (("opposite",), MAIN, 5),
    "simple_tag": (("simple_tag",), MAIN, 5),
    "trained_prey": (
        ("trained_prey",),
        ("type_oracle", "nam", *TAUGHT, "liam", "nam_recurrent"),
        5,
    ),
    "taught": (TASKS, TAUGHT, 5),
    "fresh": ((*TASKS, "trained_prey"), (*TAUGHT, "liam"), range(5, 8)),
    "rivals": ((*TASKS, "trained_prey"), RIVALS, 3),
    "taught_ablations": ((*TASKS, "trained_prey"), TAUGHT_ABLATIONS, 3),
    "plain_critic": ((*TASKS, "trained_prey"), ("moawm_taught_plain_critic",), 8),
    "unseen": (("rendezvous_unseen",), ("type_oracle", "nam", *TAUGHT, "liam"), 3),
    "predictions": (TASKS[:2], ("moawm_taught_predicting",), 3),
    "ablations": (TASKS, ABLATIONS, 3),
    "foraging": (FORAGING, ("type_oracle", "nam"), 3),
    "fog": (FOG[:1], ("type_oracle", "nam", *TAUGHT, "liam"), 5),
    "fog_12": (FOG[1:], ("type_oracle", "nam", *TAUGHT, "liam"), 3),
    "fog_more": (FOG[:1], ("nam_recurrent",), 3),
}
COMMON = ("num_cells=[64,64]", "epochs=8", "minibatches=4", "checkpoint.every=0", "anneal_lr=false")
SETTINGS = {
    "rendezvous": ("total_frames=184320", "lr=3e-3"),
    "rendezvous_unseen": ("total_frames=184320", "lr=3e-3"),
    "opposite": ("total_frames=184320", "lr=3e-3"),
    "simple_tag": ("total_frames=491520", "lr=4e-3"),
    "trained_prey": ("total_frames=491520", "lr=4e-3"),
    "foraging": ("total_frames=512000", "lr=3e-3"),
    "foraging_12": ("total_frames=1024000", "lr=3e-3"),
    "foraging_fog": ("total_frames=512000", "lr=3e-3"),
    "foraging_fog_12": ("total_frames=1024000", "lr=3e-3"),
}
"""Settings of a task, the same for all agents but for these."""
OWN = {
    ("trained_prey", "liam_trained"): ("lr=8e-3",),
    ("simple_tag", "liam_trained"): ("lr=8e-3",),
    ("simple_tag", "type_oracle"): ("lr=8e-3",),
    ("simple_tag", "nam"): ("lr=8e-3",),
    ("simple_tag", "meliba"): ("lr=8e-3",),
    ("simple_tag", "poam"): ("lr=2e-3",),
    **{(task, each): ("lr=6e-3",) for task in FORAGING for each in ("type_oracle", "nam")},
    **{(task, "type_oracle"): ("lr=6e-3",) for task in FOG},
}
"""The rate at which an agent learned most on that task, where it is another."""


def settings_of(task: str, algorithm: str) -> tuple[str, ...]:
    """The settings of a run."""
    return (*COMMON, *SETTINGS[task], *OWN.get((task, algorithm), ()))


def train_one(run: Run, out: Path, work: Path, overrides: list[str]) -> None:
    """Trains and probes one run."""
    settings = [*settings_of(run.task, run.algorithm), *overrides]
    train(run, out, work, settings, "partners", "probe_partners.py")
    folder = work / run.task / run.algorithm / f"seed_{run.seed}"
    kept = run.file(out).with_name(f"informed_{run.seed}.json")
    trained = run.file(out).exists() and folder.exists()  # or it failed, or was trained elsewhere
    if run.algorithm == "type_oracle" and trained and not kept.exists():
        subprocess.check_call([sys.executable, str(HERE / "informed_limit.py"), str(folder)])
        shutil.copy(folder / "informed.json", kept)


def main() -> None:
    """Reads the command line."""
    run_study(__doc__, "partners", STAGES, "partners_report", train_one)


if __name__ == "__main__":
    main()
