"""What the models of a run attain beside a plain regression on the same inputs.

    python benchmarks/attainable.py outputs/moawm/vmas/navigation/seed0-...

The trained team plays with stochastic actions. An MLP beside a linear map is fitted to what the
world model reads (the agent's own observation and everybody's action), and another to what the
model of others reads (own observation and everybody's action one step before). Run and regression
are judged on the same data of other environments. A *ratio* of 0.9 says that the run's model has
nine tenths of the skill that its inputs allow; a *difference* is in nats. The reward's skill from
everybody's observation says what is lost by what an agent does not see.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from metrics.attainable import Row, compare
from metrics.regression import FitSettings
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.loop.evaluation import play_steps
from torchrl_moawm.train.settings.scenario import fitting_blocks
from torchrl_moawm.train.tasks.environment import make_env

SEEDS = 4_000_000, 5_000_000
"""Seeds, on top of the run's, of the environments to fit in and of the held-out ones."""
COLUMNS = ("run", "attainable", "ratio", "difference")


def attainable(
    folder: Path, envs: int, steps: int, held_out_steps: int, settings: FitSettings
) -> dict[str, Row]:
    """The table of one run, also written into its folder as ``attainable.json``.

    Args:
        folder: The run's.
        envs: Environments side by side.
        steps: Team steps that the regressions are fitted to.
        held_out_steps: Team steps on which all are judged.
        settings: How the regressions are fitted.

    Raises:
        SystemExit: The run has no models of others and world.
    """
    config, algorithm, env = load_run(folder, envs, seed_offset=SEEDS[0])
    if algorithm.system is None:
        raise SystemExit(f"{folder}: needs a run of moawm.")
    held_out_env = make_env(config, envs, config.seed + SEEDS[1])
    torch.manual_seed(config.seed)
    fitted = play_steps(config, algorithm, env, steps)
    held_out = play_steps(config, algorithm, held_out_env, held_out_steps)
    blocks = fitting_blocks(config.task, env)
    rows = compare(algorithm.system, env, fitted, held_out, blocks, settings)
    written = {
        name: {k: v if v == v else None for k, v in row.items()} for name, row in rows.items()
    }
    counts = {"steps": fitted.numel(), "held_out_steps": held_out.numel()}
    text = json.dumps({**counts, "figures": written}, indent=2)
    (folder / "attainable.json").write_text(f"{text}\n")
    return rows


def table(rows: Mapping[str, Row]) -> str:
    """The figures as a Markdown table."""
    lines = [f"| figure | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        given = {column: figure for column, figure in row.items() if figure == figure}  # no NaN
        cells = [f"{given[column]:.3f}" if column in given else "" for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Compares the models of some runs with regressions and prints a table of each."""
    default = FitSettings()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="of runs of train.py")
    parser.add_argument("--envs", type=int, default=200, help="environments side by side")
    parser.add_argument("--steps", type=int, default=60_000, help="team steps to fit to")
    parser.add_argument("--held-out", type=int, default=20_000, help="team steps to judge on")
    parser.add_argument("--passes", type=int, default=default.passes, help="over the samples")
    parser.add_argument("--minibatch", type=int, default=default.minibatch, help="in samples")
    parser.add_argument("--lr", type=float, default=default.lr, help="at first; it falls to zero")
    given = parser.parse_args()
    settings = FitSettings(given.passes, given.minibatch, given.lr)
    for folder in given.folders:
        start = time.perf_counter()
        rows = attainable(folder, given.envs, given.steps, given.held_out, settings)
        print(f"\n{folder}, {time.perf_counter() - start:.0f} s\n\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
