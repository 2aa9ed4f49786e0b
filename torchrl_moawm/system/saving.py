"""A system as one file: what it was built for, its settings, its weights."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from torchrl_moawm._files import atomic_write, versions

MAGIC = b"torchrl_moawm.MOAWM 2\n"
"""First line of a file, with the number of its form; the second is the SHA-256 of the rest."""
BEFORE = {b"torchrl_moawm.MOAWM 1\n": {"moa_bounded": False}}
"""Earlier forms that are read as well, and what their systems were, which they do not say."""


class SavedSystemError(ValueError):
    """A file that is no saved system, or not a whole one."""


def write_saved(content: Mapping[str, Any], path: Path) -> None:
    """Writes a file, whole or not at all."""
    memory = io.BytesIO()
    torch.save({**content, "versions": versions()}, memory)
    body = memory.getvalue()
    atomic_write(path, MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def read_saved(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Reads a file without unpickling anything but tensors, numbers and words.

    Raises:
        SavedSystemError: The file is none of ours, of a form that this version does not know, or
            not what was written.
    """
    data = path.read_bytes()
    magic, _, rest = data.partition(b"\n")
    name, _, form = MAGIC.strip().rpartition(b" ")
    if not magic.startswith(name):
        raise SavedSystemError(f"{path} was not written by MOAWM.save.")
    if magic + b"\n" not in (MAGIC, *BEFORE):
        found = magic.removeprefix(name).strip().decode(errors="replace")
        raise SavedSystemError(
            f"{path} has form {found}, and this version reads up to {form.decode()}: it was "
            "written by another version of torchrl_moawm."
        )
    digest, _, body = rest.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise SavedSystemError(f"{path} is not as it was written: cut short, or altered.")
    content = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    return {**content, "settings": {**BEFORE.get(magic + b"\n", {}), **content["settings"]}}


def plain_setting(value: Any) -> Any:
    """A setting as numbers and words: lists of whatever kind are tuples, modules are left out.

    Raises:
        TypeError: It is none that :func:`read_saved` could read.
    """
    if isinstance(value, torch.nn.Module):
        return None
    if hasattr(value, "tolist") and not isinstance(value, torch.Tensor):  # of numpy
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(plain_setting, value))
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor):
        return value
    raise TypeError(f"A setting of a saved system is a number, a word or a list, not {value!r}.")


@contextmanager
def default_dtype_of(weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """While it lasts, what is made has the precision of saved weights, single or double."""
    kept = torch.get_default_dtype()
    double = any(each.dtype == torch.float64 for each in weights.values())
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(kept)
