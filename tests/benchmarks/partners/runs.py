"""Tiny agents on the tasks with hidden partners."""

import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

import study_partners
from tests.benchmarks.runs import compose_config
from torchrl_moawm.train.algorithms.make import make_algorithm
from torchrl_moawm.train.tasks.environment import make_env

AGENTS = sorted({name for _, names, _ in study_partners.STAGES.values() for name in names})
TINY = [
    "num_cells=[16]",
    "task.num_envs=8",
    "task.evaluation_envs=8",
    "evaluation_envs=8",
    "total_frames=384",
    "epochs=1",
    "minibatches=2",
    "checkpoint.every=0",
    "gif=false",
    "progress_bar=false",
    "threads=1",
]


def configuration(task, agent, *overrides):
    return compose_config(f"task=partners/{task}", f"algorithm={agent}", *TINY, *overrides)


def make(agent, task="rendezvous", *overrides):
    config = configuration(task, agent, *overrides)
    env = make_env(config, config.task.num_envs, 0)
    return config, env, make_algorithm(config, env)


def collect(env, algorithm, steps=6):
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return env.rollout(steps, algorithm.policy)
