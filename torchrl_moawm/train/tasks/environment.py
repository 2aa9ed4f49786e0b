"""The environment of a task."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torchrl.envs import EnvBase, RewardScaling

from torchrl_moawm.envs import make_pettingzoo_env, make_vmas_env, with_transforms
from torchrl_moawm.train.settings.own_code import find, find_for, is_code
from torchrl_moawm.train.settings.scenario import settled
from torchrl_moawm.train.tasks.agent_index import add_agent_index

PACKAGES = ("pettingzoo", "mpe2")
"""Modules whose environments a task may name."""


@dataclass(frozen=True)
class Suite:
    """Where environments come from."""

    make: Callable[..., EnvBase]
    """Takes the configuration, the number of environments, a seed, and settings of its own."""
    check: Callable[[str], None]
    """Raises a ``ValueError`` for a scenario that there is not."""
    saved: bool = False
    """Whether a checkpoint holds its environments, so that a resumed run has the same bits."""
    wide: bool = True
    """Whether many environments cost little more than one: they step as one tensor."""
    evaluation: Callable[..., Any] | None = None
    """A hook of its own in place of ``EvaluationHook``."""


def make_env(config: DictConfig, num_envs: int, seed: int, **settings: Any) -> EnvBase:
    """The task's environment: a VMAS scenario, a PettingZoo module, or what a function makes.

    Raises:
        ValueError: There is no such suite or scenario, or it is code that is not trusted.
    """
    config = settled(config)
    task = config.task
    check_task(task)
    env = SUITES[task.suite].make(config, num_envs, seed, **settings)
    if task.agent_index:
        add_agent_index(env)
    if task.reward_scale != 1.0:  # behind RewardSum: returns stay in the task's own unit
        env.append_transform(RewardScaling(0.0, task.reward_scale, in_keys=list(env.reward_keys)))
    return env


def check_task(task: DictConfig) -> None:
    """The task's suite and scenario are some that may be loaded.

    Raises:
        ValueError: There is no such one, or it names code that is not trusted.
    """
    if task.suite not in SUITES:
        raise ValueError(f"Unknown suite {task.suite!r}; there are {', '.join(SUITES)}.")
    if is_code(task.scenario):
        find(task.scenario)
    else:
        SUITES[task.suite].check(task.scenario)
    if task.name.count("/") != 1:
        raise ValueError(f"Expected task.name as 'suite/task', got {task.name!r}.")


def make_vmas(config: DictConfig, num_envs: int, seed: int) -> EnvBase:
    """A scenario of VMAS by its name, or a ``BaseScenario`` of one's own."""
    task, name = config.task, config.task.scenario
    return make_vmas_env(
        find(name)() if is_code(name) else name,
        num_envs,
        max_steps=task.max_steps,
        device=config.device,
        seed=seed,
        **task.scenario_kwargs,
    )


def check_vmas(scenario: str) -> None:
    """The scenario is one of VMAS."""
    import vmas

    known = [*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios]
    if scenario not in known:
        raise ValueError(f"VMAS has no scenario {scenario!r}; there are {known}.")


def make_pettingzoo(config: DictConfig, num_envs: int, seed: int, **settings: Any) -> EnvBase:
    """A PettingZoo environment of a module, parallel where it can be, or of a function."""
    task, name = config.task, config.task.scenario
    if is_code(name):
        create = find_for(name, **task.scenario_kwargs)
    else:
        module = importlib.import_module(name)
        makers = [each for each in ("parallel_env", "env") if hasattr(module, each)]
        if not makers:
            raise ValueError(f"{name} has neither parallel_env nor env: it makes no environment.")
        create = getattr(module, makers[0])
    return make_pettingzoo_env(
        partial(create, **task.scenario_kwargs, **settings),
        num_envs,
        max_steps=task.max_steps,
        device=config.device,
        seed=seed,
        parallel=task.parallel,
    )


def check_pettingzoo(scenario: str) -> None:
    """The scenario is a module of PettingZoo."""
    if not str(scenario).startswith(tuple(f"{name}." for name in PACKAGES)):
        raise ValueError(
            f"Expected task.scenario to be a module of {' or '.join(PACKAGES)}, got {scenario!r}; "
            "an environment of yours is module:function, behind --trust-code."
        )
    try:
        found = importlib.util.find_spec(scenario)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ValueError(f"There is no module {scenario!r}.")


def make_own(config: DictConfig, num_envs: int, seed: int) -> EnvBase:
    """What a function of one's own makes, with the transforms that the losses need.

    It is called as ``function(num_envs, seed=..., device=..., **scenario_kwargs)``.

    Raises:
        ValueError: It does not take these, or gives no environment, or one of another batch size.
    """
    task = config.task
    settings = {"seed": seed, "device": config.device, **task.scenario_kwargs}
    env = find_for(task.scenario, num_envs, **settings)(num_envs, **settings)
    if not isinstance(env, EnvBase):
        given = type(env).__name__
        raise ValueError(f"{task.scenario} gives a {given}, not an environment of TorchRL.")
    if env.batch_size.numel() != num_envs:
        raise ValueError(
            f"{task.scenario} was asked for {num_envs} environments and gives a batch size of "
            f"{list(env.batch_size)}; torchrl.envs.SerialEnv makes one of several."
        )
    return with_transforms(env, task.max_steps)


def check_own(scenario: str | None) -> None:
    """There is no scenario of this suite by a name."""
    raise ValueError(
        f"Expected task.scenario to be module:function, behind --trust-code, got {scenario!r}."
    )


SUITES = {
    "vmas": Suite(make_vmas, check_vmas, saved=True),
    "pettingzoo": Suite(make_pettingzoo, check_pettingzoo, wide=False),
    "torchrl": Suite(make_own, check_own, wide=False),
}
"""Every suite by its name; a program may add its own."""
