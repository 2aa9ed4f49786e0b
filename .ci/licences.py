"""Pins what CI ran with, and lists under which licence it is.

    python .ci/licences.py          # writes constraints.txt and licences.md beside itself

To be run in an environment with ``pip install -e '.[dev,cost,docs]'``. ``pip install -c
.ci/constraints.txt -e '.[test]'`` installs the same again.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
OWN = "torchrl-moawm"


def direct() -> dict[str, Requirement]:
    """What ``pyproject.toml`` asks for, with every extra."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(each) for group in groups for each in group]
    return {name: each for each in found if (name := canonicalize_name(each.name)) != OWN}


def needed() -> dict[str, Distribution]:
    """The same with what they need in turn, as far as it is installed."""
    found: dict[str, Distribution] = {}
    queue = list(direct().values())
    for requirement in queue:  # grows on the way
        name = canonicalize_name(requirement.name)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            if name in direct():
                raise
            continue  # for another system or Python
        for each in map(Requirement, installed.requires or []):
            extras = requirement.extras or {""}
            wanted = each.marker is None or any(each.marker.evaluate({"extra": e}) for e in extras)
            if wanted and canonicalize_name(each.name) not in found:
                queue.append(each)
        found[name] = installed
    return dict(sorted(found.items()))


def licence(installed: Distribution) -> str:
    """In the words of the package; where it has none, the first line of its licence file."""
    metadata = installed.metadata
    named = [
        c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or [] if "License" in c
    ]
    text = metadata.get("License-Expression") or ", ".join(named) or metadata.get("License") or ""
    if not text:
        files = [each for each in installed.files or [] if each.name.upper().startswith("LICEN")]
        text = files[0].read_text() if files else "not stated"
    return text.strip().split("\n")[0]


def main() -> None:
    """Writes both files."""
    packages = needed()
    pins = {name: each.version.partition("+")[0] for name, each in packages.items()}
    head = "# written by .ci/licences.py: everything that CI ran with\n"
    lines = "".join(f"{name}=={version}\n" for name, version in pins.items())
    (HERE / "constraints.txt").write_text(head + lines)
    asked = direct()
    table = [
        f"| {name} | {pins[name]} | {'yes' if name in asked else ''} | {licence(each)} |"
        for name, each in packages.items()
    ]
    (HERE / "licences.md").write_text(
        "# Licences of what this library uses\n\n"
        "Written by `.ci/licences.py` from the packages' own metadata. The library itself needs "
        "torch, torchrl and tensordict; everything else belongs to an extra. VMAS (GPL-3.0) is "
        "imported only where a VMAS environment is made.\n\n"
        "| package | version | asked for | licence |\n|---|---|---|---|\n" + "\n".join(table) + "\n"
    )


if __name__ == "__main__":
    main()
