"""An experiment: a task, an algorithm and settings, trained and judged in a folder."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig

from torchrl_moawm.train.algorithms.make import find_kind
from torchrl_moawm.train.loop import start
from torchrl_moawm.train.loop.buffer import sequence_length
from torchrl_moawm.train.loop.folder import alone_in
from torchrl_moawm.train.metrics.loggers import check_loggers
from torchrl_moawm.train.parallel.collector import envs_per_worker
from torchrl_moawm.train.run import run
from torchrl_moawm.train.settings import own_code, places
from torchrl_moawm.train.settings.command_line import check_arguments
from torchrl_moawm.train.settings.known import freed
from torchrl_moawm.train.settings.own_code import check_workers, name_for
from torchrl_moawm.train.settings.own_files import check_config_dir
from torchrl_moawm.train.settings.places import CONF
from torchrl_moawm.train.settings.ranges import check_values
from torchrl_moawm.train.settings.scenario import settled
from torchrl_moawm.train.tasks.environment import check_task

DEFAULT_TASK = "vmas/navigation"
"""The task of ``conf/config.yaml``, which is trained where none is named."""


class Experiment:
    """A team that is trained, judged and written down, as ``moawm-train`` does it.

    Args:
        task: Name of a task (``"vmas/navigation"``), or a function that makes environments: called
            as ``task(num_envs, seed=..., device=..., **scenario_kwargs)``, it gives an ``EnvBase``
            of that batch size. ``None`` is ``"vmas/navigation"``, or that of a run that goes on;
            a function has to be given again.
        algorithm: Name of an algorithm (``"moawm"``), or a function or class that gives an
            ``Algorithm`` for a configuration and an environment. ``None`` is ``"moawm"``, or that
            of a run that goes on, likewise.
        settings: Any setting of the command line by its dotted name, ``{"total_frames": 20_000,
            "task.num_envs": 8}``.

    Keyword Args:
        folder: Where everything goes; by default a new one under ``outputs/``.
        config_dir: A folder with ``task/*.yaml`` and ``algorithm/*.yaml`` of your own.
        trust_code: Whether settings may name code as ``module:function``. Functions that are given
            here are trusted anyway.

    Raises:
        ValueError: There is no such task, algorithm or setting.

    Example:
        >>> experiment = Experiment("vmas/balance", "mappo", {"total_frames": 20_000})
        >>> experiment.config.task.num_envs, experiment.config.total_frames
        (20, 20000)
        >>> summary = experiment.run()  # doctest: +SKIP
    """

    def __init__(
        self,
        task: str | Callable[..., Any] | None = None,
        algorithm: str | Callable[..., Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        folder: Path | str | None = None,
        config_dir: Path | str | None = None,
        trust_code: bool = False,
    ) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}
        self.config_dir, self.trust_code = config_dir, trust_code
        said = [*self._chosen("task", task), *self._chosen("algorithm", algorithm)]
        said += [f"{name}={written(value)}" for name, value in (settings or {}).items()]
        self.overrides = said
        with self._allowed():
            self.config = compose_config(said)
            check_config(self.config)
        check_workers(self.functions, self.config.collector)
        self.folder = Path(folder) if folder is not None else default_folder(self.config)

    @contextmanager
    def _allowed(self) -> Iterator[None]:
        """While it lasts, this experiment's folder and code may be used, by workers too."""
        kept = {name: os.environ.get(name, "") for name in (own_code.VARIABLE, places.VARIABLE)}
        given = dict(own_code.GIVEN)
        try:
            if self.config_dir is not None:
                places.use_config_dir(self.config_dir)
                check_config_dir(Path(self.config_dir))
            for name in (*self.functions, *(["*"] if self.trust_code else [])):
                own_code.trust(name)
            own_code.GIVEN.update(self.functions)
            yield
        finally:
            os.environ.update(kept)
            own_code.GIVEN.clear()
            own_code.GIVEN.update(given)

    def _chosen(self, group: str, one: str | Callable[..., Any] | None) -> list[str]:
        """The settings that choose a task or algorithm."""
        if one is None:
            return []
        if isinstance(one, str):
            return [f"{group}={one}"]
        name = name_for(one)
        if self.functions.get(name, one) is not one:  # two lambdas have one name
            name += f"_{group}"
        self.functions[name] = one
        what, label = {"task": "scenario", "algorithm": "kind"}[group], name.split(":")[-1]
        named = [f"algorithm.name={label}"] if group == "algorithm" else []
        return [f"{group}=own", f"{group}.{what}={name}", *named]

    def run(self) -> dict[str, Any]:
        """Trains, evaluates and writes the folder; returns the summary.

        With the setting ``{"resume": "auto"}`` it goes on with what is in its folder, and a
        finished run only gives its summary. ``docs/pages/experiments.md`` says what is written.
        """
        with self._allowed():
            done = start.finished(self.config, self.folder, self.overrides)
            if done is not None:
                return json.loads((self.folder / "summary.json").read_text())
            going = start.resumed_from(self.config, self.folder, self.overrides)
            self.config, self.folder = going[:2]  # those of the run that goes on
            with alone_in(self.folder):
                return run(*going)


PLAIN = re.compile(r"(?!(true|false|null|nan|inf)$)[A-Za-z_/][\w./:-]*", re.IGNORECASE)
"""Text that a command line takes as it stands."""


def written(value: Any) -> str:
    """A value as a command line says it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{written(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(written, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if hasattr(value, "item"):  # a number of numpy or torch
        return written(value.item())
    if isinstance(value, str | Path) and not PLAIN.fullmatch(str(value)):
        return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
    return repr(value) if isinstance(value, float) else str(value)


def compose_config(overrides: list[str]) -> DictConfig:
    """The configuration of a command line.

    Raises:
        ValueError: It names what there is not, or code that is not trusted.
    """
    check_arguments(overrides)
    hydra = GlobalHydra.instance()
    outer, hydra.hydra = hydra.hydra, None  # of a program that Hydra has started
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            said = [*places.searchpath(places.config_dirs()[1:]), *map(freed, overrides)]
            config = compose("config", said)
    except HydraException as error:
        raise ValueError(str(error)) from error
    finally:
        hydra.hydra = outer
    choice = next((each[5:] for each in overrides if each.startswith("task=")), DEFAULT_TASK)
    return settled(config, overrides, choice)


def check_config(config: DictConfig) -> None:
    """What a configuration names is there.

    Raises:
        ValueError: A task, an algorithm, a logger is not, or a number is none that can be.
    """
    check_task(settled(config).task)
    find_kind(config.algorithm.kind)
    check_loggers(config.loggers)
    check_values(config)
    envs_per_worker(config)
    steps, length = config.task.num_envs * config.task.max_steps, sequence_length(config)
    if not length or steps % length:
        raise ValueError(
            f"Expected algorithm.sequence_length to divide the {steps} steps of a batch "
            f"(task.num_envs x task.max_steps), got {length}."
        )
    if config.minibatches > steps // length:
        raise ValueError(
            f"Expected minibatches to be at most the {steps // length} rows of a batch, got "
            f"{config.minibatches}."
        )


def default_folder(config: DictConfig) -> Path:
    """A new folder under ``outputs/``, named by algorithm, task, seed and time."""
    when = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return Path("outputs") / config.algorithm.name / config.task.name / f"seed{config.seed}-{when}"
