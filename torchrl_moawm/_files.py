"""Files that are written whole or not at all, and the versions that they were written with."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    VERSION = version("torchrl_moawm")
except PackageNotFoundError:  # a checkout that is not installed
    VERSION = "0.0.0"


def atomic_write(file: Path, content: bytes) -> None:
    """Writes a file beside its place and renames it."""
    pending = file.with_name(f"{file.name}.pending")
    try:
        pending.write_bytes(content)
        pending.replace(file)
    finally:
        pending.unlink(missing_ok=True)


def versions(*others: str) -> dict[str, str]:
    """The versions of the libraries that weights depend on, of others, and of this one."""
    names = ("torch", "torchrl", "tensordict", *others)
    return {**{name: version(name) for name in names}, "torchrl_moawm": VERSION}
