"""Tiny runs of ``benchmarks/train.py``, and whether two are the same to the last bit."""

import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import partners  # noqa: F401  makes tasks and algorithms known
from torchrl_moawm.train import experiment
from torchrl_moawm.train.run import run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FRAMES = 60  # of a batch
HANG = 1800  # seconds: what takes longer hangs, on a machine however busy; no test says how fast
SETTINGS = [
    "task.num_envs=6",
    "task.max_steps=10",
    "num_cells=[8]",
    "epochs=2",
    "minibatches=2",
    "algorithm.latent_dim=4",
    "algorithm.latent_epochs=1",
    "task.model_frames=0",
    "evaluation_envs=3",
    "gif=false",
    "progress_bar=false",
    "threads=1",
    "checkpoint.every=1",
]


OF_ALL = [each for each in SETTINGS if not each.startswith("algorithm.")]
"""Settings that every algorithm has."""
TINY = [
    "total_frames=400",
    "task.num_envs=4",
    "task.max_steps=50",
    "num_cells=[16]",
    "epochs=2",
    "minibatches=2",
    "task.model_frames=0",
    "evaluation_envs=4",
    "gif=false",
    "progress_bar=false",
    "threads=1",
]


def compose_config(*overrides):
    """What Hydra makes of a command line."""
    return experiment.compose_config(list(overrides))


def configuration(*overrides):
    """A configuration of a run of seconds, with a checkpoint after every batch."""
    return compose_config(*SETTINGS, *overrides)


def run_here(folder, *overrides):
    """A run in this process, without the picture of its curves."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    with mock.patch("torchrl_moawm.train.run.plot_curves"):
        run(configuration(*overrides), folder)
    torch.set_num_threads(threads)
    return folder


def command(*arguments):
    """The command line of a run."""
    return [sys.executable, str(BENCHMARKS / "train.py"), *arguments]


def start(tmp_path, *arguments):
    """A run in a process of its own."""
    return subprocess.Popen(
        command(*arguments),
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(what, hangs=HANG):
    """What it returns once that is true."""
    deadline = time.monotonic() + hangs
    while not (found := what()):
        assert time.monotonic() < deadline, f"nothing happened in {hangs} seconds"
        time.sleep(0.02)
    return found


def checkpoints(folder):
    """Of a run, the oldest first."""
    return sorted((folder / "checkpoints").glob("checkpoint-*"))


def load(file):
    """Without pickles."""
    return torch.load(file, weights_only=True)


def differences(one, other, path=""):
    """Where two nested structures of tensors and numbers differ, bit by bit, but for clocks."""
    if path.endswith(("seconds", "elapsed")):
        return []
    if isinstance(one, torch.Tensor):
        bits = [each.contiguous().flatten().view(torch.uint8) for each in (one, other)]
        return [] if one.dtype == other.dtype and torch.equal(*bits) else [path]
    if isinstance(one, dict):
        missing = [f"{path}.{key}" for key in one.keys() ^ other.keys()]
        pairs = ((key, one[key], other[key]) for key in one.keys() & other.keys())
    elif isinstance(one, list | tuple):
        missing = [] if len(one) == len(other) else [path]
        pairs = ((i, *each) for i, each in enumerate(zip(one, other, strict=False)))
    else:
        return [] if repr(one) == repr(other) else [path]
    return missing + [x for key, *each in pairs for x in differences(*each, f"{path}.{key}")]


def rows(folder):
    """Every CSV file, and what TensorBoard shows, which drops no event and has none twice."""
    csv = {file.name: file.read_text() for file in (folder / "csv").rglob("*.csv")}
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    scalars = {t: [(e.step, e.value) for e in events.Scalars(t)] for t in events.Tags()["scalars"]}
    return csv, {tag: repr(curve) for tag, curve in scalars.items()}


def assert_same_run(one, other, components=11):
    """Networks, optimiser, random states, world, progress, logs, trained team."""
    assert [p.name for p in checkpoints(one)] == [p.name for p in checkpoints(other)]
    last, its = checkpoints(one)[-1], checkpoints(other)[-1]
    files = sorted(file.relative_to(last) for file in last.rglob("state.pt"))
    assert len(files) == components
    for file in files:
        assert differences(load(last / file), load(its / file), str(file)) == []
    trained = [load(folder / "checkpoint.pt") for folder in (one, other)]
    assert differences(*trained) == []
    (csv, scalars), (its_csv, its_scalars) = rows(one), rows(other)
    assert csv == its_csv
    assert scalars == its_scalars
    frames = [int(row.split(",")[0]) for row in csv["return.csv"].splitlines()]
    assert frames == list(range(FRAMES, frames[-1] + 1, FRAMES))
