"""Where frames are dear: learning in imagination beside three MAPPOs that have as few of them.

    python benchmarks/study_imagination.py run --jobs 2
    python benchmarks/study_imagination.py report

``mappo`` has the best of the settings that were tried for it, ``mappo_more_steps`` as many steps of
the optimizer for a real frame as ``moawm_imagined``, ``mappo_permuted`` its data with the agents in
another order in each minibatch, for the joint world model knows that agents are alike.
``moawm_known_rewards`` is told the rewards of the task and learns what moves how; ``moawm_oracle``
has the simulator in the place of the world model: what a perfect one would save.
Settings were chosen on seeds 0 to 2, and two of them after seed 10. A run that is done is skipped.
"""

from pathlib import Path

from studies.runs import Run, Stages, run_study, train

ALGORITHMS = ("moawm_imagined", "mappo", "mappo_more_steps", "mappo_permuted")
INFORMED = ("moawm_known_rewards", "moawm_oracle")
SEEDS, FEW_SEEDS = range(10, 15), range(10, 13)
STAGES: Stages = {
    "simple_spread": (("simple_spread",), ALGORITHMS, SEEDS),
    "navigation": (("navigation",), (*ALGORITHMS, *INFORMED), FEW_SEEDS),
    "simple_tag": (("simple_tag",), (*ALGORITHMS, *INFORMED), FEW_SEEDS),
}
"""Tasks, algorithms, seeds."""
SUITES = {"navigation": "vmas", "simple_spread": "pettingzoo", "simple_tag": "pettingzoo"}
TASKS = {
    "navigation": ("total_frames=15_000", "evaluation_envs=50"),
    "simple_spread": ("total_frames=30_000", "task.gamma=0.95", "task.lmbda=0.9", "lr=2.0e-3"),
}
TASKS["simple_tag"] = TASKS["simple_spread"]
"""Settings of each task, the same for all."""
OURS_ON_NAVIGATION = (
    "task.num_envs=2",
    "evaluation_interval=5",
    "task.entropy_coeff=0.01",  # without it the policy settles too early
)
BATCHES: dict[str, dict[str, tuple[str, ...]]] = {
    "navigation": {
        "moawm_imagined": OURS_ON_NAVIGATION,
        "moawm_known_rewards": (*OURS_ON_NAVIGATION, "--trust-code"),
        "moawm_oracle": (*OURS_ON_NAVIGATION, "--trust-code"),
        "mappo": ("task.num_envs=5", "epochs=20", "evaluation_interval=2"),
        "mappo_more_steps": ("task.num_envs=2", "epochs=26", "evaluation_interval=5"),
        "mappo_permuted": ("task.num_envs=5", "epochs=20", "evaluation_interval=2"),
    },
    "simple_spread": {
        "moawm_imagined": ("task.num_envs=2",),
        "mappo": ("task.num_envs=2",),
        "mappo_more_steps": ("task.num_envs=2", "epochs=26"),
        "mappo_permuted": ("task.num_envs=2",),
    },
}
BATCHES["simple_tag"] = {
    **BATCHES["simple_spread"],
    "moawm_known_rewards": (
        "task.num_envs=2",
        "algorithm.imagination.rewards=known_rewards:simple_tag",
        "--trust-code",
    ),
    "moawm_oracle": (
        "task.num_envs=2",
        "algorithm.imagination.model=oracles.simple_tag:simple_tag",
        "--trust-code",
    ),
}
"""Frames of a batch, in environments of 100 steps, and passes over it (10 where none is given)."""


def train_one(run: Run, out: Path, work: Path, overrides: list[str]) -> None:
    """Trains one team with its settings; the models learn beside the team alone."""
    settings = [*TASKS[run.task], *BATCHES[run.task][run.algorithm], "task.model_frames=0"]
    train(run, out, work, [*settings, *overrides], suite=SUITES[run.task], probes=False)


def main() -> None:
    """Reads the command line."""
    run_study(__doc__, "imagination", STAGES, "imagination_report", train_one)


if __name__ == "__main__":
    main()
