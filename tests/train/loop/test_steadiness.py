"""Training for long holds no more memory than training for short, and is the same twice."""

import gc
from pathlib import Path

import pytest
import torch

from tests.benchmarks.runs import FRAMES, configuration
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.loop.hooks import ModelQualityHook
from torchrl_moawm.train.loop.trainer import make_trainer
from torchrl_moawm.train.metrics.loggers import Loggers
from torchrl_moawm.train.tasks.environment import make_env

PAGE = 4096  # bytes
STATM = Path("/proc/self/statm")


def tensors():
    """How many there are."""
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def resident():
    """Memory of this process, in MB; 0 where the system does not tell."""
    return int(STATM.read_text().split()[1]) * PAGE / 1e6 if STATM.exists() else 0.0


def parts(folder, algorithm, batches):
    """A trainer with everything that ``train.py`` gives it, checkpoints included."""
    torch.manual_seed(0)
    config = configuration(f"algorithm={algorithm}", f"total_frames={batches * FRAMES}")
    env = make_env(config, config.task.num_envs, 0)
    made = make_algorithm(config, env)
    return make_trainer(
        config, made, env, ModelQualityHook(made, config, env), Loggers(folder), folder
    )


def assert_flat(counts, memory, megabytes):
    """The second half of the rounds adds nothing to what was there after the first."""
    half = len(counts) // 2
    assert max(counts[half:]) <= max(counts[:half]), counts
    assert max(memory[half:]) - max(memory[:half]) < megabytes, memory


def updates(folder, steps):
    """Counts of tensors and memory, 6 times on the way, on one batch."""
    trainer = parts(folder, "moawm", 1)
    trainer._process_batch_hook(next(iter(trainer.collector)))
    counts, memory = [], []
    for step in range(steps):
        trainer.optimization_stepper.step(trainer, trainer._process_optim_batch_hook(None))
        if step % (steps // 6) == steps // 6 - 1:
            counts.append(tensors())
            memory.append(resident())
    trainer.collector.shutdown()
    return counts, memory


def rounds(folder, algorithm, batches):
    """The same after every round of collection and update."""
    trainer = parts(folder, algorithm, batches)
    counts, memory = [], []

    def look():
        counts.append(tensors())
        memory.append(resident())

    trainer.register_op("post_steps", look)
    trainer.train()
    assert len(counts) == batches
    return counts[2:], memory[2:]  # the first two fill the buffer and make Adam's moments


def test_updates_keep_no_tensor(tmp_path):
    assert_flat(*updates(tmp_path, 30), megabytes=20)


def test_rounds_keep_no_tensor(tmp_path):
    assert_flat(*rounds(tmp_path, "moawm", 6), megabytes=20)


@pytest.mark.slow
def test_two_thousand_updates_keep_nothing(tmp_path):
    assert_flat(*updates(tmp_path, 2004), megabytes=4)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["moawm", "moawm_zero_latent"])
def test_two_hundred_rounds_keep_nothing(algorithm, tmp_path):
    """But for the figures of the logs: some 60 numbers a round, less than 0.1 MB in 100."""
    assert_flat(*rounds(tmp_path, algorithm, 200), megabytes=8)
