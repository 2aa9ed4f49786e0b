"""One side of each team against the other side of every other: who hunts better, who flees better.

    python benchmarks/cross_play.py outputs/mappo/pettingzoo/simple_tag/seed0-... outputs/moawm/...

Where two groups play against each other, the return of one says as much of the other. So the first
group of each run meets the second group of each run (or of those ``--against``), by deterministic
policies, in episodes that are the same for all. The table has the return of the first group by
algorithm: the mean over meetings, and the range. For runs of one task with two groups, whose
policies have no memory.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm.train import Algorithm
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.metrics.returns import team_return
from torchrl_moawm.train.tasks.environment import make_env

SEED = 4_000_000


Team = tuple[DictConfig, Algorithm]
"""The configuration of a run, and what it has trained."""


@torch.no_grad()
def meet(first: Team, second: Team, steps: int) -> float:
    """Return of the first group of one run against the second group of another.

    Raises:
        ValueError: There are not two groups, or a policy has a memory.
    """
    (config, own), (_, others) = first, second
    env = make_env(config, 1, SEED)
    groups = list(env.group_map)
    if len(groups) != 2 or own.memories or others.memories:
        raise ValueError(f"Expected policies without memory of two groups, got {groups}.")

    def both(tensordict: TensorDictBase) -> TensorDictBase:
        theirs = others.policy(tensordict.clone())
        acted = own.policy(tensordict)
        action = groups[1], "action"
        return acted.set(action, theirs.get(action))

    with set_exploration_type(ExplorationType.DETERMINISTIC):
        batch = env.rollout(steps, both, break_when_any_done=False)
    return float(team_return(batch)[f"return_{groups[0]}"])


def by_algorithm(runs: Iterable[Path]) -> dict[str, list[Team]]:
    """The teams of each algorithm, loaded once."""
    found: dict[str, list[Team]] = {}
    for run in runs:
        config, algorithm, _ = load_run(run, 1)
        found.setdefault(config.algorithm.name, []).append((config, algorithm))
    return found


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs of one task")
    parser.add_argument("--against", nargs="+", type=Path, help="runs whose second group is met")
    parser.add_argument("--steps", type=int, default=5_000, help="of each meeting")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = by_algorithm(given.runs)
    columns = by_algorithm(given.against) if given.against else rows
    print(f"| first group \\ second group | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, firsts in rows.items():
        cells = []
        for seconds in columns.values():
            found = [meet(a, b, given.steps) for a in firsts for b in seconds]
            cells.append(f"{fmean(found):.1f} ({min(found):.1f} to {max(found):.1f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
