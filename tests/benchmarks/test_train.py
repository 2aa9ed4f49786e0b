"""The main job on every task."""

import json
import math
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from tests.benchmarks.runs import BENCHMARKS, TINY, compose_config
from torchrl_moawm import MOAWM
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.run import run
from torchrl_moawm.train.settings.places import CONF
from torchrl_moawm.train.tasks.environment import make_env

TASKS = sorted(
    str(path.relative_to(CONF / "task").with_suffix("")) for path in CONF.glob("task/*/*.yaml")
)


ALWAYS = {"task", "algorithm", "seed", "frames", "seconds", "evaluation_return"}


OF_THE_MODELS = ("moa_nll", "moa_nll_marginal", "moa_nll_repeat", "world_model_skill", "z_gap")


def sized(settings):
    """With half of the steps where the environment is slow."""
    slow = any(setting.startswith("task=pettingzoo") for setting in settings)
    small = ["total_frames=200", "task.max_steps=25", "task.evaluation_envs=2"] if slow else []
    return [*TINY, *small, *settings]


def train(folder, *settings):
    command = [sys.executable, str(BENCHMARKS / "train.py"), *sized(settings)]
    done = subprocess.run(
        [*command, f"hydra.run.dir={folder}"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "summary.json").read_text()), done.stdout


def assert_left_behind(folder, task, algorithm):
    """Curves, and a checkpoint from which the losses can be made again."""
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    config = OmegaConf.create(checkpoint["config"])
    losses = make_algorithm(config, make_env(config, 2, seed=0)).loss_module
    losses.load_state_dict(checkpoint["loss_module"])
    assert (config.task.name, config.algorithm.name) == (task, algorithm)
    if algorithm == "moawm":
        assert MOAWM.load(folder / "system.moawm").state_dict()
    assert list((folder / "csv").rglob("loss_objective*.csv"))
    assert list((folder / "tensorboard").rglob("events.*"))


def train_here(folder, capsys, *settings):
    """Trains in this process, without the seconds in which another one starts."""
    threads = torch.get_num_threads()
    run(compose_config(*sized(settings)), folder)
    torch.set_num_threads(threads)
    return json.loads((folder / "summary.json").read_text()), capsys.readouterr().out


@pytest.mark.parametrize("task", TASKS)
def test_the_framework_trains_on_every_task(task, tmp_path, capsys):
    settings = f"task={task}", "algorithm=moawm", "seed=3"
    if task == "vmas/navigation":  # as the command does it
        summary, table = train(tmp_path, *settings)
    else:
        summary, table = train_here(tmp_path, capsys, *settings)
    assert summary.keys() >= ALWAYS
    for stem in OF_THE_MODELS:  # several groups write their names behind it
        assert any(name.startswith(stem) for name in summary), stem
    assert [summary[k] for k in ("task", "algorithm", "seed")] == [task, "moawm", 3]
    assert summary["frames"] == (200 if task.startswith("pettingzoo") else 400)
    blocks = summary.pop("world_model_skill_by_block", None)
    assert bool(blocks) == bool(compose_config(f"task={task}").task.observation_blocks)
    figures = {n: f for n, f in summary.items() if "skill" not in n}  # none where nothing changes
    assert all(math.isfinite(f) for f in figures.values() if isinstance(f, float)), summary
    assert None not in figures.values()
    assert all(key in table for key in summary)
    assert_left_behind(tmp_path, task, "moawm")


@pytest.mark.parametrize("task", ["vmas/navigation", "pettingzoo/simple_tag"])
def test_the_framework_trains_with_a_memory(task, tmp_path, capsys):
    settings = ["algorithm.recurrent=true", "algorithm.sequence_length=10"]
    settings = [f"task={task}", *settings, "algorithm.moa_head=pairwise"]
    summary, _ = train_here(tmp_path, capsys, *settings)
    assert math.isfinite(summary["evaluation_return"])
    assert_left_behind(tmp_path, task, "moawm")


@pytest.mark.parametrize("task", ["vmas/navigation", "pettingzoo/simple_speaker_listener"])
def test_mappo_trains_through_the_same_loop(task, tmp_path, capsys):
    summary, _ = train_here(tmp_path, capsys, "algorithm=mappo", f"task={task}")
    assert summary.keys() >= ALWAYS
    assert summary["algorithm"] == "mappo"
    assert summary["frames"] == (200 if task.startswith("pettingzoo") else 400)
    assert math.isfinite(summary["evaluation_return"])
    assert "moa_nll" not in summary
    assert_left_behind(tmp_path, task, "mappo")
