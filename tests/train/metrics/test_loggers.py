"""Other loggers than the two that always are there, without a network."""

import importlib.util
import os
import sqlite3
import subprocess
import sys

import pytest

from torchrl_moawm.train.metrics.loggers import check_loggers

LOG = """
import sys
from pathlib import Path
from torchrl_moawm.train.metrics.loggers import Loggers

loggers = Loggers(Path(sys.argv[1]), ["csv", sys.argv[2]])
for step in range(3):
    loggers.log_scalar("return", 0.5 * step, step=10 * step)
kept = loggers.state_dict()
loggers.load_state_dict(kept)  # as a resumed run does
loggers.log_scalar("return", 7.0, step=30)
loggers.close()
"""


def log_with(name, folder):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is an extra")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MLFLOW"))}
    done = subprocess.run(
        [sys.executable, "-c", LOG, str(folder), name],
        capture_output=True,
        text=True,
        env={**environment, "HTTPS_PROXY": "http://nowhere.invalid:1"},
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    rows = (folder / "csv" / "scalars" / "return.csv").read_text().split()
    assert [float(row.split(",")[1]) for row in rows] == [0.0, 0.5, 1.0, 7.0]


def test_wandb_logs_offline(tmp_path):
    log_with("wandb", tmp_path)
    (run,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert run.stat().st_size > 0


def test_mlflow_logs_into_a_file(tmp_path):
    log_with("mlflow", tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        rows = database.execute("SELECT step, value FROM metrics WHERE key = 'return'").fetchall()
    assert sorted(rows) == [(0, 0.0), (10, 0.5), (20, 1.0), (30, 7.0)]


def test_a_logger_that_does_not_exist(monkeypatch):
    with pytest.raises(ValueError, match="Unknown logger 'paper'; there are csv, tensorboard"):
        check_loggers(["csv", "paper"])
    monkeypatch.setattr("torchrl_moawm.train.metrics.loggers.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="loggers=wandb needs the package wandb"):
        check_loggers(["wandb"])
