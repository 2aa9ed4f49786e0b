"""The environment of a task."""

import importlib
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torchrl.envs import EnvBase, RewardScaling

from settings.scenario import settled
from tasks.agent_index import AgentIndex
from tasks.partners import make_partner_env
from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env

PACKAGES = ("pettingzoo", "mpe2")
"""Modules whose environments a task may name."""


def make_env(config: DictConfig, num_envs: int, seed: int, **settings: Any) -> EnvBase:
    """The task's environment: a VMAS scenario, or a PettingZoo module."""
    config = settled(config)
    task = config.task
    check_task(task)
    common = {"max_steps": task.max_steps, "device": config.device, "seed": seed}
    if task.suite == "vmas":
        env = make_vmas_env(task.scenario, num_envs, **common, **task.scenario_kwargs)
    elif task.suite == "partners":
        env = make_partner_env(
            task.scenario, num_envs, seed=seed, **task.scenario_kwargs, **settings
        )
    else:
        module = importlib.import_module(task.scenario)
        create = partial(module.parallel_env, **task.scenario_kwargs, **settings)
        env = make_pettingzoo_env(create, num_envs, **common, parallel=task.parallel)
    if task.agent_index:
        keys = [key for key in env.observation_keys if key[-1] == "observation"]
        env.insert_transform(0, AgentIndex(in_keys=keys, out_keys=keys))
    if task.reward_scale != 1.0:  # behind RewardSum: returns stay in the task's own unit
        env.append_transform(RewardScaling(0.0, task.reward_scale, in_keys=list(env.reward_keys)))
    return env


def check_task(task: DictConfig) -> None:
    """The task's suite and scenario are some that may be loaded.

    Raises:
        ValueError: There is no such one.
    """
    if task.suite == "vmas":
        import vmas

        known = [*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios]
        if task.scenario not in known:
            raise ValueError(f"VMAS has no scenario {task.scenario!r}; there are {known}.")
    elif task.suite == "partners":
        from tasks.partners import TASKS

        if task.scenario not in TASKS:
            raise ValueError(f"No such task {task.scenario!r}; there are {list(TASKS)}.")
    elif task.suite == "pettingzoo":
        if not str(task.scenario).startswith(tuple(f"{name}." for name in PACKAGES)):
            raise ValueError(
                f"Expected task.scenario to be a module of {' or '.join(PACKAGES)}, "
                f"got {task.scenario!r}."
            )
    else:
        suites = "'vmas', 'pettingzoo' and 'partners'"
        raise ValueError(f"Unknown suite {task.suite!r}; there are {suites}.")
