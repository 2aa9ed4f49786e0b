"""The logs of a run: CSV, TensorBoard and others, and the history that a resumed run takes over."""

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torchrl.record import CSVLogger
from torchrl.record.loggers import Logger
from torchrl.record.loggers.mlflow import MLFlowLogger
from torchrl.record.loggers.tensorboard import TensorboardLogger
from torchrl.record.loggers.wandb import WandbLogger

Curve = list[tuple[int, float]]
PROJECT = "torchrl_moawm"


def open_wandb(folder: Path) -> Logger:
    """Weights & Biases: offline, below the folder, unless ``WANDB_MODE`` says otherwise."""
    offline = os.environ.get("WANDB_MODE", "offline") == "offline"
    return WandbLogger(folder.name, offline, str(folder), project=PROJECT)


def open_mlflow(folder: Path) -> Logger:
    """MLflow: in ``mlflow.db`` of the folder, unless ``MLFLOW_TRACKING_URI`` says otherwise."""
    own, artifacts = f"sqlite:///{folder.resolve() / 'mlflow.db'}", folder.resolve() / "mlruns"
    server = os.environ.get("MLFLOW_TRACKING_URI")
    there = None if server else artifacts.as_uri()
    return MLFlowLogger(PROJECT, server or own, artifact_location=there)


LOCAL: dict[str, Callable[[Path], Logger]] = {
    "csv": lambda folder: CSVLogger(exp_name="csv", log_dir=str(folder)),
    "tensorboard": lambda folder: TensorboardLogger(exp_name="tensorboard", log_dir=str(folder)),
}
"""Loggers whose files a resumed run writes again from its history."""
OTHERS: dict[str, Callable[[Path], Logger]] = {"wandb": open_wandb, "mlflow": open_mlflow}
"""Loggers that a resumed run begins a new entry in, from where it goes on."""


def check_loggers(names: Sequence[str]) -> None:
    """There are loggers of these names, and what they need is installed.

    Raises:
        ValueError: There is no such logger, or its package is missing.
    """
    if isinstance(names, str):
        raise ValueError(f"Expected a list of loggers, loggers=[{names}], got {names!r}.")
    for name in names:
        if name not in LOCAL | OTHERS:
            there = ", ".join(LOCAL | OTHERS)
            raise ValueError(f"Unknown logger {name!r}; there are {there}.")
        if find_spec(name) is None and name in OTHERS:
            raise ValueError(f"loggers={name} needs the package {name}: pip install {name}")


class Loggers:
    """TorchRL's loggers behind one call, and the history for the plots.

    Args:
        folder: Of the run.
        names: Which: ``csv``, ``tensorboard``, ``wandb``, ``mlflow``; none keeps the history alone.
    """

    def __init__(self, folder: Path, names: Sequence[str] = tuple(LOCAL)) -> None:
        check_loggers(names)
        self.folder, self.names = folder, list(names)
        self.others = [OTHERS[name](folder) for name in names if name in OTHERS]
        self.history: dict[str, Curve] = defaultdict(list)
        self.started = time.perf_counter()
        self.elapsed: dict[int, float] = {}
        self.failed = False
        self.open()

    def open(self) -> None:
        """Makes the loggers, which append to what is there."""
        self.loggers = [LOCAL[name](self.folder) for name in self.names if name in LOCAL]

    def seconds(self) -> float:
        """Seconds since the run began, without the time between a stop and a resume."""
        return time.perf_counter() - self.started

    def log_scalar(self, name: str, value: Any, step: int | None = None) -> None:
        """Writes one figure at a number of frames."""
        value = float(value)
        self.history[name].append((step or 0, value))
        self.elapsed[step or 0] = self.seconds()
        self.write([*self.loggers, *self.others], name, value, step)

    def write(self, loggers: Sequence[Logger], name: str, value: float, step: int | None) -> None:
        """Writes one figure to disk; where there is no room it says so once, and goes on."""
        try:
            for logger in loggers:
                logger.log_scalar(name, value, step=step)
        except OSError as error:
            if not self.failed:
                print(f"\nLogs have gaps from {step} frames on: {error}. A resume fills them.")
            self.failed = True

    def close(self) -> None:
        """Ends what a logger keeps open."""
        if "wandb" in self.names:
            import wandb

            wandb.finish()
        if "mlflow" in self.names:
            import mlflow

            mlflow.end_run()

    def state_dict(self) -> dict[str, Any]:
        """The history and the time it took, as tensors of 64 bits."""

        def columns(pairs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            frames, values = zip(*pairs, strict=True) if pairs else ((), ())
            return torch.tensor(frames), torch.tensor(values, dtype=torch.float64)

        return {
            "history": {name: columns(curve) for name, curve in self.history.items()},
            "elapsed": columns(self.elapsed.items()),
            "seconds": self.seconds(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over the history and writes all logs again from it: no gap, no row twice."""

        def pairs(columns: Sequence[torch.Tensor]) -> Curve:
            return list(zip(*(column.tolist() for column in columns), strict=True))

        self.started = time.perf_counter() - state_dict["seconds"]
        self.elapsed = dict(pairs(state_dict["elapsed"]))
        self.history.clear()
        del self.loggers
        for name in LOCAL if self.names else ():
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.open()
        for name, columns in state_dict["history"].items():
            self.history[name] = pairs(columns)
            for step, value in self.history[name]:
                self.write(self.loggers, name, value, step)
