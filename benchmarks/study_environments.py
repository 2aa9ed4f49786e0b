"""Runs the whole framework on many environments and prints what happened, a row for each.

    python benchmarks/study_environments.py                         # all, into environments.md
    python benchmarks/study_environments.py vmas/simple_tag pettingzoo/pursuit_v5

Every row is the outcome of a run: TorchRL's ``check_env_specs``, two batches by TorchRL's
``Collector``, advantage and an Adam step on the sum of every loss for each, the value targets where
episodes end, and a deterministic evaluation. What fails says so.
"""

import argparse
import importlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import vmas
from torchrl.collectors import Collector
from torchrl.data import MultiCategorical, TensorSpec
from torchrl.envs import EnvBase, MarlGroupMapType
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type

from metrics.collected import ends, log_ratio, pairs
from torchrl_moawm import MOAWM
from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env
from torchrl_moawm.train.loop.stepper import minimised
from torchrl_moawm.train.metrics.baselines import who
from torchrl_moawm.train.metrics.model_quality import of_each

VMAS = [*vmas.scenarios, *vmas.mpe_scenarios]
DISCRETE = ["navigation", "simple_reference", "simple_speaker_listener", "simple_world_comm"]
PETTINGZOO = {
    "mpe2": [
        "simple_v3",
        "simple_adversary_v3",
        "simple_crypto_v3",
        "simple_push_v3",
        "simple_reference_v3",
        "simple_speaker_listener_v4",
        "simple_spread_v3",
        "simple_tag_v3",
        "simple_world_comm_v3",
    ],
    "pettingzoo.sisl": ["pursuit_v5", "multiwalker_v9"],
    "pettingzoo.butterfly": ["knights_archers_zombies_v11", "cooperative_pong_v6", "pistonball_v6"],
    "pettingzoo.classic": ["rps_v2", "tictactoe_v3", "connect_four_v3"],
}
VMAS_ENVS, STEPS, GAMMA = 32, 20, 0.99
LONG = ("pettingzoo.sisl", "pettingzoo.butterfly")
"""Modules whose episodes are made shorter, so that some end in a batch."""
HEADER = (
    "environment",
    "groups: agents x observation, action",
    "masks",
    "specs",
    "losses",
    "max abs log-ratio",
    "pairs",
    "evaluates",
    "value where episodes end",
    "frames/s",
)


def rows() -> dict[str, Callable[[], EnvBase]]:
    """Makers of the environment of every row."""
    make_vmas = partial(make_vmas_env, num_envs=VMAS_ENVS, max_steps=STEPS, seed=0)
    makers: dict[str, Callable[[], EnvBase]] = {
        f"vmas/{name}": partial(make_vmas, name) for name in VMAS
    }
    for name in DISCRETE:
        makers[f"vmas/{name}, discrete"] = partial(make_vmas, name, continuous_actions=False)
    kinds = {
        "multi-discrete": {"continuous_actions": False, "multidiscrete_actions": True},
        "one group of all": {"group_map": MarlGroupMapType.ALL_IN_ONE_GROUP},
        "a group for each": {"group_map": MarlGroupMapType.ONE_GROUP_PER_AGENT},
    }
    for name, settings in kinds.items():
        makers[f"vmas/simple_world_comm, {name}"] = partial(
            make_vmas, "simple_world_comm", **settings
        )
    for package, names in PETTINGZOO.items():
        for name in names:
            makers[f"pettingzoo/{name}"] = partial(make_pettingzoo, f"{package}.{name}")
    for name in ("simple_reference_v3", "simple_tag_v3"):
        continuous = partial(make_pettingzoo, f"mpe2.{name}", continuous_actions=True)
        makers[f"pettingzoo/{name}, continuous"] = continuous
    return makers


def make_pettingzoo(name: str, **settings: int) -> EnvBase:
    """One environment; images are reduced to 20 x 20."""
    module = importlib.import_module(name)
    if name.startswith(LONG):
        settings["max_cycles"] = 2 * STEPS
    turns = name.startswith("pettingzoo.classic")
    create = partial(module.env if turns else module.parallel_env, **settings)
    return make_pettingzoo_env(create, seed=0, image_size=(20, 20) if "butterfly" in name else None)


def describe(env: EnvBase) -> tuple[str, str]:
    """Groups with their shapes, and the masks there are."""
    groups, masks = [], set()
    for group in dict.fromkeys(key[0] for key in env.action_keys):
        n, *shape = env.full_observation_spec[group, "observation"].shape[len(env.batch_size) :]
        action = env.full_action_spec[group, "action"]
        groups.append(f"{group}: {n} x {'x'.join(map(str, shape))}, {describe_action(action)}")
        names = env.full_observation_spec[group].keys()
        masks |= {name for name in ("mask", "action_mask") if name in names}
    return "; ".join(groups), ", ".join(sorted(masks)) or "none"


def describe_action(spec: TensorSpec) -> str:
    """How many actions there are, of each choice; or numbers."""
    if spec.dtype.is_floating_point:
        return f"{spec.shape[-1]} continuous"
    several = isinstance(spec, MultiCategorical)  # alike for all agents of a group
    choices = spec.nvec.flatten(0, -2)[0].tolist() if several else [spec.space.n]
    return f"{' x '.join(map(str, choices))} actions"


