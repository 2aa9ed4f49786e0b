"""What a file of ``--config-dir`` may say: settings that there are, and nothing to be called."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from torchrl_moawm.train.settings.known import FREE, flat, merged, within
from torchrl_moawm.train.settings.own_code import is_code
from torchrl_moawm.train.settings.places import CONF, below

GROUPS = ("task", "algorithm")
BEGINNING = re.compile(r"_self_|(/task_defaults|/task/[\w./-]+|/algorithm/[\w./-]+)@_here_|[\w.-]+")
"""What a list of defaults may name."""
RESOLVER = re.compile(r"\$\{[^}]*:")


def check_config_dir(folder: Path) -> None:
    """Refuses files that could make Hydra call or read something else, or that nothing reads.

    Raises:
        ValueError: There is one; the message names it and what is wrong.
    """
    if (folder / "hydra").exists():
        raise ValueError(f"Refused {folder / 'hydra'}: a folder of yours has tasks and algorithms.")
    for group in GROUPS:
        for name, file in below(folder / group).items():
            try:
                check_file(group, name, file)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error


def check_file(group: str, name: str, file: Path) -> None:
    """Checks one file.

    Raises:
        ValueError: It says more than settings, or one that does not exist, or lacks one.
    """
    text = file.read_text()
    whole = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(whole, dict) or re.search(r"^\s*#\s*@package", text, re.MULTILINE):
        raise ValueError("refused: expected settings and their values, and no @package.")
    for key, value in leaves(whole):
        resolves = isinstance(value, str) and RESOLVER.search(value)
        if key in ("_target_", "()", "hydra") or resolves:
            said = f"{key}: {value}"
            raise ValueError(f"refused {said!r}: a configuration names no code to call.")
    for default in whole.get("defaults", []):
        if not isinstance(default, str) or not BEGINNING.fullmatch(default):
            allowed = "/task_defaults@_here_, /task/NAME@_here_, /algorithm/NAME@_here_"
            raise ValueError(f"refused to begin with {default!r}; there are {allowed}.")
    check_settings(group, merged(group, name))


def check_settings(group: str, settings: Mapping[str, Any]) -> None:
    """Every setting is one that is read, and every one that is read is there.

    Raises:
        ValueError: One is not; of an algorithm whose kind is not ours, anything is taken.
    """
    begin = {"/task_defaults@_here_": set[str]()}  # by name: the settings that it has
    if group == "algorithm":
        kind = settings.get("kind")
        begin = {each["name"]: names(group, each) for each in shipped() if each["kind"] == kind}
        if is_code(kind) or not begin:
            return
        known = set().union(*begin.values())
        needed = known - {"ablation"}
    else:
        known = names(group, merged(group, "own"))
        needed = known - ({"parallel"} if settings.get("suite") != "pettingzoo" else set())
    given = names(group, settings)
    mappings = [key for key in given if isinstance(settings.get(key), Mapping)]
    needed = {key for key in needed if "." not in key or within(key, mappings)}
    unknown, missing = sorted(given - known), sorted(needed - given)
    if unknown:
        raise ValueError(
            f"nothing reads {', '.join(unknown)}; there are {', '.join(sorted(known))}."
        )
    if missing:
        whole = [name for name, has in begin.items() if has.issuperset(missing)] or list(begin)
        raise ValueError(
            f"it lacks {', '.join(missing)}: begin it with defaults: [{whole[0]}, _self_]."
        )


@cache
def shipped() -> list[dict[str, Any]]:
    """The package's algorithms."""
    return [merged("algorithm", one) for one in sorted(below(CONF / "algorithm"))]


def names(group: str, settings: Mapping[str, Any]) -> set[str]:
    """Names of settings, and dotted ones of those inside a mapping that may not hold anything."""
    inner = (key for key in flat(settings) if not within(f"{group}.{key}", FREE))
    return {*settings, *inner}


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, of mappings and lists inside too."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name), inner
            yield from leaves(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield key, inner
            yield from leaves(inner, key)
