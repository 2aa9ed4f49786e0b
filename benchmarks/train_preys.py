"""Trains the partners of the task ``trained_prey``, and keeps their actors beside the task.

    python benchmarks/train_preys.py --work outputs/preys

Every prey is PPO (``algorithm=nam``) on the task ``partners/prey``, with a seed and a reward of its
own: VMAS's simple_tag from the other side, against two scripted hunters. 15 seconds each.
"""

import argparse
from pathlib import Path

import torch

from partners.trained_prey import FEARS, WEIGHTS
from torchrl_moawm.train import Experiment
from torchrl_moawm.train.checkpoints.trained import load_run

SETTINGS = {
    "num_cells": [64, 64],
    "epochs": 8,
    "minibatches": 4,
    "lr": 2e-3,
    "anneal_lr": False,
    "checkpoint.every": 0,
    "gif": False,
    "threads": 1,
}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/preys"), help="logs, checkpoints"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="the file of the actors")
    parser.add_argument("--frames", type=int, default=245_760, help="that each is trained for")
    given = parser.parse_args()
    actors = []
    for seed, fear in enumerate(FEARS):
        folder = given.work / f"seed_{seed}"
        own = {"seed": seed, "task.scenario_kwargs.fear": fear, "total_frames": given.frames}
        Experiment("partners/prey", "nam", {**SETTINGS, **own}, folder=folder).run()
        _, algorithm, _ = load_run(folder, 1)
        actors.append(algorithm.networks["actor"].state_dict())
    torch.save(actors, given.out)


if __name__ == "__main__":
    main()
