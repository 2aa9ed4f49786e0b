"""Where configurations are: those of the package, and those of folders of one's own."""

import os
from collections.abc import Sequence
from pathlib import Path

CONF = Path(__file__).parents[1] / "conf"
"""The package's own configurations."""
VARIABLE = "TORCHRL_MOAWM_CONFIG_DIRS"
"""The other folders, in the environment: so that workers and jobs of a sweep know them too."""


def use_config_dir(folder: Path | str) -> None:
    """Adds a folder whose ``task/*.yaml`` and ``algorithm/*.yaml`` may be chosen by name.

    Raises:
        ValueError: There is no such folder, or a file of it has the name of another.
    """
    if not str(folder):
        raise ValueError("--config-dir needs a folder.")
    folder = Path(folder).resolve()
    if folder in config_dirs():
        return
    if not folder.is_dir() or os.pathsep in str(folder):
        raise ValueError(f"There is no folder {folder} for --config-dir, or its name has a colon.")
    for group in ("task", "algorithm"):
        twice = files(group).keys() & below(folder / group).keys()
        if twice:
            raise ValueError(
                f"{folder / group} has {', '.join(sorted(twice))}, which there is already: "
                "give it another name."
            )
    there = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = os.pathsep.join([*([there] if there else []), str(folder)])


def config_dirs() -> list[Path]:
    """The package's configurations first, then the folders that were added."""
    added = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [CONF, *(Path(folder) for folder in added if folder)]


def searchpath(folders: Sequence[Path]) -> list[str]:
    """The override that tells Hydra of folders that were added."""
    named = ",".join(f"'file://{folder}'" for folder in folders)
    return [f"hydra.searchpath=[{named}]"] if folders else []


def files(group: str) -> dict[str, Path]:
    """Every file of a group by its name, ``vmas/navigation``."""
    return {name: file for folder in config_dirs() for name, file in below(folder / group).items()}


def below(folder: Path) -> dict[str, Path]:
    """Every configuration below a folder by its name."""
    return {str(file.relative_to(folder).with_suffix("")): file for file in folder.rglob("*.yaml")}
