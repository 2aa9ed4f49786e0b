"""The name, the scenario's settings and the blocks of features of the task that runs."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from torchrl.envs import EnvBase

from torchrl_moawm.modules import groups_of, name_of, path_of
from torchrl_moawm.train.settings.known import FREE, merged
from torchrl_moawm.train.settings.own_code import check_trusted, is_code
from torchrl_moawm.train.settings.places import files


def task_file(name: str) -> DictConfig | None:
    """The file of a task, if there is one of that name."""
    return OmegaConf.create(merged("task", name)) if name in files("task") else None


def name_that_runs(name: str, suite: str, scenario: str | None) -> str:
    """The task's name, or ``suite/scenario`` where the task of that name has another scenario."""
    own = task_file(name)
    if own is None or (own.suite, own.scenario) == (suite, scenario):
        return name
    return f"{suite}/{str(scenario).replace(':', '.')}"  # it is a folder's name too


OmegaConf.register_new_resolver("name_that_runs", name_that_runs, replace=True)


def settled(config: DictConfig, said: Sequence[str] = (), choice: str | None = None) -> DictConfig:
    """The configuration with the task's name, blocks and scenario's settings of what really runs.

    Hydra merges: what it composes keeps the entries of the task's file where another scenario, or
    other entries, are given. Here a mapping that is given (``task.observation_blocks={}``,
    ``null``, ``~task.observation_blocks``) takes the place of the file's. With another scenario
    than the file's the name is ``suite/scenario``, and blocks and ``scenario_kwargs`` are those
    that were said.

    Args:
        config: As Hydra composed it.
        said: The overrides of the command line. Without them an entry that equals the file's is
            taken for the file's.
        choice: The task's file; else that of ``task.name``.

    Raises:
        ValueError: The name that was said is that of another task, a mapping is none, or what is
            named is code that is not trusted.
    """
    for name in filter(is_code, (config.task.scenario, config.algorithm.kind)):
        check_trusted(name)
    overrides = OverridesParser.create().parse_overrides(list(said))
    config, task = copy.deepcopy(config), config.task
    own = task_file(choice or task.name)
    name, other = task.name, False
    if own is not None:
        other = (own.suite, own.scenario) != (task.suite, task.scenario)
        name = name_that_runs(task.name, task.suite, task.scenario)
        if name != task.name and any(each.key_or_group == "task.name" for each in overrides):
            raise ValueError(
                f"task.name={task.name} is the name of another task; what runs is {name}."
            )
    given = OmegaConf.to_container(task)
    inherited = {} if own is None else OmegaConf.to_container(own)
    with open_dict(config):
        config.task.name = name
        for key in FREE:
            field = key.removeprefix("task.")
            there = given.get(field) or {}
            if not isinstance(there, Mapping):
                raise ValueError(f"Expected {key} to be a mapping, got {there!r}.")
            config.task[field] = kept(there, inherited.get(field, {}), overrides, key, other)
    return config


def kept(
    given: Mapping[str, Any],
    inherited: Mapping[str, Any],
    overrides: Iterable[Override],
    key: str,
    cleared: bool,
) -> dict[str, Any]:
    """All entries of a composed mapping, or those that were said if the file's are cleared."""
    said: set[str] = set()
    for each in overrides:
        if each.key_or_group == key:
            value = None if each.is_delete() else each.value()
            if not each.is_add():  # it takes the place of what was there
                cleared, said = True, set()
            said |= set(value or ())
        elif each.key_or_group.startswith(f"{key}."):
            said.add(each.key_or_group.removeprefix(f"{key}.").split(".")[0])
    if not cleared:
        return dict(given)
    return {
        name: value
        for name, value in given.items()
        if name in said or name not in inherited or value != inherited[name]
    }


def files_blocks(suite: str, scenario: str) -> list[Any]:
    """The blocks that the files of tasks have for a scenario."""
    tasks = [OmegaConf.create(merged("task", name)) for name in files("task")]
    alike = [task for task in tasks if (task.suite, task.scenario) == (suite, scenario)]
    return [OmegaConf.to_container(task.observation_blocks) for task in alike]


def fitting_blocks(task: DictConfig, env: EnvBase) -> dict[str, list[int]]:
    """The task's blocks, if they are those of what the agents of this environment observe.

    A file's blocks describe every feature; where ``scenario_kwargs`` have changed what there is to
    be seen, they are left out, which a line says.

    Raises:
        ValueError: Blocks that were given lie beyond the observation, or are of several groups.
    """
    blocks = OmegaConf.to_container(task.observation_blocks) if task.observation_blocks else {}
    if not blocks:
        return {}
    groups = groups_of(env)
    if len(groups) > 1:
        there = ", ".join(map(name_of, groups))
        raise ValueError(f"task.observation_blocks are of a single group, there are {there}.")
    shape = env.full_observation_spec[(*path_of(groups[0]), "observation")].shape
    n_agents, *shape = shape[len(env.batch_size) :]
    seen = math.prod(shape)
    own = seen - n_agents if task.agent_index else seen  # without the index behind them
    if blocks in files_blocks(task.suite, task.scenario):
        described = max(stop for _, stop in blocks.values())
        if described != own:
            print(f"No figures by block: {task.name}'s are of {described} features, not {own}.")
            return {}
    for name, block in blocks.items():
        start, stop = block if isinstance(block, list) and len(block) == 2 else (0, 0)
        if not 0 <= start < stop <= seen:
            raise ValueError(
                f"Expected blocks [start, stop] within the {seen} features of an observation, got "
                f"task.observation_blocks.{name}={block}."
            )
    return blocks
