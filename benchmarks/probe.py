"""What a trained latent and world model know: linear probes, and open-loop prediction.

    python benchmarks/probe.py outputs/moawm/vmas/navigation/seed0-...

*Probe*: ridge regression from z to what the others observe, by block of features, on episodes that
it was not fitted to; beside the same probe on the agent's own observation, and on as many random
features of all that the student reads. *Open loop*: the world model fed with its own predictions
and the actions that were taken, over copying the observation it started from.
"""

import argparse
import json
from pathlib import Path

import torch
from torchrl.envs.utils import ExplorationType

from metrics.probes import open_loop, probe
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.loop.evaluation import play
from torchrl_moawm.train.settings.scenario import fitting_blocks


def main() -> None:
    """Loads a run, plays fresh episodes, prints both tables and writes ``probe.json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="of runs of train.py")
    parser.add_argument("--envs", type=int, default=100, help="episodes, half of them held out")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        config, algorithm, env = load_run(folder, arguments.envs)
        torch.manual_seed(config.seed)  # of the actions that are drawn
        system = algorithm.system
        if system is None or len(system.groups) > 1:
            parser.error(f"{folder}: needs a run of moawm with one group of agents.")
        batch = play(config, algorithm, env, ExplorationType.RANDOM)
        group = next(iter(system.groups))
        everything = {"all": [0, batch[group, "observation"].flatten(3).shape[-1]]}
        blocks = fitting_blocks(config.task, env) or everything
        tables = {
            "probe": probe(batch, group, blocks),
            "open_loop": open_loop(system.world_model, batch, group, blocks),
        }
        (folder / "probe.json").write_text(json.dumps(tables, indent=2) + "\n")
        for title, table in tables.items():
            columns = list(next(iter(table.values())))
            print(f"\n{folder}: {title}\n\n| block | {' | '.join(columns)} |")
            print("|---" * (len(columns) + 1) + "|")
            for block, row in table.items():
                print(f"| {block} | {' | '.join(f'{x:.3f}' for x in row.values())} |")


if __name__ == "__main__":
    main()
