"""What looking ahead is worth to a trained team: with the simulator itself, and with its models.

    python benchmarks/train.py task=vmas/balance algorithm.joint_world_model=true
    python benchmarks/lookahead.py outputs/moawm/vmas/balance/seed0-...

Every agent considers some actions and imagines what comes of each (``LookaheadPolicy``); nothing is
trained. With the simulator as its model that is the most that looking ahead can give; with the
joint world model of the run it is what it does give, and with ``--rewards
known_rewards:navigation`` what its motion gives with the task's own rewards. The episodes are the
same for all, and the table has the mean difference to the team as it is, with its 95% interval over
episodes. VMAS only: no other environment can be put into a state. Writes ``lookahead.json`` into
the run's folder.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_moawm import MOAWM
from torchrl_moawm.system import LookaheadPolicy
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.checkpoints.vmas_state import VmasWorld
from torchrl_moawm.train.metrics.returns import first_return
from torchrl_moawm.train.settings.own_code import find, trust
from torchrl_moawm.train.tasks.environment import make_env

EPISODES = 97
"""A prime: no other size in a world is taken for the number of environments."""
SEARCHES = ((8, 1, 1), (8, 5, 1), (8, 15, 1), (8, 5, 4))
"""Candidates, steps, and how often each is imagined."""


class Simulated(LookaheadPolicy):
    """Looks ahead in copies of the environment itself.

    Args:
        config: Of the run.
        system: The team.
        env: In which it acts, and whose state is copied.
        **settings: Of ``LookaheadPolicy``.
    """

    def __init__(self, config: DictConfig, system: Any, env: EnvBase, **settings: Any) -> None:
        super().__init__(system, env, **settings)
        self.__dict__["config"] = config

    def _world(self, num_envs: int) -> EnvBase:
        real = self.env.batch_size.numel()
        if num_envs not in self.worlds:
            self.worlds[num_envs] = make_env(self.config, num_envs, seed=0)
            self.worlds[num_envs].reset()
        world = self.worlds[num_envs]
        state = VmasWorld(self.env).state_dict()
        VmasWorld(world).load_state_dict(widened(state, real, num_envs // real, {}))
        return world


def widened(node: Any, size: int, times: int, copies: dict[int, Tensor]) -> Any:
    """The state of a world with every environment so many times; shared tensors stay shared."""
    if isinstance(node, Tensor):
        if not node.ndim or len(node) != size:
            return node.clone()
        return copies.setdefault(id(node), node.repeat_interleave(times, 0))
    if isinstance(node, dict):
        return {key: widened(value, size, times, copies) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(widened(value, size, times, copies) for value in node)
    is_size = type(node) is int and node == size
    return node * times if is_size else node


@torch.no_grad()
def returns(env: EnvBase, policy: TensorDictModuleBase, steps: int, group: str) -> Tensor:
    """Mean over the agents of a group of each first episode's summed reward, ``[E]``."""
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        batch = env.rollout(steps, policy, break_when_any_done=False)
    batch = batch.reshape(-1, steps)
    return torch.tensor([return_of(first_return(each), group) for each in batch.split(1)])


def return_of(figures: dict[str, float], group: str) -> float:
    """The return of a group, whose name is in the figure's where there are several."""
    return figures.get(f"evaluation_return_{group}", figures["evaluation_return"])


def search(
    config: DictConfig, system: MOAWM, group: str, rewards: str | None = None
) -> list[dict[str, Any]]:
    """Every search by simulator and model, beside the team as it is."""
    steps = config.task.max_steps
    models: dict[str, Any] = {
        "the simulator": partial(Simulated, config),
        "the world model": LookaheadPolicy,
    }
    if rewards is not None:
        known = find(rewards)(make_env(config, 1, config.seed))
        models["the world model, rewards known"] = partial(LookaheadPolicy, rewards=known)

    def played(make: Callable[[EnvBase], TensorDictModuleBase]) -> Tensor:
        fresh = make_env(config, EPISODES, config.seed + 2_000_000)
        return returns(fresh, make(fresh), steps, group)

    plain, rows = played(lambda _: system.policy), []
    for candidates, horizon, samples in SEARCHES:
        for name, kind in models.items():
            settings = {"candidates": candidates, "horizon": horizon, "samples": samples}
            gain = played(partial(kind, system, group=group, **settings)) - plain
            rows.append(
                {
                    "model": name,
                    **settings,
                    "return": float(plain.mean()),
                    "gain": float(gain.mean()),
                    "interval": float(1.96 * gain.std() / len(gain) ** 0.5),
                }
            )
            print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"| {row['model']} | {row['candidates']} | {row['horizon']} | {row['samples']} | "
        f"{row['gain']:+.2f} ± {row['interval']:.2f} |"
    )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of algorithm=moawm")
    parser.add_argument("--group", help="whose agents look ahead; by default the first group")
    parser.add_argument("--rewards", help="module:function of the task's own; runs that code")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.rewards:
        trust(given.rewards)
    config, algorithm, _ = load_run(given.run, 1)
    if algorithm.system is None or config.task.suite != "vmas":
        parser.error(f"{given.run} is no run of a system on a task of VMAS.")
    group = given.group or next(iter(algorithm.system.groups))
    print(
        "| looks ahead in | candidates | steps | samples | gain in return |\n|---|---|---|---|---|"
    )
    rows = search(config, algorithm.system, group, given.rewards)
    (given.run / "lookahead.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(
        f"\nThe team as it is: {rows[0]['return']:.2f}. Written to {given.run / 'lookahead.json'}"
    )


if __name__ == "__main__":
    main()
