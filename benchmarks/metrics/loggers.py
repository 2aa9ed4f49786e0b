"""The logs of a run: CSV and TensorBoard, and the history that a resumed run takes over."""

import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torchrl.record import CSVLogger
from torchrl.record.loggers.tensorboard import TensorboardLogger

Curve = list[tuple[int, float]]


class Loggers:
    """TorchRL's CSV and TensorBoard loggers behind one call, and the history for the plots."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: dict[str, Curve] = defaultdict(list)
        self.started = time.perf_counter()
        self.elapsed: dict[int, float] = {}
        self.failed = False
        self.open()

    def open(self) -> None:
        """Makes the loggers, which append to what is there."""
        self.loggers = [
            CSVLogger(exp_name="csv", log_dir=str(self.folder)),
            TensorboardLogger(exp_name="tensorboard", log_dir=str(self.folder)),
        ]

    def seconds(self) -> float:
        """Seconds since the run began, without the time between a stop and a resume."""
        return time.perf_counter() - self.started

    def log_scalar(self, name: str, value: Any, step: int | None = None) -> None:
        """Writes one figure at a number of frames."""
        value = float(value)
        self.history[name].append((step or 0, value))
        self.elapsed[step or 0] = self.seconds()
        self.write(name, value, step)

    def write(self, name: str, value: float, step: int | None) -> None:
        """Writes one figure to disk; where there is no room it says so once, and goes on."""
        try:
            for logger in self.loggers:
                logger.log_scalar(name, value, step=step)
        except OSError as error:
            if not self.failed:
                print(f"\nLogs have gaps from {step} frames on: {error}. A resume fills them.")
            self.failed = True

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
        for name in ("csv", "tensorboard"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.open()
        for name, columns in state_dict["history"].items():
            self.history[name] = pairs(columns)
            for step, value in self.history[name]:
                self.write(name, value, step)