def run(make: Callable[[], EnvBase]) -> list[str]:
    """One row behind its name."""
    torch.manual_seed(0)
    env = make()
    system = MOAWM.from_env(env, num_cells=(64,), gamma=GAMMA)
    check_env_specs(env)
    cells = [*describe(env), "pass"]
    losses = system.loss_module
    optimizer = torch.optim.Adam(losses.parameters(), lr=1e-4)
    frames = STEPS * max(env.batch_size.numel(), 1) if env.batch_size else 5 * STEPS
    collector = Collector(
        env,
        system.policy,
        frames_per_batch=frames,
        total_frames=2 * frames,
        auto_register_policy_transforms=False,
    )
    ratio, n_pairs, ended, started, seconds = 0.0, 0, [0, 0], time.perf_counter(), 0.0
    for batch in collector:
        seconds = time.perf_counter() - started
        shuffled = batch.reshape(-1)[torch.randperm(batch.numel())]
        ratio = max(ratio, log_ratio(system, batch), log_ratio(system, shuffled))
        n_pairs += pairs(batch, [one.group for one in system.groups.values()])
        system.value_estimator(batch)
        ended = [sum(each) for each in zip(ended, ends(system, batch, GAMMA), strict=True)]
        terms = losses(batch.reshape(-1))
        minimised(terms).backward()
        bad = [name for name, value in terms.items() if not value.isfinite()]
        bad += [
            n
            for n, p in losses.named_parameters()
            if not (p.grad is None or p.grad.isfinite().all())
        ]
        if bad:
            raise ArithmeticError(f"not finite: {bad}")
        optimizer.step()
        optimizer.zero_grad()
        started = time.perf_counter()
    if not any(ended):
        raise ArithmeticError("no episode ended, so no value was looked at there")
    if ratio > 1e-4:
        raise ArithmeticError(f"log ratio {ratio:.1e}")
    n_terms = sum(str(name).startswith("loss") for name in dict(terms.items()))
    cells += [f"{n_terms} finite", f"{ratio:.0e}", str(n_pairs)]
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        # another one: the collector has closed the first
        played = make().rollout(STEPS, system.policy, break_when_any_done=False)
    earned = [
        of_each(played, one.group, "reward", who("there", played, one.group)).isfinite().all()
        for one in system.groups.values()
    ]
    looked_at = f"pass: {ended[0]} truncated, {ended[1]} terminated"
    cells += ["yes" if all(earned) else "NaN", looked_at, f"{frames / seconds:,.0f}"]
    return cells


def row(name: str) -> list[str]:
    """The cells behind a name, a failure or a warning of ours among them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            cells = run(rows()[name])
        except Exception as error:  # the row says what failed
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            cells = [f"**fails**: {reason[:300]}", *[""] * (len(HEADER) - 2)]
    ours = {str(w.message) for w in caught if "torchrl_moawm" in w.filename}
    cells[0] += f" (warns: {'; '.join(ours)})" if ours else ""
    return cells


def main() -> None:
    """Runs the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="rows; none runs all and writes environments.md")
    names = parser.parse_args().names
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # of the games that draw
    torch.set_num_threads(1)
    makers = rows()
    unknown = set(names) - set(makers)
    if unknown:
        parser.error(f"unknown rows {sorted(unknown)}; there are {sorted(makers)}")
    table = [" | ".join(HEADER), " | ".join("---" for _ in HEADER)]
    print("\n".join(table), flush=True)
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for name in names or makers:  # each by itself: games share the state of pygame
            table.append(" | ".join([name, *pool.apply(row, (name,))]))
            print(table[-1], flush=True)
    if not names:
        lines = [f"| {line} |" for line in table]
        path = Path(__file__).with_name("environments.md")
        path.write_text(INTRODUCTION + "\n".join(lines) + "\n")


INTRODUCTION = f"""# Environments

Written by `python benchmarks/study_environments.py`, which runs every row: `check_env_specs`; two
batches by a `Collector` ({STEPS} steps of {VMAS_ENVS} environments on VMAS, {5 * STEPS} of one
on PettingZoo), each with the advantage and an Adam step on the sum of every loss of every group; an
evaluation. *losses*: minimised terms, all finite, gradients too. *max abs log-ratio*: of the policy
on the batch it has just collected, over agents that act. *pairs*: (observer, other) pairs that the
models of others learn from in both batches: the observer was there at t-1, the other acts at t.
*value where episodes end*: how many agents' episodes ended in both batches, the value target being
r + gamma V(o') of the last observation where it was truncated and r where it was terminated; a row
where no episode ends fails. *frames/s*: collecting with the policy, one thread, a frame being a
step of all agents. Images of pettingzoo/butterfly are averaged to 20 x 20; episodes of butterfly
and sisl are cut after {2 * STEPS} cycles by the games themselves, so that some end.

"""


if __name__ == "__main__":
    main()
