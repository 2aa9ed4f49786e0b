"""What an ensemble, a horizon and a continuation of the world model are worth, on one team's data.

    python benchmarks/world_model_options.py outputs/moawm/vmas/navigation/seed0-...

The trained team plays with stochastic actions. New world models are trained on that, each with the
same steps of Adam on the same sequences: a plain one, one with a continuation, an ensemble, one
that is trained over several steps (``horizon``), and one that sees all agents, as imagination has
it. They are judged in other environments:

- *skill over h steps*: ``1 - SSE / SSE of copying o_t``, of predictions that are fed what they
  predict, from every step of unbroken sequences;
- *reward*: ``1 - SSE / SSE of the mean reward``, one step ahead;
- *continuation*: ``1 - NLL / NLL of the rate of going on``, NaN where nothing ends;
- *correlation*: of the members' disagreement with the error of their mean;
- *seconds* of training, beside the plain model's.

A second table has the skill over 1 to 25 steps for each block of the observation: of the plain
model and of that of all agents, on the largest data.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from attainable import SEEDS
from metrics.regression import falling_adam
from torchrl_moawm import WorldModelLoss
from torchrl_moawm.modules import (
    AgentGroup,
    GroupStatistics,
    make_joint_world_model,
    make_world_model,
)
from torchrl_moawm.train.checkpoints.trained import load_run
from torchrl_moawm.train.loop.evaluation import play_steps
from torchrl_moawm.train.loop.stepper import minimised
from torchrl_moawm.train.metrics.model_quality import head_figures, skill, world_model_skill
from torchrl_moawm.train.tasks.environment import make_env

AHEAD = 1, 5, 10
"""Steps over which the models are judged."""
FURTHER = 1, 5, 10, 25
"""Steps over which each block is judged."""
SEQUENCE, ROWS = 25, 40
"""Steps of a sequence, and sequences of a minibatch."""
OPTIONS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 1),
    "continuation": ({"continuation": True}, 1),
    "ensemble of 5": ({"ensemble": 5}, 1),
    "horizon of 5": ({}, 5),
    "of all agents": ({"joint": True}, 1),
}
"""By name: keywords of ``make_world_model``, and the horizon of the loss."""
BY_BLOCK = "plain", "of all agents"


class Still(nn.Module):
    """Predicts that nothing moves, and no reward."""

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """``[*B, N, *shape]`` -> flat ``[*B, N, D]`` and ``[*B, N, 1]``."""
        return observation, observation[..., :1] * 0


class Judged:
    """A world model that a loss has trained, where ``train.metrics.model_quality`` looks for it."""

    def __init__(self, group: AgentGroup, name: str, batch: TensorDictBase, steps: int) -> None:
        keywords, horizon = OPTIONS[name]
        self.group, self.statistics = group.group, GroupStatistics(group)
        if keywords.get("joint"):
            self.world_model = make_joint_world_model([group], statistics=[self.statistics])[0]
        else:
            self.world_model = make_world_model(group, statistics=self.statistics, **keywords)
        loss = WorldModelLoss(
            self.world_model, statistics=self.statistics, horizon=horizon, group=group.group
        )
        loss.set_keys(terminated="terminated")
        loss.update_statistics(batch)
        start = time.perf_counter()
        train(loss, batch.reshape(-1, SEQUENCE), steps)
        self.seconds = time.perf_counter() - start


def train(loss: WorldModelLoss, sequences: TensorDictBase, steps: int) -> None:
    """Adam on minibatches of sequences; its rate falls to zero."""
    optimizer, schedule = falling_adam(loss, 4e-3, steps)
    for _ in range(steps):
        terms = loss(sequences[torch.randint(len(sequences), (ROWS,))])
        minimised(terms).backward()
        nn.utils.clip_grad_norm_(loss.parameters(), 100.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


EVERY = slice(None)


def errors_ahead(
    group: AgentGroup,
    world_model: TensorDictModule,
    batch: TensorDictBase,
    features: slice = EVERY,
    ahead: Sequence[int] = AHEAD,
) -> Tensor:
    """Sum of squared errors of some features over 1, 2, ... steps, ``[H]``."""
    loss = WorldModelLoss(world_model, horizon=max(ahead), reduction="none", group=group.group)
    loss.set_keys(terminated="terminated")
    after = batch["next"][group.keys("observation")[0]]
    counted = torch.zeros(after.shape, dtype=torch.bool)
    counted[..., features] = True
    masked = batch.copy().set(("next", *group.keys("observation_mask")[0]), counted)
    return loss(masked)["loss_obs"].flatten(0, -2).sum(0)


@torch.no_grad()
def skill_ahead(
    group: AgentGroup,
    world_model: TensorDictModule,
    batch: TensorDictBase,
    features: slice = EVERY,
    ahead: Sequence[int] = FURTHER,
) -> list[float]:
    """Skill over each of these numbers of steps of some features, beside copying ``o_t``."""
    still = TensorDictModule(Still(), group.keys("observation"), world_model.out_keys[:2])
    models = world_model, still
    own, reference = (errors_ahead(group, m, batch, features, ahead) for m in models)
    return [skill(own[h - 1], reference[h - 1]) for h in ahead]


@torch.no_grad()
def figures(judged: Judged, group: AgentGroup, batch: TensorDictBase) -> list[float]:
    """Skill over each of ``AHEAD`` steps, of reward and continuation, and the correlation."""
    like: Any = judged
    heads = head_figures(like, batch)
    return [
        *skill_ahead(group, judged.world_model, batch, ahead=AHEAD),
        world_model_skill(like, batch, {})["reward_skill"],
        heads.get("continue_skill", float("nan")),
        heads.get("disagreement_error_correlation", float("nan")),
    ]


def compare(folder: Path, steps: int, data: Sequence[int], held_out_steps: int) -> None:
    """Prints the table of one run."""
    config, algorithm, env = load_run(folder, 100, seed_offset=SEEDS[0])
    held_out_env = make_env(config, 100, config.seed + SEEDS[1])
    torch.manual_seed(config.seed)
    pool = play_steps(config, algorithm, env, max(data))
    held_out = play_steps(config, algorithm, held_out_env, held_out_steps)
    group = AgentGroup.from_env(env)
    columns = [f"skill over {h}" for h in AHEAD] + ["reward", "continuation", "correlation"]
    print(f"\n{folder}: {steps} steps of Adam, {held_out.numel()} held-out team steps\n")
    print(f"| team steps | world model | {' | '.join(columns)} | seconds |")
    print("|---" * (len(columns) + 3) + "|", flush=True)
    made: dict[str, Judged] = {}
    for rows in data:
        batch = pool[: max(rows // config.task.max_steps, 1)]
        plain = 0.0
        for name in OPTIONS:
            torch.manual_seed(config.seed)
            judged = Judged(group, name, batch, steps)
            plain = plain or judged.seconds
            cells = [f"{x:.3f}" if x == x else "" for x in figures(judged, group, held_out)]
            row = f"{' | '.join(cells)} | {judged.seconds / plain:.2f}"
            print(f"| {batch.numel()} | {name} | {row} |", flush=True)
            made[name] = judged
    print(f"\n| block | world model | {' | '.join(f'skill over {h}' for h in FURTHER)} |")
    print("|---" * (len(FURTHER) + 2) + "|")
    for block, (first, last) in (config.task.observation_blocks or {"all": (0, None)}).items():
        for name in BY_BLOCK:
            skills = skill_ahead(group, made[name].world_model, held_out, slice(first, last))
            print(f"| {block} | {name} | {' | '.join(f'{x:.3f}' for x in skills)} |", flush=True)


def main() -> None:
    """Compares the options on the data of some runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="of runs of train.py, of one group")
    parser.add_argument("--steps", type=int, default=2_000, help="of Adam, for every model")
    parser.add_argument("--data", nargs="+", type=int, default=[5_000, 40_000], help="team steps")
    parser.add_argument("--held-out", type=int, default=20_000, help="team steps to judge on")
    given = parser.parse_args()
    for folder in given.folders:
        compare(folder, given.steps, given.data, given.held_out)


if __name__ == "__main__":
    main()
