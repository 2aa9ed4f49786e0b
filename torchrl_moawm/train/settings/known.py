"""Every setting that there is; whatever is added to them is refused, for nothing reads it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from torchrl_moawm.train.settings.places import CONF, config_dirs, files

FREE = ("task.scenario_kwargs", "task.observation_blocks")
"""Mappings that may hold anything."""
KINDS = {"task": "suite", "algorithm": "kind"}
"""What decides which settings of a group are read."""


def freed(argument: str) -> str:
    """The argument; with ``++`` where it gives a mapping that may hold anything, or some of it."""
    return f"++{argument}" if within(argument.partition("=")[0], FREE) else argument


def check_added(argument: str, known: Sequence[str]) -> None:
    """Refuses an added setting that nothing reads.

    Raises:
        ValueError: Nothing reads it; the message lists the settings beside it.
    """
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except OverrideParseException:  # Hydra says what is wrong
        return
    key, value = override.key_or_group.replace("/", "."), override.value()
    names = list(flat({key: value})) if isinstance(value, Mapping) and value else [key]
    if override.package is not None:  # a whole configuration, to another place
        names = [f"{key}@{override.package}"]
    for name in names:
        if not within(name, [*FREE, "hydra"]) and name not in known:
            parent = name.rpartition(".")[0]
            beside = [each for each in known if each.rpartition(".")[0] == parent]
            beside = beside or [each for each in known if "." not in each]
            raise ValueError(
                f"Refused {argument!r}: nothing reads {name!r}; there are {', '.join(beside)}."
            )


def check_taken_away(argument: str) -> None:
    """Refuses to take away a setting that is read.

    Raises:
        ValueError: It is read.
    """
    key = argument[1:].partition("=")[0].replace("/", ".")
    if not within(key, [*FREE, "hydra"]):
        may = ", ".join(FREE)
        raise ValueError(f"Refused {argument!r}: {key!r} is read; without may go {may}.")


def known_settings(arguments: Sequence[str]) -> list[str]:
    """The settings that there are by their dotted names, with the tasks and algorithms chosen."""
    whole = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"))
    chosen: dict[str, str] = {}
    for default in whole.pop("defaults"):
        if isinstance(default, Mapping):
            chosen |= default
    whole.pop("hydra")
    chosen |= dict(each.split("=", 1) for each in arguments if re.match("(task|algorithm)=", each))
    known = dict.fromkeys(name for key in flat(whole) for name in (key, *parents(key)))
    for group, names in chosen.items():
        begins = f"{group}.{KINDS[group]}="
        given = [each.removeprefix(begins) for each in arguments if each.startswith(begins)]
        said = [kind for each in given for kind in each.split(",")]  # a sweep has several
        alike = [name for name in choices(group) if load(group, name).get(KINDS[group]) in said]
        settings = [x for each in (*names.split(","), *alike) for x in merged(group, each)]
        known |= dict.fromkeys([group, *(f"{group}.{name}" for name in settings)])
    return list(known)


def load(group: str, name: str) -> dict[str, Any]:
    """One configuration as its file has it; ``/place@_here_`` is named from the top.

    Raises:
        ValueError: There is no such file.
    """
    place = name[1:].partition("@")[0] if name.startswith("/") else f"{group}/{name}"
    for folder in config_dirs():
        if (folder / f"{place}.yaml").is_file():
            return OmegaConf.to_container(OmegaConf.load(folder / f"{place}.yaml"))
    raise ValueError(f"There is no configuration {name!r} to begin with.")


def merged(group: str, name: str) -> dict[str, Any]:
    """One configuration over those it begins from, as Hydra puts them together."""
    own = load(group, name)
    begins = own.pop("defaults", [])
    parts = [each for each in begins if each != "_self_"]
    whole = [own if each == "_self_" else merged(group, each) for each in begins]
    if len(parts) == len(begins):
        whole.append(own)
    return OmegaConf.to_container(OmegaConf.merge(*whole))


def parents(key: str) -> list[str]:
    """Prefixes of a dotted name."""
    parts = key.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def choices(group: str) -> list[str]:
    """The configurations of one group: the package's, and those of ``--config-dir``."""
    return sorted(files(group))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted name."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, Mapping) and value
        settings |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return settings


def within(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted name is one of the names or lies below one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)
