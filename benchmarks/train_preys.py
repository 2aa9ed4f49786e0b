"""Trains the partners of the task ``trained_prey``, and keeps their actors beside the task.

    python benchmarks/train_preys.py --work outputs/preys

Every prey is PPO (``algorithm=nam``) on the task ``partners/prey``, with a seed and a reward of its
own: VMAS's simple_tag from the other side, against two scripted hunters. 15 seconds each.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

import partners  # noqa: F401  tasks and algorithms with hidden partners, and the folder conf/
from partners.trained_prey import FEARS, WEIGHTS
from torchrl_moawm.train.checkpoints.trained import load_run

SETTINGS = (
    "task=partners/prey",
    "algorithm=nam",
    "total_frames=245760",
    "num_cells=[64,64]",
    "epochs=8",
    "minibatches=4",
    "lr=2e-3",
    "anneal_lr=false",
    "checkpoint.every=0",
    "gif=false",
    "threads=1",
)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/preys"), help="logs, checkpoints"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="the file of the actors")
    parser.add_argument("overrides", nargs="*", help="of train.py's settings, total_frames=500000")
    given = parser.parse_args()
    actors = []
    for seed, fear in enumerate(FEARS):
        folder = given.work / f"seed_{seed}"
        own = (f"seed={seed}", f"task.scenario_kwargs.fear={fear}", f"hydra.run.dir={folder}")
        train = [sys.executable, str(Path(__file__).with_name("train.py"))]
        subprocess.check_call([*train, *SETTINGS, *own, *given.overrides])
        _, algorithm, _ = load_run(folder, 1)
        actors.append(algorithm.networks["actor"].state_dict())
    torch.save(actors, given.out)


if __name__ == "__main__":
    main()
