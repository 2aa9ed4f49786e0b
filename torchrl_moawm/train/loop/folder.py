"""The folder of a run: it begins in an empty one, and is alone there."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchrl_moawm.train.checkpoints.files import FOLDER
from torchrl_moawm.train.parallel.ranks import is_first

if sys.platform != "win32":
    import fcntl

RESULTS = ("checkpoint.pt", "system.moawm", "run.json", "summary.json")
"""What a run writes at its end, whether it keeps checkpoints or not."""
SCALARS = Path("csv", "scalars")
"""Where it writes figures while it trains, row below row."""


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder holds checkpoints of a run."""
    return any((folder / FOLDER).glob("checkpoint-*"))


def check_folder(folder: Path, source: Path | None) -> None:
    """Refuses to begin a run in the folder of another; one that came to nothing makes room.

    Raises:
        FileExistsError: The folder holds checkpoints or results, and the run does not go on from
            one.
    """
    if source is not None:
        return
    if has_checkpoints(folder):
        raise FileExistsError(
            f"{folder} holds the checkpoints of a run. resume={folder} goes on with it; a new run "
            "needs another folder (hydra.run.dir), or an empty one."
        )
    found = [name for name in RESULTS if (folder / name).exists()]
    if found:
        raise FileExistsError(
            f"{folder} holds {found[0]} of a run that kept no checkpoints to go on from: a new run "
            "needs another folder (hydra.run.dir), or an empty one."
        )
    if is_first():  # the rows of one that was stopped before its first checkpoint
        shutil.rmtree(folder / SCALARS, ignore_errors=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps every other process from running in the folder meanwhile, if this one writes there.

    The system lets the lock go with the process, however that ends. On Windows, and where a file
    system has no locks, nobody is kept away.

    Raises:
        FileExistsError: Another process runs there.
    """
    if sys.platform == "win32" or not is_first():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise FileExistsError(
                f"Another process runs in {folder}. Stop it or wait for its end, or choose another "
                "folder (hydra.run.dir)."
            ) from error
        except OSError as error:
            print(f"No lock on {folder} ({error}): see to it that one run alone writes there.")
        yield
