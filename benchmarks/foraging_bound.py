"""What is it worth on the tasks of foraging to be told what the partner goes for?

    python benchmarks/foraging_bound.py

With forced cooperation, where all have to go for the same food. Learners are scripts, not trained:
they take the shortest way around what stands in it to the food that they believe the partner goes
for, and load it together. One is *told* the partner's type.
One *watches*: it believes in the type that explains the partner's steps best. One has no memory and
follows the partner to the food *nearest* to it. One *guesses* a type that stays the same. What lies
between the first and the third is what a model of the partner could earn at most.
"""

import argparse

import torch
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import step_mdp

from partners.foraging import LOAD, MOVES, N_LEARNERS, Foraging
from partners.foraging_scripts import Forager
from partners.tasks import TASKS, make_partner_env
from torchrl_moawm.transforms import PartnerPool

LIKELY, UNLIKELY, STOOD = 0.9, 0.1, 0.3
"""How likely a step towards the food of a type is, another one, and none but to load."""
BELIEFS = ("told", "watches", "nearest", "guesses")


def shortest_step(env: Foraging, i: int, goal: Tensor) -> Tensor:
    """The action ``[E]`` of player i on the shortest way beside the food at ``goal [E, 2]``."""
    n, size = len(goal), env.size
    rows, far = torch.arange(n), float(size**2)
    blocked = torch.zeros(n, size, size, dtype=torch.bool)
    others = [env.place[:, j] for j in range(N_LEARNERS + 1) if j != i]
    for cell, level in zip(env.food.unbind(1), env.food_level.unbind(1), strict=True):
        blocked[rows, cell[:, 0], cell[:, 1]] |= level > 0
    for cell in others:
        blocked[rows, cell[:, 0], cell[:, 1]] = True
    cells = torch.cartesian_prod(*[torch.arange(size)] * 2).view(size, size, 2)
    beside = (cells - goal[:, None, None]).abs().sum(-1) == 1
    away = torch.where(beside & ~blocked, 0.0, far)
    for _ in range(size**2 // 2):
        wide = torch.nn.functional.pad(away, (1, 1, 1, 1), value=far)
        around = [wide[:, 1 + r : 1 + r + size, 1 + c : 1 + c + size] for r, c in MOVES[1:LOAD]]
        away = torch.minimum(away, torch.stack(around).amin(0) + 1).masked_fill(blocked, far)
    wide = torch.nn.functional.pad(away, (1, 1, 1, 1), value=far)
    steps = env.place[:, i, None] + MOVES[:LOAD] + 1
    lengths = wide[rows[:, None], steps[..., 0], steps[..., 1]]
    step = (lengths + 0.1 * torch.rand_like(lengths)).argmin(-1)  # ties by chance
    return torch.where((env.place[:, i] - goal).abs().sum(-1) == 1, LOAD, step)


class Beliefs:
    """What the learners believe of a partner's type, from its steps."""

    def __init__(self, size: int, kinds: list[int], n: int) -> None:
        self.script, self.kinds = Forager(size), torch.tensor(kinds)
        self.evidence = torch.zeros(n, len(kinds))

    def goals(self, seen: Tensor, kinds: Tensor) -> Tensor:
        """Row and column ``[E, K, 2]`` of the food that partners of those types ``[E, K]`` want."""
        food, players = seen.unflatten(-1, (-1, 3)).split(
            [seen.shape[-1] // 3 - N_LEARNERS - 1, N_LEARNERS + 1], -2
        )
        wanted = [self.script.goal(food, players, kind) for kind in kinds.split(1, -1)]
        return torch.cat(wanted, 1).squeeze(-2).long()

    def watch(self, before: Tensor, after: Tensor, goals: Tensor) -> None:
        """Takes in a step of the partner, between two cells ``[E, 2]``."""
        far, near = ((goals - cell[:, None]).abs().sum(-1) for cell in (before, after))
        moved = (before != after).any(-1, keepdim=True)
        walked = torch.where(near < far, LIKELY, UNLIKELY)
        self.evidence += torch.where(moved, walked, torch.where(far == 1, LIKELY, STOOD)).log()

    def kind(self, belief: str, told: Tensor) -> Tensor:
        """The type that is believed in, ``[E, 1]``; 0 is a partner that goes for the nearest."""
        if belief == "watches":
            ties = 1e-3 * torch.rand_like(self.evidence)
            return self.kinds[(self.evidence + ties).argmax(-1)][:, None]
        return {"told": told, "nearest": torch.zeros_like(told)}.get(
            belief, torch.full_like(told, int(self.kinds[-1]))
        )


def play(env: EnvBase, belief: str) -> tuple[float, float, float]:
    """Share of the food that is eaten in an episode, by all and by a learner, and its steps."""
    world, at = env.base_env, env.reset()
    steps, n = world.steps, env.batch_size[0]
    pool = next(each for each in env.transform if isinstance(each, PartnerPool))
    kinds = sorted({each.type for each in pool.partners})
    learners = Beliefs(world.size, kinds, n)
    going, eaten, own, lasted = torch.ones(n), torch.zeros(n), torch.zeros(n), torch.zeros(n)
    whole = world.food_level.sum(-1).clamp_min(1)
    for _ in range(steps):
        told, seen = at["partners", "type"], world._observe()["partners", "observation"]
        options = learners.goals(seen, learners.kinds.expand(n, -1))
        goal = learners.goals(seen, learners.kind(belief, told))[:, 0]
        steps_of = [shortest_step(world, i, goal) for i in range(N_LEARNERS)]
        at["agents", "action"] = torch.stack(steps_of, -1)
        before, food = world.place[:, -1].clone(), world.food_level.sum(-1)
        at = env.step(at)
        after = at["next"]
        learners.watch(before, world.place[:, -1], options)
        own += going * after["agents", "reward"].mean((1, 2))
        eaten += going * (food - world.food_level.sum(-1)) / whole
        lasted += going
        going = going * ~after["done"].squeeze(-1)
        at = step_mdp(at)
    return float(eaten.mean()), float(own.mean()), float(lasted.mean())


def main() -> None:
    """Prints a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--envs", type=int, default=2000, help="episodes of each cell")
    envs = parser.parse_args().envs
    print("| task | learners | food eaten | a learner's return | steps |\n|---|---|---|---|---|")
    for task in (name for name in TASKS if name.startswith("foraging")):
        for belief in BELIEFS:
            torch.manual_seed(0)
            env = make_partner_env(task, envs, seed=0, pool="held_out", cooperate=True)
            eaten, own, lasted = play(env, belief)
            print(f"| {task} | {belief} | {eaten:.3f} | {own:.3f} | {lasted:.1f} |", flush=True)


if __name__ == "__main__":
    main()
