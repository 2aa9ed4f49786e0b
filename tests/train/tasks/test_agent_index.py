"""Agents that are told apart by an index."""

import pytest
import torch
from torchrl.envs import check_env_specs

from tests.benchmarks.runs import compose_config
from torchrl_moawm.train.tasks.environment import make_env


@pytest.mark.parametrize("told", [False, True])
def test_agents_are_told_apart_where_the_task_says_so(told):
    """By a one-hot index behind the observation, now and at the step before."""
    overrides = ["task=vmas/dispersion", "task.max_steps=3", f"task.agent_index={told}"]
    env = make_env(compose_config(*overrides), 2, seed=0)
    check_env_specs(env)
    batch = env.rollout(5, break_when_any_done=False)
    agents, after = batch["agents"], batch["next", "agents"]
    n = agents.shape[-1]
    index = torch.eye(n).expand(2, 5, n, n)
    for entry in (agents["observation"], after["observation"], after["previous_observation"]):
        assert torch.equal(entry[..., -n:], index) == told
    assert torch.equal(after["previous_observation"], agents["observation"])
    assert not agents["previous_observation"][:, 3].any()  # reset by the time limit
