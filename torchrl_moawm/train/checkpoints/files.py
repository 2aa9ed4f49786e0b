"""Checkpoints from which a run goes on bitwise, by TorchRL's ``Checkpoint``.

A checkpoint is a directory ``checkpoints/checkpoint-<frames>`` of the run's folder: TorchRL's
``manifest.json``, a ``state.pt`` for each component, and ``sha256.json``, which has the hash of
every file. It is written beside its place and renamed, so there is a whole one or none. Reading it
runs no pickle: only ``state.pt`` files are read, and those with ``weights_only``.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchrl.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointRotation,
    StateDictCheckpointAdapter,
)

from torchrl_moawm._files import atomic_write, versions

FORMAT = 1
HASHES, MANIFEST = "sha256.json", "manifest.json"
FILES = re.compile(rf"{HASHES}|{MANIFEST}|components/[\w.-]+/state\.pt")
FOLDER = "checkpoints"
SOFTWARE = versions("vmas", "numpy")
"""On which the bits of a run depend."""


class Adapter(StateDictCheckpointAdapter):
    """``state.pt`` by ``torch.save``; tensordict's own format would unpickle what is no tensor."""

    def __init__(self) -> None:
        super().__init__("torch")

    def save(self, component: Any, path: Path, *, args: Any, kwargs: Any) -> None:
        """Saves a component; a full disk is an OSError that says so."""
        path.mkdir(parents=True)
        atomic_save(component.state_dict(*args, **kwargs), path / self.state_torch)


def atomic_save(content: Any, file: Path) -> None:
    """``torch.save``, whole or not at all."""
    memory = io.BytesIO()
    torch.save(content, memory)
    atomic_write(file, memory.getvalue())


def save_trained(
    loss_module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: DictConfig,
    summary: Mapping[str, Any],
    file: Path,
) -> None:
    """Saves a finished run: weights, the optimiser's state, configuration, summary."""
    trained = {
        "loss_module": loss_module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "config": OmegaConf.to_container(config, resolve=True),
        "summary": dict(summary),
    }
    atomic_save(trained, file)


class Rotation(CheckpointRotation):
    """The last checkpoints of a run, each with the hashes of its files.

    A full or read-only disk costs the new checkpoint: it is said, the run goes on, and those that
    are there stay.
    """

    def save(self, checkpoint: Checkpoint, *, step: int, **settings: Any) -> Path:
        """Writes ``checkpoint-<step>`` and removes those it replaces."""
        place = self.directory / f"{self.prefix}-{step:012d}"
        pending = self.directory / f".{place.name}"
        others = checkpoint.components.get("other_ranks")
        if others is not None:
            others.gather()
            if others.learners.rank > 0:
                return place
        try:
            for left in self.directory.glob(".*checkpoint-*"):  # by a run that was killed
                shutil.rmtree(left)
            checkpoint.save(pending, **settings)
            write_hashes(pending)
            if place.exists():  # the run went on from an earlier one
                shutil.rmtree(place)
            pending.replace(place)
            for later in self.checkpoints():
                if later.name > place.name:
                    shutil.rmtree(later)
            self.prune()
        except OSError as error:
            shutil.rmtree(pending, ignore_errors=True)
            last = self.latest()
            print(f"\nNo checkpoint at {step} frames: {error}\nGoing on; the last is {last}.")
        return place


def hash_of(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_hashes(path: Path) -> None:
    """``sha256.json`` of a checkpoint, everything on disk before it returns."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    hashes = {file.relative_to(path).as_posix(): hash_of(file) for file in files}
    (path / HASHES).write_text(json.dumps(hashes, indent=2) + "\n")
    for file in [*files, path / HASHES]:
        with file.open("rb") as content:
            os.fsync(content.fileno())


def verify(path: Path) -> dict[str, Any]:
    """The metadata of a checkpoint that is whole and of this software.

    Raises:
        CheckpointError: It is not; the message names what is wrong with which file.
    """
    try:
        hashes = json.loads((path / HASHES).read_text())
        manifest = Checkpoint.manifest(path)
        there = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    except (OSError, ValueError, CheckpointError) as error:
        raise CheckpointError(f"{path}: is no whole checkpoint. {error}") from error
    expected = {*hashes, HASHES}
    for name in sorted(there | expected):
        if not FILES.fullmatch(name):
            raise CheckpointError(f"{path}: refused, {name} is no file of a checkpoint.")
        if name not in there:
            raise CheckpointError(f"{path}: {name} is missing.")
        if name not in expected:
            raise CheckpointError(f"{path}: {name} has no hash in {HASHES}.")
        if name != HASHES and hash_of(path / name) != hashes[name]:
            raise CheckpointError(f"{path}: {name} is damaged, its SHA-256 is another.")
    metadata = manifest["metadata"]
    written = {"format": metadata.get("format"), **metadata.get("versions", {})}
    here = {"format": FORMAT, **SOFTWARE}
    foreign = [f"{n} {written.get(n)}, here {here[n]}" for n in here if written.get(n) != here[n]]
    if foreign:
        raise CheckpointError(
            f"{path}: written by other versions: {'; '.join(foreign)}. It would not go on bitwise."
        )
    return metadata


def open_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint, or the newest of a run's folder, and its metadata.

    Raises:
        CheckpointError: There is none, or it is not good; the message names the last that is. Or
            it lies outside of a run's folder, where the run would go on.
    """
    if (path / FOLDER).is_dir():
        found = sorted((path / FOLDER).glob("checkpoint-*"))
        if not found:
            raise CheckpointError(f"{path / FOLDER}: no checkpoint was written.")
        path = found[-1]
    elif not path.is_dir():
        raise CheckpointError(f"{path}: neither a run's folder nor a checkpoint.")
    path = path.resolve()
    if path.parent.name != FOLDER:
        raise CheckpointError(f"{path}: a run goes on where it was, in the folder above {FOLDER}/.")
    try:
        return path, verify(path)
    except CheckpointError as error:
        good = next(filter(is_good, sorted(path.parent.glob("checkpoint-*"), reverse=True)), None)
        offer = f" The last good one: resume={good}" if good else " No other is good."
        raise CheckpointError(f"{error}{offer}") from error


def is_good(path: Path) -> bool:
    """Whether a checkpoint can be resumed."""
    try:
        verify(path)
    except CheckpointError:
        return False
    return True
