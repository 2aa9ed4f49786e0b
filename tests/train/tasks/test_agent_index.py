"""Agents that are told apart by an index."""

import pytest
import torch
from torchrl.envs import ObservationNorm, TransformedEnv, VmasEnv, check_env_specs

from tests.benchmarks.runs import compose_config
from torchrl_moawm.train import Experiment
from torchrl_moawm.train.tasks.environment import make_env
from torchrl_moawm.transforms import PreviousStep


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


def scaled(num_envs, *, seed, device):
    """An environment with a transform of its own."""
    env = VmasEnv("dispersion", num_envs=num_envs, seed=seed, device=device)
    return TransformedEnv(env, ObservationNorm(0.0, 9.0, in_keys=[("agents", "observation")]))


@pytest.mark.parametrize("previous", [False, True])
def test_the_index_is_behind_the_transforms_of_an_own_environment(previous):
    def create(num_envs, **settings):
        env = scaled(num_envs, **settings)
        return env.append_transform(PreviousStep()) if previous else env

    experiment = Experiment(create, "mappo", {"task.agent_index": True})
    with experiment._allowed():
        batch = make_env(experiment.config, 2, 0).rollout(3)
    for entry in (batch["agents"], batch["next", "agents"]):
        n = entry.shape[-1]
        assert torch.equal(entry["observation"][..., -n:], torch.eye(n).expand(2, 3, n, n))
    after = batch["next", "agents", "previous_observation"]
    assert torch.equal(after, batch["agents", "observation"])


def test_images_have_no_index():
    config = Experiment("pettingzoo/pursuit", "mappo", {"task.agent_index": True}).config
    with pytest.raises(ValueError, match=r"for observations of features, and .* the shape \[3, "):
        make_env(config, 1, 0)
